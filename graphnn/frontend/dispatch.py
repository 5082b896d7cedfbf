"""Every torch call on a symbolic value comes here and becomes primitives of the graph.

`call` finds the function's decomposition by name, or keeps the call as an opaque node that torch
runs. The decompositions are in `ops.torch`, one small function each.
"""

from __future__ import annotations

from typing import Any, get_args

import torch
import torch.nn.functional as F
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map

from graphnn.errors import UnsupportedError
from graphnn.frontend.mistakes import explain_errors
from graphnn.frontend.value import Value
from graphnn.ir.source_location import user_site
from graphnn.ops.builder import Expr, Number, make, number
from graphnn.ops.torch import (  # noqa: F401  they fill HANDLERS
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
    """Each registered function under all its public names: torch.tanh, Tensor.tanh, F.tanh …"""
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
# functions that return uninitialised memory
UNINITIALISED = frozenset(("empty_like", "new_empty", "new", "new_tensor"))


def call(graph: GraphLike, function: Any, args: Any, kwargs: Any) -> Any:
    """Add the nodes of `function(*args, **kwargs)` to `graph`; returns values."""
    name = getattr(function, "__name__", str(function))
    site = user_site()
    if name in UNINITIALISED:
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
        random.bind_to_each_other(graph, entered)
        since = graph.ir.counter
        if function in GUARDED:
            GUARDED[function](*args, **kwargs)
        with explain_errors(name, graph.ir.here, (args, kwargs)):
            result = NotImplemented
            if name in random.RANDOM:
                result = random.RANDOM[name](graph, *args, **kwargs)
            if result is NotImplemented:
                result = _primitives(graph, function, args, kwargs)
        if graph.context.detached:
            first = next(iter(args), None)
            result = tree_map(lambda x: _detached(x, first, name, kwargs), result)
        random.mark_unbound(graph, since)
    finally:
        graph.ir.here = before
    return tree_map(lambda x: _leave(graph, x), result)


def _primitives(graph: GraphLike, function: Any, args: Any, kwargs: Any) -> Any:
    """The primitives of a call, or the call as one opaque node."""
    handler = TABLE.get(function)
    if handler is not None and function in UNJUDGED:
        result = handler(*args, **kwargs)
        if result is not NotImplemented:
            return result
    try:
        expected = verdict(function, args, kwargs, graph.ir.here)
    except Exception:
        if handler is not None:
            handler(*args, **kwargs)  # its error may explain more than torch's
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
    if isinstance(operand, Expr) and inplace.returns_operand(name, x, operand, kwargs):
        return x
    return make("detach", x)


def _empty(graph: GraphLike, function: Any, args: Any, kwargs: Any) -> Any:
    """Uninitialised memory in the shape of a value, which the graph writes to later."""

    def like(x: Any) -> Any:
        return torch.empty(x.shape, dtype=x.dtype) if isinstance(x, Value) else x

    args, kwargs = tree_map(like, (args, kwargs))
    made = function(*args, **kwargs)
    return made if graph.tracer is None else graph.tracer.add(made)


def refuse_autocast(name: str) -> None:
    """Raise the error of autocast turned on within a graph."""
    raise UnsupportedError(
        "autocast within a graph has no effect",
        site=user_site(),
        got=f"{name} under torch.autocast, entered in graph(self, g)",
        wanted="explicit dtypes in the graph, or autocast around the call of the model",
        fix="cast in the graph (x.to(torch.bfloat16)), or call the model under torch.autocast",
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
    """Raise the error of a gradient that is requested within a graph."""
    raise UnsupportedError(
        f"torch.autograd.{name} cannot be called within a graph",
        site=user_site(),
        got=f"torch.autograd.{name} of symbolic values",
        wanted="the derivative as a formula",
        fix="write the derivative as operations, or differentiate the result of the compiled model",
    )
