"""Writing the kernel of a contraction: one program a tile of rows walks over the columns.

What a score is added up from stays in registers, chunk by chunk; the softmax is taken on the way
(Milakov and Gimelshein 2018, algorithm 3). A walk may be cut into parts, each a program of its own,
whose results are merged after. No atomics: every program writes places of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..codegen.builder import Line
from ..ir.contraction import AttentionProgram, Store, Tile, Top, letters
from ..ir.printer import INDENT, wrapped
from ..ir.program import Op, Tensor, Unsupported
from ..ir.symbols import remark
from ..ir.tile import Span
from .argmax import most
from .builder import AttentionBuilder
from .operations import fitted, flattened, lined_up, operand, value, widened, within


@dataclass(frozen=True)
class AttentionSource:
    """A kernel's text and the arguments of a launch. `wide`: it has values over rows, columns and a
    width."""

    name: str
    text: str
    program: AttentionProgram
    pointers: tuple[Tensor, ...]
    sizes: tuple[str, ...]
    wide: bool


def emit(program: AttentionProgram) -> AttentionSource:
    """The kernel of a program. Raises Unsupported where there can be none."""
    sheet = AttentionBuilder(program)
    if program.picks is not None:
        value(sheet, program.picks.op, 0)
    for store in program.stores:
        largest = sheet.ops[store.op].kind in ("most", "place")
        (most if largest else each if store.kind == "each" else _total)(sheet, store)
    if program.peak is not None:
        value(sheet, next(o.name for o in program.ops if o.kind == "soft"), 0)
        _peak(sheet, program.peak)
    if program.top is not None:
        _top(sheet, program.top)
    pointers = (*program.tensors, *program.outputs)
    text = written(sheet, [(sheet.before, sheet.step)])
    return AttentionSource(sheet.entry, text, program, pointers, program.sizes, sheet.wide)


def each(s: AttentionBuilder, store: Store) -> None:
    """A value at each row and column."""
    for k, span in enumerate(s.spans(store.op)):
        tile = value(s, store.op, k)
        rows, columns = bool(s.program.rows), bool(s.program.columns)
        like = Tile("", rows, columns, span.width)
        full = {(1, 1): "ROWS, COLS", (1, 0): "ROWS, 1", (0, 1): "1, COLS", (0, 0): "1, 1"}
        if span.width > 1:
            full = {(1, 1): "ROWS, COLS", (1, 0): "ROWS", (0, 1): "COLS", (0, 0): "1"}
        shape = full[int(rows), int(columns)] + (f", {span.width}" if span.width > 1 else "")
        text = f"tl.broadcast_to({fitted(tile, like)}, [{shape}])"
        pointer = s.pointers[store.tensor.name]
        address, mask = s.address(store.tensor, like, span), s.mask(like, span)
        line = f"tl.store({address}, {text}.to({pointer}.dtype.element_ty), mask={mask or 'True'})"
        s.add(line, s.ops[store.op], True)
    s.forget()


def _total(s: AttentionBuilder, store: Store) -> None:
    """A sum over the columns, kept for each row, or added up over the rows as well."""
    op = s.ops[store.op]
    if op.kind != "total":
        raise Unsupported(f"'{op.name}' is not summed")
    if len(op.args) == 2 and len(letters(op)[2]) == 2:
        _outer(s, store, op)
        return
    weighed = s.program.peak is not None
    if weighed:
        value(s, next(o.name for o in s.program.ops if o.kind == "soft"), 0)
    for k, span in enumerate(s.spans(op.name)):
        rows = "ROWS" if s.program.rows else "1"
        acc = s.names.fresh(f"{op.name}_{k}" if len(s.spans(op.name)) > 1 else op.name)
        s.add(f"{acc} = tl.zeros([{rows}, {span.width}], ACC)", op, False)
        gather(s, op, acc, k, span, weighed)
        total = f"{acc} / tl.where(share == 0, 1.0, share)" if weighed else acc
        keep(s, store, total, span)
    s.forget()


def gather(s: AttentionBuilder, op: Op, acc: str, k: int, span: Span, weighed: bool) -> None:
    """A line that adds this tile's columns."""
    before = f"{acc} * shrink" if weighed else acc
    pair = _pair(s, op)
    if pair is not None:
        scalar, wide = pair
        weight = value(s, scalar, 0).text
        weight = weight if weighed and s.ops[scalar].kind == "soft" else _there(weight)
        other = operand(s, wide, k, span)
        if s.ops[wide].kind != "read":
            other = f"tl.where(valid_down, {other}, 0.0).to(KIND)"
        text = f"product({weight}.to(KIND), {other}, {before}, PRECISION, UPCAST)"
        s.add(f"{acc} = {text}", op, True)
        return
    tile = _summand(s, op, k)
    s.add(f"{acc} = {before} + {_down(s, tile)}", op, True)


def _there(text: str) -> str:
    return f"tl.where(valid, {text}, 0.0)"


