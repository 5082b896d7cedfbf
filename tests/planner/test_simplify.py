"""Each rule of `simplify` shortens a graph that no other rule shortens, with equal results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import graphnn as gn
from graphnn.ir.graph import IR
from graphnn.ops.builder import Expr, const, make
from graphnn.planner.algebra.simplify import RULES, simplify

WIDTH = 4
Rule = tuple[str, int]


def slice_of(x: Expr, start: int, stop: int) -> Expr:
    return make("slice", x, dim=0, start=start, stop=stop, step=1)


def concatenate(*parts: Expr) -> Expr:
    return make("cat", *parts, dim=0)


# for each rule, by operation and index, graphs that only this rule shortens
EXAMPLES: dict[Rule, tuple[Callable[[Expr], Expr], ...]] = {
    ("add", 0): (lambda x: x * (const(x.ir, 2.0) + const(x.ir, 3.0)),),
    ("add", 1): (lambda x: x + 0, lambda x: 0.0 + x),
    ("add", 2): (lambda x: x + -make("tanh", x), lambda x: -make("tanh", x) + x),
    ("sub", 0): (lambda x: x * (const(x.ir, 2.0) - const(x.ir, 3.0)),),
    ("sub", 1): (lambda x: x - 0,),
    ("sub", 2): (lambda x: x - 1.5,),
    ("mul", 0): (lambda x: x + const(x.ir, 2.0) * const(x.ir, 3.0),),
    ("mul", 1): (lambda x: x * 1, lambda x: 1.0 * x),
    ("div", 0): (lambda x: x / 1,),
    ("neg", 0): (lambda x: -(-make("tanh", x)),),  # noqa: B002
    ("cast", 0): (lambda x: make("cast", x, dtype=x.dtype),),
    ("reshape", 0): (
        lambda x: make("reshape", x, shape=x.shape),
        lambda x: make("reshape", make("reshape", x, shape=(2, 2)), shape=(1, 4)),
    ),
    ("expand", 0): (lambda x: make("expand", x, shape=x.shape),),
    ("slice", 0): (
        lambda x: slice_of(x, 0, WIDTH),
        lambda x: slice_of(slice_of(x, 1, 4), 1, 3),
        lambda x: slice_of(concatenate(x, make("tanh", x)), WIDTH, 2 * WIDTH),
        lambda x: slice_of(concatenate(x, make("tanh", x)), WIDTH + 1, WIDTH + 3),
    ),
    ("cat", 0): (
        lambda x: concatenate(slice_of(x, 0, 2), slice_of(x, 2, WIDTH)),
        lambda x: concatenate(slice_of(x, 1, 2), slice_of(x, 2, WIDTH)),
    ),
}
CASES = [(rule, k) for rule, graphs in EXAMPLES.items() for k in range(len(graphs))]


def graph_of(build: Callable[[Expr], Expr]) -> gn.Graph:
    g = gn.Graph("tiny")
    x = g.input("x", (WIDTH,), over="time")
    g.ir.outputs["y"] = build(Expr(g.ir, x.id)).id
    return g


def structure(ir: IR) -> list[Any]:
    """Returns the structure of a graph, independent of its node names."""
    index = {i: n for n, i in enumerate(ir.nodes)}
    attrs = lambda n: {k: v for k, v in n.attrs.items() if k != "key"}
    nodes = [(n.op, [index[i] for i in n.inputs], attrs(n), n.shape) for n in ir]
    return [nodes, [index[i] for i in ir.outputs.values()]]


def test_every_rule_has_an_example() -> None:
    rules = {(op, k) for op, functions in RULES.items() for k in range(len(functions))}
    assert EXAMPLES.keys() == rules


@pytest.mark.parametrize("rule, k", CASES, ids=str)
def test_a_rule_shortens_its_graph(rule: Rule, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ir, (op, index) = graph_of(EXAMPLES[rule][k]).ir, rule
    with_it = simplify(ir)
    rest = tuple(f for n, f in enumerate(RULES[op]) if n != index)
    monkeypatch.setitem(RULES, op, rest)
    without = simplify(ir)
    assert structure(with_it) != structure(without)
    assert len(with_it) <= len(without)


@pytest.mark.parametrize("rule, k", CASES, ids=str)
def test_a_simplified_graph_computes_the_same_results(rule: Rule, k: int) -> None:
    g = graph_of(EXAMPLES[rule][k])
    x = torch.randn(2, 3, WIDTH)
    wanted = gn.compile(g, backend="reference")(x=x)
    assert torch.equal(gn.compile(g)(x=x), wanted)
