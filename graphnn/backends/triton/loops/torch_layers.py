"""A loop that is exactly one of torch's layers: that layer, or kernels of our own, by time.

Forward and backward of a call are the same way's: each is recorded by autograd as it is run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from graphnn.backends.torch.operators.loop import LoopOperator
from graphnn.backends.torch.program import Program
from graphnn.backends.torch.runtime.torch_layers import recurrent
from graphnn.ir.graph import BATCH, Node
from graphnn.kernels.select.strategy_timing import Strategies, StrategyTuner
from graphnn.planner.loops.choose import strategy_name

Tensor = torch.Tensor
Operands = Sequence[Any]
CUDNN, KERNELS = "cuDNN", "kernels"


class Layer:
    """Runs an `aten` node, on its operands, a number or a tensor each, as `recurrent` does.

    `own` is its definition as a program, an output for each of the `wanted` results. Where nothing
    is timed it is torch's, as no GPU has said otherwise.
    """

    def __init__(self, node: Node, own: Program, wanted: Sequence[int], tune: bool):
        self.node, self.own, self.wanted = node, own, sorted(wanted)
        self.axes = (str(node.attrs["axis"]), BATCH)
        self.ways: dict[str, Callable[[Operands, Sequence[int]], list[Any]]] = {
            CUDNN: self._torch,
            KERNELS: self._kernels,
        }
        parts = [own.source, *(text for loop in own.loops for text in loop.made_of())]
        self.chooser = StrategyTuner("\n".join(parts), tune)

    def __call__(self, operands: Operands, sizes: Sequence[int]) -> list[Any]:
        tensors = [x for x in operands if isinstance(x, Tensor)]
        train = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
        known = dict(zip(self.axes, sizes, strict=True))
        ways = lambda: Strategies(
            list(self.ways),
            lambda about: CUDNN,
            lambda way: True,
            lambda way: self._once(way, operands, sizes, train),
        )
        direction = "training" if train else "inference"
        if torch.is_autocast_enabled(operands[0].device.type):
            direction += f" in {torch.get_autocast_dtype(operands[0].device.type)}"
        way = self.chooser.choose(operands[0], known, ways, direction)
        return self.ways[way](operands, sizes)

    def _once(self, way: str, operands: Operands, sizes: Sequence[int], train: bool) -> None:
        """A way forward, in training backward too, apart from the graph of the call."""
        given = [
            x.detach().requires_grad_(train and x.requires_grad) if isinstance(x, Tensor) else x
            for x in operands
        ]
        outs = [y for y in self.ways[way](given, sizes) if y is not None and y.requires_grad]
        leaves = [x for x in given if isinstance(x, Tensor) and x.requires_grad]
        if outs:
            torch.autograd.grad(outs, leaves, [torch.ones_like(y) for y in outs], allow_unused=True)

    def _torch(self, operands: Operands, sizes: Sequence[int]) -> list[Any]:
        x, *rest = operands
        length = rest.pop().reshape(-1, 1) if self.node.attrs["ragged"] else None
        form = self.node.attrs["kind"], x, rest[:-4], rest[-4:]
        stated = self.node.dtype if self.node.attrs["stated"] else None
        return list(recurrent(*form, self.node.attrs["reverse"], length, stated=stated))

    def _kernels(self, operands: Operands, sizes: Sequence[int]) -> list[Any]:
        axis, given = self.axes[0], list(operands)
        lengths = {axis: given.pop()} if self.node.attrs["ragged"] else {}
        inputs = {str(k): x for k, x in enumerate(given) if isinstance(x, Tensor)}
        known = dict(zip(self.axes, sizes, strict=True))
        found = iter(self.own.main([], inputs, lengths, known, operands[0].device))
        return [next(found) if k in self.wanted else None for k in range(max(self.wanted) + 1)]

    @property
    def called(self) -> tuple[str, str]:
        """The states of the loop, and its axis: what a plan knows it by."""
        return ", ".join(dict.fromkeys(self.node.attrs["states"])), self.axes[0]

    @property
    def loop(self) -> LoopOperator:
        """The loop that kernels run."""
        return self.own.loops[0]

    def report(self) -> list[str]:
        """The candidates and what was measured of them, in words for users."""
        lines = [f"candidate {CUDNN}: not modelled, taken where nothing is timed"]
        for choice, backward in zip(self.loop.choices(), (False, True), strict=False):
            word = "backward" if backward else "forward"
            lines.append(
                f"candidate {KERNELS}, {word}: {strategy_name(choice.regime)}: {choice.reason}"
            )
            lines += [f"  {text}" for text in self.loop.candidates(backward)]
        return [*lines, *self.chooser.descriptions()]
