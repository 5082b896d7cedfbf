"""Item 3: outputs, final states and gradients of networks against float64."""

from __future__ import annotations

from typing import Any

import torch

from graphnn.bench.contact.networks import STRATEGIES, made
from graphnn.bench.contact.place import DTYPES, Place
from graphnn.kernels.feasibility.large_tiles import instruction, remember_verified
from graphnn.runtime.model import Compiled
from graphnn.tools.example_inputs import random_inputs
from graphnn.tools.verification.examples import given_sizes
from graphnn.tools.verification.results import Call, Definition, check_results, results


def check(
    place: Place, name: str, dtype: str, strategy: str = "persistent", large: bool = False
) -> dict[str, Any]:
    """Run a network forward and backward. Raises AssertionError with all results that are wrong.

    `strategy` is how its loops should run; the result says how they did. With `large` matmuls may
    have 64 rows, although the GPU multiplies these by other instructions.
    """
    target = place.executor.gpu(0).target
    if large:
        if not instruction(target):
            return {"skipped": f"{target} multiplies tiles of 64 rows as it does smaller ones"}
        remember_verified(target)
    source = made(name)
    model = place.compiled(source, DTYPES[dtype], skip=STRATEGIES[strategy])
    definition = Definition(made(name), DTYPES[dtype], place.device, dtype)
    found: dict[str, Any] = {}
    for call in calls(place, model):
        given = call.on(place.device, DTYPES[dtype])
        rows = check_results(definition, call, results(model, given))
        if faults := [str(f) for row in rows for f in row.faults]:
            raise AssertionError("; ".join(faults))
        worst = max((row.error for row in rows), key=lambda e: e.severity)
        found[call.title] = {"result": worst.name, "error": worst.error, "torch": worst.baseline}
    return {"strategies": strategies(model), "calls": found}


def calls(place: Place, model: Compiled) -> list[Call]:
    """Return calls of batches that fill tiles and that do not, and a ragged one."""
    made, length = [], place.size(64, 3)
    for batch in (1, 16, 17, 64) if place.on_gpu else (3,):
        inputs = random_inputs(model, given_sizes(model, batch, length))
        made.append(Call(f"batch {batch}", inputs, {}))
    axes = given_sizes(model, None, length)
    lengths = {a: torch.arange(batch) % length + 1 for a in axes}
    return [*made, Call("ragged", inputs, lengths)] if axes else made


def strategies(model: Compiled) -> list[str]:
    """Return the strategies of the loops of a model, in each program that was generated."""
    loops = (loop for program in model.programs for loop in program.loops)
    return sorted({c.strategy for loop in loops for c in loop.choices()})
