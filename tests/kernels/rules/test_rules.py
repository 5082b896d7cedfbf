"""Each rule finds a violation that is put into a kernel, and kernels as emitted have none."""

from __future__ import annotations

import inspect
import re

import pytest
import torch

import graphnn as gn
from graphnn.kernels.attention import topk
from graphnn.kernels.codegen import prelude
from graphnn.kernels.cooperative.codegen import barrier
from graphnn.kernels.rules import memory
from graphnn.kernels.rules.syntax import parsed
from graphnn.kernels.rules.table import RULES, broken, loaded
from graphnn.kernels.runtime import random, scan
from tests.backends.triton.places import INTERPRET
from tests.backends.triton.test_checked import launchers
from tests.kernels.cooperative.test_slots import Cell, Loops

HEAD = """import triton
import triton.language as tl

from graphnn.kernels.codegen.prelude import matmul


@triton.jit(do_not_specialize=["n"])
def kernel(x_ptr, y_ptr, n, ROWS: tl.constexpr):
    rows = tl.arange(0, ROWS)
    a = tl.load(x_ptr + rows)
    b = tl.load(y_ptr + rows)
"""
# for each rule of single kernels: lines that keep it, and what makes them break it
SEEDED = {
    "loop variables are carried": (
        "    b = a * 1\n    for s in range(n):\n        c = a + 1\n        a = b\n        b = c\n",
        ("b = a * 1", "b = a"),
    ),
    "branches assign different values": (
        "    if n > 1:\n        a = b\n    else:\n        a = b * 1\n",
        ("b * 1", "b"),
    ),
    "a counter belongs to its loop": (
        "    k = n\n    for s in range(n):\n        a = a + s\n",
        ("k = n", "s = n"),
    ),
    "running sums are not read": (
        "    for s in tl.range(n):\n        r = tl.sum(tl.load(x_ptr + rows[:, None] + rows), 1)\n"
        "        a = a + r[:, None]\n        tl.store(y_ptr + s, a)\n",
        ("r[:, None]", "r"),
    ),
    "one return per function": (
        "    return a\n",
        ("return a", "if n:\n        return b\n    return a"),
    ),
    "products are the prelude's": (
        "    a = matmul(a, b, a, 1, 1)\n",
        ("matmul(a, b, a, 1, 1)", "tl.dot(a, b)"),
    ),
    "masks are tiles": (
        "    a = tl.load(x_ptr + rows, mask=(rows < n) & (rows > 2))\n",
        ("(rows > 2)", "(n > 2)"),
    ),
    "names are unique": ("    c = matmul(a, b, a, 1, 1)\n", ("c =", "matmul =")),
    "names are known": ("    c = a + b\n", ("a + b", "a + d")),
    "no load of what was stored": (
        "    tl.store(x_ptr + rows, a)\n    tl.debug_barrier()\n    c = tl.load(x_ptr + rows)\n",
        ("    tl.debug_barrier()\n", ""),
    ),
    "loops over steps are not pipelined": (
        "    for s in tl.range(0, n, num_stages=1):\n        a = tl.load(x_ptr + s)\n"
        "        tl.debug_barrier()\n        tl.store(x_ptr + s, a)\n        tl.debug_barrier()\n",
        (", num_stages=1", ""),
    ),
}
# for each rule of cooperative kernels: a change of an emitted one
IN_STEPS = {
    "exchanged values are read from L2": (
        r', cache_modifier="\.cg"|\n *cache_modifier="\.cg",',
        "",
    ),
    "barriers order exchanges": (
        r"slot = step % 3\n( *)next_slot = .*\n",
        r"slot = step % 2\n\1next_slot = 1 - slot\n",
    ),
    "results of waits are used": (r"patience = wait\(", "wait("),
}


def emitted(net, strategy="cooperative"):
    """The texts of the kernels of a network."""
    torch.manual_seed(0)
    model = gn.compile(net, backend="interpret", skip=INTERPRET.skip(strategy))
    model.source()
    return [k.source for k in launchers(model)]


def rules_of(text):
    return {x.rule for x in broken(text)}


def test_every_rule_has_a_seeded_violation():
    assert [*SEEDED, *IN_STEPS] == sorted((r.name for r in RULES), key=[*SEEDED, *IN_STEPS].index)


@pytest.mark.parametrize("rule", SEEDED)
def test_a_violation_is_found(rule):
    body, (good, bad) = SEEDED[rule]
    assert good in body
    assert rules_of(HEAD + body) == set()
    assert rule in rules_of(HEAD + body.replace(good, bad))


@pytest.mark.parametrize("rule", IN_STEPS)
def test_a_violation_in_a_cooperative_kernel_is_found(rule):
    text = emitted(Cell(2))[0].text
    changed, count = re.subn(*IN_STEPS[rule][:1], IN_STEPS[rule][1], text)
    assert count and rules_of(text) == set()
    assert rule in rules_of(changed)


@pytest.mark.parametrize(
    "change",
    [
        (r"    arrive\(arrived\)\n    \w", "    x"),  # of the initial values
        (r"\n        arrive\(arrived\)", ""),
        (r"wait\(arrived, \(step \+ 1\) \* 2", "wait(arrived, step * 2"),
        (r"wait\(arrived, \(step \+ 1\) \* 2", "wait(arrived, (step + 2) * 2"),
        (r"\(next_slot \* n_rows", "(slot * n_rows"),
    ],
    ids=["first arrival", "arrival", "wait too short", "wait too long", "slot"],
)
def test_an_order_that_is_wrong_is_found(change):
    text = emitted(Cell(1))[0].text
    changed, count = re.subn(*change, text)
    assert count == 1
    assert "barriers order exchanges" in rules_of(changed)


def test_a_kernel_that_breaks_a_rule_is_not_loaded():
    body, (good, bad) = SEEDED["loop variables are carried"]
    with pytest.raises(AssertionError, match=r"kernel swapped breaks .* line 15, `a = b`: 'a' beg"):
        loaded(HEAD + body.replace(good, bad), "swapped")


@pytest.mark.parametrize("strategy", ["resident", "cooperative"])
@pytest.mark.parametrize("net", [lambda: Cell(1, 3, norm=True), lambda: Loops(1, 2)])
def test_emitted_kernels_keep_all_rules(net, strategy):
    sources = emitted(net(), strategy)
    assert len(sources) >= 2
    assert [broken(s.text) for s in sources] == [() for _ in sources]
    for source in sources:
        assert memory.slots_of(parsed(source.text)) <= getattr(source, "slots", 0)


# the rules that are about emitted names and arguments, and that products are the prelude's
EMITTED = {
    "products are the prelude's",
    "one return per function",
    "masks are tiles",
    "names are known",
}


@pytest.mark.parametrize("module", [prelude, barrier, scan, topk, random], ids=lambda m: m.__name__)
def test_kernels_written_by_hand_keep_the_others(module):
    assert rules_of(inspect.getsource(module)) <= EMITTED
