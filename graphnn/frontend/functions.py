"""The functions of the vocabulary that torch lacks: everything over a named axis, and the idioms.

All take values; `over` names the axis. Positions beyond an example's length take no part.
"""

# mypy: disable-error-code="override,assignment,return-value"
from __future__ import annotations

import string
from typing import Any

import torch

from graphnn.errors import AxisError, DtypeError, GraphError, ShapeError
from graphnn.frontend.graph import Graph
from graphnn.frontend.names import graph_of
from graphnn.frontend.value import Value
from graphnn.ir.dtypes import least
from graphnn.ir.graph import Axis
from graphnn.ir.source_location import user_site
from graphnn.ops.builder import Expr, make
from graphnn.ops.matmul import einsum
from graphnn.ops.registry import OPS
from graphnn.ops.sources import index_of
from graphnn.tracing.effects import random
from graphnn.tracing.effects.symbolic import GraphLike


def _graph(v: Value) -> Graph:
    return v.graph  # type: ignore[return-value]


def _expr(v: Value) -> Expr:
    return Expr(v.graph.ir, v.id)


def _need_axis(v: Value, axis: str) -> None:
    if axis not in v.graph.ir.axes:
        v.graph.missing_axis(axis)
    if axis not in v.axes:
        raise AxisError(
            f"'{v.label}' does not vary over '{axis}'",
            node=v.label,
            site=user_site(),
            got=f"axes {v.axes}",
            wanted=f"a value with the axis '{axis}'",
            fix="name one of its axes, or combine it with a value that has this one",
        )


def _over(op: str, v: Value, axis: str, **attrs: Any) -> Value:
    _need_axis(v, axis)
    v.graph.ir.here = ("", user_site())
    result = make(op, _expr(v), *_graph(v).ragged(axis), axis=axis, **attrs)
    v.graph.ir.here = ("", None)
    return _made(v.graph, result)


def _made(graph: GraphLike, x: Expr) -> Value:
    """A value that a function makes: without gradients under `torch.no_grad()`."""
    still = graph.context.detached and (x.dtype.is_floating_point or x.dtype.is_complex)
    return Value(graph, make("detach", x).id if still else x.id)


def softmax(v: Value, over: str) -> Value:
    """Soft choice along an axis: non-negative, sums to one over each example's positions.

    Raises AxisError, and DtypeError for whole numbers, as torch does.
    """
    if not v.dtype.is_floating_point:
        raise DtypeError(
            "gn.softmax needs floating-point scores",
            node=v.label,
            site=user_site(),
            got=v.dtype,
            wanted="a floating dtype",
            fix="cast them: gn.softmax(v.float(), over=…)",
        )
    return _over("axis_softmax", v, over)


def sum(v: Value, over: str) -> Value:
    """Sum along an axis."""
    return _over("axis_sum", v, over)


def mean(v: Value, over: str) -> Value:
    """Mean along an axis, over the positions each example has (zero where it has none)."""
    total = sum(v, over)
    count = torch.clamp(length(over, graph=_graph(v)), min=1).type_as(v)
    return total / count.reshape((1,) * total.ndim)


def max(v: Value, over: str) -> Value:
    """Largest along an axis."""
    return _over("axis_max", v, over)


def logsumexp(v: Value, over: str) -> Value:
    """log Σ exp along an axis."""
    return _over("axis_logsumexp", v, over)


def entropy(v: Value, over: str) -> Value:
    """-Σ v log v along an axis, of weights that sum to one; a weight of zero adds nothing, and no
    gradient flows to it."""
    return -sum(v * torch.log(torch.where(v > 0, v, 1.0)), over)


def argmax(v: Value, over: str) -> Value:
    """Position of the largest along an axis (int64; the first of equals)."""
    return _over("axis_argmax", v, over)


def last(v: Value, over: str) -> Value:
    """The value at each example's last position (zero where it has none)."""
    return _over("axis_at", v, over, position=-1)


def first(v: Value, over: str) -> Value:
    """The value at the first position (zero where an example has none)."""
    return _over("axis_at", v, over, position=0)


def top(v: Value, k: int, over: str) -> Value:
    """True at the `k` largest along an axis (bool; ties go to the earlier position)."""
    return _over("axis_top", v, over, k=k)


def reverse(v: Value, over: str) -> Value:
    """The same positions in reverse order, within each example's length."""
    return _over("axis_reverse", v, over)


def roll(v: Value, shift: int, over: str) -> Value:
    """Circular shift along an axis: the value at position i moves to i + shift."""
    return _over("axis_roll", v, over, shift=shift)


def _current(graph: Graph | None) -> Graph:
    found = graph or Graph.current()
    if found is None:
        raise GraphError(
            "there is no graph being built",
            site=user_site(),
            fix="call this while building a graph, or pass graph=g",
        )
    return found


def index(axis: str, graph: Graph | None = None) -> Value:
    """The position along an axis: 0, 1, 2 … (int64, shape ())."""
    g = _current(graph)
    if axis not in g.ir.axes:
        g.missing_axis(axis)
    return Value(g, index_of(g.ir, axis).id)


def length(axis: str, graph: Graph | None = None) -> Value:
    """How many positions each example has along an axis (int64, shape ())."""
    g = _current(graph)
    return Value(g, g.length(axis).id)


