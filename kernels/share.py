"""A loop's program as one thread block of many runs it: its own numbers of each value.

A value is shared out where its numbers keep their places from operation to operation: of every
`period` of them (the units of a cell, in each of its gates) a block has `units`. Products take all
of their operand, sums over units all parts of a sum: both come by an exchange. What cannot be
shared out every block computes for itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .exchange import Exchange
from .layout import runs
from .products import Dot, form, is_weight, letters
from .program import Op, Part, Program, Refused, State, Tensor

SOURCES = frozenset({"read", "draw", "const", "index", "size"})
# the fewest units of a block: four gates of as many make an operand of a matrix product
LEAST = 4
# a value in every block, not shared out
WHOLE = 0


@dataclass(frozen=True)
class Shared:
    """A program for each of `blocks`; `units` has how many of every period a block holds."""

    program: Program
    blocks: int
    units: dict[int, int]
    exchanges: tuple[Exchange, ...]


def periods(program: Program) -> dict[str, int]:
    """For each value that depends on a state or a product, of how many numbers it may be shared.

    1: its numbers change places, or are needed together.
    """
    return _Periods({op.name: op for op in plainer(program)}, program.states).found()


def widest(program: Program, known: dict[str, int] | None = None) -> int:
    """The largest period: what is shared out by so many units a block. Raises Refused if none."""
    ops = {op.name: op for op in program.ops}
    if not any(isinstance(_form(op, ops), Dot) for op in program.ops):
        raise Refused("there is no product by a weight to share out")
    found = max((known or periods(program)).values(), default=1)
    if found < 2:
        raise Refused("no value of a step can be shared out: its numbers change places")
    return found


def share(program: Program, units: int, known: dict[str, int] | None = None) -> Shared:
    """The program of one block that holds `units` of the largest period. Raises Refused.

    `units` is a power of two, 4 or more; `known` are the periods, where they were found before.
    """
    known = known or periods(program)
    blocks = -(-widest(program, known) // units)
    return _Sharing(program, blocks, known).run()


def plainer(program: Program) -> list[Op]:
    """Operations, those products that are a pointwise one, or the sum of one, written so."""
    ops = {op.name: op for op in program.ops}
    found: list[Op] = []
    for op in program.ops:
        if op.kind == "product" and not isinstance(_form(op, ops), Dot):
            found += _plain(op, ops)
        else:
            found.append(op)
    return found


def _form(op: Op, ops: dict[str, Op]) -> Any:
    """How a product is computed; None for what is no product by a weight."""
    if op.kind != "product" or not any(is_weight(ops[a]) for a in op.args):
        return None
    return form(op, ops)


def _plain(op: Op, ops: dict[str, Op]) -> list[Op]:
    a, b, out = letters(op)
    full = max((a, b), key=len)
    if not (full.endswith(a) and full.endswith(b)) or set(out) - set(full):
        return [op]
    left = "".join(x for x in full if x in out)
    if left != out:
        return [op]
    pointed = replace(op, kind="point", attrs={"template": "({0} * {1})"})
    if out == full:
        return [pointed]
    shape = max((ops[x].shape for x in op.args), key=len)
    made = replace(pointed, name=f"{op.name}_terms", shape=shape)
    dims = tuple(d for d, x in enumerate(full) if x not in out)
    return [made, replace(op, kind="sum", args=(made.name,), attrs={"dims": dims})]


def last(op: Op) -> int:
    """The length of a value's last dimension."""
    return op.shape[-1] if op.shape else 1


def broadcasts(op: Op, arg: Op) -> bool:
    """Whether an operand is the same along the last dimension of the result."""
    return last(arg) == 1 and last(op) > 1


