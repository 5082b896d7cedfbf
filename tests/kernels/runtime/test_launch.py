"""How launches multiply float32, and which tensors they store to."""

from __future__ import annotations

import pytest
import torch

from graphnn.kernels.codegen.persistent import emit
from graphnn.kernels.executors.named import INTERPRETER
from graphnn.kernels.ir.program import LoopProgram, Op, Tensor
from graphnn.kernels.runtime import launch
from graphnn.kernels.runtime.launch import Launcher, input_precision


@pytest.fixture
def chosen():
    before = torch.get_float32_matmul_precision()
    yield torch.set_float32_matmul_precision
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize(
    "asked, wanted", [("highest", "tf32x3"), ("high", "tf32"), ("medium", "tf32")]
)
def test_float32_matmuls_follow_torchs_setting(chosen, asked, wanted) -> None:
    chosen(asked)
    assert input_precision(torch.float32) == wanted
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        assert input_precision(dtype) == "ieee"


def doubled() -> Launcher:
    """y(t) = 2 x(t), for rows of 3 elements."""
    x = Tensor("x", (3,), ("time", "batch"))
    ops = (
        Op("x", "read", shape=(3,), attrs={"tensor": x}),
        Op("y", "pointwise", ("x", "x"), (3,), attrs={"template": "({0} + {1})"}),
    )
    stores = (("y", Tensor("y_out", (3,), ("time", "batch"))),)
    program = LoopProgram("doubled", "time", ("batch",), False, (x,), ops, (), stores)
    return Launcher(emit(program), executor=INTERPRETER)


@pytest.mark.parametrize("time, batch", [(2, 3), (1, 1), (3, 17), (0, 2), (2, 0)])
def test_a_launch_returns_the_stored_tensors(time: int, batch: int) -> None:
    x = torch.randn(time, batch, 3)
    (y,) = doubled()([x], {"time": time, "batch": batch}, torch.float32)
    assert torch.equal(y, 2 * x)


def test_strided_tensors_are_read_and_written() -> None:
    x, out = torch.randn(3, 2, 3).transpose(0, 1), torch.zeros(2, 3, 6)[..., ::2]
    doubled().into([x], [out], {"time": 2, "batch": 3}, torch.float32)
    assert torch.equal(out, 2 * x)


def test_more_elements_than_32_bits_can_address_are_an_error(monkeypatch) -> None:
    x = torch.randn(2, 4, 3)
    sizes = {"time": 2, "batch": 4}
    monkeypatch.setattr(launch, "MAX_OFFSET", 4 * 3 + 1)
    (y,) = doubled()([x], sizes, torch.float32)
    assert torch.equal(y, 2 * x)
    monkeypatch.setattr(launch, "MAX_OFFSET", 4 * 3)
    with pytest.raises(ValueError, match=r"doubled gets 4 rows of up to 3 .*: split the batch"):
        doubled()([x], sizes, torch.float32)
