"""Exchange buffers: what the thread blocks of a loop communicate at a step.

An exchange has slots that steps use in turn: a block that has gone on to the next step must not
overwrite what another block still reads. `kernels/analysis/happens_before.py` derives how many are
needed: two if a block reads states before it arrives at the last barrier of a step, three if it may
arrive earlier, as with a state of several steps ago, whose next value is known early.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...ir.program import Part

# the fewest slots that steps use in turn
SLOTS = 2


@dataclass(frozen=True)
class Exchange:
    """A value whose elements are published by the block that has them and read by all blocks.

    `value` is an operation of the sharded program, `size` the elements of a row. A `wide` value is
    exchanged in the dtype that it is computed in, others in the launch's dtype, to which matrix
    products round anyway. A `state` is read by the step after the one that publishes it. Without a
    `part` a block's elements are its partial sums; those of one sum are adjacent.
    """

    name: str
    value: str
    size: int
    wide: bool
    state: bool
    part: Part | None
    note: str
