"""Running a contraction's kernels on tensors: grids, parts of the walk, and their outputs."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import torch
import triton.language as tl

from ..analysis.loop_carried import loaded
from ..feasibility.limits import nearest_target, register_cap
from ..interpreter import interpreter
from ..runtime.launch import DTYPE_NAMES, input_precision
from .emit import AttentionSource
from .tile_size import INTERPRETED, STAGES, Shape, best, ladder

Tensor = torch.Tensor
# programs that fill a machine, and the least columns of a part of a walk
FILL, STRETCH = 264, 1024


class Runner:
    """A kernel made callable. `interpret`: by Triton's interpreter, on CPU tensors.

    `float32` is how products of float32 are computed, where torch's setting does not say. `fill`
    and `stretch`: parts are taken until there are so many programs, of so many columns each.
    """

    def __init__(
        self,
        source: AttentionSource,
        interpret: bool,
        fill: int = FILL,
        stretch: int = STRETCH,
        float32: str | None = None,
    ):
        self.source, self.interpret, self.float32 = source, interpret, float32
        self.fill, self.stretch = fill, stretch
        self._shapes: dict[Any, Shape] = {}

    @functools.cached_property
    def module(self) -> ModuleType:
        """The module of the kernel, loaded from the cache."""
        return loaded(self.source.text, self.source.name)

    @functools.cached_property
    def function(self) -> Any:
        """The jitted function."""
        return getattr(self.module, self.source.name)

    def shape(self, count: int, dtype: torch.dtype) -> Shape:
        """The tile for so many rows: for few of them a smaller one."""
        if self.interpret:
            rows = INTERPRETED.rows if self.source.program.rows else 1
            return Shape(rows, INTERPRETED.columns, INTERPRETED.warps)
        few = count <= INTERPRETED.rows
        key = few, dtype, input_precision(dtype, self.float32)
        if key not in self._shapes:
            self._shapes[key] = self._fitting(*key)
        return self._shapes[key]

    def _fitting(self, few: bool, dtype: torch.dtype, how: str) -> Shape:
        if dtype == torch.float64:
            return ladder(self.source, few)[-1]
        target = nearest_target(*torch.cuda.get_device_capability())
        return best(self.source, DTYPE_NAMES[dtype], target, how, few)

    def parts(self, programs: int, columns: int) -> tuple[int, int]:
        """Into how many parts a walk is cut, and the length of each."""
        wanted = max(1, min(self.fill // max(programs, 1), columns // self.stretch))
        length = -(-columns // wanted) if columns else 1
        length = -(-length // 128) * 128 if wanted > 1 else length
        return max(1, -(-columns // length)), length

    def __call__(
        self, tensors: Sequence[Tensor], sizes: Mapping[str, int], kinds: Sequence[torch.dtype]
    ) -> list[Tensor]:
        """What the kernel stores, in dtypes `kinds`: sums of rows as (parts, axes, shape), sums of
        programs as (parts, blocks, tiles, shape)."""
        p = self.source.program
        rows, columns, blocks = (
            math.prod(sizes[a] for a in axes) for axes in (p.rows, p.columns, p.blocks)
        )
        given = zip(p.tensors, tensors, strict=True)
        dtype = next(x.dtype for t, x in given if t.kind == "float")
        shape = self.shape(rows, dtype)
        tiles = -(-rows // shape.rows)
        parts, length = self.parts(tiles * blocks, columns)
        outs = []
        ways = {s.tensor.name: s.kind for s in p.stores}
        for tensor, wanted in zip(p.outputs, kinds, strict=True):
            kind = ways.get(tensor.name, "row")
            lead = [sizes[a] for a in tensor.axes]
            lead = lead if kind == "each" else [parts, *lead]
            if kind == "tile":
                lead = [parts, *(sizes[a] for a in p.blocks), tiles]
            further = parts > 1 and kind != "each" and wanted.is_floating_point
            full = torch.promote_types(wanted, torch.float32) if further else wanted
            outs.append(tensors[0].new_empty([*lead, *tensor.shape], dtype=full))
        programs = parts * blocks * tiles
        if programs:
            args = [t.contiguous() for t in tensors] + outs
            lengths = [sizes[a] for a in p.sizes] + [length]
            self._launch(programs, args, lengths, shape, dtype)
        return outs

    def _launch(
        self,
        programs: int,
        args: list[Tensor],
        lengths: list[int],
        shape: Shape,
        dtype: torch.dtype,
    ) -> None:
        constants = {
            "ROWS": shape.rows,
            "COLS": shape.columns,
            "ACC": tl.float64 if dtype == torch.float64 else tl.float32,
            "PRECISION": input_precision(dtype, self.float32),
            "UPCAST": self.interpret and dtype in (torch.float16, torch.bfloat16),
        }
        if self.interpret:
            interpreter.launch(self.function, (programs,), *args, *lengths, **constants)
            return
        options = {"num_warps": shape.warps, "num_stages": STAGES}
        options["maxnreg"] = register_cap(32 * shape.warps)
        with torch.cuda.device_of(args[0]):
            self.function[(programs,)](
                *args, *lengths, **constants, **options, enable_fp_fusion=True
            )
