"""What tracing knows of values and graphs: the base class of values, and the protocol of graphs.

The classes themselves, `Value` and `Graph`, are defined above this folder, in `frontend`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard

import torch
from torch import nn

from graphnn.ir.graph import IR
from graphnn.ops.builder import Expr

if TYPE_CHECKING:
    from graphnn.tracing.effects.aliases import Storage, ViewStep
    from graphnn.tracing.effects.context import Context


class Symbolic(torch.Tensor):
    """Base of the values of a graph: the result of the node `id` of `graph`."""

    graph: GraphLike
    id: int
    # whether it is a parameter, a buffer or a state, which no call may change in place
    read_only = False
    # The memory that the value lies in; a meta tensor with its strides and offset in that memory;
    # the views that lead from the whole memory to the value. None and () if nothing views it.
    memory: Storage | None = None
    strided: torch.Tensor | None = None
    views: tuple[ViewStep, ...] = ()

    @property
    def label(self) -> str:
        """The name of the value in errors and plans."""
        return self.graph.ir[self.id].label


def is_value(x: object) -> TypeGuard[Symbolic]:
    """Whether `x` is a value of a graph. It reads no attribute of `x`, as `isinstance` may."""
    return issubclass(type(x), Symbolic)


class TracerLike(Protocol):
    """The tensors that a trace has met."""

    # tensors made during the trace, and those of them that the user's own generator drew
    made: dict[int, Any]
    user_random: set[int]

    def tracks(self, x: Any) -> bool:
        """Whether `x` is a tensor from before the trace, whose elements may change."""

    def add(self, x: Any) -> Any:
        """Note a tensor as made during the trace; returns it."""

    def shares_memory(self, x: torch.Tensor) -> bool:
        """Whether another tensor made during the trace shares memory with `x`."""


class GraphLike(Protocol):
    """A graph that is being traced. Where `Any` is returned, it is a `Value` of the graph."""

    ir: IR
    owner: nn.Module
    # the names of the owner's parameters and buffers, by their identity
    known: dict[int, str]
    # the nodes of parameters, buffers and constant tensors
    sources: dict[Any, int]
    constants: dict[int, torch.Tensor]
    # the values that tensors made during the trace became when they were written to
    written: dict[int, Any]
    # tensors whose identity is a key above
    keep_alive: list[torch.Tensor]
    # random nodes without axes yet, and what is computed from them: see `effects.random`
    unbound: set[int]
    # the nodes of tensors made during the trace
    made_nodes: set[int]
    context: Context

    @property
    def tracer(self) -> TracerLike | None:
        """What sees every torch call during the trace."""

    def value(self, thing: Any) -> Any:
        """A value of this graph from a value, a parameter, a tensor or a number."""

    def tensor(self, tensor: torch.Tensor) -> Expr:
        """The node of a parameter, a buffer or a constant tensor."""

    def value_of(self, id: int) -> Any:
        """The value of a node."""

    def apply(self, function: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
        """Trace a call of a torch function."""

    def trace_call(self, function: Any, args: Any, kwargs: Any) -> Any:
        """Trace a call that changes nothing in place."""

    def missing_axis(self, axis: str) -> None:
        """Raise the error of an axis that was not declared."""

    def name_of(self, module: nn.Module) -> str:
        """The name under which a module is registered."""

    def random(self, kind: str, shape: tuple[int, ...], axes: frozenset[str], p: float = 0) -> Any:
        """Random numbers that every call draws once."""
