"""Late checks on a fake GPU: no call waits, no fault is lost, and captures are left alone."""

from __future__ import annotations

import gc
import logging

import pytest
import torch

from graphnn.kernels.runtime import late
from graphnn.kernels.runtime.watchdog import StuckBarrier, Watchdog
from tests.fake_gpu import GPU, FakeGpu, fake_gpu

STUCK = "kernel: a barrier was never passed at step 2"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    """A fake GPU, and no checks of other tests."""
    monkeypatch.setattr(late, "_CHECKS", type(late._CHECKS)())
    return fake_gpu(monkeypatch)


def launch(dog: Watchdog, step: int = 0) -> None:
    """A launch that stores `step` if a barrier is stuck, as kernels do; 0 if all is well."""
    flag = dog.flag(GPU)
    if step:
        flag.fill_(step)
    dog.look(flag)


def test_calls_neither_wait_nor_allocate(gpu: FakeGpu) -> None:
    dog = Watchdog("kernel")
    with gpu:
        launch(dog)
        flag, events = dog.flag(GPU), len(gpu.events)
        gpu.waits.clear()
        for _ in range(100):
            launch(dog)
        assert gpu.waits == [] and dog.flag(GPU) is flag
        assert len(gpu.events) == events == 1 and gpu.events[0].recorded == 7


def test_a_fault_is_raised_by_a_later_call_once(gpu: FakeGpu) -> None:
    dog = Watchdog("kernel")
    with gpu:
        for _ in range(3):
            launch(dog)
        launch(dog, 3)
        with pytest.raises(StuckBarrier, match=STUCK):
            for _ in range(late.EVERY + 1):
                launch(dog)
        for _ in range(2 * late.EVERY):
            launch(dog)


def test_a_call_does_not_wait_for_a_copy_that_is_not_done(gpu: FakeGpu) -> None:
    dog = Watchdog("kernel")
    with gpu:
        launch(dog, 3)
        gpu.events[0].done = False
        for _ in range(100):
            launch(dog)
        assert gpu.events[0].recorded == 1
        gpu.events[0].done = True
        with pytest.raises(StuckBarrier, match=STUCK):
            launch(dog)


def test_nothing_is_looked_at_while_a_graph_is_captured(gpu: FakeGpu) -> None:
    dog = Watchdog("kernel")
    with gpu:
        launch(dog)
        gpu.capturing = True
        for _ in range(100):
            launch(dog, 3)  # replays write to the same flag
        gpu.capturing = False
        with pytest.raises(StuckBarrier, match=STUCK):
            for _ in range(late.EVERY + 1):
                launch(dog)


def test_the_first_call_may_be_captured(gpu: FakeGpu) -> None:
    dog = Watchdog("kernel")
    with gpu:
        gpu.capturing = True
        launch(dog)
        gpu.capturing = False
        launch(dog)


def test_the_fault_of_the_last_call_is_found_by_waiting(gpu: FakeGpu) -> None:
    dog = Watchdog("kernel")
    with gpu:
        launch(dog)
        launch(dog, 3)
        with pytest.raises(StuckBarrier, match=STUCK):
            late.wait()
        gpu.waits.clear()
        late.wait()
        assert gpu.waits == []


def test_the_fault_of_the_last_call_is_reported_at_exit(
    gpu: FakeGpu, caplog: pytest.LogCaptureFixture
) -> None:
    dog = Watchdog("kernel")
    with gpu, caplog.at_level(logging.ERROR):
        launch(dog)
        launch(dog, 3)
        late._at_exit()
        late._at_exit()
    assert len(caplog.records) == 1 and STUCK in caplog.text


def test_a_check_disappears_with_its_kernel(gpu: FakeGpu) -> None:
    dog = Watchdog("kernel")
    with gpu:
        launch(dog)
    del dog
    gc.collect()
    assert not late._CHECKS


def test_on_a_cpu_a_launch_is_judged_at_once() -> None:
    dog = Watchdog("kernel")
    flag = dog.flag(torch.device("cpu"))
    dog.look(flag)
    flag.fill_(3)
    with pytest.raises(StuckBarrier, match=STUCK):
        dog.look(flag)
