"""noise: torch's random functions as random nodes of the graph, drawn anew at every call.

Noise in the shape of a value varies over the axes of that value. Noise of a written-out shape has
no axes of its own yet: it is *open*, and takes those of the first value that it meets, so that it
is fresh for every example and position. So is noise in the shape of a constant of the graph. The
formulas are those of torch's documentation.
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

DRAWN: dict[str, Callable[..., Any]] = {}


def _draws(*spelled: str) -> Callable[[Any], Any]:
    def register(handler: Any) -> Any:
        DRAWN.update(dict.fromkeys(spelled, handler))
        return handler

    return register


def refuse_generator() -> None:
    """Raise the error of noise that a generator of the user's own draws."""
    raise UnsupportedError(
        "noise in a graph is drawn by torch's own generator",
        site=user_site(),
        got="noise drawn with generator=",
        wanted="no generator: torch.manual_seed before the call says what is drawn",
        fix="leave generator= out, or give the noise as an input; parameters may start from it",
    )


def _sizes(sizes: Any) -> tuple[int, ...]:
    if len(sizes) == 1 and not isinstance(sizes[0], int):
        return tuple(sizes[0])
    return tuple(sizes)


def _plain(kwargs: dict[str, Any]) -> torch.dtype:
    """The dtype asked for. Raises where a generator of one's own is given."""
    if kwargs.get("generator") is not None:
        refuse_generator()
    return kwargs.get("dtype") or torch.get_default_dtype()


def law(graph: GraphLike, kind: str, p: float) -> dict[str, Any]:
    """The attributes of a random node; of dropout with what turns it off, on a bare graph."""
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
    """A random node: "normal", "uniform" or "dropout"; open unless it is `like` a value."""
    attrs = law(graph, kind, p)
    axes = frozenset() if like is None else like.axes
    node = build(graph.ir, "random", (), attrs, shape=tuple(shape), dtype=dtype, axes=axes)
    if like is None or like.id in graph.unbound or _constant(graph, like):
        graph.unbound.add(node)
    return Expr(graph.ir, node)


def _constant(graph: GraphLike, x: Expr) -> bool:
    """Whether a value is made of numbers and of tensors made while drawing alone."""
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


# --- factories


@_draws("randn")
def _randn(graph: GraphLike, *sizes: Any, size: Any = None, **rest: Any) -> Expr:
    return source(graph, "normal", _sizes(sizes if size is None else (size,)), _plain(rest))


@_draws("rand")
def _rand(graph: GraphLike, *sizes: Any, size: Any = None, **rest: Any) -> Expr:
    return source(graph, "uniform", _sizes(sizes if size is None else (size,)), _plain(rest))


@_draws("randint")
def _randint(graph: GraphLike, *args: Any, **rest: Any) -> Expr:
    rest = dict(zip(("low", "high", "size") if len(args) == 3 else ("high", "size"), args)) | rest
    _plain(rest)
    dtype = rest.get("dtype") or torch.int64
    return _whole(graph, rest.get("low", 0), rest["high"], rest["size"], None, dtype)


def _whole(
    graph: GraphLike, low: int, high: int, shape: Any, like: Expr | None, dtype: torch.dtype
) -> Expr:
    """Whole numbers from `low` to `high` - 1."""
    u = source(graph, "uniform", shape, torch.float64, like)
    return cast(make("floor", u * float(high - low)) + float(low), dtype)


@_draws("randperm")
def _randperm(graph: GraphLike, n: int, **rest: Any) -> Expr:
    _plain(rest)
    u = source(graph, "uniform", (n,), torch.float64)
    # the rank of each number among all: equal ones have probability 2^-53
    less = make("gt", reshape(u, (n, 1)), reshape(u, (1, n)))
    return cast(make("sum", cast(less, torch.int64), dims=(1,)), rest.get("dtype") or torch.int64)


@_draws("normal")
def _normal(graph: GraphLike, mean: Any, std: Any = 1.0, size: Any = None, **rest: Any) -> Expr:
    given = [x for x in (mean, std) if isinstance(x, Expr)]
    if not given:
        return source(graph, "normal", _sizes((size,)), _plain(rest)) * std + mean
    wide = given[0] if len(given) == 1 else given[0] + given[1]
    return source(graph, "normal", wide.shape, _floating(graph, wide), wide) * std + mean


