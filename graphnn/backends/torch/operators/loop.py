"""Loops as torch operators: known to autograd, to torch.compile and to autocast.

`graphnn::loop` runs a loop's generated forward, `graphnn::loop_backward` its derived backward; both
find their program by its key in the registry. Where more is asked than one derivative, the backward
is a loop of its own (`derivative`), and so are a loop's tangents and the loop under torch.vmap: see
`transforms`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from graphnn.backends.torch.codegen.function import write
from graphnn.backends.torch.codegen.lowering import Function, Lowering
from graphnn.backends.torch.codegen.scope import RESERVED, Ends
from graphnn.backends.torch.operators import transforms
from graphnn.backends.torch.runtime import registry
from graphnn.backends.torch.runtime.active_transforms import unwatched
from graphnn.errors import DoubleBackwardError
from graphnn.ir.graph import IR
from graphnn.kernels.ir.symbols import NameTable, entry
from graphnn.ops.custom_gradient import values_alone
from graphnn.planner.autodiff.loops import Derived
from graphnn.planner.autodiff.transforms import floating, mapped, pulled, pushed, unclipped
from graphnn.planner.contexts import BackwardContext, DeriveContext
from graphnn.planner.core.gradient_paths import between
from graphnn.planner.core.loop_graph import LoopIR
from graphnn.planner.pipeline import Stage, run

# what a loop's functions have behind its name
WAYS = ("_saving", "_backward")


class LoopOperator:
    """A loop's generated functions: forward, forward that saves for backward, backward.

    `passes` are applied to the derived graph as they were to the graph itself; `lowering` makes
    kernels of the loops where given. `ordered`: examples come in the order of their lengths, the
    longest first, and what lies beyond their ends repeats a step if `held`, or is zero.
    `recompute`: pointwise values are computed again in the backward, or none (False), or those that
    kernels had better (None). `names` are those of functions that it is to differ from.
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
        self.key = registry.entered(loop.name, self.text, self)

    @property
    def infer(self) -> Function:
        """The forward that saves nothing, written when it is first wanted."""
        if self._infer is None:
            self._infer = self._forward(self.loop.results, "")
        return self._infer

    def _derive(
        self, results: Sequence[int], wanted: Sequence[int], further: bool = False
    ) -> Derived:
        """The gradient graph from `results` to `wanted`, after the same passes as the forward;
        `further`: it is to have derivatives in turn."""
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
            # what the forward has not handed out has to be computed again
            saved=None if self.extra is None else self._kept(),
        )
        run(Stage.DERIVED, part.ir, context)
        return context.gradients

    def _kept(self) -> list[int]:
        """All that the forward that saves hands out."""
        return [*self.loop.results, *(self.extra or ())]

    def _planned(self, ir: IR, further: bool) -> IR:
        if not ir.outputs:
            return ir
        title = f"loop {self.name}, backward"
        context = BackwardContext(passes=self.passes, title=title, further=further)
        return run(Stage.BACKWARD, ir, context)

    def _forward(self, results: Sequence[int], suffix: str) -> Function:
        ir, name = values_alone(self.loop.ir), self.name
        title = f"The loop over {self.loop.loop.axis} of {self.loop.name}."
        likes = [(i, ir[i]) for i in results]
        reads, ends = self.loop.reads, self._ends(self.held)
        form = (ir, f"{name}{suffix}", reads, likes, title)
        return self._written(form, ends, "forward, saving" if suffix else "forward")

    def _written(self, form: Any, ends: Ends | None, direction: str) -> Function:
        """A function of this form: in several ways where there are kernels."""

        def make(lowering: Lowering | None) -> Function:
            ir, name, reads, results, title = form
            return write(ir, name, reads, results, title, self.passes, lowering, ends)

        return make(None) if self.lowering is None else self.lowering.several(make, direction)

    def _ends(self, held: bool) -> Ends | None:
        """Where the examples end, on a ragged axis: beyond, values are `held` or zero."""
        i = self.loop.ends
        if i is None:
            return None
        return Ends(self.loop.loop.axis, self.loop.ir[i], held, self.ordered)

    def reached(self, wanted: Sequence[bool], present: Sequence[bool]) -> list[bool]:
        """Which of the reads `wanted` the results `present` depend on; the others' gradient is
        None, as torch has it, and not zeros."""
        results, chosen = self._chosen(wanted, present)
        some = between(self.loop.ir, chosen, results)
        return [w and i in some for i, w in zip(self.loop.reads, wanted, strict=True)]

    def backward(self, wanted: Sequence[bool], present: Sequence[bool]) -> Function:
        """The backward for the reads that want a gradient, given those of some results."""
        able = zip(wanted, self.floating(), strict=True)
        key = (tuple(w and f for w, f in able), self._presence(present))
        if key not in self._backwards:
            self._backwards[key] = self._backward(*key)
        return self._backwards[key]

    def _backward(self, wanted: tuple[bool, ...], present: tuple[bool, ...]) -> Function:
        results, chosen = self._chosen(wanted, present)
        return self._write_backward(self._derive(results, chosen), chosen, results)

    def _presence(self, present: Sequence[bool]) -> tuple[bool, ...]:
        """Which of all that the forward hands out have a gradient, given those of the first."""
        return (*present, *[False] * (len(self._kept()) - len(present)))

    def _chosen(
        self, wanted: Sequence[bool], present: Sequence[bool]
    ) -> tuple[list[int], list[int]]:
        """What gradients come from, and which reads want one, as nodes."""
        results = [i for i, p in zip(self._kept(), self._presence(present), strict=True) if p]
        able = zip(self.loop.reads, wanted, self.floating(), strict=True)
        return results, [i for i, w, f in able if w and f]

    def derivative(self, wanted: Sequence[bool], present: Sequence[bool]) -> LoopOperator:
        """The backward as a program, which has a backward in turn."""
        return self._other("gradient", tuple(wanted), self._presence(present))

    def tangent(self, moving: Sequence[bool], made: Sequence[bool]) -> LoopOperator:
        """What makes the tangents of the results `made` of those of the reads `moving`."""
        return self._other("tangent", tuple(moving), self._presence(made))

    def mapped(self, carrying: Sequence[bool]) -> LoopOperator:
        """The program along one more axis, the last, that these reads have."""
        return self._other("mapped", tuple(carrying), ())

    @unwatched
    def _other(self, kind: str, reads: tuple[bool, ...], made: tuple[bool, ...]) -> LoopOperator:
        key = kind, reads, made
        if key not in self._others:
            self._others[key] = getattr(self, f"_{kind}")(reads, made)
        return self._others[key]

    def _gradient(self, wanted: tuple[bool, ...], present: tuple[bool, ...]) -> LoopOperator:
        results, chosen = self._chosen(wanted, present)
        derived = self._derive(results, chosen, further=True)
        cut = pulled(self.loop, derived, self._kept(), chosen, results)
        return self._made(cut, "gradient", self.lowering, False)

    def _tangent(self, moving: tuple[bool, ...], made: tuple[bool, ...]) -> LoopOperator:
        results, chosen = self._chosen(moving, made)
        part = replace(unclipped(self.loop), results=results)
        derived = self._differentiated(part, chosen)
        backward = pulled(self.loop, derived, self._kept(), chosen, results)
        flows = backward.reads[len(backward.reads) - len(results) :]
        derived = pushed(backward, flows)
        derived.ir = self._planned(derived.ir, further=True)
        cut = pulled(backward, derived, [], flows, backward.results)
        return self._made(cut, "tangent", self.lowering, self.held)

    def _mapped(self, carrying: tuple[bool, ...], made: tuple[bool, ...]) -> LoopOperator:
        reads = [i for i, c in zip(self.loop.reads, carrying, strict=True) if c]
        cut = mapped(self.loop, reads, self._kept())
        # kernels are made for values whose weights have no axes
        return self._made(cut, "mapped", None, self.held)

    def _made(self, cut: LoopIR, kind: str, lowering: Lowering | None, held: bool) -> LoopOperator:
        cut = replace(cut, name=f"{self.loop.name}_{kind}")
        given = (self.passes, self.recompute, lowering, self.ordered, self.names, held)
        return LoopOperator(cut, *given)

    def _write_backward(
        self, derived: Derived, wanted: Sequence[int], results: Sequence[int]
    ) -> Function:
        loop, ir = self.loop, derived.ir
        # the saved values of the complete backward are what the forward handed out
        reads = [*loop.reads, *self._kept()]
        reads += [derived.cotangents.get(i, -1 - k) for k, i in enumerate(results)]
        outs = [(self._gradient_of(ir, i), loop.ir[i]) for i in wanted]
        name = f"{self.name}_backward"
        title, ends = (
            f"Gradients of the loop over {loop.loop.axis} of {loop.name}.",
            self._ends(False),
        )
        return self._written((ir, name, reads, outs, title), ends, "backward")

    def choices(self) -> list[Any]:
        """How a lowering runs the forward and the backward, each with its reason."""
        if self.lowering is None:
            return []
        found = (self.lowering.choices.get(name) for name in self._names())
        return [choice for choice in found if choice is not None]

    def candidates(self, backward: bool = False) -> list[str]:
        """The regimes that a direction may be run in, with what is known of them, in words."""
        several = self.lowering.several_of if self.lowering is not None else {}
        found = several.get(self._names()[backward])
        lines = found.says() if found is not None else []
        if not backward and self._infer is not None and self._infer.name in several:
            lines += several[self._infer.name].chooser.descriptions()
        return lines

    def made_of(self) -> list[str]:
        """All that tells its code, kernels too, from another's."""
        several = self.lowering.several_of if self.lowering is not None else {}
        return [self.text, *(several[n].chooser.what for n in self._names() if n in several)]

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
        from graphnn.ops.builder import const

        return const(ir, 0.0).id

    @property
    def stated(self) -> list[torch.dtype]:
        """The dtypes of its reads, where the dtype of one of its states is stated."""
        ir, delays = self.loop.ir, self.loop.loop.states
        kept = any(ir[d].attrs.get("stated") and ir[d].dtype.is_floating_point for d in delays)
        return [ir[i].dtype for i in self.loop.reads] if kept else []

    def floating(self) -> list[bool]:
        """Which reads can have a gradient: numbers, but no noise."""
        return floating(self.loop)


