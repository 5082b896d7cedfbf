"""The order in which thread blocks run: one after another, or in turns drawn at random."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Protocol

# how often a block finds nothing new where it waits before that is a deadlock
IDLE = 200
# the chance at each turn that the ranks of blocks are drawn anew
REDRAWN = 0.02


class Blocks(Protocol):
    """The blocks of a launch.

    `block` runs one, `changed` says whether memory was written, and `stuck` is the error of a block
    that waits forever.
    """

    changed: bool

    def block(self, number: int) -> Iterator[int]: ...

    def stuck(self, number: int, text: str) -> Exception: ...


def one_after_another(blocks: Blocks, count: int) -> None:
    """Run each block to its end before the next begins.

    Raises `blocks.stuck` if one waits for another: a GPU need not run them at the same time.
    """
    for number in range(count):
        last, idle = -1, 0
        for where in blocks.block(number):
            if where < 0:
                continue
            idle = idle + 1 if where == last and not blocks.changed else 0
            last, blocks.changed = where, False
            if idle > IDLE:
                raise blocks.stuck(
                    number,
                    "a deadlock: it waits for another block, and the launch is not cooperative: "
                    "the GPU need not run them at the same time",
                )


def in_turns(blocks: Blocks, count: int, seed: int) -> None:
    """Run all blocks together; they stop before and after what may wait, and at barriers.

    The block with the best rank goes on, so that some are left behind while others go as far as
    they can. A block that waits where nothing has changed is passed over. Raises `blocks.stuck` if
    none can go on.
    """
    drawn = random.Random(seed)
    ranks = list(range(count))
    drawn.shuffle(ranks)
    alive = {number: blocks.block(number) for number in range(count)}
    waits = {number: _Wait() for number in alive}
    changes = idle = 0
    while alive:
        if drawn.random() < REDRAWN:
            drawn.shuffle(ranks)
        able = [n for n in alive if waits[n].asleep != changes]
        if not able:
            idle += 1
            if idle > IDLE:
                text = f"a deadlock: {len(alive)} of {count} blocks wait for what no block will do"
                raise blocks.stuck(min(alive), text)
            for wait in waits.values():
                wait.asleep = -1
            continue
        number = min(able, key=ranks.__getitem__)
        blocks.changed = False
        where = next(alive[number], None)
        if where is None:
            del alive[number]
        if where is None or blocks.changed:
            changes, idle = changes + 1, 0
        if where is not None and where >= 0:
            waits[number].at(where, changes)


class _Wait:
    """Where a block last stopped before something that may wait, and after how many changes."""

    def __init__(self) -> None:
        self.where, self.changes, self.asleep = -1, -1, -1

    def at(self, where: int, changes: int) -> None:
        same = (where, changes) == (self.where, self.changes)
        self.where, self.changes = where, changes
        self.asleep = changes if same else -1
