"""again: draw a second time what changed its own attributes, and see that the graph is the same.

A counter that nothing hangs on may count drawings; one that the graph is made of would stand still.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from graphnn.errors import GraphnnError
from graphnn.ir.graph import IR, Node
from graphnn.tracing.guards import NUMBERS, refuse_changed, users_classes


def compare(first: Any, source: nn.Module, draw: Callable[[], Any]) -> None:
    """Refuse a module of which a second drawing differs from the first; its attributes stay as
    the first left them."""
    name, value = first.watch.changed[0]
    with _kept(source):
        try:
            second = draw()
        except GraphnnError as error:
            refuse_changed(name, value, error.site)
    if (other := _differing(first, second)) is not None:
        refuse_changed(name, value, other.site)


@contextmanager
def _kept(source: nn.Module) -> Iterator[None]:
    """Put attributes of modules, and what containers and objects among them hold, back."""
    dicts = [m.__dict__ for m in source.modules()]
    parts = [p for d in dicts for p in (d, *(_body(v) for v in d.values())) if p is not None]
    before = [(p, copy.copy(p)) for p in parts]
    classes = [(c, dict(c.__dict__)) for c in users_classes(source)]
    try:
        yield
    finally:
        for part, was in before:
            _put_back(part, was)
        for owner, held in classes:
            for name in [n for n, v in held.items() if owner.__dict__.get(n) is not v]:
                setattr(owner, name, held[name])


def _put_back(part: Any, was: Any) -> None:
    if isinstance(part, dict):
        for key in part.keys() - was.keys():
            del part[key]
        part.update(was)
        return
    part.clear()
    (part.update if isinstance(part, set) else part.extend)(was)


def _body(value: Any) -> Any:
    """What of a value may be changed in place: the container, or what the object holds."""
    if isinstance(value, (list, dict, set, deque)):
        return value
    return None if isinstance(value, (nn.Module, type)) else getattr(value, "__dict__", None)


def _differing(first: Any, second: Any) -> Node | None:
    """The first node of a drawing that is another in a second one."""
    ours, others = _used(first.ir), _used(second.ir)
    order = [{n.id: i for i, n in enumerate(nodes)} for nodes in (ours, others)]
    for a, b in zip(ours, others, strict=False):
        if _said(first, a, order[0]) != _said(second, b, order[1]) or not _equal(
            _constant(first, a), _constant(second, b)
        ):
            return a
        if not _equal(_attrs(a), _attrs(b)):
            return a
    if len(ours) != len(others):
        return max(ours, others, key=len)[-1]
    ends = [
        {k: at.get(i) for k, i in t.ir.outputs.items()}
        for t, at in zip((first, second), order, strict=True)
    ]
    return None if ends[0] == ends[1] else ours[-1]


def _said(drawn: Any, node: Node, order: dict[int, int]) -> tuple[Any, ...]:
    inputs = tuple(order[i] for i in node.inputs)
    closing = order.get(drawn.ir.closings.get(node.id, -1))
    return node.op, inputs, closing, node.shape, node.axes, node.dtype


def _attrs(node: Node) -> dict[str, Any]:
    return {k: v for k, v in node.attrs.items() if node.op != "tensor" or k != "key"}


def _constant(drawn: Any, node: Node) -> Any:
    return drawn.constants[node.attrs["key"]] if node.op == "tensor" else None


def _used(ir: IR) -> list[Node]:
    """The nodes that outputs and the ends of loops hang on, in order."""
    found: set[int] = set()
    left = [*ir.outputs.values(), *ir.until.values()]
    while left:
        i = left.pop()
        if i not in found:
            found.add(i)
            left += [*ir[i].inputs, *([ir.closings[i]] if i in ir.closings else [])]
    return [n for n in ir if n.id in found]


def _equal(a: Any, b: Any) -> bool:
    """Whether attributes of nodes say the same; objects of a drawing's own are alike in kind."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return a is b or _same_numbers(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal(v, b[k]) for k, v in a.items())
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(_equal, a, b))
    return a == b if isinstance(a, (*NUMBERS, torch.dtype, frozenset)) else True


def _same_numbers(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    if not a.dtype.is_floating_point:
        return torch.equal(a, b)
    return torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(0.0), b.nan_to_num(0.0))
