"""Checks the scan kernels on first use: all steps of some channels, against torch's scan.

The channels of a scan do not depend on each other, so that the full results hold those of a check.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from graphnn.kernels.executors.executor import Executor
from graphnn.kernels.executors.named import named
from graphnn.kernels.trust.gate import Cut, Gate, Problem, Run, Tensors, Way

# the channels at either end that are compared, and the most elements of a tensor that are
CHANNELS, ELEMENTS = 64, 2**22
_GATES: dict[tuple[str, str], Gate] = {}


def trusted(
    direction: str,
    kernel: Callable[[Executor, Tensors, bool], list[Tensor]],
    by_torch: Run,
    tensors: Sequence[Tensor],
    reverse: bool,
    name: str,
) -> Sequence[Tensor]:
    """Return the results of scan kernels; if they are checked, by what was found right.

    `name` is that of the executor.
    """
    executor = named(name)
    if not executor.checked:
        return kernel(executor, tensors, reverse)
    gate = _GATES.get((name, direction))
    if gate is None or gate.executor is not executor:
        gate = _GATES[name, direction] = Gate(f"linear scan, {direction}", executor)
    like = tensors[-1]
    kind = like.dtype, like.device, *tensors[0].shape
    known = gate.known.get(kind)
    if known is not None:
        return known(tensors, reverse)
    ways = [Way("scan", functools.partial(kernel, executor))]
    return gate(kind, Problem(lambda: ways, by_torch, _cut), tensors, reverse)


def _cut(tensors: Tensors, reverse: Any, rows: int) -> Cut:
    """Return some channels; the full results hold theirs."""
    steps, dims = len(tensors[0]), tensors[0].dim()
    count = max(1, min(CHANNELS, ELEMENTS // (2 * max(steps, 1))))
    cut = functools.partial(_channels, dims=dims, count=count)
    return Cut([cut(t) for t in tensors], reverse, part=lambda outs: [cut(t) for t in outs])


def _channels(x: Tensor, dims: int, count: int) -> Tensor:
    """Return the first and the last channels of a tensor, which may lack the time dimension."""
    flat = x.reshape(*x.shape[: x.dim() - dims + 1], -1)
    total = flat.shape[-1]
    if total <= 2 * count:
        return flat.contiguous()
    return torch.cat([flat[..., :count], flat[..., total - count :]], -1)
