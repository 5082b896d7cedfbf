"""Tensors at addresses that are divisible by 16, for which kernels are planned and compiled."""

from __future__ import annotations

import torch

# Triton compiles a kernel anew for each pattern of pointers that are divisible by this and that are
# not. Loads of others are narrower and need more registers (an LSTM of 128 units, bf16, sm_90,
# Triton 3.7.1: 255 for 186), so that a kernel which was found to fit may spill.
ALIGNMENT = 16


def is_aligned(tensor: torch.Tensor) -> bool:
    """Return whether a tensor is contiguous and begins at an aligned address."""
    return tensor.is_contiguous() and tensor.data_ptr() % ALIGNMENT == 0


def aligned(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor as a contiguous one at an aligned address: itself, or a copy.

    A slice such as `x[1:]` may begin at any element.
    """
    tensor = tensor.contiguous()
    return tensor if tensor.data_ptr() % ALIGNMENT == 0 else tensor.clone()
