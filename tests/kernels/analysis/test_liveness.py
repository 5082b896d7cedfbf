"""Which lines of a kernel are needed and in which order, and how wide its tiles are together."""

from __future__ import annotations

from graphnn.kernels.analysis import liveness
from tests.kernels.statements import sizes, statement, statements


def needed(lines: list[str]) -> set[int]:
    made = statements(lines)
    return {made.index(s) for s in liveness.needed(made)}


def sunk(lines: list[str]) -> list[int]:
    made = statements(lines)
    return [made.index(s) for s in liveness.sunk(made)]


def widths(before: list[str], step: list[str], of: dict[str, int]) -> tuple[int, ...]:
    return liveness.widths(statements(before), statements(step), sizes(of))


def test_lines_that_lead_to_no_store_are_not_needed() -> None:
    lines = [
        "a = tl.load(p)",
        "b = a * 2",
        "unused = a + b",
        "unused_too = unused * 2",
        "tl.store(q, b)",
    ]
    assert needed(lines) == {0, 1, 4}


def test_a_variable_that_is_made_of_itself_is_needed_where_it_is_read() -> None:
    assert needed(["z = 0", "z = z + 1", "tl.store(p, z)"]) == {0, 1, 2}
    assert needed(["ab = 1", "a = 2", "tl.store(p, a)"]) == {1, 2}


def test_all_of_a_chain_that_ends_nowhere_goes() -> None:
    assert needed(["a = 1", "b = a", "c = b", "tl.store(p, 0)"]) == {3}


SIZES = {"a": 16, "b": 32, "c": 64, "z": 8}


def test_tiles_live_from_where_they_are_made_to_their_last_use() -> None:
    step = ["a = x", "b = a + 1", "c = b + 1", "tl.store(p, c)"]
    assert sorted(widths([], step, SIZES)) == [32, 64]
    step = ["a = x", "b = a + 1", "c = b + 1", "tl.store(p, c + a)"]
    assert sorted(widths([], step, SIZES)) == [16, 32, 64]


def test_what_is_made_before_the_loop_and_used_in_it_lives_throughout() -> None:
    step = ["b = z + 1", "tl.store(p, b)", "c = x", "tl.store(p, c)"]
    assert sorted(widths(["z = x"], step, SIZES)) == [8, 64]
    assert sorted(widths(["a = x"], step, SIZES)) == [64]


def test_what_one_step_leaves_to_the_next_lives_throughout() -> None:
    step = ["c = x", "tl.store(p, c)", "b = z + 1", "z = b"]
    assert sorted(widths(["z = x"], step, SIZES)) == [8, 64]


def test_what_holds_no_tile_of_rows_is_not_counted() -> None:
    assert widths([], ["w = tl.load(p)", "t = w", "tl.store(p, t)"], SIZES) == ()


def test_what_a_line_assigns() -> None:
    assert given("a = b + c") == ["a"]
    assert given("a, b_2 = deinterleave2(c)") == ["a", "b_2"]
    assert given("tl.store(a, b, mask=c)") == given("a == b") == []


def given(line: str) -> list[str]:
    return [name.text for name in statement(line).targets]


def test_a_statement_is_live_if_any_of_its_targets_is() -> None:
    lines = [
        "x = tl.load(p)",
        "a, b = deinterleave2(x)",
        "c, d = deinterleave2(a)",
        "tl.store(q, b)",
    ]
    assert needed(lines) == {0, 1, 3}


def test_loads_go_to_where_they_are_used() -> None:
    lines = ["x = tl.load(p)", "y = tl.load(q)", "a = h * 2", "b = a + y", "c = b + x", "u = 1"]
    assert [lines[k][0] for k in sunk(lines)] == ["a", "y", "b", "x", "c", "u"]


def test_a_load_that_nothing_uses_is_the_last() -> None:
    assert sunk(["x = tl.load(p)", "a = h"]) == [1, 0]


def test_a_product_that_comes_apart_is_alive_together_with_its_parts() -> None:
    sizes = {"h": 64, "w": 256, "a": 128, "b": 128}
    step = ["w = matmul(h, m)", "a, b = deinterleave2(w)", "h = a + b"]
    assert sorted(widths(["h = zeros"], step, sizes)) == [64, 128, 128, 256]


def test_functions_and_methods_are_no_variables() -> None:
    found = statement("line = tl.where(a, tile.to(ACC), 0.5)")
    assert [name.text for name in found.names] == ["line", "a", "tile", "ACC"]
    assert needed(["where = 1", "tl.store(p, tl.where(a, b, c))"]) == {1}
