"""Lengths of a call: checked without waiting for a GPU, and brought to the model's device."""

from __future__ import annotations

import torch

from graphnn.backends.torch.runtime.active_transforms import under_transform
from graphnn.errors import LengthsError
from graphnn.kernels.runtime.late import LateCheck

Tensor = torch.Tensor
FIX = "count positions, not indices; pad the input up to the longest"
# the checks of lengths that come on a GPU, by the names of graph and axis
_LATE: dict[tuple[str, str], LateCheck] = {}


def checked(n: Tensor, size: int, name: str, axis: str, device: torch.device) -> Tensor:
    """Lengths of an axis as int64 on `device`; each must be from 0 to `size`.

    Lengths on a GPU are not read back. Those out of range are clipped, so that no kernel reads
    beyond its inputs, and a later call raises LengthsError. Lengths from the CPU are checked at
    once. `name` is that of the graph.
    """
    if torch.compiler.is_compiling() or not n.numel():
        return n.to(device, torch.int64)
    if n.is_cuda and not under_transform():
        return _clipped(n, size, name, axis).to(device, torch.int64)
    low, high = int(n.min()), int(n.max())
    if low < 0 or high > size:
        raise LengthsError(
            f"lengths of '{axis}' are out of range",
            got=f"from {low} to {high}",
            wanted=f"0 to {size}, the padded length",
            fix=FIX,
        )
    return _moved(n.to(torch.int64), axis, device)


def _clipped(n: Tensor, size: int, name: str, axis: str) -> Tensor:
    """Lengths between 0 and `size`; those that were outside are counted, and reported later."""
    check = _LATE.setdefault((name, axis), LateCheck(lambda count: _report(name, axis, count)))
    flag = check.flag(n.device)
    kept = n.clamp(0, size)
    flag.add_((n != kept).sum())
    check.look(flag)
    return kept


def _report(name: str, axis: str, count: int) -> None:
    raise LengthsError(
        f"lengths of '{axis}' were out of range in an earlier call of '{name}', whose results are "
        "those of clipped lengths",
        got=f"{count} lengths below 0 or above the padded length (found late: they are on a GPU)",
        wanted="0 to the padded length",
        fix=FIX + "; lengths on the CPU are checked at once",
    )


def _moved(n: Tensor, axis: str, device: torch.device) -> Tensor:
    """Lengths on `device`, copied from pinned memory to a GPU, so that no call waits for it."""
    if device.type != "cuda" or n.device.type != "cpu":
        return n.to(device)
    if torch.cuda.is_current_stream_capturing():
        raise LengthsError(
            f"lengths of '{axis}' are on the CPU while a CUDA graph is captured",
            got="a tensor on cpu, whose values the graph would keep for all replays",
            wanted=f"a tensor on {device}, which replays read anew",
            fix=f"move them before the capture: n = n.to('{device}')",
        )
    return n.pin_memory().to(device, non_blocking=True)
