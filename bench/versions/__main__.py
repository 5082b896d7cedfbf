"""Check the installed versions, and show the results of all: `python -m graphnn.bench.versions`.

`run` checks what is installed and adds the row to a file, each check in a process of its own:
a crash of the compiler is a result. `table` prints the tables of a file as Markdown.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import platform
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version

from graphnn.bench.versions import table
from graphnn.bench.versions.checks import CHECKS, LONG, Result, last_line
from graphnn.timing.provenance import about

# seconds for one check, and the process that runs it
TIMEOUT = 3600
COMMAND = ["-m", "graphnn.bench.versions", "one"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 1 if a check fails."""
    options = parser().parse_args(arguments)
    if options.command == "one":
        print(json.dumps(asdict(CHECKS[options.check]())))
        return 0
    path = pathlib.Path(options.file)
    if options.command == "table":
        rows = table.load(path)
        print(f"{table.markdown(rows)}\n\n{table.by_triton(rows)}")
        return 0
    row = environment()
    for name in options.only or [n for n in CHECKS if n not in LONG]:
        found = in_process(name)
        print(f"{name}: {'fails: ' if found.passed is False else ''}{found.text}", flush=True)
        row["checks"][name] = {k: v for k, v in asdict(found).items() if v != []}
        table.save(path, table.merged(table.load(path), row))
    return int(any(check["passed"] is False for check in row["checks"].values()))


def parser() -> argparse.ArgumentParser:
    """The grammar of the commands."""
    made = argparse.ArgumentParser(prog="python -m graphnn.bench.versions", description=__doc__)
    commands = made.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="check the installed versions")
    run.add_argument("file", help="JSON file to which the row is added")
    run.add_argument("--only", nargs="+", choices=list(CHECKS), help="some checks")
    shown = commands.add_parser("table", help="print the tables of a file")
    shown.add_argument("file", help="JSON file")
    one = commands.add_parser("one", help="run one check here and print its result")
    one.add_argument("check", choices=list(CHECKS))
    return made


def environment() -> table.Row:
    """A row without checks: the versions, the date and the commit."""
    known = about()
    row = {key: known[key] for key in ("python", "torch", "triton", "date", "commit")}
    row |= {name: version(name) for name in ("numpy", "networkx")}
    return {**row, "system": platform.system(), "checks": {}}


def in_process(name: str) -> Result:
    """The result of a check that runs in a process of its own."""
    command = [sys.executable, *COMMAND, name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        return Result(False, f"no result after {TIMEOUT} s")
    if done.returncode < 0:
        return Result(False, f"crashes ({signal.Signals(-done.returncode).name})")
    if done.returncode:
        return Result(False, last_line(done.stderr))
    return Result(**json.loads(last_line(done.stdout)))


if __name__ == "__main__":
    sys.exit(main())
