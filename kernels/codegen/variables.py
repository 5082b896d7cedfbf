"""The variables that kernels of loops have besides those of the user's values.

A builder reserves what is declared here, so that no value of a user gets such a name.
"""

from __future__ import annotations

from ..ir.expression import Name


class V:
    """Variables of a persistent kernel.

    Rows of tiles are the rows of the program: `rows` their numbers, `live` the mask of those that
    exist, `n_rows` their count. `step` counts steps, `t` is the position of this step, `ahead` of
    the next one, `first` of the first one and `last` of the last one that any row has; `ends` are
    the lengths of ragged rows, `stop` the longest of a tile and `place` the number of a row before
    sorting.

    With a block axis a block has one row, and rows of tiles are positions of that axis: `lane` are
    the positions down a column and `across` along a row, `live` and `there` their masks. A block of
    a cooperative kernel that has a row of its own calls it `row` and the mask of its positions
    `living`; `mine` tells whether there is such a row, `leads` whether this block is the first one
    that has it, and `number` numbers the rows of a tile.
    """

    rows = Name("rows")
    live = Name("live")
    n_rows = Name("n_rows")
    step = Name("step")
    t = Name("t")
    ahead = Name("ahead")
    first = Name("first")
    last = Name("last")
    place = Name("place")
    ends = Name("ends")
    stop = Name("stop")
    lane = Name("lane")
    across = Name("across")
    there = Name("there")
    row = Name("row")
    living = Name("living")
    mine = Name("mine")
    leads = Name("leads")
    number = Name("number")
    # whether this block is the first one of its tile, by row
    alone = Name("alone")
