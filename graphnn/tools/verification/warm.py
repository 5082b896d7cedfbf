"""`graphnn warm`: compiles and tunes the kernels of a model before it is used."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from graphnn.errors import BackendError
from graphnn.frontend.graph import Graph
from graphnn.kernels.executors.compiled import compile_all
from graphnn.kernels.executors.executor import Executor, KernelLaunch, launches_run_by
from graphnn.kernels.select.autotune import every_candidate_run
from graphnn.kernels.select.pace import all_at_once
from graphnn.planner.pipeline import SWITCHABLE
from graphnn.runtime.call.options import Options
from graphnn.runtime.model import Compiled, compile, network_of
from graphnn.tools.verification.examples import example_calls
from graphnn.tools.verification.results import Call, results

# for each kernel its name, and why it does not compile, or an empty text
Faults = list[tuple[str, str]]


@dataclass(frozen=True)
class Warmed:
    """What was compiled for which GPU: each kernel, why it did not compile if so, and seconds."""

    where: str
    kernels: Faults
    seconds: float

    @property
    def failed(self) -> Faults:
        """The kernels that do not compile, with their errors."""
        return [(name, why) for name, why in self.kernels if why]

    def __str__(self) -> str:
        all_of, bad = len(self.kernels), self.failed
        title = f"{all_of - len(bad)} of {all_of} kernels for {self.where} in {self.seconds:.0f} s"
        return "\n".join([title, *(f"{name}: {why}" for name, why in bad)])


def warm(
    model: Compiled | nn.Module | Graph,
    *,
    target: str | None = None,
    dtype: torch.dtype | None = None,
    sizes: Mapping[str, int] | None = None,
) -> Warmed:
    """Compile all kernels of a model, for training and inference, with and without lengths.

    Without `target` the GPU at hand is used, and launches are tuned, too; both are kept in the
    caches of graphnn and Triton. With a `target` ("sm_90") nothing runs: kernels are compiled for
    that GPU into Triton's cache, as a call with backend "triton" compiles them. `dtype` is that of
    parameters and inputs, by default the model's. `sizes` are lengths of axes, and "batch": tuning
    depends on them, compiling does not. The model is not changed.
    """
    network = network_of(model if isinstance(model, Compiled) else compile(model))
    given = network.source, network.options, dtype or network.floating(), dict(sizes or {})
    begin = time.monotonic()
    where, faults = _compiled_for(target, *given) if target else _tuned_here(*given)
    return Warmed(where, faults, time.monotonic() - begin)


def _compiled_for(
    target: str,
    source: nn.Module | Graph,
    options: Options,
    dtype: torch.dtype,
    sizes: dict[str, int],
) -> tuple[str, Faults]:
    """Compile every launch of a model for an absent GPU; run none of them."""
    made = _copy(source, options, "ptx", target).to(dtype)
    launches = _Launches()
    with launches_run_by(launches), every_candidate_run():
        _call(made, sizes, "cpu", dtype)
    found = list(launches.found.values())
    return target, list(zip([x.function.__name__ for x in found], compile_all(found, target)))


def _tuned_here(
    source: nn.Module | Graph, options: Options, dtype: torch.dtype, sizes: dict[str, int]
) -> tuple[str, Faults]:
    """Compile and tune a model on the GPU at hand."""
    if not torch.cuda.is_available():
        raise BackendError(
            "there is no GPU to compile and tune kernels on",
            got="no target",
            wanted="a GPU, or the name of one",
            fix="--target sm_90 compiles for a GPU that is absent",
        )
    made = _copy(source, options, options.backend, None).to("cuda", dtype)
    launches = _Launches(run=True)
    with launches_run_by(launches), all_at_once():
        _call(made, sizes, "cuda", dtype)
    names = [x.function.__name__ for x in launches.found.values()]
    return torch.cuda.get_device_name(), [(name, "") for name in names]


def _copy(
    source: nn.Module | Graph, options: Options, backend: str, target: str | None
) -> Compiled:
    """A copy of a model, with its options."""
    return compile(
        copy.deepcopy(source),
        backend,
        skip=sorted(set(SWITCHABLE) - options.passes),
        recompute=options.recompute,
        float32=options.float32,
        tune="tune" in options.passes,
        target=target,
    )


def _call(model: Compiled, sizes: dict[str, int], device: str, dtype: torch.dtype) -> None:
    """Call a model as in training and in inference, with and without lengths."""
    for backward in (True, False):
        for call in example_calls(model, Call("", {}, {}, backward), sizes):
            results(model, call.on(device, dtype))


class _Launches:
    """Collects different launches, and runs them if asked to."""

    def __init__(self, run: bool = False):
        self.run = run
        self.found: dict[Any, KernelLaunch] = {}

    def __call__(self, executor: Executor, launch: KernelLaunch) -> None:
        types = [x.dtype if isinstance(x, torch.Tensor) else type(x) for x in launch.args]
        key = launch.function, str(types), str(launch.constants), str(launch.options)
        self.found.setdefault(key, launch)
        if self.run:
            executor.run(launch)
