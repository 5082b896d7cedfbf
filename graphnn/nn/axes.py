"""The axis that a library module runs along."""

from __future__ import annotations

from graphnn.errors import AxisError, UnsupportedError
from graphnn.frontend.value import Value
from graphnn.ir.source_location import user_site


def sequence_axis(x: Value, over: str | None) -> str:
    """`over`, or the only axis of `x`. Raises AxisError where there are none or several."""
    if not isinstance(x, Value):
        raise UnsupportedError(
            "a module of gn.nn is called on values, while a graph is drawn",
            site=user_site(),
            got=type(x).__name__,
            wanted="a Value, made by g.input(…) and what follows",
            fix="call it in graph(self, g), and the compiled model on tensors",
        )
    if over is not None:
        if over not in x.graph.ir.axes:
            x.graph.missing_axis(over)
        return over
    if len(x.axes) != 1:
        raise AxisError(
            f"which axis of '{x.label}' to run along is not clear",
            node=x.label,
            site=user_site(),
            got=f"axes {x.axes}",
            wanted="a value with one axis, or over=…",
            fix="name the axis: module(x, over='time')",
        )
    return x.axes[0]
