"""Run a loop's kernel on tensors: allocate outputs, choose the launch, give it to an executor."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import torch
import triton.language as tl

from ..analysis.block_axis import padded_length
from ..codegen.persistent import LoopSource
from ..executors.executor import Executor, KernelLaunch
from ..feasibility.fit import Launch
from ..feasibility.limits import register_option
from ..notice import compiling
from ..precision import matmul_precision
from ..rules.table import loaded
from ..select.autotune import Autotuner
from ..trust.rehearsal import chosen_for
from .alignment import aligned, is_aligned

# rows per program if interpreted: the least for which matmuls work
MIN_ROWS = 16
# elements of all rows at one position are addressed with 32 bits; positions with 64
MAX_OFFSET = 2**31
# how matmuls of float32 may be computed, as text
PRECISIONS = {
    "ieee": "plain multiply-adds (ieee)",
    "tf32x3": "three products of TF32 (tf32x3)",
    "tf32": "one product of TF32 (tf32)",
}
# the same for kernels that split elements into parts themselves
SPLIT_PRODUCTS = "six products of their parts in bfloat16 (for tf32x3; more exact)"
# the most numbers of rows whose launch is remembered
MAX_CHOICES = 256
DTYPE_NAMES = {
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.float32: "fp32",
    torch.float64: "fp64",
}


class Launcher:
    """A callable kernel: `launcher(tensors, sizes, dtype)` returns what it stores.

    `executor` runs it. `sizes` maps the names in `source.sizes` to lengths; nothing is specialised
    on them. `warps` is the number with which the kernel was found to fit. On a GPU the autotuner
    may choose another launch, per dtype, device and bucket of rows. `float32` is how float32
    matmuls are computed; if None, torch's setting decides. Calls raise ValueError if
    tensors are on different devices, or if one position has 2^31 elements or more.
    """

    def __init__(
        self, source: LoopSource, executor: Executor, warps: int = 8, float32: str | None = None
    ):
        self.source, self.executor, self.warps = source, executor, warps
        self.float32 = float32
        self.tuner = Autotuner(source, executor)
        program = source.program
        self._axis, self._rows, self._sizes = program.axis, program.rows, source.sizes
        axis = program.block_axis
        self._axis_argument = len(source.pointers) + source.sizes.index(axis) if axis else -1
        self._stores = [(t.axes, t.shape, t.kind) for _, t in program.stores]
        of_rows = [t for t in source.pointers if set(t.axes) & set(program.rows)]
        self._widest = max((math.prod(t.shape) for t in of_rows), default=1)
        count = len(source.pointers)
        self._outputs = range(count - len(self._stores), count)
        self._launches: dict[Any, tuple[int, dict[str, Any], dict[str, Any]]] = {}

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
            torch.empty(
                [*[sizes[a] for a in axes], *shape], dtype=output_dtype(kind, dtype), device=device
            )
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
        """Run and store into existing tensors: through a copy if strided or not aligned."""
        if all(map(is_aligned, outs)):
            self._run(tensors, outs, sizes, dtype)
            return
        copies = [aligned(t) for t in outs]
        self._run(tensors, copies, sizes, dtype)
        for out, stored in zip(outs, copies, strict=True):
            if out is not stored:
                out.copy_(stored)

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
        if count * self._widest >= MAX_OFFSET:
            raise ValueError(
                f"the kernel {self.source.name} gets {count:,} rows of up to {self._widest:,} "
                f"elements at one position, and can address {MAX_OFFSET:,}: split the batch"
            )
        args: list[Any] = [aligned(t) for t in tensors]
        args += outs
        index = self._device(args)
        args += [sizes[a] for a in self._sizes]
        if index < 0 or index == torch.cuda.current_device():
            self._launch(args, count, dtype, index)
        else:
            with torch.cuda.device(index):
                self._launch(args, count, dtype, index)

    def _device(self, args: Sequence[torch.Tensor]) -> int:
        """Return the index of the device that all tensors are on, -1 for the CPU."""
        index = args[0].get_device()
        for k, t in enumerate(args):
            if t.get_device() != index:
                names = [p.name for p in self.source.pointers]
                raise ValueError(
                    f"'{names[k]}' of the kernel {self.source.name} is on {t.device}, "
                    f"'{names[0]}' on {args[0].device}; all must be on one device"
                )
        return index

    def _launch(self, args: list[Any], count: int, dtype: torch.dtype, index: int) -> None:
        """Launch on the current device: with the fewest rows if interpreted, else as tuned."""
        if self.executor.interprets:
            self._run_with(args, count, self._least(args), self._constants(dtype), {})
            return
        fixed = torch.are_deterministic_algorithms_enabled()
        precision = input_precision(dtype, self.float32)
        least = self._least(args)
        rows = chosen_for(self._rows, count)
        key = dtype, precision, rows, index, fixed, least
        known = self._launches.get(key)
        if known is None:
            judged = Launch(DTYPE_NAMES[dtype], precision, least, self.warps)
            with compiling(self.source.name):
                known = self._chosen(args, count, rows, dtype, index, judged)
                self._run_with(args, count, *known)
            if len(self._launches) >= MAX_CHOICES:
                self._launches.clear()
            if self.tuner.known(judged, rows, index) is not None:
                self._launches[key] = known
            return
        self._run_with(args, count, *known)

    def _chosen(
        self,
        args: list[Any],
        count: int,
        rows: int,
        dtype: torch.dtype,
        index: int,
        judged: Launch,
    ) -> tuple[int, dict[str, Any], dict[str, Any]]:
        """Return rows, constants and options of the launch that the autotuner chooses for `rows`.

        `count` is the number of rows of this call, which may be a cut one.
        """

        def given(x: Launch) -> tuple[int, dict[str, Any], dict[str, Any]]:
            return x.rows, self._constants(dtype), self._options(x)

        def prepare(launches: Sequence[Launch]) -> None:
            self.executor.prepare([self._kernel(args, count, *given(x)) for x in launches])

        def run(launch: Launch) -> None:
            self._run_with(args, count, *given(launch))

        outs = [args[k] for k in self._outputs]
        return given(self.tuner.choose(judged, rows, index, run, outs, prepare))

    def _run_with(
        self,
        args: list[Any],
        count: int,
        rows: int,
        constants: dict[str, Any],
        options: dict[str, Any],
    ) -> None:
        self.executor.launch(self._kernel(args, count, rows, constants, options))

    def _kernel(
        self,
        args: list[Any],
        count: int,
        rows: int,
        constants: dict[str, Any],
        options: dict[str, Any],
    ) -> KernelLaunch:
        constants = {"ROWS": rows, **constants}
        grid = self._grid(count, rows)
        return KernelLaunch(
            self.function, grid, args, constants, options, self._outputs, family="loop"
        )

    def _least(self, args: Sequence[Any]) -> int:
        """Return the fewest rows of a tile: those of a matmul, or the padded block axis."""
        return padded_length(args[self._axis_argument]) if self._axis_argument >= 0 else MIN_ROWS

    def _grid(self, count: int, rows: int) -> tuple[int, int]:
        """Return the grid: one program per tile of rows, or per row if there is a block axis."""
        tiles = count if self.source.program.block_axis else -(-count // rows)
        return tiles, self.source.loops

    def _options(self, launch: Launch) -> dict[str, Any]:
        return {
            "num_warps": launch.warps,
            "num_stages": 1,
            "maxnreg": register_option(32 * launch.warps, self.source.capped),
            "enable_fp_fusion": True,
        }

    def _constants(self, dtype: torch.dtype) -> dict[str, Any]:
        return {
            "ACC": tl.float64 if dtype == torch.float64 else tl.float32,
            "PRECISION": input_precision(dtype, self.float32),
            "UPCAST": self.executor.interprets and dtype != torch.float64,
        }


def output_dtype(kind: str, dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of a tensor of this kind, in a launch with floats of `dtype`."""
    wide = torch.promote_types(dtype, torch.float32)
    return {"int": torch.int64, "bool": torch.bool, "acc": wide}.get(kind, dtype)


def input_precision(dtype: torch.dtype, float32: str | None = None) -> str:
    """Return the input precision of matmuls: for float32 as given, or else by torch's setting.

    "highest" gives three products of TF32 (tf32x3), nearly as exact as float32. Multiply-adds
    ("ieee") spill if there are many weights, and Triton 3.9 crashes on compiling some.
    """
    if dtype != torch.float32:
        return "ieee"
    if float32 is not None:
        return float32
    return "tf32x3" if matmul_precision() == "ieee" else "tf32"
