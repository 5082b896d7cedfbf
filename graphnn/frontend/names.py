"""Names in a graph: of inputs, states and outputs, of axes, of the modules that own parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.utils._pytree import tree_leaves

from graphnn.errors import AxisError, ForeignValueError, NameTakenError, closest
from graphnn.ir.graph import BATCH, IR, Axis
from graphnn.ir.source_location import user_site
from graphnn.tracing.effects.symbolic import GraphLike, is_value
from graphnn.tracing.guards import paused

RESERVED = frozenset({"lengths", "state", "return_state", "record", "self", BATCH})
MAY_NAME = (
    f"a string that is not empty, does not start with '@', and is none of "
    f"{', '.join(sorted(RESERVED))}"
)


def may_name(name: object) -> bool:
    """Whether this may name an input, a state or an output: all that a call has no word for."""
    return (
        isinstance(name, str) and name not in RESERVED and not name.startswith("@") and name != ""
    )


def graph_of(args: Any, kwargs: Any) -> GraphLike:
    """The one graph that the values among these arguments belong to."""
    graphs = {id(v.graph): v.graph for v in tree_leaves((args, kwargs)) if is_value(v)}
    if len(graphs) > 1:
        foreign(list(graphs.values()))
    return next(iter(graphs.values()))


def foreign(graphs: Sequence[GraphLike]) -> None:
    """Raise the error of values of different graphs."""
    names = " and ".join(f"'{g.ir.name}'" for g in graphs)
    raise ForeignValueError(
        f"values of different graphs meet: {names}",
        site=user_site(),
        got=f"values of {names}",
        wanted="values of one graph",
        fix="build both on one graph, or compile them apart and feed one's output to the other",
    )


def axis_names(over: str | Sequence[str]) -> tuple[str, ...]:
    return (over,) if isinstance(over, str) else tuple(over)


class Names:
    """The names that a graph has given out."""

    ir: IR
    owner: nn.Module
    _taken: set[str]

    def _take(self, name: str, what: str) -> str:
        if not may_name(name):
            raise NameTakenError(
                f"'{name}' cannot name {what}",
                site=user_site(),
                got=repr(name),
                wanted=MAY_NAME,
                fix="choose another name",
            )
        if name in self._taken:
            raise NameTakenError(
                f"the name '{name}' is used twice",
                site=user_site(),
                got=f"a second '{name}'",
                wanted="names of inputs, states and outputs that differ",
                fix="choose another name",
            )
        self._taken.add(name)
        return name

    def unique(self, name: str) -> str:
        """`name`, with a number behind it where it is taken: for library modules used twice."""
        count, tried = 2, name
        while tried in self._taken:
            tried, count = f"{name}_{count}", count + 1
        return tried

    def name_of(self, module: nn.Module) -> str:
        """The name under which a module is registered here, or its class's name."""
        with paused():
            for name, candidate in self.owner.named_modules():
                if candidate is module and name:
                    return name
        return type(module).__name__.lower()

    def _axes(self, over: str | Sequence[str], declare: bool) -> tuple[str, ...]:
        for axis in axis_names(over):
            if axis == BATCH:
                raise AxisError(
                    "'batch' is implied and cannot be named",
                    site=user_site(),
                    got="the axis 'batch'",
                    wanted="named axes besides the batch",
                    fix="leave it out: every input has the batch first",
                )
            if axis not in self.ir.axes:
                if not declare:
                    self.missing_axis(axis)
                self.ir.axes[axis] = Axis(axis, site=user_site())
        return axis_names(over)

    def missing_axis(self, axis: str) -> None:
        """Raise the error of an axis nobody declared."""
        known = [a for a in self.ir.axes if a != BATCH]
        if not isinstance(axis, str):
            raise AxisError(
                "one axis is named at a time, by a string",
                site=user_site(),
                got=repr(axis),
                wanted=f"one of {known}",
                fix="over='time'; for several axes, one reduction after another",
            )
        raise AxisError(
            f"there is no axis '{axis}' in this graph",
            site=user_site(),
            got=repr(axis),
            wanted=f"one of {known}" if known else "an axis that an input brings",
            fix=f"over='{meant}', if that is meant"
            if (meant := closest(axis, known))
            else f"declare g.input(…, over='{axis}') or g.axis('{axis}', length) first",
        )
