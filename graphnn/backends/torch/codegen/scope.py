"""The variables of generated code: names, sizes, and how a value lines up with others.

A value lies in memory as its axes, in the graph's order, then its shape. Inside a loop the loop's
axis is gone (`dropped`): a value is there what it is at one step.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from graphnn.ir.graph import IR, Node
from graphnn.kernels.ir.symbols import NameTable, entry, remark
from graphnn.planner.core.regions import Loop


@dataclass(frozen=True)
class Ends:
    """Where the examples of a batch end along an axis: `node` holds their lengths.

    Nothing reads what lies beyond but sums with gradients that are zero there. Values are `held`
    (they repeat a step that was taken: whatever is made of them is no worse than of that), and
    gradients are zero. `sorted`: the longest example comes first.
    """

    axis: str
    node: Node
    held: bool
    sorted: bool = False


class Scope:
    """The variables of a piece of generated code, and the objects its source refers to."""

    def __init__(self, ir: IR, dropped: tuple[str, ...] = (), outer: Scope | None = None):
        self.ir, self.dropped = ir, dropped
        self.names: dict[int, str] = {} if outer is None else dict(outer.names)
        # concatenations that are being put together in place, with the parts that are there
        self.started: dict[int, set[int]] = {}
        # the seeds of noise that kernels draw
        self.seeds: dict[int, str] = {}
        self.ends: Ends | None = None
        # what knows which positions examples have, along which axes, and what lies beyond
        self.there: tuple[str, tuple[str, ...], bool] | None = None
        self.table: NameTable = NameTable(RESERVED) if outer is None else outer.table
        self.table.lengths(ir.axes)
        self.objects: dict[str, Any] = {} if outer is None else outer.objects

    def axes(self, node: Node) -> tuple[str, ...]:
        """The axes that a value has as dimensions here."""
        return tuple(a for a in self.ir.layout(node.axes) if a not in self.dropped)

    def rank(self, node: Node) -> int:
        """How many dimensions a value has here."""
        return len(self.axes(node)) + len(node.shape)

    def fresh(self, wanted: str) -> str:
        """A variable name not used yet, as close to the wanted one as Python allows."""
        return self.table.fresh(wanted)

    def size(self, axis: str) -> str:
        """The variable that holds the length of an axis."""
        return self.table.length(axis)

    def sizes(self, axes: Iterable[str]) -> list[str]:
        """The variables that hold the lengths of axes."""
        return self.table.lengths(axes)

    def declare(self, node: Node) -> str:
        """A variable for a node's value."""
        self.names[node.id] = self.fresh(node.name or node.attrs.get("was", node.op))
        return self.names[node.id]

    def object(self, value: Any, wanted: str) -> str:
        """A name under which the source finds a Python object."""
        for name, known in self.objects.items():
            if known is value:
                return name
        name = self.fresh(wanted)
        self.objects[name] = value
        return name

    def var(self, i: int) -> str:
        """The variable, or the literal, of a node."""
        node = self.ir[i]
        if i not in self.names and node.op == "const":
            return literal(node.attrs["value"])
        if i not in self.names and node.op == "size":
            return f"torch.full((), {self.size(node.attrs['axis'])}, device=device)"
        return self.names[i]

    def tensor(self, i: int) -> str:
        """The variable of a node, as a tensor where it is a number."""
        return as_tensor(self, self.ir[i]) if self.ir[i].op == "const" else self.var(i)

    def aligned(self, i: int, axes: Sequence[str], rank: int) -> str:
        """A value as it broadcasts against dimensions `axes` followed by a shape of `rank`."""
        node = self.ir[i]
        if node.op in ("const", "size"):
            return self.var(i)
        have = self.axes(node)
        index = [":" if a in have else "None" for a in axes]
        index += ["None"] * (rank - len(node.shape)) + [":"] * len(node.shape)
        while index and index[0] == "None":
            index.pop(0)
        while index and index[-1] == ":":
            index.pop()
        if not index:
            return self.var(i)
        return f"{self.var(i)}[{', '.join(index)}]"

    def permuted(self, given: Sequence[str], node: Node) -> str:
        """What puts a value whose axes are `given` into memory order."""
        wanted = self.axes(node)
        if tuple(given) == wanted:
            return ""
        dims = [given.index(a) for a in wanted]
        dims += [len(given) + d for d in range(len(node.shape))]
        return f".permute({', '.join(map(str, dims))})"

    def full(self, i: int, node: Node) -> str:
        """A value expanded to all the dimensions of `node`'s axes (its own shape kept)."""
        source, axes = self.ir[i], self.axes(node)
        text = self.aligned(i, axes, len(source.shape))
        if source.op in ("const", "size"):
            text = as_tensor(self, source)
        if self.axes(source) == axes:
            return text
        sizes = self.sizes(axes) + [str(n) for n in source.shape]
        return f"{text}.expand({', '.join(sizes)})"


RESERVED = frozenset(
    "torch F device dtype runtime tensors sizes inf nan call t done sum max min abs main steps "
    "range zip list reversed parameters inputs lengths draw new_seed attend hops".split()
)


def function_name(wanted: str) -> str:
    """The name of a generated function, and what is called after it."""
    return entry(wanted, RESERVED)


def origin(node: Node) -> str:
    """The comment that says where a line's node was made."""
    return f"  # {remark(str(node.site))}" if node.site else ""


def sizes_text(s: Scope, node: Node) -> str:
    """The tuple of a value's sizes in a scope."""
    sizes = s.sizes(s.axes(node)) + [str(n) for n in node.shape]
    return f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"


def steps_text(outer: Scope, loop: Loop, whole: str, node: Node) -> str:
    """The list of a whole value's steps, in the order in which a loop takes them."""
    dim = outer.axes(node).index(loop.axis)
    return f"{whole}.unbind({dim})" + ("[::-1]" if loop.reverse else "")


# torch functions that take a Python number as their second operand
_SCALAR_SECOND = frozenset(
    "add sub mul div pow lt le gt ge eq ne remainder floor_divide bitwise_and bitwise_or "
    "bitwise_xor bitwise_left_shift bitwise_right_shift".split()
)


def takes_number(op: str, place: int) -> bool:
    """Whether torch's function for `op` takes a Python number as its operand `place`."""
    return (place == 1 and op in _SCALAR_SECOND) or op in ("clamp", "hardtanh")


def literal(value: Any) -> str:
    """A Python number as source."""
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else ("inf" if value > 0 else "-inf")
    return repr(value)


def dtype_text(ir: IR, dtype: torch.dtype) -> str:
    """The floating dtype of the graph is a variable: autocast runs the same code in another."""
    return "dtype" if dtype == ir.floating else str(dtype)


def as_tensor(s: Scope, node: Node) -> str:
    """A number as a tensor."""
    if node.op == "size":
        return s.var(node.id)
    kind = dtype_text(s.ir, node.dtype)
    return f"torch.full((), {s.var(node.id)}, dtype={kind}, device=device)"
