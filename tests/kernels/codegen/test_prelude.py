"""Functions of the prelude against torch in float64 and float32, also at special values."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import triton
import triton.language as tl

from graphnn.kernels.codegen.prelude import (
    acosh,
    asinh,
    atanh,
    close_to_max,
    cosh,
    expm1,
    floor_divide,
    log1p,
    matmul,
    power,
    remainder,
    round_half_even,
    sigmoid,
    sign,
    sinh,
    tanh,
)
from graphnn.kernels.interpreter import interpreter
from graphnn.kernels.ir.expression import functions
from graphnn.ops.pointwise.softmax import level
from graphnn.ops.registry import OPS

INF, NAN = float("inf"), float("nan")
HALVES = [k + 0.5 for k in range(-4, 5)]
SPECIAL = [0.0, -0.0, INF, -INF, NAN, 1.0, -1.0, 1e-30, -1e-30, 1e30, -1e30, 88.0, -104.0, *HALVES]
DTYPES = [torch.float64, torch.float32]


@triton.jit
def one(x, out, F: tl.constexpr, SIZE: tl.constexpr):
    i = tl.arange(0, SIZE)
    v = tl.load(x + i)
    if F == "sigmoid":
        v = sigmoid(v)
    if F == "tanh":
        v = tanh(v)
    if F == "log1p":
        v = log1p(v)
    if F == "expm1":
        v = expm1(v)
    if F == "sinh":
        v = sinh(v)
    if F == "cosh":
        v = cosh(v)
    if F == "asinh":
        v = asinh(v)
    if F == "acosh":
        v = acosh(v)
    if F == "atanh":
        v = atanh(v)
    if F == "sign":
        v = sign(v)
    if F == "round_half_even":
        v = round_half_even(v)
    tl.store(out + i, v)


@triton.jit
def two(x, y, out, F: tl.constexpr, SIZE: tl.constexpr):
    i = tl.arange(0, SIZE)
    a, b = tl.load(x + i), tl.load(y + i)
    if F == "power":
        v = power(a, b)
    elif F == "floor_divide":
        v = floor_divide(a, b)
    elif F == "close_to_max":
        v = close_to_max(a, b)
    else:
        v = remainder(a, b)
    tl.store(out + i, v)


@triton.jit
def multiplied(a, w, out, SIZE: tl.constexpr, UPCAST: tl.constexpr):
    i = tl.arange(0, SIZE)[:, None] * SIZE + tl.arange(0, SIZE)[None, :]
    total = tl.full([SIZE, SIZE], 1.0, out.dtype.element_ty)
    v = matmul(tl.load(a + i), tl.load(w + i), total, "ieee", UPCAST)
    tl.store(out + i, v)


def numbers(dtype: torch.dtype) -> torch.Tensor:
    """Special values, then numbers of all sizes, most of them of a usual one."""
    draw = torch.Generator().manual_seed(0)
    usual = torch.randn(768, generator=draw, dtype=torch.float64) * 2
    spread = 10.0 ** torch.randint(-20, 3, (256,), generator=draw)
    wide = torch.randn(256, generator=draw, dtype=torch.float64) * spread
    x = torch.cat([torch.tensor(SPECIAL, dtype=torch.float64), usual, wide])[:1024]
    return x.to(dtype)


def near(got: torch.Tensor, exact: torch.Tensor, units: float) -> None:
    """Within so many units in the last place of each number; the special ones are the same."""
    rtol = units * torch.finfo(got.dtype).eps
    wanted = exact.to(got.dtype)
    tiny = torch.finfo(got.dtype).tiny
    torch.testing.assert_close(got, wanted, rtol=rtol, atol=tiny, equal_nan=True)


# functions, and by how many units they may be off; torch's own are off by one or two
ONE: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], float]] = {
    "sigmoid": (torch.sigmoid, 3),
    "tanh": (torch.tanh, 4),
    "log1p": (torch.log1p, 4),
    "expm1": (torch.expm1, 4),
    "sinh": (torch.sinh, 8),
    "cosh": (torch.cosh, 8),
    "asinh": (torch.asinh, 8),
    "acosh": (torch.acosh, 8),
    "atanh": (torch.atanh, 8),
    "sign": (torch.sign, 0),
    "round_half_even": (torch.round, 0),
}


# functions of two numbers, which the tests below compare each
TWO = ("power", "remainder", "floor_divide", "close_to_max")
# functions over a block axis, which tests/backends/triton/test_block_axis.py compares
OVER_AXIS = (
    *("axis_sum", "axis_max", "logsumexp", "softmax"),
    *("flip", "roll", "element_at", "topk_mask"),
)


@pytest.mark.parametrize("name", [n for n, op in OPS.items() if op.prelude or op.triton_text])
def test_the_functions_that_a_row_calls_are_in_a_table(name: str) -> None:
    called = {OPS[name].prelude} - {""} | (functions(OPS[name].triton_text or "0") - {"float"})
    absent = called - {*ONE, *TWO, *OVER_AXIS}
    assert not absent, f"the row '{name}' calls {absent}: add it to `ONE` and `one` in this file"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ONE)
def test_functions_of_one_number(name: str, dtype: torch.dtype) -> None:
    function, units = ONE[name]
    x = numbers(dtype)
    out = torch.empty_like(x)
    interpreter.launch(one, (1,), x, out, F=name, SIZE=1024)
    near(out, function(x.double()), units)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("p", [0.0, 1.0, 2.0, 3.0, 7.0, -1.0, -2.0, 0.5, -0.5, 2.5, INF, NAN])
def test_powers(p: float, dtype: torch.dtype) -> None:
    x = numbers(dtype)
    x = x[(x.abs() < 100) | ~x.isfinite()][:512]
    x[x == 0] = 0  # no kernel tells -0 from 0
    y, out = torch.full_like(x, p), torch.empty_like(x)
    interpreter.launch(two, (1,), x, y, out, F="power", SIZE=512)
    wanted = x.double() ** y.double()
    limit = torch.finfo(dtype)
    inside = ~((wanted.abs() > limit.max / 2) & wanted.isfinite())
    near(out[inside], wanted[inside], 8)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_remainders_have_the_sign_of_the_divisor(dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(0)
    a = torch.randn(512, generator=draw, dtype=torch.float64).to(dtype)
    b = (torch.randn(512, generator=draw, dtype=torch.float64) + 3).to(dtype)
    a[:4], b[:4] = torch.tensor([7, -7, 7, -7]), torch.tensor([3, 3, -3, -3])
    out = torch.empty_like(a)
    interpreter.launch(two, (1,), a, b, out, F="remainder", SIZE=512)
    wanted = torch.remainder(a.double(), b.double()).to(dtype)
    torch.testing.assert_close(out, wanted, rtol=0, atol=20 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("name", ["remainder", "floor_divide"])
@pytest.mark.parametrize("dtype", [*DTYPES, torch.int64], ids=str)
def test_division_rounds_down_exactly(dtype: torch.dtype, name: str) -> None:
    """As Python divides, where the quotient itself would round: 1 // 0.1 is 9."""
    a = torch.tensor([1.0, -1.0, 7.0, -7.0, 7.0, -7.0, 6.0, 0.0] * 2).to(dtype)
    b = torch.tensor([0.1, 0.1, 3.0, 3.0, -3.0, -3.0, -3.0, 2.0] * 2).to(dtype)
    b = torch.where(b == 0, 2, b)
    out = torch.empty_like(a)
    interpreter.launch(two, (1,), a, b, out, F=name, SIZE=16)
    wanted = torch.remainder(a, b) if name == "remainder" else torch.floor_divide(a, b)
    assert torch.equal(out, wanted)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float16, torch.bfloat16], ids=str)
def test_products_add_to_a_total(dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(0)
    a, w = (torch.randn(16, 16, generator=draw).to(dtype) for _ in range(2))
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    out = torch.empty(16, 16, dtype=wide)
    interpreter.launch(multiplied, (1,), a, w, out, SIZE=16, UPCAST=a.element_size() == 2)
    wanted = (1 + a.double() @ w.double()).to(wide)
    torch.testing.assert_close(out, wanted, rtol=0, atol=50 * torch.finfo(wide).eps)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_close_to_the_maximum_is_as_its_row_defines_it(dtype: torch.dtype) -> None:
    top = torch.linspace(-50, 50, 512, dtype=torch.float64).to(dtype)
    distance = torch.arange(512) % 8 * 16  # in roundings; the limit is 64
    x = top - top.abs() * distance * torch.finfo(dtype).eps
    x[:2], top[:2] = torch.tensor([-INF, 0.0]), torch.tensor([-INF, 0.0])
    out = torch.empty_like(x)
    interpreter.launch(two, (1,), x, top, out, F="close_to_max", SIZE=512)
    off = distance != 64  # the comparison itself rounds
    assert torch.equal(out.bool()[off], level(x, top)[off])
    assert 0 < out.sum() < 512
