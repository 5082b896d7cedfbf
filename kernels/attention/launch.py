"""Run attention kernels on tensors: grids, parts of the loop over columns, and outputs."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import torch
import triton.language as tl

from ..executors.executor import Executor, KernelLaunch
from ..feasibility.limits import register_cap
from ..rules.table import loaded
from ..runtime.alignment import aligned
from ..runtime.launch import DTYPE_NAMES, input_precision
from ..trust.rehearsal import chosen_for
from .emit import AttentionSource
from .tile_size import INTERPRETED_SHAPE, STAGES, TileShape, choose_tile, tile_shapes

Tensor = torch.Tensor
# programs that fill a GPU, and the fewest columns of one part of the loop
TARGET_PROGRAMS, MIN_PART = 264, 1024


class AttentionLauncher:
    """A callable attention kernel, which `executor` runs.

    `float32` is how float32 matmuls are computed; if None, torch's setting decides. The loop over
    columns is split until there are `target_programs` programs, in parts of at least `min_part`
    columns.
    """

    def __init__(
        self,
        source: AttentionSource,
        executor: Executor,
        target_programs: int = TARGET_PROGRAMS,
        min_part: int = MIN_PART,
        float32: str | None = None,
    ):
        self.source, self.executor, self.float32 = source, executor, float32
        self.target_programs, self.min_part = target_programs, min_part
        self._shapes: dict[Any, TileShape] = {}

    @functools.cached_property
    def module(self) -> ModuleType:
        """The module of the kernel, loaded from the cache."""
        return loaded(self.source.text, self.source.name)

    @functools.cached_property
    def function(self) -> Any:
        """The jitted function."""
        return getattr(self.module, self.source.name)

    def shape(self, count: int, dtype: torch.dtype, index: int = -1) -> TileShape:
        """Return the tile for `count` rows on GPU `index`: few rows have a smaller one."""
        if self.executor.interprets:
            rows = INTERPRETED_SHAPE.rows if self.source.program.rows else 1
            return TileShape(rows, INTERPRETED_SHAPE.columns, INTERPRETED_SHAPE.warps)
        few = count <= INTERPRETED_SHAPE.rows
        key = few, dtype, input_precision(dtype, self.float32), index
        if key not in self._shapes:
            self._shapes[key] = self._choose(*key)
        return self._shapes[key]

    def _choose(self, few: bool, dtype: torch.dtype, precision: str, index: int) -> TileShape:
        if dtype == torch.float64:
            return tile_shapes(self.source, few)[-1]
        target = self.executor.gpu(index).target
        return choose_tile(self.source, DTYPE_NAMES[dtype], target, precision, few)

    def parts(self, programs: int, columns: int) -> tuple[int, int]:
        """Return the number of parts that the loop is split into, and their length."""
        most = min(self.target_programs // max(programs, 1), columns // self.min_part)
        length = -(-columns // max(1, most)) if columns else 1
        length = -(-length // 128) * 128 if most > 1 else length
        return max(1, -(-columns // length)), length

    def __call__(
        self, tensors: Sequence[Tensor], sizes: Mapping[str, int], kinds: Sequence[torch.dtype]
    ) -> list[Tensor]:
        """Run the kernel and return what it stores, in dtypes `kinds`.

        Sums for each row are (parts, axes, shape), sums for each program (parts, blocks, tiles,
        shape), values at each row and column (axes, shape).
        """
        p = self.source.program
        rows, columns, blocks = (
            math.prod(sizes[a] for a in axes) for axes in (p.rows, p.columns, p.blocks)
        )
        arguments = zip(p.tensors, tensors, strict=True)
        dtype = next(x.dtype for t, x in arguments if t.kind == "float")
        shape = self.shape(chosen_for(p.rows, rows), dtype, tensors[0].get_device())
        tiles = -(-rows // shape.rows)
        all_tiles = -(-chosen_for(p.rows, rows) // shape.rows)
        parts, length = self.parts(all_tiles * chosen_for(p.blocks, blocks), columns)
        outs = self._outputs(tensors[0], sizes, kinds, parts, tiles)
        programs = parts * blocks * tiles
        if programs:
            args = [aligned(t) for t in tensors] + outs
            lengths = [sizes[a] for a in p.sizes] + [length]
            self._launch(programs, args, lengths, shape, dtype)
        return outs

    def _outputs(
        self,
        like: Tensor,
        sizes: Mapping[str, int],
        kinds: Sequence[torch.dtype],
        parts: int,
        tiles: int,
    ) -> list[Tensor]:
        """Allocate the outputs. Sums of several parts are float32 or more: they are added later."""
        p, outs = self.source.program, []
        stores = {s.tensor.name: s.kind for s in p.stores}
        for tensor, dtype in zip(p.outputs, kinds, strict=True):
            kind = stores.get(tensor.name, "row")
            axes = [sizes[a] for a in tensor.axes]
            lead = axes if kind == "element" else [parts, *axes]
            if kind == "tile":
                lead = [parts, *(sizes[a] for a in p.blocks), tiles]
            partial = parts > 1 and kind != "element" and dtype.is_floating_point
            stored = torch.promote_types(dtype, torch.float32) if partial else dtype
            outs.append(like.new_empty([*lead, *tensor.shape], dtype=stored))
        return outs

    def _launch(
        self,
        programs: int,
        args: list[Tensor],
        lengths: list[int],
        shape: TileShape,
        dtype: torch.dtype,
    ) -> None:
        constants = {
            "ROWS": shape.rows,
            "COLS": shape.columns,
            "ACC": tl.float64 if dtype == torch.float64 else tl.float32,
            "PRECISION": input_precision(dtype, self.float32),
            "UPCAST": self.executor.interprets and dtype in (torch.float16, torch.bfloat16),
        }
        options: dict[str, Any] = {}
        if not self.executor.interprets:
            options = {"num_warps": shape.warps, "num_stages": STAGES, "enable_fp_fusion": True}
            options["maxnreg"] = register_cap(32 * shape.warps)
        inputs = len(self.source.program.tensors)
        launch = KernelLaunch(
            self.function,
            (programs,),
            [*args, *lengths],
            constants,
            options,
            range(inputs, len(args)),
            family="attention",
        )
        with self.executor.device_of(args[0]):
            self.executor.launch(launch)
