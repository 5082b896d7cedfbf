"""The contexts of passes: what each stage knows in addition to the graph, and what it records.

A pass takes a graph and a context, and returns a graph. Facts outside the graph, such as
decisions, notes or the order of its regions, are fields of the context.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import nn

from graphnn.ir.graph import IR
from graphnn.planner.attention.attend import Note
from graphnn.planner.attention.hops import Hops
from graphnn.planner.attention.tiles import AttentionRegion
from graphnn.planner.autodiff.hops import Backward
from graphnn.planner.autodiff.loops import Derived
from graphnn.planner.boundary.invariants import InvariantSplit
from graphnn.planner.boundary.step_graph import Cache
from graphnn.planner.core.loop_graph import LoopIR
from graphnn.planner.core.regions import Loop, Whole
from graphnn.planner.loops.choose import Decision
from graphnn.planner.loops.side_by_side import Part, as_one
from graphnn.planner.loops.stacked import Weigh
from graphnn.planner.loops.torch_layers import Match

if TYPE_CHECKING:
    from graphnn.planner.pipeline import Variant


@dataclass(kw_only=True)
class Context:
    """`passes` are the switches that are on; `title` names the graph in traces of passes."""

    passes: frozenset[str] = frozenset()
    title: str = ""


@dataclass(kw_only=True)
class TraceContext(Context):
    """A traced graph, in the floating dtype that the parameters of its `owner` have by now."""

    floating: torch.dtype
    owner: nn.Module


@dataclass(kw_only=True)
class CallContext(Context):
    """The graph of one kind of call. `carried` are the delays whose final values it may return."""

    variant: Variant
    carried: Sequence[int] = ()
    notes: list[Note] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    matches: dict[int, Match] = field(default_factory=dict)  # by the first state of their loops


@dataclass(kw_only=True)
class PartsContext(Context):
    """The context of passes that order the regions of a graph, its `parts`.

    With `kernels`, several loops may run as one kernel. For loops that feed each other, `together`
    returns whether that is faster.
    """

    kernels: bool = False
    together: Weigh | None = None
    parts: list[Part] = field(default_factory=list)


@dataclass(kw_only=True)
class ProgramContext(PartsContext):
    """A planned graph, before its loops are cut out. `order` is the user's order of axes; with
    `recompute`, noise is drawn again from a seed instead of being stored."""

    order: Sequence[str]
    recompute: bool

    def loops(self) -> list[Loop]:
        """The loops among the parts; those that run as one are one loop."""
        return [as_one(part) for part in self.parts if not isinstance(part, Whole)]


@dataclass(kw_only=True)
class LoopContext(Context):
    """A loop to cut out of its graph, `whole`. Values of the nodes `outside` are read after it, and
    `results` are those of the whole graph; with `sorted_rows` it runs on examples sorted by length.

    `absorbed` are the nodes before the loop that move into it, `cut` is the loop cut out.
    """

    whole: IR
    loop: Loop
    outside: set[int]
    results: set[int]
    sorted_rows: bool
    absorbed: list[int] = field(default_factory=list)
    cut: LoopIR | None = None


@dataclass(kw_only=True)
class DeriveContext(Context):
    """The gradients of `loop` with respect to the values `wanted` that it reads.

    `recompute`: pointwise values are recomputed instead of saved (True), never (False), or (None)
    those that `kernels` recompute faster than they load them. `saved` are the values that the
    forward already returned, or None if it returns all values that the backward needs.
    """

    loop: LoopIR
    wanted: Collection[int]
    recompute: bool | None
    kernels: bool
    saved: Collection[int] | None
    again: frozenset[int] = frozenset()
    derived: Derived | None = None

    @property
    def gradients(self) -> Derived:
        """The derived graph, which the first pass of the stage makes."""
        assert self.derived is not None
        return self.derived


@dataclass(kw_only=True)
class BackwardContext(Context):
    """A derived graph. `further`: it will be differentiated in turn."""

    further: bool = False


@dataclass(kw_only=True)
class AttentionContext(Context):
    """The gradients of one attention, or of hops, with respect to the reads `wanted`.

    `results` are the results that have a gradient; `derived` is found of an attention, `hops` of
    hops.
    """

    part: AttentionRegion | Hops
    wanted: Sequence[int]
    results: Sequence[int]
    derived: Derived | None = None
    hops: Backward | None = None


@dataclass(kw_only=True)
class StepContext(Context):
    """A graph that is streamed along `axis`: its loop-invariant part `cut` off, and the `caches`
    of one step."""

    axis: str
    cut: InvariantSplit | None = None
    caches: list[Cache] = field(default_factory=list)
