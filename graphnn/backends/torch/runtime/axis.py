"""Functions of generated code: operations over an axis of batched tensors, shifts, opaque calls.

Arguments are whole tensors; `d` is the dimension of the axis. `length` broadcasts against the
tensor, with size 1 at `d`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from graphnn.backends.opaque_calls import OpaqueCall, empty_batch
from graphnn.backends.torch.runtime.buffers import bare, buffer
from graphnn.backends.torch.runtime.philox import block_positions, drawn
from graphnn.ops.axis import lowest
from graphnn.ops.pointwise.identity import clip_gradient
from graphnn.ops.pointwise.softmax import level, soft, weigh, widen
from graphnn.ops.views import put_each, take_each
from graphnn.ops.views import run_put_rows as put_rows

__all__ = [
    "clip_gradient", "level", "put_each", "put_rows", "soft", "take_each", "weigh", "widen",
]  # fmt: skip
Tensor = torch.Tensor

# looked up once: the lookup through torch.ops takes a fifth of a call's time
tanh_backward = torch.ops.aten.tanh_backward.grad_input
sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input


def positions(x: Tensor, d: int) -> Tensor:
    """0, 1, 2 … along dimension `d`, broadcasting against `x`."""
    line = torch.arange(x.shape[d], device=x.device)
    return line.reshape([-1 if i == d else 1 for i in range(x.dim())])


def with_rank_of(length: Tensor, x: Tensor) -> Tensor:
    """`length` with as many dimensions as `x`: generated code omits leading ones of size 1."""
    return length.reshape((1,) * (x.dim() - length.dim()) + tuple(length.shape))


def masked_from(x: Tensor, d: int, length: Tensor | None, value: float) -> Tensor:
    """`x` with `value` beyond each example's length."""
    return x if length is None else torch.where(positions(x, d) < length, x, value)


def axis_sum(x: Tensor, d: int, length: Tensor | None = None) -> Tensor:
    return masked_from(x, d, length, 0).sum(d)


def axis_max(x: Tensor, d: int, length: Tensor | None = None) -> Tensor:
    if length is None:
        return x.amax(d)
    top = masked_from(x, d, length, lowest(x.dtype)).amax(d)
    return torch.where(with_rank_of(length, x).squeeze(d) > 0, top, 0).to(x.dtype)


def axis_argmax(x: Tensor, d: int, length: Tensor | None = None) -> Tensor:
    return masked_from(x, d, length, lowest(x.dtype)).argmax(d)


def axis_softmax(
    x: Tensor, d: int, length: Tensor | None = None, *, masked: bool = False
) -> Tensor:
    """Softmax along `d`. If `masked`, scores may be -inf; where all are, the result is zeros."""
    if length is None and not masked:
        return torch.softmax(x, d)
    least = torch.finfo(x.dtype).min
    soft = torch.softmax(masked_from(x.clamp(min=least) if masked else x, d, length, least), d)
    if masked:
        soft = soft.masked_fill(x == float("-inf"), 0)
    return masked_from(soft, d, length, 0)


def axis_logsumexp(x: Tensor, d: int, length: Tensor | None = None) -> Tensor:
    return torch.logsumexp(masked_from(x, d, length, float("-inf")), d)


def _gather(x: Tensor, d: int, index: Tensor) -> Tensor:
    index = index.expand([n if i == d else x.shape[i] for i, n in enumerate(index.shape)])
    return x.gather(d, index)


def _broad(x: Tensor, like: Tensor) -> Tensor:
    """`x` expanded to every dimension that `like` has."""
    return x.expand(torch.broadcast_shapes(x.shape, like.shape))


def axis_reverse(x: Tensor, d: int, length: Tensor | None = None) -> Tensor:
    if length is None:
        return x.flip(d)
    length = with_rank_of(length, x)
    x = _broad(x, length)
    line = positions(x, d)
    return _gather(x, d, torch.where(line < length, length - 1 - line, line))


def axis_roll(x: Tensor, d: int, length: Tensor | None = None, *, shift: int) -> Tensor:
    if length is None:
        return x.roll(shift, d)
    length = with_rank_of(length, x)
    x = _broad(x, length)
    line = positions(x, d)
    moved = (line - shift) % length.clamp(min=1)
    return _gather(x, d, torch.where(line < length, moved, line))


def axis_at(x: Tensor, d: int, length: Tensor | None = None, *, position: int) -> Tensor:
    """The value at a position, counted from the end if negative; zero beyond the length."""
    if length is None:
        if not -x.shape[d] <= position < x.shape[d]:
            return torch.zeros_like(x.select(d, 0))
        return x.select(d, position % x.shape[d]).clone()
    length = with_rank_of(length, x)
    x = _broad(x, length)
    place = length + position if position < 0 else torch.full_like(length, position)
    there = (place >= 0) & (place < length)
    picked = _gather(x, d, torch.where(there, place, 0))
    return torch.where(there, picked, torch.zeros_like(picked)).squeeze(d)


