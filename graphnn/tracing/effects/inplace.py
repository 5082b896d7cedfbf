"""In-place writes: they are visible through every name and view of the value that they change.

Nodes never change: a write makes a new node, and the value then refers to it. After a write
through one view, all other values in the same memory are computed again (see `aliases`).
"""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from graphnn.errors import UnsupportedError
from graphnn.ir.source_location import user_site
from graphnn.tracing.effects.aliases import Storage
from graphnn.tracing.effects.autograd_function import trace_function
from graphnn.tracing.effects.random import RANDOM
from graphnn.tracing.effects.symbolic import GraphLike, Symbolic, is_value

# functions that return their operand itself if there is nothing to do
MAY_RETURN_OPERAND = frozenset(
    "contiguous to float double half bfloat16 type type_as as_tensor cpu conj resolve_conj flatten "
    "dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout".split()
)


def returns_operand(name: str, result: Any, operand: Any, kwargs: Any) -> bool:
    """Whether torch returns the operand itself, because the function had nothing to do."""
    if name not in MAY_RETURN_OPERAND or kwargs.get("copy") or result.dtype != operand.dtype:
        return False
    return result.id == operand.id or (name not in _DROPOUT and result.shape == operand.shape)


_DROPOUT = frozenset(name for name in MAY_RETURN_OPERAND if "dropout" in name)
_VERSIONS = itertools.count(1)


def version(x: torch.Tensor) -> int:
    """The version of a tensor; a new one at each call if inference mode hides the version."""
    return -next(_VERSIONS) if x.is_inference() else x._version


def written_call(function: Callable[..., Any], name: str, args: Any, kwargs: Any) -> Any:
    """The target of an in-place call and the call that computes its new value; None for others."""
    if kwargs.get("out") is not None:
        refuse(kwargs["out"], f"out= of {name}", "use the result of the operation instead of out=")
    if name == "requires_grad_" or not args:
        return None
    if name == "__setitem__":
        return name, args[0], _set_item, args, kwargs
    if name.startswith("__i") and name.endswith("__") and name not in ("__invert__", "__index__"):
        return name, args[0], getattr(torch.Tensor, f"__{name[3:]}"), args, kwargs
    if name.endswith("_") and not name.endswith("__"):
        return name, args[0], _out_of_place(function, name), args, kwargs
    return _inplace_argument(function, name, args, kwargs)


@functools.lru_cache(None)
def _signature(function: Any) -> inspect.Signature | None:
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):
        return None


def _inplace_argument(function: Any, name: str, args: Any, kwargs: Any) -> Any:
    """As `written_call`, for functions with an argument `inplace`, such as activations."""
    signature = _signature(function)
    if signature is None or "inplace" not in signature.parameters:
        return None
    bound = signature.bind(*args, **kwargs)
    if not bound.arguments.get("inplace"):
        return None
    bound.arguments["inplace"] = False
    return name, args[0], function, bound.args, bound.kwargs


def _out_of_place(function: Any, name: str) -> Any:
    """The out-of-place version of an in-place function."""
    if name in _FILLS:
        return _FILLS[name]
    if name in RANDOM:
        return function  # it fills a tensor with random numbers
    pure = getattr(torch.Tensor, name[:-1], None) or getattr(torch, name[:-1], None)
    return pure or getattr(nn.functional, name[:-1], None)


def _full(x: Symbolic, value: Any) -> Any:
    return _cast_to(x, value).expand(x.shape)


def _cast_to(x: Symbolic, value: Any) -> Any:
    """A number or tensor as a value with the dtype of `x`."""
    number = isinstance(value, (bool, int, float))
    given = torch.as_tensor(value, dtype=x.dtype) if number else value
    return x.graph.value(given).to(x.dtype)


_FILLS: dict[str, Callable[..., Any]] = {
    "zero_": lambda x: _full(x, 0),
    "fill_": _full,
    "copy_": lambda x, source, non_blocking=False: _full(x, source),
}


def write(graph: GraphLike, name: str, target: Any, pure: Any, args: Any, kwargs: Any) -> Any:
    """Trace the in-place call `name`, computed by `pure`; returns the target with its new node."""
    if not is_value(target):
        return _over_constant(graph, name, target, pure, args, kwargs)
    if target.read_only if target.memory is None else target.memory.read_only:
        refuse(target, name, "write to a copy: v.clone()")
    if target.strided is not None and _overlaps(target.strided):
        refuse(target, f"{name} of an expanded value", "write to a copy: v.clone()")
    if pure is None:
        refuse(target, name, "use the function without the trailing underscore")
    made = pure(*args) if pure in _OF_VALUES else graph.trace_call(pure, args, kwargs)
    if made.dtype != target.dtype:
        made = _cast_result(target, made, name)
    if made.shape != target.shape:
        made = made.expand(target.shape)
    _replace(target, made)
    return target


def _overlaps(x: torch.Tensor) -> bool:
    """Whether several elements share one memory location; torch does not write to these."""
    return any(step == 0 and n > 1 for n, step in zip(x.shape, x.stride(), strict=True))


class _Unrecorded(torch.autograd.Function):
    """A write that torch does not record: new elements with the gradient of the old ones."""

    @staticmethod
    def forward(ctx: Any, old: Any, new: Any) -> Any:
        return new.clone()

    @staticmethod
    def backward(ctx: Any, flow: Any) -> Any:  # type: ignore[override]
        return flow, None


def _with_history(target: Symbolic, old: int, new: Any) -> Any:
    """The value after `new` was written over `old`.

    As in torch, it keeps the gradient of `old` under `torch.no_grad()` and through a detached view.
    """
    graph = target.graph
    if not graph.context.detached and all(step.carries_gradient for step in target.views):
        return new
    with torch.enable_grad():
        return trace_function(graph, _Unrecorded, graph.value_of(old), new)


