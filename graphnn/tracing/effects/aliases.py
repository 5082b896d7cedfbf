"""aliases: which values lie in the memory of which, as torch says of tensors of their form.

Every value that may be a view is asked for on memory without numbers: torch itself says whether a
call gives a view, its operand or a copy, and where in the memory a view lies. A value of which no
view is known is taken to be contiguous.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map

from graphnn.tracing.effects.symbolic import GraphLike, Symbolic, is_value

# functions whose results may be views, or an operand itself
MAYBE = frozenset(
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
    """A view made of another: `pick` is its place among several results.

    A view made under `torch.no_grad()` is not `recorded`: no gradient goes through it.
    """

    function: Any
    args: Any
    kwargs: Any
    pick: int | None
    recorded: bool

    @property
    def followed(self) -> bool:
        """Whether gradients go through the view."""
        return self.recorded and getattr(self.function, "__name__", "") != "detach"

    def take(self, base: Symbolic) -> Symbolic:
        """The view of `base`."""
        args, kwargs = tree_map(lambda x: base if x is _HOLE else x, (self.args, self.kwargs))
        with torch.set_grad_enabled(self.recorded):
            made = base.graph.trace_call(self.function, args, kwargs)
        return made if self.pick is None else made[self.pick]


@dataclass
class Storage:
    """The memory of several values: the node that it holds by now, and who looks at it.

    `read_only`: it is a parameter's, a buffer's or a state's.
    """

    root: int
    read_only: bool
    members: list[weakref.ref[Symbolic]] = field(default_factory=list)

    def alive(self) -> list[Symbolic]:
        """Those of the values that anybody still holds."""
        found = [(r, v) for r in self.members if (v := r()) is not None]
        self.members = [r for r, _ in found]
        return [v for _, v in found]

    def join(self, view: Symbolic, form: torch.Tensor, steps: tuple[ViewStep, ...]) -> None:
        """Let a value be one that looks at this memory, where `form` lies in it."""
        view.memory, view.strided, view.views = self, form, steps
        self.members.append(weakref.ref(view))


def share(graph: GraphLike, function: Any, name: str, args: Any, kwargs: Any, result: Any) -> None:
    """Note which results are views of which operands."""
    operands = list(_operands(graph, args, kwargs))
    results = list(result) if isinstance(result, (tuple, list)) else [result]
    made = {r.id for r in results if is_value(r)}
    same = made & {v.id for _, v in operands} and name not in COPIES
    if not operands or not made or (name not in MAYBE and not same):
        return
    for given, operand in operands:
        memory, where = _memory_of(operand)
        for pick, form in _forms(function, args, kwargs, given, where):
            view = results[pick or 0]
            if not is_value(view) or view is operand:
                continue
            if view.shape == form.shape and view.dtype == form.dtype:
                step = _step(graph, function, args, kwargs, given, pick)
                memory.join(view, form, (*operand.views, step))
                _become(graph, given, operand)


def _operands(graph: GraphLike, args: Any, kwargs: Any) -> Iterator[tuple[Any, Symbolic]]:
    """The values among the arguments, and its other tensors as values, once each."""
    leaves = tree_leaves((args, kwargs))
    tensors: dict[int, Any] = {id(x): x for x in leaves if isinstance(x, torch.Tensor)}
    for x in tensors.values():
        if is_value(x):
            yield x, x
        elif graph.tracer is not None:
            yield x, graph.value(x)


def _become(graph: GraphLike, given: Any, operand: Symbolic) -> None:
    """A tensor made in the graph of which there is a view as a value is a value from now on."""
    if given is not operand and not operand.read_only:
        graph.written[id(given)] = operand
        graph.keep_alive.append(given)


def _memory_of(v: Symbolic) -> tuple[Storage, torch.Tensor]:
    """The memory of a value, made if it has none yet, and where the value lies in it."""
    if v.memory is not None and v.strided is not None:
        return v.memory, v.strided
    memory, where = Storage(v.id, v.read_only), torch.empty(v.shape, dtype=v.dtype, device="meta")
    memory.join(v, where, ())
    return memory, where


def _forms(
    function: Any, args: Any, kwargs: Any, given: Any, where: torch.Tensor
) -> Iterator[tuple[int | None, torch.Tensor]]:
    """The results that lie in the memory of an operand, by their place among the results."""

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
        return  # what needs numbers makes memory of its own
    several = isinstance(made, (tuple, list))
    for pick, x in enumerate(made if several else [made]):
        if isinstance(x, torch.Tensor) and _memory(x) == _memory(where):
            yield pick if several else None, x


def _memory(x: torch.Tensor) -> Any:
    return x.untyped_storage()._cdata if x.layout == torch.strided else id(x)


def _step(
    graph: GraphLike, function: Any, args: Any, kwargs: Any, given: Any, pick: Any
) -> ViewStep:
    args, kwargs = tree_map(lambda x: _HOLE if x is given else x, (args, kwargs))
    return ViewStep(function, args, kwargs, pick, not graph.context.detached)
