"""Launching a cooperative kernel: its exchanges, its counters, and rows enough to fill the GPU."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import torch

from ..analysis.loop_carried import loaded
from ..cooperative.codegen.emit import APART, CooperativeSource
from ..cooperative.codegen.watchdog import Watchdog
from ..feasibility.fit import Launch, plain
from ..feasibility.limits import PATIENCE, SHARED, TILE_ROWS
from ..interpreter import interleaved
from ..select.autotune import Timer, Tuner, gpu, timed
from ..select.cost_model import DEVICES
from ..select.search import shared
from .launch import NAMES, ROWS, Launcher, precision

Run = Callable[[CooperativeSource, int, list[Any]], None]


@dataclass(frozen=True)
class GridLaunch(Launch):
    """A launch of the kernel whose blocks have so many units."""

    units: int = 0


class GridTuner(Tuner):
    """The choices of a cooperative kernel: among its others too, and the rows a program."""

    def __init__(self, source: CooperativeSource, timer: Timer = timed):
        super().__init__(source, timer)
        self.kernels = (source, *source.others)

    def able(self, judged: Launch, target: str, rows: int) -> list[Launch]:
        """Launches whose tiles fit, of all kernels; the first is the one that was judged."""
        found: list[Launch] = [judged]
        if plain(judged):  # others were not compiled, which may bring the process down
            return found
        for source in self.kernels:
            for tile in TILE_ROWS[: 1 if source.each else None]:
                launch = GridLaunch(
                    judged.dtype, judged.precision, tile, judged.warps, source.tiling.units
                )
                wanted = launch != judged and tile <= max(TILE_ROWS[0], rows)
                if wanted and _fits(source, launch, target):
                    found.append(launch)
        return found


def _fits(source: CooperativeSource, launch: Launch, target: str) -> bool:
    """Whether a block's weights and operands fit its shared memory."""
    return shared(source, launch) <= SHARED[target]


class GridLauncher(Launcher):
    """A cooperative kernel made callable, as `Launcher` is.

    All blocks of a launch run at the same time; a batch for which they would be too many is run as
    several launches. Raises ValueError, before any launch, where even one tile of rows has more
    blocks than the GPU has multiprocessors.
    """

    source: CooperativeSource

    def __init__(
        self, source: CooperativeSource, interpret: bool, warps: int = 8, float32: str | None = None
    ):
        super().__init__(source, interpret, warps, float32)
        self.tuner = GridTuner(source)
        self._widest = max(
            self._widest, source.slots * max((e.size for e in source.exchanges), default=1)
        )
        self.watchdog = Watchdog(source.name)
        self.processors = DEVICES["sm_90"].processors

    @functools.cached_property
    def _modules(self) -> list[ModuleType]:
        """The module of each other kernel."""
        return [loaded(x.text, x.name) for x in self.source.others]

    @functools.cached_property
    def _functions(self) -> dict[int, Any]:
        """The jitted function of each other kernel, by its units."""
        pairs = zip(self.source.others, self._modules, strict=True)
        return {x.tiling.units: getattr(module, x.name) for x, module in pairs}

    def _interpreted(self, args: list[Any], count: int, dtype: torch.dtype) -> None:
        constants = {"ROWS": ROWS, **self._constants(dtype), "PATIENCE": PATIENCE}

        def run(source: CooperativeSource, grid: int, given: list[Any]) -> None:
            interleaved.launch(self.function, (grid, source.loops), *given, **constants)

        self._all(self.source, args, count, dtype, self.source.each or ROWS, run)

    def _compiled(self, args: list[Any], count: int, dtype: torch.dtype, index: int) -> None:
        props = torch.cuda.get_device_properties(index)
        self.processors = props.multi_processor_count
        wanted = self.source.blocks * self.source.loops
        if wanted > self.processors:
            raise ValueError(
                f"the kernel {self.source.name} was planned for {wanted} "
                f"multiprocessors at once, {gpu(index)[0]} has {self.processors}: compile the "
                "model again on this device"
            )
        self.watchdog.check()
        units = self.source.tiling.units
        how = precision(dtype, self.float32)
        judged = GridLaunch(NAMES[dtype], how, ROWS, self.warps, units)
        judged = replace(judged, rows=self._rows_for(count, judged, gpu(index)[1]))
        run = functools.partial(self._launched, args, count, dtype)
        self._launched(args, count, dtype, self.tuner.choose(judged, count, index, run))

    def _launched(self, args: list[Any], count: int, dtype: torch.dtype, launch: Launch) -> None:
        """One way to run all rows."""
        units = getattr(launch, "units", 0)
        kernels = (self.source, *self.source.others)
        source = next((x for x in kernels if x.tiling.units == units), self.source)
        function = self.function if source is self.source else self._functions[units]
        options = {
            **self._options(launch, dtype),
            "PATIENCE": PATIENCE,
            "launch_cooperative_grid": True,
        }

        def run(source: CooperativeSource, grid: int, given: list[Any]) -> None:
            function[(grid, source.loops)](*given, **options)

        self._all(source, args, count, dtype, source.each or launch.rows, run)

    def _rows_for(self, count: int, launch: GridLaunch, target: str) -> int:
        """The fewest rows a program with which all run at once; else those of fewest launches."""
        most = self.processors // (self.source.blocks * self.source.loops)
        if self.source.each:
            return ROWS
        able = [r for r in TILE_ROWS if _fits(self.source, replace(launch, rows=r), target)] or [
            ROWS
        ]
        return next((r for r in able if -(-count // r) <= most), able[-1])

    def _all(
        self,
        source: CooperativeSource,
        args: list[Any],
        count: int,
        dtype: torch.dtype,
        rows: int,
        run: Run,
    ) -> None:
        """One launch, or several, each of as many tiles of rows as can run at once."""
        tensors, device = len(source.pointers), args[0].device
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        kinds = [(e.size, wide if e.wide else dtype) for e in source.exchanges]
        slots = [
            torch.empty([source.slots, count, size], dtype=k, device=device) for size, k in kinds
        ]
        stuck = torch.zeros(1, dtype=torch.int32, device=device)
        for begin, tiles in self._waves(count, rows, source.blocks * source.loops):
            arrived = torch.zeros(tiles * source.loops * APART, dtype=torch.int32, device=device)
            given = [*args[:tensors], *slots, arrived, stuck, *args[tensors:], begin]
            run(source, tiles * source.blocks, given)
        self.watchdog.follow(stuck)

    def _waves(self, count: int, rows: int, blocks: int) -> Iterator[tuple[int, int]]:
        """Where each launch begins, and how many tiles of rows it has."""
        tiles = -(-count // rows)
        most = max(1, self.processors // blocks)
        for first in range(0, tiles, most):
            yield first * rows, min(most, tiles - first)
