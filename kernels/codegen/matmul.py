"""Matrix products by a weight that stays on chip: which parts are computed together, and the tiles
of the weight.

Parts that are equally wide, such as the gates of a cell, come out of one matrix product and are
split after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from ..analysis.block_axis import MIN_MATMUL_ROWS
from ..analysis.matmul_form import WeightMatmul
from ..ir.expression import (
    Code,
    Expr,
    Name,
    both,
    broadcast,
    call,
    code,
    load,
    times,
    total,
    where,
)
from ..ir.program import Op, Tensor
from ..ir.tile import Span, Tile
from .loop_builder import PersistentBuilder
from .matmul_scalars import MIN_N, ScalarSpan, gather_scalars, scalar_span, split_elements

# The columns of joined parts take turns, two of each part. A split then needs no exchange between
# threads, and Triton changes the layout of the product once, to the one in which it loads and
# stores, instead of the layout of each input and output (sm_90, bf16, 8 warps, 16 rows; a forward
# that saves):
#
#                 registers    barriers per step    KB shared    shared loads and stores
#                 apart, joined
#     LSTM 64        90 108        24  6           34  40           57  21
#     LSTM 128      162 186        24  6          132 144           63  57
#     LSTM 160      254 238        48 12          204 216          116  82
#     GRU 64        102 122        22  6           26  40           51  21
#     GRU 128       160 194        22  6          100 144           53  57
#     highway 128   102 102        14  6           68  72           37  33
#
# Three parts are a product of four, one of which is zeros. A pair and a single part would mix two
# layouts (GRU 128: 26 barriers), and so does a pair next to other products. Sums over columns need
# the other layout (a layer-norm LSTM of 128 units: 2160 instructions per step instead of 1388), so
# with such sums no parts are joined.

# A part of sixteen columns alone is padded by a part of zeros. If a product has no more columns
# than rows, each warp computes all of them, and so it does in every other product of the step, as
# Triton gives all of them one layout (sm_90, bf16, 8 warps, 16 rows, registers/spills of the
# backward, alone and padded: HyperLSTM 16 255/309 156/0, LSTM 16 117 54, RNN 48 of pieces 113 55).
PADDED_WIDTH = 16

# functions that split a matmul of several parts
DEINTERLEAVE = {4: "deinterleave4", 2: "deinterleave2"}


@dataclass(frozen=True)
class Columns:
    """Columns of a weight: those of `spans`, two of each in turn, `stride` apart in the weight.

    With three parts, and with one that is `padded`, a part of zeros is added.
    """

    spans: tuple[Span, ...]
    stride: int = 0
    padded: bool = False

    @property
    def count(self) -> int:
        """The number of parts, with the part of zeros."""
        return 4 if len(self.spans) == 3 else len(self.spans) + self.padded

    @property
    def shape(self) -> tuple[int, ...]:
        """A suffix that distinguishes these columns from others with the same first one."""
        return *self.spans[0].shape, self.width, len(self.spans), self.stride

    @property
    def width(self) -> int:
        """The number of columns, with those beyond the value."""
        return self.spans[0].width * self.count


def matmul(b: PersistentBuilder, op: Op, how: WeightMatmul) -> None:
    """Writes a product by a weight."""
    names = dict(b.named(op))
    tiles = gather_scalars(b, op, how)
    operands = [t.span.width for t in tiles if t.span.width > 1]
    b.staged = max(b.staged, operands, key=sum)
    left = list(names)
    if operands and (alone := scalar_span(b, op, how.letters[2], left, MIN_N)):
        row = b.fresh(f"{op.name}_singles")
        _accumulate(b, op, how, tiles, Columns((alone,)), row, op.note)
        split_elements(b, op, alone, row, [name for span, name in names.items() if span.width == 1])
        left = [span for span in left if span.width > 1]
    while left:
        columns = _columns(b, how, tiles, left)
        left = [span for span in left if span not in columns.spans]
        parts = [names[span] for span in columns.spans]
        if columns.count == 1:
            _accumulate(b, op, how, tiles, columns, parts[0], op.note)
        else:
            _split(b, op, how, tiles, columns, parts)
    wide = op.name in b.wide
    b.tiles[op.name] = tuple(b.tile(s, name, s.width, wide) for s, name in names.items())


def _split(
    b: PersistentBuilder,
    op: Op,
    how: WeightMatmul,
    tiles: Sequence[Tile],
    columns: Columns,
    parts: list[Name],
) -> None:
    """One product, and the call that splits it into its parts."""
    starts = ", ".join(str(span.start) for span in columns.spans)
    note = f"{op.note}: one product, parts of {columns.spans[0].valid} from {starts}"
    whole = b.fresh(f"{op.name}_joined")
    if op.name in b.wide:
        b.sizes[whole] = columns.width
    if not columns.padded:
        b.joined.append(columns.width)
    _accumulate(b, op, how, tiles, columns, whole, note)
    zeros = [b.fresh("zeros")] * (columns.count - len(parts))
    b.add(op, parts + zeros, call(DEINTERLEAVE[columns.count], whole), note)


def _columns(
    b: PersistentBuilder, how: WeightMatmul, tiles: Sequence[Tile], left: Sequence[Span]
) -> Columns:
    """The first part and those that are joined to it: equally wide, and met by the same tiles."""
    first = left[0]
    equal = [s for s in left if (s.valid, s.width) == (first.valid, first.width)][:4]
    if b.joins(len(equal)) and first.width > 1 and any(t.span.width > 1 for t in tiles):
        met = [[how.weight_index(t.span.start, s.start) for t in tiles] for s in equal]
        stride = _stride(met)
        if stride is not None:
            return Columns(tuple(equal), stride)
    return Columns((first,), padded=first.width == PADDED_WIDTH)


def _stride(met: Sequence[Sequence[int | None]]) -> int | None:
    """The distance between parts in the weight, if it is the same for every tile of the value."""
    strides = set()
    for a, b in ((a, b) for one, other in pairwise(met) for a, b in zip(one, other)):
        if a is not None and b is not None:
            strides.add(b - a)
        elif a is not b:
            return None
    return strides.pop() if len(strides) == 1 else None


def _accumulate(
    b: PersistentBuilder,
    op: Op,
    how: WeightMatmul,
    tiles: Sequence[Tile],
    columns: Columns,
    name: Name,
    note: str,
) -> None:
    """Adds up what each tile of the value contributes to these columns of the result.

    With a block axis, a value that is the same at all positions is multiplied in equal rows, of
    which one is kept.
    """
    so_far: Name | None = None
    wide = op.name in b.wide
    equal = not wide and columns.width > 1 and any(t.span.width > 1 for t in tiles)
    rows = "ROWS" if wide else str(MIN_MATMUL_ROWS if equal else 1)
    made = b.fresh(f"{name.text}_equal") if equal else name
    for tile in tiles:
        base = how.weight_index(tile.span.start, columns.spans[0].start)
        if base is not None:
            term = _term(b, how, _pad_tile(b, tile, rows), columns, base, so_far, rows)
            b.add(op, made, term, note)
            so_far = made
    if equal:
        b.add(op, name, call("first_row", made))
    elif wide and columns.width == 1 and b.frame.block_axis:
        b.add(op, name, code("tl.trans({})", made))


def _pad_tile(b: PersistentBuilder, tile: Tile, rows: str) -> Tile:
    """A tile in all of its columns and `rows` rows, with zeros beyond its value."""
    k, value = tile.span, tile.upright
    if k.valid < k.width:
        value = where(code("{} < {}", b.cols(k.width), k.valid), value, "0.0")
    if tile.width < k.width or not (tile.rows or tile.columns or rows == "1"):
        value = broadcast(value, (rows, k.width))
    return replace(tile, value=value)


def _term(
    b: PersistentBuilder,
    how: WeightMatmul,
    tile: Tile,
    n: Columns,
    base: int,
    before: Name | None,
    rows: str,
) -> Expr:
    """What a tile of the value, in `rows` rows, adds to one tile of the result."""
    k, value = tile.span, tile.value
    weight = _weight(b, how, base, k, n)
    if k.width > 1 and n.width > 1:
        so_far: Code = before or code("tl.zeros([{}, {}], ACC)", rows, n.width)
        return call("matmul", value, weight, so_far, "PRECISION", "UPCAST")
    term = code("{} * {}.to(ACC)", value, weight)
    if k.width > 1:
        term = code("tl.sum({}, 1, keep_dims=True)", term)
    return term if before is None else code("{} + {}", before, term)


def _weight(b: PersistentBuilder, how: WeightMatmul, base: int, k: Span, n: Columns) -> Name:
    """A tile of a weight, loaded once before the loop: [K, N], or a row if N or K is one."""
    key = (how.weight, base, k.shape, n.shape, how.steps())
    if key in b.weights:
        return b.weights[key]
    op = b.ops[how.weight]
    tensor: Tensor = op.attrs["tensor"]
    places, masks = _places(b, how, k, n)
    at = total([base, *places])
    if not places:
        at = code("tl.full([1, 1], {}, tl.int32)", at)
    name = b.fresh(f"{how.weight}_{sum(w[0] == how.weight for w in b.weights)}")
    b.begin(name, load(code("{} + ({})", b.pointer(tensor), at), both(masks)), op.note)
    b.weights[key] = name
    b.weights_on_chip[tensor.name] = b.weights_on_chip.get(tensor.name, 0) + k.width * n.width
    return name


def _places(
    b: PersistentBuilder, how: WeightMatmul, k: Span, n: Columns
) -> tuple[list[Code], list[Code]]:
    """The offsets of a tile's rows and columns in the weight, and the masks of those that exist."""
    to_k, to_n = how.steps()
    places, masks = list[Code](), list[Code]()
    if k.width > 1:
        line = b.down(k.width) if n.width > 1 else b.cols(k.width)
        masks += [code("({} < {})", line, k.valid)] * (k.valid < k.width)
        places.append(times(_index_in_value(b, line, k), to_k))
    if n.width > 1:
        line, first = b.cols(n.width), n.spans[0]
        if n.count > 1:
            line, part = b.interleave(n.width, n.count)
            places += [times(part, n.stride)] * bool(n.stride)
            masks += [code("({} < {})", part, len(n.spans))] * (len(n.spans) < n.count)
        masks += [code("({} < {})", line, first.valid)] * (first.valid < first.width)
        places.append(times(_index_in_value(b, line, first), to_n))
    return places, masks


def _index_in_value(b: PersistentBuilder, index: Name, span: Span) -> Name:
    """The indices of the elements of a tile in a value, from its first element."""
    if not isinstance(span, ScalarSpan):
        return index
    name = b.fresh(f"{index.text}_apart")
    b.begin(name, span.indices(index))
    return name
