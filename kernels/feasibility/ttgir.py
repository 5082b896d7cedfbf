"""What a kernel does in its loops, read from Triton's GPU intermediate code.

Values are followed by name, back through pointer arithmetic and whatever loops carry, to the
kernel's arguments, so that "loaded again at every step" can be said of an argument.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

_VALUE = r"%[\w$.-]+(?:#\d+)?"
_POINTER = ("!tt.ptr", "!tt.tensordesc")
_LOCATION = re.compile(r"\s*loc\((?:[^()]|\([^()]*\))*\)")
# what reads global memory; the address is always the first operand
_LOADS = ("tt.load", "tt.descriptor_load", "tt.descriptor_gather", "ttg.buffer_load")
_COPIES = ("ttg.async_copy_global_to_local", "ttng.async_tma_copy_global_to_local")
# what gives values that no longer lead to an address: their operands are not followed
_READS = (*_LOADS, *_COPIES, "tt.atomic_rmw", "tt.atomic_cas", "ttg.local_load")
# what leaves a loaded value itself: a layout, or a part of its bits (tf32x3 splits in two)
_SAME = (
    *("ttg.convert_layout", "tt.trans", "tt.reshape", "tt.bitcast", "arith.bitcast"),
    *("arith.truncf", "arith.extf", "arith.subf", "arith.andi"),
)
_TO_SHARED = ("ttg.local_alloc", "ttg.local_store")


@dataclass(frozen=True)
class Census:
    """Global loads before any loop and inside one, and what else is done inside.

    `loaded_inside` and `staged_inside` name arguments: those loaded inside, and those whose
    values, wherever loaded, are copied to shared memory inside.
    """

    loads_before: int
    loads_inside: int
    loaded_inside: tuple[str, ...]
    staged_inside: tuple[str, ...]
    copies_inside: int
    conversions_inside: int
    fma_dots: int


@dataclass
class _Region:
    """An open region: what it gives, what it carries (a loop), what goes from `while` to `do`."""

    op: str
    results: list[str] = field(default_factory=list)
    carried: list[str] = field(default_factory=list)
    passed: list[str] = field(default_factory=list)


def census(ttgir: str, arguments: Sequence[str]) -> Census:
    """Count loads, copies, layout conversions and dots; name the arguments loaded in a loop.

    `arguments` are the kernel's, less its constants, in order: the code may call them otherwise
    (an argument that is assigned to a variable takes the variable's name in Triton 3.9).
    """
    reader = _Reader()
    for line in ttgir.splitlines():
        reader.read(_LOCATION.sub("", line.strip()))
    inside = [address for address, looped in reader.loads if looped]
    staged = [address for value in reader.staged for address in reader.loaded(value)]
    return Census(
        loads_before=len(reader.loads) - len(inside),
        loads_inside=len(inside),
        loaded_inside=reader.named(inside, arguments),
        staged_inside=reader.named(staged, arguments),
        copies_inside=reader.looped["copies"],
        conversions_inside=reader.looped["conversions"],
        fma_dots=reader.fma_dots,
    )


class _Reader:
    """Reads the code line by line, keeping which value comes from which."""

    def __init__(self) -> None:
        self.arguments: list[tuple[str, str]] = []
        self.sources: dict[str, set[str]] = {}
        self.contents: dict[str, set[str]] = {}
        self.addresses: dict[str, str] = {}
        self.regions: list[_Region] = []
        self.loads: list[tuple[str, bool]] = []
        self.staged: list[str] = []
        self.looped = {"copies": 0, "conversions": 0}
        self.fma_dots = 0

    def read(self, line: str) -> None:
        """Take in one line, free of its location."""
        if line.startswith("tt.func"):
            self.arguments += re.findall(rf"({_VALUE}): (\S+)", line)
        if line.startswith("}") and self.regions:
            closed = self.regions.pop()
            if line.endswith("{"):  # "} else {", "} do {"
                self.regions.append(closed)
        elif line.startswith("^"):  # the arguments of a `do` block
            self._flow(re.findall(rf"({_VALUE}): ", line), self._top().passed)
        else:
            self._operation(line)

    def named(self, addresses: Iterable[str], arguments: Sequence[str]) -> tuple[str, ...]:
        """The pointers, as `arguments` calls them in order, that addresses come from."""
        origins = _reached(self.sources, addresses)
        return tuple(
            name
            for name, (value, kind) in zip(arguments, self.arguments)
            if value in origins and kind.startswith(_POINTER)
        )

    def loaded(self, value: str) -> list[str]:
        """The addresses that a value was loaded from, whatever its layout has become."""
        return [self.addresses[v] for v in _reached(self.contents, [value]) if v in self.addresses]

    def _operation(self, line: str) -> None:
        given, op, rest = _split(line)
        operands = re.findall(_VALUE, rest)
        self._count(op, operands, rest)
        if op in ("scf.yield", "scf.condition"):
            self._leave(op, operands)
        elif op in ("scf.for", "scf.while"):
            text = rest if op == "scf.while" else rest.partition("iter_args")[2]
            carried = re.findall(rf"({_VALUE}) = ", text)
            starts = re.findall(rf" = ({_VALUE})", text)
            self._flow(carried, starts)
            self._flow(given, starts)
            self.regions.append(_Region(op, given, carried))
        elif line.endswith("{"):
            self.regions.append(_Region(op, given))
        elif op in _LOADS:
            self.addresses |= dict.fromkeys(given, operands[0])
        elif op not in _READS:
            for value in given:
                self.sources.setdefault(value, set()).update(operands)
                self.contents.setdefault(value, set()).update(operands if op in _SAME else ())

    def _count(self, op: str, operands: list[str], rest: str) -> None:
        looped = any(region.op in ("scf.for", "scf.while") for region in self.regions)
        if op in _LOADS or op in _COPIES:
            self.loads.append((operands[0], looped))
        if looped and op in _TO_SHARED:
            self.staged += operands[:1]
        self.looped["copies"] += looped and op in _COPIES
        self.looped["conversions"] += looped and op == "ttg.convert_layout"
        # a dot left to plain multiply-adds gives its result in a layout of no matrix unit
        self.fma_dots += op == "tt.dot" and "mma" not in rest.rpartition("->")[2]

    def _leave(self, op: str, operands: list[str]) -> None:
        """Values that leave a block go to the region's results and to what its loop carries."""
        region = self._top()
        if op == "scf.condition":
            region.passed = operands[1:]
            self._flow(region.results, region.passed)
            return
        self._flow(region.carried, operands)
        if region.op != "scf.while":
            self._flow(region.results, operands)

    def _top(self) -> _Region:
        return self.regions[-1] if self.regions else _Region("")

    def _flow(self, into: Iterable[str], out_of: Iterable[str]) -> None:
        for value, source in zip(into, out_of):
            self.sources.setdefault(value, set()).add(source)
            self.contents.setdefault(value, set()).add(source)


def _reached(sources: dict[str, set[str]], values: Iterable[str]) -> set[str]:
    """All that values come from, themselves too."""
    seen: set[str] = set()
    waiting = list(values)
    while waiting:
        at = waiting.pop()
        if at not in seen:
            seen.add(at)
            waiting += sources.get(at, ())
    return seen


def _split(line: str) -> tuple[list[str], str, str]:
    """An operation's results by the names that others use, its own name, and the rest."""
    found = re.match(r'(?:(%[\w$.-]+)(?::(\d+))? = )?"?([\w.]+)"?(.*)$', line)
    if found is None:
        return [], "", line
    name, count, op, rest = found.groups()
    if name is None:
        return [], op, rest
    return [f"{name}#{i}" for i in range(int(count))] if count else [name], op, rest
