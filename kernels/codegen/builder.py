"""The kernel being written: what the builders of all kernels have in common."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..ir.expression import Code, Name, code
from ..ir.program import Op, Tensor, Unsupported
from ..ir.source import imported
from ..ir.statement import Statement, assign
from ..ir.symbols import NameTable, entry
from . import prelude

# the functions of the prelude: all that Triton compiles there
PRELUDE = frozenset(name for name, found in vars(prelude).items() if hasattr(found, "fn"))
# the names of a kernel's module, of a launch's constants and of Python that generated code uses
MODULE = ("triton", "tl", *sorted(PRELUDE))
CONSTANTS = ("ROWS", "ACC", "PRECISION", "UPCAST")
PYTHON = ("float", "range", "inf", "nan")
# names that a kernel has in many widths
FAMILIES = frozenset(("cols", "down"))
# a kernel of more tile operations takes minutes to compile
MOST = 1500
# Triton's names for the kinds of elements, and what masked loads give instead of them
KINDS = {"float": "ACC", "int": "tl.int64", "bool": "tl.int1"}
NOTHING = {"float": "0.0", "acc": "0.0", "int": "0", "bool": "0"}


def declared(*holders: type) -> frozenset[str]:
    """The variables that classes declare as attributes."""
    found = (value for holder in holders for value in vars(holder).values())
    return frozenset(value.text for value in found if isinstance(value, Name))


class KernelBuilder:
    """Collects the statements of one kernel and gives out its names.

    `before` are the statements before the loop, `step` those in it and `after` those behind it. A
    subclass adds the loop, and `reserved` names and `families` of names that it writes itself.
    """

    reserved: frozenset[str] = frozenset((*MODULE, *CONSTANTS, *PYTHON))
    families: frozenset[str] = FAMILIES
    # the reason to refuse a kernel with too many statements
    too_long = "a kernel of more than {} tile operations"

    def __init__(
        self, name: str, sizes: Iterable[str], tensors: Iterable[Tensor], ops: Iterable[Op]
    ):
        self.ops = {op.name: op for op in ops}
        self.names = NameTable(self.reserved, self.families)
        self.names.lengths(sizes)
        self.entry = entry(name, self.reserved)
        self.pointers = {t.name: self.fresh(f"{t.name}_ptr") for t in tensors}
        self.before: list[Statement] = []
        self.step: list[Statement] = []
        self.after: list[Statement] = []
        self.widths: dict[int, Name] = {}
        self.depths: dict[int, Name] = {}
        self.used: set[str] = set()

    def fresh(self, wanted: str) -> Name:
        """A variable that the kernel does not have yet, named as closely as possible."""
        return Name(self.names.fresh(wanted))

    def append(self, statements: list[Statement], *made: Statement) -> None:
        """Adds statements to a part of the kernel. Raises Unsupported if there are too many."""
        for statement in made:
            statements.append(statement)
            self.used |= statement.value.calls & PRELUDE
        if len(self.before) + len(self.step) > MOST:
            raise Unsupported(self.too_long.format(MOST))

    def begin(self, target: Name | Sequence[Name], value: Code, note: str = "") -> None:
        """Gives a variable its value before the loop."""
        self.append(self.before, assign(target, value, note))

    def cols(self, width: int) -> Name:
        """0, 1, 2 … along a row: [1, width]."""
        return self.widths.setdefault(width, Name(f"cols_{width}"))

    def down(self, width: int) -> Name:
        """0, 1, 2 … down a column: [width, 1]."""
        return self.depths.setdefault(width, Name(f"down_{width}"))

    def ranges(self) -> list[Statement]:
        """The statements that make the variables of `cols` and `down`."""
        across, down = sorted(self.widths.items()), sorted(self.depths.items())
        return [
            *(assign(name, code("tl.arange(0, {})[None, :]", n)) for n, name in across),
            *(assign(name, code("tl.arange(0, {})[:, None]", n)) for n, name in down),
        ]

    def length(self, axis: str) -> Name:
        """The argument that holds the length of an axis."""
        return Name(self.names.length(axis))

    def lengths(self, axes: Iterable[str]) -> list[Name]:
        """The arguments that hold the lengths of axes."""
        return [self.length(axis) for axis in axes]

    def pointer(self, tensor: Tensor) -> Name:
        """The argument that points at a tensor."""
        return self.pointers[tensor.name]

    def imports(self) -> tuple[str, ...]:
        """The import statements of the prelude's functions in use."""
        return imported("graphnn.kernels.codegen.prelude", sorted(self.used))
