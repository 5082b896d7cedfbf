"""`import graphnn` and the command line import few modules and no unused library."""

import ast
import pathlib
import subprocess
import sys

import pytest

import graphnn as gn

WITHOUT_TRITON = """
import sys
sys.modules["triton"] = None
import torch
import graphnn as gn
from graphnn.errors import BackendError

print("torch._dynamo" in sys.modules)
g = gn.Graph("leaky")
x, z = g.input("x", (3,), over="time"), g.state("z", (3,))
z.next = torch.tanh(z + x)
g.output("y", z.next)
x = torch.randn(2, 4, 3, requires_grad=True)
for backend in ("auto", "torch", "reference"):
    gn.compile(g, backend=backend)(x=x).sum().backward()
model = gn.compile(g)
model.profile(x=x)
assert "torch" in model.explain() and model.source()
for backend in ("triton", "interpret"):
    try:
        gn.compile(g, backend=backend)
    except BackendError as error:
        print(error)
"""
# libraries that no model needs before it is compiled; importing each costs at least 0.1 s
HEAVY = ("torch._dynamo", "torch._inductor", "triton", "networkx", "rich", "matplotlib", "igraph")
ROOT = pathlib.Path(__file__).parent.parent.parent


def modules(code: str, already: str = "") -> set[str]:
    """Returns the modules that `code` imports in a new process after running `already`."""
    script = f"import sys\n{already}\nbefore = set(sys.modules)\n{code}\n"
    script += "print(*sorted(set(sys.modules) - before))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split("\n")[-2].split())


def test_without_triton_only_kernels_are_unavailable_and_dynamo_is_not_imported():
    command = [sys.executable, "-c", WITHOUT_TRITON]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    dynamo, *errors = done.stdout.strip().splitlines()
    messages = "\n".join(errors)
    for backend in ("triton", "interpret"):
        assert f"backend '{backend}' runs Triton kernels, and Triton is not installed" in messages
    assert messages.count("pip install triton, or compile with backend='torch'") == 2
    assert dynamo == "False"


def test_importing_the_package_imports_no_submodules_and_no_torch():
    """It needs 0.002 s of CPU time; importing all names needed 0.33 s."""
    found = modules("import graphnn")
    assert {m for m in found if m.startswith("graphnn")} == {
        *("graphnn", "graphnn.pictures", "graphnn.pictures.sources")
    }
    assert "torch" not in found and len(found) < 30


def test_the_first_attribute_access_imports_only_graphnn_modules():
    """It needs 0.21 s of CPU time after torch (AMD EPYC): 230 modules, all of graphnn."""
    found = modules("import graphnn\ngraphnn.compile", already="import torch")
    assert [m for m in found if m.startswith(HEAVY)] == []
    others = {m for m in found if not m.startswith("graphnn")}
    assert len(others) < 10, "other libraries are imported"
    assert len(found) < 300, "modules that models do not need are imported"
    unneeded = ("graphnn.tools", "graphnn.timing", "graphnn.cli", "graphnn.bench")
    assert [m for m in found if m.startswith(unneeded)] == []


@pytest.mark.parametrize("command", ["--help", "--version", "explain --help", "bench --help"])
def test_help_imports_neither_torch_nor_heavy_libraries(command):
    """It needs 0.05 s of CPU time; with torch it needed 1.9 s."""
    argv = command.split()
    code = f"from graphnn.cli import main\ntry:\n    main({argv})\nexcept SystemExit:\n    pass"
    found = modules(code)
    assert "torch" not in found and [m for m in found if m.startswith(HEAVY)] == []


def test_type_checkers_see_exactly_the_lazily_imported_names():
    tree = ast.parse((ROOT / "graphnn" / "__init__.py").read_text())
    block = next(n for n in tree.body if isinstance(n, ast.If))
    stated = {
        a.name: n.module for n in block.body if isinstance(n, ast.ImportFrom) for a in n.names
    }
    assert sorted(stated) == sorted(gn.__all__)
    for name, module in stated.items():
        if module != "graphnn":
            assert getattr(gn, name) is getattr(sys.modules[module], name)
    assert set(gn.__all__) <= set(dir(gn))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        gn.nothing  # noqa: B018


def test_drawing_a_module_imports_what_it_needs():
    code = "from torch import nn\nfrom graphnn.pictures import to_dot\n"
    code += "class Net(nn.Module):\n"
    code += "    def graph(self, g):\n"
    code += "        g.output('y', g.input('x', (2,), over='time') * 2)\n"
    code += "assert 'digraph' in to_dot(Net())"
    assert "graphnn.runtime.drawing" in modules(code)
