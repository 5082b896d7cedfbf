"""Simulated memory of a kernel: which addresses are valid, and which elements hold values.

Each argument gets its own range of simulated addresses, far from all others. A pointer therefore
identifies its argument even if its offset is wrong. Real addresses are substituted last.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

_RANGE_BITS = 44  # an argument's range holds offsets up to 2**43 bytes in both directions
_FIRST_RANGE = 1 << 12  # the ranges begin at 2**56, above every real address
_PAGE = 4096  # simulated addresses have the same alignment as real ones, up to this many bytes


class View:
    """One tensor argument. Its first element is cell `first`; a cell is `cell_bytes` bytes."""

    def __init__(self, name: str, tensor: torch.Tensor, number: int, first: int, cell_bytes: int):
        self.name, self.argument, self.tensor = name, tensor, tensor.detach()
        self.first, self.cell_bytes = first, cell_bytes
        self.real = tensor.data_ptr()
        middle = 1 << (_RANGE_BITS - 1)
        self.base = ((_FIRST_RANGE + number) << _RANGE_BITS) + middle + self.real % _PAGE
        self.size = tensor.element_size()
        self.span = _span(tensor)
        self.gaps = None if tensor.is_contiguous() else self._gaps()

    def _offsets(self) -> np.ndarray:
        """Return the offset of each element from the first, in elements."""
        line = torch.arange(self.span // self.size)
        return line.as_strided(self.tensor.shape, self.tensor.stride()).numpy()

    def _gaps(self) -> np.ndarray | None:
        """Return a mask of the offsets, from first to last element, that hold no element."""
        gaps = np.ones(self.span // self.size, bool)
        gaps[self._offsets()] = False
        return gaps if gaps.any() else None

    def cells(self) -> np.ndarray:
        """Return the cells of each element, with shape `(*shape, cells per element)`."""
        count = self.size // self.cell_bytes
        return self.first + self._offsets()[..., None] * count + np.arange(count)

    def element(self, offset: int) -> str:
        """Return `name[i, j]` for the element at an offset in bytes."""
        index = self._index(offset)
        return f"{self.name}[{', '.join(map(str, index))}]" if index else self.name

    def value(self, offset: int) -> float:
        """Return the value of the element at an offset in bytes."""
        return self.tensor[self._index(offset)].item()

    def _index(self, offset: int) -> tuple[int, ...]:
        return tuple(np.argwhere(self._offsets() == offset // self.size)[0].tolist())

    def describe_miss(self, offset: int) -> str:
        """Describe how far outside the tensor an offset in bytes is."""
        after = (offset - self.span) // self.size + 1
        tensor = f"{self.name!r} of shape {tuple(self.tensor.shape)}"
        if offset < 0:
            return f"{-(offset // self.size)} before the start of {tensor}"
        if after > 0:
            return f"{after} past the end of {tensor}"
        return f"between the elements of {tensor}, which has gaps"


@dataclass(frozen=True)
class Access:
    """The unmasked lanes of one load, store or atomic: their arguments, offsets and cells."""

    views: list[View]
    argument: np.ndarray  # the number of each lane's argument, -1 if it has none
    offset: np.ndarray
    cells: np.ndarray
    real: np.ndarray  # the real addresses of all lanes, including masked ones
    wrong: np.ndarray  # whether a lane is outside its argument

    def __len__(self) -> int:
        return len(self.argument)

    @property
    def cells_per_lane(self) -> int:
        """The number of cells that each lane touches."""
        return len(self.cells) // max(1, len(self))

    def element(self, cell: int) -> str:
        """Return the element that contains the cell at position `cell` of this access."""
        lane = cell // self.cells_per_lane
        return self.views[self.argument[lane]].element(int(self.offset[lane]))

    def first(self) -> str:
        """Return the first element and its value as text."""
        view, offset = self.views[self.argument[0]], int(self.offset[0])
        return f"{view.element(offset)} = {view.value(offset)}"

    def describe_miss(self, lane: int) -> str:
        """Describe where a lane points that is outside its argument."""
        if self.argument[lane] < 0:
            return "at an address that comes from no argument"
        return self.views[self.argument[lane]].describe_miss(int(self.offset[lane]))


class Memory:
    """All tensor arguments of a launch. Overlapping tensors share cells."""

    def __init__(self, tensors: dict[str, torch.Tensor]):
        self.views: list[View] = []
        self.cells = 0
        for group in _overlapping(tensors.items()):
            start = min(t.data_ptr() for _, t in group)
            end = max(t.data_ptr() + _span(t) for _, t in group)
            size = min(t.element_size() for _, t in group)
            for name, t in group:
                first = self.cells + (t.data_ptr() - start) // size
                self.views.append(View(name, t, len(self.views), first, size))
            self.cells += -(-(end - start) // size)
        self.unset = np.zeros(self.cells, bool)
        self._base = np.array([v.base for v in self.views], np.int64)
        self._real = np.array([v.real - v.base for v in self.views], np.int64)
        self._span = np.array([v.span for v in self.views], np.int64)
        self._first = np.array([v.first for v in self.views], np.int64)
        self._cell_bytes = np.array([v.cell_bytes for v in self.views], np.int64)
        self._gaps = any(v.gaps is not None for v in self.views)

    def poison(self, view: View) -> None:
        """Fill an output with NaN or the largest integer, and mark its elements as unset."""
        kind = view.tensor.dtype
        whole = not (kind.is_floating_point or kind.is_complex or kind == torch.bool)
        view.tensor.fill_(torch.iinfo(kind).max if whole else float("nan"))
        self.unset[view.cells()] = True

    def locate(self, pointers: np.ndarray, mask: np.ndarray, size: int) -> Access:
        """Return what the unmasked lanes point at, each at an element of `size` bytes."""
        pointers, mask = np.broadcast_arrays(pointers, mask.astype(bool))
        address = pointers.astype(np.int64)
        which = (address >> _RANGE_BITS) - _FIRST_RANGE
        known = (which >= 0) & (which < len(self.views))
        which = np.where(known, which, 0)
        real = (address + self._real[which]).view(np.uint64)
        which, known = which[mask], known[mask]
        offset = address[mask] - self._base[which]
        wrong = ~known | (offset < 0) | (offset + size > self._span[which])
        if self._gaps:
            self._mark_gaps(which, offset, wrong)
        cells = self._first[which] + offset // self._cell_bytes[which]
        if which.size and (count := size // int(self._cell_bytes[which[0]])) > 1:
            cells = (cells[:, None] + np.arange(count)).ravel()
        return Access(self.views, np.where(known, which, -1), offset, cells, real, wrong)

    def _mark_gaps(self, which: np.ndarray, offset: np.ndarray, wrong: np.ndarray) -> None:
        """Mark lanes as wrong that point into the gaps of a strided argument."""
        for number, view in enumerate(self.views):
            if view.gaps is not None:
                mine = (which == number) & ~wrong
                wrong[mine] = view.gaps[offset[mine] // view.size]


def _span(tensor: torch.Tensor) -> int:
    """Return the number of bytes from the first element to the end of the last."""
    if not tensor.numel():
        return 0
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    return int(1 + sum((n - 1) * step for n, step in steps)) * tensor.element_size()


def _overlapping(
    tensors: Iterable[tuple[str, torch.Tensor]],
) -> Iterable[list[tuple[str, torch.Tensor]]]:
    """Group tensors by storage. An empty tensor is a group of its own, since it has no address."""
    groups: dict[int, list[tuple[str, torch.Tensor]]] = {}
    for name, tensor in tensors:
        address = tensor.untyped_storage().data_ptr() if tensor.numel() else -1 - len(groups)
        groups.setdefault(address, []).append((name, tensor))
    return groups.values()
