"""Imports point one way: each folder imports only folders that come before it in this list.

Imports inside functions count; imports under TYPE_CHECKING do not. A package's `__init__` may
import from its own folders.
"""

from __future__ import annotations

import ast
import pathlib
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).parent.parent.parent
# bottom first
ORDER = """
graphnn.kernels
graphnn.kernels.ir
graphnn.kernels.analysis
graphnn.kernels.rules
graphnn.kernels.codegen
graphnn.kernels.cooperative.plan
graphnn.kernels.cooperative.codegen
graphnn.kernels.interpreter
graphnn.kernels.feasibility
graphnn.kernels.ptx.arithmetic
graphnn.kernels.ptx.program
graphnn.kernels.ptx.instructions
graphnn.kernels.ptx.machine
graphnn.kernels.ptx
graphnn.kernels.executors
graphnn.kernels.trust
graphnn.kernels.select
graphnn.kernels.runtime
graphnn.kernels.attention
graphnn.kernels.simulate
graphnn.kernels.aot
graphnn.errors
graphnn.ir
graphnn.ops
graphnn.ops.pointwise
graphnn.ops.torch
graphnn.planner.core
graphnn.planner.boundary
graphnn.backends
graphnn.tracing.effects
graphnn.tracing
graphnn.planner.algebra
graphnn.planner.attention
graphnn.planner.autodiff
graphnn.planner.loops
graphnn.planner
graphnn.backends.torch.runtime
graphnn.backends.torch.codegen
graphnn.backends.torch.operators
graphnn.backends.torch
graphnn.backends.triton
graphnn.backends.triton.loops
graphnn.backends.triton.attention
graphnn.backends.triton.strategy
graphnn.pictures.scenes
graphnn.pictures.layout
graphnn.pictures
graphnn.frontend
graphnn.timing
graphnn.inspection
graphnn.runtime.backends
graphnn.runtime.call
graphnn.runtime.streaming
graphnn.runtime.generation
graphnn.runtime
graphnn.nn
graphnn.nn.recurrent
graphnn.nn.attention
graphnn.nn.memory
graphnn.tools
graphnn.tools.verification
graphnn
graphnn.bench
graphnn.bench.contact
graphnn.bench.versions
graphnn.examples
graphnn.cli
graphnn.__main__
""".split()
PLACE = {folder: n for n, folder in enumerate(ORDER)}


def modules() -> dict[str, pathlib.Path]:
    """Returns the path of every module by its name."""
    found = {}
    for top in ("graphnn", "kernels", "bench", "examples"):
        for path in sorted((ROOT / top).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            parts = parts if parts[0] == "graphnn" else ("graphnn", *parts)
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def folder(module: str) -> str:
    """Returns the folder of a module, or the module itself if the list contains it."""
    if module in PLACE or MODULES[module].name == "__init__.py":
        return module
    return module.rpartition(".")[0]


def imports_of(module: str) -> Iterator[tuple[str, int]]:
    """Yields the modules that a module imports, each with its line number."""
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in runtime_nodes(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((a.name, node.lineno) for a in node.names if a.name in MODULES)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *filter(None, [node.module])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                if inner in MODULES or base in MODULES:
                    yield inner if inner in MODULES else base, node.lineno


def runtime_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Yields the nodes of a tree, except those under TYPE_CHECKING."""
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        return
    yield node
    for child in ast.iter_child_nodes(node):
        yield from runtime_nodes(child)


def wrong_imports(module: str) -> list[str]:
    """Returns the imports of a module that point the wrong way."""
    here = folder(module)
    inner = MODULES[module].name == "__init__.py"
    return [
        f"{MODULES[module].relative_to(ROOT)}:{line} imports {target}"
        for target, line in imports_of(module)
        if folder(target) != here
        and PLACE[folder(target)] > PLACE[here]
        and not (inner and target.startswith(f"{module}."))
    ]


def test_every_folder_is_in_the_list():
    assert {folder(m) for m in MODULES} - set(ORDER) - {"graphnn.kernels.cooperative"} == set()


@pytest.mark.parametrize("name", ORDER)
def test_a_folder_imports_only_folders_before_it(name):
    inside = [m for m in MODULES if folder(m) == name]
    assert inside
    assert [w for m in inside for w in wrong_imports(m)] == []
