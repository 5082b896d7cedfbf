"""Predictions of whether kernels fit, for made-up sources; kernels are compiled only if needed."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from graphnn.kernels.codegen.persistent import LoopSource
from graphnn.kernels.feasibility import fit, large_tiles
from graphnn.kernels.feasibility.aot import Resources, VerdictRow
from graphnn.kernels.feasibility.fit import (
    Fault,
    Launch,
    estimate_registers,
    judge,
    serious_faults,
    shared_memory,
)
from graphnn.kernels.ir.program import LoopProgram

KB = 1024
HALF, TF32 = Launch("bf16", "ieee"), Launch("fp32", "tf32")
EMPTY = LoopProgram("made", "time", ("batch",), False, (), (), (), ())


def made(
    weights: int = 0, live: tuple[int, ...] = (), staged: tuple[int, ...] = (64,)
) -> LoopSource:
    """A kernel with this many weights, and tiles of these widths."""
    return LoopSource("made", "", EMPTY, (), (), {"w": weights}, live, staged)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Launch]:
    """The launches that were compiled; none has a fault."""
    launches: list[Launch] = []

    def compile_faults(source: LoopSource, launch: Launch, target: str) -> tuple[Fault, ...]:
        launches.append(launch)
        return ()

    monkeypatch.setattr(fit, "compile_faults", compile_faults)
    return launches


def test_a_small_kernel_fits_without_compiling(asked: list[Launch]) -> None:
    verdict = judge(made(64 * 64, (64, 64)), HALF, "sm_90")
    assert verdict.fits and verdict.launch == HALF and not asked
    assert "about 16 of 227 KB of shared memory, with 16 rows and 8 warps" in verdict.reason


def test_too_large_weights_are_rejected_without_compiling(asked: list[Launch]) -> None:
    verdict = judge(made(120 * KB), HALF, "sm_90")
    assert not verdict.fits and not asked
    wanted = "weights of 248 KB do not fit the 227 KB of one multiprocessor (sm_90, bf16)"
    assert verdict.reason == wanted
    assert judge(made(90 * KB), HALF, "sm_90").fits
    assert "163 KB" in judge(made(90 * KB), HALF, "sm_80").reason


def test_a_step_with_too_many_registers_is_rejected_without_compiling(asked: list[Launch]) -> None:
    verdict = judge(made(live=(128,) * 100), HALF, "sm_90")
    assert not verdict.fits and not asked
    assert verdict.reason == "a step needs about 840 registers per thread, 255 exist (sm_90)"


def test_doubtful_kernels_are_compiled_or_accepted_up_to_a_limit(
    asked: list[Launch],
) -> None:
    near, far = made(live=(128,) * 28), made(live=(128,) * 34)
    assert (estimate_registers(near, HALF), estimate_registers(far, HALF)) == (264, 312)
    for source in (near, far):
        assert judge(source, HALF, "sm_90").fits
    assert asked == [HALF, HALF]
    assert judge(near, HALF, "sm_90", may_compile=False).fits
    assert not judge(far, HALF, "sm_90", may_compile=False).fits
    assert len(asked) == 2


def test_other_numbers_of_warps_are_tried_and_the_first_reason_is_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spills = {8: (Fault("spills: 8", 8),), 16: (), 4: (Fault("spills: 4", 8),)}
    monkeypatch.setattr(fit, "compile_faults", lambda s, launch, t: spills[launch.warps])
    monkeypatch.setattr(fit, "SAFE", 0)
    source = made(live=(64,) * 4)
    assert judge(source, HALF, "sm_90").launch == replace(HALF, warps=16)
    spills[16] = (Fault("spills: 16", 8),)
    assert judge(source, HALF, "sm_90").reason == "compiled for sm_90, spills: 8"


@pytest.mark.parametrize(
    "launch, kilobytes",
    [
        (HALF, 8 + 8),
        (Launch("fp16", "ieee"), 8 + 8),
        (replace(HALF, warps=16), 8 + 8),
        (TF32, 16 + 8),
        (Launch("fp32", "tf32x3"), 32 + 8),
    ],
    ids=str,
)
def test_shared_memory(launch: Launch, kilobytes: int) -> None:
    assert shared_memory(made(4 * KB), launch, "sm_90") == kilobytes * KB


@pytest.mark.parametrize("together, columns", [(False, 256), (True, 3 * 256)])
def test_wide_operands_pass_through_shared_memory(
    together: bool, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit, "OPERANDS_SIDE_BY_SIDE", together)
    source = made(0, staged=(256, 256))
    assert shared_memory(source, HALF, "sm_90") == 16 * columns * 2
    assert shared_memory(source, TF32, "sm_90") == 16 * columns * 4
    assert shared_memory(source, Launch("fp32", "tf32x3"), "sm_90") == 16 * 256 * 2 * 4


def test_joined_matmuls_pass_through_shared_memory_at_once_or_in_rounds() -> None:
    source = replace(made(0), joined=(512, 256))
    assert shared_memory(source, HALF, "sm_90") == 16 * 512 * 2
    assert shared_memory(source, replace(HALF, rows=64), "sm_90") == 64 * 256
    assert shared_memory(source, HALF, "sm_80") == 16 * 512 * 4


def test_more_warps_need_fewer_registers_per_thread() -> None:
    source = made(live=(256, 1))
    held = [estimate_registers(source, replace(HALF, warps=w)) - 40 for w in (4, 8, 16)]
    assert held == [34, 18, 10]
    assert estimate_registers(made(live=(64,), staged=(128, 32)), HALF) == 40 + 68 + 4


def test_many_joined_matmuls_need_more_registers() -> None:
    source = made(live=(64,))
    assert estimate_registers(replace(source, joined=(256,) * 2), HALF) == 40 + 4
    assert estimate_registers(replace(source, joined=(256,) * 6), HALF) == 40 + 4 + 4 * 15


def test_a_budget_of_lines_is_compiled_and_no_kernel_twice(monkeypatch):
    asked: list[tuple[str, int]] = []

    def spills(source, launch, target):
        asked.append((source.text, launch.warps))
        return (Fault("spills: 8", 8),)

    monkeypatch.setattr(fit, "compile_faults", spills)
    single = replace(made(live=(1,) * 130), text="\n" * 500)
    assert not judge(single, HALF, "sm_90").fits
    assert [warps for _, warps in asked] == [8]
    asked.clear()
    wide = replace(made(live=(128,) * 3), text="\n" * 500)
    asking = fit.CompileBudget()
    for _ in range(4):
        judge(wide, HALF, "sm_90", asking, doubt=True)
    assert len(asked) == fit.COMPILED_LINES // 500
    long = replace(made(live=(128,) * 3), text="\n" * (fit.COMPILED_LINES + 1))
    asked.clear()
    assert fit.NOT_COMPILED in judge(long, HALF, "sm_90", doubt=True).reason
    assert asked == []


@pytest.mark.parametrize(
    "target, instruction, faulty",
    [
        ("sm_90", "wgmma", True),
        ("sm_103", "tcgen05", True),
        ("sm_90", "mma", False),
        ("sm_80", "mma", False),
    ],
)
def test_matmuls_of_64_rows_are_a_fault_until_they_are_verified(
    target: str, instruction: str, faulty: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = {f.name: 0 for f in fields(Resources)} | {"loaded_inside": (), "staged_inside": ()}
    found = Resources(**{**numbers, "target": target, "threads": 128, "matmuls": {instruction: 4}})
    row = VerdictRow("made", target, found, "", ())
    text = f"matmuls of 64 rows by {instruction}, not verified on {target}"
    assert serious_faults(row) == ((Fault(text),) if faulty else ())
    monkeypatch.setattr(large_tiles, "_verified", lambda target: True)
    assert serious_faults(row) == ()
