"""Buffers over whole axes, whose memory is used again once nothing else holds it.

A fresh buffer of megabytes costs more in page faults than the arithmetic that fills it: a
reset-before GRU at (T, B, H) = (100, 32, 256), forward and backward, took 43 ms where the system's
allocator kept the memory, 50 where it gave it back (CPU, Xeon, 2 cores, float32, medians).
"""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Sequence
from typing import Any

import torch

from graphnn.backends.torch.runtime.active_transforms import legacy_batched, under_transform

Tensor = torch.Tensor

# bytes: below the first the allocator keeps memory by itself, the second is kept here at most
SMALLEST, MOST = 1 << 18, 1 << 28
_POOL: dict[int, list[Any]] = {}
_LOCK = threading.Lock()
# not public: looked for once; without it every buffer is a fresh one
_COUNT = getattr(torch._C, "_storage_Use_Count", None)


def buffer(size: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """An uninitialised tensor."""
    needed = math.prod(size) * dtype.itemsize
    if _COUNT is None or device.type != "cpu" or needed < SMALLEST:
        return torch.empty(size, dtype=dtype, device=device)
    with _LOCK:
        pool = _POOL.get(needed, [])
        for k in range(len(pool)):
            if _idle(pool, k, needed):
                return torch.empty(0, dtype=dtype).set_(pool[k], 0, tuple(size))  # type: ignore[call-overload]
        made = torch.empty(size, dtype=dtype, device=device)
        if type(made) is Tensor and _room(needed):  # no fake tensors, those of tracing
            _POOL.setdefault(needed, []).append(made.untyped_storage())
        return made


def bare(*tensors: Tensor) -> bool:
    """Whether tensors are nothing else: not of a transform, nor those of tracing or of autocast."""
    if torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
        return False
    plain = all(type(x) in (Tensor, torch.nn.Parameter) for x in tensors)
    return plain and not under_transform() and not legacy_batched(tensors)


def _references(pool: list[Any], k: int) -> int:
    """How often Python refers to a storage: a tensor gives out the very one that lies here."""
    return sys.getrefcount(pool[k])


_ALONE = _references([torch.empty(0).untyped_storage()], 0)


def _idle(pool: list[Any], k: int, size: int) -> bool:
    """Whether nothing else reads this memory: no tensor, no view, no storage, no other process."""
    alone = _references(pool, k) == _ALONE and _COUNT is not None and _COUNT(pool[k]._cdata) == 1
    return bool(alone and pool[k].nbytes() == size and not pool[k].is_shared())


def _room(needed: int) -> bool:
    """Whether so much more may be kept; what is idle makes way for it."""
    if _kept() + needed > MOST:
        for size in list(_POOL):
            pool = _POOL[size]
            _POOL[size] = [pool[k] for k in range(len(pool)) if not _idle(pool, k, size)]
    return _kept() + needed <= MOST


def _kept() -> int:
    return sum(size * len(found) for size, found in _POOL.items())
