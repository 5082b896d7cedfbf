"""Aliases: which values share memory, as torch's tensors of the same shape would.

If a function may return a view, torch runs it on meta tensors. The result shows whether it is a
view, its operand or a copy, and the strides and offset of a view. A value without known views is
assumed to be contiguous.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map

from graphnn.tracing.effects.symbolic import GraphLike, Symbolic, is_value

# functions that may return views, or an operand itself
MAY_ALIAS = frozenset(
    "view reshape flatten unflatten ravel unsqueeze squeeze permute transpose swapaxes swapdims t "
    "movedim moveaxis expand broadcast_to expand_as view_as reshape_as narrow select split "
    "split_with_sizes chunk unbind tensor_split hsplit vsplit dsplit diagonal detach __getitem__ "
    "real imag view_as_real view_as_complex unfold as_strided contiguous to float double half "
    "bfloat16 long int bool type type_as as_tensor asarray cpu conj resolve_conj resolve_neg "
    "adjoint positive __pos__ to_dense atleast_1d atleast_2d atleast_3d broadcast_tensors meshgrid "
    "einsum dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout".split()
)
COPIES = frozenset(("clone", "__deepcopy__"))
_HOLE = object()


@dataclass(frozen=True)
class ViewStep:
    """A call that makes a view: its result number `pick` if it returns several.

    A view made under `torch.no_grad()` is not `recorded`: no gradient flows through it.
    """

    function: Any
    args: Any
    kwargs: Any
    pick: int | None
    recorded: bool

    @property
    def carries_gradient(self) -> bool:
        """Whether gradients flow through the view."""
        return self.recorded and getattr(self.function, "__name__", "") != "detach"

    def apply(self, base: Symbolic) -> Any:
        """The view of `base`."""
        args, kwargs = tree_map(lambda x: base if x is _HOLE else x, (self.args, self.kwargs))
        with torch.set_grad_enabled(self.recorded):
            made = base.graph.trace_call(self.function, args, kwargs)
        return made if self.pick is None else made[self.pick]


@dataclass
class Storage:
    """The memory of several values: the node that computes its contents, and the values in it.

    It is `read_only` if it belongs to a parameter, a buffer or a state.
    """

    root: int
    read_only: bool
    members: list[weakref.ref[Symbolic]] = field(default_factory=list)

    def alive(self) -> list[Symbolic]:
        """The values in this memory that still exist."""
        found = [(r, v) for r in self.members if (v := r()) is not None]
        self.members = [r for r, _ in found]
        return [v for _, v in found]

    def add(self, view: Symbolic, strided: torch.Tensor, views: tuple[ViewStep, ...]) -> None:
        """Add a value with the strides and offset of `strided` to this memory."""
        view.memory, view.strided, view.views = self, strided, views
        self.members.append(weakref.ref(view))


def note_views(
    graph: GraphLike, function: Any, name: str, args: Any, kwargs: Any, result: Any
) -> None:
    """Note which results are views of which operands."""
    operands = list(_operands(graph, args, kwargs))
    results = list(result) if isinstance(result, (tuple, list)) else [result]
    made = {r.id for r in results if is_value(r)}
    same = made & {v.id for _, v in operands} and name not in COPIES
    if not operands or not made or (name not in MAY_ALIAS and not same):
        return
    for given, operand in operands:
        memory, where = _memory_of(operand)
        for pick, strided in _views(function, args, kwargs, given, where):
            view = results[pick or 0]
            if not is_value(view) or view is operand:
                continue
            if view.shape == strided.shape and view.dtype == strided.dtype:
                step = _step(graph, function, args, kwargs, given, pick)
                memory.add(view, strided, (*operand.views, step))
                _note_written(graph, given, operand)


def _operands(graph: GraphLike, args: Any, kwargs: Any) -> Iterator[tuple[Any, Symbolic]]:
    """The distinct tensors among the arguments, each with its value."""
    leaves = tree_leaves((args, kwargs))
    tensors: dict[int, Any] = {id(x): x for x in leaves if isinstance(x, torch.Tensor)}
    for x in tensors.values():
        if is_value(x):
            yield x, x
        elif graph.tracer is not None:
            yield x, graph.value(x)


def _note_written(graph: GraphLike, given: Any, operand: Symbolic) -> None:
    """Note that a tensor made during the trace has become a value, because a value views it."""
    if given is not operand and not operand.read_only:
        graph.written[id(given)] = operand
        graph.keep_alive.append(given)


def _memory_of(v: Symbolic) -> tuple[Storage, torch.Tensor]:
    """The memory of a value, created if it has none yet, and the strides of the value in it."""
    if v.memory is not None and v.strided is not None:
        return v.memory, v.strided
    memory, where = Storage(v.id, v.read_only), torch.empty(v.shape, dtype=v.dtype, device="meta")
    memory.add(v, where, ())
    return memory, where


def _views(
    function: Any, args: Any, kwargs: Any, given: Any, where: torch.Tensor
) -> Iterator[tuple[int | None, torch.Tensor]]:
    """The results that are views of an operand with strides `where`, each with its number."""

    def meta(x: Any) -> Any:
        if x is given:
            return where
        if isinstance(x, torch.Tensor):
            return torch.empty(x.shape, dtype=x.dtype, device="meta")
        return x

    try:
        with torch._C.DisableTorchFunction(), torch.no_grad():
            made = function(*tree_map(meta, args), **tree_map(meta, kwargs))
    except Exception:
        return  # a function that needs elements returns new memory
    several = isinstance(made, (tuple, list))
    for pick, x in enumerate(made if several else [made]):
        if isinstance(x, torch.Tensor) and _storage(x) == _storage(where):
            yield pick if several else None, x


def _storage(x: torch.Tensor) -> Any:
    return x.untyped_storage()._cdata if x.layout == torch.strided else id(x)


def _step(
    graph: GraphLike, function: Any, args: Any, kwargs: Any, given: Any, pick: Any
) -> ViewStep:
    args, kwargs = tree_map(lambda x: _HOLE if x is given else x, (args, kwargs))
    return ViewStep(function, args, kwargs, pick, not graph.context.detached)
