"""Backend "ptx": models whose kernels are compiled, and executed without a GPU."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn

import graphnn as gn
from graphnn.errors import BackendError
from graphnn.kernels.executors.executor import KernelLaunch
from graphnn.kernels.executors.named import named
from graphnn.kernels.executors.ptx import PtxRace, node_of_line
from graphnn.kernels.ptx import PtxFault


class Elman(nn.Module):
    """A cell of four units."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(3 + 4, 4)

    def graph(self, g: gn.Graph) -> None:
        x = g.input("x", (3,), over="time")
        h = g.state("h", (4,), over="time")
        h.next = torch.tanh(self.map(torch.cat([x, h])))
        g.output("y", h.next)


def results(net: nn.Module, x: Tensor, backend: str, target: str | None = None) -> list[Tensor]:
    """Outputs, and the gradients of all parameters."""
    y = gn.compile(net, backend, target=target)(x=x)
    return [y, *torch.autograd.grad(y.square().sum(), [*net.parameters()])]


@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
def test_a_model_runs_as_compiled(target: str) -> None:
    torch.manual_seed(0)
    net, x = Elman(), torch.randn(3, 5, 3)
    wanted = results(net, x, "torch")
    for got, want in zip(results(net, x, "ptx", target), wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


def test_a_launch_that_reads_out_of_bounds_names_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    model, executor = gn.compile(Elman(), "ptx"), named("ptx:sm_90")
    whole = type(executor).execute

    def cut(self: object, launch: KernelLaunch) -> object:
        names = launch.argument_names
        lengths = [n if name != "n_time" else n + 1 for name, n in zip(names, launch.args)]
        launch.args = lengths
        return whole(executor, launch)  # type: ignore[arg-type]

    monkeypatch.setattr(type(executor), "execute", cut)
    with pytest.raises(PtxFault) as found:
        model(x=torch.randn(2, 3, 3))
    assert re.search(r"test_ptx_backend\.py:\d+", str(found.value))


def test_the_node_of_a_line_is_in_the_comment_above_it(tmp_path: object) -> None:
    path = f"{tmp_path}/kernel.py"
    with open(path, "w") as file:
        file.write("@triton.jit\ndef f(\n    x,\n):\n    # h, net.py:3\n    if x:\n        y = 1\n")
    assert node_of_line(path, 7) == "h, net.py:3"
    assert node_of_line(path, 3) == node_of_line(path, 99) == node_of_line("absent", 1) == ""


def test_races_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    executor = named("ptx:sm_90")
    whole = type(executor).execute

    def racing(self: object, launch: KernelLaunch) -> object:
        report = whole(executor, launch)  # type: ignore[arg-type]
        report.races.append("two warps store one element")  # type: ignore[arg-type]
        return report

    monkeypatch.setattr(type(executor), "execute", racing)
    with pytest.raises(PtxRace, match="compiled for sm_90: two warps store one element"):
        gn.compile(Elman(), "ptx")(x=torch.randn(2, 3, 3))


def test_a_target_is_checked() -> None:
    with pytest.raises(BackendError, match="'torch' cannot plan for a GPU that is absent"):
        gn.compile(Elman(), "torch", target="sm_90")
    with pytest.raises(BackendError, match=r"(?s)not executed for target 'sm_9'.*sm_75, sm_80"):
        gn.compile(Elman(), "ptx", target="sm_9")
    with pytest.raises(ValueError, match="no executor 'ptx:sm_9'"):
        named("ptx:sm_9")


def test_plans_follow_the_target() -> None:
    model = gn.compile(gn.nn.LSTM(128, 128).bfloat16(), "interpret", target="sm_80")
    assert "163 KB of shared memory" in model.explain()
