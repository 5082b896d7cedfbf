"""Horizontal fusion: many small operations on one value become one large operation.

Linear maps of one value become one matmul, for example one for four gates. Then pointwise
operations on neighbouring slices of the same values become one operation on the longer slice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from graphnn.ir.graph import IR, Node
from graphnn.ops.builder import Expr, make
from graphnn.ops.matmul import split_sub
from graphnn.ops.registry import OPS
from graphnn.planner.algebra.simplify import simplify
from graphnn.planner.core.gradient_paths import outputs_reached
from graphnn.planner.core.regions import loop_numbers
from graphnn.planner.core.rewrite import rewrite, tidy

Group = list[Node]
ROUNDS = 8


def fuse_horizontal(ir: IR, derived: bool = False) -> IR:
    """Fuse matmuls, then the pointwise operations that become neighbours by it.

    Nodes that feed different outputs are not fused. A loss may read one output only; a weight that
    only another output needs must then have the gradient None, not zeros. If `derived`, the graph
    is a backward, which is not differentiated, so this does not matter.
    """
    feeds = (lambda ir: {}) if derived else outputs_reached
    ir = _apply(tidy(ir), _matmul_key, _join_matmuls, feeds)
    for _ in range(ROUNDS):
        before = len(ir)
        ir = simplify(_apply(tidy(ir), _slice_key, _join_slices, feeds))
        if len(ir) >= before:
            break
    return ir


def _apply(
    ir: IR,
    key: Callable[[IR, Node], Any],
    join: Callable[[IR, Callable[[int], Expr], Group], dict[int, Expr]],
    feeds: Callable[[IR], Mapping[int, frozenset[str]]],
) -> IR:
    """Join nodes with equal keys that feed the same outputs, at the position of the first."""
    home, fed = loop_numbers(ir), feeds(ir)
    groups: dict[Any, Group] = {}
    for node in ir:
        found = key(ir, node)
        if found is not None:
            groups.setdefault((home.get(node.id), fed.get(node.id), found), []).append(node)
    member = {n.id: group for group in groups.values() if len(group) > 1 for n in group}
    done: dict[int, Expr] = {}
    moved: dict[int, int] = {}

    def rule(new: IR, node: Node) -> Expr | None:
        if node.id in member and node.id not in done:
            done.update(join(ir, lambda i: Expr(new, moved[i]), member[node.id]))
        return done.get(node.id)

    return rewrite(ir, rule, moved)


def _matmul_key(ir: IR, node: Node) -> Any:
    """A key for linear maps x Wᵀ of one value, whose outputs can be concatenated.

    A value without axes is excluded: it stands among the weights, which may come after it.
    """
    if node.op != "einsum" or node.attrs["contract"] or not ir[node.inputs[0]].axes:
        return None
    weight = ir[node.inputs[1]]
    left, right, out = split_sub(node.attrs["sub"])
    free = [c for c in right if c not in left]
    if weight.axes or len(free) != 1 or right[0] != free[0] or out[-1] != free[0]:
        return None
    return (node.inputs[0], node.attrs["sub"], weight.shape[1:], weight.dtype)


def _join_matmuls(ir: IR, at: Callable[[int], Expr], group: Group) -> dict[int, Expr]:
    users = ir.users()
    # gates with the same activation stand side by side, so that it becomes one call
    group = sorted(group, key=lambda n: _activation(ir, users, n))
    weights = [at(n.inputs[1]) for n in group]
    joined = make("cat", *weights, dim=0, name="")
    whole = make(
        "einsum", at(group[0].inputs[0]), joined, sub=group[0].attrs["sub"], contract=frozenset()
    )
    return _slices(whole, [(n.id, w.shape[0]) for n, w in zip(group, weights, strict=True)])


def _activation(ir: IR, users: dict[int, list[int]], node: Node) -> str:
    """The first operation after a linear map that is not a sum."""
    while len(users[node.id]) == 1:
        node = ir[users[node.id][0]]
        if node.op != "add":
            return node.op
    return ""


def _slices(whole: Expr, sizes: list[tuple[int, int]]) -> dict[int, Expr]:
    dim, start, parts = len(whole.shape) - 1, 0, {}
    for i, size in sizes:
        name = whole.ir.here[0]
        parts[i] = make("slice", whole, dim=dim, start=start, stop=start + size, step=1, name=name)
        start += size
    return parts


def _last_slice(node: Node) -> tuple[int, int] | None:
    a = node.attrs
    if node.op == "slice" and a["dim"] == len(node.shape) - 1 and a["step"] == 1:
        return a["start"], a["stop"]
    return None


def _slice_key(ir: IR, node: Node) -> Any:
    """A key for pointwise operations on slices with equal bounds; their weights may differ."""
    if OPS[node.op].family != "pointwise" or node.op == "detach" or not node.shape:
        return None
    shape, place = node.shape, None
    described: list[tuple[str, object]] = []
    for x in ir.operands(node):
        span = _last_slice(x)
        if span is not None and x.shape == shape and x.axes:
            if place not in (None, span):
                return None
            place = span
            described.append(("slice", x.inputs[0]))
        elif x.op == "const":
            described.append(("const", x.id))
        elif not x.axes and x.shape == shape[-1:]:
            described.append(("weight", x.dtype))
        else:
            return None
    if place is None:
        return None
    attrs = tuple(sorted(node.attrs.items(), key=str))
    return (node.op, tuple(described), attrs, len(shape))


def _span(ir: IR, node: Node) -> tuple[int, int]:
    spans = (_last_slice(x) for x in ir.operands(node) if x.axes and x.shape == node.shape)
    return next(s for s in spans if s is not None)


def _join_slices(ir: IR, at: Callable[[int], Expr], group: Group) -> dict[int, Expr]:
    """Make one operation for each run of neighbouring slices."""
    ordered = sorted(group, key=lambda n: _span(ir, n))
    done: dict[int, Expr] = {}
    run: Group = []
    for node in [*ordered, None]:
        if run and (node is None or _span(ir, run[-1])[1] != _span(ir, node)[0]):
            if len(run) > 1:
                done.update(_join_run(ir, at, run))
            run = []
        if node is not None:
            run.append(node)
    return done


def _join_run(ir: IR, at: Callable[[int], Expr], run: Group) -> dict[int, Expr]:
    start, stop = _span(ir, run[0])[0], _span(ir, run[-1])[1]
    operands: list[Expr] = []
    for position, x in enumerate(ir.operands(run[0])):
        if x.op == "const":
            operands.append(at(x.id))
        elif not x.axes:
            parts = [at(n.inputs[position]) for n in run]
            operands.append(make("cat", *parts, dim=0, name=""))
        else:
            base = at(x.inputs[0])
            dim = len(base.shape) - 1
            whole = (start, stop) == (0, base.shape[dim])
            operands.append(
                base
                if whole
                else make("slice", base, dim=dim, start=start, stop=stop, step=1, name="")
            )
    merged = make(run[0].op, *operands, **run[0].attrs)
    return _slices(merged, [(n.id, n.shape[-1]) for n in run])
