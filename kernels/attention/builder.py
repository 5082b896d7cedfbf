"""The kernel of a contraction being written: its lines, its names, and where tensors lie."""

from __future__ import annotations

import math
import re

from ..codegen.builder import CONSTANTS, FAMILIES, MODULE, MOST, NOTHING, PRELUDE, PYTHON, Line
from ..ir.contraction import CHUNK, LONG, AttentionProgram, Tile, sides, spans
from ..ir.printer import times, total
from ..ir.program import Op, Tensor, Unsupported
from ..ir.symbols import NameTable, entry
from ..ir.tile import Span

RESERVED = frozenset(
    (
        *(*MODULE, *CONSTANTS, *PYTHON, "COLS"),
        *("program", "tile", "tiles", "block", "part", "row", "live", "col"),
        *("down", "valid", "valid_down", "start", "begin", "end", "length", "top", "weights"),
        *("shrink", "best", "floor", "n_rows", "n_cols", "n_blocks", "share", "places", "KIND"),
    )
)


class AttentionBuilder:
    """What the writers of operations share: lines `before`, in each `step` of the walk over the
    columns, and `after` it."""

    def __init__(self, program: AttentionProgram):
        self.program = program
        self.ops = {op.name: op for op in program.ops}
        self.sides = sides(program)
        # such programs are computed on the plain units: matrix products take 16 columns at once
        self.wide = any(
            all(self.sides[op.name]) and math.prod(op.shape) > 1 and op.kind != "total"
            for op in program.ops
        )
        self.chunk = LONG if self.wide else CHUNK
        self.names = NameTable(RESERVED, FAMILIES)
        self.names.lengths(program.sizes)
        self.entry = entry(program.name, RESERVED)
        self.pointers = {
            t.name: self.names.fresh(f"{t.name}_ptr") for t in (*program.tensors, *program.outputs)
        }
        self.before: list[Line] = []
        self.step: list[Line] = []
        self.after: list[Line] = []
        self.made: dict[tuple[str, int, bool], Tile] = {}
        # tiles of matrices, the largest so far of values, and the terms of products that are summed
        self.squares: dict[tuple[str, str, str, int, int], str] = {}
        self.largest: dict[str, str] = {}
        self.terms: dict[str, Op] = {}
        self.places: dict[tuple[str, str], str] = {}
        self.widths: set[int] = set()
        self.depths: set[int] = set()
        self.used: set[str] = set()

    def spans(self, name: str) -> tuple[Span, ...]:
        """The chunks of a value's own numbers."""
        return spans(math.prod(self.ops[name].shape), self.chunk)

    def add(self, text: str, op: Op | None, moving: bool) -> None:
        """A line, in the walk if it moves. Raises Unsupported where there are too many."""
        lines = self.step if moving else self.before
        lines.append(Line(text, op.note if op else ""))
        self.used |= set(re.findall(r"\b[a-z0-9]+(?=\()", text)) & set(PRELUDE)
        if len(self.before) + len(self.step) > MOST:
            raise Unsupported(f"a tile of more than {MOST} operations")

    def put(self, op: Op, k: int, text: str, tile: Tile, raw: bool = False) -> Tile:
        """A variable for a chunk of a value."""
        suffix = f"_{k}" if len(self.spans(op.name)) > 1 and op.kind != "total" else ""
        name = self.names.fresh(f"{op.name}{suffix}{'_raw' if raw else ''}")
        self.add(f"{name} = {text}", op, self.sides[op.name][1])
        made = Tile(name, tile.rows, tile.columns, tile.width)
        self.made[op.name, k, raw] = made
        return made

    def inner(self, op: Op) -> Op:
        """The terms of a sum of products, as an operation of their own."""
        if op.name not in self.terms:
            name = NameTable(self.ops).fresh(f"{op.name}_terms")
            made = Op(name, "product", op.args, (), "float", op.attrs, op.note)
            self.ops[name], self.sides[name] = made, self.sides[op.name]
            self.terms[op.name] = made
        return self.terms[op.name]

    def forget(self) -> None:
        """Let go of what fills [rows, columns, width], chunk by chunk: it is computed again where
        it is needed, as all chunks together would not stay in registers."""
        wide = {name for name in self.ops if len(self.spans(name)) > 1}
        gone = [k for k, t in self.made.items() if t.both and t.width > 1 and k[0] in wide]
        for key in gone:
            del self.made[key]

    def cols(self, width: int) -> str:
        """0, 1, 2 … along a row: [1, width]."""
        self.widths.add(width)
        return f"cols_{width}"

    def deep(self, width: int) -> str:
        """0, 1, 2 … down a column: [width, 1]."""
        self.depths.add(width)
        return f"down_{width}"

    def place(self, axis: str, down: bool = False) -> str:
        """The position along an axis: a number, [rows, 1], [1, columns], or down a column."""
        p = self.program
        if axis in p.blocks:
            return self._part("block", axis, p.blocks, False)
        if axis in p.rows:
            return self._part("row", axis, p.rows, False)
        if p.picks and axis == p.picks.axis:
            return self._pick(p.picks.op, down)
        return self._part("down" if down else "col", axis, p.columns, True)

    def _part(self, whole: str, axis: str, axes: tuple[str, ...], moving: bool) -> str:
        """One of the axes that a position runs over together, the last the fastest."""
        if len(axes) == 1:
            return whole
        if (whole, axis) not in self.places:
            k = axes.index(axis)
            inside = " * ".join(self.names.lengths(axes[k + 1 :]))
            text = f"{whole} // ({inside})" if inside else whole
            text = f"{text} % {self.names.length(axis)}" if k else text
            name = self.names.fresh(f"{axis}_{whole}")
            self.places[whole, axis] = name
            self.add(f"{name} = {text}", None, moving)
        return self.places[whole, axis]

    def _pick(self, op: str, down: bool) -> str:
        """The positions that the columns stand for."""
        name = self.made[op, 0, False].text
        if down and ("picked", op) not in self.places:
            self.places["picked", op] = self.names.fresh(f"{name}_down")
            self.add(f"{self.places['picked', op]} = tl.trans({name})", self.ops[op], True)
        return self.places["picked", op] if down else name

    def address(self, tensor: Tensor, tile: Tile, span: Span, part: str = "") -> str:
        """Where a chunk of a tensor lies; `part` is the number of the whole before it."""
        return f"{self.pointers[tensor.name]} + {self.offset(tensor, tile, span, part)}"

    def offset(self, tensor: Tensor, tile: Tile, span: Span, part: str = "") -> str:
        """How far from its beginning that is."""
        down = tile.columns and not tile.rows and tile.width > 1
        text = part
        for axis in tensor.axes:
            place = self.place(axis, down)
            text = f"({text}) * {self.names.length(axis)} + {place}" if text else place
        count = math.prod(tensor.shape)
        text = times(f"({text})", count) if text else ""
        column = ""
        if tile.width > 1:
            column = self.cols(tile.width)
            if tile.both:
                text, column = f"({text})[:, :, None]", f"{column}[None, :, :]"
        at = total([text, str(span.start), column])
        if tile.width == 1 and not (tile.rows or tile.columns):
            at = f"tl.full([1, 1], {at}, tl.int64)"
        return at

    def mask(self, tile: Tile, span: Span) -> str:
        """What of a tile is there."""
        down = tile.columns and not tile.rows and tile.width > 1
        parts = ["live"] * tile.rows + ["valid_down" if down else "valid"] * tile.columns
        text = " & ".join(parts)
        if tile.both and tile.width > 1:
            text = f"({text})[:, :, None]"
        if span.valid < span.width and tile.width > 1:
            column = self.cols(tile.width)
            column = f"{column}[None, :, :]" if tile.both else column
            text = f"{text} & ({column} < {span.valid})" if text else f"({column} < {span.valid})"
        return text

    def load(self, tensor: Tensor, tile: Tile, span: Span) -> str:
        """The text of a load; what is not there is zero."""
        mask = self.mask(tile, span)
        guard = f", mask={mask}, other={NOTHING[tensor.kind]}" if mask else ""
        return f"tl.load({self.address(tensor, tile, span)}{guard})"
