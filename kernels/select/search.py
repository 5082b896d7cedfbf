"""How widely a loop is spread over a GPU: the cooperative kernels it may get, and the best of them.

Those whose blocks can all run at once and whose tiles fit are ranked by a model of a step's time,
beside going step by step; the compiler has the last word where it is asked.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from ..cooperative.codegen.emit import CooperativeSource, emit_outlined
from ..cooperative.codegen.matmul import Tiling
from ..cooperative.plan.granularity import granularities, widest
from ..cooperative.plan.outline import Outline, Resources, outline, resources
from ..cooperative.plan.retime import retimed
from ..feasibility.fit import ITEMSIZE, Asking, Launch, Verdict, compiled, each
from ..feasibility.limits import SHARED
from ..ir.program import LoopProgram, Unsupported
from . import cost_model
from .cost_model import DEVICES, Device, Moved

# units of a block: those of four gates make up to 512 columns, more than fit beside a long operand
UNITS = (4, 8, 16, 32, 64, 128)
# pieces of an operand and how many are under way; the first that fits is taken. sm_90, bf16, 16
# rows, 8 warps, an LSTM of 1024 units in blocks of 16, backward: 246 registers, no spill
CUTS = ((256, 4), (256, 2), (128, 2))
# Where numbers are multiplied in parts, these take registers, and the first is left out: float32,
# 512 units in blocks of 8, backward, spill 4 with it in Triton 3.6, none with the second
# how many candidates the compiler is asked about, how many others are told of, and which of them
# are timed on a GPU: the model may well be wrong by so much
ASKED, OTHERS, NEAR = 3, 2, 1.3
# the precision of float32 at which these kernels take numbers apart (see `prelude.parted_product`):
# into how many parts, and products of them
PARTED, PARTS, PRODUCTS = "tf32x3", 3, 6
# shared memory that changes of layout take at least, beyond weights and pieces
RESERVE = 4 * 1024


@dataclass(frozen=True)
class Candidate:
    """A kernel that may be written, what it takes, and the parts of the time of a step."""

    outline: Outline
    taken: Resources
    shared: int
    parts: dict[str, float]

    @functools.cached_property
    def source(self) -> CooperativeSource:
        """The kernel, written when it is first asked for. Raises Unsupported."""
        return emit_outlined(self.outline, self.taken.tiling)

    @property
    def micros(self) -> float:
        """Microseconds of a step."""
        return sum(self.parts.values())

    @property
    def words(self) -> str:
        """What tells it from others."""
        again = "" if not self.taken.streamed else ", part of the weights loaded at each step"
        return f"{self.taken.blocks} blocks of {self.taken.tiling.units} units{again}"


def spread(
    program: LoopProgram,
    launch: Launch,
    target: str,
    ask: bool = True,
    fit: bool = True,
    loops: int = 1,
    weighed: bool = True,
) -> tuple[CooperativeSource, Verdict]:
    """The fastest kernel that fits, by the model, for as many rows as `launch` has.

    So many `loops` share the GPU. Without `fit` it is that of the fewest blocks. Raises Unsupported
    where there is none, or, `weighed`, going step by step should be faster.
    """
    able, device, beside = _able(program, launch, target, loops, fit, weighed)
    if not fit:
        reason = f"{able[0].words}; whether it fits a GPU was not asked (skip 'fit')"
        return able[0].source, Verdict(True, launch, reason)
    best, faults = _sound(able, launch, target) if ask else (able[0], "")
    rest = [c for c in able if c is not best][:OTHERS]
    reason = _reason(best, rest, beside, launch, target, device) + faults
    near = (c.source for c in rest if c.micros < NEAR * best.micros)
    source = replace(best.source, others=tuple(near))
    return source, Verdict(True, replace(launch, warps=source.tiling.warps), reason)


def quickest(
    program: LoopProgram, launch: Launch, target: str, ask: bool = True, fit: bool = True
) -> float:
    """Microseconds of a step of the kernel that `spread` gives. Raises Unsupported as that does.

    Where the compiler is not asked, no kernel is written.
    """
    able, _, _ = _able(program, launch, target, 1, fit)
    return (_sound(able, launch, target)[0] if ask and fit else able[0]).micros


def _able(
    program: LoopProgram,
    launch: Launch,
    target: str,
    loops: int,
    fit: bool,
    weighed: bool = True,
) -> tuple[list[Candidate], Device, float]:
    """The kernels that fit, the best first, the device, and microseconds of a step by step."""
    device = here(target)
    device = replace(device, processors=device.processors // loops)
    able = sorted(candidates(program, launch, target, device), key=lambda c: c.micros)
    if not able:
        raise Unsupported(_none(program, device))
    if not fit:
        return sorted(able, key=lambda c: c.taken.blocks), device, 0.0
    beside = _stepwise(able[0].taken, launch, device)
    if weighed and beside < able[0].micros:
        raise Unsupported(
            f"{able[0].words}, shared by the whole GPU, should take {able[0].micros:.1f} us a "
            f"step, step by step {beside:.1f} (a model's figures, {device.name})"
        )
    return able, device, beside


def _none(program: LoopProgram, device: Device) -> str:
    """Why no number of units fits."""
    return (
        f"no block of {min(UNITS)} to {max(UNITS)} of its {widest(program)} units fits one of the "
        f"{device.processors} multiprocessors ({device.name})"
    )


def _sound(able: list[Candidate], launch: Launch, target: str) -> tuple[Candidate, str]:
    """The first that compiles without fault, and what was wrong with the very first.

    Raises Unsupported where all of the first few have faults: each takes seconds, so that of long
    ones the very first alone is compiled.
    """
    first, asking = "", Asking()
    for candidate in able[:ASKED]:
        if not asking.about(candidate.source) and first:
            break
        found = compiled(candidate.source, launch, target)
        if not found:
            return candidate, first
        first = first or f"; {candidate.words}, compiled, {found[0]}"
    raise Unsupported(f"no cooperative kernel compiles for {target} without fault{first}")


def here(target: str) -> Device:
    """The device that plans are made for, with as many multiprocessors as the one at hand has."""
    device = DEVICES[target]
    if torch.cuda.is_available():
        props = torch.cuda.get_device_properties(torch.cuda.current_device())
        return replace(device, name=props.name, processors=props.multi_processor_count)
    return device


def candidates(
    program: LoopProgram, launch: Launch, target: str, device: Device
) -> Iterator[Candidate]:
    """The kernels whose blocks all run at once and fit. Raises Unsupported if none is written."""
    known = granularities(program)
    period = widest(program, known)
    able = [units for units in UNITS if 1 < -(-period // units) <= device.processors]
    if able and (late := retimed(program, able[0])) is not program:
        program, known = late, granularities(late)
    for units in able:
        found = _fitting(outline(program, units, known), units, launch, target, device)
        if found is not None:
            yield found
            if found.taken.streamed:  # fewer blocks would keep even less
                return


def _fitting(
    found: Outline, units: int, launch: Launch, target: str, device: Device
) -> Candidate | None:
    """The kernel of blocks of so many units: all weights kept, if that fits, or as many as do."""
    have = SHARED[target]
    for tiling in _tilings(units, launch, have):
        made = resources(found, tiling)
        if (need := shared(made, launch)) <= have:
            return Candidate(found, made, need, cost_model.shared(moves(made, launch, 1), device))
    return None


def _tilings(units: int, launch: Launch, have: int) -> Iterator[Tiling]:
    """Ways to cut a loop: first those that keep all weights, then one that keeps what there is
    room for."""
    parted = launch.precision == PARTED
    for piece, flight in CUTS[parted:]:
        yield Tiling(units, launch.warps, piece, flight, parted=parted)
    least = Tiling(units, launch.warps, piece, flight, 0, parted)
    passing = launch.rows * piece * flight * _each(least, launch)
    if parted:
        passing = max(launch.rows, _columns(least)) * piece * ITEMSIZE[launch.dtype]
    room = (have - RESERVE - passing) // _each(least, launch)
    if room > 0:
        yield replace(least, room=room)


def _columns(tiling: Tiling) -> int:
    """The columns that come out of one product at most: `across` joins four parts."""
    return 4 * tiling.units


def _each(tiling: Tiling, launch: Launch) -> int:
    """Bytes of a number of a weight: three of bfloat16, where it is multiplied in parts."""
    return PARTS * 2 if _parted(tiling, launch) else each(launch)


def _parted(tiling: Tiling, launch: Launch) -> bool:
    """Whether numbers are multiplied in parts: a launch may ask for another precision."""
    return tiling.parted and launch.precision == PARTED


def _passing(source: CooperativeSource | Resources, launch: Launch) -> int:
    """Bytes of shared memory that the pieces of an operand pass through: one after another where
    they are taken apart behind it, and so do weights that are loaded at each step."""
    tiling, staged = source.tiling, source.staged
    if not _parted(tiling, launch):
        return launch.rows * sum(staged) * each(launch)
    again = _columns(tiling) * tiling.piece if source.streamed else 0
    return max(launch.rows * max(staged, default=0), again) * ITEMSIZE[launch.dtype]


def shared(source: CooperativeSource | Resources, launch: Launch) -> int:
    """Bytes of shared memory of a block: weights that are kept, and what pieces pass through.

    What Triton 3.9 takes for an LSTM of 256 to 1024 units, forward and backward, to the kilobyte.
    """
    kept = sum(source.weights.values()) * _each(source.tiling, launch)
    return kept + max(_passing(source, launch), RESERVE)


def moves(source: CooperativeSource | Resources, launch: Launch, tiles: int) -> Moved:
    """What a step of a kernel does, for the model."""
    itemsize = ITEMSIZE[launch.dtype]
    gathered = sum(e.size * (4 if e.wide else itemsize) for e in source.exchanges)
    return Moved(
        source.blocks,
        tiles,
        launch.rows,
        source.barriers,
        sum(source.weights.values()) * _each(source.tiling, launch),
        source.streamed * itemsize,
        gathered * launch.rows,
        _each(source.tiling, launch),
        PRODUCTS if _parted(source.tiling, launch) else 1,
        lanes=(source.lanes[0] * itemsize, source.lanes[1]),
    )


def micros(source: CooperativeSource, launch: Launch, target: str) -> float:
    """Microseconds that a step should take, by the model."""
    return sum(cost_model.shared(moves(source, launch, 1), here(target)).values())


def _stepwise(source: Resources, launch: Launch, device: Device) -> float:
    numbers = source.blocks * (sum(source.weights.values()) + source.streamed)
    # attention, or whatever else takes all of an axis, is at least one phase more
    products = source.products + bool(any(source.lanes))
    return cost_model.stepwise(products, numbers * ITEMSIZE[launch.dtype], device)


def _reason(
    best: Candidate,
    rest: list[Candidate],
    beside: float,
    launch: Launch,
    target: str,
    device: Device,
) -> str:
    source = best.taken
    most = max(best.parts, key=lambda name: best.parts[name])
    met = f"{source.barriers} barrier{'s' * (source.barriers != 1)} a step"
    others = [f"{c.words} {c.micros:.1f}" for c in rest] + [f"step by step {beside:.1f}"]
    return (
        f"one kernel on {source.blocks} of {device.processors} multiprocessors ({device.name}) for "
        f"each {launch.rows} rows: {best.words}, {best.shared / 1024:.0f} of "
        f"{SHARED[target] / 1024:.0f} KB of shared memory, {met}; by a model that no GPU has "
        f"confirmed {best.micros:.1f} us a step, most of it {most} (others: {', '.join(others)})"
    )
