"""Item 4: what Triton is known to miscompile on Hopper and Blackwell, with tiles of 64 rows.

Illegal accesses to shared memory by several matmuls of 64 rows (triton #11366, #10486), wrong
gradients of a transposed left operand (flash-linear-attention #640), wrong sums of two matmuls
that are chained through one accumulator (triton #10821).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import graphnn as gn
from graphnn.bench.contact.place import Place
from graphnn.kernels.attention.launch import AttentionLauncher
from graphnn.kernels.attention.tile_size import TileShape
from graphnn.tools.resources import Layer
from graphnn.tools.verification.results import Call, Definition, check_results, results

LARGE = TileShape(64, 64, 4)
RUNS = 1000


class Additive(nn.Module):
    """Additive attention whose score has a linear map of what depends on query and key."""

    def __init__(self, size: int):
        super().__init__()
        self.inner, self.score, self.size = nn.Linear(size, size), nn.Linear(size, 1), size

    def graph(self, g: gn.Graph) -> None:
        """Declare the graph."""
        q, k = (g.input(name, (self.size,), over=name) for name in ("query", "key"))
        inner = torch.tanh(self.inner(torch.tanh(q + k)))
        weights = gn.softmax(self.score(inner)[0], over="key")
        g.output("y", gn.sum(weights * k, over="key"))


NETWORKS: dict[str, Any] = {
    "additive score, 64 wide": lambda: Additive(64),
    "additive score, 192 wide": lambda: Additive(192),
}


def attention(place: Place) -> dict[str, Any]:
    """Run multi-head attention with the largest tile often: every run must give the same bits."""
    _force(LARGE)
    torch.manual_seed(0)
    net = Layer(gn.nn.MultiHeadAttention(256, 4), 256)
    model = place.compiled(net, torch.bfloat16)
    x = torch.randn(4, 256, 256, device=place.device, dtype=torch.bfloat16, requires_grad=True)
    first = _outputs(model, x)
    wrong = 0
    for _ in range(RUNS):
        now = _outputs(model, x)
        wrong += any(not torch.equal(a, b) for a, b in zip(first, now))
    if wrong:
        raise AssertionError(f"{wrong} of {RUNS} runs differ from the first")
    return {"runs": RUNS, "tile": str(LARGE), **_compared(place, net, model, {"x": x})}


def network(place: Place, name: str) -> dict[str, Any]:
    """Compare a network's results and gradients with float64, with the largest tile on a GPU."""
    if place.on_gpu:
        _force(LARGE)
    torch.manual_seed(0)
    net = NETWORKS[name]()
    model = place.compiled(net, torch.bfloat16)
    sizes = {"query": place.size(64, 3), "key": place.size(96, 5)}
    inputs = {k: torch.randn(2, n, net.size) for k, n in sizes.items()}
    return _compared(place, net, model, inputs)


def _outputs(model: gn.Compiled, x: torch.Tensor) -> list[torch.Tensor]:
    y = model(x=x)
    return [y.detach(), *torch.autograd.grad(y.sum(), [x, *model.parameters()])]


def _compared(
    place: Place, net: nn.Module, model: gn.Compiled, inputs: dict[str, torch.Tensor]
) -> dict[str, Any]:
    """Return the worst error. Raises AssertionError with all results that are wrong."""
    call = Call("", inputs, {}).on(place.device, torch.bfloat16)
    definition = Definition(net, torch.bfloat16, place.device, "bf16")
    rows = check_results(definition, call, results(model, call))
    if faults := [str(f) for row in rows for f in row.faults]:
        raise AssertionError("; ".join(faults))
    worst = max((row.error for row in rows), key=lambda e: e.severity)
    return {"result": worst.name, "error": worst.error, "torch": worst.baseline}


def _force(shape: TileShape) -> None:
    """Give all kernels of attention in this process one tile, also those that it is not meant for.

    Kernels of one row per program keep theirs.
    """
    chosen = AttentionLauncher.shape

    def forced(launcher: AttentionLauncher, *given: Any) -> TileShape:
        usual = chosen(launcher, *given)
        return usual if usual.rows == 1 or usual.columns == 1 else shape

    AttentionLauncher.shape = forced  # type: ignore[method-assign]
