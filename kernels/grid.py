"""Launching a cooperative kernel: its exchanges, its counters, and rows enough to fill the GPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from . import together
from .cooperative import APART, Cooperative
from .forecast import DEVICES
from .launch import ROWS, Launcher
from .limits import PATIENCE, nearest
from .watchdog import Watchdog

# rows a program: more cost registers, and the more the fewer launches a large batch takes
TILES = (16, 32)


class GridLauncher(Launcher):
    """A cooperative kernel made callable, as `Launcher` is.

    All blocks of a launch run at the same time; a batch for which they would be too many is run as
    several launches. Raises ValueError, before any launch, where even one tile of rows has more
    blocks than the GPU has multiprocessors.
    """

    source: Cooperative

    def __init__(self, source: Cooperative, interpret: bool, warps: int = 8):
        super().__init__(source, interpret, warps)
        self._widest = max(self._widest, 2 * max(e.size for e in source.exchanges))
        self.watchdog = Watchdog(source.name)
        self.processors = DEVICES["sm_90"].processors

    def _interpreted(self, args: list[Any], count: int, dtype: torch.dtype) -> None:
        constants = {"ROWS": ROWS, **self._constants(dtype), "PATIENCE": PATIENCE}

        def run(grid: int, given: list[Any]) -> None:
            together.launch(self.function, (grid,), *given, **constants)

        self._all(args, count, dtype, ROWS, run)

    def _compiled(self, args: list[Any], count: int, dtype: torch.dtype, index: int) -> None:
        props = torch.cuda.get_device_properties(index)
        self.processors = props.multi_processor_count
        if self.source.blocks > self.processors:
            raise ValueError(
                f"the kernel {self.source.name} was planned for {self.source.blocks} "
                f"multiprocessors at once, {props.name} has {self.processors}: compile the model "
                "again on this device"
            )
        self.watchdog.check()
        rows = self._rows_for(count, nearest(props.major, props.minor))
        options = {
            **self._options_of(rows, dtype),
            "PATIENCE": PATIENCE,
            "launch_cooperative_grid": True,
        }

        def run(grid: int, given: list[Any]) -> None:
            self.function[(grid,)](*given, **options)

        self._all(args, count, dtype, rows, run)

    def _rows_for(self, count: int, target: str) -> int:
        """The fewest rows a program with which all run at once; else those of fewest launches."""
        most = self.processors // self.source.blocks
        return next((r for r in TILES if -(-count // r) <= most), TILES[-1])

    def _options_of(self, rows: int, dtype: torch.dtype) -> dict[str, Any]:
        from .fit import Launch
        from .launch import NAMES, precision

        return self._options(Launch(NAMES[dtype], precision(dtype), rows, self.warps), dtype)

    def _all(self, args: list[Any], count: int, dtype: torch.dtype, rows: int, run: Any) -> None:
        """One launch, or several, each of as many tiles of rows as can run at once."""
        tensors = len(self.source.pointers)
        device = args[0].device
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        kinds = [(e.size, wide if e.wide else dtype) for e in self.source.exchanges]
        slots = [torch.empty([2, count, size], dtype=k, device=device) for size, k in kinds]
        stuck = torch.zeros(1, dtype=torch.int32, device=device)
        for begin, tiles in self._waves(count, rows):
            arrived = torch.zeros(tiles * APART, dtype=torch.int32, device=device)
            given = [*args[:tensors], *slots, arrived, stuck, *args[tensors:], begin]
            run(tiles * self.source.blocks, given)
        self.watchdog.follow(stuck)

    def _waves(self, count: int, rows: int) -> Iterator[tuple[int, int]]:
        """Where each launch begins, and how many tiles of rows it has."""
        tiles = -(-count // rows)
        most = max(1, self.processors // self.source.blocks)
        for first in range(0, tiles, most):
            yield first * rows, min(most, tiles - first)
