"""One thread block: its registers and memory, and what its statements call."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..arithmetic import fragments, groups, warps
from ..arithmetic.formats import BITS, DTYPES, decode
from ..program.program import LOCAL_BEGIN
from ..program.report import Problem
from .copies import Copies
from .local_memory import LocalMemory
from .shared_memory import BEGIN, SharedMemory
from .tensors import GlobalMemory

if TYPE_CHECKING:
    from .machine import Machine

Array = NDArray[Any]
# relative differences of floats that are so near that threads may have rounded differently
_NEAR = {"f32": 1e-5, "bf16": 2e-2, "f16": 2e-3, "f64": 1e-12}
# a rounding of float32 in sums of some terms, relative to the largest
CANCELLED = 2.0**-20
TINY = float(np.finfo(np.float32).tiny)


class ThreadBlock:
    """The state of one thread block. `now` is the number of the statement being executed."""

    shared_begin = BEGIN

    def __init__(self, machine: Machine, index: tuple[int, int, int], number: int):
        program = machine.program
        self.machine, self.program, self.index, self.number = machine, program, index, number
        self.threads = program.threads
        self.warps = self.threads // 32
        self.lane = np.arange(self.threads)
        self.warp_of = self.lane // 32
        self.every = np.ones(self.threads, bool)
        self.constants, self.errors, self.adder = machine.constants, machine.errors, machine.adder
        self.registers = self._poisoned()
        # threads that have not returned
        self.live = self.every.copy()
        self.now = 0
        # the statement at which it last could wait for another block
        self.polled = 0
        self.shared = SharedMemory(self, machine.shared, machine.fenced)
        self.local = LocalMemory(self.threads, LOCAL_BEGIN, program.local_end)
        self.tensors = GlobalMemory(self, machine.memory, machine.order)
        self.copies = Copies(self)
        self._full: dict[Any, Array] = {}

    def _poisoned(self) -> list[Array]:
        """Registers that hold NaN, or -1."""
        kinds = self.program.registers.values()
        made = {kind: np.full(self.threads, _poison(kind)) for kind in set(kinds)}
        return [made[kind] for kind in kinds]

    # values

    def full(self, value: Any, dtype: Any) -> Array:
        """Return an array with one value for all threads."""
        key = np.asarray(value).tobytes(), np.dtype(dtype)
        found = self._full.get(key)
        if found is None:
            found = self._full[key] = np.full(self.threads, value, dtype)
        return found

    def parameter(self, name: str, offset: int, dtype: Any) -> Array:
        """Return a parameter of the kernel, from a byte of it on."""
        size = np.dtype(dtype).itemsize
        bits = self.machine.parameters[name] >> 8 * offset & ((1 << 8 * size) - 1)
        return self.full(BITS[size](bits).view(dtype), dtype)

    def special(self, name: str) -> Array:
        """Return a special register, as int64."""
        kind, axis = name[1:].split(".")[0], "xyz".find(name[-1])
        grid = self.machine.grid
        if kind.startswith(("clock", "globaltimer")):
            return np.full(self.threads, time.perf_counter_ns())
        if kind.startswith("lanemask"):
            return self._lane_mask(kind)
        across = {"tid": self.lane, "ntid": self.threads, "ctaid": 0, "nctaid": 0}
        if kind in ("tid", "ntid") and axis:
            return np.full(self.threads, int(kind == "ntid"))
        found: Any = {
            **across,
            "ctaid": self.index[axis],
            "nctaid": grid[axis],
            "laneid": self.lane % 32,
            "warpid": self.warp_of,
            "nwarpid": self.warps,
            "smid": self.number,
            "nsmid": grid[0] * grid[1] * grid[2],
            "gridid": 0,
        }[kind]
        return found if isinstance(found, np.ndarray) else np.full(self.threads, found)

    def _lane_mask(self, kind: str) -> Array:
        lane = (self.lane % 32).astype(np.int64)
        one = np.int64(1) << lane
        below, every = one - 1, np.int64(0xFFFFFFFF)
        masks = {"eq": one, "lt": below, "le": below | one, "ge": every & ~below}
        return masks[kind[-2:]] if kind[-2:] in masks else every & ~(below | one)

    # findings

    def race(self, text: str) -> None:
        """Report a race at the statement being executed."""
        self.machine.found(self.machine.report.races, text, self)

    def warn(self, text: str) -> None:
        """Report what may be a mistake."""
        self.machine.found(self.machine.report.warnings, text, self)

    def alike(self, kept: Array, given: Array, where: str, kind: str) -> None:
        """Report threads that store different numbers to one place: `kept` is what is there now.

        `kind` is the type of the numbers, if they are floats.

        Sums over lanes that are contracted to fma(a, a, shfl(a * a)) differ by a rounding from lane
        to lane; this is a warning. The rounding is that of the largest number that is stored. What
        is left of terms that cancel differs by a float32 rounding of the terms, and so of the
        largest number among the arguments.
        """
        off = kept != given
        if not off.any():
            return
        a, b = kept[off], given[off]
        if kind and np.dtype(DTYPES[kind]).itemsize <= a.dtype.itemsize:
            x, y, every = (decode(_as(v, kind), kind) for v in (a, b, given))
            largest = np.max(np.abs(every), where=np.isfinite(every), initial=0.0)
            # patterns of whole numbers are subnormal: these are no sums
            floats = np.all((x == 0) | (np.abs(x) > TINY)) and np.all((y == 0) | (np.abs(y) > TINY))
            cancelled = CANCELLED * self.machine.largest if floats else 0.0
            if np.all(np.abs(x - y) <= max(_NEAR[kind] * largest, cancelled)):
                self.warn(
                    f"threads store numbers that differ by a rounding to one place of {where}"
                )
                return
        self.race(f"threads store {a[0]:#x} and {b[0]:#x} to one place of {where}")

    # warps

    def _members(self, asked: Array, mask: Array | None) -> Array:
        """Return the threads that take part. Warns if some that are named are not here."""
        bits = (asked >> (self.lane % 32).astype(np.uint32)) & np.uint32(1)
        named = bits.astype(bool)
        here = self.every if mask is None else mask
        if mask is None and named.all():
            return here
        absent = named & ~here & np.repeat(here.reshape(-1, 32).any(1), 32)
        absent &= self.live
        if absent.any():
            self.warn("a statement of a whole warp names threads that do not execute it")
        if (here & ~named).any():
            self.warn("a thread executes a statement of a whole warp that does not name it")
        return named & here

    def shuffle(
        self, a: Array, lanes: tuple[Array, Array], asked: Array, mask: Array | None
    ) -> tuple[Array, Array]:
        """`shfl`: return what each thread reads, and whether its lane is in range."""
        source, valid = lanes
        if mask is not None:
            there = np.take_along_axis(mask.reshape(-1, 32), source, 1).ravel()
            if not there[mask].all():
                self.warn("a thread reads a register of a lane that does not execute the shuffle")
        place = (source + 32 * np.arange(self.warps)[:, None]).ravel()
        return a[place], valid.ravel()

    def vote(self, mode: str, p: Array, asked: Array, mask: Array | None) -> Array:
        """`vote`: predicates of a warp, joined."""
        members = self._members(asked, mask)
        return warps.ballot(p, members) if mode == "ballot" else warps.vote(mode, p, members)

    def reduce(self, mode: str, a: Array, asked: Array, mask: Array | None) -> Array:
        """`redux`: the sum, least, greatest, … of a warp."""
        return warps.reduce(mode, a, self._members(asked, mask))

    def match(
        self, mode: str, a: Array, asked: Array, mask: Array | None
    ) -> tuple[Array, Array | None]:
        """`match`: the threads with the same number."""
        members = self._members(asked, mask)
        return warps.match_all(a, members) if mode == "all" else (warps.match(a, members), None)

    def elect(self, asked: Array, mask: Array | None) -> tuple[Array, Array]:
        """`elect`: one thread of a warp."""
        return warps.elect(self._members(asked, mask))

    def active(self, mask: Array | None) -> Array:
        """`activemask`: the threads that execute a statement."""
        here = self.every if mask is None else mask
        return warps.ballot(self.every, here)

    def meet(self, asked: Array, mask: Array | None) -> None:
        """`bar.warp.sync`."""
        self._members(asked, mask)

    def whole_warps(self, mask: Array) -> Array:
        """Return the threads of a mask. Raises Problem if it has a part of a warp."""
        rows = mask.reshape(-1, 32)
        if (rows.any(1) != rows.all(1)).any():
            warp = int(np.flatnonzero(rows.any(1) != rows.all(1))[0])
            raise Problem("a part of a warp executes a statement of a whole warp", 32 * warp)
        return np.flatnonzero(mask)

    # products of matrices

    def product(
        self, spec: fragments.Mma, a: Sequence[Array], b: Sequence[Array], c: Sequence[Array],
        mask: Array | None,
    ) -> list[Array]:  # fmt: skip
        """`mma.sync`."""
        if mask is not None:
            self.whole_warps(mask)
        self._tf32(spec, a, b)
        return fragments.multiply(spec, a, b, c, self.adder)

    def group_product(
        self, spec: fragments.Mma, a: Any, b: Array, d: Sequence[Array], keep: Array,
        signs: tuple[int, int], turned: tuple[bool, bool], mask: Array | None,
    ) -> list[Array]:  # fmt: skip
        """`wgmma.mma_async`, finished at once."""
        if mask is not None and not mask.all():
            raise Problem("some warps execute wgmma, which is modelled for all of a block")
        group = iter([k for _ in range(2) for k in range(self.warps // 4)])
        described = isinstance(a, np.ndarray)
        # matrices of all groups are read for A, if it is described, and then for B
        if not described:
            self._tf32(spec, a, ())
            group = iter(range(self.warps // 4))

        def read(where: Array, size: int) -> Array:
            first = 4 * next(group)
            return self.shared.described(where, size, np.arange(first, first + 4))

        return groups.multiply(spec, a, b, d, read, keep, signs, turned, self.adder)

    def _tf32(self, spec: fragments.Mma, *operands: Sequence[Array]) -> None:
        """Warn of operands with more digits than TF32 has: the hardware cuts them."""
        if self.machine.trimmed or spec.left != "tf32":
            return
        if any((x & np.uint32(0x1FFF)).any() for o in operands for x in o):
            self.machine.trimmed = True
            self.warn("products of TF32 have operands with more digits, which are cut")

    # order

    def synchronize(
        self, address: Array, offset: int, order: str, scope: str, mask: Array | None,
        writes: bool,
    ) -> None:  # fmt: skip
        """Note a load or store that orders others."""
        lanes = self.lane if mask is None else np.flatnonzero(mask)
        for lane in lanes:
            here = int(address[lane]) + offset
            self.machine.order.atomic(self, here, order, scope, int(lane) // 32, not writes, writes)

    def fence(self, scope: str, mask: Array | None) -> None:
        """Order the accesses of each warp before it with those after it."""
        here = self.every if mask is None else mask
        self.machine.order.fence(self, np.unique(self.warp_of[here]), scope)


def _poison(kind: str) -> Any:
    return np.bool_(False) if kind == "pred" else ~BITS[np.dtype(DTYPES[kind]).itemsize](0)


def _as(bits: Array, kind: str) -> Array:
    """Return bits as numbers of a type, several for each if they are packed."""
    return np.ascontiguousarray(bits).view(DTYPES[kind])
