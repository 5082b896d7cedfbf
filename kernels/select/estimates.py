"""What the model expects of each way to run a loop, for any number of rows.

A tile of rows within one multiprocessor, tiles that many blocks share each, as many at once as the
GPU has room for and the rest after them, or a step after the other by torch's products.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace

from ..codegen.persistent import LoopSource
from ..cooperative.codegen.emit import CooperativeSource
from ..feasibility.fit import ITEMSIZE, Launch
from ..feasibility.limits import SHARED, TILE_ROWS
from ..ir.program import LoopProgram, Op, Unsupported
from . import cost_model, search
from .cost_model import Device, Moved

# the ways, in the order in which one that can run is taken where nothing is timed
RESIDENT, COOPERATIVE, STEPWISE = "resident", "cooperative", "stepwise"


@dataclass(frozen=True, eq=False)
class Figures:
    """The figures of a loop's program on a GPU that so many `loops` share side by side.

    `source` is the kernel that was written, if one was, `launch` how it is run; the best that
    blocks would share is looked for when first asked, where it is another and `sharing` allowed.
    """

    program: LoopProgram
    source: LoopSource | None
    launch: Launch
    target: str
    loops: int = 1
    sharing: bool = True

    def at(self, rows: int) -> dict[str, float]:
        """Microseconds of a step of so many rows, by way; nothing where there is no model."""
        if self.program.lanes or not self._products:
            return {}
        found = {STEPWISE: self._stepwise(rows)}
        if self.common is not None:
            found = {COOPERATIVE: self._cooperative(self.common, rows), **found}
        if self.source is not None and self.source is not self.common:
            found = {RESIDENT: self._resident(self.source, rows), **found}
        return found

    def words(self) -> dict[str, str]:
        """What is to be said of a way besides its figure."""
        many = self.common
        return {COOPERATIVE: f"{many.blocks} blocks of {many.tiling.units} units"} if many else {}

    @functools.cached_property
    def common(self) -> CooperativeSource | None:
        """The kernel that blocks share, the fastest by the model where none was written."""
        if isinstance(self.source, CooperativeSource):
            return self.source
        if not self.sharing:
            return None
        launch = replace(self.launch, rows=min(TILE_ROWS))
        try:
            able = search.candidates(self.program, launch, self.target, self._device)
            return min(able, key=lambda c: c.micros).source
        except (Unsupported, ValueError):  # none is written, or none fits
            return None

    @property
    def _device(self) -> Device:
        device = search.here(self.target)
        return replace(device, processors=device.processors // self.loops)

    @functools.cached_property
    def _products(self) -> list[int]:
        """Numbers of the weight of each product of rows by one."""
        ops = {op.name: op for op in self.program.ops}
        found = [op.args[1] for op in ops.values() if op.kind == "product"]
        return [math.prod(ops[name].shape) for name in found if _fixed(ops, name)]

    def _stepwise(self, rows: int) -> float:
        numbers, device = sum(self._products), search.here(self.target)
        weights = numbers * ITEMSIZE[self.launch.dtype]
        return cost_model.stepwise(len(self._products), weights, device, rows, numbers)

    def _resident(self, source: LoopSource, rows: int) -> float:
        tiles = -(-rows // self.launch.rows)
        # what TF32 rounds away is held as a second matrix
        each = ITEMSIZE[self.launch.dtype] * (2 if self.launch.precision == "tf32x3" else 1)
        held = sum(source.weights.values()) * each
        moved = Moved(1, tiles, self.launch.rows, 0, held, 0, 0, each)
        return cost_model.alone(moved, len(self._products), self._device)

    def _cooperative(self, source: CooperativeSource, rows: int) -> float:
        launches = [replace(self.launch, rows=tile) for tile in TILE_ROWS]
        fitting = [x for x in launches if search.shared(source, x) <= SHARED[self.target]]
        return min(self._waves(source, x, rows) for x in fitting or launches[:1])

    def _waves(self, source: CooperativeSource, launch: Launch, rows: int) -> float:
        """As many tiles at once as the GPU has room for, and again until all are done."""
        tiles, most = -(-rows // launch.rows), max(1, self._device.processors // source.blocks)
        full, rest = divmod(tiles, most)
        waves = [(full, most), *([(1, rest)] if rest else [])]
        device = self._device
        return sum(
            count * sum(cost_model.shared(search.moves(source, launch, many), device).values())
            for count, many in waves
            if count
        )


def _fixed(ops: dict[str, Op], name: str) -> bool:
    """Whether a value is a weight, or made of weights."""
    op = ops[name]
    if op.kind in ("read", "draw"):
        return not op.attrs["tensor"].axes
    return op.kind not in ("state", "index") and all(_fixed(ops, a) for a in op.args)
