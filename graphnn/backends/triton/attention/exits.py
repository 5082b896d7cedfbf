"""Which axes the tiles of a contraction have, and where a graph of tiles leaves them as sums."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from graphnn.ir.graph import IR, Node
from graphnn.kernels.ir.program import Unsupported
from graphnn.ops.builder import Expr, make
from graphnn.ops.registry import build
from graphnn.planner.attention.tiles import AttentionRegion
from graphnn.planner.attention.topk import TopkRegion
from graphnn.planner.core.rewrite import keep, reachable, rewrite


@dataclass(frozen=True)
class TileAxes:
    """The axes of a contraction: of both queries and keys, of queries alone, of keys alone.

    If the keys were `picked` for each query, all axes but the picked one are of both.
    """

    blocks: tuple[str, ...]
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    picked: TopkRegion | None = None

    def ordered(self, swapped: bool = False) -> tuple[tuple[str, ...], ...]:
        """Return blocks, rows and columns; with `swapped` the rows are the keys."""
        if swapped:
            return self.blocks, self.columns, self.rows
        return self.blocks, self.rows, self.columns


def tile_axes(part: AttentionRegion, picked: TopkRegion | None = None) -> TileAxes:
    """Return which axes of a contraction are rows of tiles, which columns, and which neither."""
    axes = part.ir.layout(part.axes)
    if picked is not None:
        return TileAxes(axes, (), (part.axis,), picked)
    rows = tuple(a for a in axes if a in part.queries)
    return TileAxes(tuple(a for a in axes if a not in rows), rows, (part.axis,))


@dataclass(frozen=True)
class TileExit:
    """A value that leaves the tiles: node `end` is the sum over `summed` of a product of `args`.

    `kind` is "row", "tile" or "element" as in `kernels.ir.contraction.Store`, or "column", a sum
    over the rows. `axes` are those of what a kernel stores. `reduction` is the kind of the kernel's
    operation: "column_sum", "column_max" or "column_argmax".
    """

    end: int
    args: tuple[int, ...]
    sub: str
    kind: str
    axes: frozenset[str]
    summed: frozenset[str]
    reduction: str = "column_sum"

    def stored_axes(self, tiles: TileAxes) -> tuple[str, ...]:
        """Return the axes of what a kernel stores: all that its programs and rows run over."""
        if self.kind == "row":
            return (*tiles.blocks, *tiles.rows)
        if self.kind == "column":
            return (*tiles.blocks, *tiles.columns)
        return tuple(self.axes) if self.kind == "element" else tiles.blocks


class _ExitFinder:
    """Finds where a graph leaves the tiles; `found` has the exits by their nodes.

    A sum over rows or columns is an exit, and so is a value in tiles that is a result, or that an
    operation after an exit reads. `after` are the nodes that are computed after the kernels.
    """

    def __init__(self, ir: IR, part: AttentionRegion, tiles: TileAxes):
        self.ir, self.axis, self.tiles = ir, part.axis, tiles
        self.users = ir.users()
        self.found: dict[int, TileExit] = {}
        self.after: set[int] = set()
        for node in ir:
            self._visit(node)
        for i in ir.outputs.values():
            if i not in self.after and self._in_tiles(ir[i].axes):
                self._add_whole(i)

    def _in_tiles(self, axes: Iterable[str]) -> bool:
        """Return whether a value varies over both rows and columns."""
        axes = set(axes)
        return self.axis in axes and (not self.tiles.rows or bool(axes & set(self.tiles.rows)))

    def _visit(self, node: Node) -> None:
        if node.id in self.after:
            return
        if any(i in self.after for i in node.inputs):
            for i in node.inputs:
                if i not in self.after and self._in_tiles(self.ir[i].axes):
                    self._add_whole(i)
            self.after.add(node.id)
            return
        axes = frozenset().union(*(self.ir[i].axes for i in node.inputs))
        sums = node.op == "axis_sum" or bool(node.attrs.get("contract"))
        if sums and self._in_tiles(axes):
            self._add_sum(node, axes)

    def _add_sum(self, node: Node, axes: frozenset[str]) -> None:
        """Add a sum, with further sums over axes that alone read it."""
        summed = set(node.attrs["contract"]) if node.op == "einsum" else {node.attrs["axis"]}
        end, passed = node, [node.id]
        while len(self.users[end.id]) == 1 and end.id not in self.ir.outputs.values():
            following = self.ir[self.users[end.id][0]]
            if following.op != "axis_sum" or len(following.inputs) > 1:
                break
            summed.add(following.attrs["axis"])
            end = following
            passed.append(end.id)
        self.after |= set(passed)
        sub = node.attrs["sub"] if node.op == "einsum" else ""
        self._add(end.id, node.inputs, sub, axes, frozenset(summed))

    def _add_whole(self, i: int) -> None:
        """Add a value that is stored for each row and column."""
        self.after.add(i)
        self._add(i, (i,), "", self.ir[i].axes, frozenset())

    def _add(
        self, end: int, args: Sequence[int], sub: str, axes: frozenset[str], summed: frozenset[str]
    ) -> None:
        rows, blocks = set(self.tiles.rows), axes & set(self.tiles.blocks)
        label = self.ir[end].label
        kept = axes - summed
        if self.axis in kept and (kept & rows or not rows):
            kind, stored = "element", axes
            if len(args) > 1:
                raise Unsupported(f"'{label}' sums a product over only some of its axes")
        elif self.axis in kept:
            kind, stored = "column", blocks | {self.axis}
        elif kept & rows or not rows:
            kind, stored = "row", blocks | rows
        else:
            kind, stored = "tile", blocks
        if kind != "element" and not rows <= axes:
            raise Unsupported(f"'{label}' varies over only some of the queries' axes")
        self.found[end] = TileExit(end, tuple(args), sub, kind, frozenset(stored), summed)


def find_exits(ir: IR, part: AttentionRegion, tiles: TileAxes) -> dict[int, TileExit]:
    """Return where a graph derived from a contraction leaves the tiles, by node.

    Raises Unsupported if kernels cannot store a value.
    """
    return _ExitFinder(ir, part, tiles).found


def remaining_graph(ir: IR, exits: dict[int, TileExit], given: dict[int, int]) -> IR:
    """Return what is left to compute from what kernels store: sums over axes, and what follows.

    `given` is filled with the node that stands for the stored value of each exit.
    """

    def rule(new: IR, node: Node) -> Expr | None:
        found = exits.get(node.id)
        if found is None:
            return None
        old = ir[node.id]
        attrs = {"key": ("stored", node.id), "was": "column_sum"}
        i = build(
            new,
            "given",
            (),
            attrs,
            shape=old.shape,
            dtype=old.dtype,
            axes=found.axes,
            name=old.name,
        )
        given[node.id] = i
        made = Expr(new, i)
        for axis in new.layout(found.axes & found.summed):
            made = make("axis_sum", made, axis=axis)
        return made

    new = rewrite(ir, rule)
    return keep(new, reachable(new, new.outputs.values()))
