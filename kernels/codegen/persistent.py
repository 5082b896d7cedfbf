"""Writing the source of a resident kernel: one program a tile of rows, the whole loop inside it.

Weights are loaded before the loop and stay on chip, states stay in registers, and what comes from
memory at each step is loaded one step ahead, or where that takes too many registers when it is
used. A program without an axis is one step: a phase.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..analysis import block_axis
from ..analysis.list_schedule import ordered
from ..analysis.liveness import given, needed, sunk, widths, words
from ..ir.printer import INDENT, literal, wrapped
from ..ir.program import LoopProgram, Op, Tensor, Unsupported
from ..ir.symbols import remark
from ..ir.tile import Span
from . import loads, pointwise, ragged
from .builder import CONSTANTS, KINDS
from .loop_builder import Line, PersistentBuilder, Tile


@dataclass(frozen=True)
class LoopSource:
    """A kernel's text, and what a launch needs to know of it.

    `weights` are the resident tensors, with how many numbers of each are held; `live` the widths of
    the tiles alive together, `staged` those of the operands of the largest matrix product, `joined`
    those of the products that give several parts; `loops` how many loops run side by side. If
    `capped`, the assembler is told how many registers there are. If it `multiplies` it has
    matrix products, which take 16 rows at least; `widest` are the most columns of a tile.
    """

    name: str
    text: str
    program: LoopProgram
    pointers: tuple[Tensor, ...]
    sizes: tuple[str, ...]
    weights: dict[str, int]
    live: tuple[int, ...]
    staged: tuple[int, ...]
    joined: tuple[int, ...] = ()
    loops: int = 1
    capped: bool = True
    multiplies: bool = False
    widest: int = 1


def emit(program: LoopProgram, join: bool = True, ahead: bool = True) -> LoopSource:
    """The kernel of a program. Raises Unsupported where there can be none.

    `join` as many parts of matrix products as is of use, and load a step `ahead`: both are faster,
    and take registers.
    """
    page = PersistentBuilder(program, join, ahead)
    stored: dict[str, list[Tensor]] = {}
    for name, tensor in program.stores:
        stored.setdefault(name, []).append(tensor)
    for op in program.ops:
        if _moves(page, op):
            page.moving.add(op.name)
        WRITERS[op.kind](page, op)
        # at once: what is stored at the end of the step is held until then (a HyperLSTM of 4 units
        # has 0 spills, 58 if it stores at the end; multiplicative integration of 128 units takes
        # 201 registers for its backward instead of 254)
        for tensor in stored.get(op.name, ()):
            loads.store(page, op.name, tensor)
    if not ahead:
        _order(page)
    _advance(page)
    pointers = (*program.tensors, *(t for _, t in program.stores))
    _prune(page)
    text = _text(page)
    before = [line.text for line in page.before]
    step = [line.text for line in (*page.step, *page.ends)]
    alive = widths(before, step, page.sizes) if program.axis else widths([], before, page.sizes)
    return LoopSource(
        page.entry,
        text,
        program,
        pointers,
        program.sizes,
        page.held,
        alive,
        tuple(page.staged),
        tuple(page.joined),
        multiplies=multiplies(page),
        widest=max(page.widths, default=1),
    )


def multiplies(page: PersistentBuilder) -> bool:
    """Whether a kernel has matrix products."""
    return any("product(" in line.text for line in (*page.before, *page.step))


def _order(page: PersistentBuilder) -> None:
    """The lines of a step in the order that takes the fewest registers."""
    lines = [line.text for line in page.step]
    if page.program.lanes:
        nexts = {page.program.state(state).next for state, _ in page.slots}
        kept = {tile.text for name in nexts for tile in page.tiles.get(name, ())}
        states = {name for names in page.slots.values() for name in names}
        kept |= {name for line in page.before for name in given(line.text)} - states
        order = ordered(lines, page.taken, kept)
    else:
        order = sunk(lines)
    page.step = [page.step[k] for k in order]


def _prune(page: PersistentBuilder) -> None:
    """Leave out what nothing uses: parts of a value of which a loop reads others."""
    parts = (page.before, page.step, page.ends)
    places = needed([line.text for part in parts for line in part])
    k = 0
    for part in parts:
        part[:], k = [x for n, x in enumerate(part) if k + n in places], k + len(part)


def _moves(page: PersistentBuilder, op: Op) -> bool:
    """Whether a value differs from position to position."""
    if op.kind == "read":
        if block_axis.heavy(page.program, op):
            return True
        if any(a in page.moving for a in op.args):
            raise Unsupported(f"'{op.name}' starts from a value that varies over the loop")
        return page.program.axis in op.attrs["tensor"].axes
    if op.kind == "draw":
        return page.program.axis in op.attrs["tensor"].axes
    return op.kind in ("index", "state") or any(a in page.moving for a in op.args)


def _const(page: PersistentBuilder, op: Op) -> None:
    """Numbers are written where they are used."""


def _index(page: PersistentBuilder, op: Op) -> None:
    _single(page, op, "t")


def _size(page: PersistentBuilder, op: Op) -> None:
    _single(page, op, page.length(op.attrs["axis"]))


def _single(page: PersistentBuilder, op: Op, text: str) -> None:
    ((span, name),) = page.named(op)
    page.add(op, f"{name} = tl.full([1, 1], {text}, tl.int64)")
    page.tiles[op.name] = (Tile(span, name, 1, False),)


# What a state begins as, made a value of its own: where two variables begin as one, and one takes
# the other's place in the loop, Triton (3.6 to 3.9) sees no change and keeps the first value.
OWN = {"float": "({0}) * 1", "int": "({0}) * 1", "bool": "({0}) ^ False"}


def _state(page: PersistentBuilder, op: Op) -> None:
    """A state's slots, the oldest first: what a step reads."""
    state, wide = page.program.state(op.name), op.name in page.wide
    tiles = []
    for k, (span, name) in enumerate(page.named(op)):
        names = [name, *(page.names.fresh(f"{name}_in_{d}") for d in range(1, state.delay))]
        for slot, variable in enumerate(names):
            init = state.inits[slot if len(state.inits) > 1 else 0]
            text = OWN[op.dtype].format(_beginning(page, op, init, span))
            page.append(page.before, f"{variable} = {text}", op.note)
            page.tile(span, variable, span.width, wide)
        page.slots[op.name, k] = names
        tiles.append(page.tile(span, name, span.width, wide))
    page.tiles[op.name] = tuple(tiles)


