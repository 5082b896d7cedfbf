"""The order of the statements of a step with a block axis."""

from __future__ import annotations

import pytest

from graphnn.kernels.analysis.list_schedule import ordered
from graphnn.kernels.ir.expression import Name
from tests.kernels.statements import sizes, statements

SIZES = sizes({"tile": 16, "other": 16, "line": 4, "more": 4, "one": 0, "two": 0})


def order(lines: list[str], kept: set[str] | None = None) -> list[str]:
    return [lines[k].split(" ")[0] for k in places(lines, kept or set())]


def places(lines: list[str], kept: set[str]) -> list[int]:
    """The indices of lines in their order."""
    made = statements(lines)
    return [made.index(s) for s in ordered(made, SIZES, {Name(name) for name in kept})]


def test_what_lets_go_of_more_than_it_takes_comes_first() -> None:
    lines = ["tile = f(x)", "more = g(x)", "line = sum(tile)", "tl.store(p, line + more)"]
    assert order(lines) == ["tile", "line", "more", "tl.store(p,"]


def test_what_is_used_again_is_not_let_go() -> None:
    lines = ["tile = f(x)", "more = g(x)", "line = sum(tile)", "tl.store(p, line + more)"]
    assert order(lines, {"tile"}) == ["tile", "more", "line", "tl.store(p,"]


def test_what_is_made_of_single_numbers_does_not_wait() -> None:
    lines = ["one = sum(line)", "tile = f(x)", "two = one * 2", "other = tile * two"]
    assert order(lines) == ["one", "two", "tile", "other"]


def test_loads_come_right_before_their_first_use() -> None:
    lines = ["line = tl.load(p)", "tile = f(x)", "tl.store(q, line + tile)"]
    assert order(lines) == ["tile", "line", "tl.store(q,"]


def test_what_is_made_of_one_load_alone_comes_with_it() -> None:
    lines = ["line = tl.load(p)", "more = line.to(ACC)", "tile = f(x)", "tl.store(q, more + tile)"]
    assert order(lines) == ["tile", "line", "more", "tl.store(q,"]


@pytest.mark.parametrize(
    "made", ["line, more = deinterleave2(one)", "line = f(one)\nmore = g(line)\nline = h(line)"]
)
def test_what_gives_more_or_a_name_anew_stays_before_its_users(made: str) -> None:
    lines = ["one = tl.load(p)", *made.split("\n"), "tile = f(x)", "tl.store(q, tile + more)"]
    found = places(lines, set())
    assert [k for k in found if k < len(lines) - 2] == list(range(len(lines) - 2))
    assert found.index(2 if "\n" in made else 1) < found.index(len(lines) - 1)


def test_what_lets_go_with_those_that_follow_it_comes_first() -> None:
    lines = ["tile = f(x)", "more = g(x)", "other = tile * 2", "line = sum(other)"]
    assert order([*lines, "tl.store(q, line + more)"]) == [
        *("tile", "other", "line", "more", "tl.store(q,"),
    ]


def test_a_name_that_is_given_anew_is_read_before() -> None:
    lines = ["tile = f(x)", "line = sum(tile)", "tile = g(tile)", "more = sum(tile)"]
    assert order(lines, {"line", "more"}) == ["tile", "line", "tile", "more"]


def test_every_line_is_placed_once() -> None:
    lines = ["a = tl.load(p)", "b, c = deinterleave2(a)", "tl.store(q, b)", "unused = tl.load(r)"]
    assert sorted(places(lines, set())) == [0, 1, 2, 3]
