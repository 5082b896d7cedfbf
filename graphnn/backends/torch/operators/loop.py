"""The generated functions of a loop: its forward, its backward, and its transforms.

Derivatives of derivatives, tangents, and the loop under torch.vmap are loops again, with operators
of their own (`derivative`, `tangent`, `mapped`): see `transforms`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from graphnn.backends.torch.codegen.function import write
from graphnn.backends.torch.codegen.lowering import Function, Lowering
from graphnn.backends.torch.codegen.scope import RESERVED, Ends
from graphnn.backends.torch.runtime import registry
from graphnn.backends.torch.runtime.active_transforms import outside_transforms
from graphnn.ir.graph import IR
from graphnn.kernels.ir.symbols import NameTable, entry
from graphnn.ops.builder import const
from graphnn.ops.custom_gradient import values_alone
from graphnn.planner.autodiff.loops import Derived
from graphnn.planner.autodiff.transforms import (
    backward_loop,
    floating,
    mapped,
    tangents,
    without_clipping,
)
from graphnn.planner.contexts import BackwardContext, DeriveContext
from graphnn.planner.core.gradient_paths import between
from graphnn.planner.core.loop_graph import LoopIR
from graphnn.planner.pipeline import Stage, run

# suffixes of the names of a loop's functions
SUFFIXES = ("_saving", "_backward")


class LoopOperator:
    """A loop's generated functions: forward, forward that saves for the backward, backward.

    `passes` are the switches for the derived graph, as for the graph itself; `lowering` turns loops
    into kernels. If `ordered`, examples come sorted by length, the longest first; positions beyond
    their ends repeat the last step if `held`, and are zero otherwise. `recompute`: the backward
    computes pointwise values again (True), none of them (False), or those that are cheaper for
    kernels to compute than to load (None). `names` holds the function names in use.
    """

    def __init__(
        self,
        loop: LoopIR,
        passes: frozenset[str],
        recompute: bool | None = None,
        lowering: Lowering | None = None,
        ordered: bool = False,
        names: NameTable | None = None,
        held: bool = True,
    ):
        self.names = names or NameTable(RESERVED)
        self.name = _name(loop.name, self.names)
        self.ordered, self.held = ordered, held
        self.loop, self.passes, self.recompute = loop, passes, recompute
        self.lowering = lowering
        self.extra: list[int] | None = None
        moving = [i for i, able in zip(loop.reads, self.floating(), strict=True) if able]
        self.derived = self._derive(loop.results, moving)
        self.extra = [i for i in self.derived.saved if i not in loop.results]
        self.train = self._forward(self._kept(), "_saving")
        self._infer: Function | None = None
        self._backwards: dict[Any, Function] = {}
        self._others: dict[Any, LoopOperator] = {}
        full = tuple(self.floating()), self._presence([True] * len(loop.results))
        self._backwards[full] = self._write_backward(self.derived, moving, loop.results)
        self.text = self.train.source + self._backwards[full].source + str(loop.results)
        self.key = registry.entered(loop.name, "\n".join([self.text, *self._options()]), self)

    def _options(self) -> list[str]:
        """What else its code depends on, as text."""
        own = [sorted(self.passes), self.recompute, self.ordered, self.held]
        return [*map(str, own), self.lowering.key if self.lowering is not None else "torch"]

    @property
    def infer(self) -> Function:
        """The forward that saves nothing, generated at its first use."""
        if self._infer is None:
            self._infer = self._forward(self.loop.results, "")
        return self._infer

    def _derive(
        self, results: Sequence[int], wanted: Sequence[int], further: bool = False
    ) -> Derived:
        """The gradients of `wanted` given those of `results`, after the forward's passes.

        `further`: the gradients will be differentiated in turn.
        """
        part = replace(self.loop, results=list(results))
        derived = self._differentiated(part, wanted)
        derived.ir = self._planned(derived.ir, further)
        return derived

    def _differentiated(self, part: LoopIR, wanted: Sequence[int]) -> Derived:
        context = DeriveContext(
            passes=self.passes,
            title=f"loop {self.name}, derived",
            loop=part,
            wanted=wanted,
            recompute=self.recompute,
            kernels=self.lowering is not None,
            # the backward has to recompute what the forward does not return
            saved=None if self.extra is None else self._kept(),
        )
        run(Stage.DERIVED, part.ir, context)
        return context.gradients

    def _kept(self) -> list[int]:
        """The nodes that the saving forward returns."""
        return [*self.loop.results, *(self.extra or ())]

    def _planned(self, ir: IR, further: bool) -> IR:
        if not ir.outputs:
            return ir
        title = f"loop {self.name}, backward"
        context = BackwardContext(passes=self.passes, title=title, further=further)
        return run(Stage.BACKWARD, ir, context)

    def _forward(self, results: Sequence[int], suffix: str) -> Function:
        ir, name = values_alone(self.loop.ir), self.name
        title = f"{self.loop.name}, a loop over {self.loop.loop.axis}."
        likes = [(i, ir[i]) for i in results]
        reads, ends = self.loop.reads, self._ends(self.held)
        form = (ir, f"{name}{suffix}", reads, likes, title)
        return self._written(form, ends, "forward, saving" if suffix else "forward")

    def _written(self, form: Any, ends: Ends | None, direction: str) -> Function:
        """A function of this form; with kernels, a dispatcher over its strategies."""

        def make(lowering: Lowering | None) -> Function:
            ir, name, reads, results, title = form
            return write(ir, name, reads, results, title, self.passes, lowering, ends)

        if self.lowering is None:
            return make(None)
        return self.lowering.dispatched(make, direction, self.loop.name, self.loop.loop.axis)

    def _ends(self, held: bool) -> Ends | None:
        """Where the examples of a ragged axis end; values beyond are `held` or zero."""
        i = self.loop.ends
        if i is None:
            return None
        return Ends(self.loop.loop.axis, self.loop.ir[i], held, self.ordered)

    def reached(self, wanted: Sequence[bool], present: Sequence[bool]) -> list[bool]:
        """Whether each read is wanted and the results `present` depend on it.

        The gradients of the other reads are None, as in torch, not zeros.
        """
        results, chosen = self._chosen(wanted, present)
        some = between(self.loop.ir, chosen, results)
        return [w and i in some for i, w in zip(self.loop.reads, wanted, strict=True)]

    def backward(self, wanted: Sequence[bool], present: Sequence[bool]) -> Function:
        """The backward for the reads that need a gradient, given the gradients of some results."""
        able = zip(wanted, self.floating(), strict=True)
        key = (tuple(w and f for w, f in able), self._presence(present))
        if key not in self._backwards:
            self._backwards[key] = self._backward(*key)
        return self._backwards[key]

    def _backward(self, wanted: tuple[bool, ...], present: tuple[bool, ...]) -> Function:
        results, chosen = self._chosen(wanted, present)
        return self._write_backward(self._derive(results, chosen), chosen, results)

    def _presence(self, present: Sequence[bool]) -> tuple[bool, ...]:
        """Whether each value that the saving forward returns has a gradient.

        `present` are the flags of the first values; the others have none.
        """
        return (*present, *[False] * (len(self._kept()) - len(present)))

    def _chosen(
        self, wanted: Sequence[bool], present: Sequence[bool]
    ) -> tuple[list[int], list[int]]:
        """The results with gradients and the reads that need one, as nodes."""
        results = [i for i, p in zip(self._kept(), self._presence(present), strict=True) if p]
        able = zip(self.loop.reads, wanted, self.floating(), strict=True)
        return results, [i for i, w, f in able if w and f]

    def derivative(self, wanted: Sequence[bool], present: Sequence[bool]) -> LoopOperator:
        """The backward as an operator, which has a backward in turn."""
        return self._other("gradient", tuple(wanted), self._presence(present))

    def tangent(self, moving: Sequence[bool], made: Sequence[bool]) -> LoopOperator:
        """The operator from the tangents of the reads `moving` to those of the results `made`."""
        return self._other("tangent", tuple(moving), self._presence(made))

    def mapped(self, carrying: Sequence[bool]) -> LoopOperator:
        """The loop along one more axis, the last, which these reads have."""
        return self._other("mapped", tuple(carrying), ())

    @outside_transforms
    def _other(self, kind: str, reads: tuple[bool, ...], made: tuple[bool, ...]) -> LoopOperator:
        key = kind, reads, made
        if key not in self._others:
            self._others[key] = getattr(self, f"_{kind}")(reads, made)
        return self._others[key]

    def _gradient(self, wanted: tuple[bool, ...], present: tuple[bool, ...]) -> LoopOperator:
        results, chosen = self._chosen(wanted, present)
        derived = self._derive(results, chosen, further=True)
        cut = backward_loop(self.loop, derived, self._kept(), chosen, results)
        return self._made(cut, "gradient", self.lowering, False)

    def _tangent(self, moving: tuple[bool, ...], made: tuple[bool, ...]) -> LoopOperator:
        results, chosen = self._chosen(moving, made)
        part = replace(without_clipping(self.loop), results=results)
        derived = self._differentiated(part, chosen)
        backward = backward_loop(self.loop, derived, self._kept(), chosen, results)
        flows = backward.reads[len(backward.reads) - len(results) :]
        derived = tangents(backward, flows)
        derived.ir = self._planned(derived.ir, further=True)
        cut = backward_loop(backward, derived, [], flows, backward.results)
        return self._made(cut, "tangent", self.lowering, self.held)

    def _mapped(self, carrying: tuple[bool, ...], made: tuple[bool, ...]) -> LoopOperator:
        reads = [i for i, c in zip(self.loop.reads, carrying, strict=True) if c]
        cut = mapped(self.loop, reads, self._kept())
        # kernels require weights without axes
        return self._made(cut, "mapped", None, self.held)

    def _made(self, cut: LoopIR, kind: str, lowering: Lowering | None, held: bool) -> LoopOperator:
        cut = replace(cut, name=f"{self.loop.name}_{kind}")
        given = (self.passes, self.recompute, lowering, self.ordered, self.names, held)
        return LoopOperator(cut, *given)

    def _write_backward(
        self, derived: Derived, wanted: Sequence[int], results: Sequence[int]
    ) -> Function:
        loop, ir = self.loop, derived.ir
        # the complete backward saves exactly what the forward returns
        reads = [*loop.reads, *self._kept()]
        reads += [derived.cotangents.get(i, -1 - k) for k, i in enumerate(results)]
        outs = [(self._gradient_of(ir, i), loop.ir[i]) for i in wanted]
        name = f"{self.name}_backward"
        title, ends = (
            f"Gradients of {loop.name}, a loop over {loop.loop.axis}.",
            self._ends(False),
        )
        return self._written((ir, name, reads, outs, title), ends, "backward")

    def choices(self) -> list[Any]:
        """The strategies of the forward and the backward, each with its reason; none for torch."""
        if self.lowering is None:
            return []
        found = (self.lowering.choices.get(name) for name in self._names())
        return [choice for choice in found if choice is not None]

    def candidates(self, backward: bool = False) -> list[str]:
        """The strategies that a direction may run by, with predictions and timings, as text."""
        dispatchers = self.lowering.dispatchers if self.lowering is not None else {}
        found = dispatchers.get(self._names()[backward])
        lines = found.report() if found is not None else []
        if not backward and self._infer is not None and self._infer.name in dispatchers:
            lines += dispatchers[self._infer.name].tuner.descriptions()
        return lines

    def made_of(self) -> list[str]:
        """Texts that identify its code, kernels included."""
        dispatchers = self.lowering.dispatchers if self.lowering is not None else {}
        return [
            self.text,
            *self._options(),
            *(dispatchers[n].tuner.what for n in self._names() if n in dispatchers),
        ]

    def unwritten_phases(self) -> list[str]:
        """Why phases of its steps have no kernel."""
        if self.lowering is None:
            return []
        names = (self.name, *self._names())
        found = (self.lowering.unwritten_phases.get(name, {}) for name in names)
        return [reason for reasons in found for reason in reasons.values()]

    def _names(self) -> tuple[str, str]:
        return self.train.name, f"{self.name}_backward"

    def _gradient_of(self, ir: IR, i: int) -> int:
        if f"d{i}" in ir.outputs:
            return ir.outputs[f"d{i}"]
        return const(ir, 0.0).id

    @property
    def stated(self) -> list[torch.dtype]:
        """The dtypes of its reads if the dtype of one of its states is stated; else empty."""
        ir, delays = self.loop.ir, self.loop.loop.states
        kept = any(ir[d].attrs.get("stated") and ir[d].dtype.is_floating_point for d in delays)
        return [ir[i].dtype for i in self.loop.reads] if kept else []

    def floating(self) -> list[bool]:
        """Whether each read can have a gradient: floating values, except noise."""
        return floating(self.loop)


def _name(wanted: str, names: NameTable) -> str:
    """A name whose functions clash with those of no other loop."""
    wanted = entry(wanted)
    name = names.fresh(wanted)
    while not names.taken.isdisjoint(more := {f"{name}{suffix}" for suffix in SUFFIXES}):
        name = names.fresh(wanted)
    names.taken |= more
    return name
