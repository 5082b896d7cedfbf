"""Common mistakes, and the errors that explain them.

Each function turns a message of torch or Python, or code that would fail silently, into an error
of graphnn with a fix.
"""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from graphnn.errors import GraphError, GraphnnError, ShapeError, UnsupportedError
from graphnn.ir.source_location import Site, raised_at, user_site
from graphnn.ops.builder import Expr
from graphnn.ops.torch.unsupported import refuse_mixing

SHAPES = "shapes of one example at one position that the function accepts"
COMPARE = "compare each value's `.shape`; batch and time are implied, never written"
SCRIPTED = "call the Python function or module itself, not its scripted or traced version"

# torch modules that run along a dimension, and those of graphnn that run along a named axis
INSTEAD: dict[type[nn.Module], str] = {
    nn.LSTM: "use gn.nn.LSTM, or gn.nn.LSTM.from_torch(module)",
    nn.GRU: "use gn.nn.GRU, or gn.nn.GRU.from_torch(module)",
    nn.RNN: "use gn.nn.RNN, or gn.nn.RNN.from_torch(module)",
    nn.MultiheadAttention: "use gn.nn.MultiHeadAttention, or its from_torch(module)",
    nn.TransformerEncoderLayer: "use gn.nn.TransformerBlock, or its from_torch(layer)",
    nn.TransformerDecoderLayer: "use gn.nn.TransformerBlock, or its from_torch(layer)",
    nn.TransformerEncoder: "use gn.nn.TransformerBlock.from_torch(layer) for each of its layers",
    nn.TransformerDecoder: "use gn.nn.TransformerBlock.from_torch(layer) for each of its layers",
    nn.Transformer: "use gn.nn.TransformerBlock.from_torch(layer) for each of its layers",
}
# parts of torch's messages if a function needs the elements of a meta tensor
NEEDS_ELEMENTS = ("meta tensor", "data-dependent", "converted to Scalar")
# what to write instead of a torch function that needs a dimension for positions or examples
_MASKED = "write torch.where(mask, x, 0.0): the number of selected elements differs by example"
FIXES = {
    **dict.fromkeys(("masked_select", "nonzero", "argwhere", "unique"), _MASKED),
    "embedding": "declare the indices as integers: g.input(…, dtype=torch.int64)",
    "embedding_bag": "sum over a named axis: gn.sum(nn.Embedding(…)(words), over='word')",
    "conv1d": "use gn.nn.TemporalConv, or its from_torch(module), which runs along an axis",
}


def instead_of(module: object) -> str | None:
    """The fix for a torch module that runs along a dimension, or None."""
    return next((fix for kind, fix in INSTEAD.items() if isinstance(module, kind)), None)


def check_rank_query(value: Any, module: object) -> None:
    """Check the caller of `value.dim()`: it must not want a dimension of positions or of examples.

    Raises UnsupportedError for modules that run along a dimension, and for batch normalisation.
    """
    name = type(module).__name__
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        refuse_mixing(name)  # before the module reports a missing batch
    fix = instead_of(module)
    # torch has no batching rule for recurrent layers; the others may run along a dimension
    if fix is not None and (value.ndim < 2 or isinstance(module, nn.RNNBase)):
        raise UnsupportedError(
            f"torch.nn.{name} runs along a dimension of its input, but values have named axes",
            node=value.label,
            site=user_site(),
            got=repr(value),
            wanted="a module that runs along a named axis",
            fix=fix,
        )


HOW_TO_CONVERT: tuple[tuple[type, str], ...] = (
    (dict, "declare each value: g.output(name, result[name])"),
    (tuple, "unpack it: y, state = module(x)"),
    (list, "unpack it, or join its elements with torch.stack"),
    (type(None), "return a value: the function that was called returned None"),
    (np.ndarray, "convert it with torch.from_numpy(...)"),
    (nn.Module, "call it on a value: module(x)"),
)


def how_to_convert(thing: object) -> str:
    """The fix for an object that cannot become a value."""
    found = (fix for kind, fix in HOW_TO_CONVERT if isinstance(thing, kind))
    return next(found, "wrap it with torch.tensor(...)")


# what cannot be compiled: (whether the source is of this kind, what is wrong, the fix)
_Kind = tuple[Callable[[Any], bool], str, str]
NO_SOURCE: tuple[_Kind, ...] = (
    (
        lambda s: not isinstance(s, (nn.Module, type)) and not hasattr(s, "ir"),
        "is neither a module nor a graph",
        "pass a module: class Net(nn.Module) with graph(self, g)",
    ),
    (
        lambda s: isinstance(s, type),
        "is a class, not a module",
        "create an instance: gn.compile({0}(…))",
    ),
    (
        lambda s: hasattr(type(s), "explain") and hasattr(type(s), "plan_for"),
        "is already compiled",
        "call it, or compile the module that it was compiled from",
    ),
    (
        lambda s: isinstance(s, torch.jit.ScriptModule),
        "is scripted, and its Python code cannot be traced",
        "compile the module that it was scripted from",
    ),
    (
        lambda s: hasattr(s, "_orig_mod"),
        "is a result of torch.compile",
        "apply them in the other order: torch.compile(gn.compile(net))",
    ),
    (
        lambda s: isinstance(getattr(s, "module", None), nn.Module) and not hasattr(s, "graph"),
        "wraps a module",
        "apply them in the other order: DistributedDataParallel(gn.compile(net))",
    ),
)


