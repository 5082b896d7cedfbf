"""Runs the jobs, each in a process of its own, and writes JSON after each."""

from __future__ import annotations

import importlib
import json
import os
import pathlib
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

from graphnn.bench.contact.jobs import TITLES, Job
from graphnn.bench.contact.place import Place
from graphnn.timing.provenance import about
from graphnn.tools.child import Outcome, in_child

# seconds of the whole run: jobs that have not begun by then are not run
BUDGET = 600.0
Perform = Callable[[Job, float], Outcome]
Told = Callable[[Job, dict[str, Any]], None]


def perform(place: dict[str, Any], function: str, arguments: dict[str, Any]) -> Any:
    """Call a job's function: "module.function" of `graphnn.bench.contact`."""
    module, _, name = function.rpartition(".")
    found = importlib.import_module(f"graphnn.bench.contact.{module}")
    return getattr(found, name)(Place(**place), **arguments)


class Contact:
    """One run: its place, its file of results, and its own empty caches.

    `caches` is a folder for the caches of graphnn and Triton, which are empty at the beginning, as
    they are for a user.
    """

    def __init__(
        self,
        place: Place,
        path: str | None,
        told: Told,
        budget: float = BUDGET,
        side_by_side: int = 1,
    ):
        self.place, self.told, self.budget = place, told, budget
        self.path = pathlib.Path(path) if path else None
        self.side_by_side = side_by_side
        self.start = time.perf_counter()
        self.caches = tempfile.TemporaryDirectory(prefix="graphnn-contact-")
        self.found: dict[str, Any] = {
            "about": {**about(place.device), **asdict(place), "processors": os.cpu_count()},
            "jobs": {},
        }

    def run(self, jobs: Sequence[Job]) -> dict[str, Any]:
        """Run jobs in order; those that are not timed run side by side with their neighbours."""
        with self.caches:
            for group in grouped(jobs):
                alone = group[0].timed
                with ThreadPoolExecutor(1 if alone else self.side_by_side) as pool:
                    futures = [(job, pool.submit(self._outcome, job)) for job in group]
                    for job, future in futures:
                        self._add(job, future.result())
        return self.found

    def _outcome(self, job: Job) -> dict[str, Any]:
        if job.gpu and not self.place.on_gpu:
            return {"kind": "skipped", "text": "needs a GPU"}
        left = self.budget - (time.perf_counter() - self.start)
        if left <= 0:
            return {"kind": "skipped", "text": f"the {self.budget:g} seconds were over"}
        return record(self._performed(job, left))

    def _performed(self, job: Job, left: float) -> Outcome:
        given = {
            "place": asdict(self.place),
            "function": job.function,
            "arguments": job.arguments,
        }
        # what is executed by Python takes longer than on a GPU
        limit = min(job.limit, left) if self.place.on_gpu else left
        return in_child(__name__, "perform", given, limit, self._environment(job))

    def _environment(self, job: Job) -> dict[str, str]:
        """Return the variables of a job: caches of this run, or of this job alone."""
        home = pathlib.Path(self.caches.name)
        names = {"XDG_CACHE_HOME": "graphnn", "TRITON_CACHE_DIR": "triton", **job.environment}
        return {k: str(home / v) for k, v in names.items()}

    def _add(self, job: Job, record: dict[str, Any]) -> None:
        """Add the record of a job and write the file. A reader never sees half of it."""
        self.found["jobs"][f"{job.item}: {job.name}"] = record
        self.found["seconds"] = round(time.perf_counter() - self.start, 1)
        if self.path is not None:
            part = self.path.with_name(self.path.name + ".part")
            part.write_text(json.dumps(self.found, indent=1))
            os.replace(part, self.path)
        self.told(job, record)


def grouped(jobs: Sequence[Job]) -> list[list[Job]]:
    """Return jobs in groups that may run side by side; a timed job is a group of its own."""
    groups: list[list[Job]] = []
    for job in jobs:
        if not groups or job.timed or groups[-1][0].timed or groups[-1][0].item != job.item:
            groups.append([])
        groups[-1].append(job)
    return groups


def record(outcome: Outcome) -> dict[str, Any]:
    """Return the outcome of a job as JSON data."""
    found: dict[str, Any] = {"kind": outcome.kind, "seconds": round(outcome.seconds, 1)}
    if outcome.kind != "done":
        return {**found, "text": outcome.text, "printed": outcome.printed}
    if isinstance(outcome.value, dict) and "skipped" in outcome.value:
        return {**found, "kind": "skipped", "text": outcome.value["skipped"]}
    return {**found, "value": outcome.value}


def line(job: Job, record: dict[str, Any]) -> str:
    """Return a job and its record as one line of text."""
    kind = {"done": "right"}.get(record["kind"], record["kind"])
    seconds = f"{record['seconds']:6.1f} s" if "seconds" in record else " " * 8
    text = record.get("text", "").splitlines()
    return f"{job.item}  {seconds}  {kind:8}{job.name}{': ' + text[0] if text else ''}"


def summary(found: dict[str, Any]) -> list[str]:
    """Return a line for each item: how many of its jobs ended how."""
    lines = []
    for item, title in enumerate(TITLES):
        kinds = [r["kind"] for k, r in found["jobs"].items() if k.startswith(f"{item}: ")]
        counts = ", ".join(f"{kinds.count(k)} {k}" for k in dict.fromkeys(kinds))
        if kinds:
            lines.append(f"{item}  {title}: {counts}")
    return lines