# --- in the shape of a value


@_draws("randn_like")
def _randn_like(graph: GraphLike, x: Expr, **rest: Any) -> Expr:
    _plain(rest)
    return source(graph, "normal", x.shape, rest.get("dtype") or x.dtype, x)


@_draws("rand_like")
def _rand_like(graph: GraphLike, x: Expr, **rest: Any) -> Expr:
    _plain(rest)
    return source(graph, "uniform", x.shape, rest.get("dtype") or x.dtype, x)


@_draws("randint_like")
def _randint_like(graph: GraphLike, x: Expr, low: int, high: Any = None, **rest: Any) -> Expr:
    _plain(rest)
    low, high = (0, low) if high is None else (low, high)
    return _whole(graph, low, high, x.shape, x, rest.get("dtype") or x.dtype)


@_draws("bernoulli")
def _bernoulli(graph: GraphLike, x: Expr, p: Any = None, **rest: Any) -> Expr:
    _plain(rest)
    u = source(graph, "uniform", x.shape, _floating(graph, x), x)
    return cast(make("lt", u, x if p is None else p), x.dtype)


def _exponential(graph: GraphLike, like: Expr, shape: Any = None) -> Expr:
    """Exponential noise of rate 1, never zero, as torch draws it."""
    dtype = _floating(graph, like)
    u = source(graph, "uniform", like.shape if shape is None else shape, dtype, like)
    return make("maximum", -make("log1p", -u), torch.finfo(dtype).eps / 2)


@_draws("gumbel_softmax")
def _gumbel_softmax(
    graph: GraphLike, x: Expr, tau: float = 1, hard: bool = False, eps: float = 1e-10, dim: int = -1
) -> Expr:
    """Jang et al. 2017, arXiv:1611.01144; `hard` is straight through."""
    dim = range(len(x.shape))[dim]
    noisy = (x - make("log", _exponential(graph, x))) / tau
    soft = make("softmax", noisy, dim=dim)
    if not hard:
        return soft
    places = torch.arange(x.shape[dim]).reshape(
        [-1 if d == dim else 1 for d in range(len(x.shape))]
    )
    kept = [1 if d == dim else n for d, n in enumerate(x.shape)]
    best = reshape(make("argmax", soft, dim=dim), kept)
    chosen = cast(make("eq", best, graph.tensor(places)), x.dtype)
    return chosen - make("detach", soft) + soft


@_draws("multinomial")
def _multinomial(
    graph: GraphLike, x: Expr, num_samples: int, replacement: bool = False, **rest: Any
) -> Any:
    """The largest of p / E, E exponential, falls on each place with its probability."""
    _plain(rest)
    if num_samples > 1 and not replacement:
        return NotImplemented
    picks = [make("argmax", x / _exponential(graph, x), dim=len(x.shape) - 1)]
    for _ in range(num_samples - 1):
        picks.append(make("argmax", x / _exponential(graph, x), dim=len(x.shape) - 1))
    wide = [reshape(p, (*p.shape, 1)) for p in picks]
    return wide[0] if len(wide) == 1 else make("cat", *wide, dim=len(x.shape) - 1)


# --- dropout


def _masked(graph: GraphLike, x: Expr, p: float, channels: int | None) -> Expr:
    """`x` times a dropout mask; one number a channel where `channels` dimensions are kept."""
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
    DRAWN[_name] = _dropout_of(_rank)
    DRAWN[f"{_name}_"] = DRAWN[_name]


@_draws("alpha_dropout")
def _alpha_dropout(
    graph: GraphLike, x: Expr, p: float = 0.5, training: bool = False, inplace: bool = False
) -> Expr:
    """Klambauer et al. 2017, arXiv:1706.02515, eq. 9: dropped units take SELU's negative limit."""
    if p == 0 or not graph.context.drops(training):
        return x
    if p == 1:
        return x * 0.0  # as torch has it
    low = -1.7580993408473766
    a = 1 / math.sqrt((1 - p) * (1 + p * low * low))
    kept = make("ge", source(graph, "uniform", x.shape, x.dtype, x), p)
    return make("where", kept, x, low) * a + -a * p * low