def _name(wanted: str, names: NameTable) -> str:
    """A name that no other loop's functions have, whatever they are named after."""
    wanted = entry(wanted)
    name = names.fresh(wanted)
    while not names.taken.isdisjoint(more := {f"{name}{way}" for way in WAYS}):
        name = names.fresh(wanted)
    names.taken |= more
    return name


def call(program: LoopOperator, tensors: list[Tensor], sizes: list[int]) -> list[Tensor]:
    """Run a loop; under autocast in its dtype, as torch runs its own recurrent layers, unless a
    state's dtype is stated: then all is in the dtypes of the graph."""
    kind = tensors[0].device.type
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        lower = (dtype if t.dtype == torch.float32 else t.dtype for t in tensors)
        wanted = program.stated or lower
        tensors = [t.to(d) for t, d in zip(tensors, wanted)]
    return transforms.apply(program, tensors, sizes)


@torch.library.custom_op("graphnn::loop", mutates_args=())
def _loop(tensors: list[Tensor], key: str, sizes: list[int], train: bool) -> list[Tensor]:
    program = registry.found(key)
    return _run(program.train if train else program.infer, tensors, sizes)


def _run(function: Function, tensors: list[Tensor], sizes: list[int]) -> list[Tensor]:
    """Call generated code. Nothing in it is recorded: derivatives are code of their own.

    Without the records of views and changes made in place a step of 35 calls takes 3% less (an
    LSTM with peepholes, (T, B, H) = (100, 32, 256), forward and backward; CPU, 2 threads).
    """
    with torch.autocast(tensors[0].device.type, enabled=False), _unrecorded(function):
        return function.call(tensors, sizes)


