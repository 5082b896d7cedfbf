"""What makes a launch the launch that it is: the kernel's text, options, dtypes, alignment, GPU."""

from __future__ import annotations

import hashlib
import linecache
from collections.abc import Hashable
from typing import Any

import torch

from ..executors.executor import Executor, KernelLaunch
from .versions import versions

# pointers divisible by this many bytes have kernels of their own in Triton
ALIGNED = 16
# rows of a tile from which on Triton takes other instructions on Hopper and Blackwell
LARGE = 64


def identity(executor: Executor, launch: KernelLaunch) -> Hashable:
    """Return what distinguishes a launch from others in this process; quick to compute."""
    tensors = [t for t in launch.args if isinstance(t, torch.Tensor)]
    return (
        path_of(launch.function),  # has a hash of the text
        name_of(launch.function),
        tuple(launch.constants.items()),
        tuple(launch.options.items()),
        tuple((t.dtype, t.data_ptr() % ALIGNED == 0) for t in tensors),
        tensors[0].device if tensors else None,
        executor.name,
    )


def key(executor: Executor, launch: KernelLaunch) -> dict[str, Any]:
    """Return what distinguishes a launch from others on any machine, as JSON data."""
    tensors = [t for t in launch.args if isinstance(t, torch.Tensor)]
    return {
        "what": "kernel",
        "kernel": hashlib.sha256(text_of(launch.function).encode()).hexdigest(),
        "name": name_of(launch.function),
        "constants": {k: str(v) for k, v in launch.constants.items()},
        "options": {k: str(v) for k, v in launch.options.items()},
        "tensors": [[str(t.dtype), t.data_ptr() % ALIGNED == 0] for t in tensors],
        **_machine(executor, tensors),
    }


def family(executor: Executor, launch: KernelLaunch) -> dict[str, Any]:
    """Return the family of a launch: kernels that the compiler treats alike, as JSON data."""
    tensors = [t for t in launch.args if isinstance(t, torch.Tensor)]
    floats = sorted({str(t.dtype) for t in tensors if t.is_floating_point()})
    return {
        "what": "family",
        "family": launch.family,
        "dtypes": floats,
        "precision": str(launch.constants.get("PRECISION", "")),
        "large": rows_of(launch) >= LARGE,
        **_machine(executor, tensors),
    }


def rows_of(launch: KernelLaunch) -> int:
    """Return the rows of a tile, or 1 if a kernel has no tiles of rows."""
    return int(launch.constants.get("ROWS", 1))


def name_of(function: Any) -> str:
    """Return the name of a jitted function."""
    return str(getattr(function, "__name__", type(function).__name__))


def text_of(function: Any) -> str:
    """Return the text of a function's module, which holds all functions that it may call.

    A function without a text is known by its name.
    """
    path = path_of(function)
    return "".join(linecache.getlines(path)) if path else name_of(function)


def path_of(function: Any) -> str:
    """Return the file that a jitted function comes from; empty if it has none."""
    inner = getattr(function, "fn", None)
    code = getattr(inner, "__code__", None)
    return str(code.co_filename) if code is not None else ""


def _machine(executor: Executor, tensors: list[torch.Tensor]) -> dict[str, Any]:
    index = tensors[0].get_device() if tensors else -1
    gpu = executor.gpu(index)
    return {"executor": executor.name, "device": gpu.name, "target": gpu.target, **versions()}
