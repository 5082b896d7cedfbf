"""cost: how long work takes on a device: bytes, operations, launches and barriers to seconds.

A roofline (Williams, Waterman and Patterson 2009) with latencies beside it. The constants are in a
`Device`; nothing here measures anything.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch

from graphnn.errors import DeviceError

Rates = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Device:
    """What a device can do, and where its figures come from.

    `bandwidth` counts bytes read and bytes written, a second; `cached` the same for what lies in
    the last-level cache of `cache` bytes. `products` are operations a second of matrix products by
    dtype: pairs (operations of one product, rate), as small products reach less. `pointwise` are
    the operations a second of the table's other rows. `launch` and `barrier` are seconds, `call`
    those of Python's own work a call of a model or of one of its loops; `units`
    are the multiprocessors or threads that share the work. `source` says whether this was measured.
    """

    name: str
    source: str
    bandwidth: float
    products: Mapping[str, Rates]
    pointwise: float
    launch: float
    barrier: float = 0.0
    call: float = 0.0
    units: int = 1
    cache: int = 0
    cached: float = 0.0

    def record(self) -> dict[str, Any]:
        """The device as JSON has it."""
        return asdict(self)

    @staticmethod
    def of(record: Mapping[str, Any]) -> Device:
        """The device of a record. Raises DeviceError where a constant is missing or senseless."""
        try:
            rates = {
                str(k): tuple((float(n), float(r)) for n, r in v)
                for k, v in record["products"].items()
            }
            found = Device(**{**record, "products": rates})
            positive = [found.bandwidth, found.pointwise, found.units]
            positive += [r for pairs in rates.values() for pair in pairs for r in pair]
            sound = all(math.isfinite(x) and x > 0 for x in positive) and all(rates.values())
            sound = sound and all(
                x >= 0 for x in (found.launch, found.barrier, found.call, found.cached)
            )
        except (TypeError, ValueError, KeyError, AttributeError) as problem:
            sound, got = False, f"{type(problem).__name__}: {problem}"
        else:
            got = "a constant that is zero, negative or not finite"
        if not sound:
            raise DeviceError(
                "these are not the constants of a device",
                got=got,
                wanted="what `graphnn calibrate` writes",
                fix="run `graphnn calibrate` again",
            )
        return found


@dataclass(frozen=True)
class Work:
    """What is to be done: operations of products, other operations, bytes moved, and latencies."""

    flops: float = 0.0
    pointwise: float = 0.0
    bytes: float = 0.0
    launches: float = 0.0
    barriers: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(*(a + b for a, b in zip(_parts(self), _parts(other), strict=True)))

    def __mul__(self, times: float) -> Work:
        return Work(*(x * times for x in _parts(self)))


def _parts(work: Work) -> tuple[float, ...]:
    return work.flops, work.pointwise, work.bytes, work.launches, work.barriers


def seconds(
    device: Device,
    flops: float = 0.0,
    bytes: float = 0.0,
    launches: float = 0.0,
    barriers: float = 0.0,
    *,
    pointwise: float = 0.0,
    dtype: torch.dtype = torch.float32,
    product: float | None = None,
    units: float | None = None,
    cached: bool = False,
) -> float:
    """Seconds that work takes: the larger of computing and moving, and the latencies beside it.

    `flops` are those of matrix products, each of `product` operations (all in one unless given).
    `units`: how many of the device's units can be busy (all). `cached`: the bytes stay in the
    cache. Raises DeviceError for negative amounts.
    """
    amounts = (flops, bytes, launches, barriers, pointwise)
    if min(amounts) < 0 or (units is not None and units <= 0):
        raise DeviceError(
            "work cannot be negative, nor done by no unit",
            got=f"flops, bytes, launches, barriers, pointwise = {amounts}, units = {units}",
            wanted="amounts of 0 or more, units above 0",
        )
    share = 1.0 if units is None else min(1.0, units / device.units)
    computing = 0.0
    if flops:
        computing = flops / rate(device, dtype, flops if product is None else product)
    computing = (computing + pointwise / device.pointwise) / share
    moving = bytes / ((device.cached if cached else 0.0) or device.bandwidth)
    return max(computing, moving) + launches * device.launch + barriers * device.barrier


def rate(device: Device, dtype: torch.dtype, flops: float) -> float:
    """Operations a second of one product of `flops` operations: between the measured sizes on a
    line of logarithms, beyond them as at the nearest."""
    pairs = sorted(_rates(device, dtype))
    if flops <= pairs[0][0]:
        return pairs[0][1]
    for (a, low), (b, high) in pairwise(pairs):
        if flops <= b:
            along = math.log(flops / a) / math.log(b / a)
            return math.exp(math.log(low) + along * (math.log(high) - math.log(low)))
    return pairs[-1][1]


def timed(device: Device, work: Work, dtype: torch.dtype = torch.float32, **how: Any) -> float:
    """`seconds` of a Work."""
    return seconds(
        device,
        work.flops,
        work.bytes,
        work.launches,
        work.barriers,
        pointwise=work.pointwise,
        dtype=dtype,
        **how,
    )


def least(device: Device, work: Work, dtype: torch.dtype = torch.float32) -> float:
    """The physical limit: seconds below which work cannot be done, its latencies left out."""
    return max(work.flops / _best(device, dtype), work.bytes / device.bandwidth)


def bound(device: Device, work: Work, dtype: torch.dtype = torch.float32) -> str:
    """What the limit is set by: "memory" or "products"."""
    memory = work.bytes / device.bandwidth
    return "products" if work.flops / _best(device, dtype) > memory else "memory"


def _best(device: Device, dtype: torch.dtype) -> float:
    return max(r for _, r in _rates(device, dtype))


def _rates(device: Device, dtype: torch.dtype) -> Rates:
    """The rates of a dtype; of float32 where it was not measured."""
    name, known = str(dtype).removeprefix("torch."), device.products
    return known.get(name) or known.get("float32") or next(iter(known.values()))