def _unrecorded(function: Function) -> contextlib.AbstractContextManager[None]:
    guard = getattr(torch._C, "_ExcludeDispatchKeyGuard", None)  # not public
    if guard is None or function.user_code:
        return contextlib.nullcontext()  # torch derives its own functions by these records
    return guard(torch._C.DispatchKeySet(torch._C.DispatchKey.ADInplaceOrView))  # type: ignore[no-any-return]


@_loop.register_fake
def _(tensors: list[Tensor], key: str, sizes: list[int], train: bool) -> list[Tensor]:
    program = registry.traced(key)
    return (program.train if train else program.infer).shapes(tensors, sizes)


@torch.library.custom_op("graphnn::loop_backward", mutates_args=())
def _loop_backward(
    tensors: list[Tensor], key: str, sizes: list[int], wanted: list[bool], present: list[bool]
) -> list[Tensor]:
    return _run(registry.found(key).backward(wanted, present), tensors, sizes)


@_loop_backward.register_fake
def _(
    tensors: list[Tensor], key: str, sizes: list[int], wanted: list[bool], present: list[bool]
) -> list[Tensor]:
    return registry.traced(key).backward(wanted, present).shapes(tensors, sizes)


def _setup(ctx: Any, inputs: Any, output: Any) -> None:
    tensors, key, ctx.sizes, train = inputs
    ctx.set_materialize_grads(False)
    ctx.program = registry.found(key)  # a backward may follow when the model is gone
    floating = ctx.program.floating()
    ctx.wanted = [f and t.requires_grad for f, t in zip(floating, tensors, strict=True)]
    if train:
        ctx.save_for_backward(*tensors, *output)


def _backward(ctx: Any, grads: Any) -> Any:
    program = ctx.program
    found = transforms.pull(program, ctx.saved_tensors, ctx.sizes, grads, ctx.wanted)
    return found, None, None, None


def _no_second_derivative(ctx: Any, *grads: Any) -> Any:
    raise DoubleBackwardError(
        f"the loop '{registry.title(ctx.key)}' has no second derivative under torch.compile",
        got="a backward through its backward (create_graph=True)",
        wanted="first derivatives, or a call outside torch.compile",
        fix="leave torch.compile out where second derivatives are wanted",
    )


def _remember(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.key = inputs[1]


_loop.register_autograd(_backward, setup_context=_setup)
_loop_backward.register_autograd(_no_second_derivative, setup_context=_remember)
