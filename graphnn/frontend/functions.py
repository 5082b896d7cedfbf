"""The functions that torch lacks: all that work along a named axis, and a few on single positions.

All of them take values of a graph; `over` names the axis. If lengths are given at the call,
positions beyond an example's length are left out.
"""

# mypy: disable-error-code="override,assignment,return-value"
from __future__ import annotations

import string
from typing import Any, cast

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
    return cast(Graph, v.graph)


def _expr(v: Value) -> Expr:
    return Expr(v.graph.ir, v.id)


def _check_axis(v: Value, axis: str) -> None:
    """Raise AxisError unless `v` varies over `axis`."""
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


def _along_axis(op: str, v: Value, axis: str, **attrs: Any) -> Value:
    """The operation `op` of the family "axis", applied to `v`."""
    _check_axis(v, axis)
    v.graph.ir.here = ("", user_site())
    result = make(op, _expr(v), *_graph(v).ragged(axis), axis=axis, **attrs)
    v.graph.ir.here = ("", None)
    return _result(v.graph, result)


def _result(graph: GraphLike, x: Expr) -> Value:
    """The value of an expression; under `torch.no_grad()` it carries no gradient."""
    detached = graph.context.detached and (x.dtype.is_floating_point or x.dtype.is_complex)
    return Value(graph, make("detach", x).id if detached else x.id)


def softmax(v: Value, over: str) -> Value:
    """Softmax along an axis: exp(v) / Σ exp(v) over each example's positions.

    The result has the shape, axes and dtype of `v` (floating point). Raises AxisError if `v` does
    not vary over the axis, and DtypeError if its dtype is not floating point.

    >>> g = gn.Graph()
    >>> x = g.input("x", over="time")
    >>> _ = g.output("p", gn.softmax(x, over="time"))
    >>> gn.compile(g)(torch.zeros(1, 4))
    tensor([[0.2500, 0.2500, 0.2500, 0.2500]])
    """
    if not v.dtype.is_floating_point:
        raise DtypeError(
            "gn.softmax needs floating-point scores",
            node=v.label,
            site=user_site(),
            got=v.dtype,
            wanted="a floating-point dtype",
            fix="cast the scores: gn.softmax(v.float(), over=…)",
        )
    return _along_axis("axis_softmax", v, over)


def sum(v: Value, over: str) -> Value:
    """Sum along an axis.

    The result has the shape of `v` and does not vary over the axis. It is 0 for an example without
    positions. Raises AxisError if `v` does not vary over the axis.

    >>> g = gn.Graph()
    >>> x = g.input("x", over="time")
    >>> _ = g.output("total", gn.sum(x, over="time"))
    >>> gn.compile(g)(torch.tensor([[1.0, 2.0, 3.0]]), lengths={"time": torch.tensor([2])})
    tensor([3.])
    """
    return _along_axis("axis_sum", v, over)


def mean(v: Value, over: str) -> Value:
    """Mean along an axis, over the positions that each example has.

    The result has the shape of `v` and does not vary over the axis. It is 0 for an example without
    positions. Raises AxisError if `v` does not vary over the axis.

    >>> g = gn.Graph()
    >>> x = g.input("x", over="time")
    >>> _ = g.output("mean", gn.mean(x, over="time"))
    >>> gn.compile(g)(torch.tensor([[1.0, 2.0, 9.0]]), lengths={"time": torch.tensor([2])})
    tensor([1.5000])
    """
    total = sum(v, over)
    count = torch.clamp(length(over, graph=_graph(v)), min=1).type_as(v)
    return total / count.reshape((1,) * total.ndim)


def max(v: Value, over: str) -> Value:
    """Maximum along an axis.

    The result has the shape and dtype of `v` and does not vary over the axis. Raises AxisError if
    `v` does not vary over the axis.

    >>> g = gn.Graph()
    >>> x = g.input("x", over="time")
    >>> _ = g.output("max", gn.max(x, over="time"))
    >>> gn.compile(g)(torch.tensor([[1.0, 5.0, 3.0]]))
    tensor([5.])
    """
    return _along_axis("axis_max", v, over)


