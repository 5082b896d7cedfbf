"""Products of a block that has some columns of a weight: all of the operand, a piece at a time.

The weight's tiles are loaded before the loop and stay on chip, as many as may; the rest are loaded
at each step. Pieces of the operand are under way while others are multiplied.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ...codegen.loads import rows_at
from ...codegen.loop_builder import Tile
from ...codegen.matmul import APART, Columns
from ...ir.printer import times, total
from ...ir.program import Op, Part, Tensor
from ...ir.tile import Span
from . import exchange as exchanges
from .builder import CooperativeBuilder
from .exchange import Exchange

# the columns of a product that a warp takes at least: with fewer, warps would repeat each other's
# work (sm_90, Triton 3.6: 288 matrix instructions for 48), and split the operand instead
EACH = 8
# the numbers of an operand that a matrix instruction takes at least
DEPTH = 16


@dataclass(frozen=True)
class Tiling:
    """How a block computes: the `units` it has, its warps, and how products are cut.

    `piece` numbers of an operand are multiplied at once, `flight` pieces are loaded before the
    first is; of all weights a block keeps `room` numbers at most, and loads others at each step.
    `parted`: numbers of float32 are multiplied in parts (see `prelude.parted_product`).
    """

    units: int
    warps: int = 8
    piece: int = 128
    flight: int = 8
    room: int = 1 << 30
    parted: bool = False

    def keeps(self, held: Mapping[str, int], count: int) -> bool:
        """Whether so many numbers more are kept, beside those that are `held` of each weight."""
        return sum(held.values()) + count <= self.room


@dataclass(frozen=True)
class Cut:
    """A product in parts: `groups` of columns, each one product of every one of the `pieces` of the
    operand. `deep`: warps split the operand, not the columns."""

    groups: tuple[Columns, ...]
    pieces: tuple[Span, ...]
    deep: bool

    def staged(self, tiling: Tiling) -> tuple[int, ...]:
        """How wide the pieces are that are under way at once."""
        return tuple(s.width for s in self.pieces[: tiling.flight])

    def weights(self) -> Iterator[int]:
        """How many numbers each tile of the weight has, in the order in which they are loaded."""
        return (span.width * n.width for span in self.pieces for n in self.groups)


def cut(op: Op, spans: Mapping[str, Sequence[Span]], tiling: Tiling) -> Cut:
    """How a product is computed, where the numbers of all values lie in `spans`."""
    groups = tuple(_groups(op, spans[op.name]))
    widths = [n.width for n in groups]
    few = min(widths) > 1 and max(widths) < EACH * tiling.warps
    if op.args and "exchange" not in op.attrs:  # tiles in registers
        return Cut(groups, tuple(spans[op.args[0]]), False)
    size, piece = op.attrs["inner"], tiling.piece
    least = DEPTH * tiling.warps if few else DEPTH
    piece = max(least, min(piece, 1 << (size - 1).bit_length()))
    pieces = tuple(Span(k, min(piece, size - k), piece) for k in range(0, size, piece))
    return Cut(groups, pieces, few)


def _groups(op: Op, spans: Sequence[Span]) -> Iterator[Columns]:
    """Parts of the result, as wide as each other, that come out of one product."""
    weight: Part = op.attrs["weight"]
    left = list(spans)
    while left:
        first = left[0]
        alike = [s for s in left if _alike(weight, first, s)][:4]
        count = len(alike) if first.width > 1 else 1
        yield Columns(tuple(alike[:count]), weight.period * op.attrs["steps"][1])
        left = [s for s in left if s not in alike[:count]]


def _alike(weight: Part, a: Span, b: Span) -> bool:
    """Whether two spans are the same part of the block's numbers of two periods."""
    units = weight.units
    same = (a.valid, a.width) == (b.valid, b.width)
    return a == b or bool(units and same and a.start % units == b.start % units)


@dataclass(frozen=True)
class Operand:
    """Where the operand of a product comes from: an exchange, a tensor, or tiles in registers."""

    exchange: Exchange | None
    pointer: str
    tensor: Tensor | None
    tiles: tuple[Tile, ...]


