"""The tensors of a launch in an address space of their own, far from each other.

An address that is outside of a tensor is outside of all of them, however far, up to 2^39 bytes.
Addresses keep the alignment that the tensors have.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..arithmetic.formats import BITS
from ..program.report import Problem

# each group of tensors that overlap has 2^40 addresses, and begins in their middle
_REGION = 40
# alignment that is kept, in bytes
_ALIGNED = 4096


class Span(NamedTuple):
    """Memory of one argument: where it really begins, its size in bytes, and what it is called.

    `kind` is the type of its floats, a key of `formats.DTYPES`; empty if it has none.
    """

    begin: int
    size: int
    element: int
    name: str
    kind: str = ""


class Allocation:
    """The memory of tensors that overlap; `views` has it as unsigned integers of each size.

    Views begin at `base`, a multiple of 16 at or before the first byte, as vectors are aligned.
    Their first `first` bytes belong to no tensor. `shift` leads from real addresses to those here.
    """

    def __init__(self, spans: Sequence[Span], number: int):
        self.spans = spans
        begin = min(s.begin for s in spans)
        end = max(s.begin + s.size for s in spans)
        base = begin & ~15
        raw = np.ctypeslib.as_array((ctypes.c_uint8 * (end - base)).from_address(base))
        self.views = {w: raw[: len(raw) // w * w].view(dtype) for w, dtype in BITS.items()}
        self.shift = ((number + 1) << _REGION) + (1 << _REGION - 1) + begin % _ALIGNED - begin
        self.begin, self.base, self.end = (x + self.shift for x in (begin, base, end))
        self.first, self.size = begin - base, len(raw)
        self.element = min(s.element for s in spans)
        kinds = {s.kind for s in spans}
        self.kind = kinds.pop() if len(kinds) == 1 else ""

    def describe(self, address: int, size: int) -> str:
        """Return where an address lies, relative to the tensor that it is nearest to."""
        real = address - self.shift
        near = min(self.spans, key=lambda s: max(s.begin - real, real - s.begin - s.size + 1, 0))
        at = real - near.begin
        return f"bytes {at} to {at + size} of {near.name} ({near.size} bytes)"


class Memory:
    """All tensors of a launch."""

    def __init__(self, spans: Sequence[Span]):
        groups: list[list[Span]] = []
        end = -1
        for span in sorted(s for s in spans if s.size):
            if groups and span.begin < end:
                groups[-1].append(span)
            else:
                groups.append([span])
            end = max(end, span.begin + span.size)
        self.allocations = [Allocation(group, k) for k, group in enumerate(groups)]
        self._shifts = {s.begin: a.shift for a in self.allocations for s in a.spans}

    def address(self, real: int) -> int:
        """Return the address of a tensor here; one without elements has none, and gets 0."""
        return real + self._shifts[real] if real in self._shifts else 0

    def at(self, address: int) -> Allocation | None:
        """Return the memory that an address is in, or near to."""
        number = (address >> _REGION) - 1
        return self.allocations[number] if 0 <= number < len(self.allocations) else None

    def problem(self, what: str, address: int, size: int, lane: int) -> Problem:
        """Return the problem of an address that is outside all tensors."""
        near = self.at(address)
        where = near.describe(address, size) if near else f"the address is {address:#x}"
        return Problem(f"{what} outside of all tensors: {where}", lane)
