"""Profiles of compiled models: their calls timed part by part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from graphnn.errors import TimingError
from graphnn.inspection import profile as inspection
from graphnn.inspection.marks import Clock
from graphnn.inspection.profile import Profile
from graphnn.planner.core.cost import Device
from graphnn.runtime.call import read
from graphnn.runtime.limits import measured
from graphnn.runtime.model import Compiled, network_of


def profile(
    model: Compiled,
    inputs: Mapping[str, Tensor],
    lengths: Mapping[str, Any] | None = None,
    backward: bool | None = None,
    rounds: int = 15,
    limits: Device | None = None,
    clock: Clock | None = None,
) -> Profile:
    """Time each part of a call of a model on these inputs.

    With `backward` the backward of each loop is timed as well, with gradients of one for every
    output; by default it is if a parameter or input requires a gradient. `limits` are the constants
    of the device, measured once per process if they are not given. `clock` replaces the device's
    clock in tests. Raises TimingError for the reference backend, which has no parts, and for less
    than one round; CallError if an input does not fit.

        print(profile(model, {"x": x}, rounds=5))
    """
    if model.backend == "reference":
        raise TimingError(
            "the reference backend has no parts to time",
            got="backend 'reference', which evaluates the definition position by position",
            wanted="a model of another backend",
            fix="gn.compile(net) takes the fastest backend",
        )
    if rounds < 1:
        raise TimingError("a profile takes one round or more", got=f"rounds = {rounds}")
    call = read.read(model.ir, inputs, lengths, None, network_of(model).device)
    leaves = [*model.parameters(), *inputs.values()]
    leaves = [t for t in leaves if isinstance(t, Tensor) and t.requires_grad]
    backward = bool(leaves) if backward is None else backward
    kind = call.device.type
    return inspection.profile(
        model.program(lengths=tuple(call.lengths), device=kind),
        lambda: model(**inputs, lengths=lengths),
        call.sizes,
        leaves if backward else [],
        limits or measured(kind, model.ir.floating),
        rounds,
        clock or inspection.clock_for(kind),
    )
