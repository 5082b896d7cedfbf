"""In-place writes are visible through every name and view, as in torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import graphnn as gn
from graphnn import errors
from tests.tracing.eager import BACKENDS, Cell, agree


def through_another_name(self: Any, x: Any, h: Any) -> Any:
    y = self.a(x)
    same = y
    y += h
    return same, torch.tanh(same)


def through_a_slice(self: Any, x: Any, h: Any) -> Any:
    y = self.a(x) + h
    first = y[:2]
    F.relu(y, inplace=True)
    return torch.cat([first, first]), torch.tanh(y)


def into_a_slice(self: Any, x: Any, h: Any) -> Any:
    y = self.a(x) + h
    part = y[1:3]
    part.mul_(2).add_(1)
    return y, torch.tanh(y)


def into_a_view_of_a_view(self: Any, x: Any, h: Any) -> Any:
    y = self.a(x) + h
    rows = y.view(2, 2)
    columns = rows.t()
    columns[0] = 0.5
    rows[0, 1] *= 3
    return y + columns.reshape(-1), torch.tanh(y)


def by_index(self: Any, x: Any, h: Any) -> Any:
    y = self.a(x) + h
    y[0] = 1.0
    y[1:3] = h[:2]
    y[-1] += x[0]
    y[y > 0.9] = 0.9
    return y, torch.tanh(y)


def into_a_constant(self: Any, x: Any, h: Any) -> Any:
    out = torch.zeros(4, dtype=x.dtype)
    scale = torch.ones(4, dtype=x.dtype)
    scale[1] = 2.0
    out[0] = x[1]
    out[2:] = h[:2]
    return out * scale + self.a(x), torch.tanh(out + h)


def constants_as_they_were(self: Any, x: Any, h: Any) -> Any:
    scale = torch.ones(4, dtype=x.dtype)
    before = self.a(x) + scale
    scale.mul_(3)
    return before + scale, torch.tanh(before + h)


def by_positional_inplace(self: Any, x: Any, h: Any) -> Any:
    y = self.a(x) + h
    same = y
    F.elu(y, 1.0, True)
    z = self.a(h) + same
    kept = z[1:]
    nn.Hardtanh(-0.5, 0.5, inplace=True)(z)
    return same, torch.tanh(torch.cat([z[:1], kept]))


def on_a_copy(self: Any, x: Any, h: Any) -> Any:
    y = h.clone()
    y.add_(x).clamp_(-1, 1)
    z = h.detach().clone()
    z.zero_()
    return self.a(y) + z + h, torch.tanh(y)


def filled(self: Any, x: Any, h: Any) -> Any:
    y = self.a(x)
    kept = y * 2
    y.fill_(0.25)
    z = torch.empty_like(y)
    z.copy_(h)
    return kept + y + z, torch.tanh(kept + z)


def unbound(self: Any, x: Any, h: Any) -> Any:
    y = self.a(x) + h
    first, last = y[0], y.select(0, 3)
    y += 1
    b = y.narrow(0, 2, 2)
    b.exp_()
    return y + first + last, torch.tanh(torch.cat([b, y[:2]]))


def input_in_place(self: Any, x: Any, h: Any) -> Any:
    view = x[1:]
    x.relu_()
    return torch.cat([x[:1], view]) + self.a(h), torch.tanh(h + x)


def copies(self: Any, x: Any, h: Any) -> Any:
    y = self.a(x) + h
    chosen = y[[0, 2]]
    chosen += 10
    turned = y.view(2, 2).t().reshape(4)
    turned *= 10
    flat = y.view(2, 2).t().flatten()
    flat.relu_()
    spread = y[None].expand(2, 4).reshape(-1)
    spread.zero_()
    whole = y.view(2, 2).t().contiguous()
    whole.neg_()
    return y + chosen.sum() + turned + flat, torch.tanh(y + spread[:4] + whole.reshape(-1))


def no_copies(self: Any, x: Any, h: Any) -> Any:
    y = self.a(x) + h
    wide = y.double()
    wide *= 2
    F.dropout(y, 0.5, False).add_(0.3)
    (+y).add_(0.5)
    y.positive().mul_(0.9)
    y.to(x).sub_(0.1)
    torch.atleast_1d(y).mul_(1.1)
    nn.Dropout(0.0)(y).add_(0.2)
    torch.broadcast_tensors(y, h)[0].mul_(0.7)
    y.flatten().add_(0.1)
    return y, torch.tanh(y)


def views_of_constants(self: Any, x: Any, h: Any) -> Any:
    out = torch.zeros(4, dtype=x.dtype)
    out.view_as(x).copy_(x)
    table = torch.ones(2, 2, dtype=x.dtype)
    table.reshape_as(self.a(h).view(2, 2)).mul_(h[0])
    return out + self.a(h), torch.tanh(table.reshape(-1) + h)


def unrecorded(self: Any, x: Any, h: Any) -> Any:
    y = self.a(x) + h
    with torch.no_grad():
        y.clamp_(max=0.5)
        y[1:].mul_(0.5)
    z = self.a(h) * 1
    z.data[0] = 0.25
    b = z.detach()
    b[1] = 0.5
    return y * y + z, torch.tanh(y + z)


RUNS = [
    copies,
    no_copies,
    unrecorded,
    views_of_constants,
    through_another_name,
    through_a_slice,
    into_a_slice,
    into_a_view_of_a_view,
    by_index,
    into_a_constant,
    constants_as_they_were,
    by_positional_inplace,
    on_a_copy,
    filled,
    unbound,
    input_in_place,
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("run", RUNS)
def test_in_place(run: Any, backend: str) -> None:
    torch.manual_seed(0)
    agree(Cell(run, 4, a=nn.Linear(4, 4)), backend)


def test_the_callers_tensor_is_left_alone() -> None:
    model, x = gn.compile(Cell(input_in_place, 4, a=nn.Linear(4, 4))), torch.randn(1, 2, 4)
    before = x.clone()
    model(x=x)
    assert torch.equal(x, before)


def a_state(self: Any, x: Any, h: Any) -> Any:
    h.add_(1)
    return h, h


def a_view_of_a_state(self: Any, x: Any, h: Any) -> Any:
    h[:2].add_(1)
    return h, h


def a_parameter(self: Any, x: Any, h: Any) -> Any:
    self.a.weight.mul_(2)
    return h, h


def a_buffer(self: Any, x: Any, h: Any) -> Any:
    self.seen.mul_(0.9)
    return x * self.seen, h


def a_buffer_given_back(self: Any, x: Any, h: Any) -> Any:
    c = self.seen.float()
    c += 1
    return x * self.seen, h


def a_parameter_given_back(self: Any, x: Any, h: Any) -> Any:
    with torch.no_grad():
        self.a.weight.float().mul_(0.5)
    return self.a(x), h


def an_expanded_value(self: Any, x: Any, h: Any) -> Any:
    y = (x + h)[:1].expand(4)
    y.add_(1)
    return y, h


def an_out(self: Any, x: Any, h: Any) -> Any:
    torch.add(x, h, out=x)
    return x, h


def a_view_of_a_constant(self: Any, x: Any, h: Any) -> Any:
    table = torch.zeros(2, 4)
    row = table[0]
    row[1] = x[0]
    return table[0], h


def another_dtype(self: Any, x: Any, h: Any) -> Any:
    y = (x * 0).long()
    y.add_(x)
    return y, h


@pytest.mark.parametrize(
    "run",
    [
        a_state,
        a_view_of_a_state,
        a_parameter,
        a_buffer,
        a_buffer_given_back,
        a_parameter_given_back,
        an_expanded_value,
        an_out,
        a_view_of_a_constant,
        another_dtype,
    ],
)
def test_what_cannot_be_changed(run: Any) -> None:
    net = Cell(run, 4, a=nn.Linear(4, 4))
    net.register_buffer("seen", torch.ones(4))
    with pytest.raises(errors.GraphnnError) as caught:
        gn.compile(net)
    assert "test_inplace.py" in str(caught.value)
