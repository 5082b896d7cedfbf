"""Random loops over two axes, as graphs and as plain torch loops.

A tensor has shape (example, unit, number), with one unit if it does not vary over `unit`. The same
instructions run on values of a graph (`Graph`) and on tensors (`Eager`).
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

import graphnn as gn

Kept = tuple[bool, int]  # whether a value varies over `unit`, and how many numbers it has
REDUCE = ("sum", "mean", "max", "logsumexp", "last", "softmax", "roll", "reverse")
WHOLE = frozenset(REDUCE[:5])


@dataclass
class Cell:
    """A loop over time: instructions (operation, operands, detail) and next values of states."""

    states: list[tuple[bool, int, int, float | None]] = field(default_factory=list)
    code: list[tuple[str, tuple[int, ...], int]] = field(default_factory=list)
    kinds: list[Kept] = field(default_factory=list)
    nexts: list[int] = field(default_factory=list)
    weights: list[tuple[int, ...]] = field(default_factory=list)
    outputs: list[tuple[str, int]] = field(default_factory=list)
    across: int | None = None


def drawn(seed: int) -> Cell:
    """The random cell of a seed."""
    r, cell = random.Random(seed), Cell()
    cell.kinds = [(True, 2), (False, 3)]  # the inputs: over time and unit, over time
    for _ in range(r.randint(1, 3)):
        kind = r.random() < 0.6, r.choice((1, 2, 3))
        cell.states.append((*kind, r.choice((1, 1, 2)), r.choice((None, 0.5))))
        cell.kinds.append(kind)
    _linear(cell, 0, 2)
    for _ in range(r.randint(3, 9)):
        _instruct(r, cell)
    for lane, n, *_ in cell.states:
        _close(r, cell, lane, n)
    count = len(cell.kinds)
    for how in r.sample(("all", "last", "sum"), r.randint(1, 3)):
        cell.outputs.append((how, r.randrange(2, count)))
    cell.outputs.append(("all", r.choice(cell.nexts)))
    if r.random() < 0.3:
        cell.across = r.randrange(2, count)
    return cell


def _put(cell: Cell, what: str, args: tuple[int, ...], detail: int, kind: Kept) -> int:
    cell.code.append((what, args, detail))
    cell.kinds.append(kind)
    return len(cell.kinds) - 1


def _linear(cell: Cell, i: int, n: int) -> int:
    cell.weights.append((n, cell.kinds[i][1]))
    return _put(cell, "linear", (i,), len(cell.weights) - 1, (cell.kinds[i][0], n))


def _instruct(r: random.Random, cell: Cell) -> None:
    count = len(cell.kinds)
    what = r.choice(("point", "point", "linear", "cat", "cat", "reduce", "slice", "outer", "cut"))
    i, j = r.randrange(count), r.randrange(count)
    lane = cell.kinds[i][0] or cell.kinds[j][0]
    a, b = cell.kinds[i][1], cell.kinds[j][1]
    if what == "linear":
        _linear(cell, i, r.choice((1, 2, 3)))
    elif what == "cat":
        k = r.randrange(count)
        lane = lane or cell.kinds[k][0]
        _put(cell, "cat", (i, j, k), 0, (lane, a + b + cell.kinds[k][1]))
    elif what == "reduce":
        wide = [k for k in range(count) if cell.kinds[k][0]]
        i, detail = r.choice(wide), r.randrange(len(REDUCE))
        kind = REDUCE[detail] not in WHOLE, cell.kinds[i][1]
        _put(cell, "reduce", (i,), detail, kind)
    elif what == "slice":
        cut = r.randint(1, a)
        _put(cell, "slice", (i,), cut, (cell.kinds[i][0], cut))
    elif what == "outer" and a * b <= 9:
        cut = r.randint(1, a * b)
        _put(cell, "outer", (i, j), cut, (lane, cut))
    else:
        _put(
            cell, "point", (i, j if b in (1, a) or a == 1 else i), r.randrange(3), _met(cell, i, j)
        )


def _met(cell: Cell, i: int, j: int) -> Kept:
    (x, a), (y, b) = cell.kinds[i], cell.kinds[j]
    return (x or y, max(a, b)) if b in (1, a) or a == 1 else (x, a)


def _close(r: random.Random, cell: Cell, lane: bool, n: int) -> None:
    """The next value of a state: of its width, over no more axes than it has."""
    fit = [k for k in range(len(cell.kinds)) if lane or not cell.kinds[k][0]]
    i = r.choice(fit[-4:])
    i = i if cell.kinds[i][1] == n and r.random() < 0.3 else _linear(cell, i, n)
    place = 2 + len(cell.nexts)
    if r.random() < 0.3:  # affine in the state: a scan, where nothing else moves
        gate = _linear(cell, r.choice((0, 1) if lane else (1,)), n)
        cell.nexts.append(_put(cell, "gated", (gate, place, i), 0, (lane, n)))
    else:
        cell.nexts.append(_put(cell, "point", (i, i), 0, (cell.kinds[i][0], n)))


def point(detail: int, a: object, b: object) -> object:
    """One of a few functions of two values."""
    if detail == 0:
        return torch.tanh(a + 0.5 * b)  # type: ignore[operator]
    return torch.sin(a) * b if detail == 1 else torch.sigmoid(a) - b  # type: ignore[call-overload]


def parameters(cell: Cell, seed: int) -> list[torch.Tensor]:
    """The weights of a cell."""
    made = torch.Generator().manual_seed(seed)
    return [(torch.randn(s, generator=made) * 0.5).double() for s in cell.weights]


def graph(cell: Cell, weights: list[torch.Tensor]) -> gn.Graph:
    """The cell as a graph."""
    g = gn.Graph("cell")
    x, y = g.input("x", (2,), over=("time", "unit")), g.input("y", (3,), over="time")
    w = [g.parameter(f"w{k}", v.float()) for k, v in enumerate(weights)]
    states = [
        g.state(f"z{k}", (n,), over="time", along="unit" if lane else (), delay=d, init=init)
        for k, (lane, n, d, init) in enumerate(cell.states)
    ]
    values = [x, y, *states]
    for what, args, detail in cell.code:
        values.append(_graphed(what, [values[i] for i in args], detail, w))
    for z, i in zip(states, cell.nexts, strict=True):
        z.next = values[i]
    for k, (how, i) in enumerate(cell.outputs):
        v = values[i]
        v = gn.last(v, "time") if how == "last" else gn.sum(v, "time") if how == "sum" else v
        g.output(f"o{k}", v)
    if cell.across is not None:
        v = values[cell.across]
        c = g.state("c", v.shape, over="unit", along="time")
        c.next = torch.tanh(v + 0.5 * c + torch.sum(x))
        g.output("across", c.next)
    return g


def _graphed(what, v, detail, w):  # type: ignore[no-untyped-def]
    if what == "linear":
        return F.linear(v[0], w[detail])
    if what == "cat":
        return torch.cat(v)
    if what == "slice":
        return v[0][:detail]
    if what == "outer":
        return torch.outer(v[0], v[1]).reshape(-1)[:detail]
    if what == "gated":
        return torch.sigmoid(v[0]) * v[1] + v[2]
    if what == "reduce":
        name = REDUCE[detail]
        more = {"shift": 1} if name == "roll" else {}
        return getattr(gn, name)(v[0], over="unit", **more)
    return point(detail, *v)


def _eagerly(what, v, detail, w):  # type: ignore[no-untyped-def]
    if what == "linear":
        return v[0] @ w[detail].t()
    if what == "cat":
        units = max(x.shape[1] for x in v)
        return torch.cat([x.expand(-1, units, -1) for x in v], -1)
    if what == "slice":
        return v[0][..., :detail]
    if what == "outer":
        return (v[0][..., :, None] * v[1][..., None, :]).flatten(-2)[..., :detail]
    if what == "gated":
        return torch.sigmoid(v[0]) * v[1] + v[2]
    if what == "reduce":
        return {
            "sum": lambda x: x.sum(1, keepdim=True),
            "mean": lambda x: x.mean(1, keepdim=True),
            "max": lambda x: x.amax(1, keepdim=True),
            "logsumexp": lambda x: x.logsumexp(1, keepdim=True),
            "last": lambda x: x[:, -1:],
            "softmax": lambda x: x.softmax(1),
            "roll": lambda x: x.roll(1, 1),
            "reverse": lambda x: x.flip(1),
        }[REDUCE[detail]](v[0])
    return point(detail, *v)


def eager(
    cell: Cell, w: list[torch.Tensor], x: torch.Tensor, y: torch.Tensor
) -> dict[str, torch.Tensor]:
    """The outputs of the cell, computed step by step in torch."""
    batch, steps, units, _ = x.shape
    past = []
    for lane, n, delay, init in cell.states:
        start = x.new_full((batch, units if lane else 1, n), init or 0.0)
        past.append([start] * delay)
    rows: list[list[torch.Tensor]] = []
    for t in range(steps):
        values = [x[:, t], y[:, t, None], *(p[t] for p in past)]
        for what, args, detail in cell.code:
            values.append(_eagerly(what, [values[i] for i in args], detail, w))
        for k, i in enumerate(cell.nexts):
            wide = past[k][0].shape
            past[k].append(values[i].expand(wide))
        rows.append(values)
    found = {}
    for k, (how, i) in enumerate(cell.outputs):
        line = torch.stack([r[i] for r in rows], 1)
        line = line[:, -1] if how == "last" else line.sum(1) if how == "sum" else line
        found[f"o{k}"] = line if cell.kinds[i][0] else line.squeeze(-2)
    if cell.across is not None:
        line = torch.stack([r[cell.across] for r in rows], 1).expand(-1, -1, units, -1)
        c, made = torch.zeros_like(line[:, :, 0]), []
        for u in range(units):
            c = torch.tanh(line[:, :, u] + 0.5 * c + x[:, :, u].sum(-1, keepdim=True))
            made.append(c)
        found["across"] = torch.stack(made, 2)
    return found
