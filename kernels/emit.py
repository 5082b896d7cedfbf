"""Writing the source of a resident kernel: one program a tile of rows, the whole loop inside it.

Weights are loaded before the loop and stay on chip, states stay in registers, and what comes from
memory at each step is loaded one step ahead.
"""

from __future__ import annotations

import keyword
import math
import re
from dataclasses import dataclass, replace

from .layout import Layout, Span, source
from .products import Dot, Rows, Term
from .program import Op, Program, Refused, Tensor

PRELUDE = ("product", "sigmoid", "tanh", "log1p", "expm1", "sign", "nearest", "power", "remainder")
RESERVED = frozenset(("triton", "tl", "rows", "live", "step", "t", "ahead", "n_rows", *PRELUDE))
KINDS = {"float": "ACC", "int": "tl.int64", "bool": "tl.int1"}
# a kernel of more tiles than this compiles for minutes and cannot keep them in registers
MOST = 1500
INDENT = "    "


@dataclass(frozen=True)
class Tile:
    """A variable of the kernel that holds one span of a value: [rows or 1, width or 1]."""

    span: Span
    text: str
    width: int
    rows: bool


@dataclass(frozen=True)
class Source:
    """A kernel's text, and what a launch needs to know of it."""

    name: str
    text: str
    program: Program
    pointers: tuple[Tensor, ...]
    sizes: tuple[str, ...]
    weights: tuple[tuple[str, int], ...]
    staged: int
    live: int


