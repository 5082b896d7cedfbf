"""A kernel of which no tile fits the GPU gives way to the next, with a warning."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from graphnn.kernels.ir.program import Unsupported
from graphnn.kernels.trust.failures import KernelWarning
from graphnn.kernels.trust.gate import Gate, Way
from tests.kernels.made_up_gpu import MadeUpGpu


def test_torch_runs_what_no_tile_fits() -> None:
    def unfit(tensors: Any, sizes: Any) -> Any:
        raise Unsupported("no tile of attention fits sm_89 (tried: 16 x 16)")

    problem: Any = SimpleNamespace(
        ways=lambda: [Way("kernel", unfit)], reference=lambda tensors, sizes: [tensors[0] + 1]
    )
    gate = Gate("attention", MadeUpGpu(target="sm_89"))
    with pytest.warns(KernelWarning, match="no tile of attention fits sm_89"):
        (found,) = gate((1,), problem, [torch.zeros(2)], {})
    assert torch.equal(found, torch.ones(2))
