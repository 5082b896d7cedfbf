"""How long a step of a loop should take on a GPU: a small model, from what the kernel moves.

It ranks candidates, and says which of its parts is the largest. Its constants are data sheets and
published measurements of others: no GPU has confirmed them here.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Device:
    """What a GPU has, in microseconds, bytes and bytes a microsecond.

    `lines` and `products` are of one multiprocessor: bytes of shared memory, and multiplications of
    half precision; `fetch` the bytes that one gets from the L2 cache, `cache` all together.
    """

    name: str
    processors: int
    lines: float
    products: float
    fetch: float
    cache: float
    memory: float
    cached: int


# clocks as boosted: 1.41, 1.75, 1.85 GHz; 128 bytes of shared memory and 64 of L2 a clock and
# multiprocessor; mma.sync at half of what the tensor cores do at best
DEVICES = {
    "sm_80": Device("A100", 108, 180e3, 0.72e6, 60e3, 4.0e6, 1.7e6, 40 << 20),
    "sm_90": Device("H200", 132, 224e3, 1.8e6, 80e3, 5.5e6, 4.3e6, 50 << 20),
    "sm_100": Device("B200", 148, 237e3, 1.9e6, 90e3, 9.0e6, 7.0e6, 126 << 20),
}
# a barrier: a write, an atomic and a look at it cross the L2 cache (each 0.3 to 0.5), and the
# arrivals of blocks come one after another
BARRIER, ARRIVAL = 1.1, 0.002
# a launch in a CUDA graph, with the start and the end of its blocks
LAUNCH = 2.5
# the share of bandwidth that weights get which are loaded at each step: no copy is under way early
STREAMED = 0.6
# and in torch's products of few rows
PRODUCTS = 0.85


@dataclass(frozen=True)
class Moved:
    """What a step of a cooperative kernel does: `blocks` a tile of rows, `tiles` at once.

    `kept` and `streamed` are bytes of weights in a block, `gathered` bytes that a block reads of
    others'; a number of a weight has `itemsize` of them, and is in `products` of half precision.
    """

    blocks: int
    tiles: int
    rows: int
    barriers: int
    kept: int
    streamed: int
    gathered: int
    itemsize: int
    products: int = 1


def shared(moved: Moved, device: Device) -> dict[str, float]:
    """Microseconds of a step, by what they are spent on."""
    count = moved.blocks * moved.tiles
    met = moved.barriers * (BARRIER + ARRIVAL * moved.blocks)
    read = max(moved.gathered / device.fetch, count * moved.gathered / device.cache)
    weights = moved.kept + moved.streamed
    multiplied = moved.products * moved.rows * weights / moved.itemsize / device.products
    used = max(weights / device.lines, multiplied)
    total = moved.blocks * moved.streamed
    speed = (device.cache if total < device.cached / 2 else device.memory) * STREAMED
    again = max(total / speed, moved.streamed / device.fetch)
    return {"barriers": met, "operands": read, "weights": used, "streaming": again}


def stepwise(products: int, weights: int, device: Device) -> float:
    """Microseconds of a step of two launches a product, its weights read each time."""
    speed = device.cache if weights < device.cached / 2 else device.memory
    return 2 * products * LAUNCH + weights / (speed * PRODUCTS)