def _cast_result(target: Any, made: Any, name: str) -> Any:
    """A result cast to the dtype of its target. Raises UnsupportedError if torch cannot cast it."""
    if not torch.can_cast(made.dtype, target.dtype):
        raise UnsupportedError(
            f"the result of '{name}' cannot be written to a value of {target.dtype}",
            node=target.label,
            site=user_site(),
            got=made.dtype,
            wanted=target.dtype,
            fix=f"use the result instead, or cast the value with .to({made.dtype}) first",
        )
    return made.to(target.dtype)


def _replace(target: Symbolic, made: Symbolic) -> None:
    """Give `target` the node of `made`, and compute all other values in its memory again."""
    storage = target.memory
    others = [v for v in storage.alive() if v is not target] if storage is not None else []
    if storage is None or not others:
        made = _with_history(target, target.id, made)
        target.id, target.memory, target.strided, target.views = made.id, None, None, ()
        return
    root = _with_history(target, storage.root, _root_with(target, made, storage))
    storage.root = root.id
    for other in (target, *others):
        view = root
        for step in other.views:
            view = step.apply(view)
        other.id = view.id


def _root_with(target: Symbolic, made: Symbolic, storage: Storage) -> Symbolic:
    """The contents of the memory, with `made` at the elements of the view `target`."""
    if not target.views:
        return made
    root: Any = target.graph.value_of(storage.root)
    strided: Any = target.strided
    if strided.dtype != root.dtype:
        refuse(target, "a write through a view of another dtype", "write to the value itself")
    flat = torch.arange(root.shape.numel())
    indices = flat.as_strided(strided.shape, strided.stride(), strided.storage_offset())
    return _scattered(root, indices, made)  # type: ignore[no-any-return]


def _scattered(base: Any, indices: torch.Tensor, part: Any) -> Any:
    """`base` with the elements of `part` at the flat `indices`."""
    flat, n = indices.reshape(-1), base.shape.numel()
    if not flat.numel():
        return base
    source = torch.arange(n)
    source[flat] = torch.arange(n, n + flat.numel())
    elements = part.expand(indices.shape).reshape(-1)
    pieces = [base.reshape(-1), elements]
    runs, start = [], 0
    order = source.tolist()
    for i in range(1, n + 1):
        if i == n or order[i] != order[i - 1] + 1 or order[i] == n:
            runs.append((order[start], order[i - 1] + 1))
            start = i
    if len(runs) > MAX_PIECES:
        refuse(base, "a scattered write", "build the result with torch.where or torch.cat")
    cut = [pieces[0][a:b] if b <= n else pieces[1][a - n : b - n] for a, b in runs]
    return (cut[0] if len(cut) == 1 else torch.cat(cut)).reshape(base.shape)


# the maximum number of pieces that are concatenated after a write through a view
MAX_PIECES = 256


def _set_item(x: Any, index: Any, value: Any) -> Any:
    """`x` after `x[index] = value`, for an index of integers, slices, None and Ellipsis."""
    part = _cast_to(x, value)
    items = index if isinstance(index, tuple) else (index,)
    masks = [i for i in items if is_value(i)]
    if len(items) == 1 and masks and masks[0].dtype == torch.bool and not part.shape:
        mask = masks[0].reshape((*masks[0].shape, *[1] * (x.ndim - masks[0].ndim)))
        return torch.where(mask, part, x)
    if masks:
        refuse(x, "__setitem__ by a value", "use torch.where, torch.scatter or torch.index_put")
    indices = torch.arange(x.shape.numel()).reshape(x.shape)[index]
    while part.ndim > indices.ndim and part.shape[0] == 1:
        part = part[0]
    return _scattered(x, indices, part)


# functions that compute with values
_OF_VALUES = frozenset((_set_item, *_FILLS.values()))


def _over_constant(
    graph: GraphLike, name: str, target: Any, pure: Any, args: Any, kwargs: Any
) -> Any:
    """Write a value or random numbers to a tensor made during the trace: it becomes a value."""
    if id(target) in graph.written:
        present = graph.written[id(target)]
        return write(graph, name, present, pure, (present, *args[1:]), kwargs)
    tracer = graph.tracer
    if tracer is None or id(target) not in tracer.made:
        refuse_outside(name, target)
    elif target._is_view() or tracer.shares_memory(target):
        refuse(target, "a write through a view", "build the result with torch.cat or torch.stack")
    if name not in RANDOM:
        args = (graph.value(target), *args[1:])
    made = pure(*args) if pure in _OF_VALUES else graph.trace_call(pure, args, kwargs)
    made = made if made.dtype == target.dtype else made.to(target.dtype)
    graph.written[id(target)] = made
    graph.keep_alive.append(target)
    return made


def refuse(target: Any, what: str, fix: str) -> None:
    """Raise the error of an in-place write that cannot be traced."""
    raise UnsupportedError(
        f"a symbolic value cannot be changed in place here ({what})",
        node=getattr(target, "label", ""),
        site=user_site(),
        got=repr(target) if is_value(target) else f"a tensor of shape {tuple(target.shape)}",
        wanted="an operation that returns a new value",
        fix=fix,
    )


def refuse_outside(what: str, target: torch.Tensor) -> None:
    """Raise the error of a write to a parameter, a buffer or a tensor from before the trace."""
    refuse(
        target,
        f"{what}: a parameter, a buffer, or a tensor from before the trace",
        "use a state for what changes from position to position: g.state(…), z.next = …",
    )
