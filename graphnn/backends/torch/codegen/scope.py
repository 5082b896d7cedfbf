"""The variables of generated code: names, sizes, and how values are aligned for broadcasting.

The dimensions of a value in memory are its axes, in the graph's order, and then its shape. Inside a
loop, the loop's axis is dropped: a variable holds the value at one step.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from graphnn.backends.torch.codegen.code import Expression, code, joined, sequence, variable
from graphnn.ir.graph import IR, Node
from graphnn.kernels.ir.symbols import NameTable, entry, remark
from graphnn.planner.core.regions import Loop

# the variables that hold the floating dtype of a call, and its device
DTYPE, DEVICE = variable("dtype"), variable("device")
# names that generated code uses itself
RESERVED = frozenset(
    "torch F device dtype runtime tensors sizes inf nan call t sum max min abs main steps "
    "_ range zip list reversed parameters inputs lengths draw new_seed attend hops".split()
)


@dataclass(frozen=True)
class Ends:
    """Where the examples of a batch end along an axis: `node` holds their lengths.

    Positions beyond an example's end are read only by sums with gradients that are zero there. If
    `held`, values repeat the last valid step, so that no new infinities arise; otherwise (in
    gradients) they are zero. If `sorted`, the longest example comes first.
    """

    axis: str
    node: Node
    held: bool
    sorted: bool = False


@dataclass(frozen=True)
class Valid:
    """The variable that knows the valid positions of a ragged batch, its axes, and `Ends.held`."""

    name: Expression
    axes: tuple[str, ...]
    held: bool


class Scope:
    """The variables of a piece of generated code, and the objects that its source refers to.

    `dropped` are the axes of the loops around it.
    """

    def __init__(self, ir: IR, dropped: tuple[str, ...] = (), outer: Scope | None = None):
        self.ir, self.dropped = ir, dropped
        self.names: dict[int, Expression] = {} if outer is None else dict(outer.names)
        # concatenations that are assembled in place, with the parts written so far
        self.started: dict[int, set[int]] = {}
        # the seeds of noise that kernels draw
        self.seeds: dict[int, Expression] = {}
        # the name of the function
        self.function: str = "" if outer is None else outer.function
        self.ends: Ends | None = None
        self.valid: Valid | None = None
        # variables of contiguous buffers that nothing else refers to
        self.buffers: set[str] = set()
        # nodes whose values are in the memory of other values
        self.parts: set[int] = set()
        self.table: NameTable = NameTable(RESERVED) if outer is None else outer.table
        self.table.lengths(ir.axes)
        self.objects: dict[str, Any] = {} if outer is None else outer.objects

    def axes(self, node: Node) -> tuple[str, ...]:
        """The axes that a value has as dimensions here."""
        return tuple(a for a in self.ir.layout(node.axes) if a not in self.dropped)

    def rank(self, node: Node) -> int:
        """The number of dimensions that a value has here."""
        return len(self.axes(node)) + len(node.shape)

    def fresh(self, wanted: str) -> Expression:
        """A new variable, named as close to the wanted name as Python allows."""
        return variable(self.table.fresh(wanted))

    def size(self, axis: str) -> Expression:
        """The variable that holds the length of an axis."""
        return variable(self.table.length(axis))

    def sizes(self, axes: Iterable[str]) -> list[Expression]:
        """The variables that hold the lengths of axes."""
        return [self.size(axis) for axis in axes]

    def declare(self, node: Node) -> Expression:
        """A new variable for a node's value."""
        self.names[node.id] = self.fresh(node.name or node.attrs.get("was", node.op))
        return self.names[node.id]

    def object(self, value: Any, wanted: str) -> Expression:
        """The name under which the source finds a Python object."""
        found = next((name for name, known in self.objects.items() if known is value), None)
        if found is None:
            found = self.table.fresh(wanted)
            self.objects[found] = value
        return variable(found)

    def var(self, i: int) -> Expression:
        """The variable of a node, or its literal."""
        node = self.ir[i]
        if i not in self.names and node.op == "const":
            return Expression(literal(node.attrs["value"]))
        if i not in self.names and node.op == "size":
            return code("torch.full((), {}, device={})", self.size(node.attrs["axis"]), DEVICE)
        return self.names[i]

    def tensor(self, i: int) -> Expression:
        """The variable of a node; a number becomes a tensor."""
        return as_tensor(self, self.ir[i]) if self.ir[i].op == "const" else self.var(i)

    def aligned(self, i: int, axes: Sequence[str], rank: int) -> Expression:
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
        return code("{}[{}]", self.var(i), ", ".join(index)) if index else self.var(i)

    def permuted(self, x: Expression, order: Sequence[str], node: Node) -> Expression:
        """The value `x` of a node, whose axes come in the given order, in memory order."""
        wanted = self.axes(node)
        if tuple(order) == wanted:
            return x
        dims = [order.index(a) for a in wanted]
        dims += [len(order) + d for d in range(len(node.shape))]
        return permute(x, dims)

    def full(self, i: int, node: Node) -> Expression:
        """A value expanded to all axes of `node`; it keeps its own shape."""
        source, axes = self.ir[i], self.axes(node)
        if source.op in ("const", "size"):
            x = as_tensor(self, source)
        else:
            x = self.aligned(i, axes, len(source.shape))
        if self.axes(source) == axes:
            return x
        return expand(x, [*self.sizes(axes), *source.shape])


