"""How the threads of a block move through a program: branches, divergence, barriers, returns.

All threads run in lock-step. If they diverge, those in the earliest basic block run first, under a
mask, until they meet the others again or wait at a barrier.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..instructions.table import compiled
from ..program.program import Instruction
from ..program.report import Problem
from .thread_block import ThreadBlock

Array = NDArray[Any]
# where a block stops for others: a basic block that may wait for another thread block, or not
AFTER = -1


class Control:
    """The flow of control of one thread block. Masks are arrays of bool; None is all threads."""

    def __init__(self, block: ThreadBlock):
        self.block, self.program = block, block.program
        self.running: dict[int, Array | None] = {0: None}
        # by barrier: the threads that wait, by the basic block where they go on
        self.waiting: dict[int, dict[int, Array]] = {}
        # how many threads each of these barriers waits for; 0: all of the block
        self.wanted: dict[int, int] = {}
        self.live = block.live

    def run(self) -> Iterator[int]:
        """Run to the end. Yields before each access that may wait, and AFTER it and barriers."""
        block, program, machine = self.block, self.program, self.block.machine
        executed, limit = machine.executed, machine.limit
        while self.running:
            where = min(self.running)
            mask = self.running.pop(where)
            basic = program.blocks[where]
            if basic.polls:
                block.polled = basic.body[0].number
                yield where
            function = program.functions.get((where, mask is not None))
            if function is None:
                function = compiled(program, where, mask is not None)
            function(block, block.registers, mask)
            executed[where] += 1
            machine.steps += len(basic.body) + 1
            if machine.steps > limit:
                raise Problem(f"the kernel did not end within {limit:,} statements")
            if basic.polls:
                yield AFTER
            end = basic.end
            if end is None:
                self._go(where + 1, mask)
                continue
            block.now = end.number
            if _ENDS[end.opcode](self, end, where, mask):
                yield AFTER
        if self.waiting:
            self._stuck()

    def _go(self, where: int, mask: Array | None) -> None:
        """Let threads go on at a basic block; they join those that are there."""
        other = self.running.get(where, False)
        if mask is not None and other is not False:
            mask = mask | other if other is not None else None
        self.running[where] = None if mask is None or mask.all() else mask

    def _taken(self, end: Instruction, mask: Array | None) -> Array:
        """Return the threads whose guard is true."""
        here = self.block.every if mask is None else mask
        if not end.guard:
            return here
        p = self.block.registers[self.program.slots[end.guard]]
        return here & ~p if end.negated else here & p

    def branch(self, end: Instruction, where: int, mask: Array | None) -> bool:
        """`bra`."""
        target = self.program.labels[end.operands[0]] if end.operands else where
        if not end.guard:
            self._go(target, mask)
            return False
        taken = self._taken(end, mask)
        if not taken.any():
            self._go(where + 1, mask)
            return False
        left = ~taken if mask is None else mask & ~taken
        if left.any():
            self._go(where + 1, left)
            self._go(target, taken)
        else:
            self._go(target, mask)
        return False

    def leave(self, end: Instruction, where: int, mask: Array | None) -> bool:
        """`ret` and `exit`."""
        gone = self._taken(end, mask)
        self.live[gone] = False
        stay = ~gone if mask is None else mask & ~gone
        if stay.any():
            self._go(where + 1, stay)
        self._release_all()
        return False

    def trap(self, end: Instruction, where: int, mask: Array | None) -> bool:
        """`trap`."""
        taken = self._taken(end, mask)
        if taken.any():
            raise Problem("a thread executes trap", int(taken.argmax()))
        self._go(where + 1, mask)
        return False

    def barrier(self, end: Instruction, where: int, mask: Array | None) -> bool:
        """`bar` and `barrier`: threads wait until as many have come as the barrier wants."""
        if mask is None and not (end.guard or self.waiting or len(end.operands) > 1):
            self._met(None)
            self._go(where + 1, None)
            return True
        here = self._taken(end, mask)
        others = (~here if mask is None else mask & ~here) if end.guard else None
        if others is not None and others.any():
            self._go(where + 1, others)
        if not here.any():
            return False
        number, *count = (self._operand(x) for x in end.operands or ("0",))
        self.wanted[number] = count[0] if count else 0
        self._check_warps(here)
        places = self.waiting.setdefault(number, {})
        places[where + 1] = places.get(where + 1, np.zeros_like(here)) | here
        return self._complete(number)

    def _operand(self, text: str) -> int:
        if text in self.program.slots:
            values = self.block.registers[self.program.slots[text]]
            return int(values[0])
        return int(text, 0)

    def _check_warps(self, here: Array) -> None:
        rows, live = here.reshape(-1, 32), self.live.reshape(-1, 32)
        part = rows.any(1) & (rows != live).any(1)
        if part.any():
            self.block.warn("a part of a warp waits at a barrier: its other threads come later")

    def _complete(self, number: int) -> bool:
        """Release the threads at a barrier if all that it waits for have come."""
        places = self.waiting[number]
        came = np.zeros_like(self.live)
        for mask in places.values():
            came |= mask
        if int(came.sum()) < (self.wanted[number] or int(self.live.sum())):
            return False
        if len(places) > 1:
            self.block.warn("threads wait for each other at barriers of different places")
        whole = bool((came == self.live).all())
        self._met(None if whole else np.unique(self.block.warp_of[came]))
        del self.waiting[number]
        for place, mask in places.items():
            self._go(place, mask)
        return True

    def _met(self, warps: Array | None) -> None:
        """Order the accesses of warps that have met; None: all of the block."""
        self.block.shared.marks.barrier(warps)
        self.block.machine.order.barrier(self.block, warps)

    def _release_all(self) -> None:
        """Threads that return no longer count at barriers of all threads."""
        if self.live.any():
            for number in list(self.waiting):
                self._complete(number)

    def _stuck(self) -> None:
        waits = [
            f"{int(mask.sum())} at barrier {number}"
            for number, places in self.waiting.items()
            for mask in places.values()
        ]
        gone = int((~self.live).sum())
        text = f"a deadlock: threads wait, {' and '.join(waits)}"
        raise Problem(text + (f", {gone} have returned" if gone else ""))


_ENDS = {
    "bra": Control.branch,
    "ret": Control.leave,
    "exit": Control.leave,
    "trap": Control.trap,
    "bar": Control.barrier,
    "barrier": Control.barrier,
}
