"""Names in a graph: of inputs, states, outputs, axes, and modules that own parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.utils._pytree import tree_leaves

from graphnn.errors import AxisError, ForeignValueError, NameTakenError, closest
from graphnn.ir.graph import BATCH, IR, Axis
from graphnn.ir.source_location import user_site
from graphnn.tracing.effects.symbolic import GraphLike, is_value
from graphnn.tracing.guards import unguarded

RESERVED = frozenset({"lengths", "state", "return_state", "record", "self", BATCH})
MAY_NAME = (
    f"a string that is not empty, does not start with '@', and is none of "
    f"{', '.join(sorted(RESERVED))}"
)


def may_name(name: object) -> bool:
    """Whether this may name an input, a state or an output: a call has no argument of this name."""
    return (
        isinstance(name, str) and name not in RESERVED and not name.startswith("@") and name != ""
    )


def graph_of(args: Any, kwargs: Any) -> GraphLike:
    """The graph of the values among these arguments. Raises ForeignValueError if there are two."""
    graphs = {id(v.graph): v.graph for v in tree_leaves((args, kwargs)) if is_value(v)}
    if len(graphs) > 1:
        foreign(list(graphs.values()))
    return next(iter(graphs.values()))


def foreign(graphs: Sequence[GraphLike]) -> None:
    """Raise the error of values of different graphs."""
    names = " and ".join(f"'{g.ir.name}'" for g in graphs)
    raise ForeignValueError(
        f"values of different graphs are combined: {names}",
        site=user_site(),
        got=f"values of {names}",
        wanted="values of one graph",
        fix="build both on one graph, or compile each and pass the output of one to the other",
    )


def axis_names(over: str | Sequence[str]) -> tuple[str, ...]:
    """One or several names of axes, as a tuple."""
    return (over,) if isinstance(over, str) else tuple(over)


class Names:
    """The names in use in a graph."""

    ir: IR
    owner: nn.Module
    _taken: set[str]

    def _take(self, name: str, what: str) -> str:
        """Reserve a name. Raises NameTakenError."""
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
                wanted="a different name for each input, state and output",
                fix="choose another name",
            )
        self._taken.add(name)
        return name

    def unique(self, name: str) -> str:
        """`name`, with a number appended if it is in use already."""
        count, tried = 2, name
        while tried in self._taken:
            tried, count = f"{name}_{count}", count + 1
        return tried

    def name_of(self, module: nn.Module) -> str:
        """The name under which a module is registered here, else the name of its class."""
        with unguarded():
            for name, candidate in self.owner.named_modules():
                if candidate is module and name:
                    return name
        return type(module).__name__.lower()

    def _axes(self, over: str | Sequence[str], declare: bool) -> tuple[str, ...]:
        """Names of axes as a tuple; new ones are declared, or raise AxisError."""
        for axis in axis_names(over):
            if axis == BATCH:
                raise AxisError(
                    "'batch' is implied and cannot be named",
                    site=user_site(),
                    got="the axis 'batch'",
                    wanted="axes other than the batch",
                    fix="leave it out: the batch is the first dimension of every input",
                )
            if axis not in self.ir.axes:
                if not declare:
                    self.missing_axis(axis)
                self.ir.axes[axis] = Axis(axis, site=user_site())
        return axis_names(over)

    def missing_axis(self, axis: str) -> None:
        """Raise the error of an axis that was not declared."""
        known = [a for a in self.ir.axes if a != BATCH]
        if not isinstance(axis, str):
            raise AxisError(
                "an axis is given by its name, a string",
                site=user_site(),
                got=repr(axis),
                wanted=f"one of {known}",
                fix="give over='time'; for several axes, reduce over one after the other",
            )
        raise AxisError(
            f"there is no axis '{axis}' in this graph",
            site=user_site(),
            got=repr(axis),
            wanted=f"one of {known}" if known else "an axis that was declared",
            fix=f"write over='{meant}' if you mean that axis"
            if (meant := closest(axis, known))
            else f"declare g.input(…, over='{axis}') or g.axis('{axis}', length) first",
        )
