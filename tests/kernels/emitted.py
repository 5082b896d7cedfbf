"""Emitted kernels for tests: the kernels of a network's loops, by their purpose."""

from __future__ import annotations

from torch import nn

import graphnn as gn
from graphnn.kernels.codegen.persistent import LoopSource

KINDS = ("saving", "backward")


class Over(nn.Module):
    """A module over time with a given width."""

    def __init__(self, module: nn.Module, width: int):
        super().__init__()
        self.module, self.width = module, width

    def graph(self, g: gn.Graph) -> None:
        g.output("y", self.module(g.input("x", (self.width,), over="time")))


def sources(net: nn.Module) -> dict[str, LoopSource]:
    """The kernels of a one-loop network: "saving" and "backward" for training, or "running"."""
    model = gn.compile(net, backend="interpret", skip=("fit",))
    model.source()
    (program,) = model.programs
    (loop,) = program.loops
    found = {}
    for name, launcher in loop.lowering.launchers.items():
        kind = next((k for k in KINDS if name.endswith(f"_{k}")), "running")
        found[kind] = launcher.source
    return found
