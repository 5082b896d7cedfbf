"""The execution strategy of each loop, and the generated torch code that calls its kernels."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from graphnn.backends.torch.codegen.code import Expression, If, Line, assign, code, joined, unpack
from graphnn.backends.torch.codegen.lowering import Function
from graphnn.backends.torch.codegen.scope import DTYPE, RESERVED, Scope
from graphnn.backends.triton.attention.hops import HopKernels
from graphnn.backends.triton.attention.operators import AttentionKernels
from graphnn.backends.triton.attention.statistics import StatisticsKernels
from graphnn.backends.triton.attention.topk import TopKKernels
from graphnn.backends.triton.cuda_graphs import Cuda, Replayed
from graphnn.backends.triton.elements import NARROW_INTEGERS, kernel_argument
from graphnn.backends.triton.loops.dispatch import StrategyDispatcher
from graphnn.backends.triton.loops.ragged import ORDER, unordered
from graphnn.backends.triton.loops.report import LoopStrategy
from graphnn.backends.triton.loops.stacked import Stacks, key_of
from graphnn.backends.triton.loops.stepwise import Called, StepWriter, lengths_text
from graphnn.backends.triton.loops.to_kernel import loop_program, phase_program
from graphnn.backends.triton.loops.torch_layers import TimedLayer
from graphnn.backends.triton.options import STATE, options_text
from graphnn.backends.triton.random import trusted_random_tensor
from graphnn.backends.triton.scan import scan
from graphnn.ir.graph import IR, Node
from graphnn.kernels.codegen.digest import digest
from graphnn.kernels.codegen.persistent import LoopSource, emit
from graphnn.kernels.cooperative.codegen.emit import CooperativeSource
from graphnn.kernels.cooperative.codegen.paired import pair
from graphnn.kernels.executors.executor import Executor
from graphnn.kernels.feasibility.fit import Launch, Verdict, choose_kernel
from graphnn.kernels.feasibility.targets import float32_precision, refusal
from graphnn.kernels.ir.program import LoopProgram, Unsupported
from graphnn.kernels.ir.symbols import NameTable
from graphnn.kernels.runtime.cooperative_launch import CooperativeLauncher
from graphnn.kernels.runtime.launch import PRECISIONS, SPLIT_PRODUCTS, Launcher, input_precision
from graphnn.kernels.select.estimates import CostEstimates
from graphnn.kernels.select.search import choose_cooperative
from graphnn.kernels.select.strategies import COOPERATIVE, RESIDENT, STEPWISE
from graphnn.kernels.trust.switches import allowed_kinds, most_tile_rows
from graphnn.planner.attention.hops import Hops
from graphnn.planner.attention.statistics import StatisticsRegion
from graphnn.planner.attention.tiles import AttentionRegion
from graphnn.planner.core.regions import Loop, Whole

# parts of the reason for ragged loops
RAGGED = "; a program runs until its longest row ends"
SORTED = ", and rows are sorted by length"
DTYPES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}


@dataclass(frozen=True)
class LoopKernel:
    """A loop as one kernel, the nodes that it reads, and those that it stores (`kept`)."""

    source: LoopSource
    verdict: Verdict
    reads: list[int]
    kept: list[int]

    def same_launch(self, other: LoopKernel) -> bool:
        """Return whether two can be one launch: equal warps, rows and blocks, and no block axis."""
        if self.source.program.block_axis or other.source.program.block_axis:
            return False
        blocks = [getattr(x.source, "blocks", 1) for x in (self, other)]
        return self.verdict.launch == other.verdict.launch and blocks[0] == blocks[1]


def _sorted(scope: Scope, rows: Sequence[str]) -> Expression:
    """Return the code that sorts the rows of a loop by length, the longest first."""
    assert scope.ends is not None
    lengths = scope.aligned(scope.ends.node.id, rows, 0)
    return code("runtime.longest_first({}.expand({}))", lengths, joined(scope.sizes(rows)))


@dataclass(eq=False)
class KernelLowering:
    """Turns loops into kernels, or their steps into kernels; `choices` has strategies and reasons.

    Strategies are tried in this order, each if its switch is on: one block per tile of rows keeps
    the weights (`resident`, the persistent kernel), many blocks do it together (`cooperative`),
    torch's products with one kernel per phase (stepwise). With `fit` a kernel must fit the GPU
    `target`; with `only_if_faster` a cooperative one must be predicted to be faster than stepwise.
    `executor` runs the kernels. With `graphs` the launches of stepwise loops are replayed by
    `cuda`. `float32` says how float32 is multiplied, if not as torch's setting says; a target may
    have only one way. Under `autocast`, loops in float32 run in this dtype. With `tune` strategies
    are timed on the GPU; otherwise the cost model chooses.
    """

    executor: Executor
    target: str
    resident: bool = True
    fit: bool = True
    cooperative: bool = True
    graphs: bool = False
    float32: str | None = None
    tune: bool = True
    only_if_faster: bool = True
    autocast: str = ""
    # the most rows of a tile, and the kinds of kernels that may run
    rows: int = field(default_factory=most_tile_rows)
    kinds: frozenset[str] = field(default_factory=allowed_kinds)
    cuda: Any = field(default_factory=Cuda, metadata=STATE)
    # the names of loops, each used once
    names: NameTable = field(default_factory=lambda: NameTable(RESERVED), metadata=STATE)
    launchers: dict[str, Launcher] = field(default_factory=dict, metadata=STATE)
    choices: dict[str, LoopStrategy] = field(default_factory=dict, metadata=STATE)
    unwritten: dict[str, str] = field(default_factory=dict, metadata=STATE)
    unwritten_phases: dict[str, dict[str, str]] = field(default_factory=dict, metadata=STATE)
    # for each loop: its graph, its strategy, its axis and the number of launches per step
    written: list[tuple[IR, str, str, int]] = field(default_factory=list, metadata=STATE)
    stacks: dict[torch.dtype, Stacks] = field(default_factory=dict, metadata=STATE)
    dispatchers: dict[str, StrategyDispatcher] = field(default_factory=dict, metadata=STATE)

    def __post_init__(self) -> None:
        self.float32 = float32_precision(self.target, self.float32)

    @property
    def key(self) -> str:
        """Every option as text: code and choices made with other options are others."""
        return options_text(self)

    def dispatched(
        self,
        write: Callable[[KernelLowering | None], Function],
        direction: str,
        layer: str,
        axis: str,
    ) -> Function:
        """Return the function of `write`, with a variant per strategy if costs could be predicted.

        A call runs the variant that is best for its sizes, once its results were compared with
        torch's. `direction` names it in reports, `layer` the loop, which is over `axis`.
        """
        launchers, choices = dict(self.launchers), dict(self.choices)
        first = write(self)
        made = {k: c for k, c in self.choices.items() if choices.get(k) is not c}
        digests = [digest(x.source) for k, x in self.launchers.items() if launchers.get(k) is not x]
        if not any(c.estimates for c in made.values()) and not (self.executor.checked and digests):
            return first
        named = direction, layer, axis
        dispatcher = StrategyDispatcher(self, write, first, list(made.values()), digests, *named)
        self.dispatchers |= dict.fromkeys(made, dispatcher)
        return replace(first, call=dispatcher)

    def with_switches(self, **switches: Any) -> KernelLowering:
        """Return a lowering with kernels of its own, and these switches."""
        fields = ("launchers", "choices", "unwritten", "unwritten_phases", "dispatchers")
        own: dict[str, Any] = {k: {} for k in fields}
        return replace(self, written=[], **own, **switches)

    def write(self, scope: Scope, loop: Loop, keep: set[int], name: str) -> list[Line] | None:
        """Return the lines that run a loop by kernels; None if torch code has to run it."""
        reasons: list[str] = []
        tolerated: LoopKernel | None = None
        for strategy in ("resident", "cooperative"):
            try:
                made = getattr(self, f"_{strategy}")(scope, loop, keep, name)
            except Unsupported as reason:
                reasons.append(str(reason))
                continue
            if made.verdict.tolerated:  # a cooperative kernel may avoid the fault
                tolerated = made
                reasons.append(made.verdict.reason)
                continue
            return self._one_kernel(scope, loop, keep, name, made, strategy, reasons)
        if tolerated is not None:
            return self._one_kernel(scope, loop, keep, name, tolerated, "resident", reasons[1:])
        return self._stepwise(scope, loop, keep, name, "; ".join(dict.fromkeys(reasons)))

    def _one_kernel(
        self,
        scope: Scope,
        loop: Loop,
        keep: set[int],
        name: str,
        made: LoopKernel,
        strategy: str,
        reasons: Sequence[str],
    ) -> list[Line]:
        """Return the lines that run a loop as one kernel; `reasons` exclude earlier strategies."""
        why = made.verdict.reason + self._details(scope, made)
        why = "; ".join([why, *(f"not by one block: {r}" for r in reasons)])
        stacks = self.stacks.get(scope.ir.floating)
        weighed = stacks.why.get(key_of(scope.ir, loop), "") if stacks else ""
        why = f"{weighed}; {why}" if weighed else why
        choice = LoopStrategy(strategy, why, self._estimates([made]))
        if made.source.program.open:
            return self._kernel_or_steps(scope, loop, keep, name, made, choice)
        self._record(scope, loop, name, choice)
        return self._call(scope, made.source, made.verdict, made.reads, made.kept)

    def _kernel_or_steps(
        self,
        scope: Scope,
        loop: Loop,
        keep: set[int],
        name: str,
        made: LoopKernel,
        choice: LoopStrategy,
    ) -> list[Line]:
        """Return lines that run one kernel if the block axis is short enough, else its steps."""
        most, axis = made.source.program.most, made.source.program.block_axis
        call = self._call(scope, made.source, made.verdict, made.reads, made.kept)
        names = {i: scope.names[i] for i in made.kept}
        steps = StepWriter(scope, loop, keep, name, self).write()
        steps += [assign(names[i], scope.names[i]) for i in made.kept]
        scope.names.update(names)
        why = f"{choice.reason}; for up to {most} positions of {axis}, else step by step"
        self._record(scope, loop, name, replace(choice, reason=why))
        return [If(code("{} <= {}", scope.size(axis), most), call, steps)]

    def _record(
        self, scope: Scope, loop: Loop, name: str, choice: LoopStrategy, launches: int = 0
    ) -> None:
        """Record the strategy of a loop, and its number of launches per step."""
        self.choices[name] = choice
        self.written.append((scope.ir, choice.strategy, loop.axis, launches))

    def pair(self, scope: Scope, loops: list[Loop], keep: set[int], name: str) -> list[Line] | None:
        """Return the lines that run two loops in one launch; None if they cannot be one."""
        for strategy in ("resident", "cooperative"):
            write = getattr(self, f"_{strategy}")
            try:
                made = [write(scope, x, keep, f"{name}_{k}", 2) for x, k in zip(loops, "ab")]
            except Unsupported:
                continue
            first, second = made
            if first.same_launch(second):
                source = pair(name, first.source, second.source)
                reason = f"side by side in one launch; {first.verdict.reason}"
                reason += self._details(scope, first)
                self._record(
                    scope, loops[0], name, LoopStrategy(strategy, reason, self._estimates(made))
                )
                reads, kept = [*first.reads, *second.reads], [*first.kept, *second.kept]
                return self._call(scope, source, first.verdict, reads, kept)
        return None

    def _estimates(self, made: Sequence[LoopKernel]) -> tuple[CostEstimates, ...]:
        """Return the cost estimates of loops that have kernels, in one launch."""
        if not self.fit:
            return ()
        each = [(x.source.program, x.source, x.verdict.launch) for x in made]
        return tuple(CostEstimates(*x, self.target, len(made), self.cooperative) for x in each)

    def _details(self, scope: Scope, made: LoopKernel) -> str:
        """Return how float32 is multiplied, and where ragged loops end, as text."""
        program, text = made.source.program, ""
        if self._runs_in(scope.ir) == torch.float32:
            how = PRECISIONS[input_precision(torch.float32, self.float32)]
            if isinstance(made.source, CooperativeSource) and made.source.tiling.bf16x3:
                how = SPLIT_PRODUCTS
            text = f"; float32 is multiplied by {how}"
        text += RAGGED if program.ends is not None else ""
        return text + (SORTED if program.order is not None else "")

    def together(self, ir: IR, loops: Sequence[Loop], one: Loop) -> bool:
        """Return whether loops that feed each other are predicted faster as the one loop `one`."""
        if not self.cooperative:
            return False
        if ir.floating not in self.stacks:
            launch = functools.partial(self._launch, self._runs_in(ir))
            how = (self.resident, self.fit, not self.executor.interprets)
            self.stacks[ir.floating] = Stacks(launch, self.target, *how)
        return self.stacks[ir.floating].faster(ir, loops, one)

    def _resident(
        self, scope: Scope, loop: Loop, keep: set[int], name: str, loops: int = 1
    ) -> LoopKernel:
        """Return the persistent kernel of a loop. Raises Unsupported if there is none."""
        self._need(RESIDENT)
        kept = [i for i in loop.nodes if i in keep]
        program, reads = loop_program(scope.ir, loop, kept, name, scope.ends)
        try:
            source, verdict = self._best(program, self._runs_in(scope.ir))
        except Unsupported:
            if program.order is None:
                raise
            program, reads = unordered(program, reads)
            source, verdict = self._best(program, self._runs_in(scope.ir))
        return LoopKernel(source, verdict, reads, kept)

    def _cooperative(
        self, scope: Scope, loop: Loop, keep: set[int], name: str, loops: int = 1
    ) -> LoopKernel:
        """Return the cooperative kernel of a loop, one of `loops` in the same launch.

        Raises Unsupported if there is none.
        """
        if not self.cooperative:
            raise Unsupported("cooperative kernels are switched off (skip 'cooperative')")
        self._need(COOPERATIVE)
        kept = [i for i in loop.nodes if i in keep]
        program, reads = loop_program(scope.ir, loop, kept, name, scope.ends)
        launch = self._launch(self._runs_in(scope.ir))
        ask = not self.executor.interprets
        how = (ask, self.fit, loops, self.only_if_faster)
        source, verdict = choose_cooperative(program, launch, self.target, *how)
        return LoopKernel(source, verdict, reads, kept)

    def _runs_in(self, ir: IR) -> torch.dtype:
        """Return the dtype that calls compute in: autocast's, unless that of a state is stated."""
        fixed = any(n.attrs.get("stated") for n in ir)
        if not self.autocast or ir.floating != torch.float32 or fixed:
            return ir.floating
        return getattr(torch, self.autocast)  # type: ignore[no-any-return]

    def _need(self, kind: str) -> None:
        """Raise Unsupported if GRAPHNN_KERNELS names other kinds of kernels only."""
        if kind not in self.kinds:
            raise Unsupported(f"GRAPHNN_KERNELS does not name '{kind}'")

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
        """Return a persistent kernel and the verdict on it. Raises Unsupported if none fits."""
        if not self.resident:
            raise Unsupported("persistent kernels are switched off (skip 'resident')")
        launch = self._launch(floating)
        if not self.fit:
            reason = "not checked whether it fits a GPU (skip 'fit')"
            return emit(program), Verdict(True, launch, reason)
        source, verdict = choose_kernel(
            program, launch, self.target, may_compile=not self.executor.interprets
        )
        if not verdict.fits:
            raise Unsupported(verdict.reason)
        return source, verdict

    def _launch(self, floating: torch.dtype) -> Launch:
        """Return the launch of a kernel of a whole loop. Raises Unsupported if there is none."""
        if floating not in DTYPES and not self.executor.interprets:
            raise Unsupported(f"no matrix unit multiplies {floating}")
        # float64 is for proofs by the interpreter, which run the kernels of half precision
        dtype = floating if floating in DTYPES else torch.bfloat16
        self._refuse(dtype)
        return Launch(DTYPES[dtype], input_precision(dtype, self.float32))

    def _refuse(self, floating: torch.dtype) -> None:
        """Raise Unsupported if the target runs no kernels of a dtype."""
        how = DTYPES.get(floating, ""), input_precision(floating, self.float32)
        if self.fit and (why := refusal(self.target, *how)):
            raise Unsupported(why)

    def _launcher(self, scope: Scope, source: LoopSource, warps: int = 8) -> Expression:
        kind = CooperativeLauncher if isinstance(source, CooperativeSource) else Launcher
        launcher = kind(source, self.executor, warps, self.float32)
        launcher.tuner.enabled = self.tune
        launcher.tuner.most_rows = min(self.rows, most_tile_rows())
        self.launchers[source.name] = launcher
        return scope.object(launcher, f"{source.name}_kernel")

    def sources(self) -> list[str]:
        """Return the source of every kernel."""
        return [launcher.source.text for launcher in self.launchers.values()]

    def attend(self, part: AttentionRegion, passes: frozenset[str]) -> Any:
        """Return the kernels of a contraction; None if torch has to compute it."""
        kind: Any = StatisticsKernels if isinstance(part, StatisticsRegion) else AttentionKernels
        kind = TopKKernels if part.top else kind
        try:
            self._refuse(self._runs_in(part.ir))
            self._need("attention")
            return self._keyed(kind(part, passes, self.executor, self.float32))
        except Unsupported as reason:
            self.unwritten[part.name] = str(reason)
            return None

    def _keyed(self, engine: Any) -> Any:
        """Return an engine with the options that it was made with, for the key of its operator."""
        engine.options = self.key
        return engine

    def layer(self, node: Node, own: LoopProgram, wanted: Sequence[int]) -> TimedLayer:
        """Return what runs one of torch's layers, or `own`, the program of its definition."""
        return TimedLayer(node, own, wanted, self.tune)

    def hops(self, part: Hops, passes: frozenset[str]) -> Any:
        """Return the kernels of hops; None if torch has to compute them."""
        try:
            self._refuse(self._runs_in(part.ir))
            self._need("attention")
            return self._keyed(HopKernels(part, passes, self.executor, self.float32))
        except Unsupported as reason:
            self.unwritten[part.name] = str(reason)
            return None

    def called(self) -> dict[str, Any]:
        """Return the functions that replace those of generated code: scans and random tensors."""
        found = {
            "scan": functools.partial(scan, executor=self.executor.name),
            "noise": functools.partial(trusted_random_tensor, executor=self.executor),
        }
        kinds = {"scan": "scan", "noise": "random"}
        return {name: call for name, call in found.items() if kinds[name] in self.kinds}

    def _stepwise(
        self, scope: Scope, loop: Loop, keep: set[int], name: str, reason: str
    ) -> list[Line] | None:
        """Return the lines of a stepwise loop, a kernel per phase; None for loops within loops."""
        switched_off = STEPWISE not in self.kinds
        if switched_off:
            reason = f"GRAPHNN_KERNELS does not name '{STEPWISE}'; {reason}"
        whole = all(isinstance(r, Whole) for r in loop.body)
        if switched_off or loop.stop is not None or not whole:
            why = f"one torch call per operation and time step: {reason}"
            self._record(scope, loop, name, LoopStrategy("torch", why))
            return None
        why = f"torch's products and one kernel per phase, as one kernel cannot run it: {reason}"
        if self.float32 is not None and self._runs_in(scope.ir) == torch.float32:
            why += f"; torch's setting applies to its products, not float32={self.float32!r}"
        estimates = self._stepwise_estimates(scope, loop, keep, name)
        writer = StepWriter(scope, loop, keep, name, self)
        lines = writer.write()
        self._record(scope, loop, name, LoopStrategy(STEPWISE, why, estimates), len(writer.step))
        return lines

    def _stepwise_estimates(
        self, scope: Scope, loop: Loop, keep: set[int], name: str
    ) -> tuple[CostEstimates, ...]:
        """Return the cost estimates of a stepwise loop, if a cooperative kernel is possible."""
        if not self.fit or not self.cooperative:
            return ()
        try:
            kept = [i for i in loop.nodes if i in keep]
            program, _ = loop_program(scope.ir, loop, kept, name, scope.ends)
            return (
                CostEstimates(program, None, self._launch(self._runs_in(scope.ir)), self.target),
            )
        except Unsupported:
            return ()

    def note(self, ir: IR) -> str:
        """Return a sentence for the title of a function with CUDA graphs, as part of its text."""
        return " Replayed as a CUDA graph if that is faster." if self._steps(ir) else ""

    def replayed(self, ir: IR, call: Any, axes: Sequence[str]) -> Any:
        """Return a function that replays its stepwise loops; the function itself without any."""
        steps = self._steps(ir)
        return Replayed(call, axes, steps, self.cuda) if steps else call

    def _steps(self, ir: IR) -> list[tuple[str, int]]:
        """Return axis and launches per step of stepwise loops, if the function can be recorded.

        Functions of the user, and loops that end by their data, cannot: they may read their data.
        """
        mine = [(strategy, axis, count) for x, strategy, axis, count in self.written if x is ir]
        unknown = any(n.op in ("opaque", "vjp") for n in ir)
        if not self.graphs or unknown or any(strategy == "torch" for strategy, _, _ in mine):
            return []
        return [(axis, count) for strategy, axis, count in mine if strategy == "stepwise"]

    def phase(self, s: Scope, nodes: list[int], kept: list[int], name: str) -> Called | None:
        """Return a phase's kernel, the nodes it reads and its axes; None if there is none."""
        try:
            self._refuse(self._runs_in(s.ir))
            program, reads = phase_program(s, nodes, kept, name)
            source = emit(program)
        except Unsupported as reason:
            self.unwritten_phases.setdefault(s.function, {})[name] = str(reason)
            return None
        return self._launcher(s, source), reads, source.sizes
