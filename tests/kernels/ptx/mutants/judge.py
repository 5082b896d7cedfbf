"""Whether the executor notices that a launch was changed, and how."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor

from graphnn.kernels import ptx
from tests.kernels.ptx.mutants.accesses import recorded_accesses
from tests.kernels.ptx.mutants.launches import Recorded
from tests.kernels.ptx.mutants.mutations import Mutant, has_twin, is_barrier, mutants, near

# the orders of blocks that are tried until a mutant is noticed
SEEDS = range(4)
# why a change may be without effect
UNREACHED, TWIN = "not executed in this run", "a second barrier is beside it"
PRIVATE = "without it, no more bytes are shared by warps between two barriers"
REPLACED = "another wait is for the same copies"
UNREAD = "the copies that it waits for are not read"
# what orders thread blocks, or is seen by them
OUTWARD = {"atom", "red", "fence", "membar"}


def verdict(launch: Recorded, mutant: Mutant) -> str:
    """Return how a mutant was noticed: race, deadlock, fault, NaN or numbers; "" if it was not."""
    program = ptx.parse(mutant.text)
    for seed in SEEDS if launch.together else (0,):
        try:
            report = launch.run(program, seed)
        except ptx.PtxFault as fault:
            return "deadlock" if "wait" in str(fault) else "fault"
        if report.races:
            return "race"
        if found := _changed(launch.tensors, launch.after):
            return found
    return ""


def _changed(got: list[Tensor], wanted: list[Tensor]) -> str:
    """How tensors differ from those of the unchanged launch: NaN, numbers, or not."""
    different = [
        (a, b)
        for a, b in zip(got, wanted)
        if not torch.equal(a.double().nan_to_num(0.5), b.double().nan_to_num(0.5))
    ]
    if not different:
        return ""
    lost = any((a.isnan() & ~b.isnan()).any() for a, b in different if a.is_floating_point())
    return "NaN" if lost else "numbers"


def redundant(launch: Recorded, mutant: Mutant) -> str:
    """Return why a change that was not noticed is without effect, or ""."""
    if len(mutant.left_out) == 1 and has_twin(launch.program, mutant.statement):
        return TWIN
    trap = ptx.parse(launch.program.replaced({mutant.statement.number: "trap"}))
    try:
        launch.run(trap)
    except ptx.PtxFault:
        return PRIVATE if _private(launch, mutant) else ""
    return UNREACHED


def _private(launch: Recorded, mutant: Mutant) -> bool:
    """Whether a barrier orders nothing, neither within its block nor for others."""
    if not is_barrier(mutant.statement):
        return False
    around = near(launch.program, mutant.left_out)
    if launch.together and (around is None or any(map(_outward, around))):
        return False
    return _conflicts(launch, mutant.text) <= _conflicts(launch, launch.program.text)


def _conflicts(launch: Recorded, text: str) -> int:
    """How many bytes several warps touch, and one writes, between two barriers.

    Warps that all write the same numbers to one place count, too, so there may be some.
    """
    with recorded_accesses() as found:
        launch.run(ptx.parse(text))
    return found.conflicts


def _outward(x: ptx.Instruction) -> bool:
    strong = {"acquire", "release", "relaxed", "volatile"} & set(x.modifiers)
    return x.opcode in OUTWARD or bool(strong) or (x.opcode == "st" and "global" in x.modifiers)


def score(launch: Recorded) -> tuple[Counter[tuple[str, str]], list[Mutant]]:
    """Return the verdicts counted by change, and the mutants that were missed.

    Redundant mutants count under the reason why they are.
    """
    counts: Counter[tuple[str, str]] = Counter()
    missed = []
    for mutant in mutants(launch.program):
        found = verdict(launch, mutant) or redundant(launch, mutant)
        if found:
            counts[mutant.change, found] += 1
        else:
            missed.append(mutant)
    waits = [m for m in missed if m.statement.name == "cp.async.wait_group"]
    why = _why_waits_are_redundant(launch, waits) if waits else ""
    for mutant in waits:
        counts[mutant.change, why] += 1
    return counts, [m for m in missed if m not in waits]


def _why_waits_are_redundant(launch: Recorded, waits: list[Mutant]) -> str:
    """Tell whether waits replace one another, by leaving all of them out at once.

    The executor lets a copy arrive only when it is waited for. So waits without which, together,
    nothing changes are for copies that nobody reads, such as those behind the end of a loop.
    """
    statements = dict.fromkeys(x for m in waits for x in m.left_out)
    together = Mutant("", tuple(statements), launch.program.without(*statements))
    return REPLACED if verdict(launch, together) else UNREAD
