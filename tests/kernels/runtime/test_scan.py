"""Scan kernels compared with the plain loop: values, gradients, precision; tiling; machine code."""

import os
import re
import subprocess
import tempfile

import pytest
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from graphnn.kernels.executors.named import GPU, INTERPRETER
from graphnn.kernels.runtime import scan

INTERPRETED = "cpu", INTERPRETER
COMPILED = "cuda", GPU
SIZES = [(1, 1), (1, 100), (2, 3), (7, 1), (7, 17), (7, 100), (63, 3), (63, 100), (130, 17)]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def loop(a, b, start, reverse):
    """The reference semantics, one step at a time."""
    steps, z = [], start
    for t in reversed(range(len(b))) if reverse else range(len(b)):
        z = a[t] * z + b[t]
        steps.append(z)
    return torch.stack(steps[::-1] if reverse else steps)


def numbers(time, channels, dtype=torch.float64, device="cpu"):
    """a, b, start and the gradient of the result; |a| < 1 as in a gate."""
    draw = torch.Generator().manual_seed(1000 * time + channels)
    many = [torch.randn(time, channels, dtype=torch.float64, generator=draw) for _ in "abg"]
    start = torch.randn(channels, dtype=torch.float64, generator=draw)
    return [x.to(device, dtype) for x in (many[0].tanh(), many[1], start, many[2])]


def by_loop(a, b, start, g, reverse):
    """The loop's result and gradients."""
    leaves = [x.detach().requires_grad_() for x in (a, b, start)]
    z = loop(*leaves, reverse)
    return z.detach(), *torch.autograd.grad(z, leaves, g)


def by_kernels(a, b, start, g, reverse, run, segments=None):
    z = scan.forward(a, b, start, reverse, run, segments)
    return z, *scan.backward(a, start, z, g, reverse, run, segments)


def equals_loop(time, channels, reverse, place, segments=None):
    device, run = place
    given = numbers(time, channels, device=device)
    found = by_kernels(*given, reverse, run, segments)
    for got, wanted in zip(found, by_loop(*given, reverse)):
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


def is_as_precise(time, channels, dtype, place):
    """At most twice the error of the loop in the same dtype."""
    device, run = place
    given = numbers(time, channels, dtype, device)
    exact = by_loop(*(x.double() for x in given), False)
    for got, eager, true in zip(by_kernels(*given, False, run), by_loop(*given, False), exact):
        assert got.dtype == dtype
        assert (got.double() - true).abs().max() <= 2 * (eager.double() - true).abs().max()


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("time, channels", SIZES)
def test_equals_the_loop(time, channels, reverse):
    equals_loop(time, channels, reverse, INTERPRETED)


@pytest.mark.parametrize("reverse", [False, True])
def test_equals_the_loop_in_segments(reverse):
    equals_loop(100, 3, reverse, INTERPRETED, segments=4)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("time, channels", [(7, 100), (63, 17)])
def test_is_as_precise_as_the_loop(time, channels, dtype):
    is_as_precise(time, channels, dtype, INTERPRETED)


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning", "ignore:invalid:RuntimeWarning")
def test_zeros_outlast_a_product_that_overflows():
    """1000^64 is no float32, but 0 times it is 0."""
    a, b = torch.full((70, 1), 1e3), torch.zeros(70, 1)
    z = scan.forward(a, b, torch.zeros(1), False, INTERPRETER, segments=2)
    assert (z == 0).all()


@pytest.mark.parametrize("sizes", [(0, 3), (3, 0), (0, 0), (0, 2, 3)])
def test_empty(sizes):
    a, start = torch.zeros(sizes), torch.ones(sizes[1:])
    z = scan.forward(a, a, start, False, INTERPRETER)
    da, db, dstart = scan.backward(a, start, z, z, False, INTERPRETER)
    assert z.shape == da.shape == db.shape == a.shape and (dstart == 0).all()


