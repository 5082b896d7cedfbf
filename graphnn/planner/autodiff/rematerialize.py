"""Rematerialisation: recompute values in the backward if that is cheaper than saving them.

To save an element, a kernel converts, stores and loads it, and holds a register while the load is
under way. To recompute it costs the instructions of its operation, provided that the operands are
in the loop of the backward anyway.
"""

from __future__ import annotations

from graphnn.ops.registry import OPS
from graphnn.planner.autodiff.loops import FREE, Derived
from graphnn.planner.core.loop_graph import LoopIR
from graphnn.planner.core.regions import loop_numbers

# Instructions per element, no more than saving it costs. This admits sums, products, comparisons,
# selections and interpolations, but no exponential and no division. Estimated, not timed on a GPU.
CHEAP = 3
# instructions for reading one more value that is in memory anyway
LOAD = 1
NOTHING = frozenset({"const", "size", "index", "length"})
NEVER = CHEAP + 1


def rematerialize(loop: LoopIR, derived: Derived) -> frozenset[int]:
    """The saved values of `derived` that are cheaper to recompute, and all values they need."""
    return _Rematerialization(loop, derived).run()


class _Rematerialization:
    def __init__(self, loop: LoopIR, derived: Derived):
        self.loop, self.derived = loop, derived
        self.home, self.users = loop_numbers(derived.ir), derived.ir.users()
        self.outputs = set(derived.ir.outputs.values())
        self.stored = {*loop.reads, *loop.results}
        self.saved = {i for i in derived.saved if i not in self.stored}
        self.found: set[int] = set()

    def run(self) -> frozenset[int]:
        for node in self.loop.ir:
            wanted = node.id in self.saved and self._needed_in_loops(node.id)
            if wanted and self._work(node.id, CHEAP) <= CHEAP:
                self._compute(node.id)
        return frozenset(self.found)

    def _needed_in_loops(self, i: int) -> bool:
        """Whether only loops read a value; outside, recomputing it would be one more pass."""
        return i not in self.outputs and all(u in self.home for u in self._readers(i))

    def _readers(self, i: int) -> list[int]:
        """The nodes of the backward that read a value or a view of it."""
        found = []
        for u in self.users.get(i, ()):
            free = OPS[self.derived.ir[u].op].family in FREE
            found += self._readers(u) if free else [u]
        return found

    def _work(self, i: int, left: int) -> int:
        """Instructions per element to compute a value from those in the loop, at most `left`."""
        node = self.loop.ir[i]
        left -= OPS[node.op].flops
        if OPS[node.op].family != "pointwise" or left < 0:
            return NEVER
        return OPS[node.op].flops + sum(self._price(j, left) for j in dict.fromkeys(node.inputs))

    def _price(self, i: int, left: int) -> int:
        """Instructions per element to obtain a value in the loop of the backward."""
        node = self.loop.ir[i]
        if OPS[node.op].family in FREE:
            return self._price(node.inputs[0], left)
        if node.op in NOTHING or i in self.found or any(u in self.home for u in self._readers(i)):
            return 0
        if i in self.stored or (node.op == "delay" and self.loop.ir.closings[i] in self.stored):
            return LOAD
        return NEVER if i in self.saved else self._work(i, left)

    def _compute(self, i: int) -> None:
        """Mark a value, and all values that it needs, for recomputation."""
        self.found.add(i)
        for j in self.loop.ir[i].inputs:
            while OPS[self.loop.ir[j].op].family in FREE:
                j = self.loop.ir[j].inputs[0]
            if OPS[self.loop.ir[j].op].family == "pointwise" and j not in self.derived.ir.nodes:
                self._compute(j)
