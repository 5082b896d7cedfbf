"""Cost model: the predicted time of one step of a loop on a GPU, from the bytes a kernel moves.

It ranks candidates and names the largest part of the time. Its constants come from data sheets and
published measurements of others: no GPU has confirmed them here.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GpuModel:
    """Rates of a GPU per microsecond: bytes, multiplications or instructions.

    Per multiprocessor: `shared_bytes` from shared memory, `multiplies` in half precision,
    `instructions` on single elements, and `l2_bytes_each` from the L2 cache. For the whole GPU:
    `l2_bytes` from the L2 cache, `dram_bytes` from memory. `l2_size` is in bytes.
    """

    name: str
    processors: int
    shared_bytes: float
    multiplies: float
    instructions: float
    l2_bytes_each: float
    l2_bytes: float
    dram_bytes: float
    l2_size: int


# One GPU for each target; if one is at hand, its own number of multiprocessors counts. From data
# sheets and white papers, at boost clocks (1.59, 1.41, 1.70, 1.30, 2.52, 1.75, 1.85, 1.85, 2.41,
# 2.42 GHz). Per clock and multiprocessor: 128 bytes of shared memory (sm_75: 64), 64 bytes of L2
# (sm_75: 32), 64 instructions on single elements for sm_75 and sm_80, 128 for the others. mma.sync
# reaches half the peak of the tensor cores on sm_80, sm_90, sm_100 and sm_103, and on the others
# the peak with sums in float32; on sm_75, kernels multiply by multiply-adds. L2 of the whole GPU:
# published for the data centre GPUs, for the others 24 bytes per clock and multiprocessor. B300 is
# published with 148 or 160 multiprocessors.
GPUS = {
    "sm_75": GpuModel("T4", 40, 102e3, 0.10e6, 102e3, 51e3, 1.3e6, 0.27e6, 4 << 20),
    "sm_80": GpuModel("A100", 108, 180e3, 0.72e6, 90e3, 60e3, 4.0e6, 1.7e6, 40 << 20),
    "sm_86": GpuModel("RTX 3090", 82, 217e3, 0.43e6, 217e3, 108e3, 3.3e6, 0.80e6, 6 << 20),
    "sm_87": GpuModel("AGX Orin", 16, 166e3, 1.33e6, 166e3, 83e3, 0.5e6, 0.17e6, 4 << 20),
    "sm_89": GpuModel("RTX 4090", 128, 322e3, 0.65e6, 322e3, 161e3, 7.7e6, 0.86e6, 72 << 20),
    "sm_90": GpuModel("H200", 132, 224e3, 1.8e6, 224e3, 80e3, 5.5e6, 4.3e6, 50 << 20),
    "sm_100": GpuModel("B200", 148, 237e3, 1.9e6, 237e3, 90e3, 9.0e6, 7.0e6, 126 << 20),
    "sm_103": GpuModel("B300", 148, 237e3, 1.9e6, 237e3, 90e3, 9.0e6, 7.0e6, 126 << 20),
    "sm_120": GpuModel("RTX 5090", 170, 308e3, 0.62e6, 308e3, 154e3, 9.8e6, 1.5e6, 96 << 20),
    "sm_121": GpuModel("GB10", 48, 310e3, 0.62e6, 310e3, 155e3, 2.8e6, 0.23e6, 24 << 20),
}
# µs per barrier: a write, an atomic and a read pass through the L2 cache (0.3 to 0.5 each). In
# addition, blocks arrive one after another.
BARRIER, ARRIVAL = 1.1, 0.002
# µs per launch in a CUDA graph, including the start and the end of its blocks
LAUNCH = 2.5
# the share of bandwidth for weights that are loaded at each step: no copy is started early
STREAMED_BANDWIDTH = 0.6
# Instructions per element of a tile over the block axis, about. The compiled forward of a decoder
# has 27 for each tanh, and one or two for each of the four other values.
INSTRUCTIONS_PER_ELEMENT = 6
# the share of bandwidth for weights in torch's matmuls of few rows
MATMUL_BANDWIDTH = 0.85
# µs per matmul within one multiprocessor, and what follows it. cuDNN's kernel for few units is
# published at 0.88 µs per step of an LSTM (H100), nearly all of it latency.
MATMUL_LATENCY = 0.8
# how much faster torch's matmuls of many rows are than mma.sync: they use warp-group instructions
WARP_GROUP_GAIN = 2


@dataclass(frozen=True)
class StepWork:
    """The work of one step of a cooperative kernel: `tiles` tiles of `rows` rows run at once.

    `blocks` blocks compute each tile. Per block, `kept` are bytes of weights in shared memory,
    `streamed` bytes of weights loaded at each step, and `gathered` bytes read from other blocks.
    A weight has `itemsize` bytes and is multiplied `products` times in half precision. With a block
    axis, `block_axis` are the bytes that a block loads and stores along it, and the elements that
    it computes.
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
    block_axis: tuple[int, int] = (0, 0)


def cooperative_parts(work: StepWork, gpu: GpuModel) -> dict[str, float]:
    """Return the microseconds of one step of a cooperative kernel, by what takes the time."""
    count = work.blocks * work.tiles
    barriers = work.barriers * (BARRIER + ARRIVAL * work.blocks)
    operands = max(work.gathered / gpu.l2_bytes_each, count * work.gathered / gpu.l2_bytes)
    weights = work.kept + work.streamed
    multiplies = work.products * work.rows * weights / work.itemsize / gpu.multiplies
    total = work.blocks * work.streamed
    speed = (gpu.l2_bytes if total < gpu.l2_size / 2 else gpu.dram_bytes) * STREAMED_BANDWIDTH
    parts = {
        "barriers": barriers,
        "operands": operands,
        "weights": max(weights / gpu.shared_bytes, multiplies),
        "streaming": max(total / speed, work.streamed / gpu.l2_bytes_each),
    }
    if any(work.block_axis):
        moved, computed = work.block_axis
        instructions = computed * INSTRUCTIONS_PER_ELEMENT
        parts["block axis"] = max(moved / gpu.l2_bytes_each, instructions / gpu.instructions)
    return parts


def persistent_time(work: StepWork, matmuls: int, gpu: GpuModel) -> float:
    """Return the microseconds of one step within one multiprocessor per tile.

    `matmuls` is the number of matmuls that depend on each other.
    """
    waves = -(-work.tiles // gpu.processors)
    multiplies = work.rows * work.kept / work.itemsize / gpu.multiplies
    return waves * (matmuls * MATMUL_LATENCY + max(work.kept / gpu.shared_bytes, multiplies))


def stepwise_time(
    matmuls: int, weights: int, gpu: GpuModel, rows: int = 0, multiplied: int = 0
) -> float:
    """Return the microseconds of one step as two launches per matmul.

    The `weights`, in bytes, are read at each step. Each of the `rows` is multiplied by `multiplied`
    weights.
    """
    speed = gpu.l2_bytes if weights < gpu.l2_size / 2 else gpu.dram_bytes
    read = weights / (speed * MATMUL_BANDWIDTH)
    multiplies = rows * multiplied / (WARP_GROUP_GAIN * gpu.multiplies * gpu.processors)
    return 2 * matmuls * LAUNCH + max(read, multiplies)
