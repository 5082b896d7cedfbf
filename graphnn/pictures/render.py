"""Draws a layout by matplotlib, without touching its global state."""

from __future__ import annotations

import colorsys
import math
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch, PathPatch, Polygon
from matplotlib.path import Path

from graphnn.kernels.ir.symbols import visible
from graphnn.pictures.layout.edges import Route
from graphnn.pictures.layout.layout import Layout, Rect
from graphnn.pictures.scenes.box_size import FONT, HEADING, SMALL, TITLE, leading, text_width
from graphnn.pictures.scenes.scene import Band, Box, Edge

INK, FAINT = "#1d2430", "#48505e"
FILL = {
    "input": "#e4e8ee",
    "output": "#e4e8ee",
    "math": "#ffffff",
    "parameter": "#fbf3d3",
    "delay": "#ffffff",
    "loop": "#fdeee6",
    "junction": "#ffffff",
}
LOOPS = ("#c0392b", "#1f6fb2", "#2e8b57", "#8e44ad", "#b8651b", "#117a8b", "#a3267c", "#5b6b1f")
BANDS = {"whole": "#f3f5f8", "loop": "#fdeee6"}


def figure(placed: Layout) -> Figure:
    """The picture as a matplotlib figure, at 72 points per inch."""
    width, height = placed.right - placed.left, placed.bottom
    drawn = Figure(figsize=(width / 72, height / 72))
    FigureCanvasAgg(drawn)
    axes = drawn.add_axes((0, 0, 1, 1))
    axes.set_xlim(placed.left, placed.right)
    axes.set_ylim(placed.bottom, 0)
    axes.set_axis_off()
    _Drawing(axes, placed).draw()
    return drawn


def module_colours(placed: Layout) -> dict[str, str]:
    """A colour for each module; neighbours differ clearly."""
    names = list(dict.fromkeys(b.shares for b in placed.scene.boxes.values() if b.shares))
    found = {}
    for n, name in enumerate(names):
        # steps of the golden ratio keep neighbours far apart in hue
        hue = (0.56 + 0.618034 * n) % 1
        red, green, blue = colorsys.hls_to_rgb(hue, 0.88 - 0.05 * (n % 3), 0.6)
        found[name] = f"#{int(red * 255):02x}{int(green * 255):02x}{int(blue * 255):02x}"
    return found


