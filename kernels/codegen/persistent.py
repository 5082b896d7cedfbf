"""Writes persistent kernels: one program per tile of rows runs the whole loop.

Weights are loaded before the loop and stay on chip, states stay in registers. What varies from step
to step is loaded one step ahead, or at its own step if that needs too many registers. A program
without an axis is a single step: a phase.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ..analysis.block_axis import heavy
from ..analysis.list_schedule import ordered
from ..analysis.liveness import needed, sunk, widths
from ..ir.expression import Expr, Name, code, expr, join
from ..ir.printer import INDENT, literal
from ..ir.program import LoopProgram, Op, Tensor, Unsupported
from ..ir.source import KernelFunction, KernelSource, module
from ..ir.statement import Statement, assign, printed
from ..ir.tile import Span, Tile
from . import block_axis, loads, pointwise, ragged
from .builder import CONSTANTS, KINDS
from .loop_builder import PersistentBuilder
from .variables import V


@dataclass(frozen=True)
class LoopSource(KernelSource[LoopProgram]):
    """The kernel of a loop, and what it needs on chip.

    `weights` has how many elements of each weight stay on chip. `live` are the columns of the tiles
    that are alive together, `staged` those of the operands of the largest matrix product, `joined`
    those of products of several parts. `loops` loops run side by side. If `capped`, the assembler
    gets a limit of registers per thread. A kernel that `uses_matmul` needs at least 16 rows;
    `widest` is the largest width of a tile. `function` is the kernel without its module.
    """

    weights: dict[str, int]
    live: tuple[int, ...]
    staged: tuple[int, ...]
    joined: tuple[int, ...] = ()
    loops: int = 1
    capped: bool = True
    uses_matmul: bool = False
    widest: int = 1
    function: KernelFunction = field(default_factory=KernelFunction)


def emit(program: LoopProgram, join: bool = True, ahead: bool = True) -> LoopSource:
    """The kernel of a program. Raises Unsupported if there is none.

    With `join`, parts of matrix products are computed together if that pays. With `ahead`, loads
    run one step ahead. Both are faster and need registers.
    """
    b = PersistentBuilder(program, join, ahead)
    stored: dict[str, list[Tensor]] = {}
    for name, tensor in program.stores:
        stored.setdefault(name, []).append(tensor)
    for op in program.ops:
        if moves(b, op):
            b.moving.add(op.name)
        WRITERS[op.kind](b, op)
        # at once: what is stored at the end of the step is alive until then (a HyperLSTM of 4 units
        # has 0 spills, and 58 if it stores at the end; multiplicative integration of 128 units
        # needs 201 registers for its backward instead of 254)
        for tensor in stored.get(op.name, ()):
            loads.write(b, op.name, tensor)
    if not ahead:
        b.step = _ordered(b)
    advance(b)
    prune(b)
    step = [*b.step, *b.after]
    alive = widths(b.before, step, b.sizes) if program.axis else widths([], b.before, b.sizes)
    function = _function(b)
    return LoopSource(
        name=b.entry,
        text=module(_title(program), [function]),
        program=program,
        pointers=(*program.tensors, *(t for _, t in program.stores)),
        sizes=program.sizes,
        weights=b.weights_on_chip,
        live=alive,
        staged=tuple(b.staged),
        joined=tuple(b.joined),
        uses_matmul=uses_matmul(b),
        widest=max(b.widths, default=1),
        function=function,
    )


# the prelude's functions that are matrix products
MATMULS = frozenset({"matmul", "matmul_bf16x3"})


def uses_matmul(b: PersistentBuilder) -> bool:
    """Whether a kernel has matrix products."""
    return any(MATMULS & statement.value.calls for statement in (*b.before, *b.step))


def _ordered(b: PersistentBuilder) -> list[Statement]:
    """The statements of a step in the order that needs the fewest registers."""
    if not b.program.block_axis:
        return sunk(b.step)
    nexts = {b.program.state(state).next for state, _ in b.slots}
    kept = {name for n in nexts for tile in b.tiles.get(n, ()) for name in tile.value.names}
    states = {name for names in b.slots.values() for name in names}
    kept |= {name for statement in b.before for name in statement.targets} - states
    return ordered(b.step, b.registers, kept)


def prune(b: PersistentBuilder) -> None:
    """Removes unused operations: parts of a value of which the loop only reads other parts."""
    alive = needed([*b.before, *b.step, *b.after])
    for part in (b.before, b.step, b.after):
        part[:] = [statement for statement in part if statement in alive]


def moves(b: PersistentBuilder, op: Op) -> bool:
    """Whether a value varies from step to step. Raises Unsupported if an initial value does."""
    if op.kind == "read":
        if heavy(b.program, op):
            return True
        if any(a in b.moving for a in op.args):
            raise Unsupported(f"'{op.name}' starts from a value that varies over the loop")
        return b.program.axis in op.attrs["tensor"].axes
    if op.kind == "draw":
        return b.program.axis in op.attrs["tensor"].axes
    return op.kind in ("index", "state") or any(a in b.moving for a in op.args)


def _const(b: PersistentBuilder, op: Op) -> None:
    """Writes nothing: constants are inlined where they are used."""


def _index(b: PersistentBuilder, op: Op) -> None:
    _single(b, op, V.t)


def _size(b: PersistentBuilder, op: Op) -> None:
    _single(b, op, b.length(op.attrs["axis"]))


def _single(b: PersistentBuilder, op: Op, value: Name) -> None:
    ((span, name),) = b.named(op)
    b.add(op, name, code("tl.full([1, 1], {}, tl.int64)", value))
    b.tiles[op.name] = (Tile(expr(name), span=span),)


# The initial value of a state as a value of its own. If two variables begin as the same value and
# one takes the other's place in the loop, Triton (3.6 to 3.9) sees no change and keeps the first.
OWN = {"float": "({0}) * 1", "int": "({0}) * 1", "bool": "({0}) ^ False"}


def _state(b: PersistentBuilder, op: Op) -> None:
    """A state's slots, the oldest first: what a step reads."""
    state, wide = b.program.state(op.name), op.name in b.wide
    tiles = []
    for k, (span, name) in enumerate(b.named(op)):
        names = [name, *(b.fresh(f"{name.text}_in_{d}") for d in range(1, state.delay))]
        for slot, variable in enumerate(names):
            init = state.inits[slot if len(state.inits) > 1 else 0]
            b.begin(variable, code(OWN[op.dtype], _beginning(b, op, init, span)), op.note)
            b.tile(span, variable, span.width, wide)
        b.slots[op.name, k] = names
        tiles.append(b.tile(span, name, span.width, wide))
    b.tiles[op.name] = tuple(tiles)


