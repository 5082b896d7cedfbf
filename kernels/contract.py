"""Running a contraction's kernels on tensors: grids, parts of the walk, and their outputs."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import triton.language as tl

from . import interpreter
from .cache import load
from .contraction import Source
from .launch import precision
from .limits import register_cap

Tensor = torch.Tensor
# rows and columns of a tile, and warps: of values one number or vector wide; of values over rows,
# columns and a width; where there is one row
PLAIN, WIDE, SINGLE = (64, 64, 4), (16, 1, 4), (1, 128, 4)
# few rows: a smaller tile of them
SMALL = 16
# programs that fill a machine, and the least columns of a part of a walk
FILL, STRETCH = 264, 1024


class Runner:
    """A kernel made callable. `interpret`: by Triton's interpreter, on CPU tensors.

    `fill` and `stretch`: parts are taken until there are so many programs, of so many columns each.
    """

    def __init__(self, source: Source, interpret: bool, fill: int = FILL, stretch: int = STRETCH):
        self.source, self.interpret = source, interpret
        self.fill, self.stretch = fill, stretch

    @functools.cached_property
    def function(self) -> Any:
        """The jitted function, loaded from the cache."""
        return getattr(load(self.source.text, self.source.name), self.source.name)

    def tile(self, count: int) -> tuple[int, int, int]:
        """Rows, columns and warps of a tile, for so many rows."""
        if not self.source.program.rows:
            return SINGLE
        rows, columns, warps = WIDE if self.source.wide else PLAIN
        columns = 16 if self.interpret else columns  # the interpreter's time goes with the steps
        return (min(rows, SMALL) if count <= SMALL else rows), columns, warps

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
        high, across, warps = self.tile(rows)
        tiles = -(-rows // high)
        parts, length = self.parts(tiles * blocks, columns)
        outs = []
        stores = [*((s.tensor, s.kind) for s in p.stores), *([(p.peak, "row")] if p.peak else [])]
        for (tensor, kind), dtype in zip(stores, kinds, strict=True):
            lead = [sizes[a] for a in tensor.axes]
            lead = lead if kind == "each" else [parts, *lead]
            if kind == "tile":
                lead = [parts, *(sizes[a] for a in p.blocks), tiles]
            if parts > 1 and kind != "each":
                dtype = torch.promote_types(dtype, torch.float32)
            outs.append(tensors[0].new_empty([*lead, *tensor.shape], dtype=dtype))
        programs = parts * blocks * tiles
        if programs:
            args = [t.contiguous() for t in tensors] + outs
            lengths = [sizes[a] for a in p.sizes] + [length]
            self._launch(programs, args, lengths, high, across, warps)
        return outs

    def _launch(
        self,
        programs: int,
        args: list[Tensor],
        lengths: list[int],
        high: int,
        across: int,
        warps: int,
    ) -> None:
        dtype = next(t.dtype for t in args if t.dtype.is_floating_point)
        constants = {
            "ROWS": high,
            "COLS": across,
            "ACC": tl.float64 if dtype == torch.float64 else tl.float32,
            "PRECISION": precision(dtype),
            "UPCAST": self.interpret and dtype in (torch.float16, torch.bfloat16),
        }
        if self.interpret:
            interpreter.launch(self.function, (programs,), *args, *lengths, **constants)
            return
        options = {"num_warps": warps, "num_stages": 2, "maxnreg": register_cap(32 * warps)}
        with torch.cuda.device_of(args[0]):
            self.function[(programs,)](
                *args, *lengths, **constants, **options, enable_fp_fusion=True
            )
