"""Sines of large numbers: libdevice reduces them with carries and an array in local memory."""
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl

from graphnn.kernels.executors.executor import KernelLaunch
from graphnn.kernels.executors.named import INTERPRETER, named
from graphnn.kernels.runtime.random import random_tensor

OPTIONS = {"num_warps": 4, "enable_fp_fusion": True}


@triton.jit
def waves(x_ptr, sine_ptr, cosine_ptr, N: tl.constexpr):
    """Store the sine and the cosine of N numbers."""
    at = tl.arange(0, N)
    x = tl.load(x_ptr + at)
    tl.store(sine_ptr + at, tl.sin(x))
    tl.store(cosine_ptr + at, tl.cos(x))


@pytest.mark.ptx
@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
def test_sines_and_cosines_are_exact_for_numbers_of_any_size(target):
    x = torch.logspace(-3, 30, 256)
    sine, cosine = torch.empty_like(x), torch.empty_like(x)
    launch = KernelLaunch(waves, (1,), [x, sine, cosine], {"N": 256}, OPTIONS, [1, 2])
    report = named(f"ptx:{target}").execute(launch)
    assert report.counts["madc.hi.u32"] and report.counts["st.local.b32"]
    # CUDA's sinf and cosf are off by 2 units in the last place at most
    assert (sine.double() - x.double().sin()).abs().max() <= 2**-23
    assert (cosine.double() - x.double().cos()).abs().max() <= 2**-23


@pytest.mark.ptx
@pytest.mark.parametrize("law", ["normal", "uniform", "dropout"])
def test_random_numbers_are_those_of_the_interpreter(law):
    seed, given = torch.tensor([77]), (law, 0.3, (3, 401), torch.float32)
    found = random_tensor(seed, *given, named("ptx:sm_90"))
    want = random_tensor(seed, *given, INTERPRETER)
    torch.testing.assert_close(found, want, rtol=2e-6, atol=2e-6 if law == "normal" else 0)
