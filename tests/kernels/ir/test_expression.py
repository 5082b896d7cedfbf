"""Expressions know the variables in them: text that looks like one is none."""

from __future__ import annotations

import pytest

from graphnn.kernels.ir.expression import (
    Effect,
    Name,
    bare,
    call,
    code,
    expr,
    functions,
    load,
    store,
    times,
    total,
)
from graphnn.kernels.ir.statement import assign, do, printed

MASK, AT, X = Name("mask"), Name("é"), Name("x")


def test_arguments_of_calls_are_no_variables() -> None:
    value = load(code("h_ptr + ({})", AT), code("{0} & ({0} == 1)", MASK), 'float("-inf")')
    made = assign(MASK, value.to("mask"))
    assert made.names == (MASK, AT) and made.uses == (AT, MASK)
    assert made.renamed({MASK: Name("m")}).text == (
        'm = tl.load(h_ptr + (é), mask=m & (m == 1), other=float("-inf")).to(mask)'
    )


def test_a_variable_does_not_get_lost_in_a_string() -> None:
    for value in (X, expr(X)):
        with pytest.raises(TypeError, match="lost in a string"):
            f"{value} + 1"


def test_fields_are_filled_in_order_or_by_number() -> None:
    assert code("{} < {}", X, 3).text == "x < 3"
    assert code("{1} - {0} * {1}", X, MASK).text == "mask - x * mask"
    assert code("{1} - {0} * {1}", X, MASK).names == (MASK, X)
    assert code("tl.where({{}}, {})", X).text == "tl.where({}, x)"


def test_other_expressions_stand_in_for_variables() -> None:
    made = code("{0} * 2 + {1} + x", X, MASK).replaced({X: code("({} + {})", X, MASK)})
    assert made.text == "(x + mask) * 2 + mask + x" and made.names == (X, MASK)


def test_sums_and_products_omit_neutral_terms() -> None:
    assert total(["", 0, X, 1]).text == "x + 1" and total([0, ""]).text == "0"
    assert times(1, X, 4).text == "x * 4" and times(X, 0).text == "0" and times(1, 1).text == "1"


def test_brackets_around_all_of_an_expression_are_left_out() -> None:
    assert bare(code("({} + (1))", X)).text == "x + (1)" and bare(code("({0}) * ({0})", X)).names
    assert bare(expr("(a)")).text == "a" and bare(code("({0}) * ({0})", X)).text == "(x) * (x)"
    assert bare(code("({})", X)).parts == (X,)


def test_effects_of_an_expression_include_those_of_its_parts() -> None:
    found = load(X, exchanged=True)
    assert found.is_load and found.loads and found.exchanged and found.to("ACC").is_load
    more = code("{} + 1", found.to("ACC"))
    assert not more.is_load and more.loads and more.exchanged
    assert store(X, call("matmul", X), MASK).effect is Effect.STORE
    assert store(X, call("matmul", X)).calls == {"matmul"}


def test_functions_of_a_template_are_its_calls_of_names() -> None:
    assert functions("tl.where({0} > 0, sigmoid({0}), tanh({1}).to(ACC))") == {"sigmoid", "tanh"}
    assert functions("({0} + {1} * {2})") == functions("{0}.to(ACC)") == frozenset()


def test_notes_are_printed_once_per_group() -> None:
    made = [assign(X, "1", "a"), assign(X, "2", "a"), do(store(X, "3"), "b"), assign(X, "4")]
    assert printed(made, "  ") == [
        "  # a",
        "  x = 1",
        "  x = 2",
        "  # b",
        "  tl.store(x, 3)",
        "  x = 4",
    ]
