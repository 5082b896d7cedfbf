"""Sharding: a loop's program as one of many thread blocks runs it, with its part of each value.

A value is sharded if its elements keep their indices from operation to operation: of every `period`
elements (the units of a cell, in each of its gates) a block has `units`. Products read all of their
operand, and sums over units all parts of a sum: both come through an exchange. Operations over a
block axis are computed for one row per block. A value that cannot be sharded is computed by every
block.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...analysis.block_axis import wide
from ...analysis.matmul_form import WeightMatmul
from ...ir.program import LoopProgram, LoopState, Op, Part, Tensor, Unsupported
from . import split_products
from .early_sums import last, sum_depth
from .exchange import Exchange
from .granularity import (
    broadcasts,
    dot_of,
    granularities,
    largest_granularity,
    recomputable,
    with_pointwise_products,
)
from .reductions import Sums
from .row_owners import OWN, WHOLE

# the fewest units of a block: four gates of them make an operand of a matrix product
MIN_UNITS = 4
# the fewest elements of a row's value that are worth a block of their own
MIN_ROW_ELEMENTS = 16
# rows of a tile with a block axis: the least of a matrix product
MIN_ROWS = 16


@dataclass(frozen=True)
class ShardedProgram:
    """A program that each of `blocks` blocks runs. A block holds `units` elements of every period.

    With a block axis, `groups` blocks have one row of a tile together.
    """

    program: LoopProgram
    blocks: int
    units: dict[int, int]
    exchanges: tuple[Exchange, ...]
    groups: int = 1

    @property
    def owned_rows(self) -> int:
        """The rows of a tile that blocks own, with a block axis."""
        return min(MIN_ROWS, self.blocks)


def shard(program: LoopProgram, units: int, known: dict[str, int] | None = None) -> ShardedProgram:
    """The program of one block that holds `units` units of the largest granularity.

    `units` is a power of two, 4 or more; `known` are the granularities, if they were found before.
    Raises Unsupported if the program cannot be sharded.
    """
    known = known or granularities(program)
    blocks = -(-largest_granularity(program, known) // units)
    groups = max(1, blocks // MIN_ROWS)
    try:
        return Sharder(program, blocks, known, groups).run()
    except Unsupported:
        if groups == 1 or not program.block_axis:
            raise
    return Sharder(program, blocks, known, 1).run()


def split(form: int) -> bool:
    """Whether blocks have parts of a value in this form."""
    return form not in (WHOLE, OWN)


class Sharder:
    """Makes the operations of a block, each as a whole or as the block's part of it."""

    def __init__(self, program: LoopProgram, blocks: int, known: dict[str, int], groups: int):
        self.program, self.blocks, self.groups = program, blocks, groups
        self.ops = {op.name: op for op in with_pointwise_products(program)}
        self.recomputable = recomputable(self.ops)
        self.period = {name: self._used(p) for name, p in known.items()}
        self.units = {p: self._units(p) for p in sorted(set(self.period.values())) if split(p)}
        self.made: dict[str, Op] = {}
        self.known: dict[tuple[str, int], str] = {}
        self.exchanges: dict[tuple[str, str], Exchange] = {}
        plain = replace(program, ops=tuple(self.ops.values()))
        self.varying = wide(plain) if program.block_axis else frozenset[str]()
        self.waiting = sum_depth(self.ops, {name: p for name, p in self.period.items() if p > 0})

    def _used(self, period: int) -> int:
        """The form of a value of this granularity: sharded if that pays."""
        if period < 0:
            return period if self.groups > 1 and -period >= MIN_ROW_ELEMENTS * self.groups else OWN
        return period if period >= max(self.blocks, 2) else WHOLE

    def _units(self, period: int) -> int:
        """A block's part of a period: a power of two, as tiles are. The last blocks have less."""
        blocks = self.blocks if period > 0 else self.groups
        return max(MIN_UNITS, 1 << (-(-abs(period) // blocks) - 1).bit_length())

    def run(self) -> ShardedProgram:
        for name in self.ops:  # in their order, so that recursion stays shallow
            if name not in self.recomputable:
                self.make(name, self.home(name))
        states = [self._state(s) for s in self.program.states]
        wanted = split_products.stores(self.ops.values(), self.program.stores)
        stores = tuple(self._store(*store) for store in wanted)
        program = replace(
            self.program,
            ops=tuple(self._ordered()),
            states=tuple(states),
            stores=stores,
        )
        exchanges = tuple(self.exchanges.values())
        return ShardedProgram(program, self.blocks, self.units, exchanges, self.groups)

    def _ordered(self) -> Iterator[Op]:
        """The operations, each after its arguments."""
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

    def home(self, name: str) -> int:
        return self.period.get(name, WHOLE)

    def _state(self, state: LoopState) -> LoopState:
        home = self.home(state.name)
        op = self.ops[state.name]
        inits = tuple(self._operand(op, i, home) for i in state.inits)
        name, after = self.make(state.name, home), self._operand(op, state.next, home)
        return LoopState(name, state.delay, inits, after)

    def _store(self, name: str, tensor: Tensor, first: int) -> tuple[str, Tensor]:
        home = self.home(name)
        if home == OWN:
            return self.make(name, OWN), tensor
        if name in self.recomputable and home >= 0:
            home = max((p for p in self.units if last(self.ops[name]) % p == 0), default=WHOLE)
        return self.make(name, home), replace(self.part(tensor, home), first=first)

    def part(self, tensor: Tensor, period: int) -> Part:
        like = tensor.name, tensor.shape, tensor.axes, tensor.kind
        if not split(period):
            return Part(*like)
        units, blocks = self.units[period], self.blocks if period > 0 else self.groups
        shard_start = f"{'shard' if period > 0 else 'row_shard'}_{abs(period)}"
        return Part(*like, abs(period), units, shard_start, units * blocks == abs(period))

    def _operand(self, op: Op, arg: str, wanted: int) -> str:
        """An operand in the form of the result, or whole if it is the same along it."""
        same_split = not split(wanted) or not broadcasts(op, self.ops[arg])
        return self.make(arg, wanted if same_split else OWN if wanted < 0 else WHOLE)

    def make(self, name: str, wanted: int) -> str:
        """The value in a form."""
        op = self.ops[name]
        if op.kind == "const":
            wanted = WHOLE
        if (name, wanted) not in self.known:
            if name not in self.recomputable and self.home(name) != wanted:
                made = self._exchanged_form(op, wanted)
            else:
                self.known[name, wanted] = made = self._fresh(name)
                shape = self._shape(op, wanted)
                like = Op(made, op.kind, op.args, shape, op.dtype, op.attrs, op.note)
                found = getattr(self, f"_as_{op.kind}")(like, op, wanted)
                form = self.form(wanted)
                self.made[made] = replace(found, attrs={**found.attrs, **form}) if form else found
            self.known[name, wanted] = made
        return self.known[name, wanted]

    def form(self, wanted: int) -> dict[str, Any]:
        """The attributes of a value that describe how it is sharded."""
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
            raise Unsupported(
                f"'{op.note or op.name}' is sharded differently from its other operand"
            )
        return (*op.shape[:-1], last(op) // abs(wanted) * self.units[wanted])

    def _exchanged_form(self, op: Op, wanted: int) -> str:
        """A value in another form than the one that it is computed in."""
        home = self.home(op.name)
        if wanted == OWN and home == WHOLE:
            name, args = f"{op.name}_mine", (self.make(op.name, WHOLE),)
            return self.put(replace(op, name=name, kind="own_row", args=args, attrs=self.form(OWN)))
        # between shards and rows, or to all blocks; not from register to register
        apart = home != WHOLE and (home < 0) != (wanted < 0)
        between = apart or wanted == WHOLE or (wanted == OWN and home < OWN)
        if not between or op.dtype != "float" or op.name in self.varying:
            raise Unsupported(
                f"'{op.note or op.name}' would need communication between blocks inside a step"
            )
        exchange = self._exchange(op, wide=True)
        kind, name = ("fetch_row", "mine") if wanted < 0 else ("fetch_shard", "here")
        kind, name = ("all_gather", "all") if wanted == WHOLE else (kind, name)
        part = self.part(Tensor(op.name, op.shape, ()), wanted)
        attrs = {"exchange": exchange.name, "part": part, **self.form(wanted)}
        made = replace(op, name=f"{op.name}_{name}", kind=kind, args=(exchange.value,), attrs=attrs)
        return self.put(replace(made, shape=self._shape(op, wanted)))

    def put(self, op: Op) -> str:
        """Adds an operation under a free name."""
        name = self._fresh(op.name)
        self.made[name] = replace(op, name=name)
        return name

    def _exchange(self, op: Op, wide: bool) -> Exchange:
        key = op.name, "wide" if wide else "all"
        if key not in self.exchanges:
            home = self.home(op.name)
            value = self.make(op.name, home)
            name = "_".join(key)
            part = self.part(Tensor(name, op.shape, self.program.rows), home)
            size, state = math.prod(op.shape), op.kind == "state"
            self.exchanges[key] = Exchange(name, value, size, wide, state, part, op.note)
        return self.exchanges[key]

    # each kind of operation, `made` the block's and `op` the whole one

    def _as_read(self, made: Op, op: Op, wanted: int) -> Op:
        args = tuple(self._operand(op, a, wanted) for a in op.args)
        tensor = op.attrs["tensor"]
        attrs = {**op.attrs, "tensor": self.part(tensor, wanted) if split(wanted) else tensor}
        return replace(made, args=args, attrs=attrs)

    def _as_draw(self, made: Op, op: Op, wanted: int) -> Op:
        if not split(wanted):
            return made
        return replace(made, attrs={**op.attrs, "tensor": self.part(op.attrs["tensor"], wanted)})

    def _as_const(self, made: Op, op: Op, wanted: int) -> Op:
        return made

    _as_index = _as_size = _as_state = _as_position = _as_const

    def _as_pointwise(self, made: Op, op: Op, wanted: int) -> Op:
        return replace(made, args=tuple(self._operand(op, a, wanted) for a in op.args))

    _as_over_positions = _as_pointwise

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
        """The indices of one part of a view, among the block's own elements of its operand."""
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
            raise Unsupported(f"'{self.ops[arg].note or arg}' is split within a unit")
        name = self.make(arg, form)
        size = len(places) // period * units
        line = found.setdefault(name, np.full(size, -1))
        line[part * units : (part + 1) * units] = new

    def _as_einsum(self, made: Op, op: Op, wanted: int) -> Op:
        how = dot_of(op, self.ops)
        if not isinstance(how, WeightMatmul):
            return replace(made, args=tuple(self.make(a, min(wanted, WHOLE)) for a in op.args))
        if tuple(map(len, how.letters)) != (1, 2, 1):
            raise Unsupported(
                f"'{op.note or op.name}', an einsum '{op.attrs['sub']}', is not sharded"
            )
        value, tensor = self.ops[how.value], self.ops[how.weight].attrs["tensor"]
        attrs: dict[str, Any] = {
            "weight": self.part(tensor, wanted),
            "steps": how.steps(),
            "inner": value.shape[0],
            "first": op.attrs.get("first", 0),
            "period": wanted,
        }
        args: tuple[str, ...]
        if value.kind == "read" and not value.args:
            args, attrs["source"] = (), value.attrs["tensor"]
        elif how.value in self.recomputable or not self.home(how.value):
            args = (self.make(how.value, WHOLE),)
        else:
            exchange = self._exchange(value, wide=False)
            args, attrs["exchange"] = (exchange.value,), exchange.name
        return replace(made, kind="sharded_matmul", args=args, attrs=attrs)

    def _as_sum(self, made: Op, op: Op, wanted: int) -> Op:
        return Sums(self).sharded_sum(made, op, wanted)

    _as_max = _as_sum