def axis_put(x: Tensor, d: int, last: Tensor) -> Tensor:
    """Replace the last position of `x` in place: streams allocate it for each step."""
    x.narrow(d, x.shape[d] - 1, 1).copy_(last)
    return x


def axis_top(x: Tensor, d: int, length: Tensor | None = None, *, k: int) -> Tensor:
    """True at the `k` largest; ties go to the earlier position."""
    order = masked_from(x, d, length, lowest(x.dtype)).argsort(dim=d, descending=True, stable=True)
    chosen = order.argsort(dim=d, stable=True) < k
    return chosen if length is None else chosen & (positions(x, d) < length)


def noise(seed: Tensor, kind: str, p: float, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Counter-based noise from a seed: "dropout", "uniform" or "normal"."""
    at = block_positions([(0, n, n) for n in shape], seed.device)
    return drawn(seed, kind, p, at, dtype)


def shift(x: Tensor, d: int, steps: int, inits: Sequence[Any]) -> Tensor:
    """`x` delayed by `steps` positions along `d`; the first steps read `inits`, in their order."""
    n, count = x.shape[d], abs(steps)
    slots = list(inits) * (count if len(inits) == 1 else 1)
    edge = [_slot(x, d, value) for value in slots[: min(count, n)]]
    if steps > 0:
        return _joined([*edge, x.narrow(d, 0, max(n - count, 0))], d, x)
    # with a negative delay, the slot that is read first belongs to the last position
    kept = x.narrow(d, min(count, n), max(n - count, 0))
    return _joined([kept, *reversed(edge)], d, x)


def _joined(parts: list[Tensor], d: int, like: Tensor) -> Tensor:
    """Concatenate parts into a tensor of a shape, in pooled memory unless something is traced."""
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
    """The values that a delay would read after the last position: its slots before the shape.

    They share no memory with the sequence, so that callers may change a state in place and the
    sequence can be freed.
    """
    if abs(steps) == 1 and length is None:
        return copy(x.select(d, -1 if steps > 0 else 0))
    slots = list(inits) * (abs(steps) if len(inits) == 1 else 1)
    start = [_slot(x, d, value) for value in slots]
    line = torch.cat([*start, x if steps > 0 else x.flip(d)], d)
    count, n = abs(steps), x.shape[d]
    if length is None:
        read = [line.select(d, n + k) for k in range(count)]
    else:
        length = with_rank_of(length, line)
        line = _broad(line, length)
        read = [_gather(line, d, length + k).squeeze(d) for k in range(count)]
        if steps < 0:
            # the slots written last are the first positions, if the example has them
            early = [(length + k < count).squeeze(d) for k in range(count)]
            read = [
                torch.where(e, r, line.select(d, n + k))
                for k, (e, r) in enumerate(zip(early, read))
            ]
    return read[0] if count == 1 else torch.stack(read, read[0].dim() - rank)


def opaque(
    call: OpaqueCall, operands: Sequence[tuple[Tensor, bool]], sizes: Sequence[int]
) -> list[Tensor]:
    """Run `call`, a function of one example at one position, over all of them by vmap.

    `operands` that are flagged have the leading dimensions `sizes`; so do the results.
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
    run = torch.vmap(one, randomness="different") if count else empty_batch(one, flat)
    return [r.reshape(*sizes, *r.shape[1:]) for r in call.all(lambda: run(*rows))]


def pad(x: Tensor, dim: int, start: int, step: int, size: int) -> Tensor:
    """`x` at `start, start + step, …` among `size` zeros along `dim`, a negative dimension."""
    shape = list(x.shape)
    shape[dim] = size
    out = x.new_zeros(shape)
    stop = start + (x.shape[dim] - 1) * step + 1
    index: list[Any] = [slice(None)] * x.dim()
    index[dim] = slice(start, stop, step)
    out[tuple(index)] = x
    return out


def copy(x: Tensor) -> Tensor:
    """A contiguous copy: results of an operator must not share memory."""
    return x.clone(memory_format=torch.contiguous_format)


def longest_first(lengths: Tensor) -> Tensor:
    """The order of examples by length, descending and stable."""
    return lengths.reshape(-1).argsort(descending=True, stable=True)


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which many values of `dtype` are summed one after another."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def repeat_last(buffers: Sequence[Tensor], done: int) -> None:
    """After an early stop, fill the remaining positions with the last step."""
    for whole in buffers:
        whole[done:] = whole[done - 1]