def _pair(s: AttentionBuilder, op: Op) -> tuple[str, str] | None:
    """A number over rows and columns times a vector over columns: a matrix product."""
    if len(op.args) != 2 or not s.program.rows or s.wide:
        return None
    for a, b in (op.args, op.args[::-1]):
        one = math.prod(s.ops[a].shape) == 1 and all(s.sides[a])
        if one and s.sides[b] == (False, True) and math.prod(s.ops[b].shape) > 1:
            return (a, b) if letters(op)[2] else None
    return None


def _summand(s: AttentionBuilder, op: Op, k: int) -> Tile:
    """What is summed over columns."""
    if len(op.args) == 1:
        tile = value(s, op.args[0], k)
        return tile
    a, b, out = letters(op)
    if set(a + b) - set(out):
        return value(s, s.inner(op).name, 0)
    like, texts = lined_up(s, op, op.args, k)
    return Tile(f"({texts[0]} * {texts[1]})", like.rows, like.columns, like.width)


def _down(s: AttentionBuilder, tile: Tile) -> str:
    """The sum of a tile over the columns that are there."""
    if not tile.columns:
        if s.program.columns:
            raise Unsupported("a sum over columns of what is the same for all of them")
        return tile.text
    if tile.width == 1:
        return f"tl.sum({_there(tile.text)}, 1)[:, None]"
    if tile.both:
        return f"tl.sum(tl.where(valid[:, :, None], {tile.text}, 0.0), 1)"
    return f"tl.sum(tl.where(valid_down, {tile.text}, 0.0), 0)[None, :]"


def _outer(s: AttentionBuilder, store: Store, op: Op) -> None:
    """Σ over rows and columns of the outer products of two vectors: a weight's gradient."""
    a, b, out = letters(op)
    first, second = op.args if out == a + b else op.args[::-1]
    if out not in (a + b, b + a) or not all(s.sides[first]) or not all(s.sides[second]):
        raise Unsupported(f"'{op.name}' is a sum of products that tiles do not have")
    width = s.ops[second].shape[0]
    for j, high in enumerate(s.spans(first)):
        for k, span in enumerate(s.spans(second)):
            acc = s.names.fresh(f"{op.name}_{j}_{k}")
            s.add(f"{acc} = tl.zeros([{high.width}, {span.width}], ACC)", op, False)
            left, right = (
                _all_there(s, value(s, name, n), part)
                for name, n, part in ((first, j, high), (second, k, span))
            )
            left = f"tl.trans({left})"
            s.add(f"{acc} = product({left}, {right}, {acc}, PRECISION, UPCAST)", op, True)
            rows, cols = s.deep(high.width), s.cols(span.width)
            count = math.prod(store.tensor.shape)
            at = f"program * {count} + ({high.start} + {rows}) * {width} + {span.start} + {cols}"
            mask = f"({rows} < {high.valid}) & ({cols} < {span.valid})"
            pointer = s.pointers[store.tensor.name]
            s.after.append(Line(f"tl.store({pointer} + {at}, {acc}, mask={mask})", op.note))
            s.forget()


def _all_there(s: AttentionBuilder, tile: Tile, span: Span) -> str:
    """A tile as a matrix of one row and column of it a row; zero where there is none."""
    tile = widened(tile, span)
    text = f"tl.where((live & valid)[:, :, None], {within(s, tile, span)}, 0.0)"
    whole = Span(0, span.width, span.width)
    return flattened(s, Tile(text, True, True, span.width), whole, "ROWS * COLS")


def keep(s: AttentionBuilder, store: Store, text: str, span: Span) -> None:
    """Write a sum: for each row, or one for the program."""
    op, pointer = s.ops[store.op], s.pointers[store.tensor.name]
    if store.kind == "row":
        like = Tile("", bool(s.program.rows), False, span.width)
        address, mask = s.address(store.tensor, like, span, "part"), s.mask(like, span)
        kept = f"({text}).to({pointer}.dtype.element_ty)"
        line = f"tl.store({address}, {kept}, mask={mask or 'True'})"
        s.after.append(Line(line, f"keep {op.note}"))
        return
    count = math.prod(store.tensor.shape)
    cols = s.cols(span.width)
    whole = f"tl.sum(tl.where(live, {text}, 0.0), 0)[None, :]"
    mask = f"{cols} < {span.valid}"
    at = f"program * {count} + {span.start} + {cols}"
    line = f"tl.store({pointer} + {at}, {whole}, mask={mask})"
    s.after.append(Line(line, f"keep {op.note}"))


def _peak(s: AttentionBuilder, tensor: Tensor) -> None:
    """The log-sum-exp of the scores."""
    like = Tile("", bool(s.program.rows), False, 1)
    text = 'tl.where(share == 0, float("-inf"), top + tl.log(share))'
    address = s.address(tensor, like, Span(0, 1, 1), "part")
    mask = s.mask(like, Span(0, 1, 1)) or "True"
    s.after.append(Line(f"tl.store({address}, {text}, mask={mask})", "log-sum-exp of the scores"))