def logsumexp(v: Value, over: str) -> Value:
    """log Σ exp(v) along an axis, computed without overflow.

    The result has the shape and dtype of `v` and does not vary over the axis. Raises AxisError if
    `v` does not vary over the axis.

    >>> g = gn.Graph()
    >>> x = g.input("x", over="time")
    >>> _ = g.output("y", gn.logsumexp(x, over="time"))
    >>> gn.compile(g)(torch.zeros(1, 2))
    tensor([0.6931])
    """
    return _along_axis("axis_logsumexp", v, over)


def entropy(v: Value, over: str) -> Value:
    """Entropy -Σ v log v along an axis, of weights that sum to 1 (Shannon 1948, in nats).

    A weight of 0 adds nothing, and no gradient flows to it. The result has the shape and dtype of
    `v` and does not vary over the axis. Raises AxisError if `v` does not vary over the axis.

    >>> g = gn.Graph()
    >>> p = g.input("p", over="time")
    >>> _ = g.output("bits", gn.entropy(p, over="time") / torch.log(torch.tensor(2.0)))
    >>> gn.compile(g)(torch.tensor([[0.5, 0.5, 0.0]]))
    tensor([1.])
    """
    return -sum(v * torch.log(torch.where(v > 0, v, 1.0)), over)


def argmax(v: Value, over: str) -> Value:
    """Position of the maximum along an axis; of equal values, the first.

    The result has the shape of `v`, dtype int64, and does not vary over the axis. Raises AxisError
    if `v` does not vary over the axis.

    >>> g = gn.Graph()
    >>> x = g.input("x", over="time")
    >>> _ = g.output("best", gn.argmax(x, over="time"))
    >>> gn.compile(g)(torch.tensor([[1.0, 5.0, 3.0]]))
    tensor([1])
    """
    return _along_axis("axis_argmax", v, over)


def last(v: Value, over: str) -> Value:
    """The value at each example's last position.

    The result has the shape and dtype of `v` and does not vary over the axis. It is 0 for an
    example without positions. Raises AxisError if `v` does not vary over the axis.

    >>> g = gn.Graph()
    >>> x = g.input("x", over="time")
    >>> _ = g.output("last", gn.last(x, over="time"))
    >>> gn.compile(g)(torch.tensor([[1.0, 2.0, 3.0]]), lengths={"time": torch.tensor([2])})
    tensor([2.])
    """
    return _along_axis("axis_at", v, over, position=-1)


def first(v: Value, over: str) -> Value:
    """The value at each example's first position.

    The result has the shape and dtype of `v` and does not vary over the axis. It is 0 for an
    example without positions. Raises AxisError if `v` does not vary over the axis.

    >>> g = gn.Graph()
    >>> x = g.input("x", over="time")
    >>> _ = g.output("first", gn.first(x, over="time"))
    >>> gn.compile(g)(torch.tensor([[1.0, 2.0, 3.0]]))
    tensor([1.])
    """
    return _along_axis("axis_at", v, over, position=0)


def top(v: Value, k: int, over: str) -> Value:
    """True at the `k` largest values along an axis; of equal values, the earlier come first.

    The result has the shape and axes of `v` and dtype bool. Raises AxisError if `v` does not vary
    over the axis.

    >>> g = gn.Graph()
    >>> x = g.input("x", over="time")
    >>> _ = g.output("best", gn.top(x, 2, over="time"))
    >>> gn.compile(g)(torch.tensor([[1.0, 5.0, 3.0]]))
    tensor([[False,  True,  True]])
    """
    return _along_axis("axis_top", v, over, k=k)


