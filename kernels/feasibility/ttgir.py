"""What a kernel does in its loops, read from Triton's GPU intermediate representation (TTGIR).

Values are traced by name to the kernel's arguments, through pointer arithmetic and loop-carried
values. This shows which arguments are loaded again at every step.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

_VALUE = r"%[\w$.-]+(?:#\d+)?"
_POINTER = ("!tt.ptr", "!tt.tensordesc")
_LOCATION = re.compile(r"\s*loc\((?:[^()]|\([^()]*\))*\)")
# operations that read global memory; the address is always the first operand
_LOADS = ("tt.load", "tt.descriptor_load", "tt.descriptor_gather", "ttg.buffer_load")
_COPIES = ("ttg.async_copy_global_to_local", "ttng.async_tma_copy_global_to_local")
# operations whose results are no addresses: their operands are not traced
_READS = (*_LOADS, *_COPIES, "tt.atomic_rmw", "tt.atomic_cas", "ttg.local_load")
# operations that keep a loaded value, in another layout or a part of its bits (tf32x3 splits it)
_KEEP_VALUE = (
    *("ttg.convert_layout", "tt.trans", "tt.reshape", "tt.bitcast", "arith.bitcast"),
    *("arith.truncf", "arith.extf", "arith.subf", "arith.andi"),
)
_TO_SHARED = ("ttg.local_alloc", "ttg.local_store")


@dataclass(frozen=True)
class Census:
    """Counts of global loads before and inside loops, and of other operations inside loops.

    `loaded_inside` names arguments loaded inside a loop, `staged_inside` those whose values,
    wherever loaded, are copied to shared memory inside a loop.
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
    """An open region: its results, loop-carried values, and values passed from `while` to `do`."""

    op: str
    results: list[str] = field(default_factory=list)
    carried: list[str] = field(default_factory=list)
    passed: list[str] = field(default_factory=list)


def census(ttgir: str, arguments: Sequence[str]) -> Census:
    """Count loads, copies, layout conversions and dots, and name the arguments loaded in loops.

    `arguments` are those of the kernel without its constants, in order. The code may use other
    names (in Triton 3.9 an argument assigned to a variable gets the variable's name).
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
    """Reads the code line by line and records which value comes from which."""

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
        """Read one line, without its location."""
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
        """Return the names in `arguments` of the pointers that addresses come from."""
        origins = _reached(self.sources, addresses)
        return tuple(
            name
            for name, (value, kind) in zip(arguments, self.arguments)
            if value in origins and kind.startswith(_POINTER)
        )

    def loaded(self, value: str) -> list[str]:
        """Return the addresses that a value was loaded from, in whatever layout it is now."""
        return [self.addresses[v] for v in _reached(self.contents, [value]) if v in self.addresses]

    def _operation(self, line: str) -> None:
        results, op, rest = _split(line)
        operands = re.findall(_VALUE, rest)
        self._count(op, operands, rest)
        if op in ("scf.yield", "scf.condition"):
            self._leave(op, operands)
        elif op in ("scf.for", "scf.while"):
            text = rest if op == "scf.while" else rest.partition("iter_args")[2]
            carried = re.findall(rf"({_VALUE}) = ", text)
            starts = re.findall(rf" = ({_VALUE})", text)
            self._flow(carried, starts)
            self._flow(results, starts)
            self.regions.append(_Region(op, results, carried))
        elif line.endswith("{"):
            self.regions.append(_Region(op, results))
        elif op in _LOADS:
            self.addresses |= dict.fromkeys(results, operands[0])
        elif op not in _READS:
            kept = operands if op in _KEEP_VALUE else ()
            for value in results:
                self.sources.setdefault(value, set()).update(operands)
                self.contents.setdefault(value, set()).update(kept)

    def _count(self, op: str, operands: list[str], rest: str) -> None:
        looped = any(region.op in ("scf.for", "scf.while") for region in self.regions)
        if op in _LOADS or op in _COPIES:
            self.loads.append((operands[0], looped))
        if looped and op in _TO_SHARED:
            self.staged += operands[:1]
        self.looped["copies"] += looped and op in _COPIES
        self.looped["conversions"] += looped and op == "ttg.convert_layout"
        # a dot compiled to multiply-adds has a result layout of no matrix unit
        self.fma_dots += op == "tt.dot" and "mma" not in rest.rpartition("->")[2]

    def _leave(self, op: str, operands: list[str]) -> None:
        """Record that values leave a block, to the region's results and loop-carried values."""
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
    """Return all values that `values` come from, including themselves."""
    seen: set[str] = set()
    waiting = list(values)
    while waiting:
        at = waiting.pop()
        if at not in seen:
            seen.add(at)
            waiting += sources.get(at, ())
    return seen


def _split(line: str) -> tuple[list[str], str, str]:
    """Split a line into the names of an operation's results, its own name, and the rest."""
    found = re.match(r'(?:(%[\w$.-]+)(?::(\d+))? = )?"?([\w.]+)"?(.*)$', line)
    if found is None:
        return [], "", line
    name, count, op, rest = found.groups()
    if name is None:
        return [], op, rest
    return [f"{name}#{i}" for i in range(int(count))] if count else [name], op, rest
