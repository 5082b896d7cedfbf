"""Rules of kernels whose blocks exchange values through memory, or read what they have written."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass
from itertools import groupby

from ..analysis.happens_before import Event, faults
from .syntax import Fault, Function, Line, Loop, Source, called, keyword, pointer

# the functions of the barrier between blocks, and the variables that say which slot a step uses
BARRIER, SLOTS = ("arrive", "wait"), ("slot", "next_slot")
ACCESSES = {"tl.store": "store", "tl.load": "load"}


def reloads(source: Source) -> Iterator[Fault]:
    """Yield the loads of what the kernel itself may have stored since the last barrier.

    Other threads of the block may have stored it: only `bar.sync` orders that (PTX ISA, bar).
    """
    for function in source.functions:
        stored = function.stores.keys() & function.loads.keys() - exchanged(function)
        if stored:
            yield from _unfenced(_twice(function), stored)


def _unfenced(lines: Iterable[Line], stored: Set[str]) -> Iterator[Fault]:
    """The loads of pointers that were stored to since the last barrier."""
    fresh, told = set[str](), set[int]()
    for line in lines:
        if line.called("tl.debug_barrier", *BARRIER):
            fresh.clear()
        for call in line.called("tl.load"):
            name = pointer(call.args[0])
            if name in fresh and call.lineno not in told:
                told.add(call.lineno)
                yield call.lineno, f"'{name}' is loaded after a store, with no barrier between"
        fresh |= stored & {pointer(call.args[0]) for call in line.called("tl.store")}


def _twice(function: Function) -> Iterator[Line]:
    """The lines of a function in their order, those of two steps of each loop."""
    for loop, found in groupby(function.lines, key=lambda line: line.loops[:1]):
        lines = [*found]
        yield from lines * (2 if loop else 1)


def cached_exchanges(source: Source) -> Iterator[Fault]:
    """Yield the loads of exchanged values that may come from the cache of a multiprocessor.

    `.cg` reads the L2 cache, which all multiprocessors share (PTX ISA, cache operators of ld).
    """
    for function in source.functions:
        for name in exchanged(function):
            for load in function.loads.get(name, ()):
                if keyword(load, "cache_modifier") != ".cg":
                    yield load.lineno, f"'{name}' is loaded without '.cg'"


def unordered_exchanges(source: Source) -> Iterator[Fault]:
    """Yield the loads of exchanged values that barriers do not order.

    Each must come after the stores that it reads, and before those that overwrite them.
    """
    for function in source.functions:
        if not exchanged(function):
            continue
        kernel = _Kernel(function)
        try:
            before, step = kernel.events()
        except ValueError as error:
            yield function.node.lineno, f"the order of its exchanges cannot be derived: {error}"
            continue
        for event, why in faults(before, step, kernel.slots()):
            yield event.line, why


def slots_of(source: Source) -> int:
    """Return the most slots that the steps of kernels use in turn, 0 without any exchange."""
    return max((_Kernel(f).slots() for f in source.functions if exchanged(f)), default=0)


def unread_waits(source: Source) -> Iterator[Fault]:
    """Yield the waits whose result nothing reads: Triton 3.6 deletes the acquire of such a wait."""
    for function in source.functions:
        for line in function.lines:
            for call in line.called("wait"):
                made = set(line.writes)
                if not any(made & other.reads for other in function.lines if other is not line):
                    yield call.lineno, "the result of a wait is not used"


def pipelined_loops(source: Source) -> Iterator[Fault]:
    """Yield the loops that Triton may pipeline although they load what they or other blocks store.

    The pipeliner would load values of later steps before the barrier that makes them valid.
    """
    for function in source.functions:
        for loop in function.loops:
            if not isinstance(loop, ast.For):
                continue
            inside = function.inside(loop)
            accesses = [
                {pointer(call.args[0]) for line in inside for call in line.called(what)}
                for what in ("tl.load", "tl.store")
            ]
            waits = any(line.called(*BARRIER) for line in inside)
            single = called(loop.iter) == "tl.range" and keyword(loop.iter, "num_stages") == 1
            if not single and (waits or accesses[0] & accesses[1]):
                yield loop.lineno, "num_stages=1 is missing"


def exchanged(function: Function) -> set[str]:
    """Return the pointers of exchange buffers: those with slots."""
    if not any(line.called(*BARRIER) for line in function.lines):
        return set()
    accesses = [*function.stores.items(), *function.loads.items()]
    return {name for name, calls in accesses if any(_has_slot(call.args[0]) for call in calls)}


def _has_slot(address: ast.expr) -> bool:
    return any(isinstance(n, ast.Name) and n.id in SLOTS for n in ast.walk(address))


@dataclass(frozen=True)
class _Kernel:
    """The exchanges of a cooperative kernel's function, as events."""

    function: Function

    def events(self) -> tuple[list[Event], list[Event]]:
        """Return what happens before the loop and in each step.

        Raises ValueError if the source does not have the form that is emitted.
        """
        slots = self.slots()
        if not slots:
            raise ValueError("there is no 'slot = step % n' in the loop")
        loop = self._loop()
        first = next(k for k, line in enumerate(self.function.lines) if line.node is loop)
        before = [*self._events(self.function.lines[:first], {})]
        return before, [*self._events(self.function.inside(loop), self._laters(slots))]

    def _loop(self) -> Loop:
        """The loop over steps, the only one that waits."""
        found = (
            line.loops[0] for line in self.function.lines if line.loops and line.called("wait")
        )
        loop = next(found, None)
        if loop is None:
            raise ValueError("there is no loop that waits")
        return loop

    def slots(self) -> int:
        """Return how many slots steps use in turn, or 0."""
        for line in self.function.lines:
            if line.writes == ("slot",):
                match line.node:
                    case ast.Assign(
                        value=ast.BinOp(ast.Name("step"), ast.Mod(), ast.Constant(int(n)))
                    ):
                        return n
        return 0

    def _laters(self, slots: int) -> dict[str, int]:
        """Return the variables that are slots, and of how many steps ahead."""
        following = f"(step + 1) % {slots}", *(("1 - slot",) if slots == 2 else ())
        for line in self.function.lines:
            text = ast.unparse(line.node) if line.writes == ("next_slot",) else ""
            if text and text.removeprefix("next_slot = ") not in following:
                raise ValueError(text)
        return {"slot": 0, "next_slot": 1}

    def _events(self, lines: Iterable[Line], laters: dict[str, int]) -> Iterator[Event]:
        buffers = exchanged(self.function)
        for line in lines:
            for name, call in line.calls:
                if name == "arrive":
                    yield Event("arrive", line=call.lineno)
                elif name == "wait":
                    yield Event("wait", arrivals=self._arrivals(call), line=call.lineno)
                elif name in ACCESSES and (buffer := pointer(call.args[0])) in buffers:
                    later = _later(call.args[0], laters)
                    yield Event(ACCESSES[name], buffer, later, line=call.lineno)

    def _arrivals(self, call: ast.Call) -> int:
        """Return how many arrivals of each block the wait of the first step is for.

        The target is `(step * arrivals of a step + arrivals) * blocks`.
        """
        inside = self.function.inside(self._loop())
        each = sum(len(line.called("arrive")) for line in inside) * self._blocks()
        first, second, third = (_value(call.args[1], step) for step in range(3))
        if first % self._blocks() or (second - first, third - second) != (each, each):
            raise ValueError(f"a wait for {ast.unparse(call.args[1])} arrivals")
        return first // self._blocks()

    def _blocks(self) -> int:
        """Return the number of blocks: `block = tl.program_id(0) % n`."""
        for line in self.function.lines:
            if line.writes == ("block",):
                match line.node:
                    case ast.Assign(
                        value=ast.BinOp(ast.Call(), ast.Mod(), ast.Constant(int(count)))
                    ):
                        return count
        raise ValueError("there is no 'block = tl.program_id(0) % n'")


def _later(address: ast.expr, laters: dict[str, int]) -> int:
    """Return of how many steps ahead the slot of an address is, `slot * n_rows + rows`."""
    for node in ast.walk(address):
        match node:
            case ast.BinOp(slot, ast.Mult(), ast.Name("n_rows")):
                if isinstance(slot, ast.Name) and slot.id in laters:
                    return laters[slot.id]
                if isinstance(slot, ast.Constant) and slot.value == 0 and not laters:
                    return 0
    raise ValueError(f"no slot in {ast.unparse(address)}")


def _value(node: ast.expr, step: int) -> int:
    """Return the value of an integer expression of `step`."""
    match node:
        case ast.Constant(int(value)):
            return value
        case ast.Name("step"):
            return step
        case ast.BinOp(left, ast.Add(), right):
            return _value(left, step) + _value(right, step)
        case ast.BinOp(left, ast.Mult(), right):
            return _value(left, step) * _value(right, step)
    raise ValueError(f"{ast.unparse(node)} is not a number of arrivals")
