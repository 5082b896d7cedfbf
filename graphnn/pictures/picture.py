"""A picture of a network: it is saved in the format of a suffix, and shown in notebooks."""

from __future__ import annotations

import io
import os
import pathlib
import re
from typing import TYPE_CHECKING, Any

from graphnn.errors import PictureError
from graphnn.pictures.scenes.scene import Scene

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("svg", "png", "pdf")
Path = str | os.PathLike[str]


class Picture:
    """A scene drawn. In a notebook it shows itself.

    `scene` says what is in it, `layout` where; `save` writes it.
    """

    def __init__(self, scene: Scene):
        self.scene = scene
        engine = engines()
        from graphnn.pictures.layout.layout import layout

        self.layout = layout(scene, engine)

    def figure(self) -> Figure:
        """The picture as a figure of matplotlib."""
        from graphnn.pictures.render import figure

        return figure(self.layout)

    def save(self, path: Path, dpi: float = 144) -> None:
        """Write an SVG, PNG or PDF file, as the suffix says; `dpi` is of PNG.

        Raises PictureError for another suffix.
        """
        written(self.figure(), path, dpi)

    def svg(self) -> str:
        """The picture as the text of an SVG file."""
        return encoded(self.figure(), "svg").decode()

    def _repr_html_(self) -> str:
        svg = self.svg()
        return f'<div style="overflow-x: auto">{svg[svg.index("<svg") :]}</div>'

    def __repr__(self) -> str:
        boxes, edges = len(self.scene.boxes), len(self.scene.edges)
        return f"Picture of {self.scene.name}: {boxes} boxes, {edges} edges"


def written(figure: Figure, path: Path, dpi: float = 144) -> None:
    """Save a figure in the format that the path's suffix names."""
    kind = suffix(path)
    pathlib.Path(path).write_bytes(encoded(figure, kind, dpi))


def encoded(figure: Figure, kind: str, dpi: float = 144) -> bytes:
    """A figure as a file; the same bytes for the same figure."""
    import matplotlib

    out, dated = io.BytesIO(), {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    # text stays text in SVG: it can be searched, and is small
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "graphnn"}):
        figure.savefig(out, format=kind, dpi=dpi, metadata=dated.get(kind))
    if kind != "svg":
        return out.getvalue()
    # widths were measured in DejaVu Sans; Verdana has the same
    return re.sub(rb"'DejaVu Sans'(?!,)", b"'DejaVu Sans', Verdana, sans-serif", out.getvalue())


def suffix(path: Path) -> str:
    """The format that a path asks for. Raises PictureError for one that cannot be written."""
    kind = pathlib.Path(path).suffix.lower().removeprefix(".")
    if kind not in FORMATS:
        raise PictureError(
            "a picture cannot be saved in this format",
            got=f"'{os.fspath(path)}'",
            wanted=f"a file that ends in {', '.join(f'.{f}' for f in FORMATS)}",
            fix="change the suffix",
        )
    return kind


def engines() -> Any:
    """The module igraph, matplotlib being there too. Raises PictureError where one is missing."""
    try:
        import igraph
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise PictureError(
            "drawing needs matplotlib and igraph",
            got=str(error),
            wanted="both installed",
            fix="pip install 'graphnn[plot]'",
        ) from None
    return igraph
