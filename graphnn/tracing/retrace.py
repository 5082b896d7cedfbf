"""Retracing: a module whose trace changes its own attributes is traced again, and compared.

An attribute that only counts traces is allowed. One that the graph depends on would be frozen at
its first value, and is refused.
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
from graphnn.tracing.guards import PLAIN_TYPES, refuse_changed, user_classes


def compare(first: Any, source: nn.Module, trace: Callable[[], Any]) -> None:
    """Raise UnsupportedError if a second trace of a module differs from the first.

    The module's attributes stay as the first trace left them.
    """
    name, value = first.guards.changed[0]
    with _restored(source):
        try:
            second = trace()
        except GraphnnError as error:
            refuse_changed(name, value, error.site)
    if (other := _differing(first, second)) is not None:
        refuse_changed(name, value, other.site)


@contextmanager
def _restored(source: nn.Module) -> Iterator[None]:
    """Restore the attributes of modules afterwards, and the contents of containers and objects."""
    dicts = [m.__dict__ for m in source.modules()]
    parts = [p for d in dicts for p in (d, *(_contents(v) for v in d.values())) if p is not None]
    before = [(p, copy.copy(p)) for p in parts]
    classes = [(c, dict(c.__dict__)) for c in user_classes(source)]
    try:
        yield
    finally:
        for part, was in before:
            _restore(part, was)
        for owner, namespace in classes:
            for name in [n for n, v in namespace.items() if owner.__dict__.get(n) is not v]:
                setattr(owner, name, namespace[name])


def _restore(part: Any, was: Any) -> None:
    """Give a container the contents of its earlier copy."""
    if isinstance(part, dict):
        for key in part.keys() - was.keys():
            del part[key]
        part.update(was)
        return
    part.clear()
    (part.update if isinstance(part, set) else part.extend)(was)


def _contents(value: Any) -> Any:
    """The part of a value that may change in place: a container, or the dict of an object."""
    if isinstance(value, (list, dict, set, deque)):
        return value
    return None if isinstance(value, (nn.Module, type)) else getattr(value, "__dict__", None)


def _differing(first: Any, second: Any) -> Node | None:
    """The first node of a trace that differs in a second trace."""
    nodes, others = _used(first.ir), _used(second.ir)
    order = [{n.id: i for i, n in enumerate(nodes)} for nodes in (nodes, others)]
    for a, b in zip(nodes, others, strict=False):
        if _signature(first, a, order[0]) != _signature(second, b, order[1]) or not _equal(
            _constant(first, a), _constant(second, b)
        ):
            return a
        if not _equal(_attrs(a), _attrs(b)):
            return a
    if len(nodes) != len(others):
        return max(nodes, others, key=len)[-1]
    ends = [
        {k: at.get(i) for k, i in t.ir.outputs.items()}
        for t, at in zip((first, second), order, strict=True)
    ]
    return None if ends[0] == ends[1] else nodes[-1]


def _signature(traced: Any, node: Node, order: dict[int, int]) -> tuple[Any, ...]:
    """All of a node that must be equal in two traces, except for its attributes."""
    inputs = tuple(order[i] for i in node.inputs)
    closing = order.get(traced.ir.closings.get(node.id, -1))
    return node.op, inputs, closing, node.shape, node.axes, node.dtype


def _attrs(node: Node) -> dict[str, Any]:
    return {k: v for k, v in node.attrs.items() if node.op != "tensor" or k != "key"}


def _constant(traced: Any, node: Node) -> Any:
    return traced.constants[node.attrs["key"]] if node.op == "tensor" else None


def _used(ir: IR) -> list[Node]:
    """The nodes that outputs and stop conditions depend on, in order."""
    found: set[int] = set()
    left = [*ir.outputs.values(), *ir.until.values()]
    while left:
        i = left.pop()
        if i not in found:
            found.add(i)
            left += [*ir[i].inputs, *([ir.closings[i]] if i in ir.closings else [])]
    return [n for n in ir if n.id in found]


def _equal(a: Any, b: Any) -> bool:
    """Whether attributes of nodes are equal; of other objects only the types are compared."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return a is b or _equal_elements(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal(v, b[k]) for k, v in a.items())
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(_equal, a, b))
    return a == b if isinstance(a, (*PLAIN_TYPES, torch.dtype, frozenset)) else True


def _equal_elements(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    if not a.dtype.is_floating_point:
        return torch.equal(a, b)
    return torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(0.0), b.nan_to_num(0.0))
