"""Torch's random functions as random nodes of the graph, which every call draws again.

Random numbers in the shape of a value vary over the axes of that value. Random numbers of an
explicit shape, or in the shape of a constant, are *unbound*: they have no axes yet. They get the
axes of the first value that they are combined with, and are then independent for each example and
position. The formulas are those of torch's documentation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from typing import Any

import torch

from graphnn.errors import UnsupportedError
from graphnn.ir.graph import BATCH, Node
from graphnn.ir.source_location import user_site
from graphnn.ops.builder import Expr, make, reshape
from graphnn.ops.registry import build
from graphnn.ops.torch.math import cast
from graphnn.tracing.effects.symbolic import GraphLike

RANDOM: dict[str, Callable[..., Any]] = {}


def _random(*names: str) -> Callable[[Any], Any]:
    def register(handler: Any) -> Any:
        RANDOM.update(dict.fromkeys(names, handler))
        return handler

    return register


def refuse_generator() -> None:
    """Raise the error of random numbers from the user's own generator."""
    raise UnsupportedError(
        "random numbers in a graph come from torch's default generator",
        site=user_site(),
        got="random numbers drawn with generator=",
        wanted="no generator: torch.manual_seed before the call sets the seed",
        fix="leave out generator=, or pass the random numbers as an input; parameters may use it",
    )


def _sizes(sizes: Any) -> tuple[int, ...]:
    if len(sizes) == 1 and not isinstance(sizes[0], int):
        return tuple(sizes[0])
    return tuple(sizes)


def _dtype(kwargs: dict[str, Any]) -> torch.dtype:
    """The requested dtype. Raises UnsupportedError if a generator is given."""
    _check_generator(kwargs)
    return kwargs.get("dtype") or torch.get_default_dtype()


def _check_generator(kwargs: dict[str, Any]) -> None:
    """Raise UnsupportedError if a generator is given."""
    if kwargs.get("generator") is not None:
        refuse_generator()


def attributes(graph: GraphLike, kind: str, p: float) -> dict[str, Any]:
    """The attributes of a random node; on a bare graph, dropout has the module that switches it."""
    switch = (
        {}
        if kind != "dropout" or graph.context.switch is None
        else {"switch": graph.context.switch}
    )
    return {"kind": kind, "p": p, **switch}


def source(
    graph: GraphLike,
    kind: str,
    shape: Iterable[int],
    dtype: torch.dtype,
    like: Expr | None = None,
    p: float = 0.0,
) -> Expr:
    """A random node: "normal", "uniform" or "dropout"; unbound unless it is `like` a value."""
    attrs = attributes(graph, kind, p)
    axes = frozenset() if like is None else like.axes
    node = build(graph.ir, "random", (), attrs, shape=tuple(shape), dtype=dtype, axes=axes)
    if like is None or like.id in graph.unbound or _constant(graph, like):
        graph.unbound.add(node)
    return Expr(graph.ir, node)


def _constant(graph: GraphLike, x: Expr) -> bool:
    """Whether a value is computed only from numbers and tensors made during the trace."""
    seen, stack = set[int](), [x.id]
    while stack:
        node = graph.ir[stack.pop()]
        if node.axes or not (node.inputs or node.op == "const" or node.id in graph.made_nodes):
            return False
        seen.add(node.id)
        stack.extend(i for i in node.inputs if i not in seen)
    return True


def _floating(graph: GraphLike, like: Expr) -> torch.dtype:
    return like.dtype if like.dtype.is_floating_point else graph.ir.floating


# --- functions of an explicit shape


@_random("randn")
def _randn(graph: GraphLike, *sizes: Any, size: Any = None, **rest: Any) -> Expr:
    return source(graph, "normal", _sizes(sizes if size is None else (size,)), _dtype(rest))


@_random("rand")
def _rand(graph: GraphLike, *sizes: Any, size: Any = None, **rest: Any) -> Expr:
    return source(graph, "uniform", _sizes(sizes if size is None else (size,)), _dtype(rest))


@_random("randint")
def _randint(graph: GraphLike, *args: Any, **rest: Any) -> Expr:
    rest = dict(zip(("low", "high", "size") if len(args) == 3 else ("high", "size"), args)) | rest
    _check_generator(rest)
    dtype = rest.get("dtype") or torch.int64
    return _integers(graph, rest.get("low", 0), rest["high"], rest["size"], None, dtype)


def _integers(
    graph: GraphLike, low: int, high: int, shape: Any, like: Expr | None, dtype: torch.dtype
) -> Expr:
    """Integers from `low` to `high` - 1."""
    u = source(graph, "uniform", shape, torch.float64, like)
    return cast(make("floor", u * float(high - low)) + float(low), dtype)


@_random("randperm")
def _randperm(graph: GraphLike, n: int, **rest: Any) -> Expr:
    _check_generator(rest)
    u = source(graph, "uniform", (n,), torch.float64)
    # the rank of each number among all; two are equal with probability 2^-53
    greater = make("gt", reshape(u, (n, 1)), reshape(u, (1, n)))
    return cast(
        make("sum", cast(greater, torch.int64), dims=(1,)), rest.get("dtype") or torch.int64
    )


