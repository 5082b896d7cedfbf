"""The counter of barriers after 2^31 arrivals: it wraps, and so does what is waited for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import triton
import triton.language as tl

from graphnn.kernels.cooperative.codegen.barrier import arrive, wait
from graphnn.kernels.executors.executor import KernelLaunch
from graphnn.kernels.executors.named import INTERPRETER, named

PATIENCE = 8
TOP = 2**31


@triton.jit(do_not_specialize=["steps", "blocks"])
def meeting(arrived, stuck, left, steps, blocks, PATIENCE: tl.constexpr):
    """A block that is the last to arrive at a barrier."""
    arrive(arrived)
    patience = wait(arrived, steps * blocks, tl.full([], PATIENCE, tl.int32), stuck, steps)
    tl.store(left, patience)


def wrapped(n: int) -> int:
    """A number as an int32 holds it."""
    return (n + TOP) % (2 * TOP) - TOP


EXECUTORS = [INTERPRETER.name, pytest.param("ptx:sm_90", marks=pytest.mark.proof)]


@pytest.mark.parametrize("name", EXECUTORS)
@pytest.mark.parametrize("steps", [1, 2**15 - 1, 2**15, 2**15 + 1, 2**16, 2**16 + 1])
def test_blocks_meet_before_at_and_after_the_end_of_the_numbers(name: str, steps: int) -> None:
    """The counter is at, before or behind steps * 2^16, which 32 bits hold up to step 2^15."""
    blocks = 2**16
    for ahead, met in ((0, True), (5, True), (-1, False), (-40_000, False)):
        before = wrapped(steps * blocks + ahead - 1)
        arrived, stuck, left = (torch.tensor([x], dtype=torch.int32) for x in (before, 0, -1))
        args: list[Any] = [arrived, stuck, left, steps, blocks]
        options = {"num_warps": 4, "num_stages": 1, "enable_fp_fusion": True}
        launch = KernelLaunch(meeting, (1,), args, {"PATIENCE": PATIENCE}, options, (0, 1, 2))
        named(name).launch(launch)
        assert arrived.item() == wrapped(before + 1)
        assert left.item() == (PATIENCE if met else 0) and stuck.item() == (0 if met else steps + 1)
