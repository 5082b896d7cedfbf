"""The result of `gn.verify`."""

from __future__ import annotations

import html
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from graphnn.errors import VerificationError
from graphnn.tools.verification.rows import Fault, LaunchRow, ResultRow
from graphnn.tools.verification.tables import text


@dataclass(repr=False)
class Verification:
    """What `gn.verify` found. Printed, it is a table.

    `launches` has a row per kernel and launch configuration, `results` one per output, final state
    and gradient of each call. `executor` is "gpu", or "ptx:sm_90" for PTX executed on the CPU.
    """

    name: str
    executor: str
    dtype: str
    launches: list[LaunchRow] = field(default_factory=list)
    results: list[ResultRow] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether there is no fault."""
        return next(self.all_faults(), None) is None

    def all_faults(self) -> Iterator[Fault]:
        """Yield the faults of all launches and results, and those of whole calls."""
        yield from self.faults
        for launch in self.launches:
            yield from launch.faults
        for result in self.results:
            yield from result.faults

    def raise_for_faults(self) -> None:
        """Raise VerificationError with all faults, if there is one."""
        if found := list(self.all_faults()):
            count = f"{len(found)} fault{'s' * (len(found) != 1)}"
            raise VerificationError(
                f"{count} in '{self.name}' ({self.executor}, {self.dtype})",
                got="\n".join(map(str, found)),
                wanted="results as exact as the interpreter's, without a race",
            )

    def table(self) -> str:
        """Return the tables as text of at most 100 columns: launches, results, faults."""
        return text(self)

    def record(self) -> dict[str, Any]:
        """Return everything as JSON data."""
        return {"ok": self.ok, **asdict(self)}

    def __str__(self) -> str:
        return self.table()

    def __repr__(self) -> str:
        return self.table()

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(self.table())}</pre>"
