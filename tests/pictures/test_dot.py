"""DOT and Mermaid: every box and edge of the scene is present, and names are escaped."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from torch import nn

import graphnn as gn
from graphnn import errors
from graphnn.pictures import to_dot, to_mermaid
from graphnn.pictures.drawing import scene_of
from tests.pictures.networks import ALL, Elman, Siamese

# the Siamese network has no axis to unroll
CASES = [
    pytest.param(network, options, id=f"{network.__name__}-{name}")
    for name, options in (("graph", {}), ("unrolled", {"unroll": 2}), ("plan", {"plan": True}))
    for network in ALL
    if not (network is Siamese and "unroll" in options)
]


@pytest.mark.parametrize(("network", "options"), CASES)
def test_every_box_and_edge_is_in_the_text(network, options):
    net = network()
    options = {"unroll": None, "plan": False, **options}
    scene = scene_of(net, **options)
    dot, mermaid = to_dot(net, **options), to_mermaid(net, **options)
    assert len(re.findall(r"^ +n\d+ \[", dot, re.M)) == len(scene.boxes)
    assert len(re.findall(r"^  n\d+ -> n\d+", dot, re.M)) == len(scene.edges)
    assert len(re.findall(r'^  n\d+[\[({/]+"', mermaid, re.M)) == len(scene.boxes)
    assert len(re.findall(r"^  n\d+ (?:-->|-\.->)", mermaid, re.M)) == len(scene.edges)
    assert dot.count("{") == dot.count("}")


def test_loop_edges_show_the_delay():
    assert 'label="z⁻¹", constraint=false' in to_dot(Elman())
    assert '-.->|"z⁻¹"|' in to_mermaid(Elman())


class Hostile(nn.Module):
    def __init__(self, name: str):
        super().__init__()
        self.name = name

    def graph(self, g):
        x = g.input(self.name, (3,), over="time")
        g.output("y", x * 2)


@pytest.mark.parametrize("name", ['a"];evil -> b', 'x"]:::y', "back\\slash", "<b>&#35;`", "a\nb"])
def test_names_are_escaped(name):
    dot, mermaid = to_dot(Hostile(name)), to_mermaid(Hostile(name))
    quoted = r'"(?:[^"\\\n]|\\.)*"'
    assert "evil" not in re.sub(quoted, "", dot)
    assert not set(re.sub(quoted, "", dot)) & {'"', "\\"}
    assert all(line.count('"') in (0, 2) for line in mermaid.splitlines())


def test_an_unknown_axis_is_an_error():
    with pytest.raises(errors.AxisError, match="cannot be drawn unrolled"):
        to_dot(Elman(), unroll={"space": 2})


def test_neither_matplotlib_nor_igraph_is_needed():
    code = (
        "import sys\n"
        "sys.modules['matplotlib'] = sys.modules['igraph'] = None\n"
        "import graphnn as gn\n"
        "print(gn.pictures.to_dot(gn.nn.RNN(3, 4)), gn.pictures.to_mermaid(gn.nn.RNN(3, 4)))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "digraph" in run.stdout
    assert "flowchart TB" in run.stdout


def test_the_public_names():
    assert gn.pictures.to_dot is to_dot
    assert gn.pictures.to_mermaid is to_mermaid
