"""The GPUs that kernels are planned for: what a block may use, and which dtypes are multiplied.

A target is a compute capability as text: "sm_89" is 8.9. The limits are those of the CUDA C++
Programming Guide, "Compute Capabilities": the tables of technical specifications and of the input
types of tensor cores. If a device of a target is at hand, its own limits count.
"""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass

import torch

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """What a target allows.

    `shared_memory` is the most per block, in bytes, as a kernel may ask for it ("opt-in").
    `matrix_units`: Triton multiplies matrices by them, among others of bfloat16 and TF32. Turing's
    multiply float16 alone, and Triton 3.9 compiles even that to multiply-adds of float32. `large`
    is the instruction for tiles of 64 rows; empty if it is that of smaller ones, mma.sync.
    """

    shared_memory: int
    matrix_units: bool = True
    large: str = ""


KB = 1024
TARGETS = {
    "sm_75": Limits(64 * KB, matrix_units=False),
    "sm_80": Limits(163 * KB),
    "sm_86": Limits(99 * KB),
    "sm_87": Limits(163 * KB),
    "sm_89": Limits(99 * KB),
    "sm_90": Limits(227 * KB, large="wgmma"),
    "sm_100": Limits(227 * KB, large="tcgen05"),
    "sm_103": Limits(227 * KB, large="tcgen05"),
    "sm_120": Limits(99 * KB),
    "sm_121": Limits(99 * KB),
}


@dataclass(frozen=True)
class DeviceLimits:
    """The limits of one device at hand: its target, shared memory per block, multiprocessors."""

    name: str
    target: str
    shared_memory: int
    processors: int


def capability(target: str) -> int:
    """Return the compute capability of a target, ten times the major number plus the minor."""
    return int(target.removeprefix("sm_"))


OLDEST = min(map(capability, TARGETS))


@functools.cache
def target_of(major: int, minor: int) -> str:
    """Return the target of a compute capability: its own, if its limits are known.

    A newer one becomes the newest known before it, which is logged. One before the oldest stays
    what it is; `refusal` says that it has no kernels.
    """
    wanted = 10 * major + minor
    if wanted < OLDEST or f"sm_{wanted}" in TARGETS:
        return f"sm_{wanted}"
    known = max(c for c in map(capability, TARGETS) if c <= wanted)
    _LOG.warning(
        "the limits of GPUs of compute capability %d.%d are not known: kernels are judged as for "
        "%d.%d, with the shared memory that the device reports",
        *(major, minor, *divmod(known, 10)),
    )
    return f"sm_{known}"


def device_limits(index: int | None = None) -> DeviceLimits:
    """Return the limits of the CUDA device of a number, or of the current one."""
    target = target_of(*torch.cuda.get_device_capability(index))
    props = torch.cuda.get_device_properties(index)
    known = TARGETS[target].shared_memory if target in TARGETS else 0
    shared = getattr(props, "shared_memory_per_block_optin", known)
    name = torch.cuda.get_device_name(index)
    return DeviceLimits(name, target, shared, props.multi_processor_count)


def devices() -> list[DeviceLimits]:
    """Return the limits of all CUDA devices at hand."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return [device_limits(index) for index in range(count)]


def device_at_hand(target: str) -> DeviceLimits | None:
    """Return the smallest device at hand of a target: a plan for it runs on all of them."""
    same = [d for d in devices() if d.target == target]
    return min(same, key=lambda d: (d.processors, d.shared_memory), default=None)


def shared_memory_of(target: str) -> int:
    """Return the most bytes of shared memory per block, of the device at hand if there is one.

    It is 0 for a target that has no kernels.
    """
    device = device_at_hand(target)
    if device is not None:
        return device.shared_memory
    return TARGETS[target].shared_memory if target in TARGETS else 0


def refusal(target: str, dtype: str = "", precision: str = "ieee") -> str:
    """Return why a target runs no kernel of a dtype and precision; empty if it does.

    Without a dtype, the reason holds for all kernels.
    """
    if capability(target) < OLDEST:
        had, needed = (".".join(map(str, divmod(c, 10))) for c in (capability(target), OLDEST))
        return f"kernels need a GPU of compute capability {needed} or newer; this one has {had}"
    if has_matrix_units(target):
        return ""
    if dtype == "bf16":
        return f"{target} multiplies no bfloat16: use float16, or float32"
    if dtype == "fp32" and precision != "ieee":
        return f"{target} has no TF32: compile with float32='ieee', or use float16"
    return ""


def float32_precision(target: str, asked: str | None) -> str | None:
    """Return how kernels multiply float32 on a target: as asked, or the only way that it has."""
    return asked or (None if has_matrix_units(target) else "ieee")


def has_matrix_units(target: str) -> bool:
    """Return whether Triton multiplies matrices by matrix units on a target."""
    return target not in TARGETS or TARGETS[target].matrix_units
