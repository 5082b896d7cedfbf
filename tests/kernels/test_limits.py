"""Predictions of what a resident loop takes, held to what Triton makes of it."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from graphnn.kernels.aot import inspect
from graphnn.kernels.limits import SHARED, ResidentLoop, register_cap
from tests.kernels.kernels_for_aot import GATES, case

# a cell, pieces, rows, warps, target, weights and how they are multiplied
SOME = [
    ("lstm", (64,), 16, 4, "sm_90", "bf16", "ieee"),
    ("gru", (64,), 32, 8, "sm_80", "bf16", "ieee"),
    ("elman", (128, 32), 16, 8, "sm_100", "bf16", "ieee"),
    ("elman", (64,), 64, 4, "sm_90", "bf16", "ieee"),
    ("elman", (64,), 64, 8, "sm_100", "bf16", "ieee"),
    ("elman", (64,), 16, 4, "sm_90", "fp32", "tf32"),
    ("elman", (64,), 16, 8, "sm_90", "fp32", "tf32x3"),
    ("elman", (32,), 16, 4, "sm_90", "fp32", "ieee"),
    ("joined", (32,), 16, 4, "sm_90", "bf16", "ieee"),
    ("joined", (32, 16), 32, 8, "sm_80", "bf16", "ieee"),
]
CELLS = [
    *itertools.product(["lstm"], [(64,), (128,), (128, 32)]),
    *itertools.product(["gru"], [(64,), (128,), (128, 32), (128, 64)]),
    *itertools.product(["elman"], [(64,), (128,), (128, 64), (256,), (256, 64)]),
    *itertools.product(["joined"], [(64,), (64, 32), (128,), (128, 32)]),
]
MANY = [
    (*cell, rows, warps, target, "bf16", "ieee")
    for cell, (rows, warps), target in itertools.product(CELLS, [(16, 8), (32, 8)], SHARED)
    # pieces no wider than the rows have warps repeat each other's work: minutes to assemble
    if min(cell[1]) > rows or cell[0] == "joined"
]


def compiled(cell, pieces, rows, warps, target, weights, how):
    """The prediction, and what Triton makes of the kernel."""
    itemsize = 4 if weights == "fp32" else 2
    loop = ResidentLoop(len(GATES[cell]), pieces, rows, warps, itemsize, how, cell == "joined")
    made = case(cell, pieces, rows, warps, weights, how)
    return loop, inspect(made.function, made.signature, made.constants, target, warps)


def check_shared(predicted: int, taken: int) -> None:
    assert taken <= predicted
    assert predicted <= 1.2 * taken or predicted - taken <= 8192


@pytest.mark.parametrize("chosen", SOME, ids=str)
def test_shared_memory_is_predicted(chosen):
    loop, found = compiled(*chosen)
    check_shared(loop.shared(found.target), found.shared)
    assert list(found.products) == [loop.unit_of(found.target)]
    assert found.spills == 0 and loop.registers(found.target) <= register_cap(found.threads)


@pytest.mark.slow
def test_many_shapes_are_predicted():
    wrong = 0
    for chosen in MANY:
        loop, found = compiled(*chosen)
        check_shared(loop.shared(found.target), found.shared)
        spills = loop.registers(found.target) > register_cap(found.threads)
        wrong += spills != (found.spills > 0)
    assert wrong <= len(MANY) // 10


@pytest.mark.parametrize(
    ("products", "units", "target", "fits"),
    [
        # the widest of each cell that was seen to fit in 16 rows and 8 warps, and the next wider
        (4, (128, 32), "sm_90", True),
        (4, (128, 64), "sm_90", False),
        (4, (128,), "sm_80", True),
        (4, (128, 32), "sm_80", False),
        (3, (128, 64), "sm_90", True),
        (3, (256,), "sm_90", False),
        (3, (128, 32), "sm_80", True),
        (1, (256, 64), "sm_100", True),
        (1, (256, 128), "sm_100", False),
        (1, (256,), "sm_80", True),
    ],
)
def test_what_fits(products, units, target, fits):
    refusal = ResidentLoop(products, units, rows=16, warps=8).refusal(target)
    assert (refusal is None) == fits
    assert fits or "bytes of shared memory, of" in refusal


@pytest.mark.slow
def test_joined_gates_fit_where_gates_apart_spill():
    """32 rows and a piece of 32: eight warps would all compute the same columns of each gate."""
    apart = case("lstm", (128, 32), rows=32, warps=8)
    joined = replace(case("joined", (128, 32), rows=32, warps=8), maxnreg=register_cap(256))
    (first, second) = (chosen.judge("sm_90") for chosen in (apart, joined))
    assert first.resources.spills > 500 and first.resources.products["mma"] == 800
    assert second.faults == () and second.resources.products["mma"] == 200


def test_too_many_tiles_for_the_registers():
    loop = ResidentLoop(4, (128,), rows=64, warps=4)
    assert loop.refusal("sm_90") == "about 456 registers a thread, of 255"


@pytest.mark.parametrize(("threads", "cap"), [(128, 255), (256, 255), (512, 128), (1024, 64)])
def test_registers_are_shared_among_threads(threads, cap):
    assert register_cap(threads) == cap
