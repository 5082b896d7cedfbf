"""Tracer: every torch call made while a graph is drawn, whether or not it has a value of the graph.

A call that reads a value, a parameter, a buffer or any other tensor made before becomes part of the
graph, and so does one that draws random numbers. What is left computes constants: it runs at once.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from graphnn.errors import UnsupportedError
from graphnn.ir.source_location import user_site
from graphnn.ops.torch.inference import RandomCalls
from graphnn.ops.torch.unsupported import refuse_random
from graphnn.tracing.effects import initialization, inplace, random
from graphnn.tracing.effects.symbolic import GraphLike, is_value
from graphnn.tracing.guards import Watch

# questions about a tensor whose answers no training changes
QUERIES = frozenset(
    "size dim ndimension numel nelement stride is_contiguous element_size is_floating_point "
    "is_complex is_signed get_device data_ptr storage_offset untyped_storage storage __len__ "
    "__repr__ __str__ __format__ __hash__ __dir__ __reduce_ex__ is_same_size is_inference "
    "is_shared is_pinned result_type can_cast broadcast_shapes requires_grad_ is_coalesced "
    "__instancecheck__ is_tensor has_names is_conj is_neg is_storage".split()
)
# what gives numbers to Python, which the graph then holds as they are
NUMBERS = frozenset(
    "item tolist numpy __array__ __bool__ __float__ __int__ __index__ __complex__ __contains__ "
    "equal allclose is_nonzero".split()
)
# attributes that are values in turn
VALUED = frozenset("T mT H mH real imag data".split())


class TracedGraph(GraphLike, Protocol):
    """A graph that keeps the guards of its trace."""

    watch: Watch


class Tracer(TorchFunctionMode):
    """The torch calls of one graph, while it is drawn."""

    def __init__(self, graph: TracedGraph):
        super().__init__()
        self.graph = graph
        # the tensors made meanwhile: constants, unless they are written to by a value
        self.made: dict[int, weakref.ref[torch.Tensor]] = {}
        # those drawn by a generator of the user's own: parameters may start from them
        self.user_random: set[int] = set()
        # views of parameters that are being made: parameters start from what is written to them
        self.starts: set[int] = set()

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        at_work = initialization.filled()
        if at_work is not None:
            name, filled = at_work
            if self._begins(filled):
                return function(*args, **kwargs)
            if name in initialization.REFUSED:
                refuse_random(name)
        if function in initialization.FILLED:
            with self:
                return initialization.FILLED[function](*args, **kwargs)
        return self._seen(function, args, kwargs)

    def _seen(self, function: Any, args: Any, kwargs: Any) -> Any:
        """What a call gives that is no initialisation of a parameter."""
        leaves = tree_leaves((args, kwargs))
        if any(self._transformed(x) for x in leaves):
            _refuse_transform(function)
        if any(is_value(x) for x in leaves):
            return self.graph.apply(function, args, kwargs)
        name = name_of(function)
        if any(self.tracks(x) for x in leaves):
            return self._followed(function, name, args, kwargs)
        own = kwargs.get("generator") is not None or any(id(x) in self.user_random for x in leaves)
        begun = [x for x in leaves if self._begins(x)]
        if name in random.DRAWN and not begun and not own:
            return self.graph.apply(function, args, kwargs)
        with RandomCalls() as drawn:
            result = function(*args, **kwargs)
        if drawn.found and not begun and not own:
            refuse_random(name)
        result = tree_map(self.add_user_random if own else self.add, result)
        if begun:
            tensors = (x for x in tree_leaves(result) if isinstance(x, torch.Tensor))
            self.starts.update(id(x) for x in tensors if initialization.shares(x, begun))
        return result

    def _begins(self, x: Any) -> bool:
        """Whether a tensor is a parameter, or shows the memory of one that is being made."""
        return isinstance(x, nn.Parameter) or id(x) in self.starts

    def tracks(self, x: Any) -> bool:
        """Whether a tensor was there before the drawing: what is computed of it may change."""
        if not isinstance(x, torch.Tensor):
            return False
        if isinstance(x, nn.Parameter):
            return id(x) in self.graph.known
        return id(x) in self.graph.written or id(x) not in self.made

    def _transformed(self, x: Any) -> bool:
        """Whether torch.func differentiates or maps over a tensor here."""
        if not isinstance(x, torch.Tensor) or is_value(x) or id(x) in self.graph.known:
            return False
        return torch._C._functorch.is_functorch_wrapped_tensor(x)

    def shares_memory(self, x: torch.Tensor) -> bool:
        """Whether another tensor made meanwhile has a part of the memory of `x`."""
        storage = x.untyped_storage().data_ptr()
        others = [r() for i, r in self.made.items() if i != id(x)]
        return any(o is not None and o.untyped_storage().data_ptr() == storage for o in others)

    def add(self, x: Any) -> Any:
        """Note a tensor as made in the graph."""
        if isinstance(x, torch.Tensor) and id(x) not in self.made:
            i = id(x)
            self.made[i] = weakref.ref(x, lambda _: self._gone(i))
        return x

    def add_user_random(self, x: Any) -> Any:
        """Note a tensor as made in the graph, of numbers that no call would draw again."""
        self.user_random.add(id(self.add(x)))
        return x

    def _gone(self, i: int) -> None:
        self.made.pop(i, None)
        self.user_random.discard(i)
        self.starts.discard(i)

    def _followed(self, function: Any, name: str, args: Any, kwargs: Any) -> Any:
        if name in QUERIES or (name == "type" and len(args) == 1 and not kwargs):
            return function(*args, **kwargs)
        if name.startswith(("get ", "set ")):
            return self._attribute(function, name, args)
        if name in NUMBERS and not any(id(x) in self.graph.written for x in args):
            return self._numbers(function, name, args, kwargs)
        return self.graph.apply(function, args, kwargs)

    def _attribute(self, function: Any, name: str, args: Any) -> Any:
        kind, _, attribute = name.partition(" ")
        if kind == "set" and attribute == "data":
            inplace.refuse_outside("data", args[0])
        if attribute in VALUED:
            return getattr(self.graph.value(args[0]), attribute)
        return function(*args)

    def _numbers(self, function: Any, name: str, args: Any, kwargs: Any) -> Any:
        """Numbers of a buffer are read again where it changes; those of a parameter always do."""
        for x in (x for x in tree_leaves((args, kwargs)) if self.tracks(x)):
            if x.requires_grad:
                raise UnsupportedError(
                    f"a parameter cannot become a Python number ({name})",
                    node=self.graph.known.get(id(x), ""),
                    site=user_site(),
                    got=f"a parameter of shape {tuple(x.shape)}, which training changes",
                    wanted="a tensor: w.detach(), w.abs().max() …",
                    fix="compute with the tensor; what decides a branch is torch.where",
                )
            self.graph.watch.number(x)
        return function(*args, **kwargs)


def name_of(function: Callable[..., Any]) -> str:
    """A function's name; "get shape" and "set data" for attributes of tensors."""
    name = getattr(function, "__name__", str(function))
    if name in ("__get__", "__set__", "__delete__"):
        return f"{name.strip('_')} {getattr(function.__self__, '__name__', '')}"  # type: ignore[attr-defined]
    return name


def asked(function: Any, name: str, args: Any, kwargs: Any) -> Any:
    """What a question about values is answered with; an attribute that is a value is one."""
    attribute = name.partition(" ")[2]
    if attribute in VALUED:
        return getattr(args[0], attribute)
    if name == "requires_grad_":
        return args[0]
    if name == "is_tensor":
        return True
    return function(*tree_map(_meta, args), **tree_map(_meta, kwargs))


def _meta(x: Any) -> Any:
    return torch.empty(x.shape, dtype=x.dtype, device="meta") if is_value(x) else x


def _refuse_transform(function: Any) -> None:
    raise UnsupportedError(
        "torch.func transforms cannot be used within a graph",
        site=user_site(),
        got=f"'{name_of(function)}' under torch.func.grad, vmap, jvp or the like",
        wanted="operations of one example; what a gradient is, written out",
        fix="write the derivative as a formula, or transform the compiled model instead",
    )
