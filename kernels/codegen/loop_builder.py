"""Builds a persistent kernel: each thread block runs the whole loop for a tile of rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..analysis.block_axis import wide
from ..analysis.layout import TileLayout, source
from ..analysis.matmul_form import WeightMatmul
from ..ir.expression import Code, Effect, Expr, Name, broadcast, call, code, expr
from ..ir.program import LoopProgram, Op, Tensor, Unsupported
from ..ir.statement import Statement, assign
from ..ir.tile import Span, Tile
from .builder import KernelBuilder, declared
from .variables import V

# a weight, where in it a tile begins, its rows and columns, and its strides
Weight = tuple[str, int, tuple[int, ...], tuple[int, ...], tuple[int, int]]


@dataclass(frozen=True)
class Frame:
    """The meaning of the rows of tiles, and the variables for it.

    `rows` are their numbers, `live` the mask of those that exist, `height` the rows of a tile. With
    a `block_axis` they are the positions of that axis, of one row. A block may then have no row:
    `mine` is whether it has one, and `leads` whether it is the first block that has it.
    """

    rows: Name = V.rows
    live: Name = V.live
    height: str = "ROWS"
    block_axis: str = ""
    mine: Name | None = None
    leads: Name | None = None


def registers(width: int, rows: bool) -> int:
    """Registers per thread of a tile over 8 warps: of 128 rows, or of one row as an operand."""
    if rows:
        return max(4, width // 2)
    return max(4, width // 4) if width > 1 else 0


class PersistentBuilder(KernelBuilder):
    """Collects the statements of a loop's kernel.

    `after` are the statements at the end of a step, in which states take their next values. With
    `join`, parts of one matrix product are computed together if that pays. With `ahead`, what
    varies from step to step is loaded one step before it is used.
    """

    # whether LLVM may compute loop-invariant values before the loop
    hoists = True
    reserved = KernelBuilder.reserved | declared(V)
    too_long = "a step of more than {} tile operations"

    def __init__(
        self,
        program: LoopProgram,
        join: bool = True,
        ahead: bool = True,
        layout: TileLayout | None = None,
    ):
        stored = (tensor for _, tensor in program.stores)
        tensors = (*program.tensors, *stored)
        super().__init__(program.name, program.sizes, tensors, program.ops)
        self.program, self.layout = program, layout or TileLayout(program)
        self.frame = Frame(block_axis=program.block_axis)
        self.ahead = ahead
        reduces = any(op.kind in ("sum", "max") for op in program.ops)
        self.join = join and (bool(program.block_axis) or not reduces)
        self.readers: dict[str, list[str]] = {op.name: [] for op in program.ops}
        for op in program.ops:
            for arg in dict.fromkeys(op.args):
                self.readers[arg].append(op.name)
        # values that states start from or take, and values that are stored: no matmul's own tiles
        self.outside_matmuls = {n for s in program.states for n in (*s.inits, s.next)}
        self.outside_matmuls |= {name for name, _ in program.stores}
        self.wide = wide(program)
        self.tiles: dict[str, tuple[Tile, ...]] = {}
        # values that differ from step to step
        self.moving: set[str] = set()
        # strides between steps, by how they are computed; tiles of weights; columns of joined parts
        self.strides: dict[str, Name] = {}
        self.stride_of: dict[Tensor, Name] = {}
        self.weights: dict[Weight, Name] = {}
        self.interleaved: dict[tuple[int, int], tuple[Name, Name]] = {}
        # elements of each weight that stay on chip
        self.weights_on_chip: dict[str, int] = {}
        # per variable: the columns, if it holds a tile of rows, and the registers per thread
        self.sizes: dict[Name, int] = {}
        self.registers: dict[Name, int] = {}
        # the variables of each state's spans, the oldest first
        self.slots: dict[tuple[str, int], list[Name]] = {}
        # columns of the operands of the largest matrix product, and of products of several parts
        self.staged: list[int] = []
        self.joined: list[int] = []

    def enter(self, op: Op) -> None:
        """Makes what follows belong to an operation: a builder of several frames takes its own."""

    def part(self, op: Op) -> list[Statement]:
        """The part of the kernel that an operation belongs to: the loop if its value varies."""
        return self.step if op.name in self.moving else self.before

    def add(
        self,
        op: Op,
        target: Name | Sequence[Name],
        value: Code,
        note: str | None = None,
        effect: Effect | None = None,
    ) -> None:
        """Gives variables a value that belongs to an operation."""
        made = assign(target, value, op.note if note is None else note, effect)
        self.append(self.part(op), made)

    def joins(self, count: int) -> bool:
        """Whether `count` parts of a product, equally wide, are computed together."""
        products = self.layout.products.values()
        by_weights = [p for p in products if isinstance(p, WeightMatmul)]
        return self.join and (count > 2 or (count == 2 and len(by_weights) == 1))

    def interleave(self, width: int, count: int) -> tuple[Name, Name]:
        """For columns that `count` parts take in turn, two each: the column within a part, and the
        number of the part."""
        if (width, count) not in self.interleaved:
            number, part = self.fresh(f"of_{width}"), self.fresh(f"part_{width}")
            cols = self.cols(width)
            note = f"columns of {count} parts in turn, two of each"
            self.begin(number, code("{0} // {1} * 2 + {0} % 2", cols, 2 * count), note)
            self.begin(part, code("{} // 2 % {}", cols, count), note)
            self.interleaved[width, count] = number, part
        return self.interleaved[width, count]

    def named(self, op: Op) -> list[tuple[Span, Name]]:
        """A variable for each span of a value."""
        spans = self.layout.spans[op.name]
        if len(spans) == 1:
            return [(spans[0], self.fresh(op.name))]
        return [(s, self.fresh(f"{op.name}_{k}")) for k, s in enumerate(spans)]

    def tile(self, span: Span, name: Name, width: int, rows: bool) -> Tile:
        """The tile that a variable holds, which is counted among those that need registers."""
        if rows:
            self.sizes[name] = width
        self.registers[name] = registers(width, rows)
        flat = rows and self.flat(width)
        return Tile(expr(name), rows and not flat, flat, width, span)

    def at(self, name: str, start: int) -> Tile:
        """The tile of a value that begins at an element."""
        return next(t for t in self.tiles[name] if t.span.start == start)

    def operand(self, out: str, arg: str, span: Span) -> Tile:
        """The tile of an operand that lines up with a span of the result."""
        for found in self.layout.between(out, arg):
            place = source(found, span.start)
            if place is not None:
                tile = self.at(arg, place)
                if tile.span.valid not in (1, span.valid):
                    raise Unsupported(f"'{arg}' is cut into other tiles than '{out}'")
                return Tile(tile.value, tile.rows, tile.columns, tile.width, span)
        raise AssertionError(f"'{out}' has no tile of '{arg}' at {span.start}")

    def full(self, tile: Tile, width: int, wide: bool = True) -> Expr:
        """A tile broadcast to all of its columns and, if `wide`, to all of its rows."""
        flat = wide and self.flat(width)
        if (tile.rows or tile.columns) >= wide and tile.width == width:
            return tile.value
        return broadcast(tile.value if flat else tile.upright, self.shape(width, wide))

    def shape(self, width: int, wide: bool = True) -> tuple[str | int, str | int]:
        """The shape of a tile in all of its columns and, if `wide`, in all of its rows."""
        if wide and self.flat(width):
            return 1, self.frame.height
        return self.frame.height if wide else 1, width

    def flat(self, width: int) -> bool:
        """Whether tiles of one element per row lie along a row: with a block axis they do."""
        return width == 1 and bool(self.frame.block_axis)

    def meet(self, tiles: Sequence[Tile]) -> tuple[list[Expr], int, bool]:
        """Brings tiles into a common layout, in which they broadcast against each other.

        Returns them, the width of the result, and whether it varies over rows.
        """
        width, rows = max((t.width for t in tiles), default=1), any(t.rows for t in tiles)
        if width == 1 and not rows:
            return [t.value for t in tiles], 1, any(t.columns for t in tiles)
        along = bool(self.frame.block_axis) and (rows or any(t.columns for t in tiles))
        texts = [self._next_to_rows(t) if along else t.value for t in tiles]
        return texts, width, rows or along

    def _next_to_rows(self, tile: Tile) -> Expr:
        """A tile in the layout of tiles with several elements per position."""
        if tile.rows or tile.columns or not tile.value.names:
            return tile.upright
        return call("to_block_layout", tile.value, "ROWS", "ACC")

    def over(self, tensor: Tensor) -> bool:
        """Whether a tensor differs from row to row of a tile."""
        axis = self.frame.block_axis
        return bool(set(tensor.axes) & ({axis} if axis else set(self.program.rows)))