class _Drawing:
    def __init__(self, axes: Any, placed: Layout):
        self.axes, self.placed = axes, placed
        self.colours = module_colours(placed)
        self.marks: list[Rect] = []
        scene = placed.scene
        states = dict.fromkeys(e.state for e in scene.edges if e.state)
        self.loops = {s: LOOPS[n % len(LOOPS)] for n, s in enumerate(states)}
        self.loop_of = {e.target: self.loops[e.state] for e in scene.edges if e.state}

    def draw(self) -> None:
        for band, rect in self.placed.bands:
            self._band(band, rect)
        for text, rect in self.placed.headings:
            self._text(text, rect.x, rect.y, TITLE, INK, bold=True)
        scene = self.placed.scene
        for edge, route in zip(scene.edges, self.placed.routes):
            self._edge(edge, route)
        for key, box in scene.boxes.items():
            self._box(box, self.placed.boxes[key])

    def _text(
        self, text: str, x: float, y: float, size: float, colour: str, **options: Any
    ) -> None:
        weight = "bold" if options.pop("bold", False) else "normal"
        self.axes.text(
            x,
            y,
            visible(text),
            size=size,
            color=colour,
            family=FONT,
            weight=weight,
            parse_math=False,
            va="center",
            **{"ha": "center", "zorder": 5, **options},
        )

    def _band(self, band: Band, rect: Rect) -> None:
        loop = band.kind == "loop"
        self._round(rect, 6.0, BANDS[band.kind], "#e0a98c" if loop else "#d5dae2", 0.8, 0)
        left, top = rect.x - rect.width / 2 + 10, rect.y - rect.height / 2 + 10
        ink = "#9c4a21" if loop else FAINT
        # edges pass behind the text
        behind = {
            "bbox": {"facecolor": BANDS[band.kind], "edgecolor": "none", "pad": 1.0, "alpha": 0.8}
        }
        self._text(band.title, left, top, HEADING, ink, bold=True, ha="left", **behind)
        if band.detail:
            right = rect.x + rect.width / 2 - 10
            self._text(band.detail, right, top, SMALL, FAINT, ha="right", **behind)

    def _round(
        self, rect: Rect, radius: float, fill: str, rim: str, line: float, order: float
    ) -> None:
        corner = (rect.x - rect.width / 2, rect.y - rect.height / 2)
        style = f"round,pad=0,rounding_size={radius}"
        self.axes.add_patch(
            FancyBboxPatch(
                corner,
                rect.width,
                rect.height,
                boxstyle=style,
                facecolor=fill,
                edgecolor=rim,
                linewidth=line,
                zorder=order,
            )
        )

    def _box(self, box: Box, rect: Rect) -> None:
        pill = box.kind in ("input", "output", "parameter", "delay", "junction")
        rim = self.loop_of.get(box.key, INK if box.kind == "module" else "#8a93a1")
        fill = self.colours.get(box.shares) or FILL.get(box.kind, "#ffffff")
        radius = min(rect.height / 2, 14.0) if pill else 3.0
        self._round(rect, radius, fill, rim, 1.3 if box.key in self.loop_of else 0.9, 3)
        height = leading(TITLE) + leading(SMALL) * len(box.lines)
        y = rect.y - height / 2 + leading(TITLE) / 2
        ink = self.loop_of.get(box.key, INK)
        bold = box.kind != "math" or len(box.lines) > 1
        self._text(box.title, rect.x, y, TITLE, ink, bold=bold)
        y += leading(TITLE) / 2
        for line in box.lines:
            self._text(line, rect.x, y + leading(SMALL) / 2, SMALL, FAINT)
            y += leading(SMALL)

    def _edge(self, edge: Edge, route: Route) -> None:
        colour = self.loops.get(edge.state, "#3f4a59" if not edge.back else "#7a5c00")
        verts, codes = [route.begin], [Path.MOVETO]
        for stroke in route.strokes:
            verts += stroke.points
            codes += [Path.LINETO if len(stroke.points) == 1 else Path.CURVE4] * len(stroke.points)
        patch = PathPatch(
            Path(verts, codes),
            facecolor="none",
            edgecolor=colour,
            linewidth=1.5 if edge.state else 1.1,
            linestyle=(0, (3, 2)) if edge.start else "-",
            capstyle="butt",
            zorder=2,
        )
        self.axes.add_patch(patch)
        x, y = route.end
        tip = [(x, y), (x - 3.0, y - 6.5), (x + 3.0, y - 6.5)]
        self.axes.add_patch(Polygon(tip, closed=True, color=colour, linewidth=0, zorder=2.5))
        if edge.mark:
            self._mark(edge.mark, route, colour)
        if edge.leaves:
            self._number(edge.leaves, route.begin[0], route.begin[1] + 6.0, colour)
        if edge.enters:
            self._number(edge.enters, route.end[0], route.end[1] - 8.0, colour)

    def _number(self, n: int, x: float, y: float, colour: str) -> None:
        dot = Circle((x, y), 5.0, facecolor="white", edgecolor=colour, linewidth=0.8, zorder=4)
        self.axes.add_patch(dot)
        self._text(str(n), x, y, 6.5, colour, bold=True)

    def _mark(self, text: str, route: Route, colour: str) -> None:
        """Put the delay mark on the longest straight piece of its edge."""
        pieces = zip([route.begin, *(s.points[-1] for s in route.strokes)], route.strokes)
        straight = [(a, s.points[0]) for a, s in pieces if len(s.points) == 1]
        # horizontal pieces run close to other boxes
        upright = [(a, b) for a, b in straight if abs(a[1] - b[1]) > 26.0]
        a, b = max(upright or straight, key=lambda piece: math.dist(*piece))
        width = text_width(text, 8.0, True) + 7
        spots = [
            Rect(a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t, width, 13.0)
            for t in (0.5, 0.4, 0.6, 0.3, 0.7, 0.2, 0.8)
        ]
        rect = next((r for r in spots if not any(map(r.meets, self.marks))), spots[0])
        self.marks.append(rect)
        self._round(rect, 4.0, "#ffffff", colour, 1.0, 4)
        self._text(text, rect.x, rect.y, 8.0, colour, bold=True)