class _Periods:
    """Values joined to those whose numbers lie in the same places, and what they must divide."""

    def __init__(self, ops: dict[str, Op], states: tuple[State, ...]):
        self.ops, self.states = ops, states
        self.parent = {name: name for name in ops}
        self.loose = loose(ops)
        self.divides = {name: last(op) for name, op in ops.items()}

    def found(self) -> dict[str, int]:
        for state in self.states:
            self._join(state.name, state.next)
        for op in self.ops.values():
            if op.name not in self.loose:
                getattr(self, f"_{op.kind}", self._alone)(op)
        return {x: self.divides[self._root(x)] for x in self.ops if x not in self.loose}

    def _root(self, name: str) -> str:
        while self.parent[name] != name:
            name = self.parent[name]
        return name

    def _must(self, name: str, number: int) -> None:
        root = self._root(name)
        self.divides[root] = math.gcd(self.divides[root], number)

    def _join(self, a: str, b: str) -> None:
        """Two values lie alike; what can be read in any form takes that of the other."""
        if b in self.loose:
            self._must(a, last(self.ops[b]))
            return
        first, second = self._root(a), self._root(b)
        if first != second:
            self.parent[second] = first
            self._must(first, self.divides[second])

    def _state(self, op: Op) -> None:
        """Joined to its next value."""

    def _point(self, op: Op) -> None:
        for arg in op.args:
            if not broadcasts(op, self.ops[arg]) and self.ops[arg].kind != "const":
                self._join(op.name, arg)

    def _view(self, op: Op) -> None:
        for arg, places in zip(op.args, op.attrs["maps"]):
            for run in runs(places):
                moves = run.step == 1 and self.ops[arg].kind != "const"
                self._must(op.name, run.out)
                self._must(op.name, run.size)
                if moves:
                    self._join(op.name, arg)
                    self._must(op.name, run.arg)

    def _product(self, op: Op) -> None:
        how = _form(op, self.ops)
        if not isinstance(how, Dot) or len(op.shape) != 1:
            self._alone(op)

    def _sum(self, op: Op) -> None:
        x = self.ops[op.args[0]]
        if len(x.shape) - 1 in op.attrs["dims"]:
            self._alone(op)
        else:
            self._join(op.name, x.name)

    _max = _sum

    def _alone(self, op: Op) -> None:
        self._must(op.name, 1)


def loose(ops: dict[str, Op]) -> set[str]:
    """Values made of what is read alone: each block can make those numbers that it wants."""
    found: set[str] = set()
    for op in ops.values():
        mine = op.kind in ("point", "view") and all(a in found for a in op.args)
        if op.kind in SOURCES or mine:
            found.add(op.name)
    return found