def rename(v: Value, **axes: str) -> Value:
    """`rename(v, time="past")`: the same values over a second copy of an axis."""
    ir = v.graph.ir
    for old, new in axes.items():
        _need_axis(v, old)
        if new in v.axes:
            raise AxisError(
                f"'{v.label}' varies over '{new}' already",
                node=v.label,
                site=user_site(),
                got=f"rename {old} -> {new}",
                wanted="a name the value does not have",
                fix="choose another name for the copy",
            )
        root = ir.axes[old].copy_of or old
        present = ir.axes.get(new)
        if present is not None and new != root and present.copy_of != root:
            raise AxisError(
                f"axis '{new}' exists and is no copy of '{old}'",
                node=v.label,
                site=user_site(),
                got=f"rename {old} -> {new}",
                wanted=f"a new name, or an earlier copy of '{root}'",
                fix="choose another name for the copy",
            )
        if present is None:
            ir.axes[new] = Axis(new, ir.axes[root].length, copy_of=root, site=user_site())
    ir.here = ("", user_site())
    return _made(v.graph, make("rename", _expr(v), axes=dict(axes)))


def along(tensor: Value | torch.Tensor, axis: str, graph: Graph | None = None) -> Value:
    """A parameter or tensor whose first dimension is an axis: (n, *shape) becomes (*shape) over it.

    The axis must have been declared with that length (`g.axis`). The result has no batch.
    """
    g = _graph(tensor) if isinstance(tensor, Value) else _current(graph)
    v = g.value(tensor)
    if axis not in g.ir.axes:
        g.missing_axis(axis)
    declared = g.ir.axes[axis].length
    if not v.shape or v.axes or declared not in (None, v.shape[0]):
        raise ShapeError(
            f"this tensor cannot lie along '{axis}'",
            node=v.label,
            site=user_site(),
            got=f"shape {tuple(v.shape)}, axes {v.axes}",
            wanted=f"a first dimension of {declared}, and no axes yet",
            fix=f"declare g.axis('{axis}', {v.shape[0] if v.shape else 'n'})",
        )
    return _made(g, make("along", _expr(v), axis=axis))


def dot(a: Value, b: Value) -> Value:
    """Dot product over the last dimension; leading dimensions match."""
    graph = graph_of((a, b), {})
    a, b = graph.value(a), graph.value(b)
    random.meet(graph, (a.id, b.id))
    x, y = _expr(a), _expr(b)
    if x.shape != y.shape or not x.shape:
        raise ShapeError(
            "gn.dot needs two values of one shape",
            site=user_site(),
            got=f"{x.shape} and {y.shape}",
            wanted="equal shapes with at least one dimension",
            fix="reshape or map one of them first",
        )
    lead = string.ascii_lowercase[: len(x.shape) - 1]
    graph.ir.here = ("", user_site())
    return _made(graph, einsum(f"{lead}z,{lead}z->{lead}", x, y))


def cosine(a: Value, b: Value, eps: float = 1e-8) -> Value:
    """Cosine of the angle over the last dimension; each norm is at least `eps`, and in float16 at
    least 0.0078, the root of its smallest normal number."""

    def norm(v: Value) -> Any:
        squares = dot(v, v)
        return torch.sqrt(torch.clamp(squares, min=least(squares.dtype, eps * eps)))

    return dot(a, b) / (norm(a) * norm(b))


def clip_gradient(v: Value, bound: float) -> Value:
    """`v`, whose gradient is clamped elementwise to [-bound, bound]."""
    v.graph.ir.here = ("", user_site())
    return _made(v.graph, make("clip_gradient", _expr(v), bound=float(bound)))


def delay(v: Value, steps: int = 1, over: str = "time", init: Any = None) -> Value:
    """`v` of `steps` positions ago (ahead, where negative); `init` as in `g.state`."""
    _need_axis(v, over)
    if steps == 0:
        return v
    carried = [a for a in v.axes if a != over]
    name = _graph(v).unique(f"delay({v.label})")
    stated = None if v.dtype == _graph(v).dtype else v.dtype
    state = _graph(v).state(name, tuple(v.shape), over, carried, init, steps, stated)
    state.next = v
    return _made(v.graph, Expr(v.graph.ir, state.id))


def until(condition: Value, over: str) -> None:
    """Stop the loop along `over`, for each example, after the first step where this holds.

    Positions beyond take no part in reductions, `gn.last` gives the value at the last step taken,
    and `gn.length(over)` says how many steps that was. The axis's length is the most it may take.
    Call it before reducing over the axis.
    """
    _need_axis(condition, over)
    g, site = _graph(condition), user_site()
    if condition.dtype != torch.bool or condition.shape != ():
        raise DtypeError(
            "gn.until needs one truth value at each position",
            node=condition.label,
            site=site,
            got=f"{condition.dtype} of shape {tuple(condition.shape)}",
            wanted="torch.bool of shape ()",
            fix="compare: gn.until(total > 0.99, over=…)",
        )
    reads = [n for n in g.ir if n.attrs.get("axis") == over and OPS[n.op].family == "axis"]
    if over in g.ir.until or over in g._lengths or reads:
        early = f", after {reads[0].label} at {reads[0].site}" if reads else ""
        raise AxisError(
            f"gn.until comes too late: '{over}' was reduced over, or stopped, before",
            node=condition.label,
            site=site,
            got=f"a stop condition for '{over}'{early}",
            wanted="one gn.until an axis, before any reduction over it",
            fix="move gn.until up to where the condition is computed",
        )
    others = [a for a in condition.axes if a != over]
    alive = g.state(g.unique(f"running({over})"), (), over, others, True, dtype=torch.bool)
    alive.next = alive & ~condition
    g.ir.until[over] = alive.id
    count = make("axis_sum", make("cast", _expr(alive), dtype=torch.int64), axis=over)
    g._lengths[over] = count.id
