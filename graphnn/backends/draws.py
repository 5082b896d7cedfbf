"""Random numbers, drawn the same way by every backend, so that one seed gives one result."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from graphnn.ir import IR, Node


def random_nodes(ir: IR, training: bool) -> list[Node]:
    """The random nodes of a graph that are drawn, in the order in which they are drawn."""
    found = [n for n in ir if n.op == "random" and (training or n.attrs["kind"] != "dropout")]
    return sorted(found, key=lambda n: n.id)


def draw(
    kind: str, p: float, shape: Sequence[int], dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """`normal` N(0, 1), `uniform` U[0, 1), or `dropout`: 0 with probability p, else 1/(1 - p)."""
    if kind == "normal":
        return torch.randn(shape, dtype=dtype, device=device)
    if kind == "uniform":
        return torch.rand(shape, dtype=dtype, device=device)
    if p >= 1:
        return torch.zeros(shape, dtype=dtype, device=device)
    kept = torch.rand(shape, dtype=torch.float32, device=device) >= p
    return kept.to(dtype) * (1 / (1 - p))
