"""Which cooperative kernel a loop gets from the cost model, and the resources of compiled ones."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from graphnn.kernels.cooperative.codegen.emit import CooperativeSource, emit_cooperative
from graphnn.kernels.cooperative.plan.outline import Outline, demand, outline
from graphnn.kernels.cooperative.plan.tiling import Tiling
from graphnn.kernels.feasibility import aot
from graphnn.kernels.feasibility.cases import loop_case
from graphnn.kernels.feasibility.fit import Fault, Launch, serious_faults
from graphnn.kernels.feasibility.targets import shared_memory_of
from graphnn.kernels.ir.program import Unsupported
from graphnn.kernels.select import search
from graphnn.kernels.select.cost_model import GPUS, StepWork, cooperative_parts, stepwise_time
from graphnn.kernels.select.search import cooperative_candidates
from tests.kernels.cooperative.test_sharding import program

HALF = Launch("bf16", "ieee")
H200 = GPUS["sm_90"]
MOVED = StepWork(64, 1, 16, 1, 128 << 10, 0, 32 << 10, 2)


def test_more_blocks_need_longer_barriers_and_less_time_to_multiply() -> None:
    more = replace(MOVED, blocks=128, kept=64 << 10)
    few, many = cooperative_parts(MOVED, H200), cooperative_parts(more, H200)
    assert few["barriers"] < many["barriers"] and few["weights"] > many["weights"]
    assert few["streaming"] == many["streaming"] == 0


def test_streamed_weights_are_read_from_the_cache_or_from_memory() -> None:
    cached = cooperative_parts(replace(MOVED, streamed=64 << 10), H200)["streaming"]
    far = cooperative_parts(replace(MOVED, streamed=640 << 10), H200)["streaming"]
    assert cached > 0 and far > 10 * cached


def test_stepwise_execution_takes_two_launches_per_matmul() -> None:
    assert stepwise_time(2, 0, H200) == 2 * stepwise_time(1, 0, H200)
    assert (
        stepwise_time(1, 64 << 20, H200)
        > stepwise_time(1, 8 << 20, H200)
        > stepwise_time(1, 0, H200)
    )


def test_candidates_fit_and_run_at_once() -> None:
    found = list(cooperative_candidates(program("lstm", size=512), HALF, "sm_90", H200))
    assert [c.source.tiling.units for c in found] == [4, 8, 16, 32, 64]
    for c in found:
        assert 1 < c.source.blocks <= H200.processors and c.shared_memory <= shared_memory_of(
            "sm_90"
        )
        held = sum(c.source.weights.values()) + c.source.streamed
        assert held * c.source.blocks == 4 * 512 * 512
    assert [c.source.streamed > 0 for c in found] == [False] * 4 + [True]
    few = replace(H200, processors=40)
    assert (
        min(
            c.source.tiling.units
            for c in cooperative_candidates(program("lstm", size=512), HALF, "sm_90", few)
        )
        == 16
    )


def test_the_kernel_predicted_to_be_fastest_is_chosen_with_the_reason() -> None:
    source, verdict = search.choose_cooperative(
        program("lstm", size=256), HALF, "sm_90", may_compile=False
    )
    able = cooperative_candidates(
        program("lstm", size=256), HALF, "sm_90", search.device_at_hand("sm_90")
    )
    assert source.blocks == min(able, key=lambda c: c.microseconds).source.blocks
    assert re.search(r"32 blocks of 8 units, \d+ of 227 KB .* 1 barrier per step", verdict.reason)


def test_two_parallel_loops_have_half_of_the_gpu_each() -> None:
    single, _ = search.choose_cooperative(
        program("lstm", size=2048), HALF, "sm_90", may_compile=False
    )
    assert single.blocks == 128
    parallel, _ = search.choose_cooperative(
        program("lstm", size=1024), HALF, "sm_90", may_compile=False, loops=2
    )
    assert 2 * parallel.blocks <= H200.processors


def test_a_kernel_that_spills_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def compiled(source: CooperativeSource, launch: Launch, target: str) -> tuple[Fault, ...]:
        asked.append(source.blocks)
        return (Fault("spills: 8", 8),) if len(asked) == 1 else ()

    monkeypatch.setattr(search, "compile_faults", compiled)
    source, verdict = search.choose_cooperative(program("lstm", size=256), HALF, "sm_90")
    assert asked == [32, source.blocks] and source.blocks != 32
    assert verdict.reason.endswith("32 blocks of 8 units, compiled, spills: 8")
    monkeypatch.setattr(search, "compile_faults", lambda *_: (Fault("spills: 8", 8),))
    with pytest.raises(
        Unsupported, match="no cooperative kernel compiles for sm_90 without faults"
    ):
        search.choose_cooperative(program("lstm", size=256), HALF, "sm_90")


def test_the_reason_mentions_a_faster_stepwise_execution() -> None:
    with pytest.raises(Unsupported, match=r"predicted \d+\.\d µs per step, stepwise \d+\.\d"):
        search.choose_cooperative(program("lstm", size=4096), HALF, "sm_90", may_compile=False)


def test_a_kernel_has_no_more_blocks_than_the_gpu_has_multiprocessors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small = replace(H200, name="a slice of a GPU", processors=2)
    monkeypatch.setattr(search, "device_at_hand", lambda target: small)
    with pytest.raises(Unsupported, match="fits one of the 2 multiprocessors"):
        search.choose_cooperative(program("lstm", size=1024), HALF, "sm_80", may_compile=False)


# compiled ahead of time and inspected


@pytest.mark.parametrize("target", ["sm_90", "sm_80"])
@pytest.mark.parametrize("kind", ["saving", "backward"])
@pytest.mark.parametrize(
    "name, size",
    [
        ("lstm", 512),
        pytest.param("lstm", 1024, marks=pytest.mark.slow),
        pytest.param("gru", 1024, marks=pytest.mark.slow),
        pytest.param("norm", 512, marks=pytest.mark.slow),
    ],
)
def test_weights_stay_in_shared_memory_and_nothing_spills(
    name: str, size: int, kind: str, target: str
) -> None:
    source = emit_cooperative(program(name, kind, size), Tiling(16, 8, 256, 4))
    found = loop_case(source, "bf16", 16, 8).judge(target)
    # to use all registers without a spill is no fault, as for persistent kernels
    assert serious_faults(found) == () and found.weights == "resident"
    assert found.resources is not None and set(found.resources.matmuls) == {"mma"}
    foretold = search.shared_memory(source, HALF)
    assert found.resources.shared == pytest.approx(foretold, abs=4 << 10)


@pytest.mark.slow
@pytest.mark.parametrize("size, kind", [(512, "saving"), (512, "backward"), (1024, "saving")])
def test_float32_weights_stay_in_shared_memory_and_nothing_spills(size: int, kind: str) -> None:
    """Split into bfloat16 parts. As two TF32 matrices, 1024 units do not fit, and 512 spill."""
    full = Launch("fp32", "tf32x3")
    source, _ = search.choose_cooperative(
        program("lstm", kind, size), full, "sm_90", may_compile=False
    )
    assert source.tiling.bf16x3 and not source.streamed
    found = loop_case(source, "fp32", 16, 8, "tf32x3").judge("sm_90")
    assert serious_faults(found) == () and found.weights == "resident"
    assert found.resources is not None
    assert found.resources.shared == pytest.approx(search.shared_memory(source, full), abs=1 << 10)


def test_split_float32_weights_take_six_bytes_each() -> None:
    full = Launch("fp32", "tf32x3")
    (found, *_) = cooperative_candidates(program("lstm", size=1024), full, "sm_90", H200)
    assert found.demand.blocks == 128 and found.shared_memory == 32 * 1024 * 6 + 16 * 256 * 4
    # the same kernel may run with another precision, and then keeps weights as for TF32
    assert (
        search.shared_memory(found.demand, Launch("fp32", "tf32"))
        == 32 * 1024 * 4 + 2 * 16 * 256 * 4
    )


def test_no_kernel_is_written_for_an_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "emit_outlined", lambda *_: pytest.fail("written"))
    for c in cooperative_candidates(program("lstm", size=512), HALF, "sm_90", H200):
        assert c.shared_memory <= shared_memory_of("sm_90") and c.microseconds > 0
    least = search.fastest_step(program("lstm", size=512), HALF, "sm_90", may_compile=False)
    assert least == min(
        c.microseconds
        for c in cooperative_candidates(program("lstm", size=512), HALF, "sm_90", H200)
    )


@pytest.mark.parametrize("parted", [False, True])
@pytest.mark.parametrize("room", [1 << 30, 2048, 0])
@pytest.mark.parametrize(
    "name, kind", [("lstm", "backward"), ("gru", "saving"), ("norm", "saving")]
)
def test_resources_are_predicted(name: str, kind: str, room: int, parted: bool) -> None:
    tiling = Tiling(16, 4, 32, 2, room, parted)
    source = emit_cooperative(program(name, kind, 50), tiling)
    found = demand(outline(program(name, kind, 50), 16), tiling)
    for what in ("blocks", "barriers", "exchanges", "weights", "staged", "streamed", "products"):
        assert getattr(found, what) == getattr(source, what)


def test_the_barrier_releases_and_acquires_at_the_scope_of_the_gpu() -> None:
    made = loop_case(emit_cooperative(program("lstm"), Tiling(16)), "bf16", 16, 8)
    options = {"num_warps": 8, "num_stages": 1, "launch_cooperative_grid": True}
    kernel = aot._compile(
        aot._source(made.function, made.signature, made.constants),
        "sm_90",
        {**options, "enable_fp_fusion": True},
    )
    lines = [line.strip() for line in kernel.asm["ptx"].splitlines()]
    released = [k for k, line in enumerate(lines) if "gpu.release.add" in line]
    assert len(released) == 2  # before the loop, and in it
    acquired = [line for line in lines if "gpu.acquire" in line]
    assert acquired and all("global" in line for line in acquired)
    for k in released:
        before = [line for line in lines[:k] if line.startswith(("bar.sync", "st.global", "@%p"))]
        stores = [j for j, line in enumerate(before) if "st.global" in line]
        syncs = [j for j, line in enumerate(before) if line.startswith("bar.sync")]
        assert stores and max(syncs) > max(stores)
    assert sum("ld.global.cg" in line for line in lines) > 0


def test_a_kernel_that_cannot_be_written_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = [8, 16]
    write = search.emit_outlined

    def written(outline: Outline, tiling: Tiling) -> CooperativeSource:
        if tiling.units in refused:
            raise Unsupported(f"no {tiling.units} units")
        return write(outline, tiling)

    monkeypatch.setattr(search, "emit_outlined", written)
    monkeypatch.setattr(search, "compile_faults", lambda *_: ())
    for may_compile in (True, False):
        for units in wanted:
            refused = {u for u in search.UNITS_PER_BLOCK if u != units}
            asked = (program("lstm", size=256), HALF, "sm_90", may_compile)
            source, _ = search.choose_cooperative(*asked)
            assert source.tiling.units == units and not source.others
        refused = set(search.UNITS_PER_BLOCK)
        with pytest.raises(Unsupported, match=r"no \d+ units"):
            search.choose_cooperative(*asked)
