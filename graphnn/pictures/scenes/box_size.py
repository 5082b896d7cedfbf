"""The size of a box that fits its text. All lengths are in points."""

from __future__ import annotations

import functools

from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

from graphnn.kernels.ir.symbols import visible
from graphnn.pictures.scenes.scene import Band, Box

FONT = "DejaVu Sans"
TITLE, HEADING, SMALL = 10.0, 9.0, 7.5
PAD = {"input": (11.0, 5.0), "output": (11.0, 5.0), "parameter": (11.0, 5.0), "delay": (8.0, 4.0)}


@functools.lru_cache(maxsize=4096)
def text_width(text: str, size: float, bold: bool = False) -> float:
    """The width of one line of text."""
    font = FontProperties(family=FONT, size=size, weight="bold" if bold else "normal")
    return float(text_to_path.get_text_width_height_descent(visible(text), font, False)[0])


def leading(size: float) -> float:
    """The height of one line of text."""
    return size * 1.32


def box_size(box: Box) -> tuple[float, float]:
    """Width and height of a box around its title and lines."""
    across, down = PAD.get(box.kind, (9.0, 5.0))
    bold = box.kind != "math" or len(box.lines) > 1
    widths = [text_width(box.title, TITLE, bold), *(text_width(x, SMALL) for x in box.lines)]
    height = leading(TITLE) + leading(SMALL) * len(box.lines)
    return max(max(widths) + 2 * across, 30.0), height + 2 * down


def head_width(band: Band) -> float:
    """The width of the text at the head of a band."""
    return text_width(band.title, HEADING, True) + text_width(band.detail, SMALL) + 40.0
