"""Matrix products over a loop whose operands are copied ahead, and a kernel that uses wgmma."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from graphnn.kernels import ptx
from graphnn.kernels.executors.compiled import compiled
from graphnn.kernels.executors.executor import KernelLaunch
from tests.kernels.ptx.mutants.launches import Recorded


@triton.jit
def product(a, b, out, K, M: tl.constexpr, N: tl.constexpr, STEP: tl.constexpr):
    """out = a b, by `STEP` columns of a at a time."""
    m, n, k = tl.arange(0, M), tl.arange(0, N), tl.arange(0, STEP)
    total = tl.zeros([M, N], tl.float32)
    for begin in range(0, K, STEP):
        x = tl.load(a + m[:, None] * K + (begin + k)[None, :])
        y = tl.load(b + (begin + k)[:, None] * N + n[None, :])
        total = tl.dot(x, y, total)
    tl.store(out + m[:, None] * N + n[None, :], total)


def recorded_product(target: str, stages: int, rows: int) -> Recorded:
    """Run the product as compiled with so many stages, and return its launch."""
    torch.manual_seed(0)
    inner, columns = 128, 32
    a, b = torch.randn(rows, inner).bfloat16(), torch.randn(inner, columns).bfloat16()
    out = torch.full((rows, columns), float("nan"))
    constants = {"M": rows, "N": columns, "STEP": 32}
    options = {"num_warps": 4, "num_stages": stages, "enable_fp_fusion": True}
    launch = KernelLaunch(product, (1,), [a, b, out, inner], constants, options, [2])
    kernel, given = compiled(launch, target)
    program = ptx.parse(kernel.asm["ptx"])
    one = Recorded(program, (1,), given, kernel.metadata.shared, together=False)
    one.first_run()
    torch.testing.assert_close(out, a.float() @ b.float(), rtol=1e-4, atol=1e-4)
    return one
