"""What generated code calls: operations over an axis of batched tensors, shifts, opaque calls.

Each takes whole tensors; `d` is the dimension of the axis. `length` broadcasts against the tensor
with size 1 at `d`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from graphnn.backends.opaque_calls import Called, none_of
from graphnn.backends.torch.runtime.buffers import bare, buffer
from graphnn.backends.torch.runtime.philox import dropped, places_of
from graphnn.ops.axis import lowest
from graphnn.ops.pointwise.identity import clip_gradient
from graphnn.ops.pointwise.softmax import level, soft, weigh, widen
from graphnn.ops.views import put_each, take_each
from graphnn.ops.views import run_put_rows as put_rows

__all__ = [
    "clip_gradient", "level", "put_each", "put_rows", "soft", "take_each", "weigh", "widen",
]  # fmt: skip
Tensor = torch.Tensor

# found once: the way to them through torch.ops takes a fifth of a call
tanh_backward = torch.ops.aten.tanh_backward.grad_input
sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input


def places(x: Tensor, d: int) -> Tensor:
    """0, 1, 2 … along dimension `d`, broadcasting against `x`."""
    line = torch.arange(x.shape[d], device=x.device)
    return line.reshape([-1 if i == d else 1 for i in range(x.dim())])


def lifted(length: Tensor, x: Tensor) -> Tensor:
    """`length` with as many dimensions as `x` (leading ones of size 1 are left out in the code)."""
    return length.reshape((1,) * (x.dim() - length.dim()) + tuple(length.shape))


def filled(x: Tensor, d: int, length: Tensor | None, value: float) -> Tensor:
    """`x` with `value` beyond each example's length."""
    return x if length is None else torch.where(places(x, d) < length, x, value)


def axis_sum(x: Tensor, d: int, length: Tensor | None = None) -> Tensor:
    return filled(x, d, length, 0).sum(d)


def axis_max(x: Tensor, d: int, length: Tensor | None = None) -> Tensor:
    if length is None:
        return x.amax(d)
    top = filled(x, d, length, lowest(x.dtype)).amax(d)
    return torch.where(lifted(length, x).squeeze(d) > 0, top, 0).to(x.dtype)


def axis_argmax(x: Tensor, d: int, length: Tensor | None = None) -> Tensor:
    return filled(x, d, length, lowest(x.dtype)).argmax(d)


def axis_softmax(
    x: Tensor, d: int, length: Tensor | None = None, *, masked: bool = False
) -> Tensor:
    """`masked`: numbers may be -inf, and where all are, the result is zeros."""
    if length is None and not masked:
        return torch.softmax(x, d)
    least = torch.finfo(x.dtype).min
    soft = torch.softmax(filled(x.clamp(min=least) if masked else x, d, length, least), d)
    if masked:
        soft = soft.masked_fill(x == float("-inf"), 0)
    return filled(soft, d, length, 0)


def axis_logsumexp(x: Tensor, d: int, length: Tensor | None = None) -> Tensor:
    return torch.logsumexp(filled(x, d, length, float("-inf")), d)


def _gather(x: Tensor, d: int, index: Tensor) -> Tensor:
    index = index.expand([n if i == d else x.shape[i] for i, n in enumerate(index.shape)])
    return x.gather(d, index)


def _broad(x: Tensor, like: Tensor) -> Tensor:
    """`x` over every dimension that `like` has."""
    return x.expand(torch.broadcast_shapes(x.shape, like.shape))


def axis_reverse(x: Tensor, d: int, length: Tensor | None = None) -> Tensor:
    if length is None:
        return x.flip(d)
    length = lifted(length, x)
    x = _broad(x, length)
    line = places(x, d)
    return _gather(x, d, torch.where(line < length, length - 1 - line, line))


def axis_roll(x: Tensor, d: int, length: Tensor | None = None, *, shift: int) -> Tensor:
    if length is None:
        return x.roll(shift, d)
    length = lifted(length, x)
    x = _broad(x, length)
    line = places(x, d)
    moved = (line - shift) % length.clamp(min=1)
    return _gather(x, d, torch.where(line < length, moved, line))


def axis_at(x: Tensor, d: int, length: Tensor | None = None, *, position: int) -> Tensor:
    """The value at a position, from the end where negative; zero where there is none."""
    if length is None:
        if not -x.shape[d] <= position < x.shape[d]:
            return torch.zeros_like(x.select(d, 0))
        return x.select(d, position % x.shape[d]).clone()
    length = lifted(length, x)
    x = _broad(x, length)
    place = length + position if position < 0 else torch.full_like(length, position)
    there = (place >= 0) & (place < length)
    picked = _gather(x, d, torch.where(there, place, 0))
    return torch.where(there, picked, torch.zeros_like(picked)).squeeze(d)


def axis_put(x: Tensor, d: int, last: Tensor) -> Tensor:
    """`x` with another last position, in place: a stream gives each step a place to write."""
    x.narrow(d, x.shape[d] - 1, 1).copy_(last)
    return x


