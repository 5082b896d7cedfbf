"""Searches over the ways to shard a loop across a GPU for the best cooperative kernel.

Candidates are kernels whose blocks can all run at once and whose tiles fit. The cost model ranks
them, and compares them with stepwise execution. If compiling is allowed, the best ones are compiled
and the first without faults is taken.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ..cooperative.codegen.emit import CooperativeSource, emit_outlined
from ..cooperative.plan.granularity import granularities, largest_granularity
from ..cooperative.plan.outline import Demand, Outline, demand, outline
from ..cooperative.plan.retime import retimed
from ..cooperative.plan.tiling import Tiling
from ..feasibility import targets
from ..feasibility.fit import (
    ITEMSIZE,
    CompileBudget,
    Launch,
    Verdict,
    bytes_per_weight,
    compile_faults,
)
from ..feasibility.targets import refusal, shared_memory_of
from ..ir.program import LoopProgram, Unsupported
from .cost_model import GPUS, GpuModel, StepWork, cooperative_parts, stepwise_time

# Units per block. For four gates these are up to 512 columns: more do not fit next to a long
# operand.
UNITS_PER_BLOCK = (4, 8, 16, 32, 64, 128)
# Columns of an operand's pieces and how many pieces are in flight; the first that fits is taken.
# sm_90, bf16, 16 rows, 8 warps, an LSTM of 1024 units in blocks of 16, backward: 246 registers, no
# spill. Split products need more registers, so for them the first is left out: float32, 512 units
# in blocks of 8, backward, spills 4 with it in Triton 3.6, none with the second.
PIECES = ((256, 4), (256, 2), (128, 2))
# how many candidates are compiled at most, and how many others the reason lists
COMPILED, LISTED = 3, 2
# Candidates within this factor of the best are timed on a GPU: the model may be wrong by as much.
MODEL_ERROR = 1.3
# the precision for which these kernels split float32 into parts (see `prelude.matmul_bf16x3`), the
# number of parts, and of products of parts
SPLIT_PRECISION, SPLIT_PARTS, SPLIT_PRODUCTS = "tf32x3", 3, 6
# the least bytes of shared memory for changes of layout, in addition to weights
LAYOUT_BYTES = 4 * 1024


@dataclass(frozen=True)
class Candidate:
    """A possible kernel: its resources, shared memory, and the parts of the time of a step."""

    outline: Outline
    demand: Demand
    shared_memory: int
    parts: dict[str, float]

    @functools.cached_property
    def source(self) -> CooperativeSource:
        """The kernel, written when first used. Raises Unsupported."""
        return emit_outlined(self.outline, self.demand.tiling)

    @property
    def microseconds(self) -> float:
        """The predicted time of a step."""
        return sum(self.parts.values())

    @property
    def description(self) -> str:
        """The blocks and units, as text."""
        streamed = ", part of the weights loaded at each step" if self.demand.streamed else ""
        return f"{self.demand.blocks} blocks of {self.demand.tiling.units} units{streamed}"


def choose_cooperative(
    program: LoopProgram,
    launch: Launch,
    target: str,
    may_compile: bool = True,
    fit: bool = True,
    loops: int = 1,
    compare_stepwise: bool = True,
) -> tuple[CooperativeSource, Verdict]:
    """Return the cooperative kernel predicted to be the fastest for `launch.rows` rows.

    `loops` loops run side by side and divide the GPU. Without `fit` the kernel with the fewest
    blocks is returned, unchecked. Raises Unsupported if there is no kernel, or if stepwise
    execution is predicted to be faster and `compare_stepwise` is set.
    """
    ranked, gpu, stepwise = _ranked(program, launch, target, loops, fit, compare_stepwise)
    if not fit:
        first = next(_writable(ranked))
        reason = f"{first.description}; not checked whether it fits a GPU (skip 'fit')"
        return first.source, Verdict(True, launch, reason)
    compiled = may_compile and _first_sound(ranked, launch, target)
    best, faults = compiled or (next(_writable(ranked)), "")
    others = [c for c in ranked if c is not best][:LISTED]
    reason = _reason(best, others, stepwise, launch, target, gpu) + faults
    close = [c for c in others if c.microseconds < MODEL_ERROR * best.microseconds]
    alternatives = (c.source for c in _writable(close, needed=False))
    source = replace(best.source, others=tuple(alternatives))
    return source, Verdict(True, replace(launch, warps=source.tiling.warps), reason)


def fastest_step(
    program: LoopProgram, launch: Launch, target: str, may_compile: bool = True, fit: bool = True
) -> float:
    """Return the predicted microseconds per step of the kernel from `choose_cooperative`.

    Raises Unsupported in the same cases. Without `may_compile` no kernel is written.
    """
    ranked, _, _ = _ranked(program, launch, target, 1, fit)
    best = _first_sound(ranked, launch, target)[0] if may_compile and fit else ranked[0]
    return best.microseconds


def _ranked(
    program: LoopProgram,
    launch: Launch,
    target: str,
    loops: int,
    fit: bool,
    compare_stepwise: bool = True,
) -> tuple[list[Candidate], GpuModel, float]:
    """Return the kernels that fit, the best first, the GPU, and the stepwise time in µs."""
    if why := refusal(target, launch.dtype, launch.precision):
        raise Unsupported(why)
    gpu = device_at_hand(target)
    gpu = replace(gpu, processors=gpu.processors // loops)
    found = cooperative_candidates(program, launch, target, gpu)
    ranked = sorted(found, key=lambda c: c.microseconds)
    if not ranked:
        raise Unsupported(_nothing_fits(program, gpu))
    if not fit:
        return sorted(ranked, key=lambda c: c.demand.blocks), gpu, 0.0
    stepwise = _stepwise_time(ranked[0].demand, launch, gpu)
    if compare_stepwise and stepwise < ranked[0].microseconds:
        raise Unsupported(
            f"cooperative kernel of {ranked[0].description}: predicted "
            f"{ranked[0].microseconds:.1f} µs per step, stepwise {stepwise:.1f} "
            f"(cost model, {gpu.name})"
        )
    return ranked, gpu, stepwise


def _nothing_fits(program: LoopProgram, gpu: GpuModel) -> str:
    """Return why no number of units per block fits."""
    return (
        f"no block of {min(UNITS_PER_BLOCK)} to {max(UNITS_PER_BLOCK)} of its "
        f"{largest_granularity(program)} units fits one of the {gpu.processors} multiprocessors "
        f"({gpu.name})"
    )


def _writable(candidates: Sequence[Candidate], needed: bool = True) -> Iterator[Candidate]:
    """Yield the candidates whose kernels can be written.

    If one is `needed` and there is none, raises Unsupported with the reason of the first.
    """
    refused: list[Unsupported] = []
    for candidate in candidates:
        try:
            candidate.source  # noqa: B018  it is written now
        except Unsupported as reason:
            refused.append(reason)
        else:
            yield candidate
    if needed and len(refused) == len(candidates):
        raise refused[0]


def _first_sound(ranked: list[Candidate], launch: Launch, target: str) -> tuple[Candidate, str]:
    """Return the first candidate that compiles without faults, and the fault of the first one.

    Raises Unsupported if the first few all have faults. Each takes seconds to compile, so that of
    long kernels only the very first is compiled.
    """
    first, budget = "", CompileBudget()
    for candidate in itertools.islice(_writable(ranked), COMPILED):
        if not budget.spend(candidate.source) and first:
            break
        faults = compile_faults(candidate.source, launch, target)
        if not faults:
            return candidate, first
        first = first or f"; {candidate.description}, compiled, {faults[0].text}"
    raise Unsupported(f"no cooperative kernel compiles for {target} without faults{first}")


def device_at_hand(target: str) -> GpuModel:
    """Return the target's cost model, with the multiprocessors of the GPU at hand, if it is one."""
    gpu, device = GPUS[target], targets.device_at_hand(target)
    if device is None:
        return gpu
    return replace(gpu, name=device.name, processors=device.processors)


