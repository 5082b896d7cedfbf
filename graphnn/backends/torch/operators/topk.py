"""Attention over the k best positions: exact top-k of tiled scores, then softmax over these.

Only the chosen positions are read again, so that only they have gradients. Ties go to the earlier
position. Gradients are added up in the same order every time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F

from graphnn.backends.torch.codegen.function import write
from graphnn.backends.torch.codegen.lowering import Function
from graphnn.backends.torch.operators.attention_tiles import Tile, TiledAttention
from graphnn.backends.torch.runtime.active_transforms import under_transform
from graphnn.ir.graph import IR, Node
from graphnn.ops.builder import Expr, make
from graphnn.ops.registry import build
from graphnn.planner.attention.tiles import AttentionRegion
from graphnn.planner.core.loop_graph import merge_orders
from graphnn.planner.core.rewrite import keep, reachable, rewrite

Tensor = torch.Tensor
Key = tuple[str, str]


class TopK:
    """Computes a contraction over the positions of the `top` best scores."""

    def __init__(self, part: AttentionRegion, passes: frozenset[str]):
        self.part = part
        self.tiles = TiledAttention(part, passes)
        self.scores = self.tiles.code(part.ir, part.reads, [part.score], "scores")
        ir, self.given = chosen_graph(part)
        wanted = [(i, ir[i]) for i in ir.outputs.values()]
        title = f"{part.name} over the {part.top} best positions of {part.axis}."
        reads = [*part.reads, *self.given.values()]
        self.function: Function = write(ir, "chosen", reads, wanted, title, passes)

    def report(self) -> list[str]:
        """How it computes, as text for users."""
        return [
            f"the {self.part.top} best of {self.part.axis}: scores in tiles, exact "
            "top-k, then softmax and sums over these by torch; only these have gradients"
        ]

    def sources(self) -> list[str]:
        """The code of the scores, and of the attention over the best positions."""
        return [self.scores.function.source, self.function.source]

    def __call__(self, tensors: Sequence[Tensor], sizes: Mapping[str, int]) -> list[Tensor]:
        with torch.no_grad():
            places = self.choose([t.detach() for t in tensors], sizes)
        return self.read(tensors, places, sizes)

    def read(
        self, tensors: Sequence[Tensor], places: Tensor, sizes: Mapping[str, int]
    ) -> list[Tensor]:
        """The results, given the best positions: (axes of the results, k), int64."""
        part = self.part
        layouts = [part.ir.layout(part.ir[i].axes) for i in part.reads]
        picked = [
            gather_positions(
                x, len(axes), flat_positions(axes, part.axis, self.tiles.row_axes, places, sizes)
            )
            if part.axis in axes
            else x
            for x, axes in zip(tensors, layouts, strict=True)
        ]
        for kind, axis in self.given:
            size = torch.full((), sizes[axis], device=places.device)
            picked.append(places if kind == "index" else size)
        lengths = {**sizes, part.axis: places.shape[-1]}
        return self.function.call(picked, [lengths[a] for a in self.function.axes])

    def choose(self, tensors: Sequence[Tensor], sizes: Mapping[str, int]) -> Tensor:
        """The positions of the best scores, in their order: (axes of the results, k), int64."""
        part, rows = self.part, self.tiles.row_axes
        k = min(part.top, sizes[part.axis])
        found = tensors[0].new_empty([*(sizes[a] for a in rows), k], dtype=torch.int64)
        if under_transform() and found.numel():
            # under a transform, values must not be written in place
            return self._best(tensors, [{a: (0, sizes[a]) for a in (*rows, part.axis)}], sizes, k)
        for tile, columns in self.tiles.tiles_of(sizes):
            if columns:
                where = self._best(tensors, columns, sizes, k)
                self.tiles.cut(found, rows, tile).copy_(where)
        return found

    def _best(
        self, tensors: Sequence[Tensor], columns: list[Tile], sizes: Mapping[str, int], k: int
    ) -> Tensor:
        """The positions of the best scores of a tile of rows."""
        part = self.part
        d = part.ir.layout(part.axes | {part.axis}).index(part.axis)
        best, where = None, torch.empty(0)
        for column in columns:
            (score,) = self.scores(self.tiles.cut_all(tensors, column), column, sizes)
            score = score.movedim(d, -1)
            start, stop = column[part.axis]
            place = torch.arange(start, stop, device=score.device).expand(score.shape)
            if best is not None:
                score, place = torch.cat([best, score], -1), torch.cat([where, place], -1)
            mine = top_positions(score, min(k, score.shape[-1]))
            best, where = score.gather(-1, mine), place.gather(-1, mine)
        return where


def flat_positions(
    axes: Sequence[str], axis: str, rows: Sequence[str], places: Tensor, sizes: Mapping[str, int]
) -> Tensor:
    """The index of positions of `axis` in a value over `axes`, as if these were one axis.

    `places` and the result are (rows, k).
    """
    at = torch.zeros_like(places)
    for a in axes:
        line = places
        if a != axis:
            line = torch.arange(sizes[a], device=places.device)
            line = line.reshape([-1 if a == b else 1 for b in (*rows, "")])
        at = at * sizes[a] + line
    return at


def gather_positions(x: Tensor, rank: int, at: Tensor) -> Tensor:
    """The elements of a value with `rank` axes at `at`: (shape of `at`, the value's own shape).

    The gradient of an embedding is added up in the same order every time, with any number of
    threads; that of indexing is not.
    """
    own = x.shape[rank:]
    flat = x.reshape(math.prod(x.shape[:rank]), math.prod(own))
    found = F.embedding(at, flat) if x.dtype.is_floating_point else flat[at]
    return found.reshape(*at.shape, *own)


def top_positions(x: Tensor, k: int) -> Tensor:
    """The positions of the `k` largest values of the last dimension, ascending; ties: the first."""
    if not k:
        return x.new_empty(*x.shape[:-1], 0, dtype=torch.int64)
    x = torch.where(x.isnan(), float("inf"), x)
    least = torch.topk(x, k).values[..., -1:]
    above, level = x > least, x == least
    missing = k - above.sum(-1, keepdim=True)
    chosen = above | (level & (level.cumsum(-1) <= missing))
    back = torch.arange(x.shape[-1], 0, -1, device=x.device)
    return x.shape[-1] - torch.topk(torch.where(chosen, back, 0), k).values


def chosen_graph(part: AttentionRegion) -> tuple[IR, dict[Key, int]]:
    """The contraction over chosen positions, which differ from query to query.

    Returns the graph, and its arguments that are positions and sizes. The axis is the last one in
    memory.
    """
    given: dict[Key, int] = {}
    full = part.axes | {part.axis}

    def read(new: IR, node: Node, key: object) -> int:
        form = {"shape": node.shape, "dtype": node.dtype, "name": node.name, "site": node.site}
        attrs = {"key": key, "was": node.attrs.get("was", node.op)}
        axes = full if part.axis in node.axes else node.axes
        return build(new, "given", (), attrs, axes=axes, **form)  # type: ignore[arg-type]

    def rule(new: IR, node: Node) -> Expr | int | None:
        own = node.attrs.get("axis") == part.axis
        if node.id == part.weight:
            return make("axis_softmax", Expr(new, node.inputs[0]), axis=part.axis)
        if own and node.op in ("index", "size"):
            if (node.op, part.axis) not in given:
                given[node.op, part.axis] = read(new, node, (node.op, part.axis))
            return given[node.op, part.axis]
        if node.id in part.reads and part.axis in node.axes:
            return new.insert(replace(node, axes=full))
        return None

    new = rewrite(part.ir, rule)
    new.nodes = merge_orders(new.nodes, {})
    last = {a: x for a, x in new.axes.items() if a != part.axis}
    new.axes = {**last, part.axis: new.axes[part.axis]}
    return keep(new, reachable(new, [*new.outputs.values(), *part.reads])), given