def axis_top(x: Tensor, d: int, length: Tensor | None = None, *, k: int) -> Tensor:
    """True at the `k` largest; ties go to the earlier position."""
    order = filled(x, d, length, lowest(x.dtype)).argsort(dim=d, descending=True, stable=True)
    chosen = order.argsort(dim=d, stable=True) < k
    return chosen if length is None else chosen & (places(x, d) < length)


def noise(seed: Tensor, kind: str, p: float, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Numbers by counter; of attention's weights, dropout alone."""
    if kind != "dropout":
        raise AssertionError(f"no noise '{kind}' is drawn by torch from a seed")
    at = places_of([(0, n, n) for n in shape], seed.device)
    return dropped(seed, p, at, dtype)


def shift(x: Tensor, d: int, steps: int, inits: Sequence[Any]) -> Tensor:
    """`x` of `steps` positions ago along `d`; `inits` are read first, in their order."""
    n, count = x.shape[d], abs(steps)
    slots = list(inits) * (count if len(inits) == 1 else 1)
    edge = [_slot(x, d, value) for value in slots[: min(count, n)]]
    if steps > 0:
        return _joined([*edge, x.narrow(d, 0, max(n - count, 0))], d, x)
    # looking ahead, the slot read first belongs to the last position
    kept = x.narrow(d, min(count, n), max(n - count, 0))
    return _joined([kept, *reversed(edge)], d, x)


def _joined(parts: list[Tensor], d: int, like: Tensor) -> Tensor:
    """Parts of a tensor's shape one after another, in memory used again where none is traced."""
    if torch.is_grad_enabled() or not bare(*parts):
        return torch.cat(parts, d)
    return torch.cat(parts, d, out=buffer(like.shape, like.dtype, like.device))


def _slot(x: Tensor, d: int, value: Any) -> Tensor:
    shape = list(x.shape)
    shape[d] = 1
    if not isinstance(value, Tensor):
        return x.new_full(shape, value)
    return value.to(x.dtype).expand(shape)


def final(
    x: Tensor, d: int, steps: int, inits: Sequence[Any], rank: int, length: Any = None
) -> Tensor:
    """What a delay would read after the last position: without `d`, its slots before the shape.

    In memory of its own: who changes a state in place changes nothing else, and keeps no sequence.
    """
    if abs(steps) == 1 and length is None:
        return own(x.select(d, -1 if steps > 0 else 0))
    slots = list(inits) * (abs(steps) if len(inits) == 1 else 1)
    start = [_slot(x, d, value) for value in slots]
    line = torch.cat([*start, x if steps > 0 else x.flip(d)], d)
    count, n = abs(steps), x.shape[d]
    if length is None:
        read = [line.select(d, n + k) for k in range(count)]
    else:
        length = lifted(length, line)
        line = _broad(line, length)
        read = [_gather(line, d, length + k).squeeze(d) for k in range(count)]
        if steps < 0:
            # the last slots written are the first positions, where the example has them
            early = [(length + k < count).squeeze(d) for k in range(count)]
            read = [
                torch.where(e, r, line.select(d, n + k))
                for k, (e, r) in enumerate(zip(early, read))
            ]
    return read[0] if count == 1 else torch.stack(read, read[0].dim() - rank)


def opaque(
    call: Called, operands: Sequence[tuple[Tensor, bool]], sizes: Sequence[int]
) -> list[Tensor]:
    """`call` of one example at one position, over all of them at once by vmap.

    `operands` have the leading dimensions `sizes` where flagged; results have them too.
    """
    count = math.prod(sizes)
    flat = [x.reshape(count, *x.shape[len(sizes) :]) if moves else x for x, moves in operands]
    moving = [i for i, (_, moves) in enumerate(operands) if moves]
    if not sizes or not moving:
        return call.all(lambda: call(*flat))

    def one(*rows: Tensor) -> Any:
        full = list(flat)
        for i, row in zip(moving, rows, strict=True):
            full[i] = row
        return call(*full)

    rows = [flat[i] for i in moving]
    run = torch.vmap(one, randomness="different") if count else none_of(one, flat)
    return [r.reshape(*sizes, *r.shape[1:]) for r in call.all(lambda: run(*rows))]


def place(x: Tensor, dim: int, start: int, step: int, size: int) -> Tensor:
    """`x` at `start, start + step, …` among `size` zeros along `dim` (counted from the end)."""
    shape = list(x.shape)
    shape[dim] = size
    out = x.new_zeros(shape)
    stop = start + (x.shape[dim] - 1) * step + 1
    index: list[Any] = [slice(None)] * x.dim()
    index[dim] = slice(start, stop, step)
    out[tuple(index)] = x
    return out


def own(x: Tensor) -> Tensor:
    """A contiguous copy: what an operator returns may share memory with nothing."""
    return x.clone(memory_format=torch.contiguous_format)


def order(lengths: Tensor) -> Tensor:
    """The places of all numbers, the largest first."""
    return lengths.reshape(-1).argsort(descending=True, stable=True)


def summing(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which many values of `dtype` are added up one after another."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def hold(buffers: Sequence[Tensor], done: int) -> None:
    """After an early stop: the steps not taken repeat the last one."""
    for whole in buffers:
        whole[done:] = whole[done - 1]
