"""Changes of one statement of a program that take away an order between threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from graphnn.kernels.ptx import Instruction, Program

# statements that touch memory which threads share, or that order accesses of it
MEMORY = {"ld", "st", "ldmatrix", "stmatrix", "cp", "atom", "red", "wgmma", "fence", "membar"}
BRANCHES = {"bra", "ret", "exit", "trap"}


@dataclass(frozen=True)
class Mutant:
    """A changed program: how, at which statement, and the text of the PTX.

    `left_out` are the statements that were left out, or the one that was changed.
    """

    change: str
    left_out: tuple[Instruction, ...]
    text: str

    @property
    def statement(self) -> Instruction:
        """The first of the statements."""
        return self.left_out[0]


Change = Callable[[Program, Instruction], "str | None"]


def _left_out(program: Program, statement: Instruction) -> str:
    return program.without(statement)


def _replacing(old: str, new: str) -> Change:
    """Replace a modifier of a statement, if it has it."""

    def change(program: Program, statement: Instruction) -> str | None:
        if f".{old}." not in statement.text:
            return None
        text = statement.text.replace(f".{old}.", f".{new}.")
        return program.replaced({statement.number: text})

    return change


def _waiting_for_fewer(program: Program, statement: Instruction) -> str | None:
    """Let one more group of copies be under way after a wait."""
    if statement.name != "cp.async.wait_group":
        return None
    count = int(str(statement.operands[0])) + 1
    return program.replaced({statement.number: f"cp.async.wait_group {count}"})


def is_acquire(x: Instruction) -> bool:
    """Return whether a statement waits for other thread blocks."""
    return x.opcode == "ld" and "acquire" in x.modifiers


def is_release(x: Instruction) -> bool:
    """Return whether a statement tells other thread blocks that this one has arrived."""
    return x.opcode in ("red", "st") and "release" in x.modifiers


def is_barrier(x: Instruction) -> bool:
    """Return whether all threads of a block wait for each other at a statement."""
    return x.opcode in ("bar", "barrier") and "warp" not in x.modifiers


# kind of statement, name of the change, change
CHANGES: list[tuple[Callable[[Instruction], bool], str, Change]] = [
    (is_barrier, "bar.sync left out", _left_out),
    (is_acquire, "acquire weakened", _replacing("acquire", "relaxed")),
    (is_acquire, "acquire of the block alone", _replacing("gpu", "cta")),
    (is_release, "release weakened", _replacing("release", "relaxed")),
    (is_release, "release of the block alone", _replacing("gpu", "cta")),
    (is_release, "arrival left out", _left_out),
    (lambda x: x.name == "fence.proxy.async", "fence.proxy.async left out", _left_out),
    (lambda x: x.name == "fence.proxy.async.shared::cta", "fence.proxy.async left out", _left_out),
    (lambda x: x.name == "cp.async.wait_group", "cp.async.wait_group left out", _left_out),
    (lambda x: x.name == "cp.async.wait_group", "cp.async waits for fewer", _waiting_for_fewer),
]


def mutants(program: Program) -> Iterator[Mutant]:
    """Yield every mutant of a program."""
    for statement in program.instructions:
        for fits, name, change in CHANGES:
            text = change(program, statement) if fits(statement) else None
            if text is not None:
                yield Mutant(name, (statement,), text)
    for twins in _runs(program):
        yield Mutant("bar.sync left out with its twins", tuple(twins), program.without(*twins))


def has_twin(program: Program, statement: Instruction) -> bool:
    """Return whether a barrier is beside another one; one of the two is redundant then."""
    return any(statement in twins for twins in _runs(program))


def _runs(program: Program) -> list[list[Instruction]]:
    """Barriers in a row: no access of memory, label or branch is between them."""
    rows: list[list[Instruction]] = [[]]
    targets = _targets(program)
    for statement in program.instructions:
        apart = statement.opcode in MEMORY or statement.opcode in BRANCHES
        if apart or statement.number in targets:
            rows.append([])
        if is_barrier(statement):
            rows[-1].append(statement)
    return [row for row in rows if len(row) > 1]


def near(program: Program, barriers: tuple[Instruction, ...]) -> list[Instruction] | None:
    """Return the statements from the barrier before some barriers to the one after them.

    None if a branch leads to or from them: what is executed there is not known then.
    """
    listed, targets = program.instructions, _targets(program)
    found = []
    for first, step in ((barriers[0], -1), (barriers[-1], 1)):
        at = listed.index(first) + step
        while not is_barrier(listed[at]):
            if listed[at].opcode in BRANCHES or listed[at].number in targets:
                return None
            found.append(listed[at])
            at += step
    return found


def _targets(program: Program) -> set[int]:
    """The numbers of the statements that branches lead to."""
    named = {x.operands[0] for x in program.instructions if x.opcode == "bra"}
    firsts = ([*b.body, *([b.end] if b.end else [])] for b in program.blocks if b.label in named)
    return {statements[0].number for statements in firsts if statements}
