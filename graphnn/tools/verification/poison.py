"""Fills memory with numbers that no kernel computes, to find what a kernel leaves unwritten."""

from __future__ import annotations

import torch

Tensor = torch.Tensor
# NaN with digits of their own, as whole numbers of the same size: arithmetic gives other NaN
_NAN = {
    torch.float64: (torch.int64, 0x7FF8_0000_0BAD_C0DE),
    torch.float32: (torch.int32, 0x7FC0_BADC),
    torch.float16: (torch.int16, 0x7EAD),
    torch.bfloat16: (torch.int16, 0x7FEB),
}
_WHOLE = -0x6BAD_C0DE


def poison(x: Tensor) -> None:
    """Fill a tensor: NaN for floating numbers, a large negative number for whole ones."""
    if x.dtype in _NAN:
        kind, bits = _NAN[x.dtype]
        x.view(kind).fill_(bits)
    elif x.dtype in (torch.int32, torch.int64):
        x.fill_(_WHOLE)


def unwritten(x: Tensor) -> int:
    """Return how many numbers of a tensor are still as `poison` left them."""
    if x.dtype in _NAN:
        kind, bits = _NAN[x.dtype]
        return int((x.view(kind) == bits).sum())
    if x.dtype in (torch.int32, torch.int64):
        return int((x == _WHOLE).sum())
    return 0


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors have the same numbers, NaN included."""
    if a.dtype in _NAN:
        kind = _NAN[a.dtype][0]
        return torch.equal(a.view(kind), b.view(kind))
    return torch.equal(a, b)
