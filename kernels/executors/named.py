"""The executors by name: torch operators take names, as their arguments must be plain values."""

from __future__ import annotations

from .executor import Executor
from .gpu import Gpu
from .interpreted import Interpreter
from .ptx import EXECUTED, PtxExecutor

GPU, INTERPRETER = Gpu(), Interpreter()
_EXECUTORS: dict[str, Executor] = {x.name: x for x in (GPU, INTERPRETER)}


def named(name: str) -> Executor:
    """Return the executor of this name: "gpu", "interpret", or "ptx:sm_90" for a target.

    The same name always gives the same executor.
    """
    if name not in _EXECUTORS:
        kind, _, target = name.partition(":")
        if kind != "ptx" or target not in EXECUTED:
            raise ValueError(f"there is no executor {name!r}; PTX runs for {', '.join(EXECUTED)}")
        _EXECUTORS[name] = PtxExecutor(target)
    return _EXECUTORS[name]


def executor_for(tensor_device: str) -> Executor:
    """Return what runs kernels on tensors of this type of device by default."""
    return GPU if tensor_device == "cuda" else INTERPRETER
