"""The variables of loop kernels other than the values of the user.

A builder reserves what is declared here, so that no value of a user gets such a name.
"""

from __future__ import annotations

from ..ir.expression import Name


class V:
    """Variables of a persistent kernel.

    Rows of tiles are the rows of the program: `rows` their numbers, `live` the mask of those that
    exist, `n_rows` their count. `step` counts steps; `t` is the position of this step, `t_next` of
    the next one, `t_first` of the first one and `t_last` of the last one that any row has.
    `row_lengths` are the lengths of ragged rows, `longest` the longest of a tile, and `sorted_row`
    is the number of a row before sorting.

    With a block axis a block has one row, and rows of tiles are positions of that axis: `pos` down
    a column with the mask `live`, and `pos_row` along a row with the mask `live_pos_row`. A block
    of a cooperative kernel may have its own row: `row`, with the mask `live_pos` of its
    positions. `has_row` is whether there is such a row, `first_of_row` whether this block is the
    first one that has it. `row_index` numbers the rows of a tile.
    """

    rows = Name("rows")
    live = Name("live")
    n_rows = Name("n_rows")
    step = Name("step")
    t = Name("t")
    t_next = Name("t_next")
    t_first = Name("t_first")
    t_last = Name("t_last")
    sorted_row = Name("sorted_row")
    row_lengths = Name("row_lengths")
    longest = Name("longest")
    pos = Name("pos")
    pos_row = Name("pos_row")
    live_pos_row = Name("live_pos_row")
    row = Name("row")
    live_pos = Name("live_pos")
    has_row = Name("has_row")
    first_of_row = Name("first_of_row")
    row_index = Name("row_index")
    # whether this block is the first one of its tile, by row
    first_block = Name("first_block")
