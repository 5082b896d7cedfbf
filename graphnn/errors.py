"""Every error that graphnn raises: one class per cause, one layout for all messages.

A message has up to five parts: the problem; the node and the line of the user's file; what was
given; what was expected; and a fix. `GraphError` is raised while a graph is built, planned or
compiled, `CallError` if a call of a compiled model is wrong.
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
    """Base of all errors of graphnn.

    The parts of the message are attributes: `problem`, `node`, `site`, `got`, `wanted`, `fix`.

    >>> g = gn.Graph("net")
    >>> x = g.input("x", (3,), over="time")
    >>> try:
    ...     g.input("x")
    ... except gn.errors.GraphError as error:
    ...     print(error.problem, "|", error.fix)
    the name 'x' is used twice | choose another name
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
        location = " ".join(
            part
            for part in (f"node '{self.node}'" if self.node else "", str(self.site or ""))
            if part
        )
        rows = {"at": location, "got": self.got, "wanted": self.wanted, "fix": self.fix}
        lines = [self.problem]
        lines += [f"  {key + ':':8}{text}" for key, text in rows.items() if text not in (None, "")]
        return "\n".join(lines)


class GraphError(GraphnnError):
    """The graph itself is wrong."""


class CycleError(GraphError):
    """Values depend on each other at the same position: there is a cycle without a delay."""


class NonCausalError(GraphError):
    """A position of a loop depends on the loop's own values at all positions of the axis."""


class UnclosedStateError(GraphError):
    """A state was declared, but its `.next` was never assigned."""


class StateClosedTwiceError(GraphError):
    """The `.next` of a state was assigned twice."""


class DirectionError(GraphError):
    """One loop has delays in both directions of its axis."""


class ShapeError(GraphError):
    """Shapes do not match. They are those of one example at one position."""


class DtypeError(GraphError):
    """An operation or a state does not support a dtype."""


class AxisError(GraphError):
    """An axis does not exist, or a value does not vary over it."""


class NameTakenError(GraphError):
    """A name is reserved or already in use."""


class ForeignValueError(GraphError):
    """A value of one graph is used in another."""


class UnsupportedError(GraphError):
    """A symbolic value cannot do this, for example decide an `if`."""


class BackendError(GraphError):
    """A backend or a pass does not exist, or cannot run this graph."""


class PictureError(GraphError):
    """A picture or plot cannot be made or saved as requested."""


class DeviceError(GraphnnError):
    """The constants of a device, or amounts of work, are invalid."""


class TimingError(GraphnnError):
    """Timings cannot be made, read or compared as requested."""


class VerificationError(GraphnnError):
    """A compiled kernel, or a result of a model that it computes, is wrong."""


class CallError(GraphnnError):
    """A compiled model was called with invalid arguments."""


class MissingInputError(CallError):
    """An input of the graph is missing."""


class UnknownInputError(CallError):
    """An argument is not an input of the graph."""


class InputShapeError(CallError):
    """The rank or the sizes of a tensor do not match the declared input."""


class InputDtypeError(CallError):
    """The dtype of a tensor does not match the declared input."""


class InputLayoutError(CallError):
    """A tensor is sparse, nested or quantized instead of dense."""


class InputDeviceError(CallError):
    """A tensor is not on the device of the model's parameters."""


class FunctionError(CallError):
    """A torch function that the graph calls failed on its arguments."""


class LengthsError(CallError):
    """`lengths` have the wrong type, shape or range, or name an unknown axis."""


class StateError(CallError):
    """A `state` does not match the states of the model."""


class StepError(CallError):
    """The graph cannot be streamed one step at a time."""


class GenerateError(CallError):
    """A graph cannot generate, or the arguments of `generate` are invalid."""


class TransformError(CallError):
    """An operation does not support a torch transform (vmap, forward mode, tracing)."""


class DoubleBackwardError(CallError):
    """A second derivative of a loop was requested, which has only a first one."""
