"""Which loops become kernels, and the lines that call them in the generated torch code."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from graphnn.backends.torch.codegen.code import Code, If, Line, assign, code, joined, unpack
from graphnn.backends.torch.codegen.lowering import Function
from graphnn.backends.torch.codegen.scope import DTYPE, RESERVED, Scope
from graphnn.backends.triton.attention.hops import HopKernels
from graphnn.backends.triton.attention.operators import Kernels
from graphnn.backends.triton.attention.statistics import Reductions
from graphnn.backends.triton.attention.topk import Best
from graphnn.backends.triton.cuda_graphs import Cuda, Replayed
from graphnn.backends.triton.elements import NARROW_INTEGERS, kernel_argument
from graphnn.backends.triton.loops.dispatch import Several
from graphnn.backends.triton.loops.ragged import ORDER, unordered
from graphnn.backends.triton.loops.report import Choice
from graphnn.backends.triton.loops.stacked import Stacks, key_of
from graphnn.backends.triton.loops.stepwise import Called, StepWriter, lengths_text
from graphnn.backends.triton.loops.to_kernel import loop_program, phase_program
from graphnn.backends.triton.loops.torch_layers import Layer
from graphnn.backends.triton.scan import scan
from graphnn.ir.graph import IR, Node
from graphnn.kernels.codegen.persistent import LoopSource, emit
from graphnn.kernels.cooperative.codegen.emit import CooperativeSource
from graphnn.kernels.cooperative.codegen.paired import pair
from graphnn.kernels.feasibility.fit import Launch, Verdict, choose_kernel
from graphnn.kernels.ir.program import LoopProgram, Unsupported
from graphnn.kernels.ir.symbols import NameTable
from graphnn.kernels.runtime.cooperative_launch import CooperativeLauncher
from graphnn.kernels.runtime.launch import PRECISIONS, SPLIT_PRODUCTS, Launcher, input_precision
from graphnn.kernels.runtime.random import random_tensor
from graphnn.kernels.select.estimates import STEPWISE, CostEstimates
from graphnn.kernels.select.search import choose_cooperative
from graphnn.planner.attention.hops import Hops
from graphnn.planner.attention.statistics import Tally
from graphnn.planner.attention.tiles import Contraction
from graphnn.planner.core.regions import Loop, Whole

# said of loops whose rows have lengths
RAGGED = "; a program takes as many steps as the longest of its rows"
SORTED = ", which are sorted by length"
NAMES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}


@dataclass(frozen=True)
class OneKernel:
    """A loop as one kernel: the nodes it reads and those it keeps."""

    source: LoopSource
    verdict: Verdict
    reads: list[int]
    kept: list[int]

    def alike(self, other: OneKernel) -> bool:
        """Whether two may be one launch: as many warps, rows and blocks; none with lanes."""
        if self.source.program.lanes or other.source.program.lanes:
            return False
        blocks = [getattr(x.source, "blocks", 1) for x in (self, other)]
        return self.verdict.launch == other.verdict.launch and blocks[0] == blocks[1]


def _sorted(scope: Scope, rows: Sequence[str]) -> Code:
    """The rows of a loop in their order, the longest first."""
    assert scope.ends is not None
    lengths = scope.aligned(scope.ends.node.id, rows, 0)
    return code("runtime.longest_first({}.expand({}))", lengths, joined(scope.sizes(rows)))


@dataclass(eq=False)
class Lowering:
    """Turns loops into kernels, or their steps; `choices` says which and why.

    `interpret` runs them by Triton's interpreter on the CPU; `target` is the GPU they must fit.
    Without `resident` no loop becomes one kernel, without `cooperative` none that many thread
    blocks share, without `fit` all do that can be written; without `weighed` blocks share what the
    model thinks faster step by step, too. With `graphs` the launches of stepwise loops are replayed
    by `cuda`. `float32` is how products of float32 are computed, where torch's setting does not
    say. Without `tune` nothing is timed on a GPU: the model chooses.
    """

    interpret: bool
    target: str
    resident: bool = True
    fit: bool = True
    cooperative: bool = True
    graphs: bool = False
    float32: str | None = None
    tune: bool = True
    weighed: bool = True
    cuda: Any = field(default_factory=Cuda)
    # of loops, none of which is called as another one
    names: NameTable = field(default_factory=lambda: NameTable(RESERVED))
    launchers: dict[str, Launcher] = field(default_factory=dict)
    choices: dict[str, Choice] = field(default_factory=dict)
    unwritten: dict[str, str] = field(default_factory=dict)
    unwritten_phases: dict[str, dict[str, str]] = field(default_factory=dict)
    # of each loop: the graph that has it, its regime, its axis and the launches at each step
    written: list[tuple[IR, str, str, int]] = field(default_factory=list)
    stacks: dict[torch.dtype, Stacks] = field(default_factory=dict)
    several_of: dict[str, Several] = field(default_factory=dict)

    def several(self, write: Callable[[Lowering], Function], direction: str) -> Function:
        """The function that `write` gives, which goes by what is best for the sizes of a call."""
        launchers, choices = dict(self.launchers), dict(self.choices)
        first = write(self)
        made = {k: c for k, c in self.choices.items() if choices.get(k) is not c}
        texts = [x.source.text for k, x in self.launchers.items() if launchers.get(k) is not x]
        if not any(c.figures for c in made.values()):
            return first
        several = Several(self, write, first, list(made.values()), texts, direction)
        self.several_of |= dict.fromkeys(made, several)
        return replace(first, call=several)

    def without(self, **left_out: bool) -> Lowering:
        """One that writes kernels of its own, with some regimes left out."""
        fields = ("launchers", "choices", "unwritten", "unwritten_phases", "several_of")
        own: dict[str, Any] = {k: {} for k in fields}
        return replace(self, written=[], **own, **left_out)  # type: ignore[arg-type]

    def write(self, scope: Scope, loop: Loop, keep: set[int], name: str) -> list[Line] | None:
        """The lines that run a loop as one kernel, or as kernels of its steps; None: as torch."""
        reasons: list[str] = []
        spare: OneKernel | None = None
        for regime in ("resident", "cooperative"):
            try:
                made = getattr(self, f"_{regime}")(scope, loop, keep, name)
            except Unsupported as reason:
                reasons.append(str(reason))
                continue
            if made.verdict.tolerated:  # of many blocks it may be had without
                spare = made
                reasons.append(made.verdict.reason)
                continue
            return self._one(scope, loop, keep, name, made, regime, reasons)
        if spare is not None:
            return self._one(scope, loop, keep, name, spare, "resident", reasons[1:])
        return self._stepwise(scope, loop, keep, name, "; ".join(dict.fromkeys(reasons)))

    def _one(
        self,
        scope: Scope,
        loop: Loop,
        keep: set[int],
        name: str,
        made: OneKernel,
        regime: str,
        reasons: Sequence[str],
    ) -> list[Line]:
        """The lines that run a loop as one kernel, not otherwise for `reasons`."""
        why = made.verdict.reason + self._besides(scope, made)
        why = "; ".join([why, *(f"not by one: {r}" for r in reasons)])
        stacks = self.stacks.get(scope.ir.floating)
        weighed = stacks.why.get(key_of(scope.ir, loop), "") if stacks else ""
        why = f"{weighed}; {why}" if weighed else why
        choice = Choice(regime, why, self._figures([made]))
        if made.source.program.open:
            return self._either(scope, loop, keep, name, made, choice)
        self._chosen(scope, loop, name, choice)
        return self._call(scope, made.source, made.verdict, made.reads, made.kept)

    def _either(
        self, scope: Scope, loop: Loop, keep: set[int], name: str, made: OneKernel, choice: Choice
    ) -> list[Line]:
        """One kernel while the axis that its steps take all of is short enough, else its steps."""
        most, axis = made.source.program.most, made.source.program.lanes
        call = self._call(scope, made.source, made.verdict, made.reads, made.kept)
        names = {i: scope.names[i] for i in made.kept}
        steps = StepWriter(scope, loop, keep, name, self).write()
        steps += [assign(names[i], scope.names[i]) for i in made.kept]
        scope.names.update(names)
        why = f"{choice.reason}; that is up to {most} of {axis}, step by step where there are more"
        self._chosen(scope, loop, name, replace(choice, reason=why))
        return [If(code("{} <= {}", scope.size(axis), most), call, steps)]

    def _chosen(
        self, scope: Scope, loop: Loop, name: str, choice: Choice, launches: int = 0
    ) -> None:
        """Remember how a loop is run, and how many launches each of its steps takes."""
        self.choices[name] = choice
        self.written.append((scope.ir, choice.regime, loop.axis, launches))

    def pair(self, scope: Scope, loops: list[Loop], keep: set[int], name: str) -> list[Line] | None:
        """The line that runs two loops in one launch; None where they do not go together."""
        for regime in ("resident", "cooperative"):
            write = getattr(self, f"_{regime}")
            try:
                made = [write(scope, x, keep, f"{name}_{k}", 2) for x, k in zip(loops, "ab")]
            except Unsupported:
                continue
            first, second = made
            if first.alike(second):
                source = pair(name, first.source, second.source)
                reason = f"side by side in one launch; {first.verdict.reason}"
                reason += self._besides(scope, first)
                self._chosen(scope, loops[0], name, Choice(regime, reason, self._figures(made)))
                reads, kept = [*first.reads, *second.reads], [*first.kept, *second.kept]
                return self._call(scope, source, first.verdict, reads, kept)
        return None

    def _figures(self, made: Sequence[OneKernel]) -> tuple[CostEstimates, ...]:
        """What the model expects of the ways to run loops that kernels were made for."""
        if not self.fit:
            return ()
        each = [(x.source.program, x.source, x.verdict.launch) for x in made]
        return tuple(CostEstimates(*x, self.target, len(made), self.cooperative) for x in each)

    def _besides(self, scope: Scope, made: OneKernel) -> str:
        """How float32 is multiplied, and where ragged loops end."""
        how = PRECISIONS[input_precision(torch.float32, self.float32)]
        if isinstance(made.source, CooperativeSource) and made.source.tiling.parted:
            how = SPLIT_PRODUCTS
        words = f"; float32 is multiplied by {how}" if scope.ir.floating == torch.float32 else ""
        program = made.source.program
        words += RAGGED if program.ends is not None else ""
        return words + (SORTED if program.order is not None else "")

    def together(self, ir: IR, loops: Sequence[Loop], one: Loop) -> bool:
        """Whether loops that feed each other are faster as the loop `one`."""
        if not self.cooperative:
            return False
        if ir.floating not in self.stacks:
            launch = functools.partial(self._launch, ir.floating)
            how = (self.resident, self.fit, not self.interpret)
            self.stacks[ir.floating] = Stacks(launch, self.target, *how)
        return self.stacks[ir.floating].faster(ir, loops, one)

    def _resident(
        self, scope: Scope, loop: Loop, keep: set[int], name: str, loops: int = 1
    ) -> OneKernel:
        """A loop as one kernel, beside others or not. Raises Unsupported where it cannot be."""
        kept = [i for i in loop.nodes if i in keep]
        program, reads = loop_program(scope.ir, loop, kept, name, scope.ends)
        try:
            source, verdict = self._best(program, scope.ir.floating)
        except Unsupported:
            if program.order is None:
                raise
            program, reads = unordered(program, reads)
            source, verdict = self._best(program, scope.ir.floating)
        return OneKernel(source, verdict, reads, kept)

    def _cooperative(
        self, scope: Scope, loop: Loop, keep: set[int], name: str, loops: int = 1
    ) -> OneKernel:
        """A loop as one kernel that many thread blocks share, of so many `loops` that run together.

        Raises Unsupported where it cannot be.
        """
        if not self.cooperative:
            raise Unsupported(
                "sharing the loop by many blocks was switched off (skip 'cooperative')"
            )
        kept = [i for i in loop.nodes if i in keep]
        program, reads = loop_program(scope.ir, loop, kept, name, scope.ends)
        launch = self._launch(scope.ir.floating)
        ask = not self.interpret
        how = (ask, self.fit, loops, self.weighed)
        source, verdict = choose_cooperative(program, launch, self.target, *how)
        return OneKernel(source, verdict, reads, kept)

    def _call(
        self, scope: Scope, source: LoopSource, verdict: Verdict, reads: list[int], kept: list[int]
    ) -> list[Line]:
        called = self._launcher(scope, source, verdict.launch.warps)
        results = [scope.declare(scope.ir[i]) for i in kept]
        lines: list[Line] = []
        names = dict(scope.seeds)
        if ORDER in reads:
            names[ORDER] = scope.fresh("order")
            lines = [assign(names[ORDER], _sorted(scope, source.program.rows))]
        tensors = joined(names.get(i) or kernel_argument(scope, i) for i in reads)
        sizes = lengths_text(scope, source.sizes)
        dtypes = [(x, scope.ir[i].dtype) for x, i in zip(results, kept)]
        narrow = [(x, dtype) for x, dtype in dtypes if dtype in NARROW_INTEGERS]
        lines.append(unpack(results, code("{}([{}], {}, {})", called, tensors, sizes, DTYPE)))
        return lines + [assign(x, code("{}.to({})", x, dtype)) for x, dtype in narrow]

    def _best(self, program: LoopProgram, floating: torch.dtype) -> tuple[LoopSource, Verdict]:
        """One kernel for the whole loop, and the verdict on it. Raises Unsupported if none fits."""
        if not self.resident:
            raise Unsupported("one kernel for the whole loop was switched off (skip 'resident')")
        launch = self._launch(floating)
        if not self.fit:
            reason = "whether it fits a GPU was not asked (skip 'fit')"
            return emit(program), Verdict(True, launch, reason)
        source, verdict = choose_kernel(
            program, launch, self.target, may_compile=not self.interpret
        )
        if not verdict.fits:
            raise Unsupported(verdict.reason)
        return source, verdict

    def _launch(self, floating: torch.dtype) -> Launch:
        """How a kernel of the whole loop is to be run. Raises Unsupported if there is none."""
        if floating not in NAMES and not self.interpret:
            raise Unsupported(f"no matrix unit multiplies {floating}")
        # float64 is for proofs by the interpreter: the kernels are those of half precision
        dtype = floating if floating in NAMES else torch.bfloat16
        return Launch(NAMES[dtype], input_precision(dtype, self.float32))

    def _launcher(self, scope: Scope, source: LoopSource, warps: int = 8) -> Code:
        kind = CooperativeLauncher if isinstance(source, CooperativeSource) else Launcher
        launcher = kind(source, self.interpret, warps, self.float32)
        launcher.tuner.enabled = self.tune
        self.launchers[source.name] = launcher
        return scope.object(launcher, f"{source.name}_kernel")

    def sources(self) -> list[str]:
        """The source of every kernel."""
        return [launcher.source.text for launcher in self.launchers.values()]

    def attend(self, part: Contraction, passes: frozenset[str]) -> Any:
        """Kernels for a contraction; None: torch computes it, as no kernel can be written."""
        kind: Any = Best if part.top else Reductions if isinstance(part, Tally) else Kernels
        try:
            return kind(part, passes, self.interpret, self.float32)
        except Unsupported as reason:
            self.unwritten[part.name] = str(reason)
            return None

    def layer(self, node: Node, own: LoopProgram, wanted: Sequence[int]) -> Layer:
        """Runs one of torch's layers, or `own`, the program of its definition."""
        return Layer(node, own, wanted, self.tune)

    def hops(self, part: Hops, passes: frozenset[str]) -> Any:
        """Kernels for hops; None: torch computes them, as no kernel can be written."""
        try:
            return HopKernels(part, passes, self.interpret, self.float32)
        except Unsupported as reason:
            self.unwritten[part.name] = str(reason)
            return None

    def called(self) -> dict[str, Any]:
        """What generated code calls by another name here: scans, and noise that no kernel draws."""
        return {
            "scan": functools.partial(scan, interpret=self.interpret),
            "noise": functools.partial(random_tensor, interpret=self.interpret),
        }

    def _stepwise(
        self, scope: Scope, loop: Loop, keep: set[int], name: str, reason: str
    ) -> list[Line] | None:
        """One kernel a phase of each step; loops within loops stay with torch."""
        if loop.stop is not None or any(not isinstance(r, Whole) for r in loop.body):
            why = f"one torch call per operation and time step: {reason}"
            self._chosen(scope, loop, name, Choice("torch", why))
            return None
        why = f"torch's products and one kernel a phase, as no one kernel can carry it: {reason}"
        if self.float32 is not None and scope.ir.floating == torch.float32:
            why += (
                f"; torch multiplies float32 by its own setting, whatever float32={self.float32!r}"
            )
        figures = self._unshared(scope, loop, keep, name)
        writer = StepWriter(scope, loop, keep, name, self)
        lines = writer.write()
        self._chosen(scope, loop, name, Choice(STEPWISE, why, figures), len(writer.step))
        return lines

    def _unshared(
        self, scope: Scope, loop: Loop, keep: set[int], name: str
    ) -> tuple[CostEstimates, ...]:
        """What the model expects of a loop that goes step by step, if blocks could share it."""
        if not self.fit or not self.cooperative:
            return ()
        try:
            kept = [i for i in loop.nodes if i in keep]
            program, _ = loop_program(scope.ir, loop, kept, name, scope.ends)
            return (CostEstimates(program, None, self._launch(scope.ir.floating), self.target),)
        except Unsupported:
            return ()

    def note(self, ir: IR) -> str:
        """Said in the source, which is what tells programs with graphs from those without."""
        return " Where it pays, replayed as a CUDA graph." if self._steps(ir) else ""

    def replayed(self, ir: IR, call: Any, axes: Sequence[str]) -> Any:
        """A function that replays its stepwise loops; the function itself where it has none."""
        steps = self._steps(ir)
        return Replayed(call, axes, steps, self.cuda) if steps else call

    def _steps(self, ir: IR) -> list[tuple[str, int]]:
        """The stepwise loops of a function, if all that it does can be recorded.

        A user's own functions may look at their data, as loops do that end by themselves.
        """
        mine = [(regime, axis, count) for x, regime, axis, count in self.written if x is ir]
        unknown = any(n.op in ("opaque", "vjp") for n in ir)
        if not self.graphs or unknown or any(regime == "torch" for regime, _, _ in mine):
            return []
        return [(axis, count) for regime, axis, count in mine if regime == "stepwise"]

    def phase(self, s: Scope, nodes: list[int], kept: list[int], name: str) -> Called | None:
        """The kernel of a phase: how it is called, what it reads, over which axes' lengths."""
        try:
            program, reads = phase_program(s, nodes, kept, name)
            source = emit(program)
        except Unsupported as reason:
            self.unwritten_phases.setdefault(s.function, {})[name] = str(reason)
            return None
        return self._launcher(s, source), reads, source.sizes
