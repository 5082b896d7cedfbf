"""trace: run the user's `graph(g)` and keep what it drew."""

from __future__ import annotations

import itertools
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.distributions import Distribution

from graphnn.errors import GraphnnError, UnsupportedError
from graphnn.frontend.feedback import Feedback
from graphnn.frontend.graph import Graph
from graphnn.frontend.mistakes import drawable, escaped
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
from graphnn.tracing.guards import watching

_numbers = itertools.count()
# the checks of a distribution's arguments read numbers, which a graph has none of
_UNCHECKED = Patch(attributes(Distribution, _validate_args=False))


@dataclass(eq=False)
class Trace:
    """A drawn graph, the constant tensors it uses, by the key of their nodes, what is fed back when
    it generates, and whether it would be drawn the same now."""

    ir: IR
    constants: dict[int, torch.Tensor]
    feedback: tuple[Feedback, ...] = ()
    watch: Any = None
    number: int = field(default_factory=lambda: next(_numbers))
    unchecked: IR | None = None  # the graph as it was traced, once `ir` is checked
    default: torch.dtype = field(default_factory=torch.get_default_dtype)

    def holds(self) -> bool:
        """Whether what was read of the modules, and torch's default dtype, is as it was."""
        return self.default == torch.get_default_dtype() and self.watch.holds()


def trace(source: nn.Module | Graph, moved: torch.dtype | None = None) -> Trace:
    """The graph of a module with a `graph(g)` method, or of a `Graph` as it stands; `moved` is
    the dtype that the model was last moved to."""
    if isinstance(source, Graph):
        with watching(source.owner) as watch:
            ir = _switched(source.ir)
        dtype = floating(source.owner, moved or source.dtype)
        ir = run(Stage.TRACED, ir, TraceContext(floating=dtype, owner=source.owner))
        return Trace(ir, dict(source.constants), tuple(source.feedbacks), watch)
    drawable(source)
    drawn = _drawn(source, moved)
    if drawn.watch.changed:
        retrace.compare(drawn, source, lambda: _drawn(source, moved))
    return drawn


def _drawn(source: Any, moved: torch.dtype | None) -> Trace:
    with ExitStack() as stack:
        stack.enter_context(neutral())
        watch = stack.enter_context(watching(source))
        stack.enter_context(hooks.drawn(source))
        g = Graph(type(source).__name__.lower(), source, moved)
        stack.enter_context(parametrizations.standing_in(source, g.known))
        stack.enter_context(autograd_function.MET.held())
        stack.enter_context(initialization.BORN.held())
        stack.enter_context(g.drawing(watch))
        stack.enter_context(_explained())
        source.graph(g)
    return Trace(g.ir.copy(), dict(g.constants), tuple(g.feedbacks), watch)


@contextmanager
def neutral() -> Iterator[None]:
    """What torch holds in context when a model happens to be drawn is no part of its graph."""
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast("cpu", enabled=False),
        torch.autocast("cuda", enabled=False),
        _UNCHECKED.held(),
    ):
        yield


@contextmanager
def _explained() -> Iterator[None]:
    """Errors that torch raises of symbolic values name the user's line, and what may be done."""
    try:
        yield
    except GraphnnError:
        raise
    except Exception as error:
        if said := escaped(error):
            raise said from error
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
            wanted="torch functions of tensors, which give tensors",
            fix="write it with torch's plain operations, or compute it outside the graph",
        ) from error


def _switched(ir: IR) -> IR:
    """A graph drawn once, without the dropout of modules that are in evaluation now."""

    def rule(new: IR, node: Node) -> Expr | None:
        switch = node.attrs.get("switch") if node.op == "random" else None
        return None if switch is None or switch.training else const(new, 1.0)

    return rewrite(ir, rule) if any("switch" in n.attrs for n in ir) else ir