def reverse(v: Value, over: str) -> Value:
    """The same values in reverse order along an axis, within each example's length.

    The result has the shape, axes and dtype of `v`. Raises AxisError if `v` does not vary over the
    axis.

    >>> g = gn.Graph()
    >>> x = g.input("x", over="time")
    >>> _ = g.output("y", gn.reverse(x, over="time"))
    >>> gn.compile(g)(torch.tensor([[1.0, 2.0, 3.0]]))
    tensor([[3., 2., 1.]])
    """
    return _along_axis("axis_reverse", v, over)


def roll(v: Value, shift: int, over: str) -> Value:
    """Circular shift along an axis: the value at position i moves to position i + shift.

    The result has the shape, axes and dtype of `v`. The shift wraps around within each example's
    length. Raises AxisError if `v` does not vary over the axis.

    >>> g = gn.Graph()
    >>> x = g.input("x", over="time")
    >>> _ = g.output("y", gn.roll(x, 1, over="time"))
    >>> gn.compile(g)(torch.tensor([[1.0, 2.0, 3.0]]))
    tensor([[3., 1., 2.]])
    """
    return _along_axis("axis_roll", v, over, shift=shift)


def _given_or_current(graph: Graph | None) -> Graph:
    """`graph`, or the graph being built. Raises GraphError if there is none."""
    found = graph or Graph.current()
    if found is None:
        raise GraphError(
            "no graph is being built",
            site=user_site(),
            fix="call this while building a graph, or pass graph=g",
        )
    return found


def index(axis: str, graph: Graph | None = None) -> Value:
    """The position along an axis: 0, 1, 2 … (int64, shape ()).

    `graph` is the graph being built if not given. Raises AxisError if the graph has no such axis,
    and GraphError if no graph is being built.

    >>> g = gn.Graph()
    >>> x = g.input("x", over="time")
    >>> _ = g.output("y", x * gn.index("time"))
    >>> gn.compile(g)(torch.ones(1, 4))
    tensor([[0., 1., 2., 3.]])
    """
    g = _given_or_current(graph)
    if axis not in g.ir.axes:
        g.missing_axis(axis)
    return Value(g, index_of(g.ir, axis).id)


def length(axis: str, graph: Graph | None = None) -> Value:
    """The number of positions that each example has along an axis (int64, shape ()).

    `graph` is the graph being built if not given. Raises AxisError if the graph has no such axis,
    and GraphError if no graph is being built.

    >>> g = gn.Graph()
    >>> x = g.input("x", over="time")
    >>> _ = g.output("y", gn.sum(x, over="time") / gn.length("time"))
    >>> gn.compile(g)(torch.ones(2, 4), lengths={"time": torch.tensor([4, 1])})
    tensor([1., 1.])
    """
    g = _given_or_current(graph)
    return Value(g, g.length(axis).id)


def rename(v: Value, **axes: str) -> Value:
    """The same values over a copy of an axis, given as old="new".

    Each position can then be combined with every other position of the same axis. The result has
    the shape and dtype of `v`. Raises AxisError if `v` does not vary over the old axis, if it
    varies over the new one, or if the new name belongs to an axis that is not a copy.

    >>> g = gn.Graph()
    >>> x = g.input("x", over="time")
    >>> _ = g.output("differences", x - gn.rename(x, time="other"))
    >>> gn.compile(g)(torch.tensor([[1.0, 3.0]]))
    tensor([[[ 0., -2.],
             [ 2.,  0.]]])
    """
    ir = v.graph.ir
    for old, new in axes.items():
        _check_axis(v, old)
        if new in v.axes:
            raise AxisError(
                f"'{v.label}' already varies over '{new}'",
                node=v.label,
                site=user_site(),
                got=f"rename {old} -> {new}",
                wanted="a name that is not among the axes of the value",
                fix="choose another name for the copy",
            )
        root = ir.axes[old].copy_of or old
        present = ir.axes.get(new)
        if present is not None and new != root and present.copy_of != root:
            raise AxisError(
                f"axis '{new}' exists and is not a copy of '{old}'",
                node=v.label,
                site=user_site(),
                got=f"rename {old} -> {new}",
                wanted=f"a new name, or an earlier copy of '{root}'",
                fix="choose another name for the copy",
            )
        if present is None:
            ir.axes[new] = Axis(new, ir.axes[root].length, copy_of=root, site=user_site())
    ir.here = ("", user_site())
    return _result(v.graph, make("rename", _expr(v), axes=dict(axes)))


