"""Random numbers, drawn in the same way by every backend: one seed gives one result."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from graphnn.ir.graph import IR, Node

_COUNTED = [False]


@contextmanager
def by_counter() -> Iterator[None]:
    """Draw all noise by counter, as kernels do, so that every backend sees the same numbers.

    Otherwise only noise drawn inside kernels is counter-based. All other noise comes from torch's
    generators, the same for every backend, which are faster on a CPU.
    """
    before, _COUNTED[0] = _COUNTED[0], True
    try:
        yield
    finally:
        _COUNTED[0] = before


def new_seed(device: torch.device) -> torch.Tensor:
    """A seed, (1,) int64, from torch's generator: torch.manual_seed determines it."""
    return torch.randint(2**63 - 1, (1,), device=device)


def random_nodes(ir: IR) -> list[Node]:
    """The random nodes of a graph, in the order in which they are drawn."""
    return sorted((n for n in ir if n.op == "random"), key=lambda n: n.id)


def draw(
    kind: str, p: float, shape: Sequence[int], dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """`normal` N(0, 1), `uniform` U[0, 1), or `dropout`: 0 with probability p, else 1/(1 - p)."""
    if _COUNTED[0]:
        from graphnn.kernels.executors.named import executor_for
        from graphnn.kernels.runtime.random import random_tensor

        return random_tensor(new_seed(device), kind, p, shape, dtype, executor_for(device.type))
    if kind == "normal":
        return torch.randn(shape, dtype=dtype, device=device)
    if kind == "uniform":
        return torch.rand(shape, dtype=dtype, device=device)
    if p >= 1:
        return torch.zeros(shape, dtype=dtype, device=device)
    kept = torch.rand(shape, dtype=torch.float32, device=device) >= p
    return kept.to(dtype) * (1 / (1 - p))
