"""Each function of the prelude, compiled for each GPU in each way that kernels call it.

What the compiled PTX computes is compared with the interpreter. The interpreter ignores types, so a
function that it runs need not compile: two returns of different shapes, for example.
"""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
import triton.language as tl

from graphnn.kernels.cache import load_module
from graphnn.kernels.codegen.builder import PRELUDE
from graphnn.kernels.executors.compiled import compiled
from graphnn.kernels.executors.executor import KernelLaunch
from graphnn.kernels.executors.ptx import EXECUTED, PtxExecutor
from graphnn.kernels.interpreter import interpreter

pytestmark = pytest.mark.ptx
# targets that the executor of PTX does not know are compiled for only
TARGETS = ("sm_75", "sm_80", "sm_89", "sm_90", "sm_100", "sm_120")
F32, F16, BF16, I64 = torch.float32, torch.float16, torch.bfloat16, torch.int64


class Case(NamedTuple):
    """A call of a prelude function: its code, the shape of `x`, and what constants may be.

    `units` is how far the result may be from the interpreter's, in units of its dtype for numbers
    of the size of the largest one. `least` is the first target that has the products.
    """

    code: str
    shape: tuple[int, int] = (16, 8)
    dtypes: tuple[torch.dtype, ...] = (F32,)
    constants: dict[str, tuple[Any, ...]] = {}  # noqa: RUF012
    units: float = 8
    least: str = "sm_75"


def over_axis(call: str, **more: Any) -> list[Case]:
    """The cases of a function over a block axis: tiles whose rows, or columns, are positions."""
    rows = Case(call.format("i", 0), (16, 8), **more)
    columns = Case(call.format("j", 1), (1, 16), **more)
    return [rows, rows._replace(shape=(128, 4)), columns, columns._replace(shape=(1, 128))]


# what a function is called by only
WITHIN = {"empty_topk": "merge_topk", "sum_bf16x3": "matmul_bf16x3"}
# what is compiled only: the cosine of libdevice keeps an array in local memory, which the executor
# of PTX does not model
COMPILED = {"normal"}
LIVE = "{0}, {0} < many, many"
BIT16 = {"PRECISION": ("ieee",), "UPCAST": (False,)}
FLOAT32 = {"PRECISION": ("tf32x3", "tf32", "ieee"), "UPCAST": (False,)}
CASES: dict[str, list[Case]] = {
    **{
        name: [Case(f"{name}(x)"), Case(f"{name}(x)", (1, 128))]
        for name in (
            *("sigmoid", "tanh", "log1p", "expm1", "sinh", "cosh", "asinh", "acosh", "atanh"),
            *("sign", "round_half_even"),
        )
    },
    "power": [Case("power(tl.abs(x), x)", units=64), Case("power(x, tl.full([1, 1], 3.0, ACC))")],
    "remainder": [Case("remainder(x, x + 3)"), Case("remainder(x, x * x + 1)", dtypes=(I64,))],
    "floor_divide": [Case("floor_divide(x, x * x + 1)", dtypes=(F32, I64))],
    "nan_max": [Case("nan_max(x, 1)[:, None]"), Case("nan_max(tl.sqrt(x + 3), 1)[:, None]")],
    "close_to_max": [Case("close_to_max(x, tl.max(x)).to(ACC)")],
    "uniform": [Case("uniform(7, i * 8 + j, ACC)", units=0)],
    "normal": [Case("normal(7, i * 8 + j, ACC)")],
    "dropout": [Case(f"dropout(7, i * 8 + j, {p}, ACC)", units=1) for p in (0.0, 0.3, 1.0)],
    "first_row": [Case("tl.broadcast_to(first_row(x * 0 + j), x.shape)")],
    "to_block_layout": [
        Case("to_block_layout(x, 16, ACC)", (1, width), dtypes=(F32, I64)) for width in (4, 8, 32)
    ],
    "deinterleave2": [Case("deinterleave2(x)[1]", (16, 16))],
    "deinterleave4": [Case("deinterleave4(x)[2]", (16, width)) for width in (16, 64)],
    "matmul": [
        Case("matmul(x, w, total, PRECISION, UPCAST)", (16, 16), (F16,), BIT16),
        Case("matmul(x, w, total, PRECISION, UPCAST)", (16, 16), (BF16,), BIT16, least="sm_80"),
        # one product of TF32 has ten binary digits
        Case("matmul(x, w, total, PRECISION, UPCAST)", (16, 16), (F32,), FLOAT32, 2**14, "sm_80"),
    ],
    "matmul_bf16x3": [
        Case("sum_bf16x3(a, b)", (16, 16), (F32,), FLOAT32, 2**14, "sm_80"),
        Case("sum_bf16x3(a, b)", (16, 16), (BF16,), BIT16, least="sm_80"),
    ],
    "merge_topk": [Case("a", (16, 16), units=0), Case("b.to(ACC)", (16, 16), units=0)],
    "axis_sum": over_axis("tl.broadcast_to(axis_sum(x, " + LIVE + ", {1}), x.shape)"),
    "axis_max": over_axis("tl.broadcast_to(axis_max(x, " + LIVE + ", {1}), x.shape)"),
    "softmax": over_axis("softmax(x, " + LIVE + ", {1})"),
    "logsumexp": over_axis("tl.broadcast_to(logsumexp(x, " + LIVE + ", {1}), x.shape)"),
    "roll": over_axis("roll(x, " + LIVE + ", shift, {1})", dtypes=(F32,), units=0),
    "flip": over_axis("flip(x, " + LIVE + ", {1})", dtypes=(F32, I64), units=0),
    "element_at": over_axis("tl.broadcast_to(element_at(x, " + LIVE + ", -1, {1}), x.shape)"),
    "topk_mask": over_axis("topk_mask(x, " + LIVE + ", 3, {1}).to(ACC)", units=0),
}