def cooperative_candidates(
    program: LoopProgram, launch: Launch, target: str, gpu: GpuModel
) -> Iterator[Candidate]:
    """Yield the kernels that fit and whose blocks can all run at once.

    Raises Unsupported if none can be written.
    """
    known = granularities(program)
    period = largest_granularity(program, known)
    possible = [units for units in UNITS_PER_BLOCK if 1 < -(-period // units) <= gpu.processors]
    if possible and (late := retimed(program, possible[0])) is not program:
        program, known = late, granularities(late)
    for units in possible:
        found = _candidate(outline(program, units, known), units, launch, target, gpu)
        if found is not None:
            yield found
            if found.demand.streamed:  # fewer blocks would keep even fewer weights
                return


def _candidate(
    planned: Outline, units: int, launch: Launch, target: str, gpu: GpuModel
) -> Candidate | None:
    """Return the kernel with `units` units per block that keeps the most weights, or None."""
    have = shared_memory_of(target)
    for tiling in _tilings(units, launch, have):
        found = demand(planned, tiling)
        if (need := shared_memory(found, launch)) <= have:
            parts = cooperative_parts(step_work(found, launch, 1), gpu)
            return Candidate(planned, found, need, parts)
    return None


def _tilings(units: int, launch: Launch, have: int) -> Iterator[Tiling]:
    """Yield tilings that keep all weights, then one that keeps as many as `have` bytes allow."""
    split = launch.precision == SPLIT_PRECISION
    for piece, flight in PIECES[split:]:
        yield Tiling(units, launch.warps, piece, flight, bf16x3=split)
    least = Tiling(units, launch.warps, piece, flight, 0, split)
    staging = launch.rows * piece * flight * _bytes_per_weight(least, launch)
    if split:
        staging = max(launch.rows, _product_columns(least)) * piece * ITEMSIZE[launch.dtype]
    room = (have - LAYOUT_BYTES - staging) // _bytes_per_weight(least, launch)
    if room > 0:
        yield replace(least, room=room)


def _product_columns(tiling: Tiling) -> int:
    """Return the most columns of one matmul: up to four parts are joined."""
    return 4 * tiling.units


def _bytes_per_weight(tiling: Tiling, launch: Launch) -> int:
    """Return the bytes of one weight: of three bfloat16 parts if products are split."""
    return SPLIT_PARTS * 2 if _is_split(tiling, launch) else bytes_per_weight(launch)


def _is_split(tiling: Tiling, launch: Launch) -> bool:
    """Return whether products are split: a launch may use another precision than planned."""
    return tiling.bf16x3 and launch.precision == SPLIT_PRECISION


def _staging_bytes(source: CooperativeSource | Demand, launch: Launch) -> int:
    """Return the bytes of shared memory that pieces of an operand pass through.

    If products are split, pieces pass one after another, and so do weights that are loaded at each
    step.
    """
    tiling, staged = source.tiling, source.staged
    if not _is_split(tiling, launch):
        return launch.rows * sum(staged) * bytes_per_weight(launch)
    streamed = _product_columns(tiling) * tiling.piece if source.streamed else 0
    return max(launch.rows * max(staged, default=0), streamed) * ITEMSIZE[launch.dtype]


def shared_memory(source: CooperativeSource | Demand, launch: Launch) -> int:
    """Return the bytes of shared memory per block: kept weights and staging of operands.

    This is what Triton 3.9 uses for an LSTM of 256 to 1024 units, forward and backward, to the
    kilobyte.
    """
    kept = sum(source.weights.values()) * _bytes_per_weight(source.tiling, launch)
    return kept + max(_staging_bytes(source, launch), LAYOUT_BYTES)


def step_work(source: CooperativeSource | Demand, launch: Launch, tiles: int) -> StepWork:
    """Return the work of one step of a kernel, as input of the cost model."""
    itemsize = ITEMSIZE[launch.dtype]
    gathered = sum(e.size * (4 if e.wide else itemsize) for e in source.exchanges)
    return StepWork(
        source.blocks,
        tiles,
        launch.rows,
        source.barriers,
        sum(source.weights.values()) * _bytes_per_weight(source.tiling, launch),
        source.streamed * itemsize,
        gathered * launch.rows,
        _bytes_per_weight(source.tiling, launch),
        SPLIT_PRODUCTS if _is_split(source.tiling, launch) else 1,
        block_axis=(source.positions[0] * itemsize, source.positions[1]),
    )


def predicted_step(source: CooperativeSource, launch: Launch, target: str) -> float:
    """Return the predicted microseconds per step of a kernel."""
    return sum(cooperative_parts(step_work(source, launch, 1), device_at_hand(target)).values())


def _stepwise_time(source: Demand, launch: Launch, gpu: GpuModel) -> float:
    weights = source.blocks * (sum(source.weights.values()) + source.streamed)
    # attention, or another operation over all of an axis, is at least one phase more
    matmuls = source.products + bool(any(source.positions))
    return stepwise_time(matmuls, weights * ITEMSIZE[launch.dtype], gpu)


def _reason(
    best: Candidate,
    others: list[Candidate],
    stepwise: float,
    launch: Launch,
    target: str,
    gpu: GpuModel,
) -> str:
    """Return why a kernel was chosen, as text."""
    blocks, barriers = best.demand.blocks, best.demand.barriers
    largest = max(best.parts, key=lambda name: best.parts[name])
    listed = [f"{c.description} {c.microseconds:.1f}" for c in others]
    listed.append(f"stepwise {stepwise:.1f}")
    return (
        f"one kernel on {blocks} of {gpu.processors} multiprocessors ({gpu.name}) for each "
        f"{launch.rows} rows: {best.description}, {best.shared_memory / 1024:.0f} of "
        f"{shared_memory_of(target) / 1024:.0f} KB of shared memory, "
        f"{barriers} barrier{'s' * (barriers != 1)} per step; predicted {best.microseconds:.1f} µs "
        f"per step, most of it {largest} (cost model, not measured); "
        f"others: {', '.join(listed)}"
    )
