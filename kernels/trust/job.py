"""A launch as data: its kernel's text and plain JSON, then the bytes of integer tensors.

Numbers are drawn at random by whoever runs the launch; integers are sent, as they may be positions
in memory. There is no pickle, and no code but generated kernels and those of this package.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import torch
import triton.language as tl

from ..executors.executor import Executor, KernelLaunch
from ..executors.named import named
from ..rules.table import loaded
from .identity import ALIGNED, name_of, path_of, text_of

PACKAGE = __name__.partition(".kernels.")[0] + ".kernels."
SEED = 0


def packed(executor: Executor, launch: KernelLaunch) -> bytes:
    """Return a launch as bytes: one line of JSON, then the data of integer tensors."""
    tensors = [t for t in launch.args if isinstance(t, torch.Tensor)]
    head = {
        "executor": executor.name,
        "device": str(tensors[0].device) if tensors else "cpu",
        "function": name_of(launch.function),
        **_origin(launch.function),
        "grid": list(launch.grid),
        "args": [_argument(x) for x in launch.args],
        "constants": {k: _constant(v) for k, v in launch.constants.items()},
        "options": launch.options,
        "together": launch.together,
    }
    data = [_bytes(t) for t in tensors if not t.is_floating_point()]
    return b"".join([json.dumps(head).encode(), b"\n", *data])


def unpacked(given: bytes) -> tuple[Executor, KernelLaunch]:
    """Return what runs a launch, and the launch."""
    line, _, data = given.partition(b"\n")
    head = json.loads(line)
    torch.manual_seed(SEED)
    args = list(_arguments(head["args"], torch.device(head["device"]), data))
    constants = {k: _constant_of(v) for k, v in head["constants"].items()}
    grid = tuple(head["grid"])
    together = head["together"]
    function = _function(head)
    launch = KernelLaunch(function, grid, args, constants, head["options"], together=together)
    return named(head["executor"]), launch


def _origin(function: Any) -> dict[str, str]:
    """Return where a function comes from: a module of this package, or a generated text."""
    module = getattr(getattr(function, "fn", None), "__module__", "")
    if module.startswith(PACKAGE) and ".generated." not in module and path_of(function):
        return {"module": module}
    return {"text": text_of(function)}


def _function(head: dict[str, Any]) -> Any:
    if "text" in head:
        return getattr(loaded(head["text"], head["function"]), head["function"])
    if not head["module"].startswith(PACKAGE):
        raise ValueError(f"the module {head['module']!r} has none of the package's kernels")
    return getattr(importlib.import_module(head["module"]), head["function"])


def _argument(x: Any) -> Any:
    if not isinstance(x, torch.Tensor):
        return x
    return {
        "shape": list(x.shape),
        "dtype": str(x.dtype).removeprefix("torch."),
        "aligned": x.data_ptr() % ALIGNED == 0,
        "bytes": 0 if x.is_floating_point() else x.numel() * x.element_size(),
    }


def _arguments(given: list[Any], device: torch.device, data: bytes) -> Iterator[Any]:
    start = 0
    for x in given:
        if not isinstance(x, dict):
            yield x
            continue
        dtype, shape = getattr(torch, x["dtype"]), x["shape"]
        made = _empty(shape, dtype, device, x["aligned"])
        if dtype.is_floating_point:
            made.uniform_(-1, 1)
        elif x["bytes"]:
            found = bytearray(data[start : start + x["bytes"]])
            made.copy_(torch.frombuffer(found, dtype=dtype).reshape(shape))
        start += x["bytes"]
        yield made


def _empty(
    shape: list[int], dtype: torch.dtype, device: torch.device, aligned: bool
) -> torch.Tensor:
    """Return a new tensor whose address is divisible by 16, or is not."""
    count = torch.Size(shape).numel()
    if aligned:
        return torch.empty(shape, dtype=dtype, device=device)
    return torch.empty(count + 1, dtype=dtype, device=device)[1:].view(shape)


def _bytes(x: torch.Tensor) -> bytes:
    flat = x.detach().contiguous().cpu().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def _constant(x: Any) -> Any:
    return {"dtype": x.name} if isinstance(x, tl.dtype) else x


def _constant_of(x: Any) -> Any:
    return tl.dtype(x["dtype"]) if isinstance(x, dict) else x


def compiled(executor: Executor, launch: KernelLaunch) -> None:
    """Compile the kernel of a launch without running it, if it has to be compiled."""
    warm: Callable[..., Any] | None = getattr(launch.function, "warmup", None)
    if not executor.interprets and warm is not None:
        warm(*launch.args, grid=launch.grid, **launch.constants, **launch.options)
