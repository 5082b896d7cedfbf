"""Writes cooperative kernels: the thread blocks of a whole GPU run one loop.

A block has its own units of each value, and columns of the weights, for a tile of rows. It
publishes what others need, and a barrier on the tile's counter orders that. States stay in
registers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from ...analysis.barrier_schedule import scheduled
from ...codegen import loads, ragged
from ...codegen.builder import CONSTANTS
from ...codegen.persistent import (
    WRITERS,
    LoopSource,
    advance,
    begin,
    following,
    loop_head,
    moves,
    prune,
    row_count,
    uses_matmul,
)
from ...codegen.variables import V
from ...ir.expression import Code, Effect, Name, code, expr
from ...ir.printer import INDENT
from ...ir.program import LoopProgram, Op
from ...ir.source import KernelFunction, module
from ...ir.statement import Statement, assign, do, printed
from ...ir.symbols import remark
from ...ir.tile import Tile
from ..plan.exchange import SLOTS, Exchange
from ..plan.outline import Outline, outline, positions
from ..plan.phases import Event
from ..plan.tiling import Tiling
from . import exchange as exchanges
from .builder import BARRIER, PATIENCE, C, CooperativeBuilder
from .matmul import Operand, ShardedMatmul

# the distance between the counters of two tiles, in 32-bit numbers: each has its own cache line
COUNTER_STRIDE = 32
IMPORT = f"from graphnn.kernels.cooperative.codegen.barrier import {', '.join(BARRIER)}"
# the writers of operations that read an exchange or that only sharded programs have
FETCHING = {
    "all_gather": exchanges.all_gather,
    "all_reduce": exchanges.all_reduce,
    "fetch_row": exchanges.fetch_row,
    "fetch_shard": exchanges.fetch_shard,
    "row_reduce": exchanges.row_reduce,
}
WRITING: dict[str, Callable[..., None]] = {
    **WRITERS,
    "in_shard": exchanges.in_shard,
    "shard_size": exchanges.shard_size,
    "own_row": exchanges.own_row,
}


@dataclass(frozen=True)
class CooperativeSource(LoopSource):
    """A kernel of `blocks` blocks per tile of rows, with `barriers` barriers per step.

    Its `exchanges` have `slots` slots. `tiling` is how it is cut; each block loads `streamed`
    elements of its weights at each step. A step has `products` products by a weight. With a block
    axis a tile has `owned_rows` rows, otherwise as many as the launch says. `positions` counts the
    elements over all positions that a block loads and stores, and those that it computes. `others`
    are kernels of the same loop that should be nearly as fast.
    """

    blocks: int = 1
    barriers: int = 0
    slots: int = SLOTS
    exchanges: tuple[Exchange, ...] = ()
    tiling: Tiling = field(default_factory=lambda: Tiling(0))
    streamed: int = 0
    products: int = 0
    owned_rows: int = 0
    positions: tuple[int, int] = (0, 0)
    others: tuple[CooperativeSource, ...] = ()


def emit_cooperative(
    program: LoopProgram, tiling: Tiling, known: dict[str, int] | None = None
) -> CooperativeSource:
    """The kernel of a loop, cut as `tiling` says. Raises Unsupported if there is none.

    `known` are its granularities, if they have been found before.
    """
    return emit_outlined(outline(program, tiling.units, known), tiling)


def emit_outlined(found: Outline, tiling: Tiling) -> CooperativeSource:
    """The kernel of a loop that has been outlined. Raises Unsupported if there is none."""
    program = found.program
    writer = _Writer(found, tiling)
    writer.write()
    b = writer.b
    function = writer.function()
    return CooperativeSource(
        name=b.entry,
        text=module(writer.title(), [function], writer.more()),
        program=program,
        pointers=(*program.tensors, *(t for _, t in program.stores)),
        sizes=b.program.sizes,
        weights=b.weights_on_chip,
        live=(),
        staged=tuple(b.staged),
        uses_matmul=uses_matmul(b),
        widest=max(b.widths, default=1),
        function=function,
        blocks=writer.sharded.blocks,
        barriers=writer.phases.barriers,
        slots=writer.phases.slots,
        exchanges=writer.sharded.exchanges,
        tiling=tiling,
        streamed=b.streamed,
        owned_rows=writer.sharded.owned_rows if program.block_axis else 0,
        positions=positions(found),
        products=sum(op.kind == "sharded_matmul" for op in b.program.ops),
    )


class _Writer:
    """Writes one kernel, event by event."""

    def __init__(self, found: Outline, tiling: Tiling):
        sharded = found.sharded
        self.sharded, self.phases, self.tiling = sharded, found.phases, tiling
        # if states are exchanged a step begins by waiting, and loads meanwhile
        ahead = not (self.phases.carries or sharded.program.block_axis)
        self.b = CooperativeBuilder(sharded, ahead, found.layout)
        self.b.moving |= found.moving
        self.exchanges = {e.name: e for e in sharded.exchanges}
        self.later: list[Statement] = []

    def write(self) -> None:
        """Writes all statements, before and in the loop."""
        b = self.b
        for op in b.program.ops:
            if op.name not in b.moving:
                moves(b, op)  # raises Unsupported
                self._op(op)
        for state in b.program.states:
            self._op(b.ops[state.name])
        self._begin()
        for event in self.phases.events:
            getattr(self, f"_{event.what}")(event)
        self._flush()
        for name, tensor in b.program.stores:
            if name not in b.moving or b.ops[name].kind == "state":
                b.enter(b.ops[name])
                loads.write(b, name, tensor)
        advance(b)
        prune(b)
        if b.program.block_axis:
            b.step = scheduled(b.step, b.after, b.registers, b.fresh)

    def _begin(self) -> None:
        """Publishes the initial values of states before the loop."""
        if not self.phases.carries:
            return
        for exchange in self.sharded.exchanges:
            if exchange.state:
                self._publishing(self.b.before, exchange, self._slot(exchange, 0), "0")
        self._arriving(self.b.before, "what states start from is there")

    def _slot(self, exchange: Exchange, number: int) -> list[Tile]:
        """A state's tiles, as they are `number` steps later."""
        spans = self.b.layout.spans[exchange.value]
        slots = [self.b.slots[exchange.value, k] for k in range(len(spans))]
        return [Tile(expr(n[number]), True, False, s.width, s) for s, n in zip(spans, slots)]

    def _publishing(
        self, part: list[Statement], exchange: Exchange, tiles: list[Tile], slot: Code
    ) -> None:
        pointer = self.b.exchanged[exchange.name]
        self.b.enter(self.b.ops[exchange.value])
        for value in exchanges.publish(self.b, exchange, pointer, tiles, slot):
            self.b.append(part, do(value, f"for all blocks: {exchange.note}"))

    def _arriving(self, part: list[Statement], note: str) -> None:
        self.b.append(part, do(code("arrive({})", C.arrived), note, Effect.ARRIVE))

    # the events of a step

    def _op(self, event: Event | Op) -> None:
        b = self.b
        op = event if isinstance(event, Op) else b.ops[event.name]
        if op.name in b.tiles:
            return
        b.enter(op)
        start = len(b.step)
        self._written(op)
        if op.kind == "read" and b.ahead and not b.frame.block_axis:
            self._delay_loads(start)
        for name, tensor in b.program.stores:
            if name == op.name and op.name in b.moving and op.kind != "state":
                stored = len(b.step)
                loads.write(b, name, tensor)
                if b.frame.block_axis and b.over(tensor):
                    continue  # of each position, too much to hold
                self.later += b.step[stored:]
                del b.step[stored:]

    def _written(self, op: Op) -> None:
        """Writes an operation of the sharded program."""
        if op.kind == "sharded_matmul":
            ShardedMatmul(self.b, op, self._operand(op), self.tiling).write()
        elif op.kind == "all_reduce" and op.attrs["join"] == "squared_deviations":
            exchanges.spread(self.b, op, *self._named(op, "exchange"), self._named(op, "sums"))
        elif op.kind in FETCHING:
            FETCHING[op.kind](self.b, op, *self._named(op, "exchange"))
        else:
            WRITING[op.kind](self.b, op)

    def _named(self, op: Op, what: str) -> tuple[Exchange, Name]:
        """An exchange that an operation reads, and the argument that points at it."""
        exchange = self.exchanges[op.attrs[what]]
        return exchange, self.b.exchanged[exchange.name]

    def _delay_loads(self, start: int) -> None:
        """Puts loads of the next step after what this step publishes."""
        new = self.b.step[start:]
        self.later += [statement for statement in new if statement.loads]
        self.b.step[start:] = [statement for statement in new if not statement.loads]

    def _operand(self, op: Op) -> Operand:
        if "exchange" in op.attrs:
            return Operand(exchange=self._named(op, "exchange"))
        if "source" in op.attrs:
            return Operand(tensor=op.attrs["source"])
        return Operand(tiles=self.b.tiles[op.args[0]])

    def _publish(self, event: Event) -> None:
        exchange, b = self.exchanges[event.name], self.b
        if not exchange.state:
            self._publishing(b.step, exchange, list(b.tiles[exchange.value]), C.slot)
            return
        state = b.program.state(exchange.value)
        tiles = self._slot(exchange, 1) if state.delay > 1 else self._next(exchange, state.next)
        self._publishing(b.step, exchange, tiles, C.next_slot)

    def _next(self, exchange: Exchange, after: str) -> list[Tile]:
        b = self.b
        op = b.ops[exchange.value]
        b.enter(op)
        spans = b.layout.spans[op.name]
        return [Tile(following(b, after, op, s), True, False, s.width, s) for s in spans]

    def _arrive(self, event: Event) -> None:
        self._arriving(self.b.step, "what is needed here is published")
        self._flush()

    def _flush(self) -> None:
        self.b.step += self.later
        self.later = []

    def _wait(self, event: Event) -> None:
        self._flush()
        b, count, blocks = self.b, self.phases.barriers, self.sharded.blocks
        met = code("{} * {}", V.step, count) if count > 1 else expr(V.step)
        passed = event.barrier + self.phases.carries
        if passed:
            met = code("({} + {})", met, passed)
        target = code("{} * {}", met, blocks)
        wait = code("wait({}, {}, {}, {}, {})", C.arrived, target, C.patience, C.stuck_ptr, V.step)
        note = "all blocks of these rows have published"
        b.append(b.step, assign(C.patience, wait, note, Effect.WAIT))
        trust = code('tl.where({} > 0, 0.0, float("nan")).to(ACC)', C.patience)
        b.append(b.step, assign(C.poison, trust, "", Effect.CHECK))

    # the text

    def title(self) -> str:
        """What the kernel is, in a sentence."""
        program = self.b.program
        blocks = self.sharded.blocks
        return f"{program.name}: a loop over {program.axis}, {blocks} blocks per tile of rows."

    def more(self) -> str:
        """Which blocks have a row, if there is a block axis."""
        axis, groups = self.b.program.block_axis, self.sharded.groups
        who = "one block has" if groups == 1 else f"a group of {groups} blocks has"
        return f"\n\nFor each row, {who} all of {remark(axis)}.\n" if axis else ""

    def function(self) -> KernelFunction:
        """The kernel without its module."""
        b = self.b
        pointers = [*b.pointers.values(), *b.exchanged.values(), C.arrived_ptr, C.stuck_ptr]
        return KernelFunction(
            b.entry,
            (IMPORT, *b.imports()),
            tuple(name.text for name in pointers),
            (*b.names.lengths(b.program.sizes), C.begin.text),
            (*CONSTANTS, PATIENCE),
            tuple(self._body()),
        )

    def _body(self) -> Iterable[str]:
        b, count = self.b, self.phases.slots
        soon = code("({} + 1) % {}", V.step, count)
        if count == 2:
            soon = code("1 - {}", C.slot)
        slots = (assign(C.slot, code("{} % {}", V.step, count)), assign(C.next_slot, soon))
        return [
            *printed(self._start(), INDENT),
            *printed(b.before, INDENT),
            *loop_head(b, slots),
            *printed([*b.step, *b.after], INDENT * 2),
            *ragged.beyond(b),
        ]

    def _rows(self) -> list[Statement]:
        """The rows of a tile, and with a block axis a block's own row and positions."""
        b, axis = self.b, self.b.program.block_axis
        number = code("tl.arange(0, ROWS)[:, None]")
        live = assign(V.live, code("{} < {}", V.rows, V.n_rows))
        if not axis:
            rows = code("{} + {} * ROWS + {}", C.begin, C.tile, number)
            return [assign(V.rows, rows), *ragged.sorted_rows(b), live]
        owned_rows, height = self.sharded.owned_rows, b.own.height
        rows = code("{} + {} * {} + {}", C.begin, C.tile, owned_rows, V.row_index)
        exists = "tl.where({} < {}, {}, {})"
        in_tile = code(exists, V.row_index, owned_rows, rows, V.n_rows)
        length = code("tl.where({}, {}, 0)", V.has_row, b.length(axis))
        return [
            assign(V.row_index, number),
            assign(V.rows, in_tile),
            *self._members(),
            assign(V.row, code("tl.minimum({}, {} - 1)", V.row, V.n_rows)),
            *ragged.sorted_rows(b),
            live,
            assign(V.pos, code("tl.arange(0, {})[:, None]", height)),
            assign(V.live_pos, code("{} < {}", V.pos, length)),
            assign(V.pos_row, code("tl.arange(0, {})[None, :]", height)),
            assign(V.live_pos_row, code("{} < {}", V.pos_row, length)),
        ]

    def _members(self) -> list[Statement]:
        """The row that a block has, alone or as one of a group."""
        owned_rows, groups = self.sharded.owned_rows, self.sharded.groups
        share = expr(C.block) if groups == 1 else code("{} % {}", C.block, owned_rows)
        row = code("{} + {} * {} + {}", C.begin, C.tile, owned_rows, share)
        has = code("tl.where({} < {}, {}, {})", C.block, owned_rows * groups, row, V.n_rows)
        exists = "tl.full([1, 1], {}, tl.int32) < {}"
        made = [assign(V.row, has), assign(V.has_row, code(exists, V.row, V.n_rows))]
        if groups > 1:
            first = code("tl.where({} < {}, {}, {})", C.block, owned_rows, V.row, V.n_rows)
            made.append(assign(V.first_of_row, code(exists, first, V.n_rows)))
        return made

    def _start(self) -> list[Statement]:
        b, blocks, units = self.b, self.sharded.blocks, self.sharded.units
        owned_rows = self.sharded.owned_rows
        first = code("tl.where({} == 0, {}, 0)", C.block, V.n_rows)
        made = [
            row_count(b),
            assign(C.block, code("tl.program_id(0) % {}", blocks)),
            assign(C.tile, code("tl.program_id(0) // {}", blocks)),
            assign(C.arrived, code("{} + {} * {}", C.arrived_ptr, C.tile, COUNTER_STRIDE)),
            *self._rows(),
            assign(V.first_block, code("{} < {}", V.rows, first)),
        ]
        for period, count in sorted(units.items(), key=lambda item: item[0] < 0):
            own = expr(C.block) if period > 0 else code("{} // {}", C.block, owned_rows)
            name = Name(f"{'shard' if period > 0 else 'row_shard'}_{abs(period)}")
            made.append(assign(name, code("{} * {}", own, count)))
        made += b.ranges()
        if b.split_k_ranges:
            made.append(assign(C.rows_3d, code("{}[None, :, :]", V.rows)))
            made.append(assign(C.live_3d, code("{}[None, :, :]", V.live)))
            made += b.split_k_ranges.values()
        b.frame = b.whole
        return [
            *made,
            *ragged.steps(b),
            begin(b),
            assign(C.patience, code("tl.full([], {}, tl.int32)", PATIENCE)),
            assign(C.poison, code("tl.full([], 0.0, ACC)")),
        ]
