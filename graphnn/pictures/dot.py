"""A network as the text of a graph language: Graphviz (`to_dot`) or Mermaid (`to_mermaid`).

Both need neither matplotlib nor igraph. GitHub and many notebooks render Mermaid; the program `dot`
of Graphviz renders the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from graphnn.pictures.drawing import Unroll, scene_of
from graphnn.pictures.scenes.scene import Box, Edge, Key, Scene

SHAPES = {
    "input": "oval",
    "output": "oval",
    "parameter": "note",
    "delay": "oval",
    "junction": "point",
}
# the brackets around a label, which give a Mermaid node its shape
BRACKETS = {
    "input": ("([", "])"),
    "output": ("([", "])"),
    "delay": ("([", "])"),
    "parameter": ("[/", "/]"),
    "junction": ("((", "))"),
}
# what a Mermaid label cannot hold as it is; "#" first, as the codes contain it
MERMAID = {"#": "#35;", '"': "#quot;", "<": "#lt;", ">": "#gt;", "`": "#96;", "\\": "#92;"}


def to_dot(source: Any, unroll: Unroll = None, plan: bool = False) -> str:
    """The picture of a network as a Graphviz graph.

    `source`, `unroll` and `plan` are those of `draw`. Bands of a plan become clusters; edges that
    close a loop are drawn without weight in the ranking, with the delay as their label. Raises
    AxisError if the graph does not have the axis to unroll.

        text = gn.pictures.to_dot(gn.nn.RNN(3, 4))
        pathlib.Path("rnn.dot").write_text(text)  # then: dot -Tsvg rnn.dot
    """
    scene = scene_of(source, unroll, plan)
    name = _names(scene)
    lines = [f"digraph {_quoted(scene.name)} {{", '  node [fontname="DejaVu Sans", shape=box];']
    for title, boxes in _groups(scene):
        indent = "    " if title else "  "
        rows = [f"{indent}{name[b.key]} [{_dot_box(b)}];" for b in boxes]
        if title:
            head = f"  subgraph cluster_{boxes[0].band} {{\n    label={_quoted(title)};"
            rows = [head, *rows, "  }"]
        lines += rows
    lines += [f"  {name[e.source]} -> {name[e.target]}{_dot_edge(e)};" for e in scene.edges]
    return "\n".join([*lines, "}"]) + "\n"


def to_mermaid(source: Any, unroll: Unroll = None, plan: bool = False) -> str:
    """The picture of a network as a Mermaid flowchart.

    `source`, `unroll` and `plan` are those of `draw`. Bands of a plan become subgraphs; edges that
    close a loop are dashed, with the delay as their label. Raises AxisError if the graph does not
    have the axis to unroll.

        print(gn.pictures.to_mermaid(gn.nn.RNN(3, 4)))
    """
    scene = scene_of(source, unroll, plan)
    name = _names(scene)
    lines = ["flowchart TB"]
    for title, boxes in _groups(scene):
        rows = [f"  {name[b.key]}{_mermaid_box(b)}" for b in boxes]
        if title:
            rows = [f'  subgraph band{boxes[0].band}["{_escaped(title)}"]', *rows, "  end"]
        lines += rows
    lines += [f"  {name[e.source]} {_mermaid_arrow(e)} {name[e.target]}" for e in scene.edges]
    return "\n".join(lines) + "\n"


def _names(scene: Scene) -> dict[Key, str]:
    return {key: f"n{n}" for n, key in enumerate(scene.boxes)}


def _groups(scene: Scene) -> Iterator[tuple[str, list[Box]]]:
    """The boxes of each band under its title; all of them, without a title, if there is no band."""
    boxes = list(scene.boxes.values())
    if not scene.bands:
        yield "", boxes
        return
    for n, band in enumerate(scene.bands):
        inside = [b for b in boxes if b.band == n]
        if inside:
            yield ": ".join(x for x in (band.title, band.detail) if x), inside


def _dot_box(box: Box) -> str:
    shape = SHAPES.get(box.kind, "box")
    place = "xlabel" if shape == "point" else "label"
    return f"shape={shape}, {place}={_quoted(_label(box))}"


def _dot_edge(edge: Edge) -> str:
    found = [f"label={_quoted(edge.mark)}"] if edge.mark else []
    found += ["constraint=false"] if edge.back else []
    found += ["style=dashed"] if edge.start else []
    return f" [{', '.join(found)}]" if found else ""


def _mermaid_box(box: Box) -> str:
    left, right = BRACKETS.get(box.kind, ("[", "]"))
    return f'{left}"{_escaped(_label(box)).replace(chr(10), "<br/>")}"{right}'


def _mermaid_arrow(edge: Edge) -> str:
    arrow = "-.->" if edge.back or edge.start else "-->"
    return f'{arrow}|"{_escaped(edge.mark)}"|' if edge.mark else arrow


def _label(box: Box) -> str:
    return "\n".join([box.title, *box.lines])


def _quoted(text: str) -> str:
    """A string of the DOT language: only quotes and backslashes mean anything in it."""
    plain = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{plain}"'


def _escaped(text: str) -> str:
    for mark, code in MERMAID.items():
        text = text.replace(mark, code)
    return text