def source(name: str, case: Case) -> str:
    """A kernel that stores the result of a case."""
    height, width = case.shape
    lines = [
        "import triton",
        "import triton.language as tl",
        f"from graphnn.kernels.codegen.prelude import ({', '.join(sorted(PRELUDE))})",
        "@triton.jit",
        "def kernel(x_ptr, out_ptr, many, shift, ACC: tl.constexpr, PRECISION: tl.constexpr, "
        "UPCAST: tl.constexpr):",
        f"    i, j = tl.arange(0, {height})[:, None], tl.arange(0, {width})[None, :]",
        f"    x = tl.load(x_ptr + i * {width} + j)",
    ]
    if "matmul" in name:
        lines.append("    w, total = tl.load(x_ptr + j * 16 + i), tl.full([16, 16], 1.0, ACC)")
    if name == "merge_topk":
        lines.append("    scores, positions = empty_topk(16, 3, 4, ACC)")
        lines.append("    a, b = merge_topk(scores, positions, x, i * 0 + j, j < 13)")
    if name == "matmul_bf16x3":
        lines.append("    a, b = matmul_bf16x3(x, w, total, total * 0, PRECISION, UPCAST)")
    lines.append(f"    made = {case.code}")
    lines.append("    down, across = tl.arange(0, made.shape[0]), tl.arange(0, made.shape[1])")
    lines.append("    places = down[:, None] * made.shape[1] + across[None, :]")
    lines.append("    tl.store(out_ptr + places, made)")
    return "\n".join(lines) + "\n"


def launches(name: str, case: Case) -> list[tuple[torch.dtype, dict[str, Any], int]]:
    """The dtypes, constants and numbers of warps of a case."""
    names = case.constants or {"PRECISION": ("ieee",), "UPCAST": (False,)}
    constants = [dict(zip(names, values)) for values in itertools.product(*names.values())]
    return [*itertools.product(case.dtypes, constants, (4, 8))]


def numbers(shape: tuple[int, int], dtype: torch.dtype) -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=draw) * 2
    return (x * 10).to(dtype) if dtype == I64 else x.to(dtype)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", CASES)
def test_a_function_compiles_and_computes_what_the_interpreter_does(name, target):
    for case in CASES[name]:
        if int(target[3:]) < int(case.least[3:]):
            continue
        function = load_module(source(name, case), f"prelude_{name}").kernel
        for dtype, constants, warps in launches(name, case):
            x = numbers(case.shape, dtype)
            exact = dtype if dtype == I64 else F32
            got, want = (torch.full((4096,), 77, dtype=exact) for _ in range(2))
            many = max(case.shape) - 3
            constants = {"ACC": tl.float32, **constants}
            upcast = {**constants, "UPCAST": True}
            interpreter.launch(function, (1,), x, want, many, 5, **upcast)
            options = {"num_warps": warps, "num_stages": 1, "enable_fp_fusion": True}
            launch = KernelLaunch(function, (1,), [x, got, many, 5], constants, options, (1,))
            if target not in EXECUTED or name in COMPILED:
                compiled(launch, target)
                continue
            PtxExecutor(target).run(launch)
            size = want[want != 77].nan_to_num(0, 0, 0).abs().max() if exact == F32 else 1
            units = 0 if exact == I64 else case.units * torch.finfo(F32).eps
            near = {"rtol": 0, "atol": float(size * units), "equal_nan": True}
            torch.testing.assert_close(got, want, **near, msg=partial("{}: {}".format, case.code))


def test_every_function_of_the_prelude_has_a_case():
    assert {*CASES, *WITHIN} == PRELUDE
    assert all(f"{name}(" in source(caller, CASES[caller][0]) for name, caller in WITHIN.items())
