"""The builder of attention kernels: their variables, and the addresses of tiles."""

from __future__ import annotations

import math
from typing import NamedTuple

from ..codegen.builder import NOTHING, KernelBuilder, declared
from ..ir.contraction import CHUNK, WIDE_CHUNK, AttentionProgram, sides, spans
from ..ir.expression import Code, Expr, Name, both, code, expr, join, load, times, total
from ..ir.program import Op, Tensor
from ..ir.statement import Statement, assign
from ..ir.symbols import NameTable
from ..ir.tile import Span, Tile


class Variables:
    """The variables of attention kernels that are not named after the user's nodes."""

    # what one program computes: a tile of rows of one block, over one part of the columns
    PROGRAM, TILE, TILES = Name("program"), Name("tile"), Name("tiles")
    BLOCK, PART, LENGTH = Name("block"), Name("part"), Name("length")
    N_ROWS, N_COLS, N_BLOCKS = Name("n_rows"), Name("n_cols"), Name("n_blocks")
    # the loop over columns
    START, BEGIN, END = Name("start"), Name("begin"), Name("end")
    # positions, [ROWS, 1], [1, COLS] and [COLS, 1], and whether they exist
    ROW, COL, COL_DOWN = Name("row"), Name("col"), Name("col_down")
    ROW_VALID, COL_VALID = Name("row_valid"), Name("col_valid")
    COL_DOWN_VALID = Name("col_down_valid")
    # the online softmax
    SCORE_MAX, NEW_MAX, SAFE_MAX = Name("score_max"), Name("new_max"), Name("safe_max")
    RESCALE, WEIGHTS, WEIGHT_SUM = Name("rescale"), Name("weights"), Name("weight_sum")
    # the lists of the best columns
    BEST_SCORES, BEST_POSITIONS = Name("best_scores"), Name("best_positions")
    # the dtype of what is read
    KIND = Name("KIND")


V = Variables


class Form(NamedTuple):
    """The form of a tile: whether it varies over rows and columns, and its width; see `Tile`."""

    rows: bool
    columns: bool
    width: int = 1

    @property
    def both(self) -> bool:
        """Whether it varies over rows and columns."""
        return self.rows and self.columns

    @property
    def down(self) -> bool:
        """Whether its columns lie down the tile: [columns, width]."""
        return self.columns and not self.rows and self.width > 1

    @property
    def shape(self) -> str:
        """The shape in full, without the width."""
        sizes = {(True, True): "ROWS, COLS", (True, False): "ROWS", (False, True): "COLS"}
        return sizes.get((self.rows, self.columns), "1")

    def tile(self, value: Code) -> Tile:
        """Return a tile of this form."""
        return Tile(expr(value), self.rows, self.columns, self.width)


