"""inplace: work in place, seen through every name and view of the value that it changes.

Values never change: a call in place makes a new one, which the names then mean. After a change
through one view all others of the same memory are made again (see `tracing.aliases`).
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
from graphnn.tracing.effects.autograd_function import drawn
from graphnn.tracing.effects.random import DRAWN
from graphnn.tracing.effects.symbolic import GraphLike, Symbolic, is_value

# functions that give back their operand itself where nothing is to be done
SAME = frozenset(
    "contiguous to float double half bfloat16 type type_as as_tensor cpu conj resolve_conj flatten "
    "dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout".split()
)


def given_back(name: str, result: Any, operand: Any, kwargs: Any) -> bool:
    """Whether torch gives an operand back, as one of the functions `SAME` had nothing to do."""
    if name not in SAME or kwargs.get("copy") or result.dtype != operand.dtype:
        return False
    return result.id == operand.id or (name not in _NOISY and result.shape == operand.shape)


_NOISY = frozenset(name for name in SAME if "dropout" in name)
_READS = itertools.count(1)


def version(x: torch.Tensor) -> int:
    """How often a tensor was written to: another number each time where inference mode hides it."""
    return -next(_READS) if x.is_inference() else x._version


def changed(function: Callable[..., Any], name: str, args: Any, kwargs: Any) -> Any:
    """What a call changes in place, and the call that computes it; None if it changes nothing."""
    if kwargs.get("out") is not None:
        refuse(kwargs["out"], f"out= of {name}", "use the result of the operation instead of out=")
    if name == "requires_grad_" or not args:
        return None
    if name == "__setitem__":
        return name, args[0], _put, args, kwargs
    if name.startswith("__i") and name.endswith("__") and name not in ("__invert__", "__index__"):
        return name, args[0], getattr(torch.Tensor, f"__{name[3:]}"), args, kwargs
    if name.endswith("_") and not name.endswith("__"):
        return name, args[0], _pure(function, name), args, kwargs
    return _asked(function, name, args, kwargs)


@functools.lru_cache(None)
def _signature(function: Any) -> inspect.Signature | None:
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):
        return None


def _asked(function: Any, name: str, args: Any, kwargs: Any) -> Any:
    """Functions that take `inplace`, as torch's activations do."""
    signature = _signature(function)
    if signature is None or "inplace" not in signature.parameters:
        return None
    bound = signature.bind(*args, **kwargs)
    if not bound.arguments.get("inplace"):
        return None
    bound.arguments["inplace"] = False
    return name, args[0], function, bound.args, bound.kwargs


def _pure(function: Any, name: str) -> Any:
    """The function that computes what one in place writes."""
    if name in _FILLS:
        return _FILLS[name]
    if name in DRAWN:
        return function  # noise that a tensor is filled with
    pure = getattr(torch.Tensor, name[:-1], None) or getattr(torch, name[:-1], None)
    return pure or getattr(nn.functional, name[:-1], None)


def _full(x: Symbolic, value: Any) -> Any:
    return _written_as(x, value).expand(x.shape)


def _written_as(x: Symbolic, value: Any) -> Any:
    """What is written to `x`, in its dtype."""
    number = isinstance(value, (bool, int, float))
    given = torch.as_tensor(value, dtype=x.dtype) if number else value
    return x.graph.value(given).to(x.dtype)


_FILLS: dict[str, Callable[..., Any]] = {
    "zero_": lambda x: _full(x, 0),
    "fill_": _full,
    "copy_": lambda x, source, non_blocking=False: _full(x, source),
}


def write(graph: GraphLike, name: str, target: Any, pure: Any, args: Any, kwargs: Any) -> Any:
    """Carry out the call `name`, which changes `target`; returns the value that it is now."""
    if not is_value(target):
        return _over_constant(graph, name, target, pure, args, kwargs)
    if target.read_only if target.memory is None else target.memory.read_only:
        refuse(target, name, "write it on a copy: v.clone()")
    if target.strided is not None and _overlaps(target.strided):
        refuse(target, f"{name} of an expanded value", "write it on a copy: v.clone()")
    if pure is None:
        refuse(target, name, "write the operation without the trailing underscore")
    made = pure(*args) if pure in _OURS else graph.trace_call(pure, args, kwargs)
    if made.dtype != target.dtype:
        made = _narrowed(target, made, name)
    if made.shape != target.shape:
        made = made.expand(target.shape)
    _settle(target, made)
    return target


def _overlaps(form: torch.Tensor) -> bool:
    """Whether several elements lie in one place of the memory, which torch refuses to write to."""
    return any(step == 0 and n > 1 for n, step in zip(form.shape, form.stride(), strict=True))


class _Unrecorded(torch.autograd.Function):
    """What was written without a record of it: new numbers, differentiated as the old ones."""

    @staticmethod
    def forward(ctx: Any, old: Any, new: Any) -> Any:
        return new.clone()

    @staticmethod
    def backward(ctx: Any, flow: Any) -> Any:  # type: ignore[override]
        return flow, None


def _recorded(target: Symbolic, old: int, new: Any) -> Any:
    """What was written over `old`, whose history torch keeps under `torch.no_grad()` and through a
    detached view."""
    graph = target.graph
    if not graph.context.detached and all(step.followed for step in target.views):
        return new
    with torch.enable_grad():
        return drawn(graph, _Unrecorded, graph.value_of(old), new)


