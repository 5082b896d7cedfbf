"""Where the interpreter is changed so that it behaves like a GPU."""

from contextlib import nullcontext

import pytest
import torch
import triton
import triton.language as tl
from triton.runtime.errors import InterpreterError

from graphnn.kernels.interpreter import interpreter

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
    x[100:200] = 1 + torch.arange(100) / 256  # halfway between two bfloat16 values
    out = torch.empty(1024, dtype=dtype)
    interpreter.launch(copied, (1,), x, out, SIZE=1024)
    torch.testing.assert_close(out, x.to(dtype), rtol=0, atol=0, equal_nan=True)
    back = torch.empty(1024)
    interpreter.launch(copied, (1,), out, back, SIZE=1024)
    torch.testing.assert_close(back, out.float(), rtol=0, atol=0, equal_nan=True)


@triton.jit
def counted(out, SIZE: tl.constexpr, WRONG: tl.constexpr):
    found = tl.max(tl.zeros([SIZE], tl.int32) + 2147483647 + 1)  # wraps around, as on a GPU
    if WRONG:
        found += tl.arange(0, 3)
    tl.store(out, found)


@pytest.mark.parametrize("wrong", [False, True])
def test_a_launch_leaves_the_language_unchanged(wrong):
    """This holds if a kernel calls the library, if it fails, and for several launches."""
    places = (tl, tl.core, tl.math, tl.tensor, tl.dtype)
    before = [{name: getattr(place, name) for name in dir(place)} for place in places]
    for _ in range(2):
        out = torch.zeros(1, dtype=torch.int32)
        with pytest.raises(InterpreterError) if wrong else nullcontext():
            interpreter.launch(counted, (1,), out, SIZE=16, WRONG=wrong)
        assert out.item() == (0 if wrong else -(2**31))
        after = [{name: getattr(place, name) for name in dir(place)} for place in places]
        assert after == before
