"""Generated torch code as data: expressions know their variables, unused statements are dropped."""

from __future__ import annotations

import pytest

import graphnn as gn
from graphnn.backends.torch.codegen.code import (
    Definition,
    Expression,
    For,
    If,
    assign,
    code,
    do,
    joined,
    needed,
    unpack,
    variable,
)

A, B, C = (variable(name) for name in "abc")


def test_an_expression_has_the_variables_of_its_parts() -> None:
    made = code("{}.sum({dim}) + {}", A, code("f({})", joined([B, 2])), dim=C)
    assert made == Expression("a.sum(c) + f(b, 2)", frozenset("abc"))


def test_an_expression_in_a_string_raises() -> None:
    with pytest.raises(TypeError, match="would lose its variables"):
        f"{A} + 1"


def test_statements_that_nothing_reads_are_dropped() -> None:
    body = [
        unpack([A, B, C], variable("tensors")),
        assign(variable("unread"), A),
        assign(variable("d"), code("{}[0]", B), "net.py:1"),
        do(code("{}.zero_()", variable("d"))),
    ]
    kept = needed(body, [C])
    assert [line for x in kept for line in x.lines()] == [
        "_, b, c = tensors",
        "d = b[0]  # net.py:1",
        "d.zero_()",
    ]


def test_reads_of_loops_and_branches_include_their_bodies() -> None:
    step = For({"x": code("{}.unbind(0)", A)}, [If(B, [do(code("f({}, x)", C))])])
    assert step.uses == {"a", "b", "c"} and step.targets == ("x",)
    source = Definition("f", "tensors", "Doc.", [step], [A], [["heading:", "one", "two"]]).source()
    assert source == (
        '# heading: one, two\ndef f(tensors):\n    """Doc."""\n    for (x,) in zip(\n'
        "        a.unbind(0),\n    ):\n        if b:\n            f(c, x)\n    return [a]\n"
    )


def test_long_headers_are_wrapped_between_items() -> None:
    items = [f"value_{k} (time, batch, {k})" for k in range(9)]
    lines = Definition("f", "", "", [], [], [["reads:", *items]]).head()[:-2]
    assert len(lines) > 1 and all(len(line) <= 100 for line in lines)
    assert (
        "".join(line.lstrip("# ") + " " for line in lines).strip() == f"reads: {', '.join(items)}"
    )


def test_headers_name_the_network_and_its_values() -> None:
    source = gn.compile(gn.nn.LSTM(3, 4)).source()
    assert source.startswith("# lstm: ")
    assert "# inputs: x (time, batch, 3)\n# outputs: y (time, batch, 4)\n" in source