class Across:
    """The lines of one product."""

    def __init__(self, page: CooperativeBuilder, op: Op, source: Operand, tiling: Tiling):
        self.page, self.op, self.source, self.tiling = page, op, source, tiling
        self.weight: Part = op.attrs["weight"]
        self.names = dict(page.named(op))
        self.cut = cut(op, page.layout.spans, tiling)
        self.groups, self.pieces, self.deep = self.cut.groups, self.cut.pieces, self.cut.deep
        self.loaded: dict[int, str] = {}
        self.rest: dict[str, str] = {}

    def write(self) -> None:
        """All of it."""
        page, op = self.page, self.op
        sums = [self._start(n) for n in self.groups]
        flight = self.tiling.flight
        page.staged = max(page.staged, list(self.cut.staged(self.tiling)), key=sum)
        for k, span in enumerate(self.pieces[:flight]):
            self._load(k, span)
        for k, span in enumerate(self.pieces):
            for n, name in zip(self.groups, sums):
                self._multiply(n, name, k, span)
            if k + flight < len(self.pieces):
                self._load(k + flight, self.pieces[k + flight])
        for n, name in zip(self.groups, sums):
            self._apart(n, name)
        page.tiles[op.name] = tuple(
            page.tile(s, text, s.width, True) for s, text in self.names.items()
        )

    def _deep(self) -> tuple[int, int]:
        """How many warps split a piece, and how much each has."""
        return self.tiling.warps, self.pieces[0].width // self.tiling.warps

    def _start(self, n: Columns) -> str:
        """The sums so far: none; not numbers at all where a barrier was never passed."""
        name = self.page.names.fresh(f"{self.op.name}_sum")
        shape = f"[{self.tiling.warps}, ROWS, {n.width}]" if self.deep else f"[ROWS, {n.width}]"
        self.page.add(self.op, f"{name} = tl.full({shape}, trust, ACC)")
        if self._parted(n):
            self.rest[name] = self.page.names.fresh(f"{name}_rest")
            self.page.add(self.op, f"{self.rest[name]} = tl.full({shape}, 0.0, ACC)")
        return name

    def _parted(self, n: Columns) -> bool:
        """Whether a product is of parts of its numbers: some of it is for matrix instructions."""
        deep = any(span.width >= DEPTH for span in self.pieces)
        return self.tiling.parted and n.width > 1 and deep

    def _load(self, k: int, span: Span) -> None:
        """A piece of the operand, where it is not in registers."""
        if self.source.tiles:
            self.loaded[k] = self.page.full(self.source.tiles[k], span.width)
            return
        self.loaded[k] = self.page.names.fresh(f"{self.op.name}_of_{k}")
        self.page.add(self.op, f"{self.loaded[k]} = {self._loaded(span)}")

    def _loaded(self, span: Span) -> str:
        page = self.page
        line = self._along(span, "operand")
        rows, live = ("rows_deep", "live_deep") if self.deep else ("rows", "live")
        masks = live + f" & ({line} < {span.valid})" * (span.valid < span.width)
        column = total([str(span.start), line])
        if self.source.exchange is not None:
            return exchanges.load(
                self.source.exchange, self.source.pointer, column, masks, rows=rows
            )
        tensor = self.source.tensor
        assert tensor is not None
        at = total([rows_at(page, tensor, "t", rows), column])
        return f"tl.load({page.pointer(tensor)} + ({at}), mask={masks}, other=0.0)"

    def _along(self, span: Span, what: str) -> str:
        """0, 1, 2 … along the numbers of a piece, as the operand or the weight has them."""
        if self.deep:
            return self.page.deep(*self._deep(), what)
        page = self.page
        return page.cols(span.width) if what == "operand" else page.down(span.width)

    def _multiply(self, n: Columns, name: str, k: int, span: Span) -> None:
        page = self.page
        weight = self._weight(n, k, span)
        piece = self.loaded[k]
        if span.valid < span.width and self.source.tiles:
            piece = f"tl.where({page.cols(span.width)} < {span.valid}, {piece}, 0.0)"
        if n.width == 1:
            text = f"{name} + tl.sum({piece}.to(ACC) * {weight}.to(ACC), 1, keep_dims=True)"
        elif span.width == 1:
            text = f"{name} + {piece}.to(ACC) * {weight}.to(ACC)"
        elif span.width < DEPTH:
            terms = f"{piece}.to({weight}.dtype).to(ACC)[:, :, None] * {weight}.to(ACC)[None, :, :]"
            text = f"{name} + tl.sum({terms}, 1)"
        elif self.tiling.parted:
            page.used.add("parted_product")
            rest = self.rest[name]
            text = f"parted_product({piece}, {weight}, {name}, {rest}, PRECISION, UPCAST)"
            page.add(self.op, f"{name}, {rest} = {text}")
            return
        else:
            page.used.add("product")
            text = f"product({piece}, {weight}, {name}, PRECISION, UPCAST)"
        page.add(self.op, f"{name} = {text}")

    def _weight(self, n: Columns, k: int, span: Span) -> str:
        """A tile of the weight: kept from before the loop, while there is room."""
        page, tensor = self.page, self.weight
        name = page.names.fresh(f"{tensor.name}_{k}")
        places, masks = self._places(n, span)
        guard = f", mask={' & '.join(masks)}, other=0.0" if masks else ""
        text = f"{name} = tl.load({page.pointer(tensor)} + ({total(places)}){guard})"
        count = span.width * n.width
        if self.tiling.keeps(page.held, count):
            page.append(page.before, text, f"{self.op.note}: its weights")
            page.held[tensor.name] = page.held.get(tensor.name, 0) + count
        else:
            page.add(self.op, text)
            page.streamed += count
        return name

    def _places(self, n: Columns, span: Span) -> tuple[list[str], list[str]]:
        """Where the tile's numbers lie in the weight, and which of them are there."""
        to_k, to_n = self.op.attrs["steps"]
        places, masks = self._columns(n, to_n)
        if span.width > 1:
            line = self._along(span, "weight") if n.width > 1 else self.page.cols(span.width)
            places.append(times(line, to_k))
            masks += [f"({line} < {span.valid})"] * (span.valid < span.width)
        places.insert(0, str(span.start * to_k + self.op.attrs["first"] * to_n))
        return places, masks

    def _columns(self, n: Columns, to_n: int) -> tuple[list[str], list[str]]:
        page, first, part = self.page, n.spans[0], self.weight
        at = first.start
        if part.period:
            number, at = divmod(first.start, part.units)
            places = [str(number * part.period * to_n), times(part.place, to_n)]
        else:
            places = []
        line, masks = "", []
        if n.width > 1:
            line = page.cols(n.width)
            if n.count > 1:
                line, of = page.turns(n.width, n.count)
                of = f"{of}[None, :, :]" if self.deep else of
                places.append(times(of, n.stride))
                masks += [f"({of} < {len(n.spans)})"] * (len(n.spans) < n.count)
            line = f"{line}[None, :, :]" if self.deep else line
        places += [str(at * to_n), times(line, to_n) if line else ""]
        masks += [f"({line} < {first.valid})"] * (first.valid < first.width)
        if part.period and not part.even:
            masks.append(f"({total([part.place, str(at), line])} < {part.period})")
        return places, masks

    def _apart(self, n: Columns, name: str) -> None:
        """The parts of a result, from the sums of warps where these split the operand."""
        page, op = self.page, self.op
        parts = [self.names[span] for span in n.spans]
        if name in self.rest:
            page.used.add("unparted")
            page.add(op, f"{name} = unparted({name}, {self.rest[name]})")
        text = f"tl.sum({name}, 0)" if self.deep else name
        if len(parts) > 1:
            page.used.add(APART[n.count])
            text = f"{APART[n.count]}({text})"
            parts += [page.names.fresh("zeros")] * (n.count - len(parts))
        page.add(op, f"{', '.join(parts)} = {text}")
