"""Layouts of values: runs of index maps, tiles of runs, and consistent splits."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from graphnn.kernels.analysis.layout import (
    MOST_TILES,
    Run,
    TileLayout,
    broadcast,
    cover,
    runs,
    source,
)
from graphnn.kernels.ir.program import LoopProgram, LoopState, Op, Tensor, Unsupported
from graphnn.kernels.ir.tile import Span


@pytest.mark.parametrize(
    "places, wanted",
    [
        ([], ()),
        ([4], (Run(0, 1, 4, 1),)),
        ([3, 4, 5], (Run(0, 3, 3, 1),)),
        ([2, 2, 2], (Run(0, 3, 2, 0),)),
        ([-1, -1, 0, 1], (Run(2, 2, 0, 1),)),
        ([2, 3, 0, 1], (Run(0, 2, 2, 1), Run(2, 2, 0, 1))),
        ([2, 1, 0], (Run(0, 1, 2, 1), Run(1, 1, 1, 1), Run(2, 1, 0, 1))),
        ([0, 0, 1, 1], (Run(0, 2, 0, 0), Run(2, 2, 1, 0))),
        ([5, -1, 6], (Run(0, 1, 5, 1), Run(2, 1, 6, 1))),
        ([-1, -1], ()),
    ],
)
def test_runs_of_an_index_map(places: list[int], wanted: tuple[Run, ...]) -> None:
    assert runs(np.array(places, int)) == wanted


def test_runs_give_the_source_of_every_element() -> None:
    draw = np.random.default_rng(0)
    for _ in range(200):
        places = draw.integers(-1, 4, draw.integers(1, 12))
        found = runs(places)
        assert [p if (p := source(found, k)) is not None else -1 for k in range(len(places))] == [
            *places
        ]


@pytest.mark.parametrize(
    "shape, to, wanted",
    [
        ((3,), (3,), (Run(0, 3, 0, 1),)),
        ((), (4,), (Run(0, 4, 0, 0),)),
        ((1,), (4,), (Run(0, 4, 0, 0),)),
        ((3,), (2, 3), (Run(0, 3, 0, 1), Run(3, 3, 0, 1))),
        ((2, 1), (2, 3), (Run(0, 3, 0, 0), Run(3, 3, 1, 0))),
        ((2, 3), (2, 3), (Run(0, 6, 0, 1),)),
    ],
)
def test_runs_of_a_broadcast(
    shape: tuple[int, ...], to: tuple[int, ...], wanted: tuple[Run, ...]
) -> None:
    assert broadcast(shape, to) == wanted


@pytest.mark.parametrize(
    "size, wanted",
    [
        (1, [(1, 1)]),
        (2, [(2, 16)]),
        (16, [(16, 16)]),
        (20, [(20, 32)]),
        (33, [(32, 32), (1, 16)]),
        (64, [(64, 64)]),
        (100, [(100, 128)]),
        (160, [(128, 128), (32, 32)]),
        (192, [(128, 128), (64, 64)]),
    ],
)
def test_tiles_of_a_stretch(size: int, wanted: list[tuple[int, int]]) -> None:
    assert cover(size) == wanted


def test_tiles_hold_every_number_once_in_widths_that_products_take() -> None:
    for size in range(1, 700):
        tiles = cover(size)
        assert sum(valid for valid, _ in tiles) == size and len(tiles) <= 3
        assert all(valid <= width and width & (width - 1) == 0 for valid, width in tiles)
        assert size == 1 or all(width >= 16 for _, width in tiles)


def read(name: str, *shape: int) -> Op:
    return Op(name, "read", shape=shape, attrs={"tensor": Tensor(name, shape, ("time", "batch"))})


def view(name: str, shape: tuple[int, ...], **maps: list[int]) -> Op:
    """A view of the operands named, with each one's index map."""
    found = [np.array(m) for m in maps.values()]
    return Op(name, "view", tuple(maps), shape, attrs={"maps": found})


def layout(*ops: Op, states: tuple[LoopState, ...] = ()) -> TileLayout:
    tensors = tuple(op.attrs["tensor"] for op in ops if op.kind == "read")
    return TileLayout(LoopProgram("made", "time", ("batch",), False, tensors, ops, states, ()))


def spans(made: TileLayout, name: str) -> list[tuple[int, int]]:
    """Where each tile of a value starts, and how many numbers of it are valid."""
    return [(s.start, s.valid) for s in made.spans[name]]