def _beginning(b: PersistentBuilder, op: Op, init: str, span: Span) -> Expr:
    if init in b.moving:
        raise Unsupported(f"the state '{op.name}' starts from a value that varies over the loop")
    return following(b, init, op, span)


def following(b: PersistentBuilder, name: str, op: Op, span: Span) -> Expr:
    """A value as a state holds it: in all rows and columns."""
    value, wide = b.ops[name], op.name in b.wide
    if value.kind == "const":
        number = literal(value.attrs["value"], op.dtype)
        shape = join(", ", b.shape(span.width, wide))
        return code("tl.full([{}], {}, {})", shape, number, KINDS[op.dtype])
    return b.full(b.operand(op.name, name, span), span.width, wide)


def advance(b: PersistentBuilder) -> None:
    """Gives each state its next value, all of them at once."""
    states = {name for names in b.slots.values() for name in names}
    for (state, k), names in b.slots.items():
        op = b.ops[state]
        b.enter(op)
        span = b.layout.spans[state][k]
        value = following(b, b.program.state(state).next, op, span)
        if len(names) == 1 and value == expr(names[0]):
            continue  # it stays as it is
        if not states.isdisjoint(value.names):
            # another state changes too: keep its value of this step
            now = b.fresh(f"{names[0].text}_then")
            b.step.append(assign(now, value))
            value = expr(now)
        nexts = [*map(expr, names[1:]), value]
        b.after += [assign(name, following) for name, following in zip(names, nexts)]


