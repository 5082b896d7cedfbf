"""`python -m graphnn.bench.contact`: see `--help`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

import torch

from graphnn.bench.contact.contact import BUDGET, Contact, line, summary
from graphnn.bench.contact.jobs import TITLES, Job, jobs
from graphnn.bench.contact.place import Place

ITEMS = "\n".join(f"  {number}  {title}" for number, title in enumerate(TITLES))
EPILOG = f"""items:
{ITEMS}

examples:
  python -m graphnn.bench.contact --json contact.json            on a GPU, in ten minutes
  python -m graphnn.bench.contact --item 0 3 --minutes 3         only these items
  python -m graphnn.bench.contact --backend ptx --target sm_80   as far as a CPU takes it

Exit codes: 0 if no job failed, 1 if one raised, crashed or hung, 2 if there is no GPU.
"""


def parser() -> argparse.ArgumentParser:
    """The grammar of the command."""
    found = argparse.ArgumentParser(
        prog="python -m graphnn.bench.contact",
        description="Find out what only a GPU can tell: correctness, limits and times.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    text = "triton runs on the GPU; ptx executes compiled kernels on the CPU (triton)"
    found.add_argument("--backend", choices=("triton", "ptx"), default="triton", help=text)
    text = "what backend ptx compiles for (sm_90)"
    found.add_argument("--target", help=text)
    found.add_argument("--json", metavar="FILE", help="write results to a file after each job")
    text = "only these items"
    found.add_argument("--item", type=int, nargs="+", choices=range(len(TITLES)), help=text)
    found.add_argument("--only", metavar="TEXT", help="only jobs with this text in their names")
    text = f"start no job after this time, and stop those that run ({BUDGET / 60:g})"
    found.add_argument("--minutes", type=float, default=BUDGET / 60, help=text)
    text = "jobs that run side by side, except those that time (half of the processors, at most 8)"
    found.add_argument("--jobs", type=int, default=min(8, max(1, _processors() // 2)), help=text)
    return found


def _processors() -> int:
    return os.cpu_count() or 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run the jobs. Returns the exit code."""
    args = parser().parse_args(argv)
    if args.backend == "triton" and not torch.cuda.is_available():
        print("there is no GPU; --backend ptx runs what a CPU can", file=sys.stderr)
        return 2
    target = None if args.backend == "triton" else args.target or "sm_90"
    wanted = [j for j in jobs() if args.item is None or j.item in args.item]
    wanted = [j for j in wanted if args.only is None or args.only in j.name]

    def told(job: Job, record: dict[str, Any]) -> None:
        print(line(job, record), flush=True)

    place = Place(args.backend, target)
    contact = Contact(place, args.json, told, 60 * args.minutes, args.jobs)
    found = contact.run(wanted)
    print("\n".join(["", *summary(found)]))
    return int(any(r["kind"] in ("raised", "crashed", "hung") for r in found["jobs"].values()))


if __name__ == "__main__":
    sys.exit(main())
