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

from .early import deviation, last, terms, waits
from .exchange import Exchange
from .periods import broadcasts, dot_of, loose, periods, plainer, widest
from .products import Dot
from .program import Op, Part, Program, Refused, State, Tensor

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


def share(program: Program, units: int, known: dict[str, int] | None = None) -> Shared:
    """The program of one block that holds `units` of the largest period. Raises Refused.

    `units` is a power of two, 4 or more; `known` are the periods, where they were found before.
    """
    known = known or periods(program)
    blocks = -(-widest(program, known) // units)
    return _Sharing(program, blocks, known).run()


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
        self.exchanges: dict[tuple[str, str], Exchange] = {}
        self.waiting = waits(self.ops, self.period)

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
        even = units * self.blocks == period
        return Part(tensor.name, tensor.shape, tensor.axes, tensor.kind, period, units, place, even)

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
                shape = self._shape(op, wanted)
                like = Op(made, op.kind, op.args, shape, op.dtype, op.attrs, op.note)
                found = getattr(self, f"_as_{op.kind}")(like, op, wanted)
                own = {"units": self.units[wanted]} if wanted else {}
                self.made[made] = replace(found, attrs={**found.attrs, **own}) if own else found
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
        key = op.name, "wide" if wide else "all"
        if key not in self.exchanges:
            value = self.make(op.name, self._home(op.name))
            name = "_".join(key)
            part = self._part(Tensor(name, op.shape, self.program.rows), self._home(op.name))
            size, state = math.prod(op.shape), op.kind == "state"
            self.exchanges[key] = Exchange(name, value, size, wide, state, part, op.note)
        return self.exchanges[key]

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
        how = dot_of(op, self.ops)
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
        if len(x.shape) - 1 not in op.attrs["dims"] or not self._home(x.name):
            return replace(made, args=(self.make(x.name, wanted),))
        if op.kind == "sum" and not op.shape and self.waiting[x.name]:
            return self._spread(made, op, x) or self._early(made, op, x) or self._joined(made, op)
        return self._joined(made, op)

    _as_max = _as_sum

    def _joined(self, made: Op, op: Op) -> Op:
        """A sum over numbers that are shared out: of each block's part of it."""
        x = self.ops[op.args[0]]
        exchange = self._parts(x.name, self._home(x.name), op)
        attrs = {"exchange": exchange.name, "blocks": self.blocks, "join": op.kind}
        return replace(made, kind="merged", args=(exchange.value,), attrs=attrs)

    def _parts(self, x: str, home: int, op: Op) -> Exchange:
        """The exchange of each block's part of a sum over a value."""
        key = x, f"{op.kind}s"
        if key not in self.exchanges:
            name = self._within(x, home, self.make(x, home), 0.0 if op.kind == "sum" else -math.inf)
            part = self._put(replace(op, name=f"{x}_{op.kind}_here", args=(name,)))
            size = math.prod(op.shape) * self.blocks
            self.exchanges[key] = Exchange("_".join(key), part, size, True, False, None, op.note)
        return self.exchanges[key]

    def _put(self, op: Op) -> str:
        """One more operation, under a name that is free."""
        name = self._fresh(op.name)
        self.made[name] = replace(op, name=name)
        return name

    def _early(self, made: Op, op: Op, x: Op) -> Op | None:
        """A sum that is one of values known before, times numbers that are not: see `early`."""
        found = terms(self.ops, x.name, self.waiting, self.waiting[x.name])
        if found is None:
            return None
        args: list[str] = []
        texts = []
        for term in found:
            names = [*(self._number(f, op) for f in term.factors), self._sum_of(term.base, x, op)]
            texts.append(" * ".join(f"{{{len(args) + k}}}" for k in range(len(names))))
            texts[-1] = f"{'-' if term.sign < 0 else ''}{texts[-1]}"
            args += names
        template = f"({' + '.join(texts)})"
        return replace(made, kind="point", args=tuple(args), attrs={"template": template})

    def _sum_of(self, base: str, x: Op, op: Op) -> str:
        """The sum over a value that is shared out as `x` is."""
        exchange = self._parts(base, self._home(x.name), op)
        attrs = {"exchange": exchange.name, "blocks": self.blocks, "join": "sum"}
        made = replace(op, name=f"{base}_sum", kind="merged", args=(exchange.value,), attrs=attrs)
        return self._put(made)

    def _number(self, name: str, op: Op) -> str:
        """A number of a row in the shape of a sum over all of a value."""
        value = self.ops[name]
        made = self.make(name, WHOLE)
        if value.kind == "const" or not value.shape:
            return made
        maps = {"maps": [np.arange(1)]}
        return self._put(replace(op, name=f"{name}_number", kind="view", args=(made,), attrs=maps))

    def _spread(self, made: Op, op: Op, x: Op) -> Op | None:
        """A sum of (x - m)^2: of each block about its own mean, and of these about m.

        Chan, Golub and LeVeque 1979, for many parts at once; as exact as two sums in turn.
        """
        found = deviation(self.ops, x.name)
        home = self._home(x.name)
        if (
            found is None
            or self._home(found[0]) != home
            or self.waiting[found[0]] >= self.waiting[x.name]
        ):
            return None
        whole = self.ops[found[0]]
        sums = self._parts(whole.name, home, op)
        mine = self.make(whole.name, home)
        part = self._part(Tensor(mine, whole.shape, ()), home)
        owned = {"part": part, "groups": last(whole) // home}
        squares = self._squares(mine, whole, sums, owned, op)
        exchange = Exchange(
            f"{made.name}_squares", squares, self.blocks, True, False, None, op.note
        )
        self.exchanges[made.name, "squares"] = exchange
        attrs = {"exchange": exchange.name, "sums": sums.name, "blocks": self.blocks, **owned}
        args = (squares, self._number(found[1], op))
        return replace(made, kind="merged", args=args, attrs={**attrs, "join": "spread"})

    def _squares(self, mine: str, whole: Op, sums: Exchange, owned: dict[str, Any], op: Op) -> str:
        """The sum of squares of a block's own numbers about their mean."""
        count = self._put(Op(f"{mine}_count", "owned", (), (), "float", owned, op.note))
        mean = {"template": "({0} / tl.maximum({1}, 1.0))"}
        centre = self._put(
            Op(f"{mine}_mean_here", "point", (sums.value, count), (), "float", mean, op.note)
        )
        shape, square = self.made[mine].shape, {"template": "(({0} - {1}) * ({0} - {1}))"}
        made = self._put(
            Op(f"{mine}_square_here", "point", (mine, centre), shape, "float", square, op.note)
        )
        within = self._within(whole.name, self._home(whole.name), made, 0.0)
        return self._put(replace(op, name=f"{mine}_squares_here", args=(within,)))

    def _within(self, x: str, home: int, name: str, beyond: float) -> str:
        """A value whose numbers beyond the period, in the last blocks, are those of no effect."""
        value = self.ops[x]
        place = self._part(Tensor(name, value.shape, ()), home)
        if place.even:
            return name
        shape = self.made[name].shape
        inside = self._put(
            Op(f"{name}_inside", "inside", (), shape, "bool", {"part": place}, value.note)
        )
        template = f"tl.where({{1}}, {{0}}, float('{beyond}'))"
        return self._put(
            replace(
                self.made[name],
                name=f"{name}_within",
                kind="point",
                args=(name, inside),
                attrs={"template": template},
            )
        )