WRITERS: dict[str, Callable[[PersistentBuilder, Op], None]] = {
    "read": loads.read,
    "draw": loads.draw,
    "const": _const,
    "index": _index,
    "size": _size,
    "position": block_axis.position,
    "over_positions": block_axis.over_positions,
    "state": _state,
    "pointwise": pointwise.pointwise,
    "view": pointwise.view,
    "einsum": pointwise.einsum,
    "sum": pointwise.reduce,
    "max": pointwise.reduce,
}


def _title(program: LoopProgram) -> str:
    over = f"a loop over {program.axis}" if program.axis else "one phase of a step"
    of = f"row, all of {program.block_axis} in it" if program.block_axis else "tile of rows"
    return f"{program.name}: {over}, one program per {of}."


def _function(b: PersistentBuilder) -> KernelFunction:
    return KernelFunction(
        b.entry,
        b.imports(),
        tuple(pointer.text for pointer in b.pointers.values()),
        tuple(b.names.lengths(b.program.sizes)),
        CONSTANTS,
        tuple(_body(b)),
    )


def row_count(b: PersistentBuilder) -> Statement:
    """The number of rows."""
    return assign(V.n_rows, join(" * ", b.lengths(b.program.rows) or ["1"]))


def _rows(b: PersistentBuilder) -> list[Statement]:
    """The rows of a program: a tile of them."""
    return [
        row_count(b),
        assign(V.rows, code("tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]")),
        *ragged.sorted_rows(b),
        assign(V.live, code("{} < {}", V.rows, V.n_rows)),
    ]


def _positions(b: PersistentBuilder) -> list[Statement]:
    """The row of a program, and its positions as the rows of tiles."""
    many = b.length(b.program.block_axis)
    return [
        assign(V.rows, code("tl.program_id(0)")),
        assign(V.pos, code("tl.arange(0, ROWS)[:, None]")),
        assign(V.live, code("{} < {}", V.pos, many)),
        assign(V.pos_row, code("tl.arange(0, ROWS)[None, :]")),
        assign(V.live_pos_row, code("{} < {}", V.pos_row, many)),
    ]


def _body(b: PersistentBuilder) -> list[str]:
    start = [*(_positions(b) if b.program.block_axis else _rows(b)), *b.ranges()]
    if not b.program.axis:
        return printed(start, INDENT) + printed(b.before, INDENT)
    return [
        *printed([*start, *ragged.steps(b), begin(b)], INDENT),
        *printed(b.before, INDENT),
        *loop_head(b),
        *printed([*b.step, *b.after], INDENT * 2),
        *ragged.beyond(b),
    ]


def begin(b: PersistentBuilder) -> Statement:
    """The position at which a loop begins."""
    return assign(V.t_first, code("{} - 1", ragged.count(b)) if b.program.reverse else "0")


def loop_head(b: PersistentBuilder, more: tuple[Statement, ...] = ()) -> list[str]:
    """The head of a loop: its steps, and the position of each."""
    program, count = b.program, ragged.count(b)
    last = code("{} - 1", count)
    position = code("{} - {}", last, V.step) if program.reverse else expr(V.step)
    if program.block_axis and b.hoists:  # see loads._address
        position = code("({}) ^ ({} >> 30)", position, b.length(program.axis))
    inside = "" if b.hoists else ", disable_licm=True"
    head = code("for {} in tl.range(0, {}, num_stages=1{}):", V.step, count, inside)
    made = [assign(V.t, position)]
    if b.ahead:
        following = code("tl.minimum({} + 1, {})", V.t, last)
        if program.reverse:
            following = code("tl.maximum({} - 1, 0)", V.t)
        made.append(assign(V.t_next, following))
    return [INDENT + head.text, *printed([*made, *more], INDENT * 2)]
