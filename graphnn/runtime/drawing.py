"""The scenes of modules, graphs and compiled models: these are traced, and planned if asked for."""

from __future__ import annotations

from torch import nn

from graphnn.frontend.graph import Graph
from graphnn.frontend.trace import trace
from graphnn.pictures.drawing import Unroll, graph_scene, made_scene
from graphnn.pictures.scenes.planned import planned
from graphnn.pictures.scenes.scene import Scene
from graphnn.planner.pipeline import checked
from graphnn.runtime.model import Compiled, compile, network_of


@made_scene.register(nn.Module)
@made_scene.register(Graph)
def _(source: nn.Module | Graph, unroll: Unroll, plan: bool) -> Scene:
    if plan:
        return _planned(compile(source))
    owner = source.owner if isinstance(source, Graph) else source
    return graph_scene(checked(trace(source).ir), owner, unroll)


@made_scene.register
def _(source: Compiled, unroll: Unroll, plan: bool) -> Scene:
    return _planned(source) if plan else graph_scene(source.ir, network_of(source).owner, unroll)


def _planned(model: Compiled) -> Scene:
    programs = {} if model.backend == "reference" else model.program().program_of
    return planned(model.plan, network_of(model).owner, programs)
