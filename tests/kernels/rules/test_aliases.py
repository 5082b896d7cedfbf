"""Variables that Triton's frontend would take for constant are found, exactly."""

from __future__ import annotations

import ast

import pytest
import torch
import triton
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.compiler.code_generator import CodeGenerator

import graphnn as gn
from graphnn.kernels.cache import load_module
from graphnn.kernels.rules.aliases import dropped_variables, one_value_in_both_branches
from graphnn.kernels.rules.syntax import parsed
from graphnn.kernels.rules.table import broken
from tests.backends.triton.places import INTERPRET
from tests.backends.triton.test_checked import launchers

HEAD = """
import triton
import triton.language as tl


@triton.jit
def kernel(start_ptr, n):
    x = tl.load(start_ptr)
    y = tl.load(start_ptr + 1)
"""
STEP = "    for step in range(n):\n"
SWAPPED = (
    "    a = x\n    b = {0}\n" + STEP + "        now = a + 1\n        a = b\n        b = now\n"
)


def dropped(body: str) -> set[str]:
    """The variables that the rule finds in a kernel of this body."""
    return {why.split("'")[1] for _, why in dropped_variables(parsed(HEAD + body))}


@pytest.mark.parametrize("start", ["x", "a", "x.to(tl.float32)", "x if True else y"])
def test_variables_that_change_places_and_began_as_one_are_found(start):
    assert dropped(SWAPPED.format(start)) == {"a"}


@pytest.mark.parametrize("start", ["x * 1", "y", "x + 0", "tl.where(x > 0, x, x)"])
def test_values_of_their_own_are_no_fault(start):
    assert dropped(SWAPPED.format(start)) == set()


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("    a = x\n" + STEP + "        a = x\n", set()),  # it does stay the same
        ("    a, b = x, x\n" + STEP + "        a, b = b, a + 1\n", {"a"}),
        (
            "    a, b, c = x, x, x\n" + STEP + "        a = b\n        b = c\n        c = a * 2\n",
            {"a", "b"},
        ),
        ("    a, b = x, x\n" + STEP + "        a = b\n", set()),
        (
            "    a, b = x, x\n"
            + STEP
            + "        for k in range(3):\n            b = a + 1\n        a = b\n",
            set(),
        ),
        (
            "    a, b = x, x\n"
            + STEP
            + "        a = b\n        for k in range(3):\n            b = b + 1\n",
            {"a"},
        ),
    ],
    ids=["itself", "at once", "chain", "constant", "inner loop", "inner loop behind"],
)
def test_what_is_dropped(body, found):
    assert dropped(body) == found


def test_branches_that_assign_one_value_are_found():
    """Triton would leave the variable as it was."""
    body = "    a = y\n    if n > 1:\n        a = x\n    else:\n        a = {}\n"
    found = [[*one_value_in_both_branches(parsed(HEAD + body.format(x)))] for x in ("x", "x * 1")]
    assert [len(faults) for faults in found] == [1, 0]


class Done(BaseException):
    """The frontend has seen all functions."""


def carried(bodies: list[str]) -> list[set[str]]:
    """What Triton's frontend carries in the loop of each body, all in one kernel."""
    text = "import triton\nimport triton.language as tl\n"
    for k, body in enumerate(bodies):
        text += f"\n\n@triton.jit\ndef f{k}(x, y, n):\n{body}"
    text += HEAD.partition("language as tl\n")[2]
    text += "".join(f"    f{k}(x, y, n)\n" for k in range(len(bodies))) + STEP + "        pass\n"
    found: dict[str, set[str]] = {}
    find = CodeGenerator._find_carries

    def patched(self, *args, **kwargs):
        if self.is_kernel:
            raise Done
        made = find(self, *args, **kwargs)
        found[self.jit_fn.__name__] = set(made[0])
        return made

    source = ASTSource(load_module(text, "carried").kernel, {"start_ptr": "*fp32", "n": "i32"})
    CodeGenerator._find_carries = patched
    try:
        with pytest.raises(Done):
            triton.compile(source, GPUTarget("cuda", 80, 32), {"enable_fp_fusion": True})
    finally:
        CodeGenerator._find_carries = find
    return [found[f"f{k}"] for k in range(len(bodies))]


