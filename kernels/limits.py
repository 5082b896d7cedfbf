"""What a GPU gives a block, and predictions of what a resident loop will take of it.

The predictions let a planner refuse a regime before anything is compiled. They are fitted to 600
kernels compiled for sm_80, sm_90 and sm_100 by Triton 3.6 and 3.9; the tests hold them to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# bytes of shared memory a block may ask for
SHARED = {"sm_80": 166_912, "sm_90": 232_448, "sm_100": 232_448}
# 32-bit registers of one multiprocessor, and the most that one thread may have
REGISTERS = 65_536
MOST_REGISTERS = 255
# columns of Blackwell's tensor memory, which products of 64 rows use: an LSTM of 128 units needs
# 576, four products and their operand, and is then compiled to a trap, silently
TENSOR_MEMORY = 512


def nearest(major: int, minor: int) -> str:
    """The target, among those whose limits are known, for a GPU of this compute capability."""
    able = 10 * major + minor
    known = sorted(int(name.removeprefix("sm_")) for name in SHARED)
    return f"sm_{max((k for k in known if k <= able), default=known[0])}"


def register_cap(threads: int) -> int:
    """The most registers that a thread of a block may have; they are given out by eights."""
    return min(MOST_REGISTERS, REGISTERS // threads // 8 * 8)


# The widest H seen to fit without a spill, two pieces at most, with `maxnreg` at its best. Triton
# 3.6 and 3.9 agree in every entry but one.
#
#   2-byte weights     rows, warps     LSTM          GRU       Elman
#   sm_90              16, 8           160           192       320
#                      32, 8           128 (160)     128       256
#                      64, 8           128           128       256
#   sm_100             as sm_90, but
#                      64, 8           64 (96)       160       320     see TENSOR_MEMORY; GRU
#                                                                      128 in 3.6 (544 columns)
#   sm_80              16, 8           128           160       256
#                      64, 8           64            128       160
#   4-byte, tf32       16, 8           64            128       192      (sm_90)
#   4-byte, tf32x3     16, 8           64            64        128      (sm_90)
#   4-byte, ieee       16, 8           64            64        64       plain FMAs; 128 spills
#
# (160), (96): with the gates joined. Weights are then [into, out, gate], one product gives all
# gates, reshape to [rows, out, 2, 2] and two splits take them apart, and inputs are added after
# (before, they cost registers and barriers). A step has 2 changes of layout instead of 5, the
# kernel 6 barriers instead of 10, and no piece is so narrow that warps repeat work. A product of N
# columns with N <= rows has every warp compute all of them: an LSTM of 128 + 32 units, 32 rows and
# 8 warps has 800 mma and 900 spills apart, 200 and 0 joined.
#
# With 16 rows every target uses mma.sync, and holds weights in shared memory across the loop; 4
# warps need twice the registers of 8, and 16 leave each thread only 128.


@dataclass(frozen=True)
class ResidentLoop:
    """A loop whose weights stay: `products` of [H, H], the H units held in `pieces` (160: 128, 32).

    `rows` of the batch and `warps` a program; `itemsize` is a weight's and an input's, in bytes,
    and `how` the input precision of products of 4-byte ones. `joined`: all are one product of
    [H, products * H] that comes apart after, not a product each.
    """

    products: int
    pieces: Sequence[int]
    rows: int
    warps: int
    itemsize: int = 2
    how: str = "ieee"
    joined: bool = False

    @property
    def units(self) -> int:
        """H, the width of the state."""
        return sum(self.pieces)

    def unit_of(self, target: str) -> str:
        """The instructions that its products become; the newer want 64 rows and four warps."""
        if self.itemsize > 2 and self.how == "ieee":
            return "fma"
        if self.rows < 64 or self.warps < 4 or target == "sm_80":
            return "mma"
        return "wgmma" if target == "sm_90" else "tcgen05"

    def shared(self, target: str) -> int:
        """Bytes of shared memory: the weights, the state as an operand, a change of layout.

        Never less than Triton takes, and mostly 0 to 15% more (in 600 kernels compiled 2% on
        average; 20% or 8 KB at most, but for tf32x3 with 64 rows).
        """
        # tf32x3 keeps what TF32 rounds away as a second matrix
        weights = self.products * self.units**2 * (2 if self.how == "tf32x3" else 1)
        # wgmma has the state in registers where one warp group holds whole rows, if it made them
        # so (not with tf32), tcgen05 in tensor memory; else it passes through shared memory
        unit = self.unit_of(target)
        made = unit == "wgmma" and not self.joined and self.how != "tf32"
        whole = made and self.warps == 4
        operand = 0 if whole or unit == "tcgen05" else self.rows * self.units
        change = self._change_joined(unit, target) if self.joined else self._change(unit)
        if self.joined and len(self.pieces) == 1:  # the operand is done with before the change
            return weights * self.itemsize + max(operand * self.itemsize, change)
        return (weights + operand) * self.itemsize + change

    def _change(self, unit: str) -> int:
        """Bytes through which an input gets the products' layout: a tile, or rounds of one."""
        widest = max(self.pieces)
        tile = self.rows * widest * self.itemsize
        a_thread = {
            "mma": max(16, widest // 8, self.rows // 2),
            "wgmma": max(64, widest // 2),
            "tcgen05": max(32, widest // 4),
        }
        if unit == "fma":
            return tile if len(self.pieces) > 1 else 0
        if self.itemsize > 2 and unit != "tcgen05":
            return tile
        return min(tile, 32 * self.warps * a_thread[unit])

    def _change_joined(self, unit: str, target: str) -> int:
        """Bytes through which a product of all gates gets the layout in which it comes apart."""
        tile = self.rows * max(self.pieces) * self.products * 2
        a_thread = 4 * self.rows if target == "sm_80" else 32 if unit == "tcgen05" else 64
        return min(tile, 32 * self.warps * a_thread)

    def elements(self, target: str) -> int:
        """Elements of one state that a thread holds, its repetitions of other warps' work too."""
        if self.unit_of(target) != "mma":
            return self.rows * self.units // (32 * self.warps)
        at_once = self.products if self.joined else 1
        if self.rows >= min(self.pieces) * at_once:  # warps split the rows, by sixteens at least
            return max(16, self.rows // self.warps) * self.units // 32
        # warps split the columns, by eights at least
        columns = sum(max(8, piece * at_once // self.warps) for piece in self.pieces)
        return self.rows * columns // (32 * at_once)

    def registers(self, target: str) -> int:
        """Registers a thread, roughly; a loop spills if they are over `register_cap`.

        Tiles alive at once: two a product on mma, whose operands are in registers, else 1.5.
        Spills are foretold right for 9 in 10 kernels of 2-byte weights.
        """
        fixed = 40 + (0 if self.joined else 68 * (len(self.pieces) - 1))
        half_tiles = 4 * self.products if self.unit_of(target) == "mma" else 3 * self.products + 1
        # tf32x3 is three products of operands in two parts
        half_tiles *= 3 if self.how == "tf32x3" else 1
        return fixed + half_tiles * self.elements(target) // 2

    def refusal(self, target: str) -> str | None:
        """Why it will not fit the target, or None."""
        cap = register_cap(32 * self.warps)
        if (shared := self.shared(target)) > SHARED[target]:
            return f"about {shared:,} bytes of shared memory, of {SHARED[target]:,}"
        if (registers := self.registers(target)) > cap:
            return f"about {registers} registers a thread, of {cap}"
        return None
