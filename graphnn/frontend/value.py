"""Symbolic values: the edges of a graph, which behave like tensors.

A `Value` stands for one example at one position. Any torch function applied to it adds a node to
its graph. `shape` and `dtype` are those of one example at one position, `axes` are the named axes
that the value varies over.
"""

# mypy: disable-error-code="override,assignment,return-value"
from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import torch

from graphnn.errors import (
    AxisError,
    DtypeError,
    ShapeError,
    StateClosedTwiceError,
    UnsupportedError,
)
from graphnn.frontend.mistakes import check_rank_query
from graphnn.frontend.names import graph_of
from graphnn.ir.graph import BATCH, IR, Node
from graphnn.ir.source_location import user_site
from graphnn.tracing.effects import random
from graphnn.tracing.effects.symbolic import GraphLike, Symbolic
from graphnn.tracing.guards import unguarded


def _unsupported(what: str, fix: str) -> Any:
    """A method that raises: a symbolic value cannot do this."""

    def method(self: Value, *args: Any, **kwargs: Any) -> Any:
        raise UnsupportedError(
            f"a symbolic value cannot {what}",
            node=self.label,
            site=user_site(),
            got=repr(self),
            wanted="torch functions, which return new values",
            fix=fix,
        )

    method.__doc__ = f"Raises UnsupportedError: a symbolic value cannot {what}."
    return method


def _operator(function: Any, reverse: bool = False) -> Any:
    """The method of an operator, which calls `function`."""

    def method(self: Value, *others: Any) -> Any:
        args = (*others, self) if reverse else (self, *others)
        return self.graph.apply(function, args, {})

    return method


META = torch.device("meta")


def _in_place(function: Any) -> Any:
    """The method of an operator that changes its first operand, by `function`."""

    def method(self: Value, *others: Any) -> Any:
        return self.graph.apply(function, (self, *others), {})

    return method


_DECIDE = "use torch.where(condition, a, b), or gn.until for a loop that stops by itself"


