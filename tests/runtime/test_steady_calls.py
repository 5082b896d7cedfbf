"""Calls on a fake GPU: none waits for it after the first few, and CUDA graphs can capture them."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphnn as gn
from graphnn.errors import LengthsError
from graphnn.kernels.runtime import late
from graphnn.runtime.call import lengths
from tests.attention import networks
from tests.fake_gpu import FakeGpu, GpuTensor, fake_gpu

WIDTH = networks.WIDTH


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeGpu:
    """A fake GPU on which nothing is timed, and no verdict on a kernel is remembered."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("GRAPHNN_TUNE", "0")
    monkeypatch.setattr(late, "_CHECKS", type(late._CHECKS)())
    monkeypatch.setattr(lengths, "_LATE", {})
    return fake_gpu(monkeypatch)


class Layer(nn.Module):
    """One of the library's layers."""

    def __init__(self, make: Any):
        super().__init__()
        self.layer = make(WIDTH, WIDTH)

    def graph(self, g: gn.Graph) -> None:
        g.output("y", self.layer(g.input("x", (WIDTH,), over="time")))


class Scaled(nn.Module):
    """A loop that reads a tensor which is neither a parameter nor a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(WIDTH, WIDTH)
        self.scale = {"scale": torch.linspace(0.5, 1.0, WIDTH)}

    def graph(self, g: gn.Graph) -> None:
        x, h = g.input("x", (WIDTH,), over="time"), g.state("h", (WIDTH,))
        h.next = torch.tanh(self.map(h) + x) * self.scale["scale"]
        g.output("y", h.next)


def lstm() -> nn.Module:
    return Layer(gn.nn.LSTM)


def sequence() -> dict[str, Tensor]:
    return {"x": torch.randn(2, 4, WIDTH)}


def pair() -> dict[str, Tensor]:
    return {"q": torch.randn(2, 3, WIDTH), "k": torch.randn(2, 4, WIDTH)}


# network, its inputs, the ragged axis, and what gn.compile skips
CASES: dict[str, tuple[Callable[[], nn.Module], Any, str, tuple[str, ...]]] = {
    "persistent": (lstm, sequence, "time", ()),
    "cooperative": (lstm, sequence, "time", ("resident",)),
    "stepwise": (lstm, sequence, "time", ("resident", "cooperative")),
    "constants": (Scaled, sequence, "time", ("resident",)),
    "scan": (lambda: Layer(gn.nn.MinGRU), sequence, "time", ()),
    "attention": (networks.Additive, pair, "source", ()),
}


def on_gpu(gpu: FakeGpu, case: str) -> tuple[gn.Compiled, dict[str, Tensor]]:
    """The model of a case on the GPU, and inputs for it."""
    torch.manual_seed(0)
    make, inputs, _, skip = CASES[case]
    model = gn.compile(gpu.module(make()), backend="triton", skip=skip)
    return model, {k: gpu.put(v).requires_grad_() for k, v in inputs().items()}


def call(model: gn.Compiled, given: dict[str, Tensor], n: dict[str, Tensor]) -> None:
    y = model(**given, lengths=n)
    sum(v.sum() for v in (y.values() if isinstance(y, dict) else [y])).backward()  # type: ignore[union-attr]


def ragged(gpu: FakeGpu, case: str, where: str) -> dict[str, Tensor]:
    n = torch.tensor([4, 3])
    return {CASES[case][2]: gpu.put(n) if where == "gpu" else n}


@pytest.mark.parametrize("where", ["gpu", "cpu"])
@pytest.mark.parametrize("case", CASES)
def test_a_steady_call_does_not_wait_for_the_gpu(gpu: FakeGpu, case: str, where: str) -> None:
    with gpu:
        model, given = on_gpu(gpu, case)
        n = ragged(gpu, case, where)
        for _ in range(2):
            call(model, given, n)
        gpu.waits.clear()
        launches = len(gpu.launches)
        call(model, given, n)
    assert gpu.waits == [] and len(gpu.launches) > launches


@pytest.mark.parametrize("case", CASES)
def test_a_call_can_be_captured_in_a_cuda_graph(gpu: FakeGpu, case: str) -> None:
    with gpu:
        model, given = on_gpu(gpu, case)
        n = ragged(gpu, case, "gpu")
        for _ in range(3):
            call(model, given, n)
        gpu.capturing = True
        call(model, given, n)
        gpu.capturing = False
        call(model, given, n)


def test_lengths_on_the_gpu_that_are_out_of_range_are_clipped_and_reported_later(
    gpu: FakeGpu,
) -> None:
    with gpu:
        model, given = on_gpu(gpu, "persistent")
        right = model(**given, lengths={"time": gpu.put(torch.tensor([4, 0]))})
        wrong = model(**given, lengths={"time": gpu.put(torch.tensor([9, -2]))})
        torch.testing.assert_close(wrong.data_on_cpu, right.data_on_cpu)
        with pytest.raises(
            LengthsError, match=r"lengths of 'time' were out of range.*'layer'"
        ) as e:
            for _ in range(late.EVERY + 1):
                model(**given, lengths={"time": gpu.put(torch.tensor([4, 3]))})
    assert "2 lengths below 0 or above the padded length" in str(e.value)


def test_lengths_on_the_cpu_are_checked_at_once(gpu: FakeGpu) -> None:
    with gpu:
        model, given = on_gpu(gpu, "persistent")
        with pytest.raises(LengthsError, match="from 3 to 9"):
            model(**given, lengths={"time": [9, 3]})


def test_lengths_on_the_cpu_cannot_be_captured(gpu: FakeGpu) -> None:
    with gpu:
        model, given = on_gpu(gpu, "persistent")
        call(model, given, {"time": torch.tensor([4, 3])})
        gpu.capturing = True
        with pytest.raises(LengthsError, match="lengths of 'time' are on the CPU while a CUDA gr"):
            call(model, given, {"time": torch.tensor([4, 3])})


def test_a_constant_that_changes_in_place_is_copied_again(gpu: FakeGpu) -> None:
    with gpu:
        torch.manual_seed(0)
        net = Scaled()
        x = torch.randn(2, 4, WIDTH)
        before = gn.compile(net, backend="torch")(x=x)
        model = gn.compile(gpu.module(net), backend="triton")
        torch.testing.assert_close(model(x=gpu.put(x)).data_on_cpu, before.detach())
        net.scale["scale"].mul_(0.5)
        after = model(x=gpu.put(x)).data_on_cpu
        assert not torch.allclose(after, before)


def test_torchs_packed_layers_wait_but_kernels_are_captured(
    gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    """cuDNN reads lengths on the CPU. A capture takes the layer's kernels, which never ran here."""
    monkeypatch.setenv("GRAPHNN_TRUST", "0")
    with gpu:
        model = gn.compile(gpu.module(lstm()))
        given = {k: gpu.put(v) for k, v in sequence().items()}
        n = {"time": gpu.put(torch.tensor([4, 3]))}
        wanted = model(**given, lengths=n)
        assert not gpu.launches
        gpu.capturing = True
        found = model(**given, lengths=n)
    assert gpu.launches
    torch.testing.assert_close(found.data_on_cpu, wanted.data_on_cpu)


