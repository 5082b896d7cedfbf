"""Writes matrix products of a block that has some columns of a weight: all of the operand, a piece
at a time.

The weight's tiles are loaded before the loop and stay on chip, as many as there is room for; the
others are loaded at each step. Pieces of the operand are loaded while others are multiplied.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...codegen.loads import rows_at
from ...codegen.matmul import DEINTERLEAVE, Columns
from ...codegen.variables import V
from ...ir.expression import Code, Expr, Name, both, call, code, expr, load, times, total, where
from ...ir.program import Op, Part, Tensor
from ...ir.statement import assign
from ...ir.tile import Span, Tile
from ..plan.exchange import Exchange
from ..plan.tiling import MIN_K, Tiling, cut
from . import exchange as exchanges
from .builder import C, CooperativeBuilder


@dataclass(frozen=True)
class Operand:
    """Where the operand of a product comes from: an exchange and its argument, a tensor, or tiles
    in registers."""

    exchange: tuple[Exchange, Name] | None = None
    tensor: Tensor | None = None
    tiles: tuple[Tile, ...] = ()


class ShardedMatmul:
    """Writes one product."""

    def __init__(self, b: CooperativeBuilder, op: Op, operand: Operand, tiling: Tiling):
        self.b, self.op, self.operand, self.tiling = b, op, operand, tiling
        self.weight: Part = op.attrs["weight"]
        self.names = dict(b.named(op))
        self.cut = cut(op, b.layout.spans, tiling)
        self.groups, self.pieces, self.split_k = self.cut.groups, self.cut.pieces, self.cut.split_k
        self.loaded: dict[int, Expr] = {}
        self.rest: dict[Name, Name] = {}

    def write(self) -> None:
        """Writes all of it."""
        b, op = self.b, self.op
        sums = [self._start(n) for n in self.groups]
        flight = self.tiling.flight
        b.staged = max(b.staged, list(self.cut.staged(self.tiling)), key=sum)
        for k, span in enumerate(self.pieces[:flight]):
            self._load(k, span)
        for k, span in enumerate(self.pieces):
            for n, name in zip(self.groups, sums):
                self._multiply(n, name, k, span)
            if k + flight < len(self.pieces):
                self._load(k + flight, self.pieces[k + flight])
        for n, name in zip(self.groups, sums):
            self._split_result(n, name)
        b.tiles[op.name] = tuple(b.tile(s, name, s.width, True) for s, name in self.names.items())

    def _warp_pieces(self) -> tuple[int, int]:
        """The warps that split a piece, and the elements of each."""
        return self.tiling.warps, self.pieces[0].width // self.tiling.warps

    def _start(self, n: Columns) -> Name:
        """The sums so far: zeros, or NaN after a stuck barrier."""
        name = self.b.fresh(f"{self.op.name}_sum")
        shape = code("ROWS, {}", n.width)
        if self.split_k:
            shape = code("{}, {}", self.tiling.warps, shape)
        self.b.add(self.op, name, code("tl.full([{}], {}, ACC)", shape, C.poison))
        if self._uses_bf16x3(n):
            self.rest[name] = self.b.fresh(f"{name.text}_rest")
            self.b.add(self.op, self.rest[name], code("tl.full([{}], 0.0, ACC)", shape))
        return name

    def _uses_bf16x3(self, n: Columns) -> bool:
        """Whether float32 is multiplied in parts: some of the product is for matrix units."""
        wide_enough = any(span.width >= MIN_K for span in self.pieces)
        return self.tiling.bf16x3 and n.width > 1 and wide_enough

    def _load(self, k: int, span: Span) -> None:
        """A piece of the operand, if it is not in registers."""
        if self.operand.tiles:
            self.loaded[k] = self.b.full(self.operand.tiles[k], span.width)
            return
        name = self.b.fresh(f"{self.op.name}_of_{k}")
        self.b.add(self.op, name, self._operand_piece(span))
        self.loaded[k] = expr(name)

    def _operand_piece(self, span: Span) -> Expr:
        line = self._piece_index(span, "operand")
        rows, live = (C.rows_3d, C.live_3d) if self.split_k else (V.rows, V.live)
        mask = both([live, *[code("({} < {})", line, span.valid)] * (span.valid < span.width)])
        column = total([span.start, line])
        if self.operand.exchange is not None:
            return exchanges.received(*self.operand.exchange, column, mask, rows=rows)
        tensor = self.operand.tensor
        assert tensor is not None
        at = total([rows_at(self.b, tensor, V.t, rows), column])
        return load(code("{} + ({})", self.b.pointer(tensor), at), mask)

    def _piece_index(self, span: Span, what: str) -> Name:
        """0, 1, 2 … along the elements of a piece, as the operand or the weight has them."""
        if self.split_k:
            return self.b.split_k_range(*self._warp_pieces(), what)
        return self.b.cols(span.width) if what == "operand" else self.b.down(span.width)

    def _multiply(self, n: Columns, name: Name, k: int, span: Span) -> None:
        b, weight = self.b, self._weight(n, k, span)
        piece = self.loaded[k]
        if span.valid < span.width and self.operand.tiles:
            piece = where(code("{} < {}", b.cols(span.width), span.valid), piece, "0.0")
        if n.width == 1:
            terms = code("{}.to(ACC) * {}.to(ACC)", piece, weight)
            value = code("{} + tl.sum({}, 1, keep_dims=True)", name, terms)
        elif span.width == 1:
            value = code("{} + {}.to(ACC) * {}.to(ACC)", name, piece, weight)
        elif span.width < MIN_K:
            terms = code(
                "{0}.to({1}.dtype).to(ACC)[:, :, None] * {1}.to(ACC)[None, :, :]", piece, weight
            )
            value = code("{} + tl.sum({}, 1)", name, terms)
        elif self.tiling.bf16x3:
            rest = self.rest[name]
            value = call("matmul_bf16x3", piece, weight, name, rest, "PRECISION", "UPCAST")
            b.add(self.op, (name, rest), value)
            return
        else:
            value = call("matmul", piece, weight, name, "PRECISION", "UPCAST")
        b.add(self.op, name, value)

    def _weight(self, n: Columns, k: int, span: Span) -> Name:
        """A tile of the weight: kept from before the loop, while there is room."""
        b, tensor = self.b, self.weight
        name = b.fresh(f"{tensor.name}_{k}")
        places, masks = self._weight_indices(n, span)
        value = load(code("{} + ({})", b.pointer(tensor), total(places)), both(masks))
        count = span.width * n.width
        if self.tiling.has_room(b.weights_on_chip, count):
            b.append(b.before, assign(name, value, f"{self.op.note}: its weights"))
            b.weights_on_chip[tensor.name] = b.weights_on_chip.get(tensor.name, 0) + count
        else:
            b.add(self.op, name, value)
            b.streamed += count
        return name

    def _weight_indices(self, n: Columns, span: Span) -> tuple[list[Code], list[Code]]:
        """The offsets of the tile's elements in the weight, and the masks of those that exist."""
        to_k, to_n = self.op.attrs["steps"]
        places, masks = self._columns(n, to_n)
        if span.width > 1:
            line = self._piece_index(span, "weight") if n.width > 1 else self.b.cols(span.width)
            places.append(times(line, to_k))
            masks += [code("({} < {})", line, span.valid)] * (span.valid < span.width)
        places.insert(0, span.start * to_k + self.op.attrs["first"] * to_n)
        return places, masks

    def _columns(self, n: Columns, to_n: int) -> tuple[list[Code], list[Code]]:
        first, part = n.spans[0], self.weight
        at = first.start
        places, masks = list[Code](), list[Code]()
        if part.period:
            number, at = divmod(first.start, part.units)
            places += [number * part.period * to_n, times(Name(part.shard_start), to_n)]
        line = expr("")
        if n.width > 1:
            found = self.b.cols(n.width)
            if n.count > 1:
                found, part_of = self.b.interleave(n.width, n.count)
                of = self._as_weight_row(part_of)
                places.append(times(of, n.stride))
                masks += [code("({} < {})", of, len(n.spans))] * (len(n.spans) < n.count)
            line = self._as_weight_row(found)
        places += [at * to_n, times(line, to_n) if n.width > 1 else ""]
        masks += [code("({} < {})", line, first.valid)] * (first.valid < first.width)
        if part.period and not part.even:
            own = total([Name(part.shard_start), at, line])
            masks.append(code("({} < {})", own, part.period))
        return places, masks

    def _as_weight_row(self, line: Name) -> Expr:
        """Numbers along a row in the shape of a weight, a third dimension if warps split it."""
        return code("{}[None, :, :]", line) if self.split_k else expr(line)

    def _split_result(self, n: Columns, name: Name) -> None:
        """The parts of a result, from the sums of warps if these split the operand."""
        b, op = self.b, self.op
        parts = [self.names[span] for span in n.spans]
        if name in self.rest:
            b.add(op, name, call("sum_bf16x3", name, self.rest[name]))
        value = code("tl.sum({}, 0)", name) if self.split_k else expr(name)
        if len(parts) > 1:
            value = call(DEINTERLEAVE[n.count], value)
            parts += [b.fresh("zeros")] * (n.count - len(parts))
        b.add(op, parts, value)