def function_name(wanted: str) -> str:
    """The name of a generated function, and the prefix of the names derived from it."""
    return entry(wanted, RESERVED)


def origin(node: Node) -> str:
    """The source location at which a node was created, for the comment behind its line."""
    return remark(str(node.site)) if node.site else ""


def expand(x: Expression, sizes: Sequence[object]) -> Expression:
    """`x.expand(sizes)`."""
    return code("{}.expand({})", x, joined(sizes))


def permute(x: Expression, dims: Sequence[int]) -> Expression:
    """`x.permute(dims)`."""
    return code("{}.permute({})", x, joined(dims))


def sizes_text(s: Scope, node: Node) -> Expression:
    """The tuple of a value's sizes in a scope."""
    return shape_text([*s.sizes(s.axes(node)), *node.shape])


def shape_text(sizes: Sequence[object]) -> Expression:
    """A tuple of sizes."""
    return code("({})", sequence(sizes) if sizes else "")


def filled(sizes: Expression | str, value: Expression, dtype: Expression) -> Expression:
    """`torch.full(sizes, value)`."""
    return code("torch.full({}, {}, dtype={}, device={})", sizes, value, dtype, DEVICE)


def empty(sizes: Expression, dtype: Expression) -> Expression:
    """`torch.empty(sizes)`."""
    return code("torch.empty({}, dtype={}, device={})", sizes, dtype, DEVICE)


def steps_text(outer: Scope, loop: Loop, whole: Expression, node: Node) -> Expression:
    """The list of a whole value's steps, in the order in which a loop visits them."""
    dim = outer.axes(node).index(loop.axis)
    return code("{}.unbind({}){}", whole, dim, "[::-1]" if loop.reverse else "")


# torch functions that accept a Python number as their second operand
_SCALAR_SECOND = frozenset(
    "add sub mul div pow lt le gt ge eq ne remainder floor_divide bitwise_and bitwise_or "
    "bitwise_xor bitwise_left_shift bitwise_right_shift".split()
)


def accepts_number(op: str, place: int) -> bool:
    """Whether torch's function for `op` accepts a Python number as operand number `place`."""
    return (place == 1 and op in _SCALAR_SECOND) or op in ("clamp", "hardtanh")


def literal(value: Any) -> str:
    """A Python number as source."""
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else ("inf" if value > 0 else "-inf")
    return repr(value)


def dtype_text(ir: IR, dtype: torch.dtype) -> Expression:
    """A dtype. The graph's floating dtype is a variable: autocast runs the same code in another."""
    return DTYPE if dtype == ir.floating else Expression(str(dtype))


def as_tensor(s: Scope, node: Node) -> Expression:
    """A number as a tensor."""
    if node.op == "size":
        return s.var(node.id)
    return filled("()", s.var(node.id), dtype_text(s.ir, node.dtype))
