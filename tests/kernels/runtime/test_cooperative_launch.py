"""Launches of cooperative kernels: what is timed, how many blocks run at once, the watchdog.

The GPU is made up: nothing is compiled.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from graphnn.kernels.cooperative.codegen.emit import CooperativeSource
from graphnn.kernels.feasibility.fit import Launch
from graphnn.kernels.runtime import cooperative_launch
from graphnn.kernels.runtime.cooperative_launch import (
    CooperativeLaunch,
    CooperativeLauncher,
    CooperativeTuner,
)
from graphnn.kernels.select import search
from graphnn.kernels.select.gpu_timer import Timing
from tests.kernels.cooperative.test_sharding import program
from tests.kernels.made_up_gpu import MadeUpGpu

HALF = Launch("bf16", "ieee")


def source(size: int = 256) -> CooperativeSource:
    """A kernel that was chosen, with alternatives predicted to be nearly as fast."""
    return search.choose_cooperative(program("lstm", size=size), HALF, "sm_90", may_compile=False)[
        0
    ]


def test_alternatives_and_more_rows_are_candidates_too() -> None:
    chosen = source()
    judged = CooperativeLaunch("bf16", "ieee", 16, 8, chosen.tiling.units)
    few = CooperativeTuner(chosen, MadeUpGpu()).candidates(judged, "sm_90", 16)
    many = CooperativeTuner(chosen, MadeUpGpu()).candidates(judged, "sm_90", 64)
    assert few[0] == many[0] == judged and len(set(many)) == len(many)
    assert {x.rows for x in few} == {16} and {x.rows for x in many} == {16, 32}
    units = {chosen.tiling.units, *(x.tiling.units for x in chosen.others)}
    assert {x.units for x in few} == units and len(units) == 3  # type: ignore[attr-defined]


class Function:
    """Replaces a jitted function and records its launches."""

    def __init__(self) -> None:
        self.launches: list[tuple[Any, ...]] = []

    def __getitem__(self, size: tuple[int, ...]) -> Any:
        return lambda *args, **options: self.launches.append((size, args, options))


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> tuple[CooperativeLauncher, list[torch.Tensor]]:
    """A launcher for a fake GPU of 132 multiprocessors, and 40 rows for it."""
    gpu = MadeUpGpu()
    launcher = CooperativeLauncher(replace(source(), others=()), gpu)
    launcher.function, launcher.tuner = (
        Function(),
        CooperativeTuner(launcher.source, gpu, lambda run, limit: Timing(1.0)),
    )
    sizes = {"time": 2, "batch": 40}
    tensors = launcher.source.program.tensors
    return launcher, [
        torch.zeros([*(sizes[a] for a in t.axes), *t.shape], dtype=torch.bfloat16) for t in tensors
    ]


def test_all_blocks_of_a_launch_run_at_the_same_time(
    made_up: tuple[CooperativeLauncher, list[torch.Tensor]],
) -> None:
    launcher, tensors = made_up
    outs = launcher(tensors, {"time": 2, "batch": 40}, torch.bfloat16)
    assert outs[-1].shape == (2, 40, 256)
    ((size, args, options),) = launcher.function.launches
    assert size == (3 * 32, 1) and args[-3:] == (2, 40, 0)
    assert options["launch_cooperative_grid"] and options["num_stages"] == 1
    assert (options["ROWS"], options["num_warps"]) == (16, 8) and options["PATIENCE"] > 1 << 20
    exchange, arrived, stuck = args[-6:-3]
    assert exchange.shape == (2, 40, 256) and exchange.dtype == torch.bfloat16
    assert arrived.shape == (3 * 32,) and not arrived.any() and not stuck.any()


def test_a_gpu_with_too_few_multiprocessors_is_an_error_before_any_launch(
    made_up: tuple[CooperativeLauncher, list[torch.Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher, tensors = made_up
    launcher.executor = MadeUpGpu(processors=14)
    with pytest.raises(ValueError, match=r"planned for 32 multiprocessors, but .* has 14"):
        launcher(tensors, {"time": 2, "batch": 40}, torch.bfloat16)
    assert not launcher.function.launches


def test_more_rows_per_program_are_used_if_that_saves_a_launch(
    made_up: tuple[CooperativeLauncher, list[torch.Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher, tensors = made_up
    judged = CooperativeLaunch("bf16", "ieee", 16, 8, launcher.source.tiling.units)

    def rows(target: str) -> list[int]:
        gpu = MadeUpGpu(target=target).info
        return [launcher._rows_for(count, judged, gpu) for count in (1, 64, 65, 128, 500)]

    assert rows("sm_90") == [16, 16, 32, 32, 32]
    monkeypatch.setattr(cooperative_launch, "shared_memory_of", lambda target: 30 << 10)
    assert rows("sm_80") == [16] * 5  # 32 rows would not fit
    waves = launcher._waves(launcher.source, tensors, 200, torch.bfloat16, 32, 132)
    assert [(grid, given[-1]) for grid, given in waves] == [((128, 1), 0), ((96, 1), 128)]