def along(tensor: Value | torch.Tensor, axis: str, graph: Graph | None = None) -> Value:
    """A tensor of shape (n, *shape), often a parameter, as a value of shape (*shape) over an axis.

    The axis must have been declared with length n (`g.axis`). The result does not vary over the
    batch. `graph` is the graph being built if not given. Raises AxisError if there is no such
    axis, and ShapeError if its length is not n or if the tensor varies over axes already.

    >>> g = gn.Graph()
    >>> slots = g.axis("slot", 2)
    >>> x = g.input("x", (3,))
    >>> keys = gn.along(g.parameter("keys", torch.ones(2, 3)), slots)
    >>> _ = g.output("match", gn.dot(x, keys))
    >>> gn.compile(g)(torch.ones(1, 3)).detach()
    tensor([[3., 3.]])
    """
    g = _graph(tensor) if isinstance(tensor, Value) else _given_or_current(graph)
    v = g.value(tensor)
    if axis not in g.ir.axes:
        g.missing_axis(axis)
    declared = g.ir.axes[axis].length
    if not v.shape or v.axes or declared not in (None, v.shape[0]):
        raise ShapeError(
            f"the tensor does not fit along '{axis}'",
            node=v.label,
            site=user_site(),
            got=f"shape {tuple(v.shape)}, axes {v.axes}",
            wanted=f"a first dimension of {declared}, and no axes yet",
            fix=f"declare g.axis('{axis}', {v.shape[0] if v.shape else 'n'})",
        )
    return _result(g, make("along", _expr(v), axis=axis))


def dot(a: Value, b: Value) -> Value:
    """Dot product over the last dimension; leading dimensions are matched.

    `a` and `b` have one shape (*leading, width). The result has shape (*leading) and varies over
    the axes of both. Raises ShapeError if the shapes differ or are ().

    >>> g = gn.Graph()
    >>> a, b = g.input("a", (3,)), g.input("b", (3,))
    >>> _ = g.output("y", gn.dot(a, b))
    >>> gn.compile(g)(a=torch.ones(1, 3), b=torch.tensor([[1.0, 2.0, 3.0]]))
    tensor([6.])
    """
    graph = graph_of((a, b), {})
    a, b = graph.value(a), graph.value(b)
    random.bind_to_each_other(graph, (a.id, b.id))
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
    return _result(graph, einsum(f"{lead}z,{lead}z->{lead}", x, y))


def cosine(a: Value, b: Value, eps: float = 1e-8) -> Value:
    """Cosine similarity over the last dimension: a·b / (‖a‖ ‖b‖).

    `a` and `b` have one shape (*leading, width), the result has shape (*leading). Each norm is at
    least `eps`, and in float16 at least 0.0078, the square root of the smallest normal number.
    Raises ShapeError if the shapes differ or are ().

    >>> g = gn.Graph()
    >>> a, b = g.input("a", (2,)), g.input("b", (2,))
    >>> _ = g.output("y", gn.cosine(a, b))
    >>> gn.compile(g)(a=torch.tensor([[1.0, 0.0]]), b=torch.tensor([[0.6, 0.8]]))
    tensor([0.6000])
    """

    def norm(v: Value) -> Any:
        squares = dot(v, v)
        return torch.sqrt(torch.clamp(squares, min=least(squares.dtype, eps * eps)))

    return dot(a, b) / (norm(a) * norm(b))


