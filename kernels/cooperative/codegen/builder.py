"""Builds a cooperative kernel: many thread blocks run one loop, each with a part of its values."""

from __future__ import annotations

from ...analysis.block_axis import padded_length, wide
from ...analysis.layout import TileLayout
from ...codegen.builder import FAMILIES, declared
from ...codegen.loop_builder import Frame, PersistentBuilder
from ...codegen.variables import V
from ...ir.expression import Expr, Name, code
from ...ir.program import Op
from ...ir.statement import Statement, assign
from ...ir.tile import Span, Tile
from ..plan.sharding import MIN_ROWS, ShardedProgram

# threads of the 8 warps that most kernels have
THREADS = 256
# elements side by side that a thread has, if there are threads enough for more
VECTOR = 4


class C(V):
    """Variables of a cooperative kernel in addition to those of a persistent one.

    `block` is the number of the block within its tile of rows, `tile` the number of that tile, and
    `begin` the row at which the launch begins. Steps publish into `slot`, states into `next_slot`,
    that of the next step. `arrived` points at the tile's barrier counter. `patience` is how often a
    barrier is read before it counts as stuck, and `poison` is 0, or NaN after a stuck barrier.
    `rows_3d` and `live_3d` are `rows` and `live` for matmuls that warps split along k.
    """

    block = Name("block")
    tile = Name("tile")
    begin = Name("begin")
    slot = Name("slot")
    next_slot = Name("next_slot")
    arrived = Name("arrived")
    arrived_ptr = Name("arrived_ptr")
    stuck_ptr = Name("stuck_ptr")
    patience = Name("patience")
    poison = Name("poison")
    rows_3d = Name("rows_3d")
    live_3d = Name("live_3d")


# the functions of the barrier, and the launch's constant that `patience` begins as
BARRIER, PATIENCE = ("arrive", "wait"), "PATIENCE"


class CooperativeBuilder(PersistentBuilder):
    """Collects the statements of a sharded program's kernel.

    Its frame is the tile of rows that all blocks have; for values of a block's own row it is that
    row. `streamed` counts the elements of weights that are loaded at each step.
    """

    reserved = PersistentBuilder.reserved | declared(C) | {*BARRIER, PATIENCE}
    families = FAMILIES | {"shard", "row_shard"}

    def __init__(self, sharded: ShardedProgram, ahead: bool, layout: TileLayout):
        program = sharded.program
        varying = wide(program) if program.block_axis else frozenset()
        super().__init__(program, ahead=ahead, layout=layout)
        self.sharded = sharded
        # with a block axis, addresses of each tensor, and those in shared memory of each change of
        # layout, are more than there are registers (a Neural Turing Machine of 128 slots, backward,
        # sm_80, bf16, 8 warps, Triton 3.6: 80 bytes spilled if they are computed before the loop,
        # none if they are not)
        self.hoists = not program.block_axis
        self.wide = varying | {op.name for op in program.ops if not op.attrs.get("own")}
        self.frame = self.whole = Frame()
        leads = V.has_row if sharded.groups == 1 else V.first_of_row
        height = str(padded_length(program.most))
        self.own = Frame(V.row, V.live_pos, height, program.block_axis, V.has_row, leads)
        self.exchanged = {e.name: self.fresh(f"{e.name}_ptr") for e in sharded.exchanges}
        self.split_k_ranges: dict[tuple[str, int, int], Statement] = {}
        self.streamed = 0

    def enter(self, op: Op) -> None:
        """Makes what follows belong to an operation, in its frame."""
        self.frame = self.own if op.attrs.get("own") else self.whole

    def tile(self, span: Span, name: Name, width: int, rows: bool) -> Tile:
        """The tile that a variable holds, its registers counted. Every warp holds all of a tile
        that does not vary over positions."""
        made = super().tile(span, name, width, rows)
        height = (
            (padded_length(self.program.most) if rows else 1) if self.frame.block_axis else MIN_ROWS
        )
        across = height if made.columns else width
        self.registers[name] = max(min(VECTOR, across), height * width // THREADS)
        return made

    def split_k_range(self, count: int, each: int, what: str) -> Name:
        """0, 1, 2 … if `count` warps split the columns of an "operand", or a "weight"'s rows."""
        shape = "[None, None, :]" if what == "operand" else "[None, :, None]"
        key = (what, count, each)
        if key not in self.split_k_ranges:
            value = "tl.arange(0, {})[:, None, None] * {} + tl.arange(0, {}){}"
            name = self.fresh(f"{what}_{count * each}")
            self.split_k_ranges[key] = assign(name, code(value, count, each, each, shape))
        return self.split_k_ranges[key].targets[0]

    def _next_to_rows(self, tile: Tile) -> Expr:
        """A tile in the layout of tiles with several elements per position.

        It is not the result of a matrix product, so no conversion is needed.
        """
        return tile.upright
