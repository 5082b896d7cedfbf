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
    """A scene with a layout. A notebook shows it as SVG.

    `scene` holds the contents, `layout` the positions. `save` writes a file.

        gn.pictures.draw(gn.nn.RNN(3, 4)).save("rnn.svg")
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
        """Write an SVG, PNG or PDF file; the suffix gives the format. `dpi` applies to PNG.

        Raises PictureError if the suffix is another one.
        """
        save_figure(self.figure(), path, dpi)

    def svg(self) -> str:
        """The picture as the text of an SVG file."""
        return encode(self.figure(), "svg").decode()

    def _repr_html_(self) -> str:
        svg = self.svg()
        return f'<div style="overflow-x: auto">{svg[svg.index("<svg") :]}</div>'

    def __repr__(self) -> str:
        boxes, edges = len(self.scene.boxes), len(self.scene.edges)
        return f"Picture of {self.scene.name}: {boxes} boxes, {edges} edges"


def save_figure(figure: Figure, path: Path, dpi: float = 144) -> None:
    """Save a figure in the format that the suffix of the path names."""
    kind = format_of(path)
    pathlib.Path(path).write_bytes(encode(figure, kind, dpi))


def encode(figure: Figure, kind: str, dpi: float = 144) -> bytes:
    """A figure as the bytes of a file; equal figures give equal bytes."""
    import matplotlib

    out, dated = io.BytesIO(), {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    # text stays text in SVG: it can be searched, and is small
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "graphnn"}):
        figure.savefig(out, format=kind, dpi=dpi, metadata=dated.get(kind))
    if kind != "svg":
        return out.getvalue()
    # widths were measured in DejaVu Sans; Verdana has the same widths
    return re.sub(rb"'DejaVu Sans'(?!,)", b"'DejaVu Sans', Verdana, sans-serif", out.getvalue())


def format_of(path: Path) -> str:
    """The format that the suffix of a path names. Raises PictureError if it is unknown."""
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
    """The module igraph. Raises PictureError if it or matplotlib is not installed."""
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