class Speller(nn.Module):
    """A language model over seven symbols."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Embedding(7, WIDTH), nn.Linear(WIDTH, 7)
        self.layer = gn.nn.GRU(WIDTH, WIDTH)

    def graph(self, g: gn.Graph) -> None:
        symbol = g.input("symbol", (), over="time", dtype=torch.int64)
        g.output("logits", self.out(self.layer(self.embed(symbol))))
        g.feedback("symbol", "logits")


def test_generation_waits_once_per_step_and_only_if_it_may_end(gpu: FakeGpu) -> None:
    with gpu:
        model = gn.compile(gpu.module(Speller()), backend="triton")
        start = gpu.put(torch.tensor([1, 2]))
        for beam in (None, 2):
            model.generate(start=start, max_steps=2, beam=beam)
            gpu.waits.clear()
            model.generate(start=start, max_steps=4, beam=beam)
            assert gpu.waits == []
            steps = model.generate(start=start, stop=3, max_steps=4, beam=beam).tokens.shape[1]
            assert len(gpu.waits) == steps


@pytest.mark.parametrize("case", ["persistent", "constants"])
def test_a_steady_step_does_not_wait_for_the_gpu(gpu: FakeGpu, case: str) -> None:
    with gpu, torch.no_grad():
        model, given = on_gpu(gpu, case)
        state = model.initial_state(batch=2)
        _, state = model.step(state, x=given["x"][:, 0])
        gpu.waits.clear()
        for t in (1, 2):
            _, state = model.step(state, x=given["x"][:, t])
    assert gpu.waits == []


@pytest.mark.parametrize("case", CASES)
def test_a_dropped_model_frees_its_memory_on_the_gpu(gpu: FakeGpu, case: str) -> None:
    def live() -> int:
        gc.collect()
        return sum(type(x) is GpuTensor for x in gc.get_objects())

    def train() -> None:
        model, given = on_gpu(gpu, case)
        for _ in range(3):
            call(model, given, ragged(gpu, case, "gpu"))

    with gpu:
        train()
        before = live()
        train()
        assert live() == before
