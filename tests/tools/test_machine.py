"""Calibration and doctor: constants from a made-up clock, kept in the cache, found again."""

import json

import pytest
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from graphnn.cli import main
from graphnn.kernels import cache
from graphnn.planner.core import device as kept
from graphnn.planner.core.device_constants import CPU, default
from graphnn.runtime.limits import measure
from graphnn.timing import device_limits
from graphnn.timing.barrier_cost import OPTIONS, barriers
from graphnn.tools import calibrate, doctor


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def slower(factor):
    """A clock by which everything takes `factor` milliseconds, and that runs nothing."""
    return lambda run: factor * 1e-3


def test_constants_follow_from_what_the_clock_says():
    found = measure("cpu", (torch.float32,), slower(1.0), 3)
    assert found.launch == pytest.approx(1e-3 / device_limits.CALLS)
    assert found.call == pytest.approx(1e-3 / 2)
    size, rate = found.copies[-1]
    assert size == 2 * device_limits.COPIES["cpu"][-1] and rate == pytest.approx(size / 1e-3)
    flops, rate = found.products["float32"][-1]
    assert flops == 2 * 1024**3 and rate == pytest.approx(flops / 1e-3)
    assert found.barrier == 0.0 and found.units == torch.get_num_threads()
    twice = measure("cpu", (torch.float32,), slower(2.0), 3)
    assert twice.copies[0][1] == pytest.approx(found.copies[0][1] / 2)


def test_limits_are_the_best_of_the_rounds_and_latencies_the_usual():
    times = iter([1.0, 5.0, 3.0] * 1000)
    found = measure("cpu", (torch.float32,), lambda run: next(times), 3)
    flops, rate = found.products["float32"][-1]
    assert rate == pytest.approx(flops / 1.0)
    assert found.launch == pytest.approx(3.0 / device_limits.CALLS)


def test_what_was_calibrated_is_found_again_and_only_on_this_device():
    assert kept.here("cpu") == CPU
    found, place = calibrate.calibrate("cpu", timer=slower(1.0))
    assert kept.here("cpu") == found and place == cache.folder()
    assert kept.here("cuda") == default("cuda")
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        assert kept.here("cpu") == CPU  # measured with other threads
    finally:
        torch.set_num_threads(threads)


def test_nothing_is_kept_that_was_not_asked_for():
    calibrate.calibrate("cpu", keep=False, timer=slower(1.0))
    assert kept.here("cpu") == CPU


def test_constants_of_another_version_are_as_if_they_were_not_there():
    cache.remember(kept.key("cpu", ""), {"name": "old", "speed": 3})
    assert kept.here("cpu") == CPU


def test_the_commands(capsys, monkeypatch):
    monkeypatch.setattr(device_limits, "timer_for", lambda device: slower(1.0))
    assert main(["calibrate", "--dry", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["launch"] > 0
    assert main(["calibrate"]) == 0
    out = capsys.readouterr().out
    assert "cached in" in out and "copy" in out
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "measured on 2" in text and "calibrate" not in text and text.endswith("no problems\n")


def test_doctor_says_what_will_be_used_and_why(capsys):
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    topics = {f["topic"]: f["text"] for f in found["findings"]}
    assert found["sound"] and topics["torch"].startswith(torch.__version__)
    assert {"graphnn", "python", "triton", "cpu", "gpu", "cache", "auto"} <= set(topics)
    assert "`graphnn calibrate` measures this machine" in topics["cost model"]
    assert "flashrnn (compared with in benchmarks)" in topics["missing"]


def test_doctor_tells_a_switch_and_a_cache_that_cannot_be_used(capsys, home, monkeypatch):
    monkeypatch.setenv("GRAPHNN_TUNE", "0")
    (home / "graphnn").write_text("a file where a folder should be")
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "GRAPHNN_TUNE=0 (0: launches of kernels are not timed)" in out
    assert "! cache" in out and "temporary" in out and "1 problem" in out


def test_doctor_with_a_gpu_that_is_there(monkeypatch):
    class Properties:
        name, major, minor = "NVIDIA Made-up", 9, 0
        multi_processor_count, total_memory = 132, 80 << 30

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda *_: Properties())
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "NVIDIA Made-up")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    found = {f.topic: f.text for f in doctor.examine()}
    assert found["gpu"] == "NVIDIA Made-up, sm_90, 132 multiprocessors, 80 GiB"
    assert found["auto"].startswith("generated Triton kernels for CUDA tensors")
    assert "not measured by us" in found["cost model"]


def test_the_barrier_kernel_compiles_ahead_of_time():
    made = aot_compiled(barriers)
    # neither the arrival nor the waiting was taken out as unused
    assert "gpu.release" in made.asm["ptx"] and "gpu.acquire" in made.asm["ptx"]


def aot_compiled(kernel):
    """The kernel for sm_90, with no GPU there."""
    source = ASTSource(kernel, {"counter": "*i32", "steps": "i32"}, {"BLOCKS": 132})
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=OPTIONS)