def clip_gradient(v: Value, bound: float) -> Value:
    """The value `v` itself; its gradient is clamped elementwise to [-bound, bound].

    Graves 2013, arXiv:1308.0850, section 2.1, clips the gradients of LSTM units in this way. The
    result has the shape, axes and dtype of `v`.

    >>> g = gn.Graph()
    >>> x = g.input("x", over="time")
    >>> _ = g.output("y", 5 * gn.clip_gradient(x, 1.0))
    >>> x = torch.zeros(1, 2, requires_grad=True)
    >>> gn.compile(g)(x).sum().backward()
    >>> x.grad
    tensor([[1., 1.]])
    """
    v.graph.ir.here = ("", user_site())
    return _result(v.graph, make("clip_gradient", _expr(v), bound=float(bound)))


def delay(v: Value, steps: int = 1, over: str = "time", init: Any = None) -> Value:
    """The value `v` of `steps` positions before; after, if `steps` is negative.

    `init` is the value before the first position, as in `gn.Graph.state`. The result has the
    shape, axes and dtype of `v`. Raises AxisError if `v` does not vary over the axis.

    >>> g = gn.Graph()
    >>> x = g.input("x", over="time")
    >>> _ = g.output("change", x - gn.delay(x))
    >>> gn.compile(g)(torch.tensor([[1.0, 3.0, 6.0]]))
    tensor([[1., 2., 3.]])
    """
    _check_axis(v, over)
    if steps == 0:
        return v
    carried = [a for a in v.axes if a != over]
    name = _graph(v).unique(f"delay({v.label})")
    stated = None if v.dtype == _graph(v).dtype else v.dtype
    state = _graph(v).state(name, tuple(v.shape), over, carried, init, steps, stated)
    state.next = v
    return _result(v.graph, Expr(v.graph.ir, state.id))


def until(condition: Value, over: str) -> None:
    """Stop the loop along `over`, for each example, after the first step at which this is true.

    `condition` has shape () and dtype bool. Later positions are left out of reductions, `gn.last`
    returns the value at the last step taken, and `gn.length(over)` the number of steps. The length
    of the axis is the maximum number of steps. Adaptive computation time (Graves 2016,
    arXiv:1603.08983) is such a loop.

    Raises DtypeError if the condition is not one truth value, and AxisError if it does not vary
    over the axis, if the axis has been reduced over before, or if it has a condition already.

    >>> g = gn.Graph()
    >>> x, hops = g.input("x"), g.axis("hop", 10)
    >>> total = g.state("total", over=hops)
    >>> total.next = total + x
    >>> gn.until(total.next > 2, over=hops)
    >>> _ = g.output("y", gn.last(total.next, over=hops))
    >>> gn.compile(g)(torch.tensor([1.0, 0.5]))
    tensor([3.0000, 2.5000])
    """
    _check_axis(condition, over)
    g, site = _graph(condition), user_site()
    if condition.dtype != torch.bool or condition.shape != ():
        raise DtypeError(
            "gn.until needs one truth value per position",
            node=condition.label,
            site=site,
            got=f"{condition.dtype} of shape {tuple(condition.shape)}",
            wanted="torch.bool of shape ()",
            fix="compare: gn.until(total > 0.99, over=…)",
        )
    reads = [n for n in g.ir if n.attrs.get("axis") == over and OPS[n.op].family == "axis"]
    if over in g.ir.until or over in g.lengths or reads:
        earlier = f", after {reads[0].label} at {reads[0].site}" if reads else ""
        raise AxisError(
            f"gn.until comes too late: '{over}' was already reduced over or stopped",
            node=condition.label,
            site=site,
            got=f"a stop condition for '{over}'{earlier}",
            wanted="one gn.until per axis, before any reduction over it",
            fix="move gn.until up to where the condition is computed",
        )
    others = [a for a in condition.axes if a != over]
    running = g.state(g.unique(f"running({over})"), (), over, others, True, dtype=torch.bool)
    running.next = running & ~condition
    g.ir.until[over] = running.id
    count = make("axis_sum", make("cast", _expr(running), dtype=torch.int64), axis=over)
    g.lengths[over] = count.id
