"""Records the launches of a model, compiled for a GPU, with what each needs to be run again."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import graphnn as gn
from graphnn.kernels import ptx
from graphnn.kernels.executors.compiled import compiled
from graphnn.kernels.executors.executor import Executor, KernelLaunch, launches_run_by


@dataclass
class Recorded:
    """A launch: its program, and its arguments before and after it ran as compiled.

    `given` are the arguments that its PTX takes; `before` and `after` copies of the tensors among
    them, in order. `report` is that of the unchanged program.
    """

    program: ptx.Program
    grid: tuple[int, ...]
    given: list[Any]
    shared: int
    together: bool
    before: list[Tensor] = field(default_factory=list)
    after: list[Tensor] = field(default_factory=list)
    report: ptx.Report = field(default_factory=ptx.Report)

    def first_run(self) -> None:
        """Run the program as compiled and note what it does."""
        self.before = [t.detach().clone() for t in self.tensors]
        self.report = self.run(self.program)
        self.after = [t.detach().clone() for t in self.tensors]

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors among the arguments."""
        return [x for x in self.given if isinstance(x, Tensor)]

    def run(self, program: ptx.Program, seed: int = 0, limit: int = 10**8) -> ptx.Report:
        """Run a program on the arguments as they were before."""
        for tensor, value in zip(self.tensors, self.before):
            tensor.data.copy_(value)
        return ptx.run(
            program,
            self.grid,
            self.given,
            shared=self.shared,
            cooperative=self.together,
            seed=seed,
            limit=limit,
        )


def recorded(net: nn.Module, x: Tensor, target: str, **options: Any) -> list[Recorded]:
    """Run a model forward and backward on the executor of PTX, and return its launches."""
    found: list[Recorded] = []

    def run(executor: Executor, launch: KernelLaunch) -> None:
        kernel, given = compiled(launch, target)
        program = ptx.parse(kernel.asm["ptx"])
        one = Recorded(program, launch.grid, given, kernel.metadata.shared, launch.together)
        one.first_run()
        found.append(one)

    with launches_run_by(run):
        model = gn.compile(net, "ptx", target=target, **options)
        y = model(x=x)
        y.float().square().sum().backward()
    return found


class Layer(nn.Module):
    """One recurrent layer of the library."""

    def __init__(self, kind: str, size: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = {"lstm": gn.nn.LSTM, "gru": gn.nn.GRU}[kind](8, size)

    def graph(self, g: gn.Graph) -> None:
        g.output("y", self.layer(g.input("x", (8,), over="time")))


def sequences(batch: int, steps: int, dtype: torch.dtype) -> Tensor:
    """Inputs of a layer, which need a gradient."""
    torch.manual_seed(1)
    return torch.randn(batch, steps, 8).to(dtype).requires_grad_()
