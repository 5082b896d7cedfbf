"""The kernel being written, where many thread blocks share one loop."""

from __future__ import annotations

from .layout import Layout
from .page import Page
from .share import Shared


class Sheet(Page):
    """A page of a shared program. `streamed` counts the numbers of weights loaded at each step."""

    def __init__(self, shared: Shared, ahead: bool, layout: Layout):
        super().__init__(shared.program, ahead=ahead, layout=layout)
        self.shared = shared
        for name in ("share", "tile", "begin", "alone", "turn", "soon", "arrived", "trust"):
            self.names.taken.add(name)
        self.exchanged = {e.name: self.names.fresh(f"{e.name}_ptr") for e in shared.exchanges}
        self.lines: dict[tuple[str, int, int], tuple[str, str]] = {}
        self.streamed = 0

    def deep(self, count: int, each: int, what: str) -> str:
        """0, 1, 2 … where `count` warps split the columns of an "operand", or a "weight"'s rows."""
        shape = "[None, None, :]" if what == "operand" else "[None, :, None]"
        key = (what, count, each)
        if key not in self.lines:
            name = self.names.fresh(f"{what}_{count * each}")
            text = f"tl.arange(0, {count})[:, None, None] * {each} + tl.arange(0, {each}){shape}"
            self.lines[key] = name, f"{name} = {text}"
        return self.lines[key][0]
