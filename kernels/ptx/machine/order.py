"""Whether accesses of global memory are ordered: by barriers, and by releases and acquires."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

if TYPE_CHECKING:
    from .tensors import Allocation
    from .thread_block import ThreadBlock

Array = NDArray[Any]


class Order:
    """Follows accesses; finds nothing yet."""

    def read(
        self, block: ThreadBlock, memory: Allocation, index: Array, size: int, warps: Array,
        nc: bool,
    ) -> None:  # fmt: skip
        """Note a load."""

    def write(
        self, block: ThreadBlock, memory: Allocation, index: Array, size: int, warps: Array,
        values: Any,
    ) -> None:  # fmt: skip
        """Note a store."""

    def atomic(
        self, block: ThreadBlock, address: int, order: str, scope: str, warp: int, writes: bool
    ) -> None:
        """Note an access that orders others."""

    def fence(self, block: ThreadBlock, warps: Array, scope: str) -> None:
        """Note a fence."""

    def barrier(self, block: ThreadBlock, warps: Array | None) -> None:
        """Note a barrier; None: of all warps."""
