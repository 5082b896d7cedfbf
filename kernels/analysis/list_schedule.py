"""The order of the lines of a step that takes all of an axis: that in which it holds least.

LLVM and the assembler move a line within it, but not over a barrier, and each change of layout is
one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from .liveness import given, words

# registers a thread of what is in no list: sums on their way, 16 rows over all warps
SIZE = 4
# how many lines are looked at that can follow one: what two together let go of, one may not (that
# machine, backward, sm_80, bf16, Triton 3.6: 64 bytes spilled where none is, none with two)
DEPTH = 2


def ordered(lines: Sequence[str], sizes: Mapping[str, int], kept: set[str]) -> list[int]:
    """The places of lines, in an order in which what lets go of more than it takes comes first.

    And so does what takes nothing: stores, and what is made of single numbers, which else holds all
    that these are sums of. The rest keeps its order, and each load comes right before what first
    uses it. `sizes` are those of variables, `kept` the ones that are used after the last line.

    A Neural Turing Machine of 128 slots, backward (sm_90, bf16, 8 warps, not capped): 248 bytes are
    spilled in the order of the operations, none in this.
    """
    waiting = _Waiting(lines, sizes, kept)
    order: list[int] = []
    while waiting.lines:
        order += waiting.take(waiting.best())
    # what only a state takes
    return order + [k for k in waiting.loads.values() if k not in waiting.placed]


class _Waiting:
    """Lines that are yet to be placed, and what of their variables is alive."""

    def __init__(self, lines: Sequence[str], sizes: Mapping[str, int], kept: set[str]):
        self.sizes, self.kept = sizes, kept
        self.gives = [given(line) for line in lines]
        made = sizes.keys() | {name for names in self.gives for name in names}
        read = [words(line)[len(names) :] for line, names in zip(lines, self.gives)]
        self.reads = [[name for name in dict.fromkeys(names) if name in made] for names in read]
        self.uses = Counter(name for names in self.reads for name in names)
        after = self._after()
        free = self._free(lines, after)
        self.loads = {self.gives[k][0]: k for k in sorted(free)}
        self.lines = [k for k in range(len(lines)) if k not in free]
        self.placed: set[int] = set()
        self.after = [before - free for before in after]
        self.users: list[list[int]] = [[] for _ in lines]
        for k in self.lines:
            for before in self.after[k]:
                self.users[before].append(k)

    def _free(self, lines: Sequence[str], after: Sequence[set[int]]) -> set[int]:
        """The lines that load, and those that make one variable of one load alone."""
        times = Counter(name for names in self.gives for name in names)
        free: set[int] = set()
        for k, (line, names) in enumerate(zip(lines, self.gives)):
            alone = len(after[k]) == 1 and after[k] <= free
            loads = "tl.load(" in line and not after[k]
            if (alone or loads) and len(names) == 1 and times[names[0]] == 1:
                free.add(k)
        return free

    def _after(self) -> list[set[int]]:
        """The lines that each has to follow: a name may be given anew."""
        made: dict[str, int] = {}
        readers: dict[str, set[int]] = {}
        found = []
        for k, (names, reads) in enumerate(zip(self.gives, self.reads)):
            before = {made[name] for name in (*reads, *names) if name in made}
            for name in reads:
                readers.setdefault(name, set()).add(k)
            for name in names:
                before |= readers.pop(name, set())
                made[name] = k
            found.append(before - {k})
        return found

    def best(self) -> int:
        """The line to be placed next."""
        ready = [k for k in self.lines if self.after[k] <= self.placed]
        takes = {k: self._worth(k) for k in ready}
        best = min(ready, key=lambda k: takes[k])
        if takes[best] < 0:
            return best
        return next((k for k in ready if not self._size(self.gives[k])), ready[0])

    def _worth(self, k: int, depth: int = DEPTH) -> int:
        """What a line takes, or with those that can then follow, if they let go of more."""
        takes = self._takes(k)
        if not depth:
            return takes
        loads = self._loads(k)
        self._place([*loads, k])
        follow = [n for n in self.users[k] if self.after[n] <= self.placed]
        rest = min((self._worth(n, depth - 1) for n in follow), default=0)
        self._unplace([*loads, k])
        return takes + min(rest, 0)

    def _place(self, lines: Sequence[int]) -> None:
        self.placed.update(lines)
        for k in lines:
            self.uses.subtract(self.reads[k])

    def _unplace(self, lines: Sequence[int]) -> None:
        self.placed.difference_update(lines)
        for k in lines:
            self.uses.update(self.reads[k])

    def take(self, k: int) -> list[int]:
        """The places of a line and, before it, of the loads that it is the first to use."""
        found = [*self._loads(k), k]
        self._place(found)
        self.lines.remove(k)
        return found

    def _loads(self, k: int) -> list[int]:
        found: list[int] = []
        for name in self.reads[k]:
            load = self.loads.get(name)
            if load is not None and load not in self.placed and load not in found:
                found += [x for x in self._loads(load) if x not in found] + [load]
        return found

    def _takes(self, k: int) -> int:
        """The registers that a line takes, its loads too, less those that it is the last to use."""
        loaded = [name for load in self._loads(k) for name in self.gives[load]]
        new = [name for name in self.gives[k] if name not in self.reads[k]]
        last = [n for n in self.reads[k] if self.uses[n] == 1 and n not in self.kept]
        return self._size(new + loaded) - self._size(n for n in last if n not in self.gives[k])

    def _size(self, names: Iterable[str]) -> int:
        return sum(self.sizes.get(name, SIZE) for name in names)
