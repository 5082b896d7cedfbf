"""Running a kernel on tensors: its outputs, its grid, compiled on a GPU or interpreted on a CPU."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import triton.language as tl

from . import interpreter
from .cache import load
from .emit import Source
from .limits import register_cap

DTYPES = {"int": torch.int64, "bool": torch.bool}


class Launcher:
    """A kernel made callable: `launcher(tensors, sizes, dtype)` returns what it stores.

    `sizes` are the lengths of `source.sizes`, by name; nothing is specialised on them.
    """

    def __init__(self, source: Source, interpret: bool, warps: int = 8):
        self.source, self.interpret, self.warps = source, interpret, warps

    @functools.cached_property
    def function(self) -> Any:
        """The jitted function, loaded from the cache."""
        return getattr(load(self.source.text, self.source.name), self.source.name)

    def __call__(
        self, tensors: Sequence[torch.Tensor], sizes: Mapping[str, int], dtype: torch.dtype
    ) -> list[torch.Tensor]:
        program = self.source.program
        device = tensors[0].device if tensors else torch.device("cpu")
        outs = [
            torch.empty(
                [*(sizes[a] for a in t.axes), *t.shape],
                dtype=DTYPES.get(t.kind, dtype),
                device=device,
            )
            for _, t in program.stores
        ]
        self.into(tensors, outs, sizes, dtype)
        return outs

    def into(
        self,
        tensors: Sequence[torch.Tensor],
        outs: Sequence[torch.Tensor],
        sizes: Mapping[str, int],
        dtype: torch.dtype,
    ) -> None:
        """Run, storing into tensors that are there already; strided ones by way of a copy."""
        program = self.source.program
        count = math.prod(sizes[a] for a in program.rows)
        if count and (not program.axis or sizes[program.axis]):
            lengths = [sizes[a] for a in self.source.sizes]
            given = [t.contiguous() for t in tensors]
            places = [
                t if t.is_contiguous() else torch.empty(t.shape, dtype=t.dtype, device=t.device)
                for t in outs
            ]
            self._run([*given, *places, *lengths], count, dtype)
            for out, place in zip(outs, places, strict=True):
                if out is not place:
                    out.copy_(place)

    def _run(self, args: list[Any], count: int, dtype: torch.dtype) -> None:
        rows = self.source.rows
        grid = (-(-count // rows), self.source.loops)
        constants = {
            "ROWS": rows,
            "ACC": tl.float64 if dtype == torch.float64 else tl.float32,
            "PRECISION": precision(dtype),
            "UPCAST": self.interpret and dtype in (torch.float16, torch.bfloat16),
        }
        if self.interpret:
            interpreter.launch(self.function, grid, *args, **constants)
        else:
            self.function[grid](
                *args,
                **constants,
                num_warps=self.warps,
                num_stages=1,
                maxnreg=register_cap(32 * self.warps),
                enable_fp_fusion=True,
            )


def precision(dtype: torch.dtype) -> str:
    """How products are computed: of float32, as torch.set_float32_matmul_precision says.

    "highest" takes three products of TF32 (tf32x3), nearly float32's own; plain multiply-adds spill
    from 128 units on, and for some kernels Triton 3.9 does not survive compiling them.
    """
    if dtype != torch.float32:
        return "ieee"
    return "tf32x3" if torch.get_float32_matmul_precision() == "highest" else "tf32"
