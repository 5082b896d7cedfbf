"""`draw`: the picture of a network, for every kind of source that has a scene.

`scene_of` makes the scene of a source. This module registers graphs of the IR and plans; modules,
`Graph` and compiled models are registered by `graphnn.runtime.drawing`.
"""

from __future__ import annotations

import functools
from typing import Any

from torch import nn

from graphnn.errors import AxisError, PictureError
from graphnn.ir.graph import BATCH, IR
from graphnn.pictures.picture import Path, Picture, engines, format_of
from graphnn.pictures.scenes.build import Builder, build
from graphnn.pictures.scenes.planned import planned
from graphnn.pictures.scenes.regions import loop_nests
from graphnn.pictures.scenes.scene import Scene
from graphnn.pictures.scenes.shared_modules import merge_calls
from graphnn.pictures.scenes.unrolled import unrolled
from graphnn.pictures.sources import import_registered
from graphnn.planner.core.regions import loops, partition
from graphnn.planner.pipeline import Plan

Unroll = int | dict[str, int] | None


def draw(
    source: Any, path: Path | None = None, unroll: Unroll = None, plan: bool = False
) -> Picture:
    """A picture of a network: its graph, with loops as loops and their delays marked.

    `source` is an nn.Module with a `graph(self, g)` method, a `gn.Graph` or a compiled model.
    `unroll` draws that many steps side by side, over the first loop's axis or, if given as
    {"time": 3}, over that one; {"source": 3, "target": 3} draws an encoder's steps and, to their
    right, a decoder's. `plan` draws what runs before, in and after each loop, and in which
    kernel. If `path` is given, the picture is saved there as well.

    Raises PictureError if the path has another suffix than .svg, .png or .pdf, if both `unroll`
    and `plan` are given, or if matplotlib or igraph is missing; AxisError if the graph does not
    have the axis to unroll.

        gn.pictures.draw(gn.nn.RNN(3, 4), "rnn.svg")
        gn.pictures.draw(gn.nn.RNN(3, 4), unroll=3)
    """
    if path is not None:
        format_of(path)
    if plan and unroll is not None:
        raise PictureError(
            "a plan is not unrolled",
            got=f"plan=True and unroll={unroll}",
            wanted="one of them: a plan is the same for every length",
            fix="draw two pictures",
        )
    engines()
    picture = Picture(scene_of(source, unroll, plan))
    if path is not None:
        picture.save(path)
    return picture


def scene_of(source: Any, unroll: Unroll, plan: bool) -> Scene:
    """The scene of a source: of its graph, unrolled or not, or of its plan."""
    import_registered()
    return made_scene(source, unroll, plan)


@functools.singledispatch
def made_scene(source: Any, unroll: Unroll, plan: bool) -> Scene:
    """The scene of a source, for each type of source that is registered."""
    raise PictureError(
        f"{type(source).__name__} cannot be drawn",
        got=repr(source),
        wanted="a module with a graph(self, g) method, a graphnn.Graph, or a compiled model",
        fix="give the network itself",
    )


@made_scene.register
def _(source: IR, unroll: Unroll, plan: bool) -> Scene:
    if plan:
        raise PictureError(
            "an IR has no plan to draw",
            got="plan=True",
            wanted="a Plan, a module, a graphnn.Graph or a compiled model",
            fix="plan it first: graphnn.planner.pipeline.plan(ir)",
        )
    return graph_scene(source, nn.Module(), unroll)


@made_scene.register
def _(source: Plan, unroll: Unroll, plan: bool) -> Scene:
    return planned(source, nn.Module(), {})


def graph_scene(ir: IR, owner: nn.Module, unroll: Unroll) -> Scene:
    """The scene of a checked graph whose parameters belong to `owner`."""
    nest = loop_nests(ir)
    if unroll is None:
        copies = {n.id: n.name.rpartition("[")[2] for n in ir if n.name.endswith("]")}
        if copies:
            # the copies that `gn.unroll` made stay separate
            made = Builder(ir, owner, lambda i: (nest.get(i), copies.get(i)), separate=True)
            return made.run()
        return merge_calls(build(ir, owner, nest.get))
    steps = _steps(ir, unroll)
    return unrolled(build(ir, owner, nest.get, steps), ir, steps)


def _steps(ir: IR, unroll: Any) -> dict[str, int]:
    """The number of steps to draw for each axis. Raises AxisError if there is no such axis."""
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
