"""Running a kernel on tensors: its outputs, its grid, compiled on a GPU or interpreted on a CPU."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import torch
import triton.language as tl

from ..analysis.block_axis import padded_length
from ..analysis.loop_carried import loaded
from ..codegen.persistent import LoopSource
from ..feasibility.fit import Launch
from ..feasibility.limits import asked
from ..interpreter import interpreter
from ..select.autotune import Tuner

# rows a program where interpreted: the least that a matrix product takes
ROWS = 16
# rows of one position are addressed by 32 bits; positions by 64
REACH = 2**31
# how products of float32 may be computed, in words
PRECISIONS = {
    "ieee": "plain multiply-adds (ieee)",
    "tf32x3": "three products of TF32 (tf32x3)",
    "tf32": "one product of TF32 (tf32)",
}
# and where a kernel takes numbers apart itself
PARTED = "six products of their parts in bfloat16 (for tf32x3; more exact)"
# numbers of rows whose way is remembered at most
WAYS = 256
NAMES = {
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.float32: "fp32",
    torch.float64: "fp64",
}


class Launcher:
    """A kernel made callable: `launcher(tensors, sizes, dtype)` returns what it stores.

    `sizes` are the lengths of `source.sizes`, by name; nothing is specialised on them. `warps` is
    how the kernel was found to fit; on a GPU a tuner may choose another launch, for each dtype,
    device and bucket of rows. `float32` is how products of float32 are computed, where torch's
    setting does not say. Raises ValueError where tensors are not all on one device, or one
    position has 2^31 numbers or more.
    """

    def __init__(
        self, source: LoopSource, interpret: bool, warps: int = 8, float32: str | None = None
    ):
        self.source, self.interpret, self.warps = source, interpret, warps
        self.float32 = float32
        self.tuner = Tuner(source)
        program = source.program
        self._axis, self._rows, self._sizes = program.axis, program.rows, source.sizes
        lanes = program.lanes
        self._lanes = len(source.pointers) + source.sizes.index(lanes) if lanes else -1
        self._stores = [(t.axes, t.shape, t.kind) for _, t in program.stores]
        of_rows = [t for t in source.pointers if set(t.axes) & set(program.rows)]
        self._widest = max((math.prod(t.shape) for t in of_rows), default=1)
        self._ways: dict[Any, tuple[int, dict[str, Any]]] = {}

    @functools.cached_property
    def module(self) -> ModuleType:
        """The module of the kernel, loaded from the cache."""
        return loaded(self.source.text, self.source.name)

    @functools.cached_property
    def function(self) -> Any:
        """The jitted function."""
        return getattr(self.module, self.source.name)

    def __call__(
        self, tensors: Sequence[torch.Tensor], sizes: Mapping[str, int], dtype: torch.dtype
    ) -> list[torch.Tensor]:
        device = tensors[0].device if tensors else torch.device("cpu")
        outs = [
            torch.empty([*[sizes[a] for a in axes], *shape], dtype=made(kind, dtype), device=device)
            for axes, shape, kind in self._stores
        ]
        self._run(tensors, outs, sizes, dtype)
        return outs

    def into(
        self,
        tensors: Sequence[torch.Tensor],
        outs: Sequence[torch.Tensor],
        sizes: Mapping[str, int],
        dtype: torch.dtype,
    ) -> None:
        """Run, storing into tensors that are there already; strided ones by way of a copy."""
        if all(t.is_contiguous() for t in outs):
            self._run(tensors, outs, sizes, dtype)
            return
        places = [t.contiguous() for t in outs]
        self._run(tensors, places, sizes, dtype)
        for out, place in zip(outs, places, strict=True):
            if out is not place:
                out.copy_(place)

    def _run(
        self,
        tensors: Sequence[torch.Tensor],
        outs: Sequence[torch.Tensor],
        sizes: Mapping[str, int],
        dtype: torch.dtype,
    ) -> None:
        count = math.prod([sizes[a] for a in self._rows])
        if not count or (self._axis and not sizes[self._axis]):
            return
        if count * self._widest >= REACH:
            raise ValueError(
                f"the kernel {self.source.name} has {count:,} rows of up to {self._widest:,} "
                f"numbers at one position, and reaches {REACH:,}: split the batch"
            )
        args: list[Any] = [t.contiguous() for t in tensors]
        args += outs
        index = self._device(args)
        args += [sizes[a] for a in self._sizes]
        if self.interpret:
            self._interpreted(args, count, dtype)
        elif index < 0 or index == torch.cuda.current_device():
            self._compiled(args, count, dtype, index)
        else:
            with torch.cuda.device(index):
                self._compiled(args, count, dtype, index)

    def _device(self, args: Sequence[torch.Tensor]) -> int:
        """The number of the device that all tensors are on, -1 for the CPU."""
        index = args[0].get_device()
        for k, t in enumerate(args):
            if t.get_device() != index:
                names = [p.name for p in self.source.pointers]
                raise ValueError(
                    f"'{names[k]}' of the kernel {self.source.name} is on {t.device}, "
                    f"'{names[0]}' on {args[0].device}; all must be on one device"
                )
        return index

    def _interpreted(self, args: list[Any], count: int, dtype: torch.dtype) -> None:
        least = self._least(args)
        constants = {"ROWS": least, **self._constants(dtype)}
        grid = self._grid(count, least)
        interpreter.launch(self.function, grid, *args, **constants)

    def _compiled(self, args: list[Any], count: int, dtype: torch.dtype, index: int) -> None:
        """Launch on the current device, the way that the tuner chooses."""
        fixed = torch.are_deterministic_algorithms_enabled()
        how = precision(dtype, self.float32)
        least = self._least(args)
        key = dtype, how, count, index, fixed, least
        way = self._ways.get(key)
        if way is None:

            def run(launch: Launch) -> None:
                self.function[self._grid(count, launch.rows)](*args, **self._options(launch, dtype))

            judged = Launch(NAMES[dtype], how, least, self.warps)
            chosen = self.tuner.choose(judged, count, index, run)
            if len(self._ways) >= WAYS:
                self._ways.clear()
            way = self._ways[key] = chosen.rows, self._options(chosen, dtype)
        rows, options = way
        self.function[self._grid(count, rows)](*args, **options)

    def _least(self, args: Sequence[Any]) -> int:
        """The fewest rows of a tile: what a matrix product takes, or as many as there are lanes."""
        return padded_length(args[self._lanes]) if self._lanes >= 0 else ROWS

    def _grid(self, count: int, rows: int) -> tuple[int, int]:
        """How many programs there are: one a tile of rows, or one a row with all of its lanes."""
        tiles = count if self.source.program.lanes else -(-count // rows)
        return tiles, self.source.loops

    def _options(self, launch: Launch, dtype: torch.dtype) -> dict[str, Any]:
        return {
            "ROWS": launch.rows,
            **self._constants(dtype),
            "num_warps": launch.warps,
            "num_stages": 1,
            "maxnreg": asked(32 * launch.warps, self.source.capped),
            "enable_fp_fusion": True,
        }

    def _constants(self, dtype: torch.dtype) -> dict[str, Any]:
        return {
            "ACC": tl.float64 if dtype == torch.float64 else tl.float32,
            "PRECISION": precision(dtype, self.float32),
            "UPCAST": self.interpret and dtype != torch.float64,
        }


def made(kind: str, dtype: torch.dtype) -> torch.dtype:
    """The dtype of a tensor of this kind, in a launch with floats of `dtype`."""
    wide = torch.promote_types(dtype, torch.float32)
    return {"int": torch.int64, "bool": torch.bool, "acc": wide}.get(kind, dtype)


def precision(dtype: torch.dtype, float32: str | None = None) -> str:
    """How products are computed: of float32 as asked, else as torch's setting says.

    "highest" takes three products of TF32 (tf32x3), nearly float32's own: plain multiply-adds
    ("ieee") spill where there are many weights, and some Triton 3.9 does not survive compiling.
    """
    if dtype != torch.float32:
        return "ieee"
    if float32 is not None:
        return float32
    return "tf32x3" if torch.get_float32_matmul_precision() == "highest" else "tf32"
