"""Products by a resident weight: which parts of a result are joined, and each tile of the weight.

Parts as wide as each other, the gates of a cell, come out of one matrix product and are taken apart
after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from ..analysis.block_axis import EQUAL
from ..analysis.matmul_form import WeightMatmul
from ..ir.printer import times, total
from ..ir.program import Op, Tensor
from ..ir.tile import Span
from .loop_builder import PersistentBuilder, Tile
from .matmul_scalars import WIDTH, Singles, gathered, picked, singles

# The columns of joined parts go in turn, two of each: no thread then holds what a split wants, and
# Triton changes the layout of the product once, to that in which it loads and stores, instead of
# that of each input and output (sm_90, bf16, 8 warps, 16 rows; a forward that saves):
#
#                 registers    barriers a step    KB shared    shared loads and stores
#                 apart, joined
#     LSTM 64        90 108        24  6           34  40           57  21
#     LSTM 128      162 186        24  6          132 144           63  57
#     LSTM 160      254 238        48 12          204 216          116  82
#     GRU 64        102 122        22  6           26  40           51  21
#     GRU 128       160 194        22  6          100 144           53  57
#     highway 128   102 102        14  6           68  72           37  33
#
# Three are a product of four with a part of zeros; a pair and one alone would mix two layouts (GRU
# 128: 26 barriers), as a pair does beside other products. Sums over columns want the other layout
# (a layer-norm LSTM of 128 units: 2160 instructions a step instead of 1388): there all stay apart.

# Sixteen columns alone are padded by a part of zeros: with no more columns than rows each warp
# computes all of them, and so it does in every other product of the step, as Triton lays them all
# out alike (sm_90, bf16, 8 warps, 16 rows, registers/spills of the backward, alone and
# padded: HyperLSTM 16 255/309 156/0, LSTM 16 117 54, RNN 48 of pieces 113 55).
NARROW = 16

# what takes the parts of a product apart
APART = {4: "quarters", 2: "halves"}


@dataclass(frozen=True)
class Columns:
    """Columns of a weight: those of `spans`, two of each in turn, `stride` apart in the weight.

    Three parts, and one that is `padded`, have a part of zeros beside them.
    """

    spans: tuple[Span, ...]
    stride: int = 0
    padded: bool = False

    @property
    def count(self) -> int:
        """How many parts there are, those of zeros too."""
        return 4 if len(self.spans) == 3 else len(self.spans) + self.padded

    @property
    def shape(self) -> tuple[int, ...]:
        """What tells these columns from others that begin where they do."""
        return *self.spans[0].shape, self.width, len(self.spans), self.stride

    @property
    def width(self) -> int:
        """How many columns there are, those beyond the value too."""
        return self.spans[0].width * self.count


def dot(page: PersistentBuilder, op: Op, how: WeightMatmul) -> None:
    """The lines of a product by a weight."""
    names = dict(page.named(op))
    tiles = gathered(page, op, how)
    operands = [t.span.width for t in tiles if t.span.width > 1]
    page.staged = max(page.staged, operands, key=sum)
    left = list(names)
    if operands and (alone := singles(page, op, how.letters[2], left, WIDTH)):
        row = page.names.fresh(f"{op.name}_singles")
        _sum(page, op, how, tiles, Columns((alone,)), row, op.note)
        picked(page, op, alone, row, [text for span, text in names.items() if span.width == 1])
        left = [span for span in left if span.width > 1]
    while left:
        columns = _columns(page, how, tiles, left)
        left = [span for span in left if span not in columns.spans]
        parts = [names[span] for span in columns.spans]
        if columns.count == 1:
            _sum(page, op, how, tiles, columns, parts[0], op.note)
        else:
            _apart(page, op, how, tiles, columns, parts)
    wide = op.name in page.wide
    page.tiles[op.name] = tuple(page.tile(s, text, s.width, wide) for s, text in names.items())


def _apart(
    page: PersistentBuilder,
    op: Op,
    how: WeightMatmul,
    tiles: Sequence[Tile],
    columns: Columns,
    parts: list[str],
) -> None:
    """One product, and what takes its parts from it."""
    starts = ", ".join(str(span.start) for span in columns.spans)
    note = f"{op.note}: one product, parts of {columns.spans[0].valid} from {starts}"
    whole = page.names.fresh(f"{op.name}_joined")
    if op.name in page.wide:
        page.sizes[whole] = columns.width
    if not columns.padded:
        page.joined.append(columns.width)
    _sum(page, op, how, tiles, columns, whole, note)
    zeros = [page.names.fresh("zeros")] * (columns.count - len(parts))
    page.used.add(APART[columns.count])
    page.add(op, f"{', '.join(parts + zeros)} = {APART[columns.count]}({whole})", note)


def _columns(
    page: PersistentBuilder, how: WeightMatmul, tiles: Sequence[Tile], left: Sequence[Span]
) -> Columns:
    """The first part and those that are joined to it: as wide, and met by the same tiles."""
    first = left[0]
    alike = [s for s in left if (s.valid, s.width) == (first.valid, first.width)][:4]
    if page.joins(len(alike)) and first.width > 1 and any(t.span.width > 1 for t in tiles):
        met = [[how.meet(t.span.start, s.start) for t in tiles] for s in alike]
        stride = _stride(met)
        if stride is not None:
            return Columns(tuple(alike), stride)
    return Columns((first,), padded=first.width == NARROW)


def _stride(met: Sequence[Sequence[int | None]]) -> int | None:
    """How far apart parts lie in the weight, where that is the same for every tile of the value."""
    strides = set()
    for a, b in ((a, b) for one, other in pairwise(met) for a, b in zip(one, other)):
        if a is not None and b is not None:
            strides.add(b - a)
        elif a is not b:
            return None
    return strides.pop() if len(strides) == 1 else None


def _sum(
    page: PersistentBuilder,
    op: Op,
    how: WeightMatmul,
    tiles: Sequence[Tile],
    columns: Columns,
    name: str,
    note: str,
) -> None:
    """What each tile of the value adds to these columns of the result.

    A value that all lanes have alike is multiplied in equal rows, of which one is kept.
    """
    so_far = ""
    wide = op.name in page.wide
    equal = not wide and columns.width > 1 and any(t.span.width > 1 for t in tiles)
    rows = "ROWS" if wide else str(EQUAL if equal else 1)
    made = page.names.fresh(f"{name}_equal") if equal else name
    for tile in tiles:
        base = how.meet(tile.span.start, columns.spans[0].start)
        if base is not None:
            term = _term(page, how, _filled(page, tile, rows), columns, base, so_far, rows)
            page.add(op, f"{made} = {term}", note)
            so_far = made
    if equal:
        page.used.add("single")
        page.add(op, f"{name} = single({made})")
    elif wide and columns.width == 1 and page.frame.lanes:
        page.add(op, f"{name} = tl.trans({made})")


def _filled(page: PersistentBuilder, tile: Tile, rows: str) -> Tile:
    """A tile in all of its columns and so many rows, nothing but zeros beyond its value."""
    k, text = tile.span, tile.column
    if k.valid < k.width:
        text = f"tl.where({page.cols(k.width)} < {k.valid}, {text}, 0.0)"
    if tile.width < k.width or not (tile.rows or tile.line or rows == "1"):
        text = f"tl.broadcast_to({text}, [{rows}, {k.width}])"
    return replace(tile, text=text)


def _term(
    page: PersistentBuilder,
    how: WeightMatmul,
    tile: Tile,
    n: Columns,
    base: int,
    before: str,
    rows: str,
) -> str:
    """What a tile of the value, in so many rows, adds to one tile of the result."""
    k, text = tile.span, tile.text
    weight = _weight(page, how, base, k, n)
    added = f"{before} + " if before else ""
    if k.width == 1:
        return f"{added}{text} * {weight}.to(ACC)"
    if n.width == 1:
        return f"{added}tl.sum({text} * {weight}.to(ACC), 1, keep_dims=True)"
    page.used.add("product")
    before = before or f"tl.zeros([{rows}, {n.width}], ACC)"
    return f"product({text}, {weight}, {before}, PRECISION, UPCAST)"


def _weight(page: PersistentBuilder, how: WeightMatmul, base: int, k: Span, n: Columns) -> str:
    """A tile of a weight, loaded once before the loop: [K, N], or a row where N or K is one."""
    key = (how.weight, base, k.shape, n.shape, how.steps())
    if key in page.weights:
        return page.weights[key]
    op = page.ops[how.weight]
    tensor: Tensor = op.attrs["tensor"]
    places, masks = _places(page, how, k, n)
    at = total([str(base), *places])
    guard = f", mask={' & '.join(masks)}, other=0.0" if masks else ""
    if not places:
        at = f"tl.full([1, 1], {at}, tl.int32)"
    name = page.names.fresh(f"{how.weight}_{sum(w[0] == how.weight for w in page.weights)}")
    page.append(page.before, f"{name} = tl.load({page.pointer(tensor)} + ({at}){guard})", op.note)
    page.weights[key] = name
    page.held[tensor.name] = page.held.get(tensor.name, 0) + k.width * n.width
    return name


def _places(
    page: PersistentBuilder, how: WeightMatmul, k: Span, n: Columns
) -> tuple[list[str], list[str]]:
    """Where a tile's rows and columns lie in the weight, and which of them are there."""
    to_k, to_n = how.steps()
    places, masks = [], []
    if k.width > 1:
        line = page.down(k.width) if n.width > 1 else page.cols(k.width)
        masks += [f"({line} < {k.valid})"] * (k.valid < k.width)
        places.append(times(_lying(page, line, k), to_k))
    if n.width > 1:
        line, first = page.cols(n.width), n.spans[0]
        if n.count > 1:
            line, part = page.turns(n.width, n.count)
            places += [times(part, n.stride)] * bool(n.stride)
            masks += [f"({part} < {len(n.spans)})"] * (len(n.spans) < n.count)
        masks += [f"({line} < {first.valid})"] * (first.valid < first.width)
        places.append(times(_lying(page, line, first), to_n))
    return places, masks


def _lying(page: PersistentBuilder, index: str, span: Span) -> str:
    """Where in a value, from the first on, the numbers of a tile lie."""
    if not isinstance(span, Singles):
        return index
    name = page.names.fresh(f"{index}_apart")
    page.append(page.before, f"{name} = {span.places(index)}")
    return name
