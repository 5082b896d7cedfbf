"""The scan kernels as torch operators: z(t) = a(t) z(t-1) + b(t) over the first dimension.

They support what the scan of `backends.torch` supports: derivatives of any order, autocast and
torch.compile.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graphnn.backends.torch.runtime import scan as scans
from graphnn.backends.torch.runtime.active_transforms import under_transform
from graphnn.backends.triton.trusted_scan import trusted
from graphnn.kernels.executors.executor import Executor
from graphnn.kernels.runtime import scan as kernels
from graphnn.kernels.trust.gate import Tensors


def scan(
    a: Tensor,
    b: Tensor,
    start: Any,
    d: int,
    reverse: bool,
    executor: str,
    stated: torch.dtype | None = None,
) -> Tensor:
    """`scan_kernel` along dimension `d`. `start` may be a number or lack dimensions.

    `executor` is the name of what runs the kernels.
    """
    if under_transform():
        return scans.scan(a, b, start, d, reverse, stated)
    return torch.movedim(
        scan_kernel(*scans.operands(a, b, start, d, stated), reverse, executor), 0, d
    )


@torch.library.custom_op("graphnn::scan_kernel", mutates_args=())
def scan_kernel(a: Tensor, b: Tensor, start: Tensor, reverse: bool, executor: str) -> Tensor:
    """Scan `a`, `b` (time, …) of equal shape and dtype from `start` (…); backwards if `reverse`."""
    given = [a, b, start]
    return trusted("forward", _forward, _forward_by_torch, given, reverse, executor)[0]


@scan_kernel.register_fake
def _(a: Tensor, b: Tensor, start: Tensor, reverse: bool, executor: str) -> Tensor:
    return _like(b)


@torch.library.custom_op("graphnn::scan_kernel_backward", mutates_args=())
def scan_kernel_backward(
    a: Tensor, start: Tensor, z: Tensor, g: Tensor, reverse: bool, executor: str
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of a, b and start, from the result z and its gradient g."""
    given = [a, start, z, g]
    da, db, dstart = trusted("backward", _gradients, _by_torch, given, reverse, executor)
    return da, db, dstart


@scan_kernel_backward.register_fake
def _(
    a: Tensor, start: Tensor, z: Tensor, g: Tensor, reverse: bool, executor: str
) -> tuple[Tensor, Tensor, Tensor]:
    return _like(a), _like(g), _like(start)


def _forward(executor: Executor, tensors: Tensors, reverse: bool) -> list[Tensor]:
    a, b, start = tensors
    return [kernels.forward(a, b, start, reverse, executor)]


def _forward_by_torch(tensors: Tensors, reverse: bool) -> list[Tensor]:
    a, b, start = (x.contiguous() for x in tensors)
    return [scans.linear_scan(a, b, start, reverse)]


def _gradients(executor: Executor, tensors: Tensors, reverse: bool) -> list[Tensor]:
    a, start, z, g = tensors
    return list(kernels.backward(a, start, z, g, reverse, executor))


def _by_torch(tensors: Tensors, reverse: bool) -> list[Tensor]:
    a, start, z, g = tensors
    return list(scans.gradients(a, start, z, g, reverse))


def _like(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _setup(ctx: Any, inputs: Any, output: Any) -> None:
    a, _, start, *ctx.flags = inputs
    ctx.save_for_backward(a, start, output)


def _backward(ctx: Any, g: Tensor) -> Any:
    return *scan_kernel_backward(*ctx.saved_tensors, g, *ctx.flags), None, None


def _setup_second(ctx: Any, inputs: Any, output: Any) -> None:
    a, start, z, _, *ctx.flags = inputs
    ctx.save_for_backward(a, start, z, output[1])


def _second(ctx: Any, u: Tensor, v: Tensor, w: Tensor) -> Any:
    """With dz(t) = g(t) + a(t+1) dz(t+1) and the gradients u, v, w of da, db, dstart:

    m(t) = a(t) m(t-1) + u(t) z(t-1) + v(t) from w is that of g, and dz(t) m(t-1) that of a.
    """
    a, start, z, dz = ctx.saved_tensors
    reverse, executor = ctx.flags
    m = scan_kernel(a, u * _before(z, start, reverse) + v, w.contiguous(), reverse, executor)
    flow = u * dz
    after = _before(flow, torch.zeros_like(start), not reverse)
    edge = (flow[-1:] if reverse else flow[:1]).sum(0)
    return dz * _before(m, w, reverse), edge, after, m, None, None


def _before(x: Tensor, start: Tensor, reverse: bool) -> Tensor:
    """x(t-1), with `start` before the first position."""
    begin = start.unsqueeze(0)
    return torch.cat([x, begin])[1:] if reverse else torch.cat([begin, x])[:-1]


scan_kernel.register_autograd(_backward, setup_context=_setup)
scan_kernel_backward.register_autograd(_second, setup_context=_setup_second)
