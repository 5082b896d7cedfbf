"""Writing the source of a cooperative kernel: a loop shared by the thread blocks of a whole GPU.

A block has its own units of each value, and columns of the weights, for a tile of rows; what others
need it publishes, and a barrier on the tile's counter orders that. States stay in registers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ...analysis.barrier_schedule import fenced
from ...codegen import loads, ragged
from ...codegen.builder import CONSTANTS
from ...codegen.loop_builder import Line, Tile
from ...codegen.persistent import (
    WRITERS,
    LoopSource,
    _advance,
    _commented,
    _following,
    _moves,
    _prune,
    begin,
    multiplies,
    turns,
)
from ...ir.printer import INDENT, wrapped
from ...ir.program import LoopProgram, Op
from ...ir.symbols import remark
from ..plan.outline import Outline, lanes, outline
from ..plan.phases import Event
from . import exchange as exchanges
from .builder import CooperativeBuilder
from .exchange import SLOTS, Exchange
from .matmul import Across, Operand, Tiling

# how far the counters of two tiles lie apart, in 32-bit numbers: each has a cache line of its own
APART = 32
# what reads an exchange, and what else only shared programs have
FETCHING = {
    "joined": exchanges.joined,
    "merged": exchanges.merged,
    "fetched": exchanges.fetched,
    "portion": exchanges.portion,
    "gathered": exchanges.gathered,
}
WRITING: dict[str, Callable[..., None]] = {
    **WRITERS,
    "inside": exchanges.inside,
    "owned": exchanges.owned,
    "selected": exchanges.selected,
}


@dataclass(frozen=True)
class CooperativeSource(LoopSource):
    """A kernel of `blocks` a tile of rows, that meet `barriers` times a step; exchanges have
    `slots`.

    `tiling` is how it is cut; of its weights each block loads `streamed` numbers anew at each step.
    `products` by a weight are in a step. Where a step takes all of an axis a tile has `each` rows,
    else as many as the launch says; of `lanes` so many numbers are moved, and made. `others` are
    kernels of the same loop that should be nearly as fast.
    """

    blocks: int = 1
    barriers: int = 0
    slots: int = SLOTS
    exchanges: tuple[Exchange, ...] = ()
    tiling: Tiling = field(default_factory=lambda: Tiling(0))
    streamed: int = 0
    products: int = 0
    each: int = 0
    lanes: tuple[int, int] = (0, 0)
    others: tuple[CooperativeSource, ...] = ()


def emit_cooperative(
    program: LoopProgram, tiling: Tiling, known: dict[str, int] | None = None
) -> CooperativeSource:
    """The kernel of a loop, cut as `tiling` says. Raises Unsupported where there can be none.

    `known` are its periods, where they have been found before.
    """
    return emit_outlined(outline(program, tiling.units, known), tiling)


def emit_outlined(found: Outline, tiling: Tiling) -> CooperativeSource:
    """The kernel of a loop that has been outlined. Raises Unsupported."""
    program = found.program
    writer = _Writer(found, tiling)
    writer.write()
    sheet = writer.sheet
    return CooperativeSource(
        sheet.entry,
        writer.text(),
        program,
        (*program.tensors, *(t for _, t in program.stores)),
        sheet.program.sizes,
        sheet.held,
        (),
        tuple(sheet.staged),
        multiplies=multiplies(sheet),
        widest=max(sheet.widths, default=1),
        blocks=writer.shared.blocks,
        barriers=writer.phases.barriers,
        slots=writer.phases.slots,
        exchanges=writer.shared.exchanges,
        tiling=tiling,
        streamed=sheet.streamed,
        each=writer.shared.each if program.lanes else 0,
        lanes=lanes(found),
        products=sum(op.kind == "across" for op in sheet.program.ops),
    )


class _Writer:
    """Writes one kernel, event by event."""

    def __init__(self, found: Outline, tiling: Tiling):
        shared = found.shared
        self.shared, self.phases, self.tiling = shared, found.phases, tiling
        # where states are exchanged a step begins by waiting, and loads meanwhile
        self.sheet = CooperativeBuilder(
            shared, ahead=not (self.phases.carries or shared.program.lanes), layout=found.layout
        )
        self.sheet.moving |= found.moving
        self.exchanges = {e.name: e for e in shared.exchanges}
        self.later: list[Line] = []

    def write(self) -> None:
        """All lines, before and in the loop."""
        sheet = self.sheet
        for op in sheet.program.ops:
            if op.name not in sheet.moving:
                _moves(sheet, op)  # refuses what cannot be
                self._op(op)
        for state in sheet.program.states:
            self._op(sheet.ops[state.name])
        self._begin()
        for event in self.phases.events:
            getattr(self, f"_{event.what}")(event)
        self._flush()
        for name, tensor in sheet.program.stores:
            if name not in sheet.moving or sheet.ops[name].kind == "state":
                sheet.enter(sheet.ops[name])
                loads.store(sheet, name, tensor)
        _advance(sheet)
        _prune(sheet)
        if sheet.program.lanes:
            sheet.step = fenced(sheet.step, sheet.ends, sheet.taken)

    def _begin(self) -> None:
        """What states start from is published before the loop."""
        sheet = self.sheet
        if not self.phases.carries:
            return
        for exchange in self.shared.exchanges:
            if exchange.state:
                tiles = self._slot(exchange, 0)
                self._publishing(sheet.before, exchange, tiles, "0")
        sheet.append(sheet.before, "arrive(arrived)", "what states start from is there")

    def _slot(self, exchange: Exchange, number: int) -> list[Tile]:
        """A state's tiles, as they are so many steps later."""
        spans = self.sheet.layout.spans[exchange.value]
        slots = [self.sheet.slots[exchange.value, k] for k in range(len(spans))]
        return [Tile(s, n[number], s.width, True) for s, n in zip(spans, slots)]

    def _publishing(
        self, lines: list[Line], exchange: Exchange, tiles: list[Tile], slot: str
    ) -> None:
        pointer = self.sheet.exchanged[exchange.name]
        self.sheet.enter(self.sheet.ops[exchange.value])
        for text in exchanges.publish(self.sheet, exchange, pointer, tiles, slot):
            self.sheet.append(lines, text, f"for all blocks: {exchange.note}")

    # the events of a step

    def _op(self, event: Event | Op) -> None:
        sheet = self.sheet
        op = event if isinstance(event, Op) else sheet.ops[event.name]
        if op.name in sheet.tiles:
            return
        sheet.enter(op)
        start = len(sheet.step)
        if op.kind == "across":
            Across(sheet, op, self._source(op), self.tiling).write()
        elif op.kind == "merged" and op.attrs["join"] == "spread":
            exchanges.spread(sheet, op, *self._named(op, "exchange"), self._named(op, "sums"))
        elif op.kind in FETCHING:
            FETCHING[op.kind](sheet, op, *self._named(op, "exchange"))
        else:
            WRITING[op.kind](sheet, op)
        if op.kind == "read" and sheet.ahead and not sheet.frame.lanes:
            self._put_off(start)
        for name, tensor in sheet.program.stores:
            if name == op.name and op.name in sheet.moving and op.kind != "state":
                kept = len(sheet.step)
                loads.store(sheet, name, tensor)
                if sheet.frame.lanes and sheet.over(tensor):
                    continue  # of each lane, too much to hold
                self.later += sheet.step[kept:]
                del sheet.step[kept:]

    def _named(self, op: Op, what: str) -> tuple[Exchange, str]:
        """An exchange that an operation reads, and the argument that points at it."""
        exchange = self.exchanges[op.attrs[what]]
        return exchange, self.sheet.exchanged[exchange.name]

    def _put_off(self, start: int) -> None:
        """Loads of the next step wait until this one has published."""
        new = self.sheet.step[start:]
        self.later += [line for line in new if "tl.load(" in line.text]
        self.sheet.step[start:] = [line for line in new if "tl.load(" not in line.text]

    def _source(self, op: Op) -> Operand:
        sheet = self.sheet
        if "exchange" in op.attrs:
            return Operand(*self._named(op, "exchange"), None, ())
        if "source" in op.attrs:
            return Operand(None, "", op.attrs["source"], ())
        return Operand(None, "", None, sheet.tiles[op.args[0]])

    def _publish(self, event: Event) -> None:
        exchange = self.exchanges[event.name]
        sheet = self.sheet
        if not exchange.state:
            self._publishing(sheet.step, exchange, list(sheet.tiles[exchange.value]), "turn")
            return
        state = sheet.program.state(exchange.value)
        tiles = self._slot(exchange, 1) if state.delay > 1 else self._next(exchange, state.next)
        self._publishing(sheet.step, exchange, tiles, "soon")

    def _next(self, exchange: Exchange, after: str) -> list[Tile]:
        sheet = self.sheet
        op = sheet.ops[exchange.value]
        sheet.enter(op)
        spans = sheet.layout.spans[op.name]
        return [Tile(s, _following(sheet, after, op, s), s.width, True) for s in spans]

    def _arrive(self, event: Event) -> None:
        self.sheet.append(self.sheet.step, "arrive(arrived)", "what is needed here is published")
        self._flush()

    def _flush(self) -> None:
        self.sheet.step += self.later
        self.later = []

    def _wait(self, event: Event) -> None:
        self._flush()
        sheet, count = self.sheet, self.phases.barriers
        met = f"step * {count}" if count > 1 else "step"
        passed = event.barrier + self.phases.carries
        target = f"({met} + {passed}) * {self.shared.blocks}"
        if not passed:
            target = f"{met} * {self.shared.blocks}"
        call = f"patience = wait(arrived, {target}, patience, stuck_ptr, step)"
        sheet.append(sheet.step, call, "all blocks of these rows have published")
        sheet.append(sheet.step, 'trust = tl.where(patience > 0, 0.0, float("nan")).to(ACC)')

    # the text

    def text(self) -> str:
        """The module that has the kernel."""
        sheet, program = self.sheet, self.sheet.program
        blocks = self.shared.blocks
        title = f"{program.name}: a loop over {program.axis}, {blocks} blocks a tile of rows."
        lines = [
            f'"""{remark(title)}{self._owned()}"""',
            "",
            "import triton",
            "import triton.language as tl",
            "",
            "from graphnn.kernels.cooperative.codegen.barrier import arrive, wait",
        ]
        if sheet.used:
            lines += wrapped(
                f"from graphnn.kernels.codegen.prelude import ({', '.join(sorted(sheet.used))})", ""
            )
        lines += ["", "", *self._head()]
        for part in self._body():
            lines += part
        return "\n".join(lines) + "\n"

    def _owned(self) -> str:
        """Who has what of a row, in words."""
        lanes, groups = self.sheet.program.lanes, self.shared.groups
        who = "one block" if groups == 1 else f"a group of {groups} blocks"
        return f"\n\nAll of {remark(lanes)} of a row is that of {who}.\n" if lanes else ""

    def _head(self) -> list[str]:
        sheet = self.sheet
        sizes = [*sheet.names.lengths(sheet.program.sizes), "begin"]
        listed = ", ".join(f'"{n}"' for n in sizes)
        names = (*CONSTANTS, "PATIENCE")
        pointers = [*sheet.pointers.values(), *sheet.exchanged.values(), "arrived_ptr", "stuck_ptr"]
        return [
            *wrapped(f"@triton.jit(do_not_specialize=[{listed}])", ""),
            f"def {sheet.entry}(",
            *(f"{INDENT}{x}," for x in (*pointers, *sizes)),
            *(f"{INDENT}{x}: tl.constexpr," for x in names),
            "):",
        ]

    def _body(self) -> list[list[str]]:
        sheet = self.sheet
        count = self.phases.slots
        soon = "1 - turn" if count == 2 else f"(step + 1) % {count}"
        head = [*turns(sheet), f"{INDENT}turn = step % {count}", f"{INDENT}soon = {soon}"]
        return [
            [INDENT + s for s in self._start()],
            _commented(sheet.before, INDENT),
            [INDENT + s for s in head],
            _commented([*sheet.step, Line("", ""), *sheet.ends], INDENT * 2),
            ragged.beyond(sheet),
        ]

    def _rows(self) -> list[str]:
        """The rows of a tile, and where a step takes all of an axis a block's own row and lanes."""
        sheet, lanes = self.sheet, self.sheet.program.lanes
        number = "tl.arange(0, ROWS)[:, None]"
        if not lanes:
            return [
                f"rows = begin + tile * ROWS + {number}",
                *ragged.sorted_rows(sheet),
                "live = rows < n_rows",
            ]
        each, height = self.shared.each, sheet.own.height
        return [
            f"number = {number}",
            f"rows = tl.where(number < {each}, begin + tile * {each} + number, n_rows)",
            *self._members(),
            "row = tl.minimum(row, n_rows - 1)",
            *ragged.sorted_rows(sheet),
            "live = rows < n_rows",
            f"lane = tl.arange(0, {height})[:, None]",
            f"living = lane < tl.where(mine, {sheet.length(lanes)}, 0)",
            f"across = tl.arange(0, {height})[None, :]",
            f"there = across < tl.where(mine, {sheet.length(lanes)}, 0)",
        ]

    def _members(self) -> list[str]:
        """The row that a block has, alone or as one of a group."""
        each, groups = self.shared.each, self.shared.groups
        row = "share" if groups == 1 else f"share % {each}"
        lines = [
            f"row = tl.where(share < {each * groups}, begin + tile * {each} + {row}, n_rows)",
            "mine = tl.full([1, 1], row, tl.int32) < n_rows",
        ]
        if groups > 1:
            first = f"tl.where(share < {each}, row, n_rows)"
            lines.append(f"leads = tl.full([1, 1], {first}, tl.int32) < n_rows")
        return lines

    def _start(self) -> list[str]:
        sheet, blocks, program = self.sheet, self.shared.blocks, self.sheet.program
        units = self.shared.units
        lines = [
            f"n_rows = {' * '.join(sheet.names.lengths(program.rows)) or '1'}",
            f"share = tl.program_id(0) % {blocks}",
            f"tile = tl.program_id(0) // {blocks}",
            f"arrived = arrived_ptr + tile * {APART}",
            *self._rows(),
            "alone = rows < tl.where(share == 0, n_rows, 0)",
            *(f"unit_{p} = share * {u}" for p, u in units.items() if p > 0),
            *(f"own_{-p} = share // {self.shared.each} * {u}" for p, u in units.items() if p < 0),
            *(f"cols_{w} = tl.arange(0, {w})[None, :]" for w in sorted(sheet.widths)),
            *(f"down_{w} = tl.arange(0, {w})[:, None]" for w in sorted(sheet.depths)),
        ]
        if sheet.lines:
            lines += ["rows_deep = rows[None, :, :]", "live_deep = live[None, :, :]"]
            lines += [line for _, line in sheet.lines.values()]
        sheet.frame = sheet.whole
        return [
            *lines,
            *ragged.steps(sheet),
            begin(sheet),
            "patience = tl.full([], PATIENCE, tl.int32)",
            "trust = tl.full([], 0.0, ACC)",
        ]
