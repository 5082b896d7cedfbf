"""The overhead of a call, without its kernels: `python -m graphnn.bench.overhead`.

The kernels of an LSTM are planned for a GPU and their launches replaced by empty functions. The
remaining time is Python's work on the CPU, in microseconds per call: finding the program, checking
arguments, allocating results, passing arguments. It excludes Triton's launch code (about 10 µs per
launch).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import graphnn as gn
from graphnn.bench.networks import NETWORKS
from graphnn.kernels.executors.executor import GpuInfo
from graphnn.kernels.executors.gpu import Gpu
from graphnn.kernels.executors.interpreted import PLANNED_FOR


class EmptyKernel:
    """Replaces a jitted function; a launch does nothing."""

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        return self.launch

    def launch(self, *args: Any, **constants: Any) -> None:
        """Do nothing."""


class NoGpu(Gpu):
    """Launches nothing: stands for the GPU that kernels are planned for."""

    def gpu(self, index: int) -> GpuInfo:
        """Return the GPU that kernels are planned for."""
        return PLANNED_FOR


class FixedTuner:
    """Replaces an autotuner, as there is no GPU to time on."""

    def choose(self, judged: Any, *rest: Any) -> Any:
        """Return the launch that the model prefers."""
        return judged


def silenced(model: gn.Compiled, x: torch.Tensor) -> dict[str, Any]:
    """Run a model forward and backward, then disable its launchers and return them."""
    model(x=x).sum().backward()
    with torch.no_grad():
        model(x=x)
    (program,) = model.programs
    launchers = program.loops[0].lowering.launchers
    for launcher in launchers.values():
        launcher.executor, launcher.function, launcher.tuner = NoGpu(), EmptyKernel(), FixedTuner()
    return launchers


def microseconds(run: Callable[[], Any], count: int = 200, rounds: int = 15) -> float:
    """Microseconds per call in the fastest round, as other load only adds time."""
    found = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        for _ in range(count):
            run()
        found.append((time.perf_counter() - start) / count * 1e6)
    return min(found)


def layers(name: str, skip: tuple[str, ...] = ()) -> dict[str, float]:
    """Microseconds per call of a network, and of each launcher alone."""
    torch.manual_seed(0)
    model = gn.compile(NETWORKS[name](16), backend="interpret", skip=skip)
    x = torch.randn(2, 3, 16, requires_grad=True)
    launchers = silenced(model, x)
    y = model(x=x)
    g = torch.randn_like(y)

    def infer() -> None:
        with torch.no_grad():
            model(x=x)

    both = lambda: model(x=x).backward(g)
    found = {"inference": infer, "forward, saving": lambda: model(x=x), "and backward": both}
    found |= {f"launcher {k}": _alone(v) for k, v in launchers.items()}
    return {k: microseconds(v) for k, v in found.items()}


def _alone(launcher: Any) -> Callable[[], Any]:
    program = launcher.source.program
    sizes = dict.fromkeys(launcher.source.sizes, 3)
    tensors = [torch.zeros([*(3 for _ in t.axes), *t.shape]) for t in program.tensors]
    if program.axis:
        return lambda: launcher(tensors, sizes, torch.float32)
    outs = [torch.zeros([*(3 for _ in t.axes), *t.shape]) for _, t in program.stores]
    return lambda: launcher.into(tensors, outs, sizes, torch.float32)


def main() -> None:
    """Measure, and print a table."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    torch.set_num_threads(1)
    table = Table(
        title=f"microseconds per call without the kernels, CPU, torch {torch.__version__}"
    )
    for column in ("LSTM", "persistent", "stepwise, 3 steps"):
        table.add_column(column, justify="left" if column == "LSTM" else "right")
    one, step = layers("LSTM"), layers("LSTM", ("resident", "cooperative"))
    for part in dict.fromkeys([*one, *step]):
        shown = [f"{found[part]:.1f}" if part in found else "" for found in (one, step)]
        table.add_row(part, *shown)
    Console().print(table)


if __name__ == "__main__":
    main()
