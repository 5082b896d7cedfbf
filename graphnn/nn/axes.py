"""The axis that a library module runs along."""

from __future__ import annotations

from graphnn.errors import AxisError, UnsupportedError
from graphnn.frontend.value import Value
from graphnn.ir.source_location import user_site


def sequence_axis(x: Value, over: str | None) -> str:
    """`over`, or the only axis of `x`. Raises AxisError if `x` has no axis or several."""
    if not isinstance(x, Value):
        raise UnsupportedError(
            "a module of gn.nn was called outside a graph",
            site=user_site(),
            got=type(x).__name__,
            wanted="a Value, made by g.input(…) or computed from one",
            fix="call the module in graph(self, g), and call the compiled model on tensors",
        )
    if over is not None:
        if over not in x.graph.ir.axes:
            x.graph.missing_axis(over)
        return over
    if len(x.axes) != 1:
        raise AxisError(
            f"the axis of '{x.label}' to run along is ambiguous",
            node=x.label,
            site=user_site(),
            got=f"axes {x.axes}",
            wanted="a value with one axis, or over=…",
            fix="name the axis: module(x, over='time')",
        )
    return x.axes[0]
