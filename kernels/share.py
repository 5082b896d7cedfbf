"""A loop's program as one thread block of many runs it: its own numbers of each value.

A value is shared out where its numbers keep their places from operation to operation: of every
`period` of them (the units of a cell, in each of its gates) a block has `units`. Products take all
of their operand, sums over units all parts of a sum: both come by an exchange. What takes all of
an axis a block computes for one row; what cannot be shared out every block computes for itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from . import parted
from .early import deviation, last, terms, waits
from .exchange import Exchange
from .lanes import tile, wide
from .periods import broadcasts, dot_of, loose, periods, plainer, widest
from .products import Dot
from .program import Op, Part, Program, Refused, State, Tensor
from .rowwise import OWN

# the fewest units of a block: four gates of as many make an operand of a matrix product
LEAST = 4
# a value in every block, not shared out
WHOLE = 0
# the fewest numbers of a row's value that are worth a block of their own
NARROWEST = 16
# rows of a tile, where a step takes all of an axis: the least that a matrix product takes
EACH = 16


@dataclass(frozen=True)
class Shared:
    """A program for each of `blocks`; `units` has how many of every period a block holds.

    Where a step takes all of an axis `groups` blocks share a row of a tile.
    """

    program: Program
    blocks: int
    units: dict[int, int]
    exchanges: tuple[Exchange, ...]
    groups: int = 1

    @property
    def each(self) -> int:
        """The rows of a tile that are given out, where a step takes all of an axis."""
        return min(EACH, self.blocks)


def share(program: Program, units: int, known: dict[str, int] | None = None) -> Shared:
    """The program of one block that holds `units` of the largest period. Raises Refused.

    `units` is a power of two, 4 or more; `known` are the periods, where they were found before.
    """
    known = known or periods(program)
    blocks = -(-widest(program, known) // units)
    groups = max(1, blocks // EACH)
    try:
        return _Sharing(program, blocks, known, groups).run()
    except Refused:
        if groups == 1 or not program.lanes:
            raise
    return _Sharing(program, blocks, known, 1).run()


def split(form: int) -> bool:
    """Whether blocks have parts of a value that is in this form."""
    return form not in (WHOLE, OWN)


class _Sharing:
    """Writes the operations of a block, each as a whole or as the block's own part of it."""

    def __init__(self, program: Program, blocks: int, known: dict[str, int], groups: int):
        self.program, self.blocks, self.groups = program, blocks, groups
        self.ops = {op.name: op for op in plainer(program)}
        self.loose = loose(self.ops)
        self.period = {name: self._used(p) for name, p in known.items()}
        self.units = {p: self._units(p) for p in sorted(set(self.period.values())) if split(p)}
        self.made: dict[str, Op] = {}
        self.known: dict[tuple[str, int], str] = {}
        self.exchanges: dict[tuple[str, str], Exchange] = {}
        plain = replace(program, ops=tuple(self.ops.values()))
        self.varying = wide(plain) if program.lanes else frozenset[str]()
        self.waiting = waits(self.ops, {name: p for name, p in self.period.items() if p > 0})

    def _used(self, period: int) -> int:
        """A period by which it is of use to share out."""
        if period < 0:
            return period if self.groups > 1 and -period >= NARROWEST * self.groups else OWN
        return period if period >= max(self.blocks, 2) else WHOLE

    def _units(self, period: int) -> int:
        """A block's share of a period: a power of two, as tiles are; the last blocks have less."""
        blocks = self.blocks if period > 0 else self.groups
        return max(LEAST, 1 << (-(-abs(period) // blocks) - 1).bit_length())

    def run(self) -> Shared:
        for name in self.ops:  # in their order, so that none is made from deep within another
            if name not in self.loose:
                self.make(name, self._home(name))
        states = [self._state(s) for s in self.program.states]
        wanted = parted.stores(self.ops.values(), self.program.stores)
        stores = tuple(self._store(*store) for store in wanted)
        program = replace(
            self.program,
            ops=tuple(self._ordered()),
            states=tuple(states),
            stores=stores,
        )
        exchanges = tuple(self.exchanges.values())
        return Shared(program, self.blocks, self.units, exchanges, self.groups)

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

    def _store(self, name: str, tensor: Tensor, first: int) -> tuple[str, Tensor]:
        home = self._home(name)
        if home == OWN:
            return self.make(name, OWN), tensor
        if name in self.loose and home >= 0:
            home = max((p for p in self.units if last(self.ops[name]) % p == 0), default=WHOLE)
        return self.make(name, home), replace(self._part(tensor, home), first=first)

    def _part(self, tensor: Tensor, period: int) -> Part:
        like = tensor.name, tensor.shape, tensor.axes, tensor.kind
        if not split(period):
            return Part(*like)
        units, blocks = self.units[period], self.blocks if period > 0 else self.groups
        place = f"{'unit' if period > 0 else 'own'}_{abs(period)}"
        return Part(*like, abs(period), units, place, units * blocks == abs(period))

    def _like(self, op: Op, arg: str, wanted: int) -> str:
        """An operand in the form of the result, or whole where it is the same along it."""
        alike = not split(wanted) or not broadcasts(op, self.ops[arg])
        return self.make(arg, wanted if alike else OWN if wanted < 0 else WHOLE)

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
                form = self._form(wanted)
                self.made[made] = replace(found, attrs={**found.attrs, **form}) if form else found
            self.known[name, wanted] = made
        return self.known[name, wanted]

    def _form(self, wanted: int) -> dict[str, Any]:
        """What tells the writer in which form a value is."""
        own = {"own": True} if wanted < 0 else {}
        return {**own, "units": self.units[wanted]} if split(wanted) else own

    def _fresh(self, wanted: str) -> str:
        name, count = wanted, 2
        while name in self.made:
            name, count = f"{wanted}_{count}", count + 1
        return name

    def _shape(self, op: Op, wanted: int) -> tuple[int, ...]:
        if not split(wanted):
            return op.shape
        if last(op) % wanted:
            raise Refused(f"'{op.note or op.name}' is not shared out as what it meets is")
        return (*op.shape[:-1], last(op) // abs(wanted) * self.units[wanted])

    def _moved(self, op: Op, wanted: int) -> str:
        """A value in another form than the one it is computed in."""
        home = self._home(op.name)
        if wanted == OWN and home == WHOLE:
            own = {"kind": "selected", "args": (self.make(op.name, WHOLE),)}
            return self._put(replace(op, name=f"{op.name}_mine", attrs=self._form(OWN), **own))
        # between blocks' parts and their rows, or to all blocks; not from register to register
        between = (home < 0) != (wanted < 0) and home or wanted == WHOLE
        between = between or (wanted == OWN and home < OWN)
        if not between or op.dtype != "float" or op.name in self.varying:
            raise Refused(f"'{op.note or op.name}' would have to change hands within a step")
        exchange = self._exchange(op, wide=True)
        kind, name = ("fetched", "mine") if wanted < 0 else ("portion", "here")
        kind, name = ("joined", "all") if wanted == WHOLE else (kind, name)
        part = self._part(Tensor(op.name, op.shape, ()), wanted)
        attrs = {"exchange": exchange.name, "part": part, **self._form(wanted)}
        made = replace(op, name=f"{op.name}_{name}", kind=kind, args=(exchange.value,), attrs=attrs)
        return self._put(replace(made, shape=self._shape(op, wanted)))

    def _exchange(self, op: Op, wide: bool) -> Exchange:
        key = op.name, "wide" if wide else "all"
        if key not in self.exchanges:
            home = self._home(op.name)
            value = self.make(op.name, home)
            name = "_".join(key)
            part = self._part(Tensor(name, op.shape, self.program.rows), home)
            size, state = math.prod(op.shape), op.kind == "state"
            self.exchanges[key] = Exchange(name, value, size, wide, state, part, op.note)
        return self.exchanges[key]

    # each kind of operation, `made` the block's and `op` the whole one

    def _as_read(self, made: Op, op: Op, wanted: int) -> Op:
        args = tuple(self._like(op, a, wanted) for a in op.args)
        tensor = op.attrs["tensor"]
        attrs = {**op.attrs, "tensor": self._part(tensor, wanted) if split(wanted) else tensor}
        return replace(made, args=args, attrs=attrs)

    def _as_draw(self, made: Op, op: Op, wanted: int) -> Op:
        if not split(wanted):
            return made
        return replace(made, attrs={**op.attrs, "tensor": self._part(op.attrs["tensor"], wanted)})

    def _as_const(self, made: Op, op: Op, wanted: int) -> Op:
        return made

    _as_index = _as_size = _as_state = _as_lane = _as_const

    def _as_point(self, made: Op, op: Op, wanted: int) -> Op:
        return replace(made, args=tuple(self._like(op, a, wanted) for a in op.args))

    _as_lanes = _as_point

    def _as_view(self, made: Op, op: Op, wanted: int) -> Op:
        if not split(wanted):
            return replace(made, args=tuple(self.make(a, wanted) for a in op.args))
        found: dict[str, np.ndarray] = {}
        for arg, places in zip(op.args, op.attrs["maps"]):
            for part in range(len(places) // abs(wanted)):
                self._view_part(found, arg, places, part, wanted)
        return replace(made, args=tuple(found), attrs={"maps": list(found.values())})

    def _view_part(
        self, found: dict[str, np.ndarray], arg: str, places: np.ndarray, part: int, wanted: int
    ) -> None:
        """The places of one part of a view, among the block's own numbers of its operand."""
        units, period = self.units[wanted], abs(wanted)
        mine = places[part * period : (part + 1) * period]
        if (mine < 0).all():
            return
        first = int(mine[0])
        if np.array_equal(mine, first + np.arange(period)) and first % period == 0:
            form, new = wanted, first // period * units + np.arange(units)
        elif (mine == first).all():
            form, new = OWN if wanted < 0 else WHOLE, np.full(units, first)
        else:
            raise Refused(f"'{self.ops[arg].note or arg}' is taken apart within a unit")
        name = self.make(arg, form)
        size = len(places) // period * units
        line = found.setdefault(name, np.full(size, -1))
        line[part * units : (part + 1) * units] = new

    def _as_product(self, made: Op, op: Op, wanted: int) -> Op:
        how = dot_of(op, self.ops)
        if not isinstance(how, Dot):
            return replace(made, args=tuple(self.make(a, min(wanted, WHOLE)) for a in op.args))
        if tuple(map(len, how.letters)) != (1, 2, 1):
            raise Refused(f"'{op.note or op.name}', a product {op.attrs['sub']}, is not shared out")
        value, tensor = self.ops[how.value], self.ops[how.weight].attrs["tensor"]
        attrs: dict[str, Any] = {
            "weight": self._part(tensor, wanted),
            "steps": how.steps(),
            "inner": value.shape[0],
            "first": op.attrs.get("first", 0),
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
        home, over = self._home(x.name), len(x.shape) - 1 in op.attrs["dims"]
        if over and home < OWN:
            return self._gathered(made, op, x)
        if not over or wanted == OWN or not home:
            return replace(made, args=(self.make(x.name, wanted),))
        if op.kind == "sum" and not op.shape and self.waiting[x.name]:
            return self._spread(made, op, x) or self._early(made, op, x) or self._joined(made, op)
        return self._joined(made, op)

    _as_max = _as_sum

    def _gathered(self, made: Op, op: Op, x: Op) -> Op:
        """A sum over numbers that the blocks of a row share out: of each block's part of it."""
        if math.prod(op.shape) > 1:
            raise Refused(f"'{op.note or op.name}' are several sums over what is shared out")
        exchange = self._parts(x.name, self._home(x.name), op)
        attrs = {"exchange": exchange.name, "join": op.kind, **self._form(OWN)}
        return replace(made, kind="gathered", args=(exchange.value,), attrs=attrs)

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
            form = self._form(OWN if home < 0 else WHOLE)
            part = Op(f"{x}_{op.kind}_here", op.kind, (name,), op.shape, attrs={**op.attrs, **form})
            part = self._put(replace(part, note=op.note))
            lanes = tile(self.program.most) if x in self.varying else 1
            size = math.prod(op.shape) * self.blocks if home > 0 else self.groups * lanes
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
        form = self._form(home)
        inside = self._put(
            Op(f"{name}_inside", "inside", (), shape, "bool", {"part": place, **form}, value.note)
        )
        template = f"tl.where({{1}}, {{0}}, float('{beyond}'))"
        return self._put(
            replace(
                self.made[name],
                name=f"{name}_within",
                kind="point",
                args=(name, inside),
                attrs={"template": template, **form},
            )
        )
