"""List scheduling for register pressure: orders a step's statements to hold few values at once.

It is for steps with a block axis. LLVM and the assembler move statements too, but not across
barriers. In these steps each change of layout is a barrier.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from ..ir.expression import Name
from ..ir.statement import Statement

# registers per thread of a variable that is in no list: unfinished sums, 16 rows over all warps
SIZE = 4
# how many following statements are considered: two together may free registers that one does not
# (a Neural Turing Machine, backward, sm_80, bf16, Triton 3.6: 64 bytes spilled without, none with
# two)
DEPTH = 2


def ordered(
    statements: Sequence[Statement], sizes: Mapping[Name, int], kept: set[Name]
) -> list[Statement]:
    """The statements, with those first that free more registers than they allocate.

    Stores and scalar operations come early as well: delaying them keeps their inputs alive. All
    others keep their order, and each load comes right before the statement that first uses it.
    `sizes` are the registers of variables, `kept` the variables that are used after the last
    statement.

    A Neural Turing Machine of 128 slots, backward (sm_90, bf16, 8 warps, not capped): 248 bytes are
    spilled in the order of the operations, none in this order.
    """
    waiting = _Waiting(statements, sizes, kept)
    order: list[int] = []
    while waiting.left:
        order += waiting.take(waiting.best())
    # loads that only a state uses
    order += [k for k in waiting.loads.values() if k not in waiting.placed]
    return [statements[k] for k in order]


class _Waiting:
    """Statements that are not placed yet, and which of their variables are alive."""

    def __init__(self, statements: Sequence[Statement], sizes: Mapping[Name, int], kept: set[Name]):
        self.sizes, self.kept = sizes, kept
        self.targets = [statement.targets for statement in statements]
        made = sizes.keys() | {name for names in self.targets for name in names}
        self.reads = [[n for n in statement.uses if n in made] for statement in statements]
        self.uses = Counter(name for names in self.reads for name in names)
        after = self._after()
        free = self._free(statements, after)
        self.loads = {self.targets[k][0]: k for k in sorted(free)}
        self.left = [k for k in range(len(statements)) if k not in free]
        self.placed: set[int] = set()
        self.after = [before - free for before in after]
        self.users: list[list[int]] = [[] for _ in statements]
        for k in self.left:
            for before in self.after[k]:
                self.users[before].append(k)

    def _free(self, statements: Sequence[Statement], after: Sequence[set[int]]) -> set[int]:
        """The statements that load, and those that make one variable of a single load."""
        times = Counter(name for names in self.targets for name in names)
        free: set[int] = set()
        for k, (statement, names) in enumerate(zip(statements, self.targets)):
            alone = len(after[k]) == 1 and after[k] <= free
            loads = statement.loads and not after[k]
            if (alone or loads) and len(names) == 1 and times[names[0]] == 1:
                free.add(k)
        return free

    def _after(self) -> list[set[int]]:
        """The statements that each one has to follow: a variable may be assigned again."""
        made: dict[Name, int] = {}
        readers: dict[Name, set[int]] = {}
        found = []
        for k, (names, reads) in enumerate(zip(self.targets, self.reads)):
            before = {made[name] for name in (*reads, *names) if name in made}
            for name in reads:
                readers.setdefault(name, set()).add(k)
            for name in names:
                before |= readers.pop(name, set())
                made[name] = k
            found.append(before - {k})
        return found

    def best(self) -> int:
        """The statement to be placed next."""
        ready = [k for k in self.left if self.after[k] <= self.placed]
        costs = {k: self._cost(k) for k in ready}
        best = min(ready, key=lambda k: costs[k])
        if costs[best] < 0:
            return best
        return next((k for k in ready if not self._size(self.targets[k])), ready[0])

    def _cost(self, k: int, depth: int = DEPTH) -> int:
        """Registers that a statement allocates, alone or with those that can then follow it."""
        allocated = self._allocated(k)
        if not depth:
            return allocated
        loads = self._loads(k)
        self._place([*loads, k])
        follow = [n for n in self.users[k] if self.after[n] <= self.placed]
        rest = min((self._cost(n, depth - 1) for n in follow), default=0)
        self._unplace([*loads, k])
        return allocated + min(rest, 0)

    def _place(self, statements: Sequence[int]) -> None:
        self.placed.update(statements)
        for k in statements:
            self.uses.subtract(self.reads[k])

    def _unplace(self, statements: Sequence[int]) -> None:
        self.placed.difference_update(statements)
        for k in statements:
            self.uses.update(self.reads[k])

    def take(self, k: int) -> list[int]:
        """Places a statement and, before it, the loads that it is the first to use."""
        found = [*self._loads(k), k]
        self._place(found)
        self.left.remove(k)
        return found

    def _loads(self, k: int) -> list[int]:
        found: list[int] = []
        for name in self.reads[k]:
            load = self.loads.get(name)
            if load is not None and load not in self.placed and load not in found:
                found += [x for x in self._loads(load) if x not in found] + [load]
        return found

    def _allocated(self, k: int) -> int:
        """Registers of what a statement and its loads make, less those of what it uses last."""
        loaded = [name for load in self._loads(k) for name in self.targets[load]]
        new = [name for name in self.targets[k] if name not in self.reads[k]]
        last = [n for n in self.reads[k] if self.uses[n] == 1 and n not in self.kept]
        return self._size(new + loaded) - self._size(n for n in last if n not in self.targets[k])

    def _size(self, names: Iterable[Name]) -> int:
        return sum(self.sizes.get(name, SIZE) for name in names)
