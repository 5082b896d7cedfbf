"""Under autocast, kernels are planned for the dtype in which they run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import graphnn as gn
from graphnn.backends.triton.strategy import KernelLowering
from graphnn.planner.loops.choose import Target
from graphnn.runtime.model import Compiled
from tests.kernels.emitted import Over


def lowering_of(model: Compiled) -> KernelLowering:
    """The lowering of the program that was made last."""
    found: Any = model.programs[-1].loops[0].lowering
    return found


def test_a_program_of_kernels_is_made_for_each_dtype_of_autocast() -> None:
    net = Over(gn.nn.RNN(4, 4), 4)
    model, plain = gn.compile(net, "interpret"), gn.compile(net, "torch")
    x = torch.randn(2, 3, 4)
    exact = model(x=x)
    assert lowering_of(model).autocast == "" and exact.dtype == torch.float32
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype=dtype):
            y, same = model(x=x), plain(x=x)
            assert "float32 is multiplied" not in model.explain()
        assert lowering_of(model).autocast == str(dtype).removeprefix("torch.")
        assert y.dtype == same.dtype == dtype
        torch.testing.assert_close(y, same, rtol=0.02, atol=0.02)
    assert torch.equal(model(x=x), exact) and "float32 is multiplied" in model.explain()
    assert len(model.programs) == 3 and len(plain.programs) == 1


def test_gradients_may_be_computed_after_autocast_has_ended() -> None:
    model = gn.compile(Over(gn.nn.RNN(4, 4), 4), "interpret")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = model(x=torch.randn(2, 3, 4))
    y.sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())


def test_a_loop_that_fits_one_block_in_half_precision_is_not_shared_by_blocks() -> None:
    """An LSTM of 128 units has weights of 128 KB in bfloat16, and of 512 KB in float32."""
    model = gn.compile(Over(gn.nn.LSTM(128, 128), 128), "interpret")
    assert "persistent" not in strategies(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert strategies(model) == {"persistent"}
    assert "persistent" not in strategies(model)


def strategies(model: Compiled) -> set[str]:
    """The strategies of a model's loops, forward and backward."""
    lines = [x.strip() for x in model.explain().splitlines()]
    return {x.rpartition(": ")[2] for x in lines if x.startswith(("loop ", "backward kernel"))}


class Stated(nn.Module):
    """A loop whose state is in float32 whatever happens."""

    def graph(self, g: gn.Graph) -> None:
        x = g.input("x", (4,), over="time")
        h = g.state("h", (4,), dtype=torch.float32)
        h.next = torch.tanh(x + h)
        g.output("h", h.next)


def test_a_loop_with_a_state_of_a_stated_dtype_is_planned_for_it() -> None:
    model = gn.compile(Stated(), "interpret")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(x=torch.randn(2, 3, 4)).dtype == torch.float32
    lowering = lowering_of(model)
    assert lowering.autocast == "bfloat16" and lowering._runs_in(model.plan.ir) == torch.float32


def test_autocast_of_cuda_is_that_of_cuda_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: kind == "cuda")
    monkeypatch.setattr(torch, "get_autocast_dtype", lambda kind: torch.float16)
    assert Target.of(torch.device("cuda")).autocast == "float16"
    assert Target.of(torch.device("cpu")).autocast == ""
    model = gn.compile(Over(gn.nn.RNN(4, 4), 4))
    target = model._network.target_of(torch.device("cuda"))
    found = model._network.options.lowering(target)
    assert found is not None and found.autocast == "float16"
    assert not model._network.target_of(torch.device("cpu")).autocast
