"""Where jobs run: on a GPU, or on the CPU by the PTX executor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import graphnn as gn
from graphnn.kernels.executors.executor import Executor
from graphnn.kernels.executors.named import named

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True)
class Place:
    """A backend of `gn.compile`, "triton" or "ptx", and the target that "ptx" compiles for."""

    backend: str
    target: str | None = None

    @property
    def on_gpu(self) -> bool:
        """Whether this is a GPU."""
        return self.backend == "triton"

    @property
    def device(self) -> str:
        """The device of tensors."""
        return "cuda" if self.on_gpu else "cpu"

    @property
    def executor(self) -> Executor:
        """What runs kernels."""
        return named("gpu" if self.on_gpu else f"ptx:{self.target}")

    @property
    def processors(self) -> int:
        """The multiprocessors of the GPU; few if each is executed on the CPU."""
        return self.executor.gpu(0).processors if self.on_gpu else 4

    def size(self, on_gpu: int, executed: int) -> int:
        """Return a size: on a GPU, or where each statement is executed by Python."""
        return on_gpu if self.on_gpu else executed

    def compiled(self, source: nn.Module, dtype: torch.dtype, **options: Any) -> gn.Compiled:
        """Return a compiled model with parameters of a dtype; it is not tuned by default."""
        options = {"tune": False, "target": self.target, **options}
        return gn.compile(source, self.backend, **options).to(self.device, dtype)