@_draws("rrelu")
def _rrelu(
    graph: GraphLike,
    x: Expr,
    lower: float = 1 / 8,
    upper: float = 1 / 3,
    training: bool = False,
    inplace: bool = False,
) -> Expr:
    """Xu et al. 2015, arXiv:1505.00853: a random slope below zero while training, else its mean."""
    slope: Any = (lower + upper) / 2
    if graph.context.drops(training):
        slope = source(graph, "uniform", x.shape, x.dtype, x) * (upper - lower) + lower
    return make(
        "where", make("ge" if not graph.context.drops(training) else "gt", x, 0), x, x * slope
    )


# --- in place of what a tensor held


def _shape_of(graph: GraphLike, x: Any) -> tuple[tuple[int, ...], torch.dtype, Expr | None]:
    varies = isinstance(x, Expr) and (x.axes or x.id in graph.unbound)
    return tuple(x.shape), x.dtype, x if varies else None


def _unit(graph: GraphLike, kind: str, x: Any) -> Expr:
    shape, dtype, like = _shape_of(graph, x)
    return source(graph, kind, shape, dtype if dtype.is_floating_point else torch.float64, like)


@_draws("normal_")
def _normal_(graph: GraphLike, x: Any, mean: float = 0, std: float = 1, **rest: Any) -> Expr:
    _plain(rest)
    return _unit(graph, "normal", x) * std + mean


@_draws("uniform_")
def _uniform_(graph: GraphLike, x: Any, *args: Any, **rest: Any) -> Expr:
    _plain(rest)
    given = [*args, *(0, 1)[len(args) :]]
    low, high = rest.get("from", given[0]), rest.get("to", given[1])
    return _unit(graph, "uniform", x) * (high - low) + low


@_draws("exponential_")
def _exponential_(graph: GraphLike, x: Any, lambd: float = 1, **rest: Any) -> Expr:
    _plain(rest)
    tiny = torch.finfo(x.dtype).eps / 2
    return make("maximum", -make("log1p", -_unit(graph, "uniform", x)), tiny) / lambd


@_draws("log_normal_")
def _log_normal_(graph: GraphLike, x: Any, mean: float = 1, std: float = 2, **rest: Any) -> Expr:
    return make("exp", _normal_(graph, x, mean, std, **rest))


@_draws("cauchy_")
def _cauchy_(graph: GraphLike, x: Any, median: float = 0, sigma: float = 1, **rest: Any) -> Expr:
    _plain(rest)
    angle = (_unit(graph, "uniform", x) - 0.5) * math.pi
    return make("sin", angle) / make("cos", angle) * sigma + median


@_draws("bernoulli_")
def _bernoulli_(graph: GraphLike, x: Any, p: Any = 0.5, **rest: Any) -> Expr:
    _plain(rest)
    return cast(make("lt", _unit(graph, "uniform", x), p), x.dtype)


@_draws("random_")
def _random_(graph: GraphLike, x: Any, *args: Any, **rest: Any) -> Any:
    _plain(rest)
    if not args:
        return NotImplemented
    low, high = args if len(args) == 2 else (0, args[0])
    shape, dtype, like = _shape_of(graph, x)
    return _whole(graph, low, high, shape, like, dtype)


# --- open noise


def bind(graph: GraphLike, ids: Iterable[int], axes: frozenset[str]) -> None:
    """Give open values, and all that is made of the same noise, these axes and the batch."""
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
            ir.nodes[i] = _over(ir[i], axes)
    graph.unbound -= bound


def _over(node: Node, axes: frozenset[str]) -> Node:
    kept = (node.dtype, node.name, node.site)
    return Node(node.id, node.op, node.inputs, node.attrs, node.shape, axes, *kept)


def meet(graph: GraphLike, ids: Collection[int]) -> None:
    """Values that meet in a call: open ones take the axes of the others."""
    if any(i in graph.unbound for i in ids):
        axes = frozenset[str]().union(*(graph.ir[i].axes for i in ids))
        if axes:
            bind(graph, ids, axes)


def spread(graph: GraphLike, since: int) -> None:
    """What was made of open values from node `since` on is open too."""
    for i in range(since, graph.ir.counter if graph.unbound else since):
        if i in graph.ir.nodes and any(j in graph.unbound for j in graph.ir[i].inputs):
            graph.unbound.add(i)
