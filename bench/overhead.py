"""What a call costs beside its kernels: `python -m graphnn.bench.overhead`.

An LSTM's kernels are planned for a GPU and their launches replaced by nothing; what is left is
Python's own work on the CPU, in microseconds a call: finding the program, checking, allocating
results, handing over arguments. Triton's own launch code (some 10 us each) is not in it.
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


class Nothing:
    """In place of a jitted function: takes a launch and does not do it."""

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        return self.launch

    def launch(self, *args: Any, **constants: Any) -> None:
        """Nothing."""


class First:
    """In place of a tuner: there is no GPU to ask."""

    def choose(self, judged: Any, *rest: Any) -> Any:
        """The launch that was judged."""
        return judged


def silenced(model: gn.Compiled, x: torch.Tensor) -> dict[str, Any]:
    """The launchers of a model that has run both ways, in whose place nothing is launched."""
    model(x=x).sum().backward()
    with torch.no_grad():
        model(x=x)
    (program,) = {id(p): p for p in model._programs.values()}.values()
    launchers = program.loops[0].lowering.launchers
    for launcher in launchers.values():
        launcher.interpret, launcher.function, launcher.tuner = False, Nothing(), First()
    return launchers


def microseconds(run: Callable[[], Any], count: int = 200, rounds: int = 15) -> float:
    """The best round's time of one call: what else the machine does only adds to it."""
    found = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        for _ in range(count):
            run()
        found.append((time.perf_counter() - start) / count * 1e6)
    return min(found)


def layers(name: str, skip: tuple[str, ...] = ()) -> dict[str, float]:
    """Microseconds a call of a network's parts, whole and launcher alone."""
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
    """Measure and show."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    torch.set_num_threads(1)
    table = Table(title=f"microseconds a call beside the kernels, CPU, torch {torch.__version__}")
    for column in ("LSTM", "resident", "stepwise, 3 steps"):
        table.add_column(column, justify="left" if column == "LSTM" else "right")
    one, step = layers("LSTM"), layers("LSTM", ("resident", "cooperative"))
    for part in dict.fromkeys([*one, *step]):
        shown = [f"{found[part]:.1f}" if part in found else "" for found in (one, step)]
        table.add_row(part, *shown)
    Console().print(table)


if __name__ == "__main__":
    main()
