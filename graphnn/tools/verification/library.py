"""Verifies networks of the library, each in a process of its own, and saves after each."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
import triton

from graphnn.kernels import cache
from graphnn.runtime.model import compile
from graphnn.tools.child import Outcome, in_child
from graphnn.tools.resources import LIBRARY
from graphnn.tools.verification.examples import given_sizes
from graphnn.tools.verification.verify import verify

# Seconds for one network, target and dtype. On two cores most take one or two minutes.
LIMIT = 3600.0


@dataclass(frozen=True)
class Case:
    """A network of the library for one target and dtype. Target None is the GPU at hand."""

    network: str
    target: str | None
    dtype: str
    every_launch: bool = False
    sizes: tuple[tuple[str, int], ...] = ()

    @property
    def key(self) -> str:
        """A text that names the case in a file of results."""
        parts = [self.network, self.dtype, self.target or "gpu"]
        parts += [f"{k}={v}" for k, v in self.sizes]
        return ", ".join([*parts, *(["every launch"] if self.every_launch else [])])


class Saved:
    """Records by key, in a JSON file that is written after each; without a path, in memory.

    Records of another version of graphnn, torch or Triton are not resumed.
    """

    def __init__(self, path: str | None):
        self.path = pathlib.Path(path) if path else None
        self.about = about()
        self.records: dict[str, Any] = {}
        if self.path is not None and self.path.exists():
            found = json.loads(self.path.read_text())
            if found.get("about") == self.about:
                self.records = found["verifications"]

    def add(self, key: str, record: Any) -> None:
        """Add a record and write the file."""
        self.records[key] = record
        self.write()

    def write(self) -> None:
        """Write the file, if there is one. A reader never sees half of it."""
        if self.path is not None:
            part = self.path.with_name(self.path.name + ".part")
            text = json.dumps({"about": self.about, "verifications": self.records}, indent=1)
            part.write_text(text)
            os.replace(part, self.path)


def about() -> dict[str, str]:
    """Return what results depend on: versions, and a digest of the source of graphnn."""
    digest = hashlib.sha256()
    for home in (pathlib.Path(__file__).parents[2], pathlib.Path(cache.__file__).parent):
        for file in sorted(home.rglob("*.py")):
            digest.update(f"{file.relative_to(home)}\n".encode() + file.read_bytes())
    return {
        "graphnn": version("graphnn"),
        "source": digest.hexdigest()[:16],
        "torch": torch.__version__,
        "triton": triton.__version__,
    }


def cases(
    networks: Iterable[str], targets: Iterable[str | None], dtypes: Iterable[str], **rest: Any
) -> list[Case]:
    """Return a case for each network, target and dtype."""
    return [Case(n, t, d, **rest) for n in networks for t in targets for d in dtypes]


def run(
    wanted: Iterable[Case],
    saved: Saved,
    told: Callable[[Case, Mapping[str, Any]], None],
    limit: float = LIMIT,
) -> None:
    """Verify cases that are not saved yet. `told` is called with each case and its record."""
    for case in wanted:
        if case.key not in saved.records:
            given = {**vars(case), "sizes": dict(case.sizes)}
            outcome = in_child(__name__, "verify_network", given, limit)
            saved.add(case.key, _record(outcome))
        told(case, saved.records[case.key])


def _record(outcome: Outcome) -> dict[str, Any]:
    """Return the record of a verification; of a child that failed, one without rows."""
    if outcome.kind == "done":
        return {**outcome.value, "seconds": round(outcome.seconds, 1)}
    failure = f"{outcome.kind}: {outcome.text}"
    return {
        "ok": False,
        "failure": failure,
        "printed": outcome.printed,
        "seconds": round(outcome.seconds, 1),
    }


def line(record: Mapping[str, Any]) -> str:
    """Return a record as one line: right or not, how much was run, seconds."""
    seconds = f"{record['seconds']:.0f} s"
    if "failure" in record:
        return f"{record['failure']}, {seconds}"
    runs = sum(row["runs"] for row in record["launches"])
    counts = f"{runs} launches, {len(record['results'])} results"
    return f"{'right' if record['ok'] else 'FAULTS'}, {counts}, {seconds}"


def verify_network(
    network: str, target: str | None, dtype: str, every_launch: bool, sizes: dict[str, int]
) -> dict[str, Any]:
    """Verify one network of the library, with fixed weights, and return the record."""
    torch.manual_seed(0)
    model = LIBRARY[network]()
    lengths = given_sizes(compile(model), sizes.get("batch"), sizes.get("length"))
    found = verify(model, target=target, dtype=dtype, every_launch=every_launch, sizes=lengths)
    found.name = network
    return {**found.record(), "text": str(found)}
