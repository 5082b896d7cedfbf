"""The kernel being written, where many thread blocks share one loop."""

from __future__ import annotations

from ...analysis.block_axis import padded_length, wide
from ...analysis.layout import Layout
from ...codegen.builder import FAMILIES
from ...codegen.loop_builder import RESERVED, Frame, PersistentBuilder, Tile
from ...ir.program import Op
from ...ir.tile import Span
from ..plan.sharding import EACH, ShardedProgram

# of the 8 warps that most kernels have
THREADS = 256
# numbers side by side that a thread has, where there are threads enough for more
VECTOR = 4
# what a kernel has besides that many blocks share
SHARED = frozenset(
    (
        *("share", "tile", "begin", "alone", "turn", "soon", "arrived", "trust", "patience"),
        *("arrive", "wait", "arrived_ptr", "stuck_ptr", "PATIENCE", "rows_deep", "live_deep"),
    )
)


class CooperativeBuilder(PersistentBuilder):
    """A page of a shared program. `streamed` counts the numbers of weights loaded at each step.

    Its frame is all blocks' tile of rows; of values that are a block's `own`, its row.
    """

    reserved, families = RESERVED | SHARED, FAMILIES | {"unit", "own"}

    def __init__(self, shared: ShardedProgram, ahead: bool, layout: Layout):
        program = shared.program
        varying = wide(program) if program.lanes else frozenset()
        super().__init__(program, ahead=ahead, layout=layout)
        self.shared = shared
        # addresses of each tensor, and in shared memory of each change of layout, are more than
        # there are registers (a Neural Turing Machine of 128 slots, backward, sm_80, bf16, 8 warps,
        # Triton 3.6: 80 bytes spilled where they are made before the loop, none where they are not)
        self.hoists = not program.lanes
        self.wide = varying | {op.name for op in program.ops if not op.attrs.get("own")}
        self.frame = self.whole = Frame()
        leads = "mine" if shared.groups == 1 else "leads"
        self.own = Frame(
            "row", "living", str(padded_length(program.most)), program.lanes, "mine", leads
        )
        self.exchanged = {e.name: self.names.fresh(f"{e.name}_ptr") for e in shared.exchanges}
        self.lines: dict[tuple[str, int, int], tuple[str, str]] = {}
        self.streamed = 0

    def enter(self, op: Op) -> None:
        """What is written next is of an operation, in its frame."""
        self.frame = self.own if op.attrs.get("own") else self.whole

    def tile(self, span: Span, text: str, width: int, rows: bool) -> Tile:
        """A tile, its registers counted: what is no tile of lanes every warp holds."""
        made = super().tile(span, text, width, rows)
        height = (padded_length(self.program.most) if rows else 1) if self.frame.lanes else EACH
        across = height if made.line else width
        self.taken[text] = max(min(VECTOR, across), height * width // THREADS)
        return made

    def deep(self, count: int, each: int, what: str) -> str:
        """0, 1, 2 … where `count` warps split the columns of an "operand", or a "weight"'s rows."""
        shape = "[None, None, :]" if what == "operand" else "[None, :, None]"
        key = (what, count, each)
        if key not in self.lines:
            name = self.names.fresh(f"{what}_{count * each}")
            text = f"tl.arange(0, {count})[:, None, None] * {each} + tl.arange(0, {each}){shape}"
            self.lines[key] = name, f"{name} = {text}"
        return self.lines[key][0]

    def _beside(self, tile: Tile) -> str:
        """A tile beside such as have several numbers a lane: it comes from no matrix product."""
        return tile.column