@_random("normal")
def _normal(graph: GraphLike, mean: Any, std: Any = 1.0, size: Any = None, **rest: Any) -> Expr:
    given = [x for x in (mean, std) if isinstance(x, Expr)]
    if not given:
        return source(graph, "normal", _sizes((size,)), _dtype(rest)) * std + mean
    wide = given[0] if len(given) == 1 else given[0] + given[1]
    return source(graph, "normal", wide.shape, _floating(graph, wide), wide) * std + mean


# --- functions in the shape of a value


@_random("randn_like")
def _randn_like(graph: GraphLike, x: Expr, **rest: Any) -> Expr:
    _check_generator(rest)
    return source(graph, "normal", x.shape, rest.get("dtype") or x.dtype, x)


@_random("rand_like")
def _rand_like(graph: GraphLike, x: Expr, **rest: Any) -> Expr:
    _check_generator(rest)
    return source(graph, "uniform", x.shape, rest.get("dtype") or x.dtype, x)


@_random("randint_like")
def _randint_like(graph: GraphLike, x: Expr, low: int, high: Any = None, **rest: Any) -> Expr:
    _check_generator(rest)
    low, high = (0, low) if high is None else (low, high)
    return _integers(graph, low, high, x.shape, x, rest.get("dtype") or x.dtype)


@_random("bernoulli")
def _bernoulli(graph: GraphLike, x: Expr, p: Any = None, **rest: Any) -> Expr:
    _check_generator(rest)
    u = source(graph, "uniform", x.shape, _floating(graph, x), x)
    return cast(make("lt", u, x if p is None else p), x.dtype)


def _exponential(graph: GraphLike, like: Expr, shape: Any = None) -> Expr:
    """Exponential random numbers of rate 1, never zero, as torch draws them."""
    dtype = _floating(graph, like)
    u = source(graph, "uniform", like.shape if shape is None else shape, dtype, like)
    return make("maximum", -make("log1p", -u), torch.finfo(dtype).eps / 2)


@_random("gumbel_softmax")
def _gumbel_softmax(
    graph: GraphLike, x: Expr, tau: float = 1, hard: bool = False, eps: float = 1e-10, dim: int = -1
) -> Expr:
    """Jang et al. 2017, arXiv:1611.01144; `hard` is the straight-through estimator."""
    dim = range(len(x.shape))[dim]
    noisy = (x - make("log", _exponential(graph, x))) / tau
    soft = make("softmax", noisy, dim=dim)
    if not hard:
        return soft
    indices = torch.arange(x.shape[dim]).reshape(
        [-1 if d == dim else 1 for d in range(len(x.shape))]
    )
    reduced = [1 if d == dim else n for d, n in enumerate(x.shape)]
    best = reshape(make("argmax", soft, dim=dim), reduced)
    one_hot = cast(make("eq", best, graph.tensor(indices)), x.dtype)
    return one_hot - make("detach", soft) + soft


@_random("multinomial")
def _multinomial(
    graph: GraphLike, x: Expr, num_samples: int, replacement: bool = False, **rest: Any
) -> Any:
    """The index of the largest p / E, E exponential, has the distribution p."""
    _check_generator(rest)
    if num_samples > 1 and not replacement:
        return NotImplemented
    picks = [make("argmax", x / _exponential(graph, x), dim=len(x.shape) - 1)]
    for _ in range(num_samples - 1):
        picks.append(make("argmax", x / _exponential(graph, x), dim=len(x.shape) - 1))
    wide = [reshape(p, (*p.shape, 1)) for p in picks]
    return wide[0] if len(wide) == 1 else make("cat", *wide, dim=len(x.shape) - 1)


# --- dropout


def _masked(graph: GraphLike, x: Expr, p: float, channels: int | None) -> Expr:
    """`x` times a dropout mask, with one number per channel if `channels` dimensions are given."""
    shape = x.shape
    if channels is not None:
        shape = (*x.shape[:channels], *[1] * (len(x.shape) - channels))
    return x * source(graph, "dropout", shape, x.dtype, x, p)