class AttentionBuilder(KernelBuilder):
    """Collects the statements of an attention kernel.

    `before` are statements before the loop over columns, `step` those in it, `after` those behind
    it. Values are computed in chunks of their own elements.
    """

    reserved = KernelBuilder.reserved | declared(Variables) | {"COLS"}
    too_long = "a tile of more than {} operations"

    def __init__(self, program: AttentionProgram):
        tensors = (*program.tensors, *program.outputs)
        super().__init__(program.name, program.sizes, tensors, program.ops)
        self.program = program
        self.sides = sides(program)
        # such programs do not use matrix units: matmuls need at least 16 columns at once
        self.wide = any(
            all(self.sides[op.name]) and math.prod(op.shape) > 1 and op.kind != "column_sum"
            for op in program.ops
        )
        self.chunk = WIDE_CHUNK if self.wide else CHUNK
        # chunks of values by operation and number, as loaded (raw) or as computed with
        self.tiles: dict[tuple[str, int, bool], Tile] = {}
        self.matrix_tiles: dict[tuple[str, str, str, int, int], Name] = {}
        # per value, the variable of its largest element so far
        self.maxima: dict[str, Name] = {}
        # per sum of products, the product as an operation of its own
        self.terms: dict[str, Op] = {}
        self._positions: dict[tuple[Name, str], Name] = {}
        self._down: dict[str, Name] = {}

    @property
    def rows(self) -> str:
        """The number of rows of a tile."""
        return "ROWS" if self.program.rows else "1"

    def form(self, name: str, width: int = 1) -> Form:
        """Return the form of a value's tiles of this width."""
        return Form(*self.sides[name], width)

    def spans(self, name: str) -> tuple[Span, ...]:
        """Return the chunks of a value's own elements."""
        return spans(math.prod(self.ops[name].shape), self.chunk)

    def elements(self, name: str) -> int:
        """Return the number of a value's own elements."""
        return math.prod(self.ops[name].shape)

    def assign(self, target: Name | tuple[Name, ...], value: Code, note: str, moving: bool) -> None:
        """Assign variables, in the loop over columns if the value moves with it."""
        self.append(self.step if moving else self.before, assign(target, value, note))

    def evaluate(self, statement: Statement) -> None:
        """Add a statement behind the loop."""
        self.append(self.after, statement)

    def define(self, op: Op, k: int, value: Expr, form: Form, raw: bool = False) -> Tile:
        """Assign chunk `k` of a value to a variable and return its tile."""
        suffix = f"_{k}" if len(self.spans(op.name)) > 1 and op.kind != "column_sum" else ""
        name = self.fresh(f"{op.name}{suffix}{'_raw' if raw else ''}")
        self.assign(name, value, op.note, self.sides[op.name][1])
        tile = form.tile(name)
        self.tiles[op.name, k, raw] = tile
        return tile

    def chunk_name(self, op: Op, k: int) -> Name:
        """Return a new variable for chunk `k` of a sum."""
        return self.fresh(f"{op.name}_{k}" if len(self.spans(op.name)) > 1 else op.name)

    def product_terms(self, op: Op) -> Op:
        """Return the terms of a sum of products as an operation of their own."""
        if op.name not in self.terms:
            name = NameTable(self.ops).fresh(f"{op.name}_terms")
            made = Op(name, "einsum", op.args, (), "float", op.attrs, op.note)
            self.ops[name], self.sides[name] = made, self.sides[op.name]
            self.terms[op.name] = made
        return self.terms[op.name]

    def drop_wide_tiles(self) -> None:
        """Forget tiles [rows, columns, width] of values in several chunks.

        They are computed again when needed: all chunks together would not stay in registers.
        """
        chunked = {name for name in self.ops if len(self.spans(name)) > 1}
        dropped = [k for k, t in self.tiles.items() if t.both and t.width > 1 and k[0] in chunked]
        for key in dropped:
            del self.tiles[key]

    def position(self, axis: str, down: bool = False) -> Name:
        """Return the position along an axis: a scalar, [rows, 1] or [1, columns].

        With `down`, positions along a column axis are [columns, 1].
        """
        p = self.program
        if axis in p.blocks:
            return self._axis_of(V.BLOCK, axis, p.blocks, False)
        if axis in p.rows:
            return self._axis_of(V.ROW, axis, p.rows, False)
        if p.picks and axis == p.picks.axis:
            return self._picked(p.picks.op, down)
        return self._axis_of(V.COL_DOWN if down else V.COL, axis, p.columns, True)

    def _axis_of(self, joint: Name, axis: str, axes: tuple[str, ...], moving: bool) -> Name:
        """Return the position along one of the `axes` that `joint` counts, the last the fastest."""
        if len(axes) == 1:
            return joint
        if (joint, axis) not in self._positions:
            k = axes.index(axis)
            inner = join(" * ", self.lengths(axes[k + 1 :]))
            value = code("{} // ({})", joint, inner) if inner.parts else expr(joint)
            value = code("{} % {}", value, self.length(axis)) if k else value
            name = self.fresh(f"{axis}_{joint.text}")
            self._positions[joint, axis] = name
            self.assign(name, value, "", moving)
        return self._positions[joint, axis]

    def _picked(self, op: str, down: bool) -> Name:
        """Return the positions that the columns stand for."""
        (name,) = self.tiles[op, 0, False].value.names
        if not down:
            return name
        if op not in self._down:
            self._down[op] = self.fresh(f"{name.text}_down")
            self.assign(self._down[op], code("tl.trans({})", name), self.ops[op].note, True)
        return self._down[op]

    def address(self, tensor: Tensor, form: Form, span: Span, part: Code = "") -> Expr:
        """Return the addresses of a chunk of a tensor; `part` is its index along a first axis."""
        return code("{} + {}", self.pointer(tensor), self.offset(tensor, form, span, part))

    def offset(self, tensor: Tensor, form: Form, span: Span, part: Code = "") -> Expr:
        """Return the offsets of a chunk of a tensor from its first element."""
        at = expr(part)
        for axis in tensor.axes:
            position = self.position(axis, form.down)
            outer = at.parts
            at = (
                code("({}) * {} + {}", at, self.length(axis), position) if outer else expr(position)
            )
        at = times(code("({})", at), math.prod(tensor.shape)) if at.parts else at
        column = expr("")
        if form.width > 1:
            column = expr(self.cols(form.width))
            if form.both:
                at, column = code("({})[:, :, None]", at), code("{}[None, :, :]", column)
        at = total([at, span.start, column])
        if form.width == 1 and not (form.rows or form.columns):
            return code("tl.full([1, 1], {}, tl.int64)", at)
        return at

    def mask(self, form: Form, span: Span) -> Expr:
        """Return which elements of a tile exist; empty if all do."""
        column_valid = V.COL_DOWN_VALID if form.down else V.COL_VALID
        mask = both([V.ROW_VALID] * form.rows + [column_valid] * form.columns)
        if form.both and form.width > 1:
            mask = code("({})[:, :, None]", mask)
        if span.valid < span.width and form.width > 1:
            inside = code("({} < {})", self.column(form), span.valid)
            mask = code("{} & {}", mask, inside) if mask.parts else inside
        return mask

    def column(self, form: Form | Tile) -> Expr:
        """Return the index of each column of a tile's width, so that it broadcasts to the tile."""
        cols = self.cols(form.width)
        return code("{}[None, :, :]", cols) if form.both else expr(cols)

    def load(self, tensor: Tensor, form: Form, span: Span) -> Expr:
        """Return a load of a tile; elements that do not exist are zero."""
        mask = self.mask(form, span)
        return load(self.address(tensor, form, span), mask, NOTHING[tensor.kind])

    def element_type(self, tensor: Tensor) -> Expr:
        """Return the dtype of a tensor's elements."""
        return code("{}.dtype.element_ty", self.pointer(tensor))
