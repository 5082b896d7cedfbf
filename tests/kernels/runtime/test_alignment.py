"""Kernels see contiguous tensors at aligned addresses, and copies are made only if needed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import graphnn as gn
from graphnn.kernels.executors.executor import Executor, KernelLaunch, launches_run_by
from graphnn.kernels.executors.named import INTERPRETER
from graphnn.kernels.runtime import random, scan
from graphnn.kernels.runtime.alignment import aligned, is_aligned
from graphnn.kernels.runtime.launch import Launcher
from tests.attention.networks import Net
from tests.kernels.emitted import Over, sources


def shifted(x: torch.Tensor, by: int = 1) -> torch.Tensor:
    """The same numbers in a contiguous slice that begins at an odd element."""
    whole = x.new_zeros(x.numel() + by)
    whole[by:] = x.flatten()
    made = whole[by:].view(x.shape)
    assert made.is_contiguous() and made.data_ptr() % 16
    return made


@pytest.fixture
def seen() -> Any:
    """The tensors that kernels are launched on."""
    found: list[torch.Tensor] = []

    def watched(executor: Executor, launch: KernelLaunch) -> None:
        found.extend(x for x in launch.args if isinstance(x, torch.Tensor))
        executor.run(launch)

    with launches_run_by(watched):
        yield found


def test_only_what_is_not_aligned_is_copied() -> None:
    x = torch.randn(3, 5)
    assert aligned(x) is x and is_aligned(x)
    for other in (shifted(x), shifted(x, 3), x.t(), x[:, 1:]):
        copy = aligned(other)
        assert not is_aligned(other) and is_aligned(copy) and torch.equal(copy, other)
    assert is_aligned(x[0:0]) and aligned(torch.empty(0)).numel() == 0


def test_a_loop_sees_aligned_tensors(seen: list[torch.Tensor]) -> None:
    launcher = Launcher(sources(Over(gn.nn.RNN(4, 4), 4))["saving"], INTERPRETER)
    shapes = [(*(2 for _ in t.axes), *t.shape) for t in launcher.source.program.tensors]
    tensors = [torch.randn(shape) for shape in shapes]
    sizes = dict.fromkeys(launcher.source.sizes, 2)
    wanted = launcher(tensors, sizes, torch.float32)
    assert {t.data_ptr() for t in tensors} <= {t.data_ptr() for t in seen}  # none was copied
    seen.clear()
    odd = [shifted(t) for t in tensors]
    outs = [shifted(torch.zeros_like(t)) for t in wanted]
    launcher.into(odd, outs, sizes, torch.float32)
    assert seen and all(map(is_aligned, seen))
    assert all(torch.equal(a, b) for a, b in zip(outs, wanted, strict=True))
    plain = [torch.zeros_like(t) for t in wanted]
    launcher.into(tensors, plain, sizes, torch.float32)
    assert {t.data_ptr() for t in plain} <= {t.data_ptr() for t in seen}  # stored at once


def test_attention_scans_and_random_numbers_see_aligned_tensors(seen: list[torch.Tensor]) -> None:
    model = gn.compile(Net(4, 4), "interpret")
    q, k = torch.randn(1, 2, 4), torch.randn(1, 3, 4)
    wanted = model(q=q, k=k)
    torch.testing.assert_close(model(q=shifted(q), k=shifted(k)), wanted)  # torch multiplies before
    a, b, start = torch.rand(5, 3), torch.rand(5, 3), torch.rand(3)
    plain = scan.forward(a, b, start, False, INTERPRETER)
    odd = [shifted(x) for x in (a, b, start)]
    assert torch.equal(scan.forward(*odd, False, INTERPRETER), plain)
    given = (odd[0], odd[2], shifted(plain), shifted(torch.ones(5, 3)), False, INTERPRETER)
    scan.backward(*given)
    seed = torch.tensor([0, 7])[1:]
    assert seed.data_ptr() % 16
    random.random_tensor(seed, "uniform", 0.0, (4,), torch.float32, INTERPRETER)
    assert seen and all(map(is_aligned, seen))
