"""Item 5: a model within the user's CUDA graph, and under torch.compile."""

from __future__ import annotations

from typing import Any

import torch

from graphnn.bench.contact.networks import made
from graphnn.bench.contact.place import Place

EAGER_CALLS, REPLAYS = 3, 5


def graphed(place: Place) -> dict[str, Any]:
    """Record a cooperative loop with lengths in a CUDA graph, and replay it on other inputs."""
    model = place.compiled(made("LSTM 512"), torch.bfloat16)
    x = torch.randn(16, 64, 512, device=place.device, dtype=torch.bfloat16)
    lengths = {"time": torch.arange(16, device=place.device) % 64 + 1}
    with torch.no_grad():
        for _ in range(EAGER_CALLS):
            model(x=x, lengths=lengths)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = model(x=x, lengths=lengths)
        for _ in range(REPLAYS):
            x.copy_(torch.randn_like(x))
            graph.replay()
            _same(out, model(x=x, lengths=lengths), "a replay")
    return {"replays": REPLAYS, "results": "equal to those of calls"}


def reduced_overhead(place: Place) -> dict[str, Any]:
    """Compile a model by torch.compile with CUDA graphs; run it forward and backward."""
    model = place.compiled(made("LSTM 64"), torch.bfloat16)
    compiled = torch.compile(model, mode="reduce-overhead")
    x = torch.randn(16, 64, 64, device=place.device, dtype=torch.bfloat16)
    for _ in range(EAGER_CALLS):
        got = compiled(x=x)
        grads = torch.autograd.grad(got.float().sum(), list(model.parameters()))
        want = model(x=x)
        _same(got, want, "a call")
        wanted = torch.autograd.grad(want.float().sum(), list(model.parameters()))
        for g, w in zip(grads, wanted):
            _same(g, w, "a gradient")
    return {"calls": EAGER_CALLS, "results": "equal to those of the model"}


def _same(got: torch.Tensor, want: torch.Tensor, what: str) -> None:
    """Raise AssertionError unless two results agree to some roundings of bfloat16."""
    far = float((got.double() - want.double()).abs().max() / want.double().abs().max())
    if not far <= 2**-6:
        raise AssertionError(f"{what} differs by {far:.1e}")