def changed(begin: str, body: str) -> set[str]:
    """The variables that differ in some step from what they were before the loop."""
    begins = compile(begin, "begin", "exec")
    step = compile(body.replace(".to(tl.float32)", ""), "body", "exec")
    known = {"x": 0.7231, "y": -1.3717, "step": 0}
    exec(begins, {}, known)
    first, found = dict(known), set()
    for _ in range(6):
        found |= {name for name, value in known.items() if value != first.get(name, value)}
        exec(step, {}, known)
    return found


NAME = st.sampled_from("abcd")
VALUE = st.one_of(
    NAME,
    st.builds("{}.to(tl.float32)".format, NAME),
    st.builds("{} + {}".format, NAME, st.floats(1, 2)),
)
ASSIGNED = st.one_of(
    st.builds("{} = {}".format, NAME, VALUE),
    st.builds("{0}, {1} = {1}, {0}".format, NAME, NAME),
)
BEGINS = st.tuples(*[st.sampled_from(["x", "y", "x * 2", "a"])] * 3)
PROGRAMS = st.tuples(BEGINS, st.lists(ASSIGNED, min_size=1, max_size=6))


@settings(max_examples=3)
@given(st.lists(PROGRAMS, min_size=20, max_size=40))
def test_the_rule_is_the_frontends(programs):
    bodies, changes = [], []
    for starts, body in programs:
        begin = ["a = x", *(f"{name} = {value}" for name, value in zip("bcd", starts, strict=True))]
        text = "".join(f"    {line}\n" for line in begin)
        bodies.append(text + STEP + "".join(f"        {line}\n" for line in body))
        changes.append(changed("\n".join(begin), "\n".join(body)))
    for body, change, kept in zip(bodies, changes, carried(bodies), strict=True):
        assert dropped(body) == change - kept, body


class Late(nn.Module):
    """A state of some steps ago, all of whose slots begin as one input."""

    def __init__(self, delay: int = 2) -> None:
        super().__init__()
        self.rec, self.enc, self.delay = nn.Linear(20, 20), nn.Linear(20, 20), delay

    def graph(self, g: gn.Graph) -> None:
        x, init = g.input("x", (20,), over="time"), g.input("u0", (20,))
        u = g.state("u", (20,), delay=self.delay, init=init)
        u.next = torch.tanh(self.rec(u) + self.enc(x))
        g.output("y", u.next)


class Shifted(nn.Module):
    """A state that is the last one's value, both beginning as one input."""

    def __init__(self) -> None:
        super().__init__()
        self.rec = nn.Linear(20, 20)

    def graph(self, g: gn.Graph) -> None:
        x, start = g.input("x", (20,), over="time"), g.input("u0", (20,))
        h, z = g.state("h", (20,), init=start), g.state("z", (20,), init=start)
        h.next = torch.tanh(self.rec(h) + x + z)
        z.next = h
        g.output("y", h.next)


@pytest.mark.parametrize("strategy", ["resident", "cooperative"])
@pytest.mark.parametrize("net", [Late, Shifted])
def test_states_with_one_initial_value_are_separate_values(net, strategy):
    torch.manual_seed(0)
    model = gn.compile(net().double(), backend="interpret", skip=INTERPRET.skip(strategy))
    given = {"x": torch.randn(3, 5, 20).double(), "u0": torch.randn(3, 20).double()}
    given = {k: v.requires_grad_() for k, v in given.items()}
    model(**given).sum().backward()
    texts = [k.source.text for k in launchers(model)]
    assert len(texts) >= 2
    assert [broken(text) for text in texts] == [() for _ in texts]


def test_the_mend_is_what_keeps_them_apart():
    """Without a value of its own for each slot, the rule finds the states in the same kernel."""
    model = gn.compile(Late(3), backend="interpret", skip=("fit",))
    model.source()
    text = next(k.source.text for k in launchers(model))
    tree = ast.parse(text)
    (kernel,) = (n for n in tree.body if isinstance(n, ast.FunctionDef))
    for line in kernel.body:
        match line:
            case ast.Assign(value=ast.BinOp(left, ast.Mult(), ast.Constant(1))):
                line.value = left
    found = [x for x in broken(ast.unparse(tree)) if x.rule == "loop variables are carried"]
    assert len(found) >= 1
