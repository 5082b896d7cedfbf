"""Launch a cooperative kernel: exchange buffers, counters, and enough rows to fill the GPU."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import torch

from ..cooperative.codegen.emit import COUNTER_STRIDE, CooperativeSource
from ..executors.executor import Executor, GpuInfo, KernelLaunch
from ..feasibility.fit import Launch, uses_multiply_adds
from ..feasibility.limits import PATIENCE, TILE_ROWS
from ..feasibility.targets import shared_memory_of
from ..notice import compiling
from ..rules.table import loaded
from ..select.autotune import Autotuner
from ..select.gpu_timer import time_on_gpu
from ..select.race import RaceTimer
from ..select.search import shared_memory
from ..trust.rehearsal import chosen_for
from .launch import DTYPE_NAMES, MIN_ROWS, Launcher, input_precision
from .watchdog import Watchdog


@dataclass(frozen=True)
class CooperativeLaunch(Launch):
    """A launch of the kernel whose blocks have `units` units each."""

    units: int = 0


class CooperativeTuner(Autotuner):
    """Chooses among a cooperative kernel, its alternatives, and their rows per program."""

    def __init__(
        self, source: CooperativeSource, executor: Executor, timer: RaceTimer = time_on_gpu
    ):
        super().__init__(source, executor, timer)
        self.kernels = (source, *source.others)

    def candidates(self, judged: Launch, target: str, rows: int) -> list[Launch]:
        """Return the launches of all kernels whose tiles fit; the first is the one judged."""
        found: list[Launch] = [judged]
        if uses_multiply_adds(
            judged, target
        ):  # others were not compiled, which may crash the process
            return found
        for source in self.kernels:
            for tile in TILE_ROWS[: 1 if source.owned_rows else None]:
                launch = CooperativeLaunch(
                    judged.dtype, judged.precision, tile, judged.warps, source.tiling.units
                )
                new = launch != judged and tile <= max(TILE_ROWS[0], rows)
                if new and _fits(source, launch, target):
                    found.append(launch)
        return found


def _fits(source: CooperativeSource, launch: Launch, target: str) -> bool:
    """Return whether a block's weights and operands fit its shared memory."""
    return shared_memory(source, launch) <= shared_memory_of(target)


