"""The examples in the docstrings of the public API run, and every public name has one.

An example is either a doctest (`>>>`), whose output is compared, or an indented block of code that
names `gn.`, `model` or `self`, which must run. `SETUP` defines the names that such a block assumes.
"""

from __future__ import annotations

import ast
import doctest
import inspect
import pathlib
import re
import textwrap
import types
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import graphnn as gn

HOMES = {"gn": gn, "gn.nn": gn.nn, "gn.pictures": gn.pictures}
# classes whose public methods need examples too
WITH_METHODS = ("gn.Compiled", "gn.Graph")
# methods that other folders of graphnn call, not users
INTERNAL = {
    f"gn.Graph.{name}"
    for name in "apply current length ragged tensor trace_call tracing value_of".split()
}
ELMAN = "model, x = gn.compile(Net()), torch.randn(8, 5, 16)"
TRANSLATE = """
model = gn.compile(gn.nn.Seq2Seq(7, 9, 4, 6).eval())
source, BOS, EOS = torch.ones(2, 3, dtype=torch.int64), 1, 2
"""
SETUP = {
    "gn.Compiled": ELMAN,
    "gn.Compiled.forward": ELMAN + "; x = x[:2]",
    "gn.Compiled.generate": TRANSLATE,
    "gn.Compiled.parts": TRANSLATE,
    "gn.gradient_flow": ELMAN,
    "gn.nn.Hyper": """
g = gn.Graph()
self, x, u = Registering(g), g.input("x", (28,)), g.input("u", (3,))
self.net = nn.Linear(3, 8)
""",
}


class Net(nn.Module):
    """An Elman network of 16 inputs, for examples."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.Linear(16 + 4, 4)

    def graph(self, g: gn.Graph) -> None:
        x, h = g.input("x", (16,), over="time"), g.state("h", (4,))
        h.next = torch.tanh(self.cell(torch.cat([x, h])))
        g.output("y", h.next)


class Registering:
    """A `self` whose attributes become modules of a graph, for examples."""

    def __init__(self, g: gn.Graph):
        self.__dict__["g"] = g

    def __setattr__(self, name: str, module: nn.Module) -> None:
        self.__dict__[name] = self.g.module(name, module)


def public() -> Iterator[tuple[str, Any]]:
    """Every public name with its object, and the public methods of public classes."""
    for home, module in HOMES.items():
        for name in module.__all__:
            found = getattr(module, name)
            if isinstance(found, types.ModuleType):
                continue
            yield f"{home}.{name}", found
            for method, f in vars(found).items() if inspect.isclass(found) else ():
                if not method.startswith("_") and not inspect.isclass(f):
                    yield f"{home}.{name}.{method}", getattr(f, "__func__", f)


PUBLIC = dict(public())


def is_code(block: str) -> bool:
    """Whether an indented block is an example: code that uses the library, not mathematics."""
    try:
        nodes = list(ast.walk(ast.parse(block)))
    except SyntaxError:
        return False
    names = {n.id for n in nodes if isinstance(n, ast.Name)}
    return bool(names & {"gn", "model", "self"}) and any(isinstance(n, ast.Call) for n in nodes)


def doc_of(name: str) -> str:
    return inspect.cleandoc(getattr(PUBLIC[name], "__doc__", None) or "")


def blocks(name: str) -> list[str]:
    """The indented blocks of a docstring that are code, without doctests."""
    found = re.findall(r"(?:^|\n\n)((?: {4}.*(?:\n|$)|\n(?= {4}))+)", doc_of(name))
    return [b for b in (textwrap.dedent(f) for f in found) if ">>>" not in b and is_code(b)]


def namespace(name: str) -> dict[str, Any]:
    """The names that an example may use."""
    libraries = {"gn": gn, "torch": torch, "nn": nn, "F": F, "pathlib": pathlib}
    names: dict[str, Any] = {**libraries, "Net": Net, "Registering": Registering}
    home = name.rpartition(".")[0]
    exec(SETUP.get(name, SETUP.get(home, "")), names)
    return names


def has_example(name: str) -> bool:
    return ">>> " in doc_of(name) or bool(blocks(name))


def needs_example(name: str) -> bool:
    """Whether a name must have an example: it is a class, a function, or a method of a model."""
    owner = name.rpartition(".")[0]
    if owner in HOMES:
        return True
    return owner in WITH_METHODS and inspect.isfunction(PUBLIC[name])


def test_every_public_name_has_an_example() -> None:
    without = {n for n in PUBLIC if needs_example(n) and not has_example(n)}
    assert without - INTERNAL == set()
    assert INTERNAL - set(PUBLIC) == set()


def test_every_public_name_has_a_docstring() -> None:
    assert [n for n in PUBLIC if needs_example(n) and not doc_of(n)] == []


@pytest.mark.parametrize("name", [n for n in PUBLIC if has_example(n)])
def test_an_example_runs(
    name: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    test = doctest.DocTestParser().get_doctest(doc_of(name), namespace(name), name, None, 0)
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    runner.run(test, out=said.append)
    assert not runner.failures, "".join(said)
    for block in blocks(name):
        exec(compile(block, f"<example of {name}>", "exec"), namespace(name))


def test_mathematics_is_no_code() -> None:
    assert is_code("y = gn.sum(x, over='time')") and is_code("model(x=x)")
    assert not is_code("h = o ⊙ tanh(c)") and not is_code("c = f(c)")
    assert not is_code("model") and not is_code("scale it (Ba et al. 2016)")
