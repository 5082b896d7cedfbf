"""The limits of each GPU: of its compute capability, and of the device at hand."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from graphnn.cli import networks
from graphnn.kernels.feasibility import fit, large_tiles, targets
from graphnn.kernels.feasibility.fit import Launch, choose_kernel, judge, launch_candidates
from graphnn.kernels.feasibility.targets import (
    DeviceLimits,
    device_limits,
    float32_precision,
    refusal,
    shared_memory_of,
    target_of,
)
from graphnn.kernels.ir.program import Unsupported
from graphnn.kernels.select import cost_model, search
from graphnn.kernels.select.search import choose_cooperative, device_at_hand
from graphnn.planner.core import device_constants
from tests.kernels.cooperative.test_sharding import program
from tests.kernels.feasibility.test_fit import made

KB = 1024
RTX_4090 = DeviceLimits("RTX 4090", "sm_89", 99 * KB, 128)
HALF = Launch("bf16", "ieee")


def test_each_target_has_its_limits_a_cost_model_and_constants() -> None:
    known = {name: limits.shared_memory // KB for name, limits in targets.TARGETS.items()}
    assert known == {
        "sm_75": 64,
        "sm_80": 163,
        "sm_86": 99,
        "sm_87": 163,
        "sm_89": 99,
        "sm_90": 227,
        "sm_100": 227,
        "sm_103": 227,
        "sm_120": 99,
        "sm_121": 99,
    }
    assert list(cost_model.GPUS) == list(known) == list(device_constants.KNOWN)
    assert tuple(known) == networks.TARGETS


@pytest.mark.parametrize(
    ("capability", "target"),
    [((7, 5), "sm_75"), ((8, 0), "sm_80"), ((8, 6), "sm_86"), ((8, 9), "sm_89"), ((9, 0), "sm_90")],
)
def test_a_known_gpu_is_its_own_target(capability: tuple[int, int], target: str) -> None:
    assert target_of(*capability) == target


@pytest.mark.parametrize(
    ("capability", "target"), [((8, 8), "sm_87"), ((10, 9), "sm_103"), ((12, 5), "sm_121")]
)
def test_an_unknown_gpu_is_judged_as_the_newest_before_it_and_that_is_logged(
    capability: tuple[int, int], target: str, caplog: pytest.LogCaptureFixture
) -> None:
    target_of.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert target_of(*capability) == target
    (found,) = caplog.messages
    assert "of compute capability {}.{} are not known".format(*capability) in found


def test_a_gpu_that_is_too_old_has_no_kernels() -> None:
    assert target_of(7, 0) == "sm_70" and shared_memory_of("sm_70") == 0
    wanted = "kernels need a GPU of compute capability 7.5 or newer; this one has 7.0"
    assert refusal("sm_70") == wanted
    source = made(0)
    assert judge(source, HALF, "sm_70").reason == wanted


@pytest.mark.parametrize(
    ("dtype", "precision", "why"),
    [
        ("bf16", "ieee", "multiplies no bfloat16"),
        ("fp16", "ieee", ""),
        ("fp32", "ieee", ""),
        ("fp32", "tf32", "has no TF32"),
        ("fp32", "tf32x3", "has no TF32"),
    ],
)
def test_turing_multiplies_float16_and_exact_float32_only(
    dtype: str, precision: str, why: str
) -> None:
    assert why in refusal("sm_75", dtype, precision)
    assert bool(refusal("sm_75", dtype, precision)) == bool(why)
    assert not refusal("sm_80", dtype, precision)
    verdict = judge(made(KB), Launch(dtype, precision), "sm_75", may_compile=False)
    assert verdict.fits != bool(why)
    if why:
        with pytest.raises(Unsupported, match=why):
            choose_cooperative(program("lstm", size=256), Launch(dtype, precision), "sm_75", False)


def test_float32_is_multiplied_exactly_without_tf32() -> None:
    assert float32_precision("sm_75", None) == "ieee"
    assert float32_precision("sm_75", "tf32") == "tf32"  # as asked: it is refused, with the reason
    assert float32_precision("sm_89", None) is None


def test_the_limits_of_the_device_count(monkeypatch: pytest.MonkeyPatch) -> None:
    props = SimpleNamespace(multi_processor_count=66, shared_memory_per_block_optin=50 * KB)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (8, 9))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "made up")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: props)
    assert device_limits(0) == DeviceLimits("made up", "sm_89", 50 * KB, 66)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert shared_memory_of("sm_89") == 50 * KB and shared_memory_of("sm_80") == 163 * KB
    assert device_at_hand("sm_89").processors == 66 and device_at_hand("sm_80").processors == 108
    del props.shared_memory_per_block_optin  # before torch 2.2
    assert shared_memory_of("sm_89") == 99 * KB


def test_a_plan_is_for_the_smallest_device_of_a_target(monkeypatch: pytest.MonkeyPatch) -> None:
    small, other = replace(RTX_4090, processors=58), DeviceLimits("A100", "sm_80", 163 * KB, 108)
    monkeypatch.setattr(targets, "devices", lambda: [other, RTX_4090, small])
    assert device_at_hand("sm_89").processors == 58


def test_a_kernel_for_an_a100_does_not_fit_a_smaller_gpu() -> None:
    source = made(60 * KB)  # 120 KB in bfloat16
    assert judge(source, HALF, "sm_80").fits and not judge(source, HALF, "sm_89").fits
    assert "do not fit the 99 KB of one multiprocessor (sm_89, bf16)" in (
        judge(source, HALF, "sm_89").reason
    )
    half = made(30 * KB)
    launches = launch_candidates(half, HALF, "sm_86", 256)
    assert max(fit.shared_memory(half, x, "sm_86") for x in launches) <= 99 * KB


@pytest.mark.parametrize("target", ["sm_86", "sm_89", "sm_120"])
def test_wider_loops_are_shared_by_blocks_on_gpus_with_little_shared_memory(target: str) -> None:
    wide = program("lstm", size=128)
    assert choose_kernel(wide, HALF, "sm_80", may_compile=False)[1].fits
    assert not choose_kernel(wide, HALF, target, may_compile=False)[1].fits
    source, verdict = choose_cooperative(wide, HALF, target, may_compile=False)
    assert verdict.fits and 1 < source.blocks <= cost_model.GPUS[target].processors
    found = [source, *source.others]
    assert all(search.shared_memory(x, verdict.launch) <= 99 * KB for x in found)


def test_large_tiles_need_a_verification_where_they_are_known_to_be_faulty(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    closed = {t for t in targets.TARGETS if not large_tiles.large_tiles(t)}
    assert closed == {"sm_90", "sm_100", "sm_103"}
    large_tiles.remember_verified("sm_90")
    assert large_tiles.large_tiles("sm_90") and large_tiles.most_rows("sm_90") == 64
    assert not large_tiles.large_tiles("sm_100")
    large_tiles.remember_verified("sm_90", False)
    assert not large_tiles.large_tiles("sm_90") and large_tiles.most_rows("sm_90") == 32
