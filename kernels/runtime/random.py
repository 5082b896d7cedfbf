"""Counter-based random numbers in a tensor: the same as those that kernels draw in their loops."""
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl

from ..codegen.prelude import dropout, normal, uniform
from ..executors.executor import Executor, KernelLaunch
from .alignment import aligned

BLOCK = 1024
OPTIONS = {"enable_fp_fusion": True}  # Triton 3.9 warns if this is not given
# the laws of `random_tensor`
LAWS = ("dropout", "uniform", "normal")


@triton.jit(do_not_specialize=["count"])
def fill(
    seed_ptr, out_ptr, count, LAW: tl.constexpr, P: tl.constexpr, ACC: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Store out[k] = the random number of `seed` at counter k."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    seed = tl.load(seed_ptr)
    if LAW == "dropout":
        drawn = dropout(seed, at, P, ACC)
    elif LAW == "uniform":
        drawn = uniform(seed, at, ACC)
    else:
        drawn = normal(seed, at, ACC)
    tl.store(out_ptr + at, drawn.to(out_ptr.dtype.element_ty), mask=at < count)


def random_tensor(
    seed: torch.Tensor,
    law: str,
    p: float,
    shape: Sequence[int],
    dtype: torch.dtype,
    executor: Executor,
) -> torch.Tensor:
    """Return a contiguous tensor of random numbers on the device of `seed`, a (1,) int64 tensor.

    `law` is "uniform" in [0, 1), "normal" N(0, 1), or "dropout": 0 with probability `p`, else
    1 / (1 - p). The same seed and shape always give the same numbers. Executors
    agree except for the last digits of logarithms.
    """
    out = torch.empty(shape, dtype=dtype, device=seed.device)
    count = math.prod(shape)
    if not count:
        return out
    wide = tl.float64 if dtype == torch.float64 else tl.float32
    constants: dict[str, Any] = {"LAW": law, "P": float(p), "ACC": wide, "BLOCK": BLOCK}
    grid = (-(-count // BLOCK),)
    with executor.device_of(seed):
        args = aligned(seed), out, count
        launch = KernelLaunch(fill, grid, args, constants, OPTIONS, [1], family="random")
        executor.launch(launch)
    return out
