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
    half precision, and `instructions` of single numbers; `fetch` the bytes that one gets from the
    L2 cache, `cache` all together.
    """

    name: str
    processors: int
    lines: float
    products: float
    instructions: float
    fetch: float
    cache: float
    memory: float
    cached: int


# clocks as boosted: 1.41, 1.75, 1.85 GHz; 128 bytes of shared memory and 64 of L2 a clock and
# multiprocessor; mma.sync at half of what the tensor cores do at best; of sm_80 64 instructions of
# single numbers a clock, of the others 128
DEVICES = {
    "sm_80": Device("A100", 108, 180e3, 0.72e6, 90e3, 60e3, 4.0e6, 1.7e6, 40 << 20),
    "sm_90": Device("H200", 132, 224e3, 1.8e6, 224e3, 80e3, 5.5e6, 4.3e6, 50 << 20),
    "sm_100": Device("B200", 148, 237e3, 1.9e6, 237e3, 90e3, 9.0e6, 7.0e6, 126 << 20),
}
# a barrier: a write, an atomic and a look at it cross the L2 cache (each 0.3 to 0.5), and the
# arrivals of blocks come one after another
BARRIER, ARRIVAL = 1.1, 0.002
# a launch in a CUDA graph, with the start and the end of its blocks
LAUNCH = 2.5
# the share of bandwidth that weights get which are loaded at each step: no copy is under way early
STREAMED = 0.6
# instructions a number of the lanes, about: of a decoder's forward compiled code has 27 for each
# tanh, one or two for each of the four other values
WORK = 6
# and in torch's products of few rows
PRODUCTS = 0.85
# a product within one multiprocessor and what follows it: cuDNN's kernel for few units is published
# at 0.88 us a step of an LSTM (H100), nearly all of it waiting for one thing after another
ALONE = 0.8
# what torch's products of many rows gain over mma.sync, by instructions of whole warp groups
WIDE = 2


@dataclass(frozen=True)
class Moved:
    """What a step of a cooperative kernel does: `blocks` a tile of rows, `tiles` at once.

    `kept` and `streamed` are bytes of weights in a block, `gathered` bytes that a block reads of
    others'; a number of a weight has `itemsize` of them, and is in `products` of half precision.
    Where a step takes all of an axis, `lanes` are the bytes of it that a block loads and stores,
    and the numbers that it makes.
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
    lanes: tuple[int, int] = (0, 0)


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
    parts = {"barriers": met, "operands": read, "weights": used, "streaming": again}
    if any(moved.lanes):
        passed, made = moved.lanes
        parts["lanes"] = max(passed / device.fetch, made * WORK / device.instructions)
    return parts


def alone(moved: Moved, products: int, device: Device) -> float:
    """Microseconds of a step within one multiprocessor a tile, of so many products in turn."""
    waves = -(-moved.tiles // device.processors)
    multiplied = moved.rows * moved.kept / moved.itemsize / device.products
    return waves * (products * ALONE + max(moved.kept / device.lines, multiplied))


def stepwise(
    products: int, weights: int, device: Device, rows: int = 0, multiplied: int = 0
) -> float:
    """Microseconds of a step of two launches a product, its weights read each time.

    Each of so many rows is `multiplied` by so many numbers.
    """
    speed = device.cache if weights < device.cached / 2 else device.memory
    read = weights / (speed * PRODUCTS)
    counted = rows * multiplied / (WIDE * device.products * device.processors)
    return 2 * products * LAUNCH + max(read, counted)
