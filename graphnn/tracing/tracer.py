"""The tracer sees every torch call during a trace.

A call becomes part of the graph if it reads a value, a parameter, a buffer or any other tensor
from before the trace, or if it draws random numbers. All other calls compute constants: they run
at once.
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
from graphnn.tracing.guards import Guards

# queries of a tensor whose results do not change in training
QUERIES = frozenset(
    "size dim ndimension numel nelement stride is_contiguous element_size is_floating_point "
    "is_complex is_signed get_device data_ptr storage_offset untyped_storage storage __len__ "
    "__repr__ __str__ __format__ __hash__ __dir__ __reduce_ex__ is_same_size is_inference "
    "is_shared is_pinned result_type can_cast broadcast_shapes requires_grad_ is_coalesced "
    "__instancecheck__ is_tensor has_names is_conj is_neg is_storage".split()
)
# functions that return elements to Python, which become constants of the graph
TO_PYTHON = frozenset(
    "item tolist numpy __array__ __bool__ __float__ __int__ __index__ __complex__ __contains__ "
    "equal allclose is_nonzero".split()
)
# attributes of values that are values
VALUE_ATTRIBUTES = frozenset("T mT H mH real imag data".split())


class TracedGraph(GraphLike, Protocol):
    """A graph that keeps the guards of its trace."""

    guards: Guards


class Tracer(TorchFunctionMode):
    """The torch calls of one trace."""

    def __init__(self, graph: TracedGraph):
        super().__init__()
        self.graph = graph
        # the tensors made during the trace: constants, unless a value is written to them
        self.made: dict[int, weakref.ref[torch.Tensor]] = {}
        # those that the user's own generator drew: parameters may start from them
        self.user_random: set[int] = set()
        # views of parameters that are being created, and are initialised through them
        self.initialised: set[int] = set()

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        running = initialization.running_init()
        if running is not None:
            name, filled = running
            if self._initialises(filled):
                return function(*args, **kwargs)
            if name in initialization.REFUSED:
                refuse_random(name)
        if function in initialization.INIT:
            with self:
                return initialization.INIT[function](*args, **kwargs)
        return self._call(function, args, kwargs)

    def _call(self, function: Any, args: Any, kwargs: Any) -> Any:
        """The result of a call that does not initialise a parameter."""
        leaves = tree_leaves((args, kwargs))
        if any(self._transformed(x) for x in leaves):
            _refuse_transform(function)
        if any(is_value(x) for x in leaves):
            return self.graph.apply(function, args, kwargs)
        name = name_of(function)
        if any(self.tracks(x) for x in leaves):
            return self._tracked(function, name, args, kwargs)
        by_user = kwargs.get("generator") is not None or any(
            id(x) in self.user_random for x in leaves
        )
        started = [x for x in leaves if self._initialises(x)]
        if name in random.RANDOM and not started and not by_user:
            return self.graph.apply(function, args, kwargs)
        with RandomCalls() as calls:
            result = function(*args, **kwargs)
        if calls.found and not started and not by_user:
            refuse_random(name)
        result = tree_map(self.add_user_random if by_user else self.add, result)
        if started:
            tensors = (x for x in tree_leaves(result) if isinstance(x, torch.Tensor))
            self.initialised.update(
                id(x) for x in tensors if initialization.shares_memory(x, started)
            )
        return result

    def _initialises(self, x: Any) -> bool:
        """Whether a tensor is a parameter, or a view of one that is being created."""
        return isinstance(x, nn.Parameter) or id(x) in self.initialised

    def tracks(self, x: Any) -> bool:
        """Whether a tensor is from before the trace, so that its elements may change later."""
        if not isinstance(x, torch.Tensor):
            return False
        if isinstance(x, nn.Parameter):
            return id(x) in self.graph.known
        return id(x) in self.graph.written or id(x) not in self.made

    def _transformed(self, x: Any) -> bool:
        """Whether a torch.func transform is applied to a tensor during the trace."""
        if not isinstance(x, torch.Tensor) or is_value(x) or id(x) in self.graph.known:
            return False
        return torch._C._functorch.is_functorch_wrapped_tensor(x)

    def shares_memory(self, x: torch.Tensor) -> bool:
        """Whether another tensor made during the trace shares memory with `x`."""
        storage = x.untyped_storage().data_ptr()
        others = [r() for i, r in self.made.items() if i != id(x)]
        return any(o is not None and o.untyped_storage().data_ptr() == storage for o in others)

    def add(self, x: Any) -> Any:
        """Note a tensor as made during the trace; returns it."""
        if isinstance(x, torch.Tensor) and id(x) not in self.made:
            i = id(x)
            self.made[i] = weakref.ref(x, lambda _: self._forget(i))
        return x

    def add_user_random(self, x: Any) -> Any:
        """Note a tensor as drawn by the user's own generator; returns it."""
        self.user_random.add(id(self.add(x)))
        return x

    def _forget(self, i: int) -> None:
        self.made.pop(i, None)
        self.user_random.discard(i)
        self.initialised.discard(i)

    def _tracked(self, function: Any, name: str, args: Any, kwargs: Any) -> Any:
        """The result of a call on tensors from before the trace."""
        if name in QUERIES or (name == "type" and len(args) == 1 and not kwargs):
            return function(*args, **kwargs)
        if name.startswith(("get ", "set ")):
            return self._attribute(function, name, args)
        if name in TO_PYTHON and not any(id(x) in self.graph.written for x in args):
            return self._to_python(function, name, args, kwargs)
        return self.graph.apply(function, args, kwargs)

    def _attribute(self, function: Any, name: str, args: Any) -> Any:
        kind, _, attribute = name.partition(" ")
        if kind == "set" and attribute == "data":
            inplace.refuse_outside("data", args[0])
        if attribute in VALUE_ATTRIBUTES:
            return getattr(self.graph.value(args[0]), attribute)
        return function(*args)

    def _to_python(self, function: Any, name: str, args: Any, kwargs: Any) -> Any:
        """Elements of a buffer as Python numbers, guarded; a parameter's raise UnsupportedError."""
        for x in (x for x in tree_leaves((args, kwargs)) if self.tracks(x)):
            if x.requires_grad:
                raise UnsupportedError(
                    f"a parameter cannot become a Python number ({name})",
                    node=self.graph.known.get(id(x), ""),
                    site=user_site(),
                    got=f"a parameter of shape {tuple(x.shape)}, which training changes",
                    wanted="a tensor: w.detach(), w.abs().max() …",
                    fix="compute with the tensor, and use torch.where instead of a branch",
                )
            self.graph.guards.note_elements(x)
        return function(*args, **kwargs)


def name_of(function: Callable[..., Any]) -> str:
    """A function's name; "get shape" or "set data" for attributes of tensors."""
    name = getattr(function, "__name__", str(function))
    if name in ("__get__", "__set__", "__delete__"):
        return f"{name.strip('_')} {getattr(function.__self__, '__name__', '')}"  # type: ignore[attr-defined]
    return name


def query(function: Any, name: str, args: Any, kwargs: Any) -> Any:
    """The result of a query of values, such as their size; an attribute may be a value itself."""
    attribute = name.partition(" ")[2]
    if attribute in VALUE_ATTRIBUTES:
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
        wanted="operations on one example, and gradients as formulas",
        fix="write the derivative as a formula, or apply the transform to the compiled model",
    )