def _narrowed(target: Any, made: Any, name: str) -> Any:
    """A result in the dtype of what it is written over, as torch casts it."""
    if not torch.can_cast(made.dtype, target.dtype):
        raise UnsupportedError(
            f"the result of '{name}' cannot be written over a value of {target.dtype}",
            node=target.label,
            site=user_site(),
            got=made.dtype,
            wanted=target.dtype,
            fix=f"use the result instead, or .to({made.dtype}) first",
        )
    return made.to(target.dtype)


def _settle(target: Symbolic, made: Symbolic) -> None:
    """`target` is `made` from now on, and whoever shares its memory sees it."""
    storage = target.memory
    others = [v for v in storage.alive() if v is not target] if storage is not None else []
    if storage is None or not others:
        made = _recorded(target, target.id, made)
        target.id, target.memory, target.strided, target.views = made.id, None, None, ()
        return
    root = _recorded(target, storage.root, _written(target, made, storage))
    storage.root = root.id
    for other in (target, *others):
        view = root
        for step in other.views:
            view = step.take(view)
        other.id = view.id


def _written(target: Symbolic, made: Symbolic, storage: Storage) -> Symbolic:
    """What views are views of, with `made` in the place of the view `target`."""
    if not target.views:
        return made
    root: Any = target.graph.value_of(storage.root)
    form: Any = target.strided
    if form.dtype != root.dtype:
        refuse(target, "a write through a view of another dtype", "write the value itself")
    line = torch.arange(root.shape.numel())
    places = line.as_strided(form.shape, form.stride(), form.storage_offset())
    return _scattered(root, places, made)  # type: ignore[no-any-return]


def _scattered(base: Any, places: torch.Tensor, part: Any) -> Any:
    """`base` with the numbers of `part` at `places`, flat positions in it."""
    flat, n = places.reshape(-1), base.shape.numel()
    if not flat.numel():
        return base
    source = torch.arange(n)
    source[flat] = torch.arange(n, n + flat.numel())
    numbers = part.expand(places.shape).reshape(-1)
    pieces = [base.reshape(-1), numbers]
    runs, start = [], 0
    order = source.tolist()
    for i in range(1, n + 1):
        if i == n or order[i] != order[i - 1] + 1 or order[i] == n:
            runs.append((order[start], order[i - 1] + 1))
            start = i
    if len(runs) > MOST_RUNS:
        refuse(base, "a scattered write", "build the result with torch.where or torch.cat")
    cut = [pieces[0][a:b] if b <= n else pieces[1][a - n : b - n] for a, b in runs]
    return (cut[0] if len(cut) == 1 else torch.cat(cut)).reshape(base.shape)


# pieces that a value may be put together of after a write through a view
MOST_RUNS = 256


def _put(x: Any, index: Any, value: Any) -> Any:
    """`x[index] = value`, for an index of whole numbers, slices, None and Ellipsis."""
    part = _written_as(x, value)
    items = index if isinstance(index, tuple) else (index,)
    masks = [i for i in items if is_value(i)]
    if len(items) == 1 and masks and masks[0].dtype == torch.bool and not part.shape:
        mask = masks[0].reshape((*masks[0].shape, *[1] * (x.ndim - masks[0].ndim)))
        return torch.where(mask, part, x)
    if masks:
        refuse(x, "__setitem__ by a value", "use torch.where, torch.scatter or torch.index_put")
    places = torch.arange(x.shape.numel()).reshape(x.shape)[index]
    while part.ndim > places.ndim and part.shape[0] == 1:
        part = part[0]
    return _scattered(x, places, part)


# what is written with values themselves
_OURS = frozenset((_put, *_FILLS.values()))


def _over_constant(
    graph: GraphLike, name: str, target: Any, pure: Any, args: Any, kwargs: Any
) -> Any:
    """A tensor made in the graph that a value, or noise, is written to becomes a value itself."""
    if id(target) in graph.written:
        present = graph.written[id(target)]
        return write(graph, name, present, pure, (present, *args[1:]), kwargs)
    tracer = graph.tracer
    if tracer is None or id(target) not in tracer.made:
        refuse_outside(name, target)
    elif target._is_view() or tracer.shares_memory(target):
        refuse(target, "a write through a view", "build the result with torch.cat or torch.stack")
    if name not in DRAWN:
        args = (graph.value(target), *args[1:])
    made = pure(*args) if pure in _OURS else graph.trace_call(pure, args, kwargs)
    made = made if made.dtype == target.dtype else made.to(target.dtype)
    graph.written[id(target)] = made
    graph.keep_alive.append(target)
    return made


def refuse(target: Any, what: str, fix: str) -> None:
    """Raise the error of a change in place that cannot be followed."""
    raise UnsupportedError(
        f"a symbolic value cannot be changed in place here ({what})",
        node=getattr(target, "label", ""),
        site=user_site(),
        got=repr(target) if is_value(target) else f"a tensor of shape {tuple(target.shape)}",
        wanted="an operation that returns a new value",
        fix=fix,
    )


def refuse_outside(what: str, target: torch.Tensor) -> None:
    """Raise the error of a parameter, buffer or other tensor that a call would change."""
    refuse(
        target,
        f"{what}: a parameter, a buffer, or a tensor that was there before the graph",
        "keep what changes from position to position in a state: g.state(…), z.next = …",
    )
