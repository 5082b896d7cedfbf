"""Cuts inputs along named axes, so that a check costs little."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .identity import ALIGNED

# time steps of a check
STEPS = 64
# a check has several tiles, as programs may be wrong about which rows are theirs
TILES = 2


def tile_rows(rows: int) -> int:
    """Return the rows of a check whose tiles have `rows` rows."""
    return TILES * max(rows, 1)


def cut_tensors(
    tensors: Sequence[Tensor], layouts: Sequence[Sequence[str]], lengths: Mapping[str, int]
) -> list[Tensor]:
    """Return the beginnings of tensors along the axes in `lengths`.

    The first dimensions of each tensor are the axes of its layout.
    """
    return [_cut(t, axes, lengths) for t, axes in zip(tensors, layouts, strict=True)]


def _cut(x: Tensor, axes: Sequence[str], lengths: Mapping[str, int]) -> Tensor:
    whole = x
    for d, axis in enumerate(axes):
        if axis in lengths and d < x.dim() and x.shape[d] > lengths[axis]:
            x = x.narrow(d, 0, lengths[axis])
    return x if x is whole else aligned_like(x.contiguous(), whole)


def aligned_like(x: Tensor, other: Tensor) -> Tensor:
    """Return a tensor whose address is divisible by 16 if, and only if, that of another is.

    Kernels are compiled for addresses that are, and again for those that are not.
    """
    odd = other.data_ptr() % ALIGNED
    if x.data_ptr() % ALIGNED == odd or not x.numel():
        return x
    room = torch.empty(x.numel() + ALIGNED, dtype=x.dtype, device=x.device)
    start = next(
        k for k in range(ALIGNED) if (room.data_ptr() + k * x.element_size()) % ALIGNED == odd
    )
    made = room[start : start + x.numel()].view(x.shape)
    return made.copy_(x)