def _beginning(page: PersistentBuilder, op: Op, init: str, span: Span) -> str:
    if init in page.moving:
        raise Unsupported(f"the state '{op.name}' starts from a value that varies over the loop")
    return _following(page, init, op, span)


def _following(page: PersistentBuilder, name: str, op: Op, span: Span) -> str:
    """A value as a state takes it: in all rows and columns."""
    value, wide = page.ops[name], op.name in page.wide
    if value.kind == "const":
        number = literal(value.attrs["value"], op.dtype)
        shape = page.shape(span.width, wide)
        return f"tl.full([{shape}], {number}, {KINDS[op.dtype]})"
    return page.full(page.operand(op.name, name, span), span.width, wide)


def _advance(page: PersistentBuilder) -> None:
    """Each state takes its next value, all at once."""
    held = {name for names in page.slots.values() for name in names}
    for (state, k), names in page.slots.items():
        op = page.ops[state]
        page.enter(op)
        span = page.layout.spans[state][k]
        text = _following(page, page.program.state(state).next, op, span)
        if names == [text]:
            continue  # it stays as it is
        if not held.isdisjoint(words(text)):
            # another state moves on too: keep what it is now
            now = page.names.fresh(f"{names[0]}_then")
            page.step.append(Line(f"{now} = {text}"))
            text = now
        page.ends += [Line(f"{a} = {b}") for a, b in zip(names, [*names[1:], text])]


WRITERS: dict[str, Callable[[PersistentBuilder, Op], None]] = {
    "read": loads.read,
    "draw": loads.draw,
    "const": _const,
    "index": _index,
    "size": _size,
    "lane": block_axis.lane,
    "lanes": block_axis.lanes,
    "state": _state,
    "point": pointwise.point,
    "view": pointwise.view,
    "product": pointwise.product,
    "sum": pointwise.reduce,
    "max": pointwise.reduce,
}


