"""The graph of one step along an axis; values of earlier positions come from caches.

States stay as they are. A copy of the axis (`gn.rename(v, time="past")`), which causal attention
reduces over, becomes an axis of its own whose values a cache provides. Each value that depends only
on the copy is computed at this position, appended to its earlier positions, and returned.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from graphnn.ir.graph import BATCH, IR, Axis, Node
from graphnn.ops.builder import Expr, make
from graphnn.ops.registry import OPS, build
from graphnn.ops.sources import index_of, size_of
from graphnn.planner.boundary.invariants import maker
from graphnn.planner.boundary.reach import INF, Reaches
from graphnn.planner.core.rewrite import finish, reachable, remake

CACHE = "past of "
# the operand that determines the result, whatever the other is
DECIDING = {"logical_and": False, "logical_or": True}


@dataclass(frozen=True)
class Cache:
    """A value's earlier positions, an input and an output of shape (batch, *over, *shape).

    `copy` is the last axis of `over`; `window` the largest number of positions ever read, or None
    if nothing bounds it.
    """

    name: str
    over: tuple[str, ...]
    copy: str
    window: int | None
    node: Node


@dataclass
class StepGraph:
    """The graph of one step, and its caches."""

    ir: IR
    caches: list[Cache] = field(default_factory=list)


def copies(ir: IR, axis: str) -> list[str]:
    """The axes in use that are copies of `axis`."""
    used = frozenset().union(*(n.axes for n in ir))
    return [a for a in ir.layout(used) if ir.axes[a].copy_of == axis]


def looks_ahead(ir: IR, axis: str) -> Node | None:
    """The first node that needs later positions of a copy of `axis`, or that cannot be cached."""
    for copy in copies(ir, axis):
        reaches = Reaches(ir, axis, copy)
        for node in ir:
            if _over(node, copy):
                reach = reaches.of_reduction(node)
                if reach is None or reach.high > 0:
                    return node
            elif node.op == "delay" and copy in node.axes:
                return node
    for node in ir:
        if sum(a == axis or ir.axes[a].copy_of == axis for a in node.axes) > 2:
            return node
    return None


def _over(node: Node, copy: str) -> bool:
    """Whether a node reduces over `copy`."""
    if node.op == "einsum":
        return copy in node.attrs["contract"]
    return OPS[node.op].family == "axis" and bool(node.attrs["axis"] == copy)


def window(ir: IR, axis: str, copy: str) -> int | None:
    """The number of positions, up to its own, that any value reads; None if nothing bounds it."""
    if any(copy in ir[i].axes for i in ir.outputs.values()):
        return None
    reaches, low = Reaches(ir, axis, copy), 0.0
    for node in ir:
        if _over(node, copy) and (found := reaches.of_reduction(node)) is not None:
            low = min(low, found.low)
    return None if low == -INF else 1 - int(low)


def step_along(ir: IR, axis: str) -> StepGraph:
    """The graph of one step along `axis`, which must not look ahead."""
    return _Streamer(ir, axis).run()


class _Streamer:
    def __init__(self, ir: IR, axis: str):
        self.old, self.axis = ir, axis
        self.windows = {copy: window(ir, axis, copy) for copy in copies(ir, axis)}
        self.reaches = {copy: Reaches(ir, axis, copy) for copy in self.windows}
        self.given_out = any(set(self.windows) & ir[i].axes for i in ir.outputs.values())
        self.new = ir.empty()
        for copy in self.windows:
            self.new.axes[copy] = Axis(copy, site=ir.axes[copy].site)
        renames = {n.id for n in ir if n.op == "rename" and set(self._renamed(n))}
        self.from_rename = {i for i in ir.nodes if reachable(ir, [i]) & renames}
        self.moved: dict[int, int] = {}
        self.twins: dict[int, Expr] = {}
        self.cached: dict[int, Expr] = {}
        self.done = StepGraph(self.new)

    def run(self) -> StepGraph:
        for node in self.old:
            self.new.here = (node.name, node.site)
            if self._depends_on_copy(node):
                self.twins[node.id] = self._twin(node)
            else:
                self.moved[node.id] = self._copied(node).id
        for i in self.old.outputs.values():
            self._read(i)
        self.new.here = ("", None)
        caches = dict(self.new.outputs)
        finish(self.old, self.new, self.moved)
        self.new.outputs |= caches
        return self.done

    def _renamed(self, node: Node) -> list[str]:
        """The copies of the axis that a node gives names to."""
        return [new for old, new in node.attrs["axes"].items() if self._copy(new)]

    def _copy(self, axis: str) -> bool:
        return axis in self.windows

    def _depends_on_copy(self, node: Node) -> bool:
        """Whether a value depends on a copy of the axis only: it is cached."""
        only = any(map(self._copy, node.axes)) and self.axis not in node.axes
        return only and node.id in self.from_rename

    def _twin(self, node: Node) -> Expr:
        """The same value over the axis itself, at this position."""
        inputs = [self._at_own(i) for i in node.inputs]
        if node.op == "rename":
            names = {
                o: self.axis if self._copy(n) else n
                for o, n in node.attrs["axes"].items()
                if not (self._copy(n) and (o == self.axis or self._copy(o)))
            }
            return make("rename", inputs[0], axes=names) if names else inputs[0]
        ids = tuple(x.id for x in inputs)
        return Expr(self.new, self.new.insert(remake(self.new, self._fresh(node), ids)))

    def _at_own(self, i: int) -> Expr:
        """An operand of a twin: the value over the axis itself instead of over its copy."""
        node = self.old[i]
        if i in self.twins:
            return self.twins[i]
        if not any(map(self._copy, node.axes)):
            return Expr(self.new, self.moved[i])
        if node.op == "index":
            return index_of(self.new, self.axis)
        ids = tuple(self._at_own(j).id for j in node.inputs)
        return Expr(self.new, self.new.insert(remake(self.new, self._fresh(node), ids)))

    def _fresh(self, node: Node) -> Node:
        return replace(node, id=self.new.fresh())

    def _copied(self, node: Node) -> Expr:
        inputs = tuple(self._read(i) for i in node.inputs)
        if node.op == "index" and self._copy(node.attrs["axis"]):
            return self._position(node)
        if node.op == "rename" and self.axis in node.attrs["axes"].values():
            # renamed back from a copy: at this position it is the value itself
            return self._at_own(node.inputs[0])
        if node.op == "where" and (branch := self._branch(node)) is not None:
            return Expr(self.new, inputs[branch])
        return Expr(self.new, self.new.insert(remake(self.new, node, inputs)))

    def _branch(self, node: Node) -> int | None:
        """The operand that a `where` selects at every cached position, or None.

        A causal mask hides nothing of the past; without it this is plain attention.
        """
        test = self._known_test(self.old[node.inputs[0]])
        if test is None or self.given_out:
            return None
        branch = 1 if test else 2
        selected = self.old[node.inputs[branch]]
        forms = [(x.axes, x.shape, x.dtype) for x in (selected, node)]
        return branch if forms[0] == forms[1] else None

    def _known_test(self, node: Node) -> bool | None:
        """The value of a test at every cached position, from the window's first to this one."""
        for copy in set(self.windows) & node.axes:
            size = self.windows[copy]
            first = -INF if size is None else 1 - size
            for known in self.reaches[copy].found[node.id]:
                if isinstance(known.fill, bool) and (known.low > 0 or known.high < first):
                    return known.fill
        if node.op not in DECIDING:
            return None
        parts, decides = [self._known_test(x) for x in self.old.operands(node)], DECIDING[node.op]
        if decides in parts:
            return decides
        return None if None in parts else not decides

    def _position(self, node: Node) -> Expr:
        """The cached positions, this one last: t - (size - 1) + k."""
        copy = node.attrs["axis"]
        index = make("axis_at", index_of(self.new, self.axis), axis=self.axis, position=0)
        first = index - (size_of(self.new, copy) - 1)
        return Expr(self.new, self.new.insert(node)) + first

    def _read(self, i: int) -> int:
        """The node in the new graph; a cached value includes its earlier positions."""
        if i not in self.moved:
            self.moved[i] = self._with_past(self.old[i]).id
        return self.moved[i]

    def _with_past(self, node: Node) -> Expr:
        """A value at the cached positions, followed by this one."""
        (copy,) = (a for a in node.axes if self._copy(a))
        axes = (node.axes - {copy}) | {BATCH}
        over = (*(a for a in self.new.layout(axes) if a != BATCH), copy)
        name = self._name(node, copy)
        given = build(
            self.new,
            "input",
            (),
            {"key": name, "over": over},
            shape=node.shape,
            axes=axes | {copy},
            dtype=node.dtype,
            name=name,
            site=node.site,
        )
        now = make("axis_at", self.twins[node.id], axis=self.axis, position=0)
        joined = make("axis_put", Expr(self.new, given), now, axis=copy)
        self.new.outputs[name] = joined.id
        self.done.caches.append(Cache(name, over, copy, self.windows[copy], node))
        return joined

    def _name(self, node: Node, copy: str) -> str:
        """A name made from the module that computed the value: every trace has the same name."""
        made = f"{CACHE}{maker(self.old, node)}"
        name, count = f"{made} over {copy}", 2
        while name in self.new.outputs:
            name, count = f"{made} ({count}) over {copy}", count + 1
        return name