def test_a_slice_splits_its_operand() -> None:
    made = layout(read("x", 40), view("y", (10,), x=[*range(20, 30)]))
    assert spans(made, "x") == [(0, 20), (20, 10), (30, 10)]
    assert made.spans["y"] == (Span(0, 10, 16),)


def test_a_join_is_cut_where_its_parts_meet_and_so_are_the_parts() -> None:
    a, b = [*range(6)] + [-1] * 4, [-1] * 6 + [*range(4)]
    made = layout(
        read("a", 6), read("b", 4), view("c", (10,), a=a, b=b), view("d", (5,), c=[*range(3, 8)])
    )
    assert spans(made, "c") == [(0, 3), (3, 3), (6, 2), (8, 2)]
    assert spans(made, "a") == [(0, 3), (3, 3)] and spans(made, "b") == [(0, 2), (2, 2)]
    assert spans(made, "d") == [(0, 3), (3, 2)]


def test_a_reshape_cuts_nothing_and_a_permutation_each_row() -> None:
    made = layout(read("x", 12), view("y", (3, 4), x=[*range(12)]))
    assert spans(made, "x") == spans(made, "y") == [(0, 12)]
    turned = np.arange(6).reshape(2, 3).T.reshape(-1).tolist()
    made = layout(read("x", 2, 3), view("y", (3, 2), x=turned))
    assert spans(made, "x") == spans(made, "y") == [(k, 1) for k in range(6)]


def test_a_broadcast_is_split_with_its_other_operand() -> None:
    point = Op("y", "pointwise", ("x", "b"), (2, 8), attrs={"template": "({0} + {1})"})
    made = layout(read("x", 2, 8), read("b", 8), point)
    assert spans(made, "y") == spans(made, "x") == [(0, 8), (8, 8)]
    assert spans(made, "b") == [(0, 8)]
    half = view("half", (4,), b=[*range(4)])
    made = layout(read("x", 2, 8), read("b", 8), point, half)
    assert spans(made, "y") == [(0, 4), (4, 4), (8, 4), (12, 4)]


def test_a_state_is_split_with_its_next_value() -> None:
    state = Op("z", "state", shape=(8,))
    closing = view("next", (8,), z=[*range(5, 8), *range(5)])
    zero = Op("zero", "const", attrs={"value": 0.0})
    made = layout(zero, state, closing, states=(LoopState("z", 1, ("zero",), "next"),))
    assert spans(made, "z") == spans(made, "next") == [(k, 1) for k in range(8)]


def test_reductions_cut_rows_and_give_single_numbers() -> None:
    last = Op("s", "sum", ("x",), (2,), attrs={"dims": (1,)})
    made = layout(read("x", 2, 8), last)
    assert spans(made, "x") == [(0, 8), (8, 8)] and spans(made, "s") == [(0, 1), (1, 1)]
    first = Op("s", "max", ("x",), (8,), attrs={"dims": (0,)})
    made = layout(read("x", 2, 8), first)
    assert spans(made, "x") == [(0, 8), (8, 8)] and spans(made, "s") == [(0, 8)]


def test_a_value_in_too_many_pieces_is_refused() -> None:
    count = MOST_TILES + 1
    with pytest.raises(Unsupported, match=f"more than {MOST_TILES} tiles"):
        layout(read("x", count), view("y", (count,), x=[*reversed(range(count))]))


def test_operands_have_a_tile_wherever_the_result_has_one() -> None:
    """Views of views: each tile of a result is one tile of what it comes from."""
    draw = np.random.default_rng(1)
    for _ in range(50):
        ops, width = [read("v0", 24)], 24
        for k in range(1, 4):
            start, size = draw.integers(0, width // 2), draw.integers(1, width // 2 + 1)
            places = np.roll(np.arange(start, start + size), draw.integers(0, 3))
            ops.append(view(f"v{k}", (int(size),), **{f"v{k - 1}": places.tolist()}))
            width = max(2, int(size))
            if size < 2:
                break
        made = layout(*ops)
        for before, after in itertools.pairwise(ops):
            tiles = {s.start: s.valid for s in made.spans[before.name]}
            for span in made.spans[after.name]:
                (found,) = made.between(after.name, before.name)
                assert tiles[source(found, span.start)] == span.valid
