"""Cost estimates of each strategy to run a loop, for any number of rows.

The strategies: tiles of rows that each stay within one multiprocessor (persistent); tiles that many
blocks compute together, as many at once as the GPU has room for (cooperative); or one step after
another by torch's matmuls (stepwise).
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace

from ..codegen.persistent import LoopSource
from ..cooperative.codegen.emit import CooperativeSource
from ..feasibility.fit import ITEMSIZE, Launch
from ..feasibility.limits import TILE_ROWS
from ..feasibility.targets import shared_memory_of
from ..ir.program import LoopProgram, Op, Unsupported
from . import cost_model, search
from .cost_model import GpuModel, StepWork
from .strategies import COOPERATIVE, RESIDENT, STEPWISE


@dataclass(frozen=True, eq=False)
class CostEstimates:
    """Estimates for a loop's program on a GPU that `loops` loops divide among themselves.

    `source` is the kernel that was written, if any, and `launch` how it is run. The best
    cooperative kernel is searched when first needed, if it is allowed and is not `source`.
    """

    program: LoopProgram
    source: LoopSource | None
    launch: Launch
    target: str
    loops: int = 1
    cooperative_allowed: bool = True

    def per_step(self, rows: int) -> dict[str, float]:
        """Return the predicted microseconds per step with `rows` rows, by strategy.

        The result is empty if the cost model does not cover the loop.
        """
        if self.program.block_axis or not self._matmul_weights:
            return {}
        found = {STEPWISE: self._stepwise(rows)}
        if self.cooperative is not None:
            found = {COOPERATIVE: self._cooperative(self.cooperative, rows), **found}
        if self.source is not None and self.source is not self.cooperative:
            found = {RESIDENT: self._persistent(self.source, rows), **found}
        return found

    def descriptions(self) -> dict[str, str]:
        """Return details of a strategy as text, by strategy."""
        many = self.cooperative
        return {COOPERATIVE: f"{many.blocks} blocks of {many.tiling.units} units"} if many else {}

    @functools.cached_property
    def cooperative(self) -> CooperativeSource | None:
        """The cooperative kernel: the one written, or else the fastest by the cost model."""
        if isinstance(self.source, CooperativeSource):
            return self.source
        if not self.cooperative_allowed:
            return None
        launch = replace(self.launch, rows=min(TILE_ROWS))
        try:
            found = search.cooperative_candidates(self.program, launch, self.target, self._gpu)
            return min(found, key=lambda c: c.microseconds).source
        except (Unsupported, ValueError):  # none can be written, or none fits
            return None

    @property
    def _gpu(self) -> GpuModel:
        gpu = search.device_at_hand(self.target)
        return replace(gpu, processors=gpu.processors // self.loops)

    @functools.cached_property
    def _matmul_weights(self) -> list[int]:
        """The number of elements of each weight that rows are multiplied by."""
        ops = {op.name: op for op in self.program.ops}
        found = [op.args[1] for op in ops.values() if op.kind == "einsum"]
        return [math.prod(ops[name].shape) for name in found if _is_weight(ops, name)]

    def _stepwise(self, rows: int) -> float:
        elements, gpu = sum(self._matmul_weights), search.device_at_hand(self.target)
        weights = elements * ITEMSIZE[self.launch.dtype]
        return cost_model.stepwise_time(len(self._matmul_weights), weights, gpu, rows, elements)

    def _persistent(self, source: LoopSource, rows: int) -> float:
        tiles = -(-rows // self.launch.rows)
        # for tf32x3, what TF32 rounds away is a second matrix
        itemsize = ITEMSIZE[self.launch.dtype] * (2 if self.launch.precision == "tf32x3" else 1)
        kept = sum(source.weights.values()) * itemsize
        work = StepWork(1, tiles, self.launch.rows, 0, kept, 0, 0, itemsize)
        return cost_model.persistent_time(work, len(self._matmul_weights), self._gpu)

    def _cooperative(self, source: CooperativeSource, rows: int) -> float:
        have = shared_memory_of(self.target)
        launches = [replace(self.launch, rows=tile) for tile in TILE_ROWS]
        fitting = [x for x in launches if search.shared_memory(source, x) <= have]
        return min(self._waves(source, x, rows) for x in fitting or launches[:1])

    def _waves(self, source: CooperativeSource, launch: Launch, rows: int) -> float:
        """Return the time if as many tiles as the GPU has room for run at once, in waves."""
        tiles, most = -(-rows // launch.rows), max(1, self._gpu.processors // source.blocks)
        full, rest = divmod(tiles, most)
        waves = [(full, most), *([(1, rest)] if rest else [])]
        total = 0.0
        for count, at_once in waves:
            if count:
                work = search.step_work(source, launch, at_once)
                total += count * sum(cost_model.cooperative_parts(work, self._gpu).values())
        return total


def _is_weight(ops: dict[str, Op], name: str) -> bool:
    """Return whether a value is a weight, or computed from weights alone."""
    op = ops[name]
    if op.kind in ("read", "draw"):
        return not op.attrs["tensor"].axes
    return op.kind not in ("state", "index") and all(_is_weight(ops, a) for a in op.args)
