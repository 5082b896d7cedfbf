"""The order of a cooperative kernel's step: nothing crosses a barrier, and loads run ahead."""

from __future__ import annotations

from graphnn.kernels.analysis.barrier_schedule import scheduled
from graphnn.kernels.ir.expression import Effect, Name
from graphnn.kernels.ir.statement import Statement, assign
from tests.kernels.statements import sizes, statement

PIECES = [
    line
    for k in range(4)
    for line in (
        f"k_{k} = tl.load(keys + {k})",
        f"a_{k} = k_{k} * 2",
        f"tl.store(out + {k}, a_{k})",
    )
]
SIZES = sizes({**{f"k_{k}": 8 for k in range(4)}, **{f"a_{k}": 16 for k in range(4)}})


def order(*lines: str) -> list[str]:
    return [found.text for found in scheduled([made(x) for x in lines], [], SIZES, Name)]


def made(text: str) -> Statement:
    """A statement; `trust` is checked at a barrier."""
    found = statement(text)
    if not text.startswith("trust = "):
        return found
    return assign(found.targets, found.value, effect=Effect.CHECK)


def test_a_piece_is_used_up_before_the_next_but_loads_are_under_way() -> None:
    found = order(*sorted(PIECES, key=lambda text: ("load" not in text, "store" in text)))
    assert sorted(found) == sorted(PIECES)
    assert found[:3] == [
        "k_0 = tl.load(keys + 0)",
        *(f"k_{k} = tl.load(keys + {k})" for k in (1, 2)),
    ]
    uses = [text for text in found if "load" not in text]
    assert uses == [text for text in PIECES if "load" not in text]


def test_only_loads_of_inputs_move_across_a_barrier() -> None:
    lines = ["y = x + 1", "tl.store(slot, y)", "arrive(arrived)", "patience = wait(arrived)"]
    lines += [
        "trust = patience * 0.0",
        "k_0 = tl.load(keys)",
        "z = tl.load(slot, '.cg')",
        "w = z * k_0",
    ]
    assert order(*lines) == [*lines[:3], lines[5], *lines[3:5], *lines[6:]]


def test_loads_for_the_next_step_follow_the_uses_of_this_step() -> None:
    lines = ["x = x_next + 1", "x_next = tl.load(given)", "tl.store(out, x)"]
    found = order(*lines)
    assert found.index(lines[0]) < found.index(lines[1])
