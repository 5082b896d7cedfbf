"""Attention by torch code on tiles of queries and keys: scores are never stored as a whole.

The tiles of one query are combined by their log-sum-exp (Rabe and Staats 2021, the algorithm of
section 3). Gradients are added up tile by tile, always in the same order.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from graphnn.backends.torch.codegen.function import write
from graphnn.backends.torch.codegen.lowering import Function
from graphnn.backends.torch.runtime.philox import block_positions, dropout
from graphnn.ir.graph import BATCH, IR, Node
from graphnn.planner.attention.tiles import AttentionRegion
from graphnn.planner.autodiff.softmax import gradients, positions, tiled
from graphnn.planner.pipeline import attention_backward

Tensor = torch.Tensor
Tile = dict[str, tuple[int, int]]
# elements of the widest value of a tile. Forward and backward of additive attention with 256
# queries and keys, width 64 and batch 2 take 38 ms with 2^20, 51 ms with 2^16 and 54 ms with 2^22;
# 16 queries over 100,000 slots take 106, 145 and 72 ms (CPU, Xeon, 1 thread, float32)
TILE = 2**20
# an axis is cut below these sizes only if all axes are at theirs
LEAST = {"rows": 16, "over": 256}


@dataclass(frozen=True)
class TiledNoise:
    """Noise that is drawn tile by tile: its seed, and the sizes of its axes."""

    seed: Tensor
    node: Node
    sizes: Mapping[str, int]
    dtype: torch.dtype = torch.int64

    def cut(self, axes: Sequence[str], tile: Tile) -> Tensor:
        """The noise of a tile, over `axes`, in float64."""
        order = self.node.attrs["places"]
        spans = [(*tile.get(a, (0, self.sizes[a])), self.sizes[a]) for a in order]
        at = block_positions(spans, self.seed.device)
        made = dropout(self.seed, self.node.attrs["p"], at, torch.float64)
        return made.permute([order.index(a) for a in axes])


@dataclass
class TileCode:
    """A generated function on tiles.

    `places` are its arguments after the tensors: the positions along an axis, or its size.
    """

    function: Function
    places: list[tuple[str, str]]

    def __call__(
        self, parts: Sequence[Tensor], tile: Tile, sizes: Mapping[str, int]
    ) -> list[Tensor]:
        device = parts[0].device
        given = [_position(key, tile, sizes, device) for key in self.places]
        lengths = [tile[a][1] - tile[a][0] if a in tile else sizes[a] for a in self.function.axes]
        return self.function.call([*parts, *given], lengths)


def _position(
    key: tuple[str, str], tile: Tile, sizes: Mapping[str, int], device: torch.device
) -> Tensor:
    kind, axis = key
    if kind == "size":
        return torch.full((), sizes[axis], device=device)
    return torch.arange(*tile.get(axis, (0, sizes[axis])), device=device)


class TiledAttention:
    """Computes a contraction forward and backward by generated torch code on tiles."""

    def __init__(self, part: AttentionRegion, passes: frozenset[str]):
        self.part, self.passes = part, passes
        self.row_axes = part.ir.layout(part.axes)
        self.width = max(math.prod(n.shape) for n in part.ir if part.in_tiles(n.axes))
        ir = tiled(part)
        results = [*part.results, ir.outputs["peak"]]
        self._results = [ir[i] for i in results]
        self.forward_code = self.code(ir, part.reads, results, "forward")
        self._backwards: dict[tuple[tuple[bool, ...], tuple[bool, ...]], TileCode] = {}

    def code(
        self, ir: IR, reads: Sequence[int], results: Sequence[int], which: str,
        likes: Sequence[Node] | None = None,
    ) -> TileCode:  # fmt: skip
        """A function of tiles of `reads`."""
        wanted = [f"w{k}" for k in range(len(results))]
        ir = ir.copy()
        ir.outputs = dict(zip(wanted, results, strict=True))
        for node in [n for n in ir if "places" in n.attrs]:
            # inside a tile, noise is an argument like any other
            ir.nodes[node.id] = replace(node, attrs={k: node.attrs[k] for k in ("key", "was")})
        ir, given = positions(ir)
        made = [ir.outputs[w] for w in wanted]
        likes = [ir[i] for i in made] if likes is None else likes
        title = f"A tile of {self.part.name} over {self.part.axis}, {which}."
        name = f"tile_{which}"
        pairs = list(zip(made, likes, strict=True))
        function = write(ir, name, [*reads, *given.values()], pairs, title, self.passes)
        return TileCode(function, list(given))

    def too_small(self, sizes: Mapping[str, int]) -> bool:
        """Whether there is one tile only, or the scores are no larger than the keys.

        Torch's own operations then do as well, and save what the backward would recompute.
        """
        return not self.part.queries or self._numbers(sizes) <= TILE

    def _numbers(self, sizes: Mapping[str, int]) -> int:
        return self.width * math.prod([sizes[a] for a in (*self.row_axes, self.part.axis)])

    def tiles(self, sizes: Mapping[str, int]) -> tuple[list[str], list[int]]:
        """The axes that are cut into tiles, and the tile's size along each."""
        part = self.part
        axes = [a for a in (*self.row_axes, part.axis) if a not in part.parts]
        least = {a: LEAST["over"] if a == part.axis else LEAST["rows"] for a in axes}
        least[BATCH] = 1
        piece = {a: sizes[a] for a in axes}
        fixed = self.width * math.prod(sizes[a] for a in part.parts)
        while fixed * math.prod(piece.values()) > TILE:
            widest = max(axes, key=lambda a: piece[a] / least[a])
            if piece[widest] <= 1:
                if all(n <= 1 for n in piece.values()):
                    break
                widest = max(axes, key=lambda a: piece[a])
            piece[widest] = -(-piece[widest] // 2)
        return axes, [piece[a] for a in axes]

    def tiles_of(self, sizes: Mapping[str, int]) -> Iterator[tuple[Tile, list[Tile]]]:
        """Tiles of rows, each with its tiles along the axis."""
        axes, pieces = self.tiles(sizes)
        cuts = [
            [(start, min(start + n, sizes[a])) for start in range(0, sizes[a], max(n, 1))]
            for a, n in zip(axes, pieces, strict=True)
        ]
        for rows in itertools.product(*cuts[:-1]):
            tile = dict(zip(axes[:-1], rows, strict=True))
            yield tile, [{**tile, axes[-1]: span} for span in cuts[-1]]

    def cut(self, x: Tensor | TiledNoise, axes: Sequence[str], tile: Tile) -> Tensor:
        """The part of a value that belongs to a tile."""
        if isinstance(x, TiledNoise):
            return x.cut(axes, tile)
        for d, axis in enumerate(axes):
            if axis in tile and tile[axis] != (0, x.shape[d]):
                start, stop = tile[axis]
                x = x.narrow(d, start, stop - start)
        return x

    def cut_all(self, tensors: Sequence[Tensor], tile: Tile) -> list[Tensor]:
        """The parts of the reads that belong to a tile."""
        return [self.cut(x, a, tile) for x, a in zip(tensors, self._layouts(), strict=True)]

    def with_noise(
        self, tensors: Sequence[Tensor], sizes: Mapping[str, int]
    ) -> list[Tensor | TiledNoise]:
        """The reads and further arguments, with seeds replaced by the noise they stand for."""
        part = self.part
        seeds = {k: part.ir[i] for k, i in enumerate(part.reads) if part.drawn(i)}
        return [TiledNoise(x, seeds[k], sizes) if k in seeds else x for k, x in enumerate(tensors)]

    def _parts(
        self,
        tensors: Sequence[Tensor | TiledNoise],
        layouts: Sequence[Sequence[str]],
        tile: Tile,
        acc: torch.dtype,
    ) -> list[Tensor]:
        """A tile's arguments, floats in full precision: a weight is exp(score - peak)."""
        parts = [self.cut(x, a, tile) for x, a in zip(tensors, layouts, strict=True)]
        return [x.to(acc) if x.dtype.is_floating_point else x for x in parts]

    def _layouts(self) -> list[tuple[str, ...]]:
        return [self.part.ir.layout(self.part.ir[i].axes) for i in self.part.reads]

    def forward(self, tensors: Sequence[Tensor], sizes: Mapping[str, int]) -> list[Tensor]:
        """The results, and `peak` in float32 or wider."""
        kind = _kind(self.part, tensors)
        acc = torch.promote_types(kind, torch.float32)
        layouts, given = self._layouts(), self.with_noise(tensors, sizes)
        outs = [
            tensors[0].new_empty([sizes[a] for a in self.row_axes] + list(n.shape), dtype=d)
            for n, d in zip(self._results, [kind] * (len(self._results) - 1) + [acc], strict=True)
        ]
        for rows, tiles in self.tiles_of(sizes):
            merged: list[Tensor] | None = None
            for tile in tiles:
                parts = self._parts(given, layouts, tile, acc)
                made = self.forward_code(parts, tile, sizes)
                merged = made if merged is None else merge(merged, made, acc)
            for out, value in zip(outs, merged or (), strict=False):
                self.cut(out, self.row_axes, rows).copy_(value)
        return outs

    def backward(
        self,
        tensors: Sequence[Tensor],
        results: Sequence[Tensor],
        peak: Tensor,
        flows: Sequence[Tensor | None],
        wanted: Sequence[bool],
        sizes: Mapping[str, int],
    ) -> list[Tensor]:
        """The gradients of the wanted reads, given those of some of `part.ends`."""
        code = self._backward(tuple(wanted), tuple(f is not None for f in flows))
        delta = backward_delta(results, flows[: len(results)], peak)
        given = [*tensors, peak, delta, *(f for f in flows if f is not None)]
        layouts = [*self._layouts(), *[self.row_axes] * (len(given) - len(tensors))]
        return self.gradients(code, given, layouts, wanted, sizes)

    def gradients(
        self,
        code: TileCode,
        given: Sequence[Tensor],
        layouts: Sequence[Sequence[str]],
        wanted: Sequence[bool],
        sizes: Mapping[str, int],
    ) -> list[Tensor]:
        """The sums over tiles of the gradients that `code` computes, one for each wanted read."""
        kind = _kind(self.part, given)
        chosen = [k for k, w in enumerate(wanted) if w]
        acc = torch.promote_types(kind, torch.float32)
        with_noise = self.with_noise(given, sizes)
        grads = [torch.zeros_like(given[k], dtype=acc) for k in chosen]
        for _, tiles in self.tiles_of(sizes):
            for tile in tiles:
                parts = self._parts(with_noise, layouts, tile, acc)
                for grad, k, value in zip(grads, chosen, code(parts, tile, sizes), strict=True):
                    self.cut(grad, layouts[k], tile).add_(value)
        return [g.to(given[k].dtype) for g, k in zip(grads, chosen, strict=True)]

    def _backward(self, wanted: tuple[bool, ...], present: tuple[bool, ...]) -> TileCode:
        if (wanted, present) not in self._backwards:
            part = self.part
            reads = [i for i, w in zip(part.reads, wanted, strict=True) if w]
            results = [i for i, p in zip(part.ends, present, strict=True) if p]
            derived = attention_backward(part, reads, results)
            given = [*part.reads, *self.kept()]
            given += [derived.cotangents.get(i, -1 - k) for k, i in enumerate(results)]
            ir, outs = gradients(derived.ir, reads)
            likes = [part.ir[i] for i in reads]
            self._backwards[wanted, present] = self.code(ir, given, outs, "backward", likes)
        return self._backwards[wanted, present]

    def kept(self) -> list[int]:
        """Further arguments of the backward's tiles: the scores' log-sum-exp, and `delta`."""
        return [self.part.peak, self.part.delta]

    def report(self) -> list[str]:
        """How it computes, as text for users."""
        queries = " x ".join(self.part.ir.layout(self.part.queries))
        if not queries:
            return ["torch operations over the whole axis: the scores are no larger than the keys"]
        return [
            f"torch operations on tiles of {queries} and {self.part.axis}, at most {TILE:,} "
            "elements each, forward and backward; without tiles if one tile holds everything",
            saved_text(self.part),
        ]

    def sources(self) -> list[str]:
        """The code of tiles, forward and backward."""
        back = self._backward(self.part.moving, (True,) * len(self.part.ends))
        return [self.forward_code.function.source, back.function.source]


def saved_text(part: AttentionRegion) -> str:
    """What is saved for the backward, as text for users."""
    rows = " x ".join(part.ir.layout(part.axes))
    return (
        f"saved for backward: the results and one number for each of {rows}; the weights over "
        f"{part.axis} are recomputed"
    )


def _kind(part: AttentionRegion, tensors: Sequence[Tensor]) -> torch.dtype:
    """The floating dtype of a call, given its tensors."""
    return call_dtype(zip(tensors, (part.ir[i] for i in part.reads), strict=False))


def call_dtype(pairs: Iterable[tuple[Tensor, Node]]) -> torch.dtype:
    """The dtype of the first floating tensor that the graph does not mark as wide."""
    floats = ((t.dtype, n) for t, n in pairs if t.dtype.is_floating_point)
    return next(dtype for dtype, n in floats if not n.attrs.get("wide"))


def backward_delta(
    results: Sequence[Tensor], flows: Sequence[Tensor | None], peak: Tensor
) -> Tensor:
    """Σ result · gradient over all results, summed over all but the dimensions of `peak`."""
    total = torch.zeros_like(peak)
    for c, g in zip(results, flows, strict=True):
        if g is not None:
            product = c.to(peak.dtype) * g.to(peak.dtype)
            total = total + (
                product.flatten(peak.dim()).sum(-1) if c.dim() > peak.dim() else product
            )
    return total


def merge(a: Sequence[Tensor], b: Sequence[Tensor], acc: torch.dtype) -> list[Tensor]:
    """Combine two parts of a softmax: results, and last the log-sum-exp of each part."""
    peaks = [x[-1].to(acc) for x in (a, b)]
    peak = torch.logaddexp(*peaks)
    floor = torch.where(peak == float("-inf"), 0, peak)
    shares = [torch.exp(p - floor) for p in peaks]
    merged = []
    for x, y in zip(a[:-1], b[:-1], strict=True):
        wide = (*peak.shape, *[1] * (x.dim() - peak.dim()))
        merged.append(x * shares[0].reshape(wide) + y * shares[1].reshape(wide))
    return [*merged, peak]
