"""Torch's own recurrent layers, called with the weights of a graph's formula."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from graphnn.backends.torch.runtime.axis import axis_reverse
from graphnn.planner.loops.choose import PADDED, SHARE

Tensor = torch.Tensor


def recurrent(
    kind: str,
    x: Tensor,
    states: list[Any],
    weights: list[Tensor],
    reverse: bool,
    length: Any,
    cell: bool = True,
    stated: torch.dtype | None = None,
) -> list[Tensor]:
    """Run `lstm`, `gru`, `rnn_tanh` or `rnn_relu` over (time, batch, input).

    Returns the outputs (time, batch, hidden), zero beyond each example's length, and the final
    states (batch, hidden). If `cell` is false, nothing reads the final c of an LSTM, which is then
    arbitrary. Under autocast everything is in autocast's dtype, unless that of states is `stated`.
    """
    if torch.is_autocast_enabled(x.device.type):
        dtype = stated or torch.get_autocast_dtype(x.device.type)
        x, weights = x.to(dtype), [w.to(dtype) for w in weights]
        states = [s.to(dtype) if isinstance(s, Tensor) else s for s in states]
        with torch.autocast(x.device.type, enabled=False):
            return recurrent(kind, x, states, weights, reverse, length, cell)
    hidden = weights[1].shape[1]
    start = [_start(s, x, hidden) for s in states]
    if x.shape[1] == 0:
        return _empty(x, start, weights)
    if reverse:
        x = axis_reverse(x, 0, length)
    run = getattr(torch, kind)
    run = functools.partial(_quietly, run) if x.is_cuda else run
    states_in = [s.unsqueeze(0) for s in start]
    given: Any = states_in if kind == "lstm" else states_in[0]
    if length is None:
        y, *final = run(x, given, weights, True, 1, 0.0, True, False, False)
    elif _pays(kind, x, length, cell):
        y, final = _padded(run, x, given, weights, length.reshape(-1), start)
    else:
        y, final = _ragged(run, x, given, weights, length.reshape(-1), start)
    if reverse:
        y = axis_reverse(y, 0, length)
    return [y, *[f.squeeze(0) for f in final]]


def _quietly(run: Any, *args: Any) -> Any:
    """Run without cuDNN's warning that weights are not in one chunk of memory.

    Weights that a formula computes never are.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="RNN module weights are not part of")
        return run(*args)


def _ragged(
    run: Any, x: Tensor, given: Any, weights: list[Tensor], length: Tensor, start: list[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """Run packed sequences; an example of length 0 keeps its initial state, its outputs are 0."""
    counts, there = length.cpu(), (length > 0).unsqueeze(-1)
    if not counts.all():  # packed as one position, whose results are discarded
        x = torch.where(there, x, 0)
    packed = pack_padded_sequence(x, counts.clamp(min=1), enforce_sorted=False)
    order, back = packed.sorted_indices, packed.unsorted_indices
    several = isinstance(given, list)
    ordered = [g.index_select(1, order) for g in (given if several else [given])]
    data, *final = run(
        packed.data,
        packed.batch_sizes,
        ordered if several else ordered[0],
        weights,
        True,
        1,
        0.0,
        True,
        False,
    )
    y, _ = pad_packed_sequence(packed._replace(data=data), total_length=x.shape[0])
    y = torch.where(there, y, 0)
    kept = [torch.where(there, f.index_select(1, back).squeeze(0), s) for f, s in zip(final, start)]
    return y, kept


def _pays(kind: str, x: Tensor, length: Tensor, cell: bool) -> bool:
    """Whether it is faster to run all positions, padding included."""
    needed = cell and kind == "lstm"
    if x.device.type != "cpu" or kind not in PADDED or needed:
        return False
    return int(length.sum()) >= SHARE * x.shape[0] * x.shape[1]


def _padded(
    run: Any, x: Tensor, given: Any, weights: list[Tensor], length: Tensor, start: list[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """Run all positions, with x zero beyond the ends so that nothing there can overflow.

    Then outputs beyond the ends are set to zero, and the final h is the last valid one.
    """
    there = (torch.arange(x.shape[0], device=x.device)[:, None] < length)[..., None]
    y, *rest = run(torch.where(there, x, 0), given, weights, True, 1, 0.0, True, False, False)
    y = torch.where(there, y, 0)
    places = (length.clamp(min=1) - 1)[None, :, None].expand(1, -1, y.shape[-1])
    last = torch.where(there[0], y.gather(0, places)[0], start[0])
    return y, [last, *(f.squeeze(0) for f in rest[1:])]


def _start(value: Any, x: Tensor, hidden: int) -> Tensor:
    if not isinstance(value, Tensor):
        return x.new_full((x.shape[1], hidden), value)
    return value.to(x.dtype).expand(x.shape[1], hidden).contiguous()


def _empty(x: Tensor, start: list[Tensor], weights: list[Tensor]) -> list[Tensor]:
    """An empty batch, which ATen rejects; its gradients are zeros."""
    tie = x.sum() * 0 + sum((w.sum() * 0 for w in weights), x.new_zeros(()))
    y = x.new_zeros(x.shape[0], 0, start[0].shape[1]) + tie
    return [y, *[s + tie for s in start]]
