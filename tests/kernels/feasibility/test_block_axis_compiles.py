"""Functions over a block axis compile for GPUs, for every dtype: the interpreter ignores types."""

from __future__ import annotations

import pytest
import triton
import triton.language as tl

from graphnn.kernels.codegen.prelude import (
    axis_max,
    axis_sum,
    element_at,
    flip,
    logsumexp,
    roll,
    softmax,
    to_block_layout,
)
from graphnn.kernels.feasibility.aot import inspect


@triton.jit
def over_block_axis(x, y, many, F: tl.constexpr, AXIS: tl.constexpr, WIDTH: tl.constexpr):
    lane, across = tl.arange(0, 16), tl.arange(0, WIDTH)
    if AXIS == 0:
        place, where = lane[:, None], lane[:, None] * WIDTH + across[None, :]
    else:
        place, where = lane[None, :], lane[None, :]
    v = tl.load(x + where)
    live = place < many
    if F == "roll":
        v = roll(v, place, live, many, 1, AXIS)
    if F == "flip":
        v = flip(v, place, live, many, AXIS)
    if F == "axis_sum":
        v = tl.broadcast_to(axis_sum(v, place, live, many, AXIS), v.shape)
    if F == "axis_max":
        v = tl.broadcast_to(axis_max(v, place, live, many, AXIS), v.shape)
    if F == "softmax":
        v = softmax(v, place, live, many, AXIS)
    if F == "logsumexp":
        v = tl.broadcast_to(logsumexp(v, place, live, many, AXIS), v.shape)
    if F == "element_at":
        v = tl.broadcast_to(element_at(v, place, live, many, -1, AXIS), v.shape)
    tl.store(y + where, v)


@triton.jit
def spread(x, y, ROWS: tl.constexpr, WIDTH: tl.constexpr, ACC: tl.constexpr):
    across = tl.arange(0, WIDTH)[None, :]
    tl.store(y + across, to_block_layout(tl.load(x + across), ROWS, ACC))


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(
    "name", ["roll", "flip", "axis_sum", "axis_max", "softmax", "logsumexp", "element_at"]
)
def test_functions_over_a_block_axis_compile_along_rows_and_columns(name, axis):
    types = {"x": "*fp32", "y": "*fp32", "many": "i32"}
    types |= dict.fromkeys(("F", "AXIS", "WIDTH"), "constexpr")
    assert not inspect(over_block_axis, types, {"F": name, "AXIS": axis, "WIDTH": 8}).spills


@pytest.mark.parametrize("kind", ["fp32", "i64"])
def test_values_without_the_block_axis_keep_their_dtype(kind):
    types = {"x": f"*{kind}", "y": f"*{kind}"}
    types |= dict.fromkeys(("ROWS", "WIDTH", "ACC"), "constexpr")
    assert not inspect(spread, types, {"ROWS": 16, "WIDTH": 8, "ACC": tl.float32}).spills
