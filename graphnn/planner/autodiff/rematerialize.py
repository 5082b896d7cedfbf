"""spare: what a backward computes again because keeping it would cost a kernel more.

To keep a number, a kernel converts, stores and loads it, and holds a register for it while it is on
its way. To compute it again takes the instructions of its operation, where all that this reads is
in the backward's loop anyway.
"""

from __future__ import annotations

from graphnn.ops.registry import OPS
from graphnn.planner.autodiff.loops import FREE, Derived
from graphnn.planner.core.loop_graph import LoopIR
from graphnn.planner.core.regions import loop_numbers

# Instructions a number, no more than what keeping it takes: sums, products, comparisons, choices,
# interpolations, but nothing with an exponential or a division. Reckoned, not timed on a GPU.
CHEAP = 3
# what reading one more value that lies in memory anyway counts for
LOAD = 1
NOTHING = frozenset({"const", "size", "index", "length"})
NEVER = CHEAP + 1


def spare(loop: LoopIR, derived: Derived) -> frozenset[int]:
    """Of the values that `derived` wants saved, those that it had better compute again.

    With them come the values on the way to them.
    """
    return _Spare(loop, derived).run()


class _Spare:
    def __init__(self, loop: LoopIR, derived: Derived):
        self.loop, self.derived = loop, derived
        self.home, self.users = loop_numbers(derived.ir), derived.ir.users()
        self.outputs = set(derived.ir.outputs.values())
        self.stored = {*loop.reads, *loop.results}
        self.kept = {i for i in derived.saved if i not in self.stored}
        self.found: set[int] = set()

    def run(self) -> frozenset[int]:
        for node in self.loop.ir:
            wanted = node.id in self.kept and self._needed_in_loops(node.id)
            if wanted and self._work(node.id, CHEAP) <= CHEAP:
                self._compute(node.id)
        return frozenset(self.found)

    def _needed_in_loops(self, i: int) -> bool:
        """Whether only loops read a value: outside, computing it would be one more pass."""
        return i not in self.outputs and all(u in self.home for u in self._readers(i))

    def _readers(self, i: int) -> list[int]:
        """The nodes of the backward that read a value, or a view of it."""
        found = []
        for u in self.users.get(i, ()):
            free = OPS[self.derived.ir[u].op].family in FREE
            found += self._readers(u) if free else [u]
        return found

    def _work(self, i: int, left: int) -> int:
        """Instructions a number to compute a value from what the loop has; `left`: no more."""
        node = self.loop.ir[i]
        left -= OPS[node.op].flops
        if OPS[node.op].family != "pointwise" or left < 0:
            return NEVER
        return OPS[node.op].flops + sum(self._price(j, left) for j in dict.fromkeys(node.inputs))

    def _price(self, i: int, left: int) -> int:
        """Instructions a number to have a value in the backward's loop."""
        node = self.loop.ir[i]
        if OPS[node.op].family in FREE:
            return self._price(node.inputs[0], left)
        if node.op in NOTHING or i in self.found or any(u in self.home for u in self._readers(i)):
            return 0
        if i in self.stored or (node.op == "delay" and self.loop.ir.closings[i] in self.stored):
            return LOAD
        return NEVER if i in self.kept else self._work(i, left)

    def _compute(self, i: int) -> None:
        """Count a value among those found, and all on the way to it."""
        self.found.add(i)
        for j in self.loop.ir[i].inputs:
            while OPS[self.loop.ir[j].op].family in FREE:
                j = self.loop.ir[j].inputs[0]
            if OPS[self.loop.ir[j].op].family == "pointwise" and j not in self.derived.ir.nodes:
                self._compute(j)
