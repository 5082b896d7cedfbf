"""Pictures of graphs nobody wrote: they show the graph's own flow, and nothing lies on another."""

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
def test_what_reaches_an_output_in_the_graph_does_in_the_picture(recipe: Recipe) -> None:
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
            wanted = {name for name, i in ir.outputs.items() if i in reached}
            assert wanted == {
                scene.boxes[k].title for k in below if scene.boxes[k].kind == "output"
            }


@given(recipes(most_steps=6))
@settings(max_examples=4)
def test_nothing_lies_on_another(recipe: Recipe) -> None:
    model = gn.compile(Drawn(recipe))
    for how in ({}, {"unroll": 2}, {"plan": True}):
        try:
            made = draw(model, **how).layout
        except AxisError:
            continue
        assert not any(a.meets(b) for a, b in itertools.combinations(made.boxes.values(), 2))
        for edge, route in zip(made.scene.edges, made.routes, strict=True):
            for key, rect in made.boxes.items():
                slack = 2.0 if key in (edge.source, edge.target) else 0.5
                assert not any(rect.holds(p, slack) for p in route.samples())