def check_compilable(source: Any) -> None:
    """Raise GraphError or UnsupportedError if `source` cannot be compiled."""
    name = source.__name__ if isinstance(source, type) else type(source).__name__
    for matches, problem, fix in NO_SOURCE:
        if matches(source):
            raise GraphError(
                f"{name} cannot be compiled: it {problem}",
                site=user_site(),
                got=name,
                wanted="a graphnn.Graph, or a module whose graph(self, g) declares one",
                fix=fix.format(name),
            )
    for path, module in source.named_modules() if isinstance(source, nn.Module) else ():
        if ".quantized" in type(module).__module__:
            raise UnsupportedError(
                f"'{path}' is quantized: a graph cannot read its weights",
                site=user_site(),
                got=f"{type(module).__module__}.{type(module).__name__}",
                wanted="modules with floating-point parameters",
                fix="compile the module before it is quantized",
            )


def check_has_graph(source: Any) -> None:
    """Raise GraphError if a module has no method `graph(self, g)`."""
    method, name = getattr(source, "graph", None), type(source).__name__
    if not callable(method):
        raise GraphError(
            f"{name} cannot be compiled",
            got=f"{name}, without a graph(self, g) method",
            wanted="a graphnn.Graph, or a module whose graph(self, g) declares one",
            fix=instead_of(source)
            or "add `def graph(self, g): …` with g.input(...) and g.output(...)",
        )
    try:
        inspect.signature(method).bind(None)
    except (TypeError, ValueError) as error:
        code = getattr(method, "__code__", None)
        raise GraphError(
            f"{name}.graph cannot be called with the graph as its only argument: {error}",
            site=Site(code.co_filename, code.co_firstlineno) if code else None,
            got=f"graph{inspect.signature(getattr(method, '__func__', method))}",
            wanted="graph(self, g) with the graph as g",
            fix="declare inputs by x = g.input('x', …), and take sizes from self",
        ) from None


@contextlib.contextmanager
def explain_errors(name: str, here: tuple[str, Site | None], arguments: Any) -> Iterator[None]:
    """Turn torch's errors about the arguments of a call into a ShapeError with a fix."""
    try:
        yield
    except GraphnnError:
        raise
    except Exception as error:
        values = [x for x in tree_leaves(arguments) if isinstance(x, Expr)]
        index = _bad_index(arguments) if name == "__getitem__" else None
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        scripted = (line, "tensors", SCRIPTED) if "TorchScript" in line else None
        problem, wanted, fix = (
            index
            or scripted
            or _needs_elements(name, error, line)
            or (
                f"'{name}' cannot be applied to these shapes: {line}",
                SHAPES,
                FIXES.get(name, COMPARE),
            )
        )
        raise ShapeError(
            problem,
            node=here[0] or name,
            site=here[1],
            got=", ".join(f"{x.node.label} {tuple(x.shape)} {x.dtype}" for x in values),
            wanted=wanted,
            fix=fix,
        ) from error


def _needs_elements(name: str, error: Exception, line: str) -> tuple[str, str, str] | None:
    """The message if torch cannot call a function on meta tensors: (problem, wanted, fix)."""
    if not isinstance(error, NotImplementedError) and not any(w in line for w in NEEDS_ELEMENTS):
        return None
    return (
        f"'{name}' cannot be planned: its result shape or its checks depend on the data",
        "a function whose shapes do not depend on the elements of its operands",
        FIXES.get(name, "write it with plain operations, or compute it outside the graph"),
    )


def _bad_index(arguments: Any) -> tuple[str, str, str] | None:
    """The message for a wrong index: (problem, wanted, fix)."""
    (x, index), _ = arguments
    parts = index if isinstance(index, tuple) else (index,)
    if any(getattr(p, "dtype", None) == torch.bool for p in parts):
        return (
            f"'{x.node.label}' is indexed by a mask: result sizes would differ between examples",
            "a result with the same shape for all examples",
            "write torch.where(mask, x, 0.0), or gn.top for the largest along an axis",
        )
    written = sum(p is not None and p is not Ellipsis for p in parts)
    if written <= len(x.shape):
        return None
    axes = [a for a in x.ir.layout(x.axes) if a != "batch"]
    over = axes[0] if axes else "time"
    return (
        f"'{x.node.label}' has {len(x.shape)} dimension(s), but {written} are indexed",
        f"an index into the shape {tuple(x.shape)}: batch and axes are implied, never written",
        f"write gn.last(x, over='{over}') for the last position, gn.first for the first, and "
        f"gn.delay(x, 1, over='{over}') for the previous one",
    )


# messages of Python or torch if code that needs tensors with elements gets a value:
# (pattern, problem, fix)
_Escape = tuple[str, str, str]
ESCAPES: tuple[_Escape, ...] = (
    (
        r"found type 'Value'|Unable to cast Value|TorchScript interpreter",
        "a torch.jit function is called on a value, and its Python code cannot be traced",
        SCRIPTED,
    ),
    (
        r"vmap\(.*Value|not a Tensor \(got .*(Value|State)",
        "torch.vmap is called on a value",
        "leave it out: batch and axes are implied, and functions of values apply to each position",
    ),
    (
        r"(must be|expected) Tensor.*(Value|State)|can't convert .*(Value|State)",
        "a function that needs tensors with elements is called on a value",
        "use torch functions on values, or compute it outside and pass it as an input",
    ),
)


def explained(error: Exception) -> UnsupportedError | None:
    """The explanation of an error that values caused in code that graphnn does not see."""
    message = str(error)
    for pattern, problem, fix in ESCAPES:
        if re.search(pattern, message, re.DOTALL):
            return UnsupportedError(
                problem,
                site=raised_at(error),
                got=f"{type(error).__name__}: {message.splitlines()[0]}",
                wanted="torch functions, which return new values",
                fix=fix,
            )
    return None
