"""Pictures of random graphs: they show the dependencies of the graph, and nothing overlaps."""

import itertools

import networkx as nx
from hypothesis import given, settings

import graphnn as gn
from graphnn.errors import AxisError
from graphnn.pictures import draw
from graphnn.pictures.scenes.build import build
from graphnn.pictures.scenes.regions import loop_nests
from graphnn.runtime.model import network_of
from tests.networks.graphs import Drawn, Recipe, recipes

SOURCES = ("input", "delay", "index", "random")


@given(recipes(most_steps=8))
@settings(max_examples=8)
def test_pictures_have_the_dependencies_of_the_graph(recipe: Recipe) -> None:
    model = gn.compile(Drawn(recipe))
    ir = model.ir
    scene = build(ir, network_of(model).owner, loop_nests(ir).get)
    graph = nx.DiGraph((i, node.id) for node in ir for i in node.inputs)
    graph.add_nodes_from(ir.nodes)
    home = {i: b.key for b in scene.boxes.values() if b.kind != "output" for i in b.nodes}
    for node in ir:
        if node.op in SOURCES:
            reached = {node.id, *nx.descendants(graph, node.id)}
            below = nx.descendants(scene.forward(), home[node.id])
            expected = {name for name, i in ir.outputs.items() if i in reached}
            assert expected == {
                scene.boxes[k].title for k in below if scene.boxes[k].kind == "output"
            }


@given(recipes(most_steps=6))
@settings(max_examples=4)
def test_nothing_overlaps(recipe: Recipe) -> None:
    model = gn.compile(Drawn(recipe))
    for options in ({}, {"unroll": 2}, {"plan": True}):
        try:
            layout = draw(model, **options).layout
        except AxisError:
            continue
        assert not any(a.meets(b) for a, b in itertools.combinations(layout.boxes.values(), 2))
        for edge, route in zip(layout.scene.edges, layout.routes, strict=True):
            for key, rect in layout.boxes.items():
                slack = 2.0 if key in (edge.source, edge.target) else 0.5
                assert not any(rect.holds(p, slack) for p in route.samples())
