"""The kernel being written: its tiles, its lines before and in the loop, and its names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..analysis.block_axis import wide
from ..analysis.layout import Layout, source
from ..analysis.matmul_form import WeightMatmul
from ..ir.program import LoopProgram, Op, Tensor, Unsupported
from ..ir.symbols import NameTable, entry
from ..ir.tile import Span
from .builder import CONSTANTS, FAMILIES, MODULE, MOST, PYTHON

LOOP = ("rows", "live", "step", "t", "ahead", "first", "n_rows", "place", "ends", "stop", "last")
LANES = ("lane", "across", "there")
OWN = ("row", "mine", "leads", "living", "number")
RESERVED = frozenset((*MODULE, *CONSTANTS, *PYTHON, *LOOP, *LANES, *OWN))
# a weight, where in it a tile begins, its rows and columns, and how far apart they lie
Weight = tuple[str, int, tuple[int, ...], tuple[int, ...], tuple[int, int]]


@dataclass(frozen=True)
class Frame:
    """What the rows of tiles are, and what the kernel calls them.

    `rows` are their numbers, `live` the mask of those there are, `height` how many a tile has. With
    `lanes` the rows of tiles are the positions of that axis, of one row; where a block may have
    none, `mine` says so, and `leads` whether it is the first of those that have this row.
    """

    rows: str = "rows"
    live: str = "live"
    height: str = "ROWS"
    lanes: str = ""
    mine: str = ""
    leads: str = ""


@dataclass(frozen=True)
class Tile:
    """A variable of the kernel that holds one span of a value: [rows or 1, width or 1].

    In a program with lanes these are its rows, and what all lanes have alike is one row. What has
    one number a lane is a `line`: [1, rows].
    """

    span: Span
    text: str
    width: int
    rows: bool
    line: bool = False

    @property
    def column(self) -> str:
        """The tile beside such as have several numbers a lane."""
        return f"tl.trans({self.text})" if self.line else self.text


def registers(width: int, rows: bool) -> int:
    """Registers a thread of a tile: of 128 lanes, or of one row as an operand, over 8 warps."""
    if rows:
        return max(4, width // 2)
    return max(4, width // 4) if width > 1 else 0


@dataclass
class Line:
    """A line of code and what it is for."""

    text: str
    note: str = ""


class PersistentBuilder:
    """What the writers of operations share. `step` are the lines of the loop, `before` others.

    `join`: parts of a product come out of one matrix product, where that is of use. `ahead`: what
    moves is loaded one step before it is used. `hoists`: what does not move LLVM may compute before
    the loop.
    """

    hoists = True
    # the names, and the families of names, that its emitter writes by itself
    reserved, families = RESERVED, FAMILIES

    def __init__(
        self,
        program: LoopProgram,
        join: bool = True,
        ahead: bool = True,
        layout: Layout | None = None,
    ):
        self.program, self.layout = program, layout or Layout(program)
        self.frame = Frame(lanes=program.lanes)
        self.ahead = ahead
        sums = any(op.kind in ("sum", "max") for op in program.ops)
        self.join = join and (bool(program.lanes) or not sums)
        self.ops = self.layout.ops
        self.readers: dict[str, list[str]] = {op.name: [] for op in program.ops}
        for op in program.ops:
            for arg in dict.fromkeys(op.args):
                self.readers[arg].append(op.name)
        self.wide = wide(program)
        self.names = NameTable(self.reserved, self.families)
        self.names.lengths(program.sizes)
        self.entry = entry(program.name, self.reserved)
        self.pointers = {
            t.name: self.names.fresh(f"{t.name}_ptr")
            for t in (*program.tensors, *(t for _, t in program.stores))
        }
        self.tiles: dict[str, tuple[Tile, ...]] = {}
        self.before: list[Line] = []
        self.step: list[Line] = []
        self.ends: list[Line] = []
        self.moving: set[str] = set()
        self.widths: set[int] = set()
        self.depths: set[int] = set()
        self.strides: dict[str, str] = {}
        self.weights: dict[Weight, str] = {}
        self.turned: dict[tuple[int, int], tuple[str, str]] = {}
        self.held: dict[str, int] = {}
        self.sizes: dict[str, int] = {}
        self.taken: dict[str, int] = {}
        self.slots: dict[tuple[str, int], list[str]] = {}
        self.used: set[str] = set()
        self.staged: list[int] = []
        self.joined: list[int] = []

    def enter(self, op: Op) -> None:
        """What is written next is of an operation: where there are several frames, in its own."""

    def add(self, op: Op, text: str, note: str | None = None) -> None:
        """A line of an operation: in the loop, if anything it reads moves."""
        lines = self.step if op.name in self.moving else self.before
        self.append(lines, text, op.note if note is None else note)

    def append(self, lines: list[Line], text: str, note: str = "") -> None:
        """A line in its place. Raises Unsupported where there are too many."""
        lines.append(Line(text, note))
        if len(self.before) + len(self.step) > MOST:
            raise Unsupported(f"a step of more than {MOST} tile operations")

    def joins(self, count: int) -> bool:
        """Whether parts of a product, so many and as wide as each other, are joined."""
        dots = [name for name, p in self.layout.products.items() if isinstance(p, WeightMatmul)]
        return self.join and (count > 2 or (count == 2 and len(dots) == 1))

    def cols(self, width: int) -> str:
        """0, 1, 2 … along a row."""
        self.widths.add(width)
        return f"cols_{width}"

    def down(self, width: int) -> str:
        """0, 1, 2 … down a column."""
        self.depths.add(width)
        return f"down_{width}"

    def turns(self, width: int, count: int) -> tuple[str, str]:
        """The numbers of columns that `count` parts take in turn, two each, and their parts."""
        if (width, count) not in self.turned:
            number, part = self.names.fresh(f"of_{width}"), self.names.fresh(f"part_{width}")
            cols = self.cols(width)
            note = f"columns of {count} parts in turn, two of each"
            self.append(self.before, f"{number} = {cols} // {2 * count} * 2 + {cols} % 2", note)
            self.append(self.before, f"{part} = {cols} // 2 % {count}", note)
            self.turned[width, count] = number, part
        return self.turned[width, count]

    def named(self, op: Op) -> list[tuple[Span, str]]:
        """A variable for each span of a value."""
        spans = self.layout.spans[op.name]
        if len(spans) == 1:
            return [(spans[0], self.names.fresh(op.name))]
        return [(s, self.names.fresh(f"{op.name}_{k}")) for k, s in enumerate(spans)]

    def tile(self, span: Span, text: str, width: int, rows: bool) -> Tile:
        """A tile whose variable is counted among those that take registers."""
        if rows:
            self.sizes[text] = width
        self.taken[text] = registers(width, rows)
        line = rows and self.line(width)
        return Tile(span, text, width, rows and not line, line)

    def at(self, name: str, start: int) -> Tile:
        """The tile of a value that begins at a number."""
        return next(t for t in self.tiles[name] if t.span.start == start)

    def operand(self, out: str, arg: str, span: Span) -> Tile:
        """The tile of an operand that lines up with a span of the result."""
        for found in self.layout.between(out, arg):
            place = source(found, span.start)
            if place is not None:
                tile = self.at(arg, place)
                assert tile.span.valid in (1, span.valid), f"'{arg}' is cut unlike '{out}'"
                return replace(tile, span=span)
        raise AssertionError(f"'{out}' has no tile of '{arg}' at {span.start}")

    def full(self, tile: Tile, width: int, wide: bool = True) -> str:
        """A tile in all of its columns and, if `wide`, in all of its rows."""
        line = wide and self.line(width)
        if (tile.rows or tile.line) >= wide and tile.width == width:
            return tile.text
        text = tile.text if line else tile.column
        return f"tl.broadcast_to({text}, [{self.shape(width, wide)}])"

    def shape(self, width: int, wide: bool = True) -> str:
        """The shape of a tile in all of its columns and, if `wide`, in all of its rows."""
        if wide and self.line(width):
            return f"1, {self.frame.height}"
        return f"{self.frame.height if wide else 1}, {width}"

    def line(self, width: int) -> bool:
        """Whether a tile of one number a lane is a line."""
        return width == 1 and bool(self.frame.lanes)

    def meet(self, tiles: Sequence[Tile]) -> tuple[list[str], int, bool]:
        """Tiles side by side: their texts, how wide they are together and whether in all rows."""
        width, rows = max((t.width for t in tiles), default=1), any(t.rows for t in tiles)
        if width == 1 and not rows:
            return [t.text for t in tiles], 1, any(t.line for t in tiles)
        lanes = bool(self.frame.lanes) and (rows or any(t.line for t in tiles))
        texts = [self._beside(t) if lanes else t.text for t in tiles]
        return texts, width, rows or lanes

    def _beside(self, tile: Tile) -> str:
        """A tile beside such as have several numbers a lane."""
        if tile.rows or tile.line or tile.text.startswith("tl.full("):
            return tile.column
        self.used.add("apart")
        return f"apart({tile.text}, ROWS, ACC)"

    def over(self, tensor: Tensor) -> bool:
        """Whether a tensor differs from row to row of a tile."""
        lanes = self.frame.lanes
        return bool(set(tensor.axes) & ({lanes} if lanes else set(self.program.rows)))

    def length(self, axis: str) -> str:
        """The argument that holds the length of an axis."""
        return self.names.length(axis)

    def pointer(self, tensor: Tensor) -> str:
        """The argument that points at a tensor."""
        return self.pointers[tensor.name]
