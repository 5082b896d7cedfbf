"""A loop that is exactly one of torch's layers: run by that layer or by our kernels, by timing.

Forward and backward of a call use the same strategy: autograd records the one that ran.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from graphnn.backends.torch.operators.loop import LoopOperator
from graphnn.backends.torch.program import Program
from graphnn.backends.torch.runtime.torch_layers import recurrent
from graphnn.ir.graph import BATCH, Node
from graphnn.kernels.select.autotune import is_capturing
from graphnn.kernels.select.strategies import strategy_name
from graphnn.kernels.select.strategy_timing import Strategies, StrategyTuner

Tensor = torch.Tensor
Operands = Sequence[Any]
CUDNN, KERNELS = "cuDNN", "kernels"


class TimedLayer:
    """Runs an `aten` node on its operands, numbers or tensors, as `recurrent` does.

    `own` is the layer's definition as a program, with one output for each of the `wanted` results.
    If nothing is timed, torch's layer is used: no timing on a GPU has shown otherwise yet.
    """

    def __init__(self, node: Node, own: Program, wanted: Sequence[int], tune: bool):
        self.node, self.own, self.wanted = node, own, sorted(wanted)
        self.axes = (str(node.attrs["axis"]), BATCH)
        self.strategies: dict[str, Callable[[Operands, Sequence[int]], list[Any]]] = {
            CUDNN: self._torch,
            KERNELS: self._kernels,
        }
        parts = [own.source, *(text for loop in own.loops for text in loop.made_of())]
        self.tuner = StrategyTuner("\n".join(parts), tune, self.axes[:1])

    def __call__(self, operands: Operands, sizes: Sequence[int]) -> list[Any]:
        tensors = [x for x in operands if isinstance(x, Tensor)]
        train = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
        known = dict(zip(self.axes, sizes, strict=True))
        strategies = lambda: Strategies(
            list(self.strategies),
            lambda lengths: CUDNN,
            lambda name: True,
            lambda name: self._run_once(name, operands, sizes, train),
        )
        direction = "training" if train else "inference"
        if torch.is_autocast_enabled(operands[0].device.type):
            direction += f" in {torch.get_autocast_dtype(operands[0].device.type)}"
        name = self.tuner.choose(operands[0], known, strategies, direction)
        if self.node.attrs["ragged"] and is_capturing():
            name = KERNELS  # torch's layer reads lengths on the CPU, which a CUDA graph cannot hold
        return self.strategies[name](operands, sizes)

    def _run_once(self, name: str, operands: Operands, sizes: Sequence[int], train: bool) -> None:
        """Run a strategy forward, in training backward too, outside the call's autograd graph."""
        given = [
            x.detach().requires_grad_(train and x.requires_grad) if isinstance(x, Tensor) else x
            for x in operands
        ]
        outs = [y for y in self.strategies[name](given, sizes) if y is not None and y.requires_grad]
        leaves = [x for x in given if isinstance(x, Tensor) and x.requires_grad]
        if outs:
            torch.autograd.grad(outs, leaves, [torch.ones_like(y) for y in outs], allow_unused=True)

    def _torch(self, operands: Operands, sizes: Sequence[int]) -> list[Any]:
        x, *rest = operands
        length = rest.pop().reshape(-1, 1) if self.node.attrs["ragged"] else None
        signature = self.node.attrs["kind"], x, rest[:-4], rest[-4:]
        stated = self.node.dtype if self.node.attrs["stated"] else None
        return list(recurrent(*signature, self.node.attrs["reverse"], length, stated=stated))

    def _kernels(self, operands: Operands, sizes: Sequence[int]) -> list[Any]:
        axis, given = self.axes[0], list(operands)
        lengths = {axis: given.pop()} if self.node.attrs["ragged"] else {}
        inputs = {str(k): x for k, x in enumerate(given) if isinstance(x, Tensor)}
        known = dict(zip(self.axes, sizes, strict=True))
        found = iter(self.own.main([], inputs, lengths, known, operands[0].device))
        return [next(found) if k in self.wanted else None for k in range(max(self.wanted) + 1)]

    @property
    def called(self) -> tuple[str, str]:
        """The names of the loop's states and its axis, by which a plan identifies it."""
        return ", ".join(dict.fromkeys(self.node.attrs["states"])), self.axes[0]

    @property
    def loop(self) -> LoopOperator:
        """The loop that our kernels run."""
        return self.own.loops[0]

    def report(self) -> list[str]:
        """Return the candidates and their timings as text."""
        lines = [f"candidate {CUDNN}: used if nothing is timed (the cost model does not cover it)"]
        for choice, backward in zip(self.loop.choices(), (False, True), strict=False):
            direction = "backward" if backward else "forward"
            name = strategy_name(choice.strategy)
            lines.append(f"candidate {KERNELS}, {direction}: {name}: {choice.reason}")
            lines += [f"  {text}" for text in self.loop.candidates(backward)]
        return [*lines, *self.tuner.descriptions()]
