"""The text on boxes: the line of source code if it is short, else symbols; and sizes."""

from __future__ import annotations

import ast
import functools
import itertools
import linecache
import re
import textwrap
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from torch import nn

from graphnn.ir.graph import BATCH, IR, Node
from graphnn.ir.source_location import Site

LONGEST = 42
SYMBOLS = {
    "add": "+",
    "sub": "−",
    "neg": "−",
    "mul": "×",
    "div": "÷",
    "einsum": "·",
    "affine": "· +",
    "addcmul": "× +",
    "lerp": "mix",
    "sigmoid": "σ",
    "square": "²",
    "pow": "^",
    "sqrt": "√",
    "sum": "Σ",
    "amax": "max",
    "maximum": "max",
    "minimum": "min",
    "reciprocal": "1/·",
    "take": "look up",
    "slice": "slice",
    "cat": "join",
    "axis_sum": "Σ",
    "axis_at": "at",
    "gt": ">",
    "lt": "<",
    "ge": "≥",
    "le": "≤",
    "eq": "=",
    "ne": "≠",
    "logical_and": "and",
    "logical_or": "or",
    "logical_not": "not",
}
# these change the shape and not the values: next to arithmetic they need no symbol
QUIET = frozenset("reshape expand permute transpose slice cast pick detach".split())

# settings of modules that rarely differ between modules
SETTINGS = frozenset("bias eps elementwise_affine affine momentum inplace batch_first".split())


@dataclass(frozen=True)
class SourceStatement:
    """A statement of the user: its first line, the name it assigns, and the expression."""

    file: str
    line: int
    target: str
    value: str


def statement(site: Site | None) -> SourceStatement | None:
    """The statement that contains a line of the user's file, or None if it cannot be read."""
    return _statements(site.file).get(site.line) if site is not None else None


@functools.lru_cache(maxsize=64)
def _statements(file: str) -> dict[int, SourceStatement]:
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except (SyntaxError, ValueError):
        return {}
    found: dict[int, SourceStatement] = {}
    for node in ast.walk(tree):
        if isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Return, ast.Expr)):
            for line in range(node.lineno, (node.end_lineno or node.lineno) + 1):
                found[line] = _described(file, node)
    return found


def _described(file: str, node: ast.stmt) -> SourceStatement:
    target, value = "", ""
    if isinstance(node, ast.Assign):
        target = " = ".join(ast.unparse(t) for t in node.targets).strip("()")
    if isinstance(node, (ast.AnnAssign, ast.AugAssign)):
        target = ast.unparse(node.target)
    if isinstance(node, (ast.Assign, ast.Return)) and node.value is not None:
        value = plain(ast.unparse(node.value))
    return SourceStatement(file, node.lineno, target.removesuffix(".next"), value)


def plain(code: str) -> str:
    """Code as a formula: without package names and without quotes."""
    code = re.sub(r"\b(torch|gn|nn|functional|F|self|math)\.", "", code)
    return code.replace("'", "").replace('"', "").replace(" ** ", "^")


def symbols(nodes: Iterable[Node]) -> str:
    """The symbols of the operations in order, each once: `σ × tanh +`."""
    found: dict[str, None] = {}
    for node in nodes:
        word = SYMBOLS.get(node.op, node.op.removeprefix("axis_"))
        if node.op == "opaque":
            word = f"torch.{node.attrs['called']}"
        if node.op in ("const", *QUIET):
            continue
        if node.op == "axis_at":
            word = {0: "first", -1: "last"}.get(node.attrs["position"], word)
        axes = {node.attrs["axis"]} if isinstance(node.attrs.get("axis"), str) else set()
        axes |= set(node.attrs.get("contract", ()))
        found.setdefault(word + (f" over {', '.join(sorted(axes))}" if axes else ""))
    words = list(found)
    return " ".join(words[:7]) + (" …" if len(words) > 7 else "")


def shortened(text: str, longest: int = LONGEST) -> str:
    """The text, cut off with an ellipsis if it is too long for a box."""
    return text if len(text) <= longest else text[: longest - 1] + "…"


def wrapped(text: str) -> tuple[str, ...]:
    """A formula on one or two lines; empty if it needs more."""
    lines = textwrap.wrap(text, LONGEST, break_on_hyphens=False)
    return tuple(lines) if len(lines) <= 2 else ()


def module_line(module: nn.Module) -> str:
    """`Linear(28, 64)` for a module."""
    inside = re.sub(r"\b(in|out)_(features|channels)=", "", module.extra_repr())
    parts = re.split(r", (?![^(]*\))", inside)
    kept = [part for part in parts if part and part.partition("=")[0] not in SETTINGS]
    return shortened(
        f"{type(module).__name__}({', '.join(kept)})" if kept else type(module).__name__
    )


def size(ir: IR, node: Node, dropped: Collection[str] = ()) -> str:
    """`20 over time × slot`: the shape of a value and its named axes, except `dropped`."""
    sizes = list(node.shape)
    while len(sizes) > 1 and sizes[0] == 1:
        del sizes[0]
    shape = "×".join(map(str, sizes)) or "scalar"
    axes = " × ".join(a for a in ir.layout(node.axes) if a not in (BATCH, *dropped))
    return f"{shape} over {axes}" if axes else shape


def listed(names: list[str]) -> str:
    """`lstm.h, c` for lstm.h and lstm.c."""
    names = list(dict.fromkeys(names))
    home = names[0].rpartition(".")[0] + "." if names else ""
    return ", ".join([*names[:1], *(x.removeprefix(home) for x in names[1:])])


def joined(paths: Sequence[str]) -> str:
    """`ntm.readers.0.map + writers.0.map` for modules whose matmuls were fused."""
    folders = zip(*(p.split(".")[:-1] for p in paths))
    depth = len(list(itertools.takewhile(lambda names: len({*names}) == 1, folders)))
    return " + ".join([*paths[:1], *(".".join(p.split(".")[depth:]) for p in paths[1:])])


def ago(name: str, steps: int) -> str:
    """`z(t−1)` for a state one step back."""
    return f"{name}(t{'−' if steps > 0 else '+'}{abs(steps)})"


def delay_mark(steps: int) -> str:
    """z⁻¹ for one step back, z⁻¹² for twelve, z⁺¹ for one ahead."""
    raised = str(abs(steps)).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"z{'⁻' if steps > 0 else '⁺'}{raised}"