class Emitter:
    """Writes one program. `text()` gives the source; raises Refused where it cannot."""

    def __init__(self, program: Program):
        self.program, self.layout = program, Layout(program)
        self.ops = self.layout.ops
        self.tiles: dict[str, tuple[Tile, ...]] = {}
        self.names: dict[str, str] = {}
        self.taken: set[str] = set(RESERVED)
        self.before: list[str] = []
        self.step: list[str] = []
        self.ends: list[str] = []
        self.widths: set[int] = set()
        self.depths: set[int] = set()
        self.weights: dict[tuple[str, int, int, int], str] = {}
        self.loaded: dict[str, int] = {}
        self.used: set[str] = set()
        self.states = {s.name: s for s in program.states}
        self.moving: set[str] = set()
        self.count = 0
        self.staged = 0
        for tensor in (*program.tensors, *(t for _, t in program.stores)):
            self.names[f"*{tensor.name}"] = self._fresh(f"{tensor.name}_ptr")

    def write(self) -> Source:
        """The kernel's source."""
        for op in self.program.ops:
            self._op(op)
        for name, tensor in self.program.stores:
            self._store(name, tensor)
        self._advance()
        text = self._assemble()
        pointers = (*self.program.tensors, *(t for _, t in self.program.stores))
        return Source(
            self.program.name,
            text,
            self.program,
            pointers,
            self.program.sizes,
            tuple(self.loaded.items()),
            self.staged,
            0,
        )

    # names and lines

    def _fresh(self, wanted: str) -> str:
        base = re.sub(r"\W+", "_", wanted).strip("_") or "v"
        base = f"v_{base}" if base[0].isdigit() or keyword.iskeyword(base) else base
        name, count = base, 2
        while name in self.taken:
            name, count = f"{base}_{count}", count + 1
        self.taken.add(name)
        return name

    def _lines(self, op: Op) -> list[str]:
        """Where an operation's lines go: into the loop, if anything it reads moves."""
        return self.step if op.name in self.moving else self.before

    def _add(self, lines: list[str], text: str, note: str = "") -> None:
        self.count += 1
        if self.count > MOST:
            raise Refused(f"a step of more than {MOST} tile operations")
        comment = f"# {note}"
        if note and comment not in lines[-12:]:
            lines.append(comment)
        lines.append(text)

    def _cols(self, width: int) -> str:
        self.widths.add(width)
        return f"cols_{width}"

    def _down(self, width: int) -> str:
        self.depths.add(width)
        return f"down_{width}"

    # operations

    def _op(self, op: Op) -> None:
        if op.kind == "index" or op.name in self.states or any(a in self.moving for a in op.args):
            self.moving.add(op.name)
        if op.kind == "read" and self.program.axis in op.attrs["tensor"].axes:
            self.moving.add(op.name)
        getattr(self, f"_{op.kind}")(op)

    def _const(self, op: Op) -> None:
        pass

    def _index(self, op: Op) -> None:
        self._one(op, "tl.full([1, 1], t, tl.int64)")

    def _size(self, op: Op) -> None:
        self._one(op, f"tl.full([1, 1], {self._length(op.attrs['axis'])}, tl.int64)")

    def _one(self, op: Op, text: str) -> None:
        name = self._fresh(op.name)
        self._add(self._lines(op), f"{name} = {text}", op.note)
        (span,) = self.layout.spans[op.name]
        self.tiles[op.name] = (Tile(span, name, 1, False),)

    def _read(self, op: Op) -> None:
        """Loads; of what moves, the next position's are under way while this one is computed."""
        dots = [h for h in self.layout.products.values() if isinstance(h, Dot)]
        users = [o for o in self.program.ops if op.name in o.args]
        held = {h.weight for h in dots}
        if op.name in held and all(
            isinstance(self.layout.products.get(u.name), Dot) for u in users
        ):
            return
        tensor: Tensor = op.attrs["tensor"]
        tiles = []
        moving = op.name in self.moving
        for span, name in self._spanned(op):
            rows = bool(set(tensor.axes) & set(self.program.rows))
            if moving:
                first = self._load(tensor, span, "first", rows)
                later = self._load(tensor, span, "ahead", rows)
                soon = self._fresh(f"{name}_next")
                self._add(self.before, f"{soon} = {first}", op.note)
                self._add(self.step, f"{name} = {soon}{self._cast(op)}", op.note)
                self._add(self.step, f"{soon} = {later}")
            else:
                text = self._load(tensor, span, "", rows) + self._cast(op)
                self._add(self.before, f"{name} = {text}", op.note)
            tiles.append(Tile(span, name, span.width, rows))
        self.tiles[op.name] = tuple(tiles)

    def _cast(self, op: Op) -> str:
        return ".to(ACC)" if op.dtype == "float" else ""

    def _spanned(self, op: Op) -> list[tuple[Span, str]]:
        spans = self.layout.spans[op.name]
        if len(spans) == 1:
            return [(spans[0], self._fresh(op.name))]
        return [(s, self._fresh(f"{op.name}_{k}")) for k, s in enumerate(spans)]

    def _state(self, op: Op) -> None:
        """The oldest slot is read; all move up at the end of the step."""
        state = self.states[op.name]
        slots: list[list[str]] = []
        tiles = []
        for slot in range(state.delay):
            init = state.inits[slot if len(state.inits) > 1 else 0]
            names = []
            for k, span in enumerate(self.layout.spans[op.name]):
                suffix = "_".join(
                    str(n)
                    for n, several in ((k, len(self.layout.spans[op.name])), (slot, state.delay))
                    if several > 1
                )
                name = self._fresh(f"{op.name}_{suffix}" if suffix else op.name)
                self._add(self.before, f"{name} = {self._begin(op, init, span)}", op.note)
                names.append(name)
                if slot == 0:
                    tiles.append(Tile(span, name, span.width, True))
            slots.append(names)
        self.tiles[op.name] = tuple(tiles)
        self.slots = getattr(self, "slots", {})
        self.slots[op.name] = slots

    def _begin(self, op: Op, init: str, span: Span) -> str:
        if self.ops[init].kind == "const":
            return self._filled(self.ops[init], op, span.width)
        if init in self.moving:
            raise Refused(f"the state '{op.name}' starts from a value that varies over the loop")
        return self._full(self._operand(op.name, init, span), span.width)

    def _filled(self, const: Op, like: Op, width: int) -> str:
        return f"tl.full([ROWS, {width}], {self._literal(const, like.dtype)}, {KINDS[like.dtype]})"

    def _full(self, tile: Tile, width: int) -> str:
        """A tile in all of its rows and columns."""
        if tile.rows and tile.width == width:
            return tile.text
        return f"tl.broadcast_to({tile.text}, [ROWS, {width}])"

    def _point(self, op: Op) -> None:
        tiles = []
        for span, name in self._spanned(op):
            operands, shape = [], [1, False]
            for arg in op.args:
                if self.ops[arg].kind == "const":
                    operands.append(self._constant(arg, op))
                    continue
                tile = self._operand(op.name, arg, span)
                operands.append(tile.text)
                shape = [max(shape[0], tile.width), shape[1] or tile.rows]
            text = op.attrs["template"].format(*operands)
            self.used.update(re.findall(r"\b[a-z0-9]+\b", op.attrs["template"]))
            self._add(self._lines(op), f"{name} = {_bare(text)}", op.note)
            tiles.append(Tile(span, name, int(shape[0]), bool(shape[1])))
        self.tiles[op.name] = tuple(tiles)

    def _constant(self, arg: str, op: Op) -> str:
        """A number beside tiles: bare where the text is read alike in every precision."""
        value = self.ops[arg].attrs["value"]
        kind = "float" if op.dtype == "float" else self.ops[arg].dtype
        text = self._literal(self.ops[arg], kind)
        exact = not isinstance(value, float) or value * 2**24 == int(value * 2**24) if (
            isinstance(value, (int, float)) and math.isfinite(value)
        ) else False
        if exact and "(" not in op.attrs["template"].lstrip("("):
            return text
        return f"tl.full([1, 1], {text}, {KINDS[kind]})"

    def _literal(self, op: Op, kind: str) -> str:
        value = op.attrs["value"]
        if kind == "float":
            value = float(value)
        if isinstance(value, float) and not math.isfinite(value):
            return f'float("{value}")'
        return repr(value)

    def _operand(self, out: str, arg: str, span: Span) -> Tile:
        """The tile of an operand that lines up with a span of the result."""
        for o, a, found in self.layout.links:
            if o == out and a == arg:
                place = source(found, span.start)
                if place is not None:
                    tile = self._at(arg, place)
                    return replace(tile, span=span)
        raise Refused(f"'{out}' has no tile of '{arg}' at {span.start}")

    def _at(self, name: str, start: int) -> Tile:
        return next(t for t in self.tiles[name] if t.span.start == start)

    def _view(self, op: Op) -> None:
        """Slices and joins: the same tiles under another name."""
        tiles = []
        for span in self.layout.spans[op.name]:
            tiles.append(self._viewed(op, span))
        self.tiles[op.name] = tuple(tiles)

    def _viewed(self, op: Op, span: Span) -> Tile:
        for k, arg in enumerate(op.args):
            places = op.attrs["maps"][k]
            if places[span.start] < 0:
                continue
            const = self.ops[arg]
            if const.kind == "const":
                text = f"tl.full([1, 1], {self._literal(const, op.dtype)}, {KINDS[op.dtype]})"
                return Tile(span, text, 1, False)
            tile = self._at(arg, int(places[span.start]))
            return replace(tile, span=span)
        return Tile(span, f"tl.full([1, 1], 0, {KINDS[op.dtype]})", 1, False)

    # products and reductions

    def _product(self, op: Op) -> None:
        how = self.layout.products[op.name]
        if isinstance(how, Dot):
            self._dot(op, how)
        else:
            self._multiply(op, how)

    def _dot(self, op: Op, how: Dot) -> None:
        tiles = []
        for span, name in self._spanned(op):
            terms = []
            for tile in self.tiles[how.value]:
                base = self._base(how, tile.span, span)
                if base is not None:
                    terms.append((tile, base))
            lines = self._lines(op)
            total = f"tl.zeros([ROWS, {span.width}], ACC)"
            for tile, base in terms:
                self._add(lines, f"{name} = {self._term(how, tile, span, base, total)}", op.note)
                total = name
            tiles.append(Tile(span, name, span.width, True))
        self.tiles[op.name] = tuple(tiles)

    def _base(self, how: Dot, k: Span, n: Span) -> int | None:
        """The weight's flat offset at the start of both spans; None where they do not meet."""
        value, weight, out = how.letters
        place: dict[str, int] = {}
        for letters, start in ((value, k.start), (out, n.start)):
            for letter in reversed(letters):
                at = start % how.sizes[letter]
                start //= how.sizes[letter]
                if place.setdefault(letter, at) != at:
                    return None
        strides = how.strides()
        return sum(strides[x] * place[x] for x in weight)

    def _term(self, how: Dot, tile: Tile, n: Span, base: int, total: str) -> str:
        strides = how.strides()
        steps = strides[how.letters[0][-1]], strides[how.letters[2][-1]]
        k = tile.span
        weight = self._weight(how.weight, base, steps, k, n)
        text = tile.text
        if k.valid < k.width and k.width > 1:
            text = f"tl.where({self._cols(k.width)} < {k.valid}, {text}, 0.0)"
        start = "" if total.startswith("tl.zeros") else f"{total} + "
        if k.width == 1:
            return f"{start}{self._full(tile, 1)} * {weight}.to(ACC)"
        if n.width == 1:
            return f"{start}tl.sum({text} * {weight}.to(ACC), 1, keep_dims=True)"
        text = self._full(replace(tile, text=text), k.width)
        self.used.add("product")
        self.staged = max(self.staged, k.width)
        return f"product({text}, {weight}, {total}, PRECISION, UPCAST)"

    def _weight(self, name: str, base: int, steps: tuple[int, int], k: Span, n: Span) -> str:
        """A tile of a weight, loaded before the loop: [K, N], or a row where N or K is one."""
        key = (name, base, k.width if n.width > 1 else -k.width, n.width)
        if key in self.weights:
            return self.weights[key]
        tensor: Tensor = self.ops[name].attrs["tensor"]
        pointer = self.names[f"*{tensor.name}"]
        first = f"{base} + " if base else ""
        masks = []
        if n.width == 1:
            at, shape = f"{first}{self._cols(k.width)} * {steps[0]}", (1, k.width)
            if k.valid < k.width:
                masks.append(f"{self._cols(k.width)} < {k.valid}")
        elif k.width == 1:
            at, shape = f"{first}{self._cols(n.width)} * {steps[1]}", (1, n.width)
            if n.valid < n.width:
                masks.append(f"{self._cols(n.width)} < {n.valid}")
        else:
            at = f"{first}{self._down(k.width)} * {steps[0]} + {self._cols(n.width)} * {steps[1]}"
            shape = (k.width, n.width)
            if k.valid < k.width:
                masks.append(f"({self._down(k.width)} < {k.valid})")
            if n.valid < n.width:
                masks.append(f"({self._cols(n.width)} < {n.valid})")
        guard = f", mask={' & '.join(masks)}, other=0.0" if masks else ""
        text = self._fresh(f"{name}_{len([w for w in self.weights if w[0] == name])}")
        self._add(self.before, f"{text} = tl.load({pointer} + ({_tidy(at)}){guard})", self.ops[name].note)
        self.weights[key] = text
        self.loaded[tensor.name] = self.loaded.get(tensor.name, 0) + shape[0] * shape[1]
        return text

    def _multiply(self, op: Op, how: Rows) -> None:
        """A product number by number: sums of pointwise products of tiles."""
        tiles = []
        for span, name in self._spanned(op):
            parts: list[tuple[str, bool, int]] = []
            for term in how.terms:
                if how.moves[0]:
                    if term.out <= span.start < term.out + how.size:
                        parts.append(self._pair(op, how, term, span.start - term.out, span))
                elif term.out == span.start:
                    parts += self._summed(op, how, term)
            lines = self._lines(op)
            self._add(lines, f"{name} = {' + '.join(p[0] for p in parts)}", op.note)
            rows = any(p[1] for p in parts)
            tiles.append(Tile(span, name, max(p[2] for p in parts), rows))
        self.tiles[op.name] = tuple(tiles)

    def _pair(
        self, op: Op, how: Rows, term: Term, shift: int, span: Span
    ) -> tuple[str, bool, int]:
        a = self._at(op.args[0], term.a + shift * how.moves[1])
        b = self._at(op.args[1], term.b + shift * how.moves[2])
        return f"{a.text} * {b.text}", a.rows or b.rows, max(a.width, b.width)

    def _summed(self, op: Op, how: Rows, term: Term) -> list[tuple[str, bool, int]]:
        """The parts of one number: a sum over each pair of tiles."""
        first = 1 if how.moves[1] else 2
        found = []
        for tile in self.tiles[op.args[first - 1]]:
            begin = (term.a, term.b)[first - 1]
            shift = tile.span.start - begin
            if not 0 <= shift < how.size:
                continue
            text, rows, width = self._pair(op, how, term, shift, tile.span)
            found.append((self._total(f"({text})", tile.span, width, "sum"), rows, 1))
        return found

    def _total(self, text: str, span: Span, width: int, kind: str) -> str:
        """The sum or the largest of a tile's columns, those beyond the value left out."""
        if span.width == 1:
            return text
        if width == 1:
            return f"({text} * {span.valid})" if kind == "sum" else text
        if span.valid < span.width:
            none = "0.0" if kind == "sum" else 'float("-inf")'
            text = f"tl.where({self._cols(span.width)} < {span.valid}, {text}, {none})"
        return f"tl.{kind}({_bare(text)}, 1, keep_dims=True)"

    def _sum(self, op: Op) -> None:
        self._reduce(op, "{0} + {1}")

    def _max(self, op: Op) -> None:
        self._reduce(op, "tl.maximum({0}, {1}, propagate_nan=tl.PropagateNan.ALL)")

    def _reduce(self, op: Op, join: str) -> None:
        x, dims = self.ops[op.args[0]], set(op.attrs["dims"])
        last = len(x.shape) - 1 in dims
        kept = [d for d in range(len(x.shape)) if d not in dims]
        shape = [x.shape[d] for d in kept]
        tiles = []
        for span, name in self._spanned(op):
            text, rows, width = "", False, 1
            for tile in self.tiles[x.name]:
                if _place(tile.span.start, x.shape, kept, shape) != span.start:
                    continue
                part = self._total(tile.text, tile.span, tile.width, op.kind) if last else tile.text
                rows, width = rows or tile.rows, width if last else max(width, tile.width)
                text = join.format(text, part) if text else part
            self._add(self._lines(op), f"{name} = {text}", op.note)
            tiles.append(Tile(span, name, width, rows))
        self.tiles[op.name] = tuple(tiles)

    # memory

    def _length(self, axis: str) -> str:
        return "n_" + re.sub(r"\W+", "_", axis)

    def _strides(self, tensor: Tensor) -> dict[str, tuple[list[str], int]]:
        """For each axis, the lengths of those that lie inside it, and the numbers of the shape."""
        width = math.prod(tensor.shape)
        return {
            a: ([self._length(b) for b in tensor.axes[k + 1 :]], width)
            for k, a in enumerate(tensor.axes)
        }

    def _offset(self, tensor: Tensor, when: str) -> str:
        """Where a tensor's rows of one position begin."""
        parts = []
        strides = self._strides(tensor)
        mine = tuple(a for a in tensor.axes if a != self.program.axis)
        if self.program.axis in tensor.axes:
            inner, width = strides[self.program.axis]
            stride = self._fresh_once(
                f"{tensor.name}_step", " * ".join([*(f"{n}.to(tl.int64)" for n in inner), str(width)])
            )
            parts.append(f"{when} * {stride}")
        unknown = set(mine) - set(self.program.rows)
        if unknown:
            raise Refused(f"'{tensor.name}' varies over {', '.join(sorted(unknown))} inside the loop")
        if mine == self.program.rows and (not mine or tensor.axes[-len(mine) :] == mine):
            width = math.prod(tensor.shape)
            parts += [f"rows * {width}" if width != 1 else "rows"] if mine else []
        else:
            parts += [self._coordinate(a, strides[a]) for a in mine]
        return " + ".join(parts)

    def _coordinate(self, axis: str, stride: tuple[list[str], int]) -> str:
        """A row's position along one of its axes, times the stride of a tensor there."""
        k = self.program.rows.index(axis)
        inside = [self._length(a) for a in self.program.rows[k + 1 :]]
        place = f"(rows // ({' * '.join(inside)}))" if inside else "rows"
        place = f"({place} % {self._length(axis)})" if k else place
        inner, width = stride
        return " * ".join([place, *(f"{n}.to(tl.int64)" for n in inner), str(width)])

    def _fresh_once(self, wanted: str, text: str) -> str:
        if wanted not in self.names:
            self.names[wanted] = self._fresh(wanted)
            whole = text if ".to(" in text else f"tl.full([], {text}, tl.int64)"
            self.before.append(f"{self.names[wanted]} = {whole}")
        return self.names[wanted]

    def _address(self, tensor: Tensor, span: Span, when: str) -> str:
        offset = self._offset(tensor, when)
        column = f"{span.start}" if span.width == 1 else self._cols(span.width)
        if span.width > 1 and span.start:
            column = f"{span.start} + {column}"
        at = " + ".join(x for x in (offset, column if column != "0" else "") if x)
        at = at or "0"
        if span.width == 1 and "rows" not in at:
            at = f"tl.full([1, 1], 0, tl.int32) + {at}"
        return f"{self.names[f'*{tensor.name}']} + ({at})"

    def _masks(self, span: Span, rows: bool) -> list[str]:
        masks = ["live"] if rows else []
        if span.valid < span.width:
            text = f"{self._cols(span.width)} < {span.valid}"
            masks.append(f"({text})" if masks else text)
        return masks

    def _load(self, tensor: Tensor, span: Span, when: str, rows: bool) -> str:
        masks = self._masks(span, rows)
        other = {"float": "0.0", "int": "0", "bool": "0"}[tensor.kind]
        guard = f", mask={' & '.join(masks)}, other={other}" if masks else ""
        return f"tl.load({self._address(tensor, span, when)}{guard})"

    def _store(self, name: str, tensor: Tensor) -> None:
        op = self.ops[name]
        mine = set(tensor.axes) - {self.program.axis}
        if mine and mine != set(self.program.rows):
            raise Refused(f"'{name}' varies over some of the rows' axes only")
        pointer = self.names[f"*{tensor.name}"]
        for tile in self.tiles[name]:
            masks = self._masks(tile.span, bool(mine))
            if not mine:
                masks.append("(tl.program_id(0) == 0)")
            shape = "ROWS" if mine else "1"
            text = tile.text
            if tile.width < tile.span.width or (mine and not tile.rows):
                text = f"tl.broadcast_to({text}, [{shape}, {tile.span.width}])"
            kept = f"{text}.to({pointer}.dtype.element_ty)"
            guard = f", mask={' & '.join(masks)}" if masks else ""
            at = self._address(tensor, tile.span, "t")
            self._add(self.step, f"tl.store({at}, {kept}{guard})", f"keep {op.note or name}")

    def _advance(self) -> None:
        """Each state takes its next value, all at once."""
        held = {n for slots in getattr(self, "slots", {}).values() for names in slots for n in names}
        for state in self.program.states:
            op, slots = self.ops[state.name], self.slots[state.name]
            for k, span in enumerate(self.layout.spans[state.name]):
                text = self._following(state.next, op, span)
                if text in held:
                    name = self._fresh(f"{op.name}_then")
                    self.step.append(f"{name} = {text}")
                    text = name
                names = [names[k] for names in slots]
                for slot, name in enumerate(names):
                    after = names[slot + 1] if slot + 1 < len(names) else text
                    self.ends.append(f"{name} = {after}")

    def _following(self, name: str, op: Op, span: Span) -> str:
        if self.ops[name].kind == "const":
            return self._filled(self.ops[name], op, span.width)
        return self._full(self._operand(op.name, name, span), span.width)

    def _assemble(self) -> str:
        program = self.program
        pointers = [self.names[f"*{t.name}"] for t in program.tensors]
        pointers += [self.names[f"*{t.name}"] for _, t in program.stores]
        sizes = [self._length(a) for a in program.sizes]
        constants = [f"{n}: tl.constexpr" for n in ("ROWS", "ACC", "PRECISION", "UPCAST")]
        over = self._length(program.axis)
        called = sorted(self.used & set(PRELUDE))
        lines = [f'"""{program.name}: a loop over {program.axis}, one program a tile of rows."""', ""]
        lines += ["import triton", "import triton.language as tl", ""]
        lines += [f"from graphnn.kernels.prelude import {', '.join(called)}", ""] if called else []
        lines += ["", f"@triton.jit(do_not_specialize={sizes!r})".replace("'", '"')]
        lines += [f"def {program.name}("]
        lines += [f"{INDENT}{text}," for text in (*pointers, *sizes, *constants)]
        lines += ["):"]
        rows = " * ".join(self._length(a) for a in program.rows) or "1"
        body = [
            f"n_rows = {rows}",
            "rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]",
            "live = rows < n_rows",
        ]
        body += [f"cols_{w} = tl.arange(0, {w})[None, :]" for w in sorted(self.widths)]
        body += [f"down_{w} = tl.arange(0, {w})[:, None]" for w in sorted(self.depths)]
        turn = f"{over} - 1 - " if program.reverse else ""
        body += [f"first = {turn or ''}0" if turn else "first = 0"]
        body += self.before
        body += [f"for step in tl.range(0, {over}, num_stages=1):"]
        inner = [f"t = {turn}step"]
        inner += [f"ahead = {'tl.maximum(t - 1, 0)' if turn else f'tl.minimum(t + 1, {over} - 1)'}"]
        inner += [*self.step, *self.ends]
        body += [INDENT + line for line in inner]
        return "\n".join([*lines, *[INDENT + line for line in body]]) + "\n"


def _place(start: int, shape: tuple[int, ...], kept: list[int], sizes: list[int]) -> int:
    """The flat place, among the kept dimensions, of the number at `start`."""
    index = []
    for n in reversed(shape):
        index.append(start % n)
        start //= n
    index.reverse()
    flat = 0
    for d, n in zip(kept, sizes, strict=True):
        flat = flat * n + index[d]
    return flat


def _bare(text: str) -> str:
    """Text without a pair of brackets around all of it."""
    if not (text.startswith("(") and text.endswith(")")):
        return text
    depth = 0
    for k, c in enumerate(text):
        depth += (c == "(") - (c == ")")
        if depth == 0:
            return text[1:-1] if k == len(text) - 1 else text
    return text


def _tidy(text: str) -> str:
    return text.replace(" * 1 +", " +").removesuffix(" * 1")


def emit(program: Program) -> Source:
    """The resident kernel of a program. Raises Refused where there can be none."""
    return Emitter(program).write()