def _top(s: AttentionBuilder, top: Top) -> None:
    """The best columns, in lists that the walk takes its tiles into."""
    op, span = s.ops[top.op], top.kept
    note = Op("", "", note=f"the {top.count} best of {op.note}")
    rows = "ROWS" if s.program.rows else "1"
    s.add(f"best, places = unfilled({rows}, {top.count}, {span.width}, ACC)", note, False)
    score = value(s, top.op, 0)
    if not score.columns:
        raise Unsupported("the scores are the same for all columns")
    there = "valid & live" if s.program.rows else "valid"
    s.add(f"best, places = kept(best, places, {score.text}, col, {there})", note, True)
    like = Tile("", bool(s.program.rows), False, span.width)
    for tensor, text in ((top.best, "best"), (top.places, "places")):
        address, mask = s.address(tensor, like, span, "part"), s.mask(like, span) or "True"
        s.after.append(Line(f"tl.store({address}, {text}, mask={mask})", note.note))


def written(s: AttentionBuilder, walks: Sequence[tuple[list[Line], list[Line]]]) -> str:
    """The text of a kernel: of each walk what goes before it, and its step."""
    p = s.program
    body = [line.text for line in (*s.before, *s.step, *s.after)]
    lines = [f'"""{remark(p.title)}"""', "", "import triton", "import triton.language as tl", ""]
    if any("product(" in text for text in body):
        s.used.add("product")
    if s.used:
        lines += wrapped(
            f"from graphnn.kernels.codegen.prelude import ({', '.join(sorted(s.used))})", ""
        )
    lines += [*[""] * (2 if s.used else 1), *_head(s)]
    lines += [INDENT + text for text in _start(s)]
    for before, step in walks:
        lines += _commented(before, INDENT)
        lines += [INDENT + text for text in _walk(s)]
        lines += _commented(step, INDENT * 2)
    lines += _commented(s.after, INDENT)
    return "\n".join(lines) + "\n"


def _head(s: AttentionBuilder) -> list[str]:
    sizes = [*s.names.lengths(s.program.sizes), "length"]
    listed = ", ".join(f'"{n}"' for n in sizes)
    constants = ("ROWS", "COLS", "ACC", "PRECISION", "UPCAST")
    arguments = [*s.pointers.values(), *sizes, *(f"{n}: tl.constexpr" for n in constants)]
    return [
        *wrapped(f"@triton.jit(do_not_specialize=[{listed}])", ""),
        f"def {s.entry}(",
        *(f"{INDENT}{text}," for text in arguments),
        "):",
    ]


def _count(s: AttentionBuilder, axes: tuple[str, ...]) -> str:
    return " * ".join(s.names.lengths(axes)) or "1"


def _start(s: AttentionBuilder) -> list[str]:
    p = s.program
    first = next(s.pointers[t.name] for t in p.tensors if t.kind == "float")
    lines = [
        f"KIND: tl.constexpr = {first}.dtype.element_ty",
        "program = tl.program_id(0).to(tl.int64)",
        f"n_rows = {_count(s, p.rows)}",
        f"n_cols = {_count(s, p.columns)}",
        f"n_blocks = {_count(s, p.blocks)}",
        "tiles = tl.cdiv(n_rows, ROWS)",
        "tile = program % tiles",
        "block = program // tiles % n_blocks",
        "part = program // (tiles * n_blocks)",
        "row = tile * ROWS + tl.arange(0, ROWS)[:, None]",
        "live = row < n_rows",
        "begin = part * length",
        "end = tl.minimum(begin + length, n_cols)",
    ]
    lines += [f"cols_{w} = tl.arange(0, {w})[None, :]" for w in sorted(s.widths)]
    lines += [f"down_{w} = tl.arange(0, {w})[:, None]" for w in sorted(s.depths)]
    return _used(lines, s)


def _walk(s: AttentionBuilder) -> list[str]:
    lines = ["for start in range(begin, end, COLS):"]
    inner = [
        "col = start + tl.arange(0, COLS)[None, :]",
        "valid = col < end",
        "down = start + tl.arange(0, COLS)[:, None]",
        "valid_down = down < end",
    ]
    return lines + [INDENT + text for text in _used(inner, s)]


def _used(lines: list[str], s: AttentionBuilder) -> list[str]:
    """The lines whose values are read further on."""
    import re

    after = " ".join(line.text for line in (*s.before, *s.step, *s.after))
    after += " ".join(("begin", "end", "program"))
    kept: list[str] = []
    for line in reversed(lines):
        name = re.match(r"(\w+)", line)
        assert name is not None
        if re.search(rf"\b{name[1]}\b", after):
            kept.append(line)
            after += " " + line.split("=", 1)[1]
    return kept[::-1]


def _commented(lines: list[Line], indent: str) -> list[str]:
    """Lines under the names of the user's nodes."""
    found: list[str] = []
    last = ""
    for line in lines:
        if line.note and line.note != last:
            found.append(f"{indent}# {remark(line.note)}")
            last = line.note
        found += wrapped(line.text, indent)
    return found
