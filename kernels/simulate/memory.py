"""The memory that a kernel's arguments make: who may touch what, and what has a value.

Each argument gets a range of made-up addresses of its own, far from every other, so that a pointer
always tells which argument it came from, however wrong its offset; real ones are put in last.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

_REACH = 44  # an argument's range holds offsets up to 2**43 bytes either way
_FIRST = 1 << 12  # the ranges begin at 2**56, above every real address
_PAGE = 4096  # made-up addresses are aligned as the real ones are, to this


class View:
    """One tensor argument; `first` and `grain` place its bytes among the memory's cells."""

    def __init__(self, name: str, tensor: torch.Tensor, number: int, first: int, grain: int):
        self.name, self.given, self.tensor = name, tensor, tensor.detach()
        self.first, self.grain = first, grain
        self.real = tensor.data_ptr()
        self.base = ((_FIRST + number) << _REACH) + (1 << (_REACH - 1)) + self.real % _PAGE
        self.size = tensor.element_size()
        self.span = _span(tensor)
        self.gaps = None if tensor.is_contiguous() else self._gaps()

    def _offsets(self) -> np.ndarray:
        """Where each element lies, in elements after the first."""
        line = torch.arange(self.span // self.size)
        return line.as_strided(self.tensor.shape, self.tensor.stride()).numpy()

    def _gaps(self) -> np.ndarray | None:
        """Which places between the first element and the last are none of its own."""
        gaps = np.ones(self.span // self.size, bool)
        gaps[self._offsets()] = False
        return gaps if gaps.any() else None

    def cells(self) -> np.ndarray:
        """Every cell of each element, as `(*shape, cells an element)`."""
        each = self.size // self.grain
        return self.first + self._offsets()[..., None] * each + np.arange(each)

    def named(self, offset: int) -> str:
        """`name[i, j]` of the element at an offset in bytes."""
        index = self._index(offset)
        return f"{self.name}[{', '.join(map(str, index))}]" if index else self.name

    def value(self, offset: int) -> float:
        """The element at an offset in bytes."""
        return self.tensor[self._index(offset)].item()

    def _index(self, offset: int) -> tuple[int, ...]:
        return tuple(np.argwhere(self._offsets() == offset // self.size)[0].tolist())

    def missed(self, offset: int) -> str:
        """How far outside the tensor an offset in bytes is."""
        after = (offset - self.span) // self.size + 1
        what = f"{self.name!r} of shape {tuple(self.tensor.shape)}"
        if offset < 0:
            return f"{-(offset // self.size)} before the start of {what}"
        if after > 0:
            return f"{after} past the end of {what}"
        return f"between the elements of {what}, which has gaps"


@dataclass(frozen=True)
class Access:
    """The unmasked lanes of one load, store or atomic: their arguments, offsets and cells."""

    views: list[View]
    which: np.ndarray
    offset: np.ndarray
    cells: np.ndarray
    real: np.ndarray  # addresses of all lanes, masked ones too
    wrong: np.ndarray  # lanes outside their arguments

    def __len__(self) -> int:
        return len(self.which)

    @property
    def each(self) -> int:
        """Cells a lane."""
        return len(self.cells) // max(1, len(self))

    def named(self, cell: int) -> str:
        """The element that the access's cell number `cell` is part of."""
        lane = cell // self.each
        return self.views[self.which[lane]].named(int(self.offset[lane]))

    def first(self) -> str:
        """The first element and its value."""
        view, offset = self.views[self.which[0]], int(self.offset[0])
        return f"{view.named(offset)} = {view.value(offset)}"

    def missed(self, lane: int) -> str:
        """How a lane is outside."""
        if self.which[lane] < 0:
            return "at an address that comes from no argument"
        return self.views[self.which[lane]].missed(int(self.offset[lane]))


class Memory:
    """All tensor arguments of a launch; those that overlap share their cells."""

    def __init__(self, tensors: dict[str, torch.Tensor]):
        self.views: list[View] = []
        self.cells = 0
        for group in _overlapping(tensors.items()):
            start = min(t.data_ptr() for _, t in group)
            end = max(t.data_ptr() + _span(t) for _, t in group)
            grain = min(t.element_size() for _, t in group)
            for name, t in group:
                first = self.cells + (t.data_ptr() - start) // grain
                self.views.append(View(name, t, len(self.views), first, grain))
            self.cells += -(-(end - start) // grain)
        self.unset = np.zeros(self.cells, bool)
        self._base = np.array([v.base for v in self.views], np.int64)
        self._real = np.array([v.real - v.base for v in self.views], np.int64)
        self._span = np.array([v.span for v in self.views], np.int64)
        self._first = np.array([v.first for v in self.views], np.int64)
        self._grain = np.array([v.grain for v in self.views], np.int64)
        self._gaps = any(v.gaps is not None for v in self.views)

    def poison(self, view: View) -> None:
        """Fill an output with NaN or the largest integer, and remember that it has no values."""
        kind = view.tensor.dtype
        whole = not (kind.is_floating_point or kind.is_complex or kind == torch.bool)
        view.tensor.fill_(torch.iinfo(kind).max if whole else float("nan"))
        self.unset[view.cells()] = True

    def locate(self, pointers: np.ndarray, mask: np.ndarray, size: int) -> Access:
        """What the unmasked lanes point at, each at an element of `size` bytes."""
        pointers, mask = np.broadcast_arrays(pointers, mask.astype(bool))
        address = pointers.astype(np.int64)
        which = (address >> _REACH) - _FIRST
        known = (which >= 0) & (which < len(self.views))
        which = np.where(known, which, 0)
        real = (address + self._real[which]).view(np.uint64)
        which, known = which[mask], known[mask]
        offset = address[mask] - self._base[which]
        wrong = ~known | (offset < 0) | (offset + size > self._span[which])
        if self._gaps:
            self._between(which, offset, wrong)
        cells = self._first[which] + offset // self._grain[which]
        if which.size and (each := size // int(self._grain[which[0]])) > 1:
            cells = (cells[:, None] + np.arange(each)).ravel()
        return Access(self.views, np.where(known, which, -1), offset, cells, real, wrong)

    def _between(self, which: np.ndarray, offset: np.ndarray, wrong: np.ndarray) -> None:
        """Mark as wrong what falls in the gaps of a strided argument."""
        for number, view in enumerate(self.views):
            if view.gaps is not None:
                mine = (which == number) & ~wrong
                wrong[mine] = view.gaps[offset[mine] // view.size]


def _span(tensor: torch.Tensor) -> int:
    """Bytes from the first element to the end of the last."""
    if not tensor.numel():
        return 0
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    return int(1 + sum((n - 1) * step for n, step in steps)) * tensor.element_size()


def _overlapping(
    tensors: Iterable[tuple[str, torch.Tensor]],
) -> Iterable[list[tuple[str, torch.Tensor]]]:
    """Tensors by the storage they look into; an empty one is alone, since it has no address."""
    groups: dict[int, list[tuple[str, torch.Tensor]]] = {}
    for name, tensor in tensors:
        place = tensor.untyped_storage().data_ptr() if tensor.numel() else -1 - len(groups)
        groups.setdefault(place, []).append((name, tensor))
    return groups.values()
