"""Loads wide values again instead of keeping them in registers between distant uses.

A load is an address and a mask; what it has loaded needs registers as long as it is live.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ..ir.expression import Effect, Name
from ..ir.statement import Statement

# registers per thread from which a value is worth loading again, and statements between its uses (a
# Neural Turing Machine of 128 slots, backward, sm_80, bf16, Triton 3.6: 56 bytes spilled without,
# none with it)
MIN_REGISTERS, MIN_DISTANCE = 4, 24


def reloaded(
    statements: Sequence[Statement],
    in_registers: set[Name],
    sizes: Mapping[Name, int],
    fresh: Callable[[str], Name],
) -> list[Statement]:
    """The statements, with wide values loaded again before distant uses.

    Values of `in_registers` stay there anyway. `sizes` are the registers of variables, and `fresh`
    gives new variables.
    """
    found: list[Statement] = []
    cones = _cones(statements, in_registers, sizes)
    for k, statement in enumerate(statements):
        for cone in cones.values():
            if cone.last >= 0 and cone.used_by(statement):
                if k - cone.last > MIN_DISTANCE:
                    found += cone.load_again(fresh)
                cone.last = k
        for name in statement.targets:
            if name in cones:
                cones[name].last = k
        for cone in cones.values():
            statement = statement.renamed(cone.now)
        found.append(statement)
    return found


@dataclass
class _Cone:
    """A value, the statements that load it, its variable now, and where it was last used."""

    name: Name
    statements: list[Statement]
    now: dict[Name, Name] = field(default_factory=dict)
    last: int = -1

    def used_by(self, statement: Statement) -> bool:
        return self.name in statement.names and statement not in self.statements

    def load_again(self, fresh: Callable[[str], Name]) -> list[Statement]:
        """Its statements once more, with new variables."""
        new = {n: fresh(f"{n.text}_again") for s in self.statements for n in s.targets}
        self.now = {self.name: new[self.name]}
        return [statement.renamed(new) for statement in self.statements]


def _cones(
    statements: Sequence[Statement], in_registers: set[Name], sizes: Mapping[Name, int]
) -> dict[Name, _Cone]:
    """Wide values that are made of a single load."""
    made = {name: statement for statement in statements for name in statement.targets}
    times = Counter(name for statement in statements for name in statement.targets)
    found: dict[Name, _Cone] = {}
    for statement in statements:
        if len(statement.targets) != 1:
            continue
        (name,) = statement.targets
        if times[name] > 1 or name in in_registers:
            continue
        sources = [made[n] for n in statement.uses if n in made]
        if statement.effect is Effect.LOAD and not statement.exchanged and not sources:
            found[name] = _Cone(name, [statement])
        elif len(sources) == 1 and (source := sources[0].targets[0]) in found:
            found[name] = _Cone(name, [*found[source].statements, statement])
    wide = {name: cone for name, cone in found.items() if sizes.get(name, 0) >= MIN_REGISTERS}
    inner = {s.targets[0] for cone in wide.values() for s in cone.statements[:-1]}
    return {name: cone for name, cone in wide.items() if name not in inner}