def _text(page: PersistentBuilder) -> str:
    program = page.program
    over = f"a loop over {program.axis}" if program.axis else "one phase of a step"
    of = f"row, all of {program.lanes} in it" if program.lanes else "tile of rows"
    lines = [f'"""{remark(f"{program.name}: {over}, one program a {of}.")}"""', ""]
    lines += ["import triton", "import triton.language as tl", ""]
    if page.used:
        lines += wrapped(
            f"from graphnn.kernels.codegen.prelude import ({', '.join(sorted(page.used))})", ""
        )
    lines += [*[""] * (2 if page.used else 1), *_head(page)]
    for line in _body(page):
        lines += line
    return "\n".join(lines) + "\n"


def _head(page: PersistentBuilder) -> list[str]:
    sizes = page.names.lengths(page.program.sizes)
    listed = ", ".join(f'"{n}"' for n in sizes)
    constants = [f"{n}: tl.constexpr" for n in CONSTANTS]
    pointers = list(page.pointers.values())
    return [
        *wrapped(f"@triton.jit(do_not_specialize=[{listed}])", ""),
        f"def {page.entry}(",
        *(f"{INDENT}{text}," for text in (*pointers, *sizes, *constants)),
        "):",
    ]


def _rows(page: PersistentBuilder) -> list[str]:
    """The rows of a program: a tile of them."""
    return [
        f"n_rows = {' * '.join(page.names.lengths(page.program.rows)) or '1'}",
        "rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]",
        *ragged.sorted_rows(page),
        "live = rows < n_rows",
    ]


def _lanes(page: PersistentBuilder) -> list[str]:
    """The row of a program, and its lanes as the rows of tiles."""
    many = page.length(page.program.lanes)
    return [
        "rows = tl.program_id(0)",
        "lane = tl.arange(0, ROWS)[:, None]",
        f"live = lane < {many}",
        "across = tl.arange(0, ROWS)[None, :]",
        f"there = across < {many}",
    ]


def _body(page: PersistentBuilder) -> list[list[str]]:
    program = page.program
    start = [
        *(_lanes(page) if program.lanes else _rows(page)),
        *(f"cols_{w} = tl.arange(0, {w})[None, :]" for w in sorted(page.widths)),
        *(f"down_{w} = tl.arange(0, {w})[:, None]" for w in sorted(page.depths)),
    ]
    if not program.axis:
        return [[INDENT + s for s in start], _commented(page.before, INDENT)]
    inner = _commented([*page.step, Line("", ""), *page.ends], INDENT * 2)
    return [
        [INDENT + s for s in (*start, *ragged.steps(page), begin(page))],
        _commented(page.before, INDENT),
        [INDENT + s for s in turns(page)],
        inner,
        ragged.beyond(page),
    ]


def begin(page: PersistentBuilder) -> str:
    """The line that says at which position a loop begins."""
    return f"first = {f'{ragged.count(page)} - 1' if page.program.reverse else 0}"


def turns(page: PersistentBuilder) -> list[str]:
    """The head of a loop: its steps, and the position of each."""
    program, count = page.program, ragged.count(page)
    last = f"{count} - 1"
    position = f"{last} - step" if program.reverse else "step"
    if program.lanes and page.hoists:  # see memory._address
        position = f"({position}) ^ ({page.length(program.axis)} >> 30)"
    inside = "" if page.hoists else ", disable_licm=True"
    lines = [
        f"for step in tl.range(0, {count}, num_stages=1{inside}):",
        f"{INDENT}t = {position}",
    ]
    if page.ahead:
        following = "tl.maximum(t - 1, 0)" if program.reverse else f"tl.minimum(t + 1, {last})"
        lines.append(f"{INDENT}ahead = {following}")
    return lines


def _commented(lines: list[Line], indent: str) -> list[str]:
    """Lines under the names of the user's nodes."""
    found: list[str] = []
    last = ""
    for line in lines:
        if line.note and line.note != last:
            found.append(f"{indent}# {remark(line.note)}")
            last = line.note
        if line.text:
            found += wrapped(line.text, indent)
    return found
