"""z(t) = a(t) z(t-1) + b(t) over the first dimension: in order, or in parallel by pairs.

The gradient is the same scan in the other direction, so that derivatives of every order exist.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graphnn.backends.torch.runtime.active_transforms import under_transform

# Below this many elements per step and from this many steps on, the work of a step costs less than
# its calls, and log2(T) passes over everything are faster. Measured on 2 CPU cores, fp32.
PARALLEL_WIDTH, PARALLEL_STEPS = 2048, 32


def in_order(a: Tensor, b: Tensor, start: Tensor) -> Tensor:
    """One multiply-add per step: each element is read and written once."""
    out = torch.empty_like(b)
    before = start
    for a_t, b_t, z in zip(a.unbind(0), b.unbind(0), out.unbind(0)):
        torch.addcmul(b_t, a_t, before, out=z)
        before = z
    return out


def in_parallel(a: Tensor, b: Tensor, start: Tensor) -> Tensor:
    """Compose neighbouring steps in pairs, scan the half as many, then fill in the others."""
    first = torch.addcmul(b[0], a[0], start).unsqueeze(0)
    return _pairs(a, torch.cat([first, b[1:]]))


def _pairs(a: Tensor, b: Tensor) -> Tensor:
    n = b.shape[0]
    if n == 1:
        return b
    half = n // 2
    even_a, even_b, odd_a, odd_b = a[0 : 2 * half : 2], b[0 : 2 * half : 2], a[1::2], b[1::2]
    odd = _pairs(odd_a * even_a, torch.addcmul(odd_b, odd_a, even_b))
    out = torch.empty_like(b)
    out[1::2] = odd
    out[0] = b[0]
    if n > 2:
        count = (n + 1) // 2 - 1
        torch.addcmul(b[2::2], a[2::2], odd[:count], out=out[2::2])
    return out


@torch.library.custom_op("graphnn::scan", mutates_args=())
def linear_scan(a: Tensor, b: Tensor, start: Tensor, reverse: bool) -> Tensor:
    """z(t) = a(t) z(t-1) + b(t) along dimension 0, from `start`; from the end if `reverse`.

    `a`, `b`: (time, …) of one shape; `start`: (…).
    """
    if reverse:
        return linear_scan(a.flip(0), b.flip(0), start, False).flip(0)
    narrow = start.numel() < PARALLEL_WIDTH and b.shape[0] >= PARALLEL_STEPS
    return (in_parallel if narrow else in_order)(a, b, start)


@linear_scan.register_fake
def _(a: Tensor, b: Tensor, start: Tensor, reverse: bool) -> Tensor:
    return torch.empty_like(b)


def _setup(ctx: Any, inputs: Any, output: Any) -> None:
    a, _, start, ctx.reverse = inputs
    ctx.save_for_backward(a, start, output)


def _backward(ctx: Any, g: Tensor) -> Any:
    a, start, z = ctx.saved_tensors
    return *gradients(a, start, z, g, ctx.reverse), None


def gradients(
    a: Tensor, start: Tensor, z: Tensor, g: Tensor, reverse: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of a, b and start for the gradient g of the result z.

    dz(t) = g(t) + a(t+1) dz(t+1) is the same scan in the other direction.
    """
    nothing, begin = torch.zeros_like(start), start.unsqueeze(0)
    if reverse:
        after = torch.cat([nothing.unsqueeze(0), a[:-1]])
        before = torch.cat([z[1:], begin])
    else:
        after = torch.cat([a[1:], nothing.unsqueeze(0)])
        before = torch.cat([begin, z[:-1]])
    dz = linear_scan(after.contiguous(), g.contiguous(), nothing, not reverse)
    edge = -1 if reverse else 0
    return dz * before, dz, a[edge] * dz[edge]


linear_scan.register_autograd(_backward, setup_context=_setup)


def scan(
    a: Tensor, b: Tensor, start: Any, d: int, reverse: bool, stated: torch.dtype | None = None
) -> Tensor:
    """`linear_scan` along dimension `d`; `start` may be a number or lack dimensions."""
    scanned = by_steps if under_transform() else linear_scan
    return torch.movedim(scanned(*operands(a, b, start, d, stated), reverse), 0, d)


def by_steps(a: Tensor, b: Tensor, start: Tensor, reverse: bool) -> Tensor:
    """The definition by torch's own operations, which every transform supports."""
    z, found = start, []
    for t in range(len(b))[:: -1 if reverse else 1]:
        z = a[t] * z + b[t]
        found.append(z)
    return torch.stack(found[:: -1 if reverse else 1]) if found else torch.zeros_like(b)


def operands(
    a: Tensor, b: Tensor, start: Any, d: int, stated: torch.dtype | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The operands of a scan along `d`: contiguous, `d` first, in one dtype.

    Under autocast that is autocast's dtype, unless the state's is `stated`.
    """
    if torch.is_autocast_enabled(b.device.type):
        dtype = stated or torch.get_autocast_dtype(b.device.type)
        a, b = a.to(dtype), b.to(dtype)
    a, b = torch.movedim(a, d, 0), torch.movedim(b, d, 0)
    a = a.to(b.dtype)
    if isinstance(start, Tensor):
        first = start.to(b.dtype).expand(b.shape[1:])
    else:
        first = b.new_full(b.shape[1:], start)
    return a.contiguous(), b.contiguous(), first.contiguous()
