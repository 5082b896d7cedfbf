"""Tracing: run the user's `graph(self, g)` and keep the graph that it declares."""

from __future__ import annotations

import itertools
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch._subclasses import FakeTensor
from torch.distributions import Distribution

from graphnn.errors import GraphnnError, UnsupportedError
from graphnn.frontend.feedback import Feedback
from graphnn.frontend.graph import Graph
from graphnn.frontend.mistakes import check_has_graph, explained
from graphnn.ir.dtypes import floating
from graphnn.ir.graph import IR, Node
from graphnn.ir.source_location import Site, is_users
from graphnn.ops.builder import Expr, const
from graphnn.planner.contexts import TraceContext
from graphnn.planner.core.rewrite import rewrite
from graphnn.planner.pipeline import Stage, run
from graphnn.tracing import hooks, parametrizations, retrace
from graphnn.tracing.effects import autograd_function, initialization
from graphnn.tracing.effects.patches import Patch, attributes
from graphnn.tracing.guards import Guards, guarding

_numbers = itertools.count()
# torch.distributions checks its arguments' elements, which values do not have
_UNCHECKED = Patch(attributes(Distribution, _validate_args=False))


@dataclass(eq=False)
class Trace:
    """A traced graph with its constant tensors, by the keys of their nodes, and its feedbacks.

    `guards` checks whether a new trace would give the same graph.
    """

    ir: IR
    constants: dict[int, torch.Tensor]
    feedback: tuple[Feedback, ...] = ()
    guards: Guards = field(default_factory=lambda: Guards(nn.Module()))
    number: int = field(default_factory=lambda: next(_numbers))
    unchecked: IR | None = None  # the graph as it was traced, once `ir` is checked
    default: torch.dtype = field(default_factory=torch.get_default_dtype)
    # copies of constants on other devices, with the version of each constant that was copied
    copies: dict[tuple[int, torch.device], tuple[int, torch.Tensor]] = field(default_factory=dict)

    def constant(self, key: int, device: torch.device) -> torch.Tensor:
        """The constant of a key on a device, copied to it once: a copy would wait for a GPU."""
        constant = self.constants[key]
        if torch.compiler.is_compiling() or constant.device == device or constant.requires_grad:
            return constant.to(device)
        version = -1 if constant.is_inference() else constant._version
        known = self.copies.get((key, device))
        if known is None or known[0] != version:
            with torch.inference_mode(False):  # a backward may save it
                known = version, constant.to(device)
            if not isinstance(known[1], FakeTensor):  # a fake one is of no use outside its mode
                self.copies[key, device] = known
        return known[1]

    def holds(self) -> bool:
        """Whether all that the trace read, and torch's default dtype, is unchanged."""
        return self.default == torch.get_default_dtype() and self.guards.holds()


def trace(source: nn.Module | Graph, moved: torch.dtype | None = None) -> Trace:
    """The graph of a module with a `graph(self, g)` method, or of a `Graph`.

    `moved` is the dtype that the model was last moved to. Raises GraphError if the module has no
    such method, and UnsupportedError for operations that values do not support.
    """
    if isinstance(source, Graph):
        with guarding(source.owner) as guards:
            ir = _without_inactive_dropout(source.ir)
        dtype = floating(source.owner, moved or source.dtype)
        ir = run(Stage.TRACED, ir, TraceContext(floating=dtype, owner=source.owner))
        return Trace(ir, dict(source.constants), tuple(source.feedbacks), guards)
    check_has_graph(source)
    traced = _traced(source, moved)
    if traced.guards.changed:
        retrace.compare(traced, source, lambda: _traced(source, moved))
    return traced


def _traced(source: Any, moved: torch.dtype | None) -> Trace:
    """The trace of a module's `graph(self, g)`."""
    with ExitStack() as stack:
        stack.enter_context(neutral_context())
        guards = stack.enter_context(guarding(source))
        stack.enter_context(hooks.checked(source))
        g = Graph(type(source).__name__.lower(), source, moved)
        stack.enter_context(parametrizations.replaced_by_constants(source, g.known))
        stack.enter_context(autograd_function.TRACED.applied())
        stack.enter_context(initialization.CREATION.applied())
        stack.enter_context(g.tracing(guards))
        stack.enter_context(_explain_errors())
        source.graph(g)
    return Trace(g.ir.copy(), dict(g.constants), tuple(g.feedbacks), guards)


@contextmanager
def neutral_context() -> Iterator[None]:
    """Trace independently of the grad mode, inference mode and autocast that hold outside."""
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast("cpu", enabled=False),
        torch.autocast("cuda", enabled=False),
        _UNCHECKED.applied(),
    ):
        yield


@contextmanager
def _explain_errors() -> Iterator[None]:
    """Turn torch's errors about symbolic values into errors with the user's line and a fix."""
    try:
        yield
    except GraphnnError:
        raise
    except Exception as error:
        if explanation := explained(error):
            raise explanation from error
        frames = traceback.extract_tb(error.__traceback__)
        users = [f for f in frames if is_users(f.filename)]
        if not users or (users[-1].line or "").startswith(("raise", "assert")):
            raise
        if not isinstance(error, (TypeError, RuntimeError, AttributeError, NotImplementedError)):
            raise
        raise UnsupportedError(
            f"torch cannot do this with symbolic values: {str(error).strip().splitlines()[0]}",
            site=Site(users[-1].filename, users[-1].lineno or 0),
            got=f"{type(error).__name__} of {users[-1].line}",
            wanted="torch functions that take and return tensors",
            fix="write it with plain torch operations, or compute it outside the graph",
        ) from error


def _without_inactive_dropout(ir: IR) -> IR:
    """The graph of a bare `Graph`, without the dropout of modules that are in evaluation mode."""

    def rule(new: IR, node: Node) -> Expr | None:
        switch = node.attrs.get("switch") if node.op == "random" else None
        return None if switch is None or switch.training else const(new, 1.0)

    return rewrite(ir, rule) if any("switch" in n.attrs for n in ir) else ir
