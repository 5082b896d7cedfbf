"""Which primitives a torch function is: the entry of every torch call on a symbolic value.

`call` finds the function's decomposition by name, or keeps it as an opaque node that torch itself
runs. Decompositions live in `torch_math`, `torch_sums` and `torch_shapes`, one small function each.
"""

from __future__ import annotations

from typing import Any, get_args

import torch
import torch.nn.functional as F
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map

from graphnn.errors import UnsupportedError
from graphnn.frontend.mistakes import worded
from graphnn.frontend.value import Value
from graphnn.ir.source_location import user_site
from graphnn.ops.builder import Expr, Number, make, number
from graphnn.ops.torch import (  # noqa: F401  they fill the register
    cells,
    indexing,
    math,
    norms,
    reductions,
    shapes,
)
from graphnn.ops.torch.inference import primitives, verdict
from graphnn.ops.torch.opaque import opaque
from graphnn.ops.torch.registry import GUARDS, HANDLERS, OWN_JUDGES
from graphnn.tracing.effects import inplace, random
from graphnn.tracing.effects.symbolic import GraphLike

HOMES = (torch, torch.Tensor, F, torch.special, torch._C._VariableFunctions, torch._C._nn)


def _collect(register: dict[str, Any]) -> dict[Any, Any]:
    """Every public spelling of each registered function: torch.tanh, Tensor.tanh, F.tanh …"""
    found: dict[Any, Any] = {}
    for name, handler in register.items():
        for home in HOMES:
            function = getattr(home, name, None)
            if callable(function):
                found.setdefault(function, handler)
    return found


TABLE = _collect(HANDLERS)
GUARDED = _collect(GUARDS)
UNJUDGED = set(_collect(dict.fromkeys(OWN_JUDGES, True)))
# functions that give memory to be filled
FRESH = frozenset(("empty_like", "new_empty", "new", "new_tensor"))


def call(graph: GraphLike, function: Any, args: Any, kwargs: Any) -> Any:
    """Add to `graph` what `function(*args, **kwargs)` computes; returns values."""
    name = getattr(function, "__name__", str(function))
    site = user_site()
    if name in FRESH:
        return _empty(graph, function, args, kwargs)
    if graph.context.autocast:
        refuse_autocast(name)
    if function in (torch.autograd.grad, torch.autograd.backward):
        refuse_gradients(name)
    before = graph.ir.here
    graph.ir.here = (_module_name(graph, args, kwargs), site)
    try:
        args, kwargs = tree_map(lambda x: _enter(graph, x), (args, kwargs))
        entered = [x.id for x in tree_leaves((args, kwargs)) if isinstance(x, Expr)]
        random.meet(graph, entered)
        since = graph.ir.counter
        if function in GUARDED:
            GUARDED[function](*args, **kwargs)
        with worded(name, graph.ir.here, (args, kwargs)):
            result = NotImplemented
            if name in random.DRAWN:
                result = random.DRAWN[name](graph, *args, **kwargs)
            if result is NotImplemented:
                result = _primitives(graph, function, args, kwargs)
        if graph.context.detached:
            first = next(iter(args), None)
            result = tree_map(lambda x: _detached(x, first, name, kwargs), result)
        random.spread(graph, since)
    finally:
        graph.ir.here = before
    return tree_map(lambda x: _leave(graph, x), result)


def _primitives(graph: GraphLike, function: Any, args: Any, kwargs: Any) -> Any:
    """The primitives that a call is made of, or the call as it stands."""
    handler = TABLE.get(function)
    if handler is not None and function in UNJUDGED:
        result = handler(*args, **kwargs)
        if result is not NotImplemented:
            return result
    try:
        expected = verdict(function, args, kwargs, graph.ir.here)
    except Exception:
        if handler is not None:
            handler(*args, **kwargs)  # it may have better words for what torch refuses
        raise
    if isinstance(expected, (*get_args(Number), torch.dtype, torch.Size)):
        return expected
    result = NotImplemented
    if handler is not None and function not in UNJUDGED:
        result = primitives(handler, args, kwargs, expected)
    if result is NotImplemented:
        result = opaque(graph.ir, function, args, kwargs, expected)
    return result


def _detached(x: Any, operand: Any, name: str, kwargs: Any) -> Any:
    if not isinstance(x, Expr) or not (x.dtype.is_floating_point or x.dtype.is_complex):
        return x
    if isinstance(operand, Expr) and inplace.given_back(name, x, operand, kwargs):
        return x
    return make("detach", x)


def _empty(graph: GraphLike, function: Any, args: Any, kwargs: Any) -> Any:
    """Memory in the shape of a value, for what is written to it."""

    def like(x: Any) -> Any:
        return torch.empty(x.shape, dtype=x.dtype) if isinstance(x, Value) else x

    args, kwargs = tree_map(like, (args, kwargs))
    made = function(*args, **kwargs)
    return made if graph.tracer is None else graph.tracer.add(made)


def refuse_autocast(name: str) -> None:
    """Raise the error of autocast turned on within a graph."""
    raise UnsupportedError(
        "autocast within a graph is not honoured",
        site=user_site(),
        got=f"{name} under torch.autocast, entered in graph()",
        wanted="the dtypes that the graph itself says, or autocast around the call",
        fix="cast there (x.to(torch.bfloat16)), or call the model under torch.autocast",
    )


def _module_name(graph: GraphLike, args: Any, kwargs: Any) -> str:
    """`enc` for a call that uses the parameter `enc.weight`."""
    for leaf in tree_flatten((args, kwargs))[0]:
        if isinstance(leaf, torch.Tensor) and (key := graph.known.get(id(leaf))):
            return key.rpartition(".")[0] or key
    return ""


def _enter(graph: GraphLike, x: Any) -> Any:
    if isinstance(x, Value):
        return Expr(graph.ir, x.id)
    return graph.tensor(x) if isinstance(x, torch.Tensor) else number(x)


def _leave(graph: GraphLike, x: Any) -> Any:
    return Value(graph, x.id) if isinstance(x, Expr) else x


def refuse_gradients(name: str) -> None:
    """Raise the error of a gradient asked for within a graph."""
    raise UnsupportedError(
        f"torch.autograd.{name} cannot be called within a graph",
        site=user_site(),
        got=f"torch.autograd.{name} of symbolic values",
        wanted="a formula: the derivative written out",
        fix="write the derivative as operations, or differentiate what the compiled model returns",
    )
