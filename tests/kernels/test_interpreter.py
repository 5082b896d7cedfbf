"""What the interpreter is made to do as a GPU does it."""

import pytest
import torch
import triton
import triton.language as tl

from graphnn.kernels import interpreter

SPECIAL = [0.0, -0.0, float("inf"), float("-inf"), float("nan"), 3.4e38, 1.9999, 1e-40, -1e-45]


@triton.jit
def copied(x, out, SIZE: tl.constexpr):
    i = tl.arange(0, SIZE)
    value = tl.load(x + i).to(tl.float32)
    tl.store(out + i, value.to(out.dtype.element_ty))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_numbers_are_rounded_to_the_nearest(dtype):
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(1024, generator=draw) * 10.0 ** torch.randint(-40, 39, (1024,), generator=draw)
    x[: len(SPECIAL)] = torch.tensor(SPECIAL)
    x[100:200] = 1 + torch.arange(100) / 256  # halves between two numbers of bfloat16
    out = torch.empty(1024, dtype=dtype)
    interpreter.launch(copied, (1,), x, out, SIZE=1024)
    torch.testing.assert_close(out, x.to(dtype), rtol=0, atol=0, equal_nan=True)
    back = torch.empty(1024)
    interpreter.launch(copied, (1,), out, back, SIZE=1024)
    torch.testing.assert_close(back, out.float(), rtol=0, atol=0, equal_nan=True)
