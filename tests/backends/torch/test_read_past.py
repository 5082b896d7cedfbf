"""Products of 16-bit numbers on a CPU do not come near memory that nothing has written.

`torch.mm` in bfloat16 on a CPU with AMX (oneDNN 3.12) reads past the end of strided rows of 33, 34,
35 or 63 elements, and multiplies what it finds by zero: NaN beside a row makes the row NaN. Here
each product is watched, since few CPUs have AMX.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

import graphnn as gn
from graphnn.backends.torch.runtime import buffers
from tests.backends.triton.cells import Sizes, inputs, network

# how many elements behind a row may be read: up to a whole tile of AMX
TILE = 32
PRODUCTS = [
    *((torch, name) for name in ("mm", "addmm", "bmm", "baddbmm", "matmul")),
    (torch.Tensor, "addmm_"),
    (torch.nn.functional, "linear"),
]


class Watch:
    """Notes products one of whose operands has NaN behind its rows."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.products, self.faults = 0, list[str]()
        for place, name in PRODUCTS:
            patch.setattr(place, name, self._watched(getattr(place, name)))

    def _watched(self, product: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            operands = [x for x in args if _is_plain(x)]
            self.products += bool(operands)
            for x in operands:
                if _behind(x).isnan().any():
                    self.faults.append(f"{product}: {tuple(x.shape)} of strides {x.stride()}")
            return product(*args, **kwargs)

        return run


def _is_plain(x: Any) -> bool:
    """Whether this is a tensor with numbers, not one of the planner's, which have shapes only."""
    return isinstance(x, torch.Tensor) and x.device.type == "cpu" and x.is_floating_point()


def _behind(x: torch.Tensor) -> torch.Tensor:
    """What lies behind the rows of a matrix, to the end of a tile."""
    x = x.mT if x.ndim > 1 and x.stride(-1) != 1 else x
    if x.ndim < 2 or x.stride(-1) != 1 or x.stride(-2) <= x.shape[-1]:
        return x.new_empty(0)
    more = -x.shape[-1] % TILE
    end = x.storage_offset() + sum((n - 1) * s for n, s in zip(x.shape, x.stride(), strict=True))
    left = x.untyped_storage().nbytes() // x.element_size() - end - 1
    count = max(0, min(more, left))
    where = x.storage_offset() + x.shape[-1]
    return torch.as_strided(x.detach(), (*x.shape[:-1], count), x.stride(), where)


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Uninitialised memory is NaN, and buffers of any size are kept for the next call."""
    empty = torch.empty

    def filled(*args: Any, **kwargs: Any) -> torch.Tensor:
        made = empty(*args, **kwargs)
        return made.fill_(float("nan")) if made.is_floating_point() else made

    monkeypatch.setattr(torch, "empty", filled)
    monkeypatch.setattr(buffers, "SMALLEST", 0)
    monkeypatch.setattr(buffers, "_POOL", {})
    yield


@pytest.mark.parametrize("hidden", [33, 34, 35, 63])
@pytest.mark.parametrize("name", ["gru_before", "gru_before_both_ways", "lstm", "delayed"])
def test_nothing_unwritten_lies_behind_the_rows_of_a_product(name, hidden, poisoned, monkeypatch):
    net = network(name, hidden).bfloat16()
    given = inputs(net, Sizes(17, 2, hidden), torch.float64, "cpu")
    given = {k: v.detach().bfloat16().requires_grad_() for k, v in given.items()}
    model = gn.compile(net, backend="torch", skip=("match",))
    watch = Watch(monkeypatch)
    for _ in range(2):  # the second call uses the buffers of the first
        y = model(**given)
        results = [*y.values()] if isinstance(y, dict) else [y]
        loss = sum(r.float().square().sum() for r in results)
        torch.autograd.grad(loss, [*given.values(), *model.parameters()])
    assert watch.products > 7
    assert watch.faults == []


def test_the_watch_sees_what_lies_behind_a_row(monkeypatch):
    kept = torch.full((3, 40), float("nan"), dtype=torch.bfloat16)
    kept[:, :33] = 1
    watch = Watch(monkeypatch)
    torch.mm(kept[:, :33], torch.ones(33, 4, dtype=torch.bfloat16))
    assert len(watch.faults) == 1
