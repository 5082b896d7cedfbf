"""The text of generated code: names, numbers, and lines that are wrapped and mean the same."""

import ast

import pytest

from graphnn.kernels.ir.printer import COLUMNS, exact, literal, wrapped

CALL = "tl.load(pointer + (" + " + ".join(f"some_offset_{k}" for k in range(9)) + "), mask=live)"
LINES = [
    "x = 1",
    f"value = {CALL}",
    f"value = {CALL}.to(ACC)",
    f"value = tl.where(step == 0, {CALL}, {CALL})",
    f"tl.store(pointer, {CALL})",
    "from graphnn.kernels.codegen.prelude import ("
    + ", ".join(f"function_{k}" for k in range(20))
    + ")",
]


@pytest.mark.parametrize("line", LINES, ids=range(len(LINES)))
@pytest.mark.parametrize("indent", ["", " " * 8])
def test_wrapped_lines_mean_the_same_and_are_short(line: str, indent: str) -> None:
    rows = wrapped(line, indent)
    assert all(row.startswith(indent) for row in rows)
    text = "\n".join(row.removeprefix(indent) for row in rows)
    assert ast.dump(ast.parse(text)) == ast.dump(ast.parse(line))
    # a sum of offsets is not taken apart
    assert all(len(row) <= COLUMNS or "some_offset" in row for row in rows)
    assert (len(rows) == 1) == (len(indent) + len(line) <= COLUMNS)


def test_a_line_that_fits_with_its_indent_stays_one() -> None:
    line = "f(" + "x" * (COLUMNS - 3 - 4) + ")"
    assert wrapped(line, " " * 4) == [" " * 4 + line]
    assert len(wrapped(line, " " * 5)) == 3


def test_a_line_without_a_call_at_its_end_is_left_alone() -> None:
    line = "value = " + " + ".join(["something_long"] * 9)
    assert wrapped(line, "") == [line]


@pytest.mark.parametrize(
    "value, kind, text",
    [
        (1, "float", "1.0"),
        (0.1, "float", "0.1"),
        (3, "int", "3"),
        (True, "bool", "True"),
        (float("inf"), "float", 'float("inf")'),
        (float("-inf"), "float", 'float("-inf")'),
        (float("nan"), "float", 'float("nan")'),
    ],
)
def test_numbers_as_source(value: object, kind: str, text: str) -> None:
    assert literal(value, kind) == text


def test_which_numbers_float32_has_exactly() -> None:
    assert all(map(exact, (1, True, 0.5, -3.25, 2.0**-20)))
    assert not any(map(exact, (0.1, 2.0**-21, float("inf"), float("nan"), 2.0**21)))