def _units(period: int, blocks: int) -> int:
    """A block's share of a period: a power of two, as tiles are; the last blocks have less."""
    return max(LEAST, 1 << (-(-period // blocks) - 1).bit_length())


class _Sharing:
    """Writes the operations of a block, each as a whole or as the block's own part of it."""

    def __init__(self, program: Program, blocks: int, known: dict[str, int]):
        self.program, self.blocks = program, blocks
        self.ops = {op.name: op for op in plainer(program)}
        self.loose = loose(self.ops)
        self.period = {name: p if p >= max(blocks, 2) else WHOLE for name, p in known.items()}
        self.units = {p: _units(p, blocks) for p in sorted(set(self.period.values())) if p}
        self.made: dict[str, Op] = {}
        self.known: dict[tuple[str, int], str] = {}
        self.exchanges: dict[tuple[str, bool], Exchange] = {}

    def run(self) -> Shared:
        for name in self.ops:  # in their order, so that none is made from deep within another
            if name not in self.loose:
                self.make(name, self._home(name))
        states = [self._state(s) for s in self.program.states]
        stores = tuple(self._store(name, tensor) for name, tensor in self.program.stores)
        program = replace(
            self.program,
            ops=tuple(self._ordered()),
            states=tuple(states),
            stores=stores,
        )
        return Shared(program, self.blocks, self.units, tuple(self.exchanges.values()))

    def _ordered(self) -> Iterator[Op]:
        """The operations, each after what it is made of."""
        done: set[str] = set()

        def visit(name: str) -> Iterator[Op]:
            if name in done:
                return
            done.add(name)
            for arg in self.made[name].args:
                yield from visit(arg)
            yield self.made[name]

        for name in self.made:
            yield from visit(name)

    def _home(self, name: str) -> int:
        return self.period.get(name, WHOLE)

    def _state(self, state: State) -> State:
        home = self._home(state.name)
        op = self.ops[state.name]
        inits = tuple(self._like(op, i, home) for i in state.inits)
        name, after = self.make(state.name, home), self._like(op, state.next, home)
        return State(name, state.delay, inits, after)

    def _store(self, name: str, tensor: Tensor) -> tuple[str, Tensor]:
        home = self._home(name)
        if name in self.loose:
            home = max((p for p in self.units if last(self.ops[name]) % p == 0), default=WHOLE)
        return self.make(name, home), self._part(tensor, home)

    def _part(self, tensor: Tensor, period: int) -> Part:
        place = f"unit_{period}" if period else ""
        units = self.units.get(period, 0)
        return Part(tensor.name, tensor.shape, tensor.axes, tensor.kind, period, units, place)

    def _like(self, op: Op, arg: str, wanted: int) -> str:
        """An operand in the form of the result, or whole where it is the same along it."""
        alike = wanted and not broadcasts(op, self.ops[arg])
        return self.make(arg, wanted if alike else WHOLE)

    def make(self, name: str, wanted: int) -> str:
        """The value in a form: a period, or whole."""
        op = self.ops[name]
        if op.kind == "const":
            wanted = WHOLE
        if (name, wanted) not in self.known:
            if name not in self.loose and self._home(name) != wanted:
                made = self._moved(op, wanted)
            else:
                self.known[name, wanted] = made = self._fresh(name)
                self.made[made] = getattr(self, f"_as_{op.kind}")(
                    replace(op, name=made, shape=self._shape(op, wanted)), op, wanted
                )
            self.known[name, wanted] = made
        return self.known[name, wanted]

    def _fresh(self, wanted: str) -> str:
        name, count = wanted, 2
        while name in self.made:
            name, count = f"{wanted}_{count}", count + 1
        return name

    def _shape(self, op: Op, wanted: int) -> tuple[int, ...]:
        if not wanted:
            return op.shape
        if last(op) % wanted:
            raise Refused(f"'{op.note or op.name}' is not shared out as what it meets is")
        return (*op.shape[:-1], last(op) // wanted * self.units[wanted])

    def _moved(self, op: Op, wanted: int) -> str:
        """A value in another form than the one it is computed in."""
        if wanted or op.dtype != "float":
            raise Refused(f"'{op.note or op.name}' would have to change hands within a step")
        exchange = self._exchange(op, wide=True)
        made = self._fresh(f"{op.name}_all")
        attrs = {"exchange": exchange.name}
        self.made[made] = replace(op, name=made, kind="joined", args=(exchange.value,), attrs=attrs)
        return made

    def _exchange(self, op: Op, wide: bool) -> Exchange:
        if (op.name, wide) not in self.exchanges:
            value = self.make(op.name, self._home(op.name))
            name = f"{op.name}_{'wide' if wide else 'all'}"
            part = self._part(Tensor(name, op.shape, self.program.rows), self._home(op.name))
            size, state = math.prod(op.shape), op.kind == "state"
            self.exchanges[op.name, wide] = Exchange(name, value, size, wide, state, part, op.note)
        return self.exchanges[op.name, wide]

    # each kind of operation, `made` the block's and `op` the whole one

    def _as_read(self, made: Op, op: Op, wanted: int) -> Op:
        args = tuple(self._like(op, a, wanted) for a in op.args)
        tensor = op.attrs["tensor"]
        attrs = {**op.attrs, "tensor": self._part(tensor, wanted) if wanted else tensor}
        return replace(made, args=args, attrs=attrs)

    def _as_draw(self, made: Op, op: Op, wanted: int) -> Op:
        if not wanted:
            return made
        return replace(made, attrs={**op.attrs, "tensor": self._part(op.attrs["tensor"], wanted)})

    def _as_const(self, made: Op, op: Op, wanted: int) -> Op:
        return made

    _as_index = _as_size = _as_state = _as_const

    def _as_point(self, made: Op, op: Op, wanted: int) -> Op:
        return replace(made, args=tuple(self._like(op, a, wanted) for a in op.args))

    def _as_view(self, made: Op, op: Op, wanted: int) -> Op:
        if not wanted:
            return replace(made, args=tuple(self.make(a, WHOLE) for a in op.args))
        found: dict[str, np.ndarray] = {}
        for arg, places in zip(op.args, op.attrs["maps"]):
            for part in range(len(places) // wanted):
                self._view_part(found, arg, places, part, wanted)
        return replace(made, args=tuple(found), attrs={"maps": list(found.values())})

    def _view_part(
        self, found: dict[str, np.ndarray], arg: str, places: np.ndarray, part: int, wanted: int
    ) -> None:
        """The places of one part of a view, among the block's own numbers of its operand."""
        units, mine = self.units[wanted], places[part * wanted : (part + 1) * wanted]
        if (mine < 0).all():
            return
        first = int(mine[0])
        if np.array_equal(mine, first + np.arange(wanted)) and first % wanted == 0:
            form, new = wanted, first // wanted * units + np.arange(units)
        elif (mine == first).all():
            form, new = WHOLE, np.full(units, first)
        else:
            raise Refused(f"'{self.ops[arg].note or arg}' is taken apart within a unit")
        name = self.make(arg, form)
        size = len(places) // wanted * units
        line = found.setdefault(name, np.full(size, -1))
        line[part * units : (part + 1) * units] = new

    def _as_product(self, made: Op, op: Op, wanted: int) -> Op:
        how = _form(op, self.ops)
        if not isinstance(how, Dot):
            return replace(made, args=tuple(self.make(a, WHOLE) for a in op.args))
        if tuple(map(len, how.letters)) != (1, 2, 1):
            raise Refused(f"'{op.note or op.name}', a product {op.attrs['sub']}, is not shared out")
        value, tensor = self.ops[how.value], self.ops[how.weight].attrs["tensor"]
        attrs: dict[str, Any] = {
            "weight": self._part(tensor, wanted),
            "steps": how.steps(),
            "inner": value.shape[0],
            "outer": op.shape[0],
            "period": wanted,
        }
        args: tuple[str, ...]
        if value.kind == "read" and not value.args:
            args, attrs["source"] = (), value.attrs["tensor"]
        elif how.value in self.loose or not self._home(how.value):
            args = (self.make(how.value, WHOLE),)
        else:
            exchange = self._exchange(value, wide=False)
            args, attrs["exchange"] = (exchange.value,), exchange.name
        return replace(made, kind="across", args=args, attrs=attrs)

    def _as_sum(self, made: Op, op: Op, wanted: int) -> Op:
        x = self.ops[op.args[0]]
        if len(x.shape) - 1 in op.attrs["dims"] and self._home(x.name):
            return self._partial(made, op, x)
        return replace(made, args=(self.make(x.name, wanted),))

    _as_max = _as_sum

    def _partial(self, made: Op, op: Op, x: Op) -> Op:
        """A sum over numbers that are shared out: each block's part of it is exchanged."""
        home = self._home(x.name)
        name = self.make(x.name, home)
        if home % self.units[home]:
            name = self._within(x, name, home, 0.0 if op.kind == "sum" else -math.inf)
        part = self._fresh(f"{made.name}_part")
        self.made[part] = replace(op, name=part, args=(name,))
        size = math.prod(op.shape) * self.blocks
        exchange = Exchange(f"{made.name}_parts", part, size, True, False, None, op.note)
        self.exchanges[made.name, True] = exchange
        attrs = {"exchange": exchange.name, "blocks": self.blocks, "join": op.kind}
        return replace(made, kind="merged", args=(part,), attrs=attrs)

    def _within(self, x: Op, name: str, home: int, beyond: float) -> str:
        """A value whose numbers beyond the period, in the last block, are those of no effect."""
        place = self._part(Tensor(name, x.shape, ()), home)
        inside = self._fresh(f"{name}_inside")
        shape = self.made[name].shape
        self.made[inside] = Op(inside, "inside", (), shape, "bool", {"part": place}, x.note)
        kept = self._fresh(f"{name}_within")
        template = f"tl.where({{1}}, {{0}}, float('{beyond}'))"
        self.made[kept] = replace(
            self.made[name],
            name=kept,
            kind="point",
            args=(name, inside),
            attrs={"template": template},
        )
        return kept
