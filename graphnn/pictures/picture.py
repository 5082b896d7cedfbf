"""A picture of a network: made by `draw`, saved by suffix, shown in notebooks."""

from __future__ import annotations

import io
import os
import pathlib
import re
from typing import TYPE_CHECKING, Any

from torch import nn

from graphnn.errors import AxisError, PictureError
from graphnn.frontend.graph import Graph
from graphnn.frontend.trace import trace
from graphnn.ir.graph import BATCH, IR
from graphnn.pictures.scenes.build import Builder, build
from graphnn.pictures.scenes.regions import nests
from graphnn.pictures.scenes.scene import Scene
from graphnn.pictures.scenes.shared_modules import share
from graphnn.pictures.scenes.unrolled import unrolled
from graphnn.planner.boundary.check import check
from graphnn.planner.core.regions import loops, partition
from graphnn.planner.pipeline import Variant
from graphnn.runtime.model import Compiled, compile

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


def draw(
    source: nn.Module | Graph | Compiled,
    path: Path | None = None,
    unroll: int | dict[str, int] | None = None,
    plan: bool = False,
) -> Picture:
    """A picture of a network: its graph, with loops as loops and their delays marked.

    `unroll` draws so many steps side by side, over the first loop's axis or, given as
    {"time": 3}, over that one; {"source": 3, "target": 3} draws an encoder's steps and, to their
    right, a decoder's. `plan` draws what runs before, in and after each loop, and in which
    kernel. With a `path` the picture is saved as well. Raises PictureError for a path of another
    format, for both at once, and where matplotlib or igraph is missing; AxisError for an axis that
    the graph does not have.
    """
    if path is not None:
        suffix(path)
    if plan and unroll is not None:
        raise PictureError(
            "a plan is not unrolled",
            got=f"plan=True and unroll={unroll}",
            wanted="one of them: a plan is the same for every length",
            fix="draw two pictures",
        )
    engines()
    picture = Picture(_planned(source) if plan else _drawn(source, unroll))
    if path is not None:
        picture.save(path)
    return picture


def _drawn(source: nn.Module | Graph | Compiled, unroll: int | dict[str, int] | None) -> Scene:
    if isinstance(source, Compiled):
        ir, owner = source.ir, source._owner
    else:
        ir = check(trace(source).ir)
        owner = source.owner if isinstance(source, Graph) else source
    nest = nests(ir)
    place = nest.get
    if unroll is None:
        copies = {n.id: n.name.rpartition("[")[2] for n in ir if n.name.endswith("]")}
        if copies:
            # of `gn.unroll`: its copies stay apart
            made = Builder(ir, owner, lambda i: (nest.get(i), copies.get(i)), apart=True)
            return made.run()
        return share(build(ir, owner, place))
    steps = _steps(ir, unroll)
    return unrolled(build(ir, owner, place, steps), ir, steps)


def _steps(ir: IR, unroll: Any) -> dict[str, int]:
    axes = [a for a in ir.axes if a != BATCH]
    looped = [loop.axis for loop in loops(partition(ir))] or axes
    steps: dict[str, int] = unroll if isinstance(unroll, dict) else {(*looped, "")[0]: unroll}
    whole = all(type(n) is int and n >= 1 for n in steps.values())
    if not steps or not whole or set(steps) - set(axes):
        raise AxisError(
            f"'{ir.name}' cannot be drawn unrolled",
            got=f"unroll={unroll!r}",
            wanted=f"a number of steps, or {{axis: steps}} with axes among {axes}",
            fix="unroll=3",
        )
    return steps


def _planned(source: nn.Module | Graph | Compiled) -> Scene:
    from graphnn.pictures.scenes.planned import planned

    model = source if isinstance(source, Compiled) else compile(source)
    variant = Variant(target=model._here())
    reference = model.backend == "reference"
    programs = {} if reference else model._program(variant).program_of
    return planned(model.plan, model._owner, programs)


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