class CooperativeLauncher(Launcher):
    """A callable cooperative kernel, used like `Launcher`.

    All blocks of a launch run at the same time. A batch that needs more blocks is run as several
    launches. Calls raise ValueError, before any launch, if even one tile of rows needs more blocks
    than the GPU has multiprocessors.
    """

    source: CooperativeSource

    def __init__(
        self,
        source: CooperativeSource,
        executor: Executor,
        warps: int = 8,
        float32: str | None = None,
    ):
        super().__init__(source, executor, warps, float32)
        self.tuner = CooperativeTuner(source, executor)
        self._widest = max(
            self._widest, source.slots * max((e.size for e in source.exchanges), default=1)
        )
        self.watchdog = Watchdog(source.name)

    @functools.cached_property
    def _modules(self) -> list[ModuleType]:
        """The modules of the alternative kernels."""
        return [loaded(x.text, x.name) for x in self.source.others]

    @functools.cached_property
    def _functions(self) -> dict[int, Any]:
        """The jitted functions of the alternative kernels, by their units per block."""
        pairs = zip(self.source.others, self._modules, strict=True)
        return {x.tiling.units: getattr(module, x.name) for x, module in pairs}

    def _launch(self, args: list[Any], count: int, dtype: torch.dtype, index: int) -> None:
        gpu = self.executor.gpu(index)
        units = self.source.tiling.units
        precision = input_precision(dtype, self.float32)
        judged = CooperativeLaunch(DTYPE_NAMES[dtype], precision, MIN_ROWS, self.warps, units)
        run = functools.partial(self._launched, args, count, dtype, gpu.processors)
        if self.executor.interprets:
            run(judged)
            return
        needed = self.source.blocks * self.source.loops
        if needed > gpu.processors:
            raise ValueError(
                f"the kernel {self.source.name} was planned for {needed} multiprocessors, but "
                f"{gpu.name} has {gpu.processors}: compile the model again on this device"
            )
        chosen = chosen_for(self._rows, count)
        judged = replace(judged, rows=self._rows_for(chosen, judged, gpu))
        known = self.tuner.known(judged, chosen, index)
        if known is not None:
            run(known)
            return

        def prepare(launches: Sequence[Launch]) -> None:
            made = functools.partial(self._kernels, args, count, dtype, gpu.processors)
            self.executor.prepare([next(made(x)) for x in launches])

        outs = [args[k] for k in self._outputs]
        with compiling(self.source.name):
            run(self.tuner.choose(judged, chosen, index, run, outs, prepare))

    def _launched(
        self, args: list[Any], count: int, dtype: torch.dtype, processors: int, launch: Launch
    ) -> None:
        """Run all rows with one launch configuration, on a GPU of `processors`."""
        for kernel in self._kernels(args, count, dtype, processors, launch):
            self.executor.launch(kernel)

    def _kernels(
        self, args: list[Any], count: int, dtype: torch.dtype, processors: int, launch: Launch
    ) -> Iterator[KernelLaunch]:
        """Yield the launches that run all rows with one configuration."""
        units = getattr(launch, "units", 0)
        kernels = (self.source, *self.source.others)
        source = next((x for x in kernels if x.tiling.units == units), self.source)
        function = self.function if source is self.source else self._functions[units]
        rows = source.owned_rows or launch.rows
        constants = {"ROWS": launch.rows, **self._constants(dtype), "PATIENCE": PATIENCE}
        options = {**self._options(launch), "launch_cooperative_grid": True}
        if self.executor.interprets:
            options = {}
        outputs, scratch = self._outputs, self._scratch(source)
        for grid, given in self._waves(source, args, count, dtype, rows, processors):
            yield KernelLaunch(
                *(function, grid, given, constants, options, outputs, scratch),
                together=True,
                family="cooperative loop",
            )

    def _scratch(self, source: CooperativeSource) -> range:
        """Return the positions of exchange buffers and counters among the arguments."""
        first = len(source.pointers)
        return range(first, first + len(source.exchanges) + 2)

    def _rows_for(self, count: int, launch: CooperativeLaunch, gpu: GpuInfo) -> int:
        """Return the fewest rows per program with which all tiles run at once.

        If there is no such number, returns the one that needs the fewest launches.
        """
        most = gpu.processors // (self.source.blocks * self.source.loops)
        if self.source.owned_rows:
            return MIN_ROWS
        tiles: Sequence[int] = (MIN_ROWS,) if uses_multiply_adds(launch, gpu.target) else TILE_ROWS
        tiles = [r for r in tiles if r <= self.tuner.most_rows]
        able = [r for r in tiles if _fits(self.source, replace(launch, rows=r), gpu.target)]
        able = able or [MIN_ROWS]
        return next((r for r in able if -(-count // r) <= most), able[-1])

    def _waves(
        self,
        source: CooperativeSource,
        args: list[Any],
        count: int,
        dtype: torch.dtype,
        rows: int,
        processors: int,
    ) -> Iterator[tuple[tuple[int, int], list[Any]]]:
        """Yield grid and arguments of each launch; each has as many tiles as can run at once."""
        tensors, device = len(source.pointers), args[0].device
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        kinds = [(e.size, wide if e.wide else dtype) for e in source.exchanges]
        slots = [
            torch.empty([source.slots, count, size], dtype=k, device=device) for size, k in kinds
        ]
        stuck = self.watchdog.flag(device)
        tiles = -(-count // rows)
        most = max(1, processors // (source.blocks * source.loops))
        for first in range(0, tiles, most):
            now = min(most, tiles - first)
            arrived = torch.zeros(
                now * source.loops * COUNTER_STRIDE, dtype=torch.int32, device=device
            )
            given = [*args[:tensors], *slots, arrived, stuck, *args[tensors:], first * rows]
            yield (now * source.blocks, source.loops), given
        self.watchdog.look(stuck)
