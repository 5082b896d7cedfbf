"""The rows of a loop's steps: all of a batch, or only the examples that still run.

See `runtime.active_rows` for the latter.
"""

from __future__ import annotations

from collections.abc import Iterable

from graphnn.backends.torch.codegen.code import Expression, Statement, assign, code, do, joined
from graphnn.backends.torch.codegen.scope import Scope, steps_text
from graphnn.ir.graph import BATCH, IR, Node
from graphnn.planner.core.regions import Loop, Whole


def narrows(ir: IR, loop: Loop) -> bool:
    """Whether a loop's steps can run on the active rows alone: all its values are per example."""
    each = all(BATCH in ir[i].axes for i in loop.nodes)
    each = each and all(ir[ir.closings[d]].axes == ir[d].axes for d in loop.states)
    return each and _simple(loop)


def _simple(loop: Loop) -> bool:
    return all(isinstance(r, Whole) for r in loop.body)


def rows_of(outer: Scope, step: Scope, loop: Loop) -> AllRows:
    """The rows that a loop's steps compute: the active ones if examples are sorted by length."""
    ends = outer.ends
    ragged = ends is not None and ends.sorted and ends.axis == loop.axis and _simple(loop)
    return (ActiveRowsText if ragged else AllRows)(outer, step, loop)


class AllRows:
    """The code of a loop whose steps all compute the whole batch."""

    def __init__(self, outer: Scope, step: Scope, loop: Loop):
        self.outer, self.step, self.loop = outer, step, loop

    def invariant(self, name: Expression, node: Node) -> Expression:
        """Note a variable that is created before the loop and read in its steps."""
        return name

    def writes(self, whole: Expression, node: Node) -> None:
        """Note a whole value that the steps write."""

    def steps(self, whole: Expression, node: Node) -> Expression:
        """The list of a whole value's steps."""
        return steps_text(self.outer, self.loop, whole, node)

    def states(self, first: list[Expression], whole: Expression, node: Node) -> Expression:
        """The list of a state's values at each step: its slots, then what steps have written."""
        return code("[{}, *{}]", joined(first), self.steps(whole, node))

    def sources(self) -> dict[str, Expression]:
        """The lists of the variables that were created before the loop."""
        return {}

    def before(self) -> list[Statement]:
        """The statements before all others of a loop."""
        return []

    def ready(self) -> list[Statement]:
        """The statements right before the first step."""
        return []

    def after(self, used: Iterable[str]) -> list[Statement]:
        """The statements after the last step, if steps have used these variables."""
        return []


class ActiveRowsText(AllRows):
    """The code of a loop whose steps each compute only the rows that still run."""

    def __init__(self, outer: Scope, step: Scope, loop: Loop):
        super().__init__(outer, step, loop)
        assert outer.ends is not None
        self.ends, self.name = outer.ends, step.fresh("active")
        self._invariant: dict[str, tuple[Expression, Node]] = {}
        self._written: list[tuple[Expression, Node]] = []
        self._begins: list[Statement] = []

    def invariant(self, name: Expression, node: Node) -> Expression:
        """Note a variable that is created before the loop. Steps read its active rows."""
        if BATCH in node.axes:
            self._invariant[name.text] = name, node
        return name

    def writes(self, whole: Expression, node: Node) -> None:
        """Note a whole value whose positions beyond the examples' ends have to be filled."""
        self._written.append((whole, node))

    def steps(self, whole: Expression, node: Node) -> Expression:
        """The list of the active rows of a whole value at each step."""
        return self._call("steps", whole, node)

    def states(self, first: list[Expression], whole: Expression, node: Node) -> Expression:
        """The list of a state's values at each step: its slots, then what steps have written.

        In a reversed loop, rows that start later read their initial state from the positions
        beyond their end.
        """
        time, rows = self._dims(node)
        if self.loop.reverse and self.ends.held:
            begin = code("{}.start_rows({})", self.name, joined([whole, time, rows, first[0]]))
            self._begins.append(do(begin))
        written = code("{}.steps({}, {}, None)", self.name, whole, time)
        steps = code("[{}, *{}]", joined(first), written)
        return code("{}.narrow({}, {})", self.name, steps, self.step.axes(node).index(BATCH))

    def sources(self) -> dict[str, Expression]:
        """The lists of what was created before the loop, and of the number of active rows."""
        found = {
            key: code("{}.repeat({}, {})", self.name, name, self.step.axes(node).index(BATCH))
            for key, (name, node) in self._invariant.items()
        }
        return {**found, self.outer.size(BATCH).text: code("{}.counts", self.name)}

    def before(self) -> list[Statement]:
        """The statement that finds the active rows of each step."""
        lengths = self.outer.var(self.ends.node.id)
        made = code("runtime.ActiveRows({}, {})", lengths, self.loop.reverse)
        return [assign(self.name, made)]

    def ready(self) -> list[Statement]:
        """Initial states of rows that start later, or, in gradients, zeros beyond the ends."""
        if self.ends.held:
            return self._begins
        return [do(self._call("zero_padding", *x)) for x in self._written]

    def after(self, used: Iterable[str]) -> list[Statement]:
        """Restore the number of rows, and repeat the last step beyond the ends of examples."""
        batch = self.outer.size(BATCH)
        lines = [assign(batch, code("{}.batch", self.name))] if batch.text in used else []
        return lines + [do(self._call("repeat_last", *x)) for x in self._written] * self.ends.held

    def _dims(self, node: Node) -> tuple[int, int | None]:
        """The dimensions of a whole value that are the loop's axis, and the examples."""
        axes = self.outer.axes(node)
        return axes.index(self.loop.axis), axes.index(BATCH) if BATCH in axes else None

    def _call(self, method: str, whole: Expression, node: Node) -> Expression:
        time, rows = self._dims(node)
        return code("{}.{}({}, {}, {})", self.name, method, whole, time, rows)
