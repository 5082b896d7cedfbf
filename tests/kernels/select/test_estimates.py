"""Cost estimates of each strategy to run a loop, for few rows and for many."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from graphnn.kernels.feasibility.fit import Launch, choose_kernel
from graphnn.kernels.select import cost_model, search
from graphnn.kernels.select.cost_model import GPUS, StepWork
from graphnn.kernels.select.estimates import CostEstimates
from graphnn.kernels.select.strategies import COOPERATIVE, RESIDENT, STEPWISE
from tests.kernels.cooperative.test_sharding import program

HALF = Launch("bf16", "ieee")
H200 = GPUS["sm_90"]
ROWS = [16 << k for k in range(12)]


def resident(size: int = 64, name: str = "lstm") -> CostEstimates:
    loop = program(name, size=size)
    source, verdict = choose_kernel(loop, HALF, "sm_90", may_compile=False)
    assert verdict.fits
    return CostEstimates(loop, source, verdict.launch, "sm_90")


def cooperative(size: int = 256, loops: int = 1) -> CostEstimates:
    loop = program("lstm", size=size)
    source, verdict = search.choose_cooperative(loop, HALF, "sm_90", may_compile=False, loops=loops)
    return CostEstimates(loop, source, verdict.launch, "sm_90", loops)


def test_a_loop_that_fits_a_multiprocessor_has_three_estimates() -> None:
    found = resident().per_step(16)
    assert list(found) == [RESIDENT, COOPERATIVE, STEPWISE]
    assert found[RESIDENT] < found[STEPWISE] and found[COOPERATIVE] < found[STEPWISE]
    assert "4 blocks of 16 units" in resident().descriptions()[COOPERATIVE]


def test_estimates_of_one_tile_are_those_of_the_search() -> None:
    figures = cooperative()
    source, verdict = search.choose_cooperative(
        program("lstm", size=256), HALF, "sm_90", may_compile=False
    )
    step = cost_model.cooperative_parts(
        search.step_work(source, verdict.launch, 1), search.device_at_hand("sm_90")
    )
    assert figures.per_step(16)[COOPERATIVE] == pytest.approx(sum(step.values()))
    assert f"stepwise {figures.per_step(16)[STEPWISE]:.1f}" in verdict.reason


@pytest.mark.parametrize("made", [resident, cooperative])
def test_more_rows_never_take_less_time(made: Callable[[], CostEstimates]) -> None:
    found = list(map(made().per_step, ROWS))
    for fewer, more in itertools.pairwise(found):
        assert all(fewer[way] <= more[way] for way in fewer)


def test_tiles_that_do_not_run_at_once_run_in_waves() -> None:
    figures = cooperative(1024)
    at_once = 32 * (H200.processors // figures.source.blocks)  # type: ignore[union-attr]
    once, twice = (figures.per_step(n)[COOPERATIVE] for n in (at_once, 2 * at_once))
    assert twice == pytest.approx(2 * once)


def test_a_large_batch_is_faster_stepwise() -> None:
    for size in (256, 512, 1024):
        found = [x[STEPWISE] < x[COOPERATIVE] for x in map(cooperative(size).per_step, ROWS)]
        assert not found[0] and found[-1]
        assert found == sorted(found), "once better, better for all larger ones"
    found = [x[STEPWISE] < x[RESIDENT] for x in map(resident().per_step, ROWS)]
    assert not any(found[:8]), "one multiprocessor a tile is enough for long"


def test_parallel_loops_have_half_of_the_gpu_each() -> None:
    single, parallel = cooperative(1024), cooperative(1024, loops=2)
    assert parallel.per_step(64)[COOPERATIVE] > single.per_step(64)[COOPERATIVE]
    assert parallel.per_step(64)[STEPWISE] == single.per_step(64)[STEPWISE]


def test_a_stepwise_loop_has_two_estimates() -> None:
    found = CostEstimates(program("lstm", size=4096), None, HALF, "sm_90").per_step(16)
    assert list(found) == [COOPERATIVE, STEPWISE] and found[STEPWISE] < found[COOPERATIVE]


def test_more_matmuls_in_sequence_and_more_weights_take_longer() -> None:
    moved = StepWork(1, 1, 16, 0, 32 << 10, 0, 0, 2)
    assert cost_model.persistent_time(moved, 2, H200) - cost_model.persistent_time(
        moved, 1, H200
    ) == pytest.approx(cost_model.MATMUL_LATENCY)
    assert resident(name="gru").per_step(16)[RESIDENT] > resident().per_step(16)[RESIDENT]
