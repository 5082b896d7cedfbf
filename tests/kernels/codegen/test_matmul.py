"""Which parts of a product are joined, and that joined or apart the numbers are the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import graphnn as gn
from bench.networks import GRU as GRUCell
from bench.networks import LSTM as LSTMCell
from bench.networks import Cell, Layer, ResetBeforeGRU, TwoSpeeds
from graphnn.kernels.codegen.persistent import emit
from graphnn.kernels.ir.printer import COLUMNS
from tests.kernels.emitted import Over, sources


class Parts(Cell):
    """A state that as many parts of one product make, each in its own way."""

    def __init__(self, size: int, parts: int):
        super().__init__(size)
        self.parts = parts
        self.w = nn.Linear(2 * size, parts * size)

    def cell(self, x: Any, *states: Any) -> tuple[Any, ...]:
        total, *rest = self.w(torch.cat([x, states[0]], -1)).chunk(self.parts, -1)
        for k, part in enumerate(rest):
            total = torch.tanh(total) * torch.sigmoid(part - k)
        return (total,)


def layer_norm(size: int) -> nn.Module:
    return Over(gn.nn.LSTM(size, size, layer_norm=True), size)


def kinds(text: str) -> list[str]:
    return [line.split(" = ")[1].split("(")[0] for line in text.splitlines() if " = " in line]


def joined(net: nn.Module, join: bool = True) -> dict[str, int]:
    text = emit(sources(net)["saving"].program, join).text
    found = kinds(text)
    return {k: found.count(k) for k in ("matmul", "deinterleave4", "deinterleave2") if k in found}


@pytest.mark.parametrize(
    ("net", "found"),
    [
        (LSTMCell(64), {"matmul": 1, "deinterleave4": 1}),
        (LSTMCell(160), {"matmul": 4, "deinterleave4": 2}),
        (GRUCell(64), {"matmul": 1, "deinterleave4": 1}),
        (Parts(64, 2), {"matmul": 1, "deinterleave2": 1}),
        (Parts(64, 5), {"matmul": 2, "deinterleave4": 1}),
        (Parts(64, 8), {"matmul": 2, "deinterleave4": 2}),
        (Parts(1, 4), {}),
        (ResetBeforeGRU(64), {"matmul": 3}),
        (TwoSpeeds(64), {"matmul": 4}),
        (layer_norm(64), {"matmul": 4}),
    ],
    ids=["lstm", "lstm pieces", "gru", "2", "5", "8", "ones", "reset before", "mixed", "norm"],
)
def test_what_is_joined(net: nn.Module, found: dict[str, int]) -> None:
    assert joined(net) == found
    assert set(joined(net, join=False)) <= {"matmul"}


@pytest.mark.parametrize("join", [True, False])
@pytest.mark.parametrize(("size", "products"), [(16, 1), (9, 1), (48, 4)])
def test_few_columns_are_padded(size: int, products: int, join: bool) -> None:
    assert joined(Parts(size, 1), join) == {"matmul": products, "deinterleave2": 1}


def test_the_source_has_comments_on_joined_operands() -> None:
    text = sources(LSTMCell(20))["saving"].text
    assert ": one product, parts of 20 from 0, 20, 40, 60\n" in text
    assert "    # columns of 4 parts in turn, two of each\n" in text
    assert max(map(len, text.splitlines())) <= COLUMNS


@pytest.mark.parametrize("size", [3, 20, 40])
@pytest.mark.parametrize(
    "made", [LSTMCell, GRUCell, *(lambda n, k=k: Parts(n, k) for k in (2, 3, 5))]
)
def test_numbers_are_those_of_torch(made: Callable[[int], Layer | Cell], size: int) -> None:
    torch.manual_seed(size)
    net = made(size).double()
    x = torch.randn(3, 4, size, dtype=torch.float64, requires_grad=True)
    given = [x, *net.parameters()]
    results = []
    for backend, skip in (("interpret", ("fit",)), ("torch", ())):
        y = gn.compile(net, backend=backend, skip=skip)(x)
        results.append([y, *torch.autograd.grad((y * y.detach().cos()).sum(), given)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


class Cuts(nn.Module):
    """One weight that multiplies two values of 40 numbers, whose tiles end at 20 and at 24."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.r, self.s = nn.Linear(40, 40), nn.Linear(20, 24), nn.Linear(20, 16)

    def graph(self, g: gn.Graph) -> None:
        x = g.input("x", (40,), over="time")
        p, q, r, s = (g.state(k, (n,)) for k, n in zip("pqrs", (20, 20, 24, 16)))
        pq, rs = torch.sigmoid(torch.cat([p, q], -1)), torch.sigmoid(torch.cat([r, s], -1))
        y = torch.tanh(x + self.w(pq) + self.w(rs))
        p.next, q.next = y[..., :20], y[..., 20:]
        r.next, s.next = torch.tanh(self.r(p)), torch.tanh(self.s(q))
        g.output("y", y)


def test_tiles_of_one_weight_that_begin_together_and_end_apart() -> None:
    torch.manual_seed(0)
    net, x = Cuts().double(), torch.randn(3, 4, 40, dtype=torch.float64)
    found = [gn.compile(net, backend=b, skip=("fit",))(x) for b in ("interpret", "torch")]
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)