def _dropout_of(channel_rank: int | None) -> Callable[..., Any]:
    def handler(
        graph: GraphLike, x: Expr, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> Any:
        if not 0 <= p <= 1:
            raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
        if channel_rank is not None and len(x.shape) != channel_rank:
            return NotImplemented
        if p == 0 or not graph.context.drops(training):
            return x
        return _masked(graph, x, p, None if channel_rank is None else 1)

    return handler


for _name, _rank in {"dropout": None, "dropout1d": 2, "dropout2d": 3, "dropout3d": 4}.items():
    RANDOM[_name] = _dropout_of(_rank)
    RANDOM[f"{_name}_"] = RANDOM[_name]


@_random("alpha_dropout")
def _alpha_dropout(
    graph: GraphLike, x: Expr, p: float = 0.5, training: bool = False, inplace: bool = False
) -> Expr:
    """Klambauer et al. 2017, arXiv:1706.02515, eq. 9: dropped units get SELU's negative limit."""
    if p == 0 or not graph.context.drops(training):
        return x
    if p == 1:
        return x * 0.0  # as in torch
    low = -1.7580993408473766
    a = 1 / math.sqrt((1 - p) * (1 + p * low * low))
    keep = make("ge", source(graph, "uniform", x.shape, x.dtype, x), p)
    return make("where", keep, x, low) * a + -a * p * low


@_random("rrelu")
def _rrelu(
    graph: GraphLike,
    x: Expr,
    lower: float = 1 / 8,
    upper: float = 1 / 3,
    training: bool = False,
    inplace: bool = False,
) -> Expr:
    """Xu et al. 2015, arXiv:1505.00853: in training, a random slope below 0, else its mean."""
    slope: Any = (lower + upper) / 2
    if graph.context.drops(training):
        slope = source(graph, "uniform", x.shape, x.dtype, x) * (upper - lower) + lower
    return make(
        "where", make("ge" if not graph.context.drops(training) else "gt", x, 0), x, x * slope
    )


# --- in-place functions, which overwrite a tensor


def _shape_of(graph: GraphLike, x: Any) -> tuple[tuple[int, ...], torch.dtype, Expr | None]:
    varies = isinstance(x, Expr) and (x.axes or x.id in graph.unbound)
    return tuple(x.shape), x.dtype, x if varies else None


def _unit(graph: GraphLike, kind: str, x: Any) -> Expr:
    shape, dtype, like = _shape_of(graph, x)
    return source(graph, kind, shape, dtype if dtype.is_floating_point else torch.float64, like)


@_random("normal_")
def _normal_(graph: GraphLike, x: Any, mean: float = 0, std: float = 1, **rest: Any) -> Expr:
    _check_generator(rest)
    return _unit(graph, "normal", x) * std + mean


@_random("uniform_")
def _uniform_(graph: GraphLike, x: Any, *args: Any, **rest: Any) -> Expr:
    _check_generator(rest)
    given = [*args, *(0, 1)[len(args) :]]
    low, high = rest.get("from", given[0]), rest.get("to", given[1])
    return _unit(graph, "uniform", x) * (high - low) + low


@_random("exponential_")
def _exponential_(graph: GraphLike, x: Any, lambd: float = 1, **rest: Any) -> Expr:
    _check_generator(rest)
    tiny = torch.finfo(x.dtype).eps / 2
    return make("maximum", -make("log1p", -_unit(graph, "uniform", x)), tiny) / lambd


@_random("log_normal_")
def _log_normal_(graph: GraphLike, x: Any, mean: float = 1, std: float = 2, **rest: Any) -> Expr:
    return make("exp", _normal_(graph, x, mean, std, **rest))


@_random("cauchy_")
def _cauchy_(graph: GraphLike, x: Any, median: float = 0, sigma: float = 1, **rest: Any) -> Expr:
    _check_generator(rest)
    angle = (_unit(graph, "uniform", x) - 0.5) * math.pi
    return make("sin", angle) / make("cos", angle) * sigma + median


@_random("bernoulli_")
def _bernoulli_(graph: GraphLike, x: Any, p: Any = 0.5, **rest: Any) -> Expr:
    _check_generator(rest)
    return cast(make("lt", _unit(graph, "uniform", x), p), x.dtype)


@_random("random_")
def _random_(graph: GraphLike, x: Any, *args: Any, **rest: Any) -> Any:
    _check_generator(rest)
    if not args:
        return NotImplemented
    low, high = args if len(args) == 2 else (0, args[0])
    shape, dtype, like = _shape_of(graph, x)
    return _integers(graph, low, high, shape, like, dtype)


# --- unbound values


def bind(graph: GraphLike, ids: Iterable[int], axes: frozenset[str]) -> None:
    """Give unbound values these axes and the batch, and all computed from the same random nodes."""
    ir, axes = graph.ir, axes | {BATCH}
    bound: set[int] = set()
    stack = [i for i in ids if i in graph.unbound]
    while stack:
        i = stack.pop()
        if i in graph.unbound and i not in bound:
            bound.add(i)
            stack.extend(ir[i].inputs)
    for i in sorted(graph.unbound):
        if bound & {i, *ir[i].inputs}:
            bound.add(i)
            ir.nodes[i] = _with_axes(ir[i], axes)
    graph.unbound -= bound


def _with_axes(node: Node, axes: frozenset[str]) -> Node:
    rest = (node.dtype, node.name, node.site)
    return Node(node.id, node.op, node.inputs, node.attrs, node.shape, axes, *rest)


def bind_to_each_other(graph: GraphLike, ids: Collection[int]) -> None:
    """Give the unbound values among the operands of a call the axes of the others."""
    if any(i in graph.unbound for i in ids):
        axes = frozenset[str]().union(*(graph.ir[i].axes for i in ids))
        if axes:
            bind(graph, ids, axes)


def mark_unbound(graph: GraphLike, since: int) -> None:
    """Mark the nodes from `since` on as unbound if they are computed from unbound values."""
    for i in range(since, graph.ir.counter if graph.unbound else since):
        if i in graph.ir.nodes and any(j in graph.unbound for j in graph.ir[i].inputs):
            graph.unbound.add(i)
