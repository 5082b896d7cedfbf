"""The best lanes, as the definition has them: ties, NaN, and fewer lanes than asked for."""
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl

from graphnn.backends.torch.runtime.axis import axis_top
from graphnn.kernels.codegen.prelude import topk_mask
from graphnn.kernels.interpreter import interpreter

INF, NAN = float("inf"), float("nan")
ROWS = {
    "all differ": [0.5, -1.0, 3.0, 2.0, -4.0, 1.0],
    "equal ones": [1.0, 2.0, 1.0, 2.0, 1.0, 2.0],
    "infinite": [-INF, -INF, INF, 0.0, -INF, INF],
    "no number": [1.0, NAN, 2.0, 0.0, NAN, 3.0],
}


@triton.jit(do_not_specialize=["n"])
def found(x, out, n, K: tl.constexpr, AXIS: tl.constexpr):
    lane = tl.arange(0, 16)[None, :] if AXIS == 1 else tl.arange(0, 16)[:, None]
    live = lane < n
    chosen = topk_mask(tl.load(x + lane, mask=live, other=0.0), lane, live, n, K, AXIS)
    tl.store(out + lane, chosen.to(tl.int32), mask=live)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("k", [1, 3, 9])
@pytest.mark.parametrize("name", ROWS)
def test_the_best_lanes(name: str, k: int, axis: int) -> None:
    for count in (1, 4, 6):
        x = torch.tensor(ROWS[name], dtype=torch.float64)
        out = torch.full((16,), -1, dtype=torch.int32)
        interpreter.launch(found, (1,), x, out, count, K=k, AXIS=axis)
        assert out[:count].bool().tolist() == axis_top(x[:count], 0, k=k).tolist()
        assert (out[count:] == -1).all()
