"""Every error graphnn raises: one class a cause, one shape of message.

A message says what is wrong, at which node and line of the user's file, what was given, what was
wanted, and how to mend it. `GraphError` is raised while a graph is built, planned or compiled;
`CallError` when a compiled model is called.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from graphnn.ir.source_location import Site


def closest(name: object, known: Iterable[str]) -> str | None:
    """The known name most like `name`, or None if none is like it."""
    found = difflib.get_close_matches(str(name), list(known), 1, 0.7)
    return found[0] if found else None


class GraphnnError(Exception):
    """Base of all graphnn errors.

    The parts stay readable as attributes: `node`, `site`, `got`, `wanted`, `fix`.
    """

    def __init__(
        self,
        problem: str,
        *,
        node: str | None = None,
        site: Site | None = None,
        got: object = None,
        wanted: object = None,
        fix: str | None = None,
    ):
        self.problem, self.node, self.site = problem, node, site
        self.got, self.wanted, self.fix = got, wanted, fix
        super().__init__(self._text())

    def _text(self) -> str:
        where = " ".join(
            part
            for part in (f"node '{self.node}'" if self.node else "", str(self.site or ""))
            if part
        )
        rows = {"at": where, "got": self.got, "wanted": self.wanted, "fix": self.fix}
        lines = [self.problem]
        lines += [f"  {key + ':':8}{text}" for key, text in rows.items() if text not in (None, "")]
        return "\n".join(lines)


class GraphError(GraphnnError):
    """Something is wrong with the graph itself."""


class CycleError(GraphError):
    """Values depend on each other at the same position: a cycle without a delay."""


class NonCausalError(GraphError):
    """A loop needs, at one position, its own values at all positions of the axis."""


class UnclosedStateError(GraphError):
    """A state was declared and `.next` never assigned."""


class StateClosedTwiceError(GraphError):
    """`.next` of a state was assigned a second time."""


class DirectionError(GraphError):
    """One loop has delays in both directions of its axis."""


class ShapeError(GraphError):
    """Shapes (of one example at one position) do not agree."""


class DtypeError(GraphError):
    """A dtype that the operation or the state cannot take."""


class AxisError(GraphError):
    """An axis that does not exist, or that a value does not vary over."""


class NameTakenError(GraphError):
    """A name used twice, or reserved."""


class ForeignValueError(GraphError):
    """A value of one graph used in another."""


class UnsupportedError(GraphError):
    """Something a symbolic value cannot do, such as deciding an `if` or being changed in place."""


class BackendError(GraphError):
    """A backend or regime that does not exist or cannot run this graph."""


class PictureError(GraphError):
    """A picture or plot that cannot be made or saved as asked."""


class DeviceError(GraphnnError):
    """Constants of a device, or amounts of work, that make no sense."""


class TimingError(GraphnnError):
    """Timings that cannot be made, read or compared as asked."""


class CallError(GraphnnError):
    """A compiled model was called with something it cannot take."""


class MissingInputError(CallError):
    """An input of the graph was not given."""


class UnknownInputError(CallError):
    """A keyword that is no input of the graph."""


class InputShapeError(CallError):
    """A tensor whose rank or sizes do not fit the declared input."""


class InputDtypeError(CallError):
    """A tensor of another dtype than the declared input's."""


class InputLayoutError(CallError):
    """A tensor that is sparse, nested or quantized, where a dense one is taken."""


class InputDeviceError(CallError):
    """A tensor on another device than the model's parameters."""


class FunctionError(CallError):
    """A function of torch that the graph calls failed on what it was given."""


class LengthsError(CallError):
    """`lengths` of the wrong kind, shape or range, or for an axis the graph does not have."""


class StateError(CallError):
    """A `state` that does not fit the model's."""


class StepError(CallError):
    """The graph cannot be streamed one step at a time."""


class GenerateError(CallError):
    """A graph that cannot generate, or arguments of `generate` that make no sense."""


class TransformError(CallError):
    """A transform of torch (vmap, forward mode, tracing) meets something that has none."""


class DoubleBackwardError(CallError):
    """A second derivative was asked of a loop that only has a first one."""
