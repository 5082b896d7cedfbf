"""The cost model: seconds from bytes, operations, launches and barriers.

A roofline (Williams, Waterman and Patterson 2009) plus latencies. The constants are those of a
`Device`; nothing is measured here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch

from graphnn.errors import DeviceError

# pairs (size, rate per second at that size)
Rates = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Device:
    """The rates and latencies of a device.

    `copies` are bytes read and written per second, by the bytes that one operation moves: small
    amounts stay in a cache. `products` are operations per second of matmuls, by dtype and by the
    operations of one matmul: small ones reach lower rates. `pointwise` is the rate of all other
    operations. `launch` and `barrier` are seconds; so is `call`, Python's overhead per call of a
    model or of one of its loops. `units` is the number of multiprocessors or threads. `source` says
    where the constants come from: measured, or a data sheet.
    """

    name: str
    source: str
    copies: Rates
    products: Mapping[str, Rates]
    pointwise: float
    launch: float
    barrier: float = 0.0
    call: float = 0.0
    units: int = 1

    def record(self) -> dict[str, Any]:
        """The device as JSON."""
        products = {k: [list(p) for p in v] for k, v in self.products.items()}
        copies = [list(p) for p in self.copies]
        return {**asdict(self), "products": products, "copies": copies}

    @staticmethod
    def of(record: Mapping[str, Any]) -> Device:
        """The device of a record. Raises DeviceError if a constant is missing or out of range."""
        try:
            products = {str(k): _rates(v) for k, v in record["products"].items()}
            found = Device(**{**record, "products": products, "copies": _rates(record["copies"])})
            several = [found.copies, *products.values()]
            rates = [x for pairs in several for pair in pairs for x in pair]
            positive = [found.pointwise, found.units, *rates]
            sound = all(math.isfinite(x) and x > 0 for x in positive)
            sound = sound and bool(products) and all(several)
            latencies = (found.launch, found.barrier, found.call)
            sound = sound and all(math.isfinite(x) and x >= 0 for x in latencies)
            got = "a constant that is zero, negative or not finite"
        except (TypeError, ValueError, KeyError, AttributeError) as problem:
            sound, got = False, f"{type(problem).__name__}: {problem}"
        if not sound:
            raise DeviceError(
                "these are not the constants of a device",
                got=got,
                wanted="what `graphnn calibrate` writes",
                fix="run `graphnn calibrate` again",
            )
        return found


def _rates(pairs: Any) -> Rates:
    return tuple(sorted((float(size), float(rate)) for size, rate in pairs))


@dataclass(frozen=True)
class Work:
    """Amounts of work: operations of matmuls, other operations, bytes moved, and latencies."""

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
    units: float | None = None,
    rounds: float | None = None,
) -> float:
    """The seconds that work needs: the larger of computing and moving, plus latencies.

    `flops` are those of matmuls. The work is done in `rounds` equal parts in sequence (by default
    one per launch): small parts reach lower rates of matmuls and higher rates of copies. `units` is
    the number of the device's units that can be busy (default: all). Raises DeviceError for
    negative amounts.
    """
    amounts = (flops, bytes, launches, barriers, pointwise)
    if min(amounts) < 0 or (units is not None and units <= 0) or (rounds or 1) <= 0:
        raise DeviceError(
            "work cannot be negative, nor done by no unit or in no round",
            got=f"flops, bytes, launches, barriers, pointwise = {amounts}, units = {units}, "
            f"rounds = {rounds}",
            wanted="amounts of 0 or more, units and rounds above 0",
        )
    parts = rounds or max(1.0, launches)
    share = 1.0 if units is None else min(1.0, units / device.units)
    computing = flops / rate(_products(device, dtype), flops / parts)
    computing = (computing + pointwise / device.pointwise) / share
    moving = bytes / rate(device.copies, bytes / parts)
    return max(computing, moving) + launches * device.launch + barriers * device.barrier


def rate(pairs: Rates, size: float) -> float:
    """The rate at a size: interpolated in logarithms, constant beyond the known sizes."""
    if size <= pairs[0][0]:
        return pairs[0][1]
    for (a, low), (b, high) in pairwise(pairs):
        if size <= b:
            along = math.log(size / a) / math.log(b / a)
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


def lower_bound(device: Device, work: Work, dtype: torch.dtype = torch.float32) -> float:
    """The physical limit: the fewest seconds that the work can need, without latencies."""
    return max(work.flops / peak_rate(device, dtype), work.bytes / rate(device.copies, work.bytes))


def bound(device: Device, work: Work, dtype: torch.dtype = torch.float32) -> str:
    """The resource that sets the limit: "memory" or "products"."""
    moving = work.bytes / rate(device.copies, work.bytes)
    return "products" if work.flops / peak_rate(device, dtype) > moving else "memory"


def peak_rate(device: Device, dtype: torch.dtype) -> float:
    """The highest rate of matmuls of a dtype."""
    return max(r for _, r in _products(device, dtype))


def _products(device: Device, dtype: torch.dtype) -> Rates:
    """The rates of a dtype; those of float32 if it was not measured."""
    name, known = str(dtype).removeprefix("torch."), device.products
    return known.get(name) or known.get("float32") or next(iter(known.values()))
