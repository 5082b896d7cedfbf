"""The text of a loop whose steps are taken of the examples that still run: see `running`."""

from __future__ import annotations

from collections.abc import Iterable

from graphnn.backends.torch.codegen.scope import Scope, steps_text
from graphnn.ir.graph import BATCH, IR, Node
from graphnn.planner.core.regions import Loop, Whole


def narrows(ir: IR, loop: Loop) -> bool:
    """Whether a loop can take its steps of the rows that run: all it computes is of examples."""
    each = all(BATCH in ir[i].axes for i in loop.nodes)
    each = each and all(ir[ir.closings[d]].axes == ir[d].axes for d in loop.states)
    return each and _simple(loop)


def _simple(loop: Loop) -> bool:
    return all(isinstance(r, Whole) for r in loop.body)


def rows_of(outer: Scope, step: Scope, loop: Loop) -> AllRows:
    """How a loop is written: of the rows that run, where examples come sorted by length."""
    ends = outer.ends
    mine = ends is not None and ends.sorted and ends.axis == loop.axis and _simple(loop)
    return (Narrowed if mine else AllRows)(outer, step, loop)


class AllRows:
    """The text of a loop that takes every step of all rows."""

    def __init__(self, outer: Scope, step: Scope, loop: Loop):
        self.outer, self.step, self.loop = outer, step, loop

    def own(self, name: str, node: Node) -> str:
        """A variable made before the loop, of which a step takes what it needs."""
        return name

    def kept(self, whole: str, node: Node) -> None:
        """Note that steps write a whole value."""

    def steps(self, whole: str, node: Node) -> str:
        """The list of what a whole value is at each step."""
        return steps_text(self.outer, self.loop, whole, node)

    def states(self, first: list[str], whole: str, node: Node) -> str:
        """The list of what a state is at each step: its slots, then what steps have written."""
        return f"[{', '.join(first)}, *{self.steps(whole, node)}]"

    def sources(self) -> dict[str, str]:
        """The lists of variables that were made before the loop."""
        return {}

    def before(self) -> list[str]:
        """The lines before all others of a loop."""
        return []

    def ready(self) -> list[str]:
        """The lines right before the first step."""
        return []

    def after(self, used: Iterable[str]) -> list[str]:
        """The lines after the last step, if steps have used these variables."""
        return []


class Narrowed(AllRows):
    """The text of a loop that takes each step of the rows that run."""

    def __init__(self, outer: Scope, step: Scope, loop: Loop):
        super().__init__(outer, step, loop)
        assert outer.ends is not None
        self.ends, self.name = outer.ends, step.fresh("running")
        self._own: dict[str, Node] = {}
        self._kept: list[tuple[str, Node]] = []
        self._begins: list[str] = []

    def own(self, name: str, node: Node) -> str:
        """A variable made before the loop, of which a step takes the rows that run."""
        if BATCH in node.axes:
            self._own[name] = node
        return name

    def kept(self, whole: str, node: Node) -> None:
        """Note a whole value that has to be filled where no step is taken."""
        self._kept.append((whole, node))

    def steps(self, whole: str, node: Node) -> str:
        """The list of what a whole value is at each step: the rows that run."""
        return self._call("steps", whole, node)

    def states(self, first: list[str], whole: str, node: Node) -> str:
        """The list of what a state is at each step: its slots, then what steps have written.

        From the end, rows that start later read what it starts from where steps are kept.
        """
        time, rows = self._places(node)
        if self.loop.reverse and self.ends.held:
            self._begins.append(f"{self.name}.begin({whole}, {time}, {rows}, {first[0]})")
        steps = f"[{', '.join(first)}, *{self.name}.steps({whole}, {time}, None)]"
        return f"{self.name}.those({steps}, {self.step.axes(node).index(BATCH)})"

    def sources(self) -> dict[str, str]:
        """The lists of what was made before the loop, and of how many rows there are."""
        found = {
            name: f"{self.name}.each({name}, {self.step.axes(node).index(BATCH)})"
            for name, node in self._own.items()
        }
        return {**found, self.outer.size(BATCH): f"{self.name}.counts"}

    def before(self) -> list[str]:
        """The line that finds out which rows run."""
        lengths = self.outer.var(self.ends.node.id)
        return [f"{self.name} = runtime.Running({lengths}, {self.loop.reverse})"]

    def ready(self) -> list[str]:
        """What rows start from that start later; zeros, in gradients, where no step is taken."""
        if self.ends.held:
            return self._begins
        return [self._call("clear", *x) for x in self._kept]

    def after(self, used: Iterable[str]) -> list[str]:
        """All rows are there again; values are held where no step was taken."""
        batch = self.outer.size(BATCH)
        lines = [f"{batch} = {self.name}.batch"] if batch in used else []
        return lines + [self._call("hold", *x) for x in self._kept] * self.ends.held

    def _places(self, node: Node) -> tuple[int, int | None]:
        """The dimensions of a whole value that are the loop's axis, and the examples."""
        axes = self.outer.axes(node)
        return axes.index(self.loop.axis), axes.index(BATCH) if BATCH in axes else None

    def _call(self, how: str, whole: str, node: Node) -> str:
        time, rows = self._places(node)
        return f"{self.name}.{how}({whole}, {time}, {rows})"
