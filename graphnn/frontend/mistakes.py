"""slips: what is written first where something else is meant, and the words that say what.

Each function turns what torch or Python would say, or would leave unsaid, into an error of ours.
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

FORMS = "shapes of one example at one position that the function takes"
COMPARE = "compare each value's `.shape`; batch and time are implied, never written"
SCRIPTED = "call the Python function or module that was scripted or traced"

# modules of torch that run along a dimension, and ours that run along a named axis
INSTEAD: dict[type[nn.Module], str] = {
    nn.LSTM: "use gn.nn.LSTM, or gn.nn.LSTM.from_torch(module)",
    nn.GRU: "use gn.nn.GRU, or gn.nn.GRU.from_torch(module)",
    nn.RNN: "use gn.nn.RNN, or gn.nn.RNN.from_torch(module)",
    nn.MultiheadAttention: "use gn.nn.MultiHeadAttention, or its from_torch(module)",
    nn.TransformerEncoderLayer: "use gn.nn.TransformerBlock, or its from_torch(layer)",
    nn.TransformerDecoderLayer: "use gn.nn.TransformerBlock, or its from_torch(layer)",
    nn.TransformerEncoder: "use gn.nn.TransformerBlock.from_torch(layer) of each of its layers",
    nn.TransformerDecoder: "use gn.nn.TransformerBlock.from_torch(layer) of each of its layers",
    nn.Transformer: "use gn.nn.TransformerBlock.from_torch(layer) of each of its layers",
}
# what torch says on tensors without numbers where it needs these, beside NotImplementedError
WITHOUT_NUMBERS = ("meta tensor", "data-dependent", "converted to Scalar")
# what to write in place of a function of torch that needs a dimension for positions or examples
_MASKED = "write torch.where(mask, x, 0.0): how many are chosen differs from example to example"
FIXES = {
    **dict.fromkeys(("masked_select", "nonzero", "argwhere", "unique"), _MASKED),
    "embedding": "numbers of words are whole: g.input(…, dtype=torch.int64)",
    "embedding_bag": "sum over an axis: gn.sum(nn.Embedding(…)(words), over='word')",
    "conv1d": "gn.nn.TemporalConv, or its from_torch(module), runs along an axis",
}


def instead_of(module: object) -> str | None:
    """What to use in place of a module of torch that runs along a dimension."""
    return next((fix for kind, fix in INSTEAD.items() if isinstance(module, kind)), None)


def asked_its_rank(value: Any, module: object) -> None:
    """Refuse a module that asks a value for the dimension of its positions, or of its examples."""
    name = type(module).__name__
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        refuse_mixing(name)  # before it complains of a missing batch
    fix = instead_of(module)
    # of recurrent layers torch has no batching rule; the others may run along a dimension
    if fix is not None and (value.ndim < 2 or isinstance(module, nn.RNNBase)):
        raise UnsupportedError(
            f"torch.nn.{name} runs along a dimension of its input, and a value has axes instead",
            node=value.label,
            site=user_site(),
            got=repr(value),
            wanted="a module that runs along a named axis",
            fix=fix,
        )


VALUE_OF: tuple[tuple[type, str], ...] = (
    (dict, "declare each: g.output(name, found[name])"),
    (tuple, "take its parts: y, state = module(x)"),
    (list, "take its parts, or join them with torch.stack"),
    (type(None), "return a value: what was called returned nothing"),
    (np.ndarray, "torch.from_numpy(...)"),
    (nn.Module, "call it on a value: module(x)"),
)


def value_of(thing: object) -> str:
    """How a value comes of what is none."""
    found = (fix for kind, fix in VALUE_OF if isinstance(thing, kind))
    return next(found, "wrap it with torch.tensor(...)")


# what cannot be compiled: (whether a source is such, what it is, what to do)
_Kind = tuple[Callable[[Any], bool], str, str]
NO_SOURCE: tuple[_Kind, ...] = (
    (
        lambda s: not isinstance(s, (nn.Module, type)) and not hasattr(s, "ir"),
        "is neither a module nor a graph",
        "give a module: class Net(nn.Module) with graph(self, g)",
    ),
    (lambda s: isinstance(s, type), "is a class, not a module", "make one: gn.compile({0}(…))"),
    (
        lambda s: hasattr(type(s), "explain") and hasattr(type(s), "plan_for"),
        "is compiled already",
        "call it, or compile the module that it was made of",
    ),
    (
        lambda s: isinstance(s, torch.jit.ScriptModule),
        "is scripted: its code is out of sight",
        "compile the module that it was made of",
    ),
    (
        lambda s: hasattr(s, "_orig_mod"),
        "is the work of torch.compile",
        "the other way round: torch.compile(gn.compile(net))",
    ),
    (
        lambda s: isinstance(getattr(s, "module", None), nn.Module) and not hasattr(s, "graph"),
        "wraps a module",
        "the other way round: DistributedDataParallel(gn.compile(net))",
    ),
)


def compilable(source: Any) -> None:
    """Refuse what no graph can be drawn of. Raises GraphError, UnsupportedError."""
    name = source.__name__ if isinstance(source, type) else type(source).__name__
    for is_such, what, fix in NO_SOURCE:
        if is_such(source):
            raise GraphError(
                f"{name} cannot be compiled: it {what}",
                site=user_site(),
                got=name,
                wanted="a graphnn.Graph, or a module whose graph(self, g) draws one",
                fix=fix.format(name),
            )
    for path, module in source.named_modules() if isinstance(source, nn.Module) else ():
        if ".quantized" in type(module).__module__:
            raise UnsupportedError(
                f"'{path}' is quantized: its weights are no tensors that a graph can read",
                site=user_site(),
                got=f"{type(module).__module__}.{type(module).__name__}",
                wanted="modules with floating parameters",
                fix="compile the module as it was before it was quantized",
            )


def drawable(source: Any) -> None:
    """Refuse a module without a `graph(self, g)`. Raises GraphError."""
    draw, name = getattr(source, "graph", None), type(source).__name__
    if not callable(draw):
        raise GraphError(
            f"{name} cannot be compiled",
            got=f"{name}, without a graph(self, g) method",
            wanted="a graphnn.Graph, or a module whose graph(self, g) draws one",
            fix=instead_of(source)
            or "add `def graph(self, g): …` with g.input(...) and g.output(...)",
        )
    try:
        inspect.signature(draw).bind(None)
    except (TypeError, ValueError) as error:
        code = getattr(draw, "__code__", None)
        raise GraphError(
            f"{name}.graph cannot be called with the graph alone: {error}",
            site=Site(code.co_filename, code.co_firstlineno) if code else None,
            got=f"graph{inspect.signature(getattr(draw, '__func__', draw))}",
            wanted="graph(self, g), g being the graph to draw on",
            fix="take inputs of g, as x = g.input('x', …), and sizes of self",
        ) from None


@contextlib.contextmanager
def worded(name: str, here: tuple[str, Site | None], arguments: Any) -> Iterator[None]:
    """What torch says of arguments that do not fit, as an error of ours. Raises ShapeError."""
    try:
        yield
    except GraphnnError:
        raise
    except Exception as error:
        values = [x for x in tree_leaves(arguments) if isinstance(x, Expr)]
        said = _index(arguments) if name == "__getitem__" else None
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        scripted = (line, "tensors", SCRIPTED) if "TorchScript" in line else None
        problem, wanted, fix = (
            said
            or scripted
            or _by_numbers(name, error, line)
            or (
                f"'{name}' cannot be applied to these shapes: {line}",
                FORMS,
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


def _by_numbers(name: str, error: Exception, line: str) -> tuple[str, str, str] | None:
    """Words for a function that torch cannot call without numbers."""
    if not isinstance(error, NotImplementedError) and not any(w in line for w in WITHOUT_NUMBERS):
        return None
    return (
        f"'{name}' cannot be planned: torch looks at numbers in it, to check them or for a shape",
        "a function that decides nothing by the numbers of its operands",
        FIXES.get(name, "write it with plain operations, or compute it outside the graph"),
    )


def _index(arguments: Any) -> tuple[str, str, str] | None:
    """Words for an index that does not fit: (problem, wanted, fix)."""
    (x, index), _ = arguments
    parts = index if isinstance(index, tuple) else (index,)
    if any(getattr(p, "dtype", None) == torch.bool for p in parts):
        return (
            f"'{x.node.label}' is indexed by truth values, of which each example may have others",
            "a result of one shape for all examples",
            "torch.where(mask, x, 0.0), or gn.top for the best of an axis",
        )
    written = sum(p is not None and p is not Ellipsis for p in parts)
    if written <= len(x.shape):
        return None
    axes = [a for a in x.ir.layout(x.axes) if a != "batch"]
    over = axes[0] if axes else "time"
    return (
        f"'{x.node.label}' has {len(x.shape)} dimension(s), and {written} are indexed",
        f"an index of the shape {tuple(x.shape)}: batch and axes are implied, never written",
        f"the last position is gn.last(x, over='{over}'), the first gn.first, the one before "
        f"gn.delay(x, 1, over='{over}')",
    )


# what Python or torch says where a value meets code that takes tensors alone
_Escape = tuple[str, str, str]
ESCAPES: tuple[_Escape, ...] = (
    (
        r"found type 'Value'|Unable to cast Value|TorchScript interpreter",
        "a function of torch.jit is called on a value: its code is out of sight",
        SCRIPTED,
    ),
    (
        r"vmap\(.*Value|not a Tensor \(got .*(Value|State)",
        "torch.vmap is called on a value",
        "leave it out: batch and axes are implied, and a function of values is of one position",
    ),
    (
        r"(must be|expected) Tensor.*(Value|State)|can't convert .*(Value|State)",
        "a function that takes tensors alone is called on a value",
        "use a function of torch on values, or compute it outside and pass it as an input",
    ),
)


def escaped(error: Exception) -> UnsupportedError | None:
    """An error that values caused where nothing of ours could see them, in our words."""
    said = str(error)
    for pattern, problem, fix in ESCAPES:
        if re.search(pattern, said, re.DOTALL):
            return UnsupportedError(
                problem,
                site=raised_at(error),
                got=f"{type(error).__name__}: {said.splitlines()[0]}",
                wanted="torch functions, whose result is a new value",
                fix=fix,
            )
    return None
