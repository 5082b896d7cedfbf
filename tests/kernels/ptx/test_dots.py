"""Products of matrices as Triton compiles them for each GPU give the numbers of torch."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl

from graphnn.kernels import ptx
from graphnn.kernels.executors.compiled import compiled
from graphnn.kernels.executors.executor import KernelLaunch


@triton.jit
def product(
    a,
    b,
    c,
    out,
    M: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
    LEFT: tl.constexpr,
    RIGHT: tl.constexpr,
    HOW: tl.constexpr,
    ACC: tl.constexpr,
):
    """out = a b + c; `LEFT` and `RIGHT` say that a and b are stored transposed."""
    m, n, k = tl.arange(0, M), tl.arange(0, N), tl.arange(0, K)
    if LEFT:
        x = tl.trans(tl.load(a + k[:, None] * M + m[None, :]))
    else:
        x = tl.load(a + m[:, None] * K + k[None, :])
    if RIGHT:
        y = tl.trans(tl.load(b + n[:, None] * K + k[None, :]))
    else:
        y = tl.load(b + k[:, None] * N + n[None, :])
    z = tl.load(c + m[:, None] * N + n[None, :])
    made = tl.dot(x, y, z, input_precision=HOW, out_dtype=ACC)
    tl.store(out + m[:, None] * N + n[None, :], made)


ACCUMULATORS = {torch.float32: tl.float32, torch.float64: tl.float64, torch.int32: tl.int32}
# name: dtype of operands, input precision, dtype of the sum
KINDS = {
    "bf16": (torch.bfloat16, "ieee", torch.float32),
    "fp16": (torch.float16, "ieee", torch.float32),
    "tf32": (torch.float32, "tf32", torch.float32),
    "tf32x3": (torch.float32, "tf32x3", torch.float32),
    "fp32": (torch.float32, "ieee", torch.float32),
    "fp64": (torch.float64, "ieee", torch.float64),
    "int8": (torch.int8, "ieee", torch.int32),
}
# Triton 3.9 warns if this is not given
OPTIONS = {"enable_fp_fusion": True}
SIDES = [(left, right) for left in (False, True) for right in (False, True)]


def check(target, kind, shape, left=False, right=False, warps=4):
    """Run a product of small whole numbers; return the matrix instructions that were executed."""
    dtype, how, total = KINDS[kind]
    m, n, k = shape
    generator = torch.Generator().manual_seed(0)
    draw = lambda *size: torch.randint(-4, 5, size, generator=generator)
    a, b, c = draw(m, k), draw(k, n), draw(m, n)
    out = torch.full((m, n), 77, dtype=total)
    given = [(a.T if left else a).contiguous().to(dtype), (b.T if right else b).contiguous()]
    args = [given[0], given[1].to(dtype), c.to(total), out]
    constants = {"M": m, "N": n, "K": k, "LEFT": left, "RIGHT": right, "HOW": how}
    constants["ACC"] = ACCUMULATORS[total]
    kernel, given = compiled(
        KernelLaunch(product, (1,), args, constants, OPTIONS | {"num_warps": warps}, [3]), target
    )
    report = ptx.run(ptx.parse(kernel.asm["ptx"]), (1,), given, shared=kernel.metadata.shared)
    assert torch.equal(out, (a @ b + c).to(total))
    assert not report.races and not report.warnings
    return {name for name in report.counts if "mma" in name}


@pytest.mark.parametrize(
    "target, kind, shape, instruction",
    [
        ("sm_80", "bf16", (16, 32, 32), "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32"),
        ("sm_90", "bf16", (64, 32, 32), "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16"),
        ("sm_90", "tf32", (64, 16, 16), "wgmma.mma_async.sync.aligned.m64n16k8.f32.tf32.tf32"),
    ],
)
def test_products_use_the_matrix_instructions_of_a_gpu(target, kind, shape, instruction):
    assert instruction in check(target, kind, shape, right=True)


# Triton does not compile products of int8 for sm_75
GPUS = [
    (target, kind)
    for target in ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_120")
    for kind in KINDS
    if (target, kind) != ("sm_75", "int8")
]


@pytest.mark.ptx
@pytest.mark.parametrize("left, right", SIDES)
@pytest.mark.parametrize("target, kind", GPUS)
def test_products_on_every_gpu(target, kind, left, right):
    check(target, kind, (64, 32, 32), left, right)
    check(target, kind, (16, 16, 64), left, right, warps=1)


@pytest.mark.ptx
@pytest.mark.parametrize("left, right", SIDES)
@pytest.mark.parametrize(
    "shape, warps",
    [
        ((64, 8, 16), 4),
        ((64, 256, 64), 4),
        ((128, 64, 128), 8),
        ((128, 16, 32), 4),
        ((64, 32, 256), 4),
        ((256, 32, 64), 8),
        ((16, 128, 64), 4),
    ],
)
@pytest.mark.parametrize("kind", ["bf16", "tf32"])
@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
def test_layouts_of_large_products(target, kind, shape, warps, left, right):
    check(target, kind, shape, left, right, warps)