class Value(Symbolic):
    """A value of one example at one position. A `Graph` makes it; it has no constructor for users.

    For torch, it is a tensor of this shape and dtype without elements. A torch function that is
    called on it adds a node to the graph; anything else, such as an `if`, raises UnsupportedError.

    >>> g = gn.Graph()
    >>> x = g.input("x", (3,), over="time")
    >>> y = torch.tanh(x) * 2
    >>> y.shape, y.axes, y.dtype
    (torch.Size([3]), ('time',), torch.float32)
    """

    def __new__(cls, graph: GraphLike, id: int) -> Value:
        node = graph.ir[id]
        with torch._C.DisableTorchFunction():
            return torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined,no-any-return]
                cls, node.shape, dtype=node.dtype, device=META
            )

    def __init__(self, graph: GraphLike, id: int):
        self.graph, self.id = graph, id

    @classmethod
    def __torch_dispatch__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        raise UnsupportedError(
            f"'{function}' reached a symbolic value without a torch function",
            site=user_site(),
            got="a scripted function, a transform of torch.func, or an extension written in C++",
            wanted="torch functions of tensors",
            fix="write it with plain torch operations, or compute it outside the graph",
        )

    @property
    def node(self) -> Node:
        """The node whose result this value is."""
        return self.graph.ir[self.id]

    @property
    def shape(self) -> torch.Size:
        """Shape of one example at one position, without the batch and named axes."""
        return torch.Size(self.node.shape)

    @property
    def axes(self) -> tuple[str, ...]:
        """The named axes that the value varies over, in the order in which the graph named them."""
        return self.order(self.graph.ir, self.id)

    @staticmethod
    def order(ir: IR, id: int) -> tuple[str, ...]:
        """The axes of a node, in the order of the dimensions of its output tensor."""
        return tuple(a for a in ir.layout(ir[id].axes) if a != BATCH)

    @property
    def dtype(self) -> torch.dtype:
        """The element type."""
        return self.node.dtype

    @property
    def ndim(self) -> int:
        """Rank of `shape`."""
        return len(self.node.shape)

    @property
    def device(self) -> torch.device:
        """The device of the graph's parameters, for tensors that a module makes."""
        with unguarded():
            found = next(self.graph.owner.parameters(), None)
        return torch.device("cpu") if found is None else found.device

    # numpy's scalars then leave arithmetic with values to the values
    __array_ufunc__ = None

    @property
    def real(self) -> Value:
        """The real parts."""
        return torch.real(self) if self.dtype.is_complex else self

    @property
    def imag(self) -> Value:
        """The imaginary parts."""
        return torch.imag(self)

    @property
    def data(self) -> Value:
        """The value without its gradient."""
        return self.detach()

    grad = grad_fn = None
    is_leaf = False

    @property
    def requires_grad(self) -> bool:
        """Whether gradients flow through the value."""
        continuous = self.dtype.is_floating_point or self.dtype.is_complex
        return continuous and self.node.op != "detach"

    is_nested = is_sparse = is_quantized = is_cuda = False
    layout = torch.strided

    def is_complex(self) -> bool:
        """Whether the dtype is complex."""
        return self.dtype.is_complex

    @property
    def T(self) -> Value:
        """The value with its dimensions in reverse order."""
        return self.permute(*reversed(range(self.ndim)))

    @property
    def mT(self) -> Value:
        """The value with its last two dimensions swapped."""
        return self.transpose(-1, -2)

    @property
    def H(self) -> Value:
        """The conjugate transpose of a matrix or scalar. Raises ShapeError for other ranks."""
        if self.ndim not in (0, 2):
            raise ShapeError(
                f"'{self.label}' is not a matrix and has no .H",
                node=self.label,
                site=user_site(),
                got=f"shape {tuple(self.shape)}",
                wanted="two dimensions",
                fix="use .mH, which transposes the last two dimensions",
            )
        return self.mH if self.ndim else self.conj()

    @property
    def mH(self) -> Value:
        """The value with its last two dimensions swapped, and conjugated."""
        transposed = self.mT
        return transposed.conj() if transposed.dtype.is_complex else transposed

    def dim(self) -> int:
        """Rank of `shape`."""
        check_rank_query(self, sys._getframe(1).f_locals.get("self"))
        return self.ndim

    def size(self, dim: int | None = None) -> Any:
        """`shape`, or its size along `dim`."""
        return self.shape if dim is None else self.shape[dim]

    def numel(self) -> int:
        """The number of elements of one example at one position."""
        return self.shape.numel()

    def is_floating_point(self) -> bool:
        """Whether the dtype is a floating-point one."""
        return self.dtype.is_floating_point

    def is_contiguous(self, **_: Any) -> bool:
        """True: the planner chooses the memory layout."""
        return True

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError(f"len() of {self.label}, whose shape is ()")
        return self.shape[0]

    def __iter__(self) -> Iterator[Value]:
        return iter([self[i] for i in range(len(self))])

    def __setitem__(self, index: Any, value: Any) -> None:
        self.graph.apply(torch.Tensor.__setitem__, (self, index, value), {})

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return graph_of(args, kwargs or {}).apply(function, args, kwargs or {})

    def __repr__(self) -> str:
        return f"Value({self.label}, shape={tuple(self.shape)}, axes={self.axes})"

    __hash__ = object.__hash__
    __bool__ = _unsupported("decide a Python `if`", _DECIDE)
    __float__ = _unsupported("become a Python number", _DECIDE)
    __int__ = _unsupported("become a Python number", _DECIDE)
    __index__ = _unsupported("become a Python number", _DECIDE)
    item = _unsupported("become a Python number", _DECIDE)
    tolist = _unsupported("become a Python list", _DECIDE)
    numpy = _unsupported("become an array", "call the compiled model on tensors")
    backward = _unsupported("run backward", "call .backward() on what the compiled model returns")
    __add__ = _operator(torch.add)
    __radd__ = _operator(torch.add, True)
    __sub__ = _operator(torch.sub)
    __rsub__ = _operator(torch.sub, True)
    __mul__ = _operator(torch.mul)
    __rmul__ = _operator(torch.mul, True)
    __truediv__ = _operator(torch.div)
    __rtruediv__ = _operator(torch.div, True)
    __floordiv__ = _operator(torch.floor_divide)
    __rfloordiv__ = _operator(torch.Tensor.__rfloordiv__)
    __mod__ = _operator(torch.remainder)
    __rmod__ = _operator(torch.remainder, True)
    __pow__ = _operator(torch.pow)
    __rpow__ = _operator(torch.pow, True)
    __matmul__ = _operator(torch.matmul)
    __rmatmul__ = _operator(torch.matmul, True)
    __neg__ = _operator(torch.neg)
    __abs__ = _operator(torch.abs)
    __invert__ = _operator(torch.bitwise_not)
    __and__ = _operator(torch.bitwise_and)
    __rand__ = _operator(torch.bitwise_and, True)
    __or__ = _operator(torch.bitwise_or)
    __ror__ = _operator(torch.bitwise_or, True)
    __xor__ = _operator(torch.bitwise_xor)
    __rxor__ = _operator(torch.bitwise_xor, True)
    __lshift__ = _operator(torch.Tensor.__lshift__)
    __rlshift__ = _operator(torch.Tensor.__rlshift__)
    __rshift__ = _operator(torch.Tensor.__rshift__)
    __rrshift__ = _operator(torch.Tensor.__rrshift__)
    __lt__ = _operator(torch.lt)
    __le__ = _operator(torch.le)
    __gt__ = _operator(torch.gt)
    __ge__ = _operator(torch.ge)
    __eq__ = _operator(torch.eq)  # type: ignore[assignment]
    __ne__ = _operator(torch.ne)  # type: ignore[assignment]
    __getitem__ = _operator(torch.Tensor.__getitem__)
    __iadd__ = _in_place(torch.Tensor.add_)
    __isub__ = _in_place(torch.Tensor.sub_)
    __imul__ = _in_place(torch.Tensor.mul_)
    __itruediv__ = _in_place(torch.Tensor.div_)
    __ifloordiv__ = _in_place(torch.Tensor.floor_divide_)
    __imod__ = _in_place(torch.Tensor.remainder_)
    __ipow__ = _in_place(torch.Tensor.pow_)
    __iand__ = _in_place(torch.Tensor.bitwise_and_)
    __ior__ = _in_place(torch.Tensor.bitwise_or_)
    __ixor__ = _in_place(torch.Tensor.bitwise_xor_)