def test_nothing_is_read_or_written_outside():
    """NaN guards around every operand do not reach a result and are not overwritten."""
    buffers = []

    def guarded(x):
        buffers.append(torch.full((x.numel() + 64,), float("nan"), dtype=x.dtype))
        inside = buffers[-1][32:-32].view(x.shape)
        return inside.copy_(x)

    a, b, start, g = map(guarded, numbers(7, 3))
    found = by_kernels(a, b, start, g, True, INTERPRETER)
    assert all(x.isfinite().all() for x in found)
    assert all(x[:32].isnan().all() and x[-32:].isnan().all() for x in buffers)


@pytest.mark.parametrize("time", [1, 31, 64, 1000, 100_000])
@pytest.mark.parametrize("channels", [1, 17, 512, 4096, 16384, 1 << 20])
@pytest.mark.parametrize("operands", [2, 3])
def test_segments_cover_time_and_saturate_the_gpu(time, channels, operands):
    tiling = scan.scan_tiling(time, channels, 4, operands)
    assert tiling.segments * tiling.length >= time > (tiling.segments - 1) * tiling.length
    assert tiling.length % tiling.rows == 0 and channels % tiling.align == 0
    assert tiling.columns & (tiling.columns - 1) == 0
    if channels >= 16384:
        assert tiling.segments == 1
    if (channels, time) == (512, 100_000):
        assert tiling.segments * channels * tiling.rows * operands * 4 > scan.SATURATION // 2


TENSORS = ["a", "b", "start", "z", "g", "da", "db", "dstart"]
TOOLS = os.path.join(os.path.dirname(triton.__file__), "backends/nvidia/bin")


def sass(kernel, dtype, **constants):
    """The machine code for sm_90 of a kernel on elements of at most 32 bits."""
    types = dict.fromkeys(scan.LENGTHS, "i32") | dict.fromkeys(TENSORS, f"*{dtype}")
    types |= {"summaries": "*fp32"} | dict.fromkeys(constants, "constexpr")
    types = {n: types[n] for n in kernel.arg_names}
    pointers = [i for i, n in enumerate(kernel.arg_names) if types[n].startswith("*")]
    attrs = {(i,): [["tt.divisibility", 16]] for i in pointers}
    source = ASTSource(kernel, types, constants, attrs)
    options = {"num_warps": 1, "num_stages": 1, "enable_fp_fusion": True}
    binary = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary.asm["cubin"])
        file.flush()
        command = [f"{TOOLS}/nvdisasm", "-c", file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    "kernel, operands, dtype", [("forward", 2, "fp32"), ("backward", 3, "bf16")]
)
def test_compiles_to_wide_loads_without_spills_or_shuffles(kernel, operands, dtype):
    tiling = scan.scan_tiling(1024, 1 << 20, int(dtype[-2:]) // 8, operands)
    function = getattr(scan, f"{kernel}_kernel")
    text = sass(function, dtype, ROWS=tiling.rows, COLUMNS=tiling.columns, ALIGN=tiling.align)
    assert not re.search(r"\b(STL|LDL|SHFL|LDS|STS|ATOM|RED)\b", text)
    loads, stores = re.findall(r"\bLDG\S*", text), re.findall(r"\bSTG\S*", text)
    assert len(loads) >= operands * tiling.rows and len(stores) >= (operands - 1) * tiling.rows
    assert all(".128" in x for x in loads + stores)


@pytest.mark.gpu
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("time", [1, 2, 7, 63, 130, 3000])
@pytest.mark.parametrize("channels", [1, 3, 17, 100, 5000])
def test_equals_the_loop_on_a_gpu(time, channels, reverse):
    equals_loop(time, channels, reverse, COMPILED)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("time, channels", [(63, 17), (1000, 100), (3000, 4096)])
def test_is_as_precise_as_the_loop_on_a_gpu(time, channels, dtype):
    is_as_precise(time, channels, dtype, COMPILED)


@pytest.mark.gpu
def test_the_same_bits_every_time_on_a_gpu():
    given = numbers(5000, 300, torch.float32, "cuda")
    first = by_kernels(*given, False, scan.compiled)
    for _ in range(5):
        assert all(map(torch.equal, first, by_kernels(*given, False, scan.compiled)))
