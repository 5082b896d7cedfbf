"""Calls on random inputs of odd sizes: tiles are not full, and examples differ in length."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import cycle

import torch

from graphnn.ir.graph import BATCH, IR
from graphnn.runtime.call import read
from graphnn.runtime.model import Compiled
from graphnn.tools.example_inputs import random_inputs
from graphnn.tools.verification.results import Call

# Rows of the batch: more than one tile of 16 rows, so that a grid has two programs. Lengths of
# axes: few positions, as each is executed statement by statement, and no two axes alike.
ROWS, LENGTHS = 17, (3, 5, 7, 4)


def example_calls(model: Compiled, call: Call, sizes: Mapping[str, int] | None) -> list[Call]:
    """Return a call on all positions, and a ragged one if axes have a free length.

    `sizes` are lengths of axes, and "batch". Raises AxisError for an axis that does not exist. The
    rest is as in `call`; if that has lengths, there is only one call.
    """
    free = free_axes(model.ir)
    lengths = {BATCH: ROWS, **dict(zip(free, cycle(LENGTHS))), **(sizes or {})}
    whole = replace(call, inputs=random_inputs(model, lengths))
    if call.lengths or not free:
        return [whole]
    batch = lengths[BATCH]
    ragged = {a: torch.arange(batch) % lengths[a] + 1 for a in free}
    return [whole, replace(whole, title=", ragged", lengths=ragged)]


def given_sizes(model: Compiled, batch: int | None, length: int | None) -> dict[str, int]:
    """Return the sizes of a call with this batch and this length of all axes, if they are given."""
    lengths = dict.fromkeys(free_axes(model.ir), length) if length else {}
    return {k: n for k, n in {BATCH: batch, **lengths}.items() if n}


def free_axes(ir: IR) -> list[str]:
    """Return the axes of inputs whose length a call decides, without the batch."""
    over = {a for node in read.declared(ir).values() for a in node.attrs["over"]}
    axes = (a for a in ir.axes.values() if a.length is None and a.copy_of is None)
    return [a.name for a in axes if a.name != BATCH and a.name in over]