class State(Value):
    """The value of `delay` positions before. `g.state` makes it; `state.next = value` closes it.

    >>> g = gn.Graph()
    >>> x, total = g.input("x", over="time"), g.state("total")
    >>> total.next = total + x
    >>> total
    Value(total, shape=(), axes=('time',))
    """

    read_only = True

    @property
    def next(self) -> Value:
        """The value of the state at the next position.

        Raises UnsupportedError if it is read before it was assigned, StateClosedTwiceError if it is
        assigned twice, and ShapeError, DtypeError or AxisError if the value does not match.
        """
        ir = self.graph.ir
        if self.id not in ir.closings:
            raise UnsupportedError(
                f"state '{self.label}' has no next value yet",
                node=self.label,
                site=user_site(),
                got=f"{self.label}.next read before it was assigned",
                wanted=f"a closed state (it was declared at {self.node.site})",
                fix=f"assign {self.label}.next = value before reading it",
            )
        return Value(self.graph, ir.closings[self.id])

    @next.setter
    def next(self, value: Any) -> None:
        ir, name = self.graph.ir, self.label
        if self.id in ir.closings:
            raise StateClosedTwiceError(
                f"state '{name}' is closed twice",
                node=name,
                site=user_site(),
                got=f"a second `.next` (the first is {ir[ir.closings[self.id]].label})",
                wanted="one `.next = value` per state",
                fix="use a second state, or combine the two values before closing",
            )
        closed = self.graph.value(value)
        random.bind(self.graph, [closed.id], self.node.axes)
        if closed.node.shape != self.node.shape and closed.node.shape == ():
            closed = closed.expand(self.node.shape)
        self._check(closed)
        ir.closings[self.id] = closed.id

    def _check(self, value: Value) -> None:
        """Raise ShapeError, DtypeError or AxisError if `value` cannot close the state."""
        name = self.label
        if value.shape != self.shape:
            raise ShapeError(
                f"the shape of the next value of state '{name}' is not that of the state",
                node=name,
                site=user_site(),
                got=f"{tuple(value.shape)} from {value.label}",
                wanted=f"{tuple(self.shape)}, as declared at {self.node.site}",
                fix=f"declare g.state('{name}', shape={tuple(value.shape)}, …) or map the value",
            )
        if value.dtype != self.dtype:
            raise DtypeError(
                f"the dtype of the next value of state '{name}' is not that of the state",
                node=name,
                site=user_site(),
                got=f"{value.dtype} from {value.label}",
                wanted=f"{self.dtype}",
                fix=f"declare the state with dtype={value.dtype}, or cast with .to({self.dtype})",
            )
        if extra := value.node.axes - self.node.axes:
            raise AxisError(
                f"the next value of state '{name}' varies over axes that the state does not have",
                node=name,
                site=user_site(),
                got=f"axes {value.axes} from {value.label}",
                wanted=f"no more than {self.axes}",
                fix=f"declare g.state('{name}', …, along={tuple(sorted(extra))}), or reduce over "
                "them first (gn.sum, gn.last …)",
            )
