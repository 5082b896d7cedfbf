"""Calibration and doctor: constants from a fake clock are cached and read back."""

import json

import pytest
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from graphnn.cli import main
from graphnn.kernels import cache
from graphnn.planner.core import device
from graphnn.planner.core.device_constants import CPU, default
from graphnn.runtime.limits import measure
from graphnn.timing import device_limits
from graphnn.timing.barrier_cost import OPTIONS, barriers
from graphnn.tools import calibrate, doctor


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def constant_clock(factor):
    """A fake clock: every run takes `factor` milliseconds and nothing is executed."""
    return lambda run: factor * 1e-3


def test_constants_follow_from_the_measured_times():
    found = measure("cpu", (torch.float32,), constant_clock(1.0), 3)
    assert found.launch == pytest.approx(1e-3 / device_limits.CALLS)
    assert found.call == pytest.approx(1e-3 / 2)
    size, rate = found.copies[-1]
    assert size == 2 * device_limits.COPIES["cpu"][-1] and rate == pytest.approx(size / 1e-3)
    flops, rate = found.products["float32"][-1]
    assert flops == 2 * 1024**3 and rate == pytest.approx(flops / 1e-3)
    assert found.barrier == 0.0 and found.units == torch.get_num_threads()
    twice = measure("cpu", (torch.float32,), constant_clock(2.0), 3)
    assert twice.copies[0][1] == pytest.approx(found.copies[0][1] / 2)


def test_rates_come_from_the_best_round_and_latencies_from_the_median():
    times = iter([1.0, 5.0, 3.0] * 1000)
    found = measure("cpu", (torch.float32,), lambda run: next(times), 3)
    flops, rate = found.products["float32"][-1]
    assert rate == pytest.approx(flops / 1.0)
    assert found.launch == pytest.approx(3.0 / device_limits.CALLS)


def test_calibrated_constants_are_read_back_for_the_same_device_only():
    assert device.here("cpu") == CPU
    found, place = calibrate.calibrate("cpu", timer=constant_clock(1.0))
    assert device.here("cpu") == found and place == cache.folder()
    assert device.here("cuda") == default("cuda")
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        assert device.here("cpu") == CPU  # measured with other threads
    finally:
        torch.set_num_threads(threads)


def test_keep_false_caches_nothing():
    calibrate.calibrate("cpu", keep=False, timer=constant_clock(1.0))
    assert device.here("cpu") == CPU


def test_cached_constants_of_another_version_are_ignored():
    cache.remember(device.key("cpu", ""), {"name": "old", "speed": 3})
    assert device.here("cpu") == CPU


def test_measured_constants_are_cached_and_shown_by_doctor(capsys, monkeypatch):
    monkeypatch.setattr(device_limits, "timer_for", lambda kind: constant_clock(1.0))
    assert main(["calibrate", "--dry", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["launch"] > 0
    assert main(["calibrate"]) == 0
    out = capsys.readouterr().out
    assert "cached in" in out and "copy" in out
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "measured on 2" in text and "calibrate" not in text and text.endswith("no problems\n")


def test_doctor_reports_versions_devices_and_missing_packages(capsys):
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    topics = {f["topic"]: f["text"] for f in found["findings"]}
    assert found["sound"] and topics["torch"].startswith(torch.__version__)
    assert {"graphnn", "python", "triton", "cpu", "gpu", "cache", "auto"} <= set(topics)
    assert "`graphnn calibrate` measures this machine" in topics["cost model"]
    assert "flashrnn (compared with in benchmarks)" in topics["missing"]


def test_doctor_reports_a_set_switch_and_an_unusable_cache(capsys, home, monkeypatch):
    monkeypatch.setenv("GRAPHNN_TUNE", "0")
    (home / "graphnn").write_text("a file where a folder should be")
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "GRAPHNN_TUNE=0 (0: launches of kernels are not timed)" in out
    assert "! cache" in out and "temporary" in out and "1 problem" in out


def test_doctor_describes_an_available_gpu(monkeypatch):
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
    compiled = aot_compiled(barriers)
    # the compiler removed neither the arrival nor the wait
    assert "gpu.release" in compiled.asm["ptx"] and "gpu.acquire" in compiled.asm["ptx"]


def aot_compiled(kernel):
    """Compiles a kernel for sm_90; needs no GPU."""
    source = ASTSource(kernel, {"counter": "*i32", "steps": "i32"}, {"BLOCKS": 132})
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=OPTIONS)
