"""Checks of memory accesses: the interpreter's loads, stores and atomics pass through here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import triton.language as tl
from triton._C.libtriton import ir
from triton.runtime import interpreter
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

from ..interpreter.faults import OutOfBounds, Race, Uninitialised, format_line, kernel_line
from ..interpreter.schedule import InOrder
from .memory import Access, Memory
from .races import AccessLog, Clocks, History

_BUILDER = interpreter.interpreter_builder
_RELEASES = (ir.MEM_SEMANTIC.RELEASE, ir.MEM_SEMANTIC.ACQUIRE_RELEASE)
_ACQUIRES = (ir.MEM_SEMANTIC.ACQUIRE, ir.MEM_SEMANTIC.ACQUIRE_RELEASE)
_ADDS = (ir.ATOMIC_OP.ADD, ir.ATOMIC_OP.FADD)

# verbs for the messages, and the kinds of access that each kind must be ordered with
_PRESENT = {"load": "loads", "store": "stores to", "atomic": "updates"}
_PAST = {"load": "loaded", "store": "stored to", "atomic": "updated"}
_CONFLICTS = {
    "load": ("store", "atomic"),
    "store": ("store", "load", "atomic"),
    "atomic": ("store", "load"),
}


class AccessChecker:
    """The checks of one launch. Methods named `create_…` replace the interpreter's own."""

    def __init__(self, memory: Memory, schedule: InOrder, index: list[tuple[int, ...]]):
        self.counts: Counter[str] = Counter()
        self._memory, self._schedule, self._index = memory, schedule, index
        self._clocks = Clocks(len(index))
        self._events = AccessLog()
        self._histories = {kind: History(self._events, memory.cells) for kind in _CONFLICTS}
        self._lanes = np.zeros(memory.cells, np.int32)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Replace the interpreter's memory operations by those of this checker."""
        names = [name for name in dir(self) if name.startswith("create_")]
        vars(_BUILDER).update({name: getattr(self, name) for name in names})
        try:
            yield
        finally:
            for name in names:
                del vars(_BUILDER)[name]

    def begin(self, program: int) -> None:
        """Let a program run from here on."""
        _BUILDER.grid_idx = self._index[program]

    def create_masked_load(
        self, pointers: TensorHandle, mask: TensorHandle, *rest: Any, **named: Any
    ) -> TensorHandle:
        """Check a load. Other programs may run before a volatile one: it may be in a spin loop."""
        if named.get("is_volatile", rest[-1]):
            self._switch(pointers, mask)
        handle, _ = self._touch("load", pointers, mask)
        return InterpreterBuilder.create_masked_load(_BUILDER, handle, mask, *rest, **named)

    def create_masked_store(
        self, pointers: TensorHandle, value: TensorHandle, mask: TensorHandle, *rest: Any
    ) -> None:
        """Check a store."""
        handle, access = self._touch("store", pointers, mask)
        self._check_one_value(access, value, mask)
        InterpreterBuilder.create_masked_store(_BUILDER, handle, value, mask, *rest)

    def create_atomic_rmw(
        self,
        op: Any,
        pointers: TensorHandle,
        value: TensorHandle,
        mask: TensorHandle,
        sem: Any,
        scope: Any,
    ) -> TensorHandle:
        """Check an atomic. One that adds 0, or exchanges a value for itself, only reads."""
        only_reads = op in _ADDS and not value.data[mask.data.astype(bool)].any()

        def act(handle: TensorHandle) -> tuple[TensorHandle, bool]:
            old = InterpreterBuilder.create_atomic_rmw(
                _BUILDER, op, handle, value, mask, sem, scope
            )
            same = (old.data == value.data).all() if op == ir.ATOMIC_OP.XCHG else only_reads
            return old, not same

        return self._atomic(pointers, mask, sem, scope, act)

    def create_atomic_cas(
        self,
        pointers: TensorHandle,
        expected: TensorHandle,
        value: TensorHandle,
        sem: Any,
        scope: Any,
    ) -> TensorHandle:
        """Check a compare-and-swap."""

        def act(handle: TensorHandle) -> tuple[TensorHandle, bool]:
            old = InterpreterBuilder.create_atomic_cas(
                _BUILDER, handle, expected, value, sem, scope
            )
            return old, bool(((old.data == expected.data) & (old.data != value.data)).any())

        mask = TensorHandle(np.ones(pointers.data.shape, bool), tl.int1)
        return self._atomic(pointers, mask, sem, scope, act)

    def create_atomic_load(self, *_: Any) -> None:
        """Raise NotImplementedError: the checker does not follow atomic loads, stores and polls.

        No generated kernel has one; Triton 3.6 does not have them either.
        """
        raise NotImplementedError(
            "the checker does not simulate atomic loads, stores and polls; "
            "read a value with tl.atomic_add(pointer, 0), write one with tl.atomic_xchg"
        )

    create_atomic_store = create_atomic_poll = create_atomic_load

    def create_barrier(self) -> None:
        """Record a `tl.debug_barrier()`."""
        self._clocks.barrier(self._schedule.current)

    def _atomic(
        self,
        pointers: TensorHandle,
        mask: TensorHandle,
        sem: Any,
        scope: Any,
        act: Callable[[TensorHandle], tuple[TensorHandle, bool]],
    ) -> TensorHandle:
        self._switch(pointers, mask)
        handle, access = self._touch("atomic", pointers, mask)
        result, changed = act(handle)
        orders = scope != ir.MEM_SYNC_SCOPE.CTA  # which orders nothing between programs
        if orders and sem in _ACQUIRES:
            self._clocks.acquire(self._schedule.current, access.cells)
        if orders and sem in _RELEASES:
            self._clocks.release(self._schedule.current, access.cells)
        if changed:
            self._schedule.changed()
        return result

    def _switch(self, pointers: TensorHandle, mask: TensorHandle) -> None:
        """Let other programs run first: the order of atomics alone decides what is ordered."""
        access = self._locate("atomic", pointers, mask)
        if len(access):
            me = self._schedule.current
            self._schedule.poll(access.first, kernel_line())
            self.begin(me)

    def _locate(self, kind: str, pointers: TensorHandle, mask: TensorHandle) -> Access:
        size = max(1, pointers.get_element_ty().primitive_bitwidth // 8)
        access = self._memory.locate(pointers.data, mask.data, size)
        if access.wrong.any():
            lane = int(access.wrong.argmax())
            lanes = f"{access.wrong.sum()} of {access.wrong.size} lanes"
            raise OutOfBounds(
                f"{self._current_name()} {_PRESENT[kind]} memory out of bounds in {lanes}, "
                f"the first {access.describe_miss(lane)}{_at(kernel_line())}"
            )
        return access

    def _touch(
        self, kind: str, pointers: TensorHandle, mask: TensorHandle
    ) -> tuple[TensorHandle, Access]:
        """Check and record an access. Returns it with its real pointers."""
        access = self._locate(kind, pointers, mask)
        me, cells, line = self._schedule.current, access.cells, kernel_line()
        seen = self._clocks.seen[me]
        # one warp of a program may load too early what another warp of it stores
        before = self._clocks.settled(me) if kind == "load" else seen
        for other in _CONFLICTS[kind]:
            if found := self._histories[other].conflicts(cells, before):
                raise self._race(kind, other, access, *found)
        unset = self._memory.unset[cells]
        if kind != "store" and unset.any():
            element = access.element(int(unset.argmax()))
            raise Uninitialised(
                f"{self._current_name()} {_PRESENT[kind]} {element}, an output that no program has "
                f"stored yet{_at(line)}"
            )
        event = self._events.add(me, int(seen[me]), line)
        self._histories[kind].add(cells, event, seen)
        if kind != "load":
            self._memory.unset[cells] = False
        self.counts[kind] += 1
        return TensorHandle(access.real, pointers.dtype), access

    def _race(
        self, kind: str, other: str, access: Access, cell: int, event: int, count: int
    ) -> Race:
        me, they = self._current_name(), self._schedule.names[self._events.program[event]]
        more = f" and {count - 1} more" if count > 1 else ""
        did = f"{they} {_PAST[other]}, and nothing orders the two"
        if they == me:
            did = f"it {_PAST[other]} itself since its last tl.debug_barrier()"
        return Race(
            f"{me} {_PRESENT[kind]} {access.element(cell)}{more}, which {did}"
            f"{_at(kernel_line())}{_at(self._events.lines[event])}"
        )

    def _check_one_value(self, access: Access, value: TensorHandle, mask: TensorHandle) -> None:
        """Raise `Race` if two lanes of a store put different values into one element."""
        if not len(access):
            return
        first = access.cells[:: access.cells_per_lane]
        data = np.broadcast_to(value.data, mask.data.shape)[mask.data.astype(bool)]
        bits = data.view(f"u{data.itemsize}")
        self._lanes[first] = np.arange(len(access))
        clash = bits[self._lanes[first]] != bits
        if clash.any():
            element = access.element(int(clash.argmax()) * access.cells_per_lane)
            raise Race(
                f"{self._current_name()} stores to {element} from two lanes with different values"
                f"{_at(kernel_line())}"
            )

    def _current_name(self) -> str:
        return self._schedule.names[self._schedule.current]


def _at(line: tuple[str, int]) -> str:
    return f"\n  {format_line(line)}"
