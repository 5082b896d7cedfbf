"""Loops on this machine, beside torch's own layers and eager loops: `python -m bench.cells`.

Each contender's result is checked against the others before anything is timed. Rounds are
interleaved; medians with the quartiles beside them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import graphnn as gn
from bench.measure import (
    RESULTS,
    Run,
    environment,
    error,
    results,
    rounds,
    summary,
    without_gradients,
)
from bench.networks import NETWORKS, Deep, Layer

SIZES = [(100, 32, 128), (100, 32, 256), (64, 16, 512)]


def contenders(name: str, sizes: tuple[int, int, int]) -> tuple[dict[str, Run], dict[str, Run]]:
    """Forward, and forward with backward, of graphnn and its peer on the same weights."""
    length, batch, width = sizes
    torch.manual_seed(0)
    net = NETWORKS[name](width)
    model, peer = gn.compile(net), net.peer()
    # each in the layout it likes best; gradients to the input as inside a larger network
    batch_first = torch.randn(batch, length, width, requires_grad=True)
    time_first = batch_first.detach().transpose(0, 1).contiguous().requires_grad_()
    weight = torch.randn(length, batch, width)
    runs: dict[str, Run] = {
        "graphnn": lambda: model(x=batch_first).transpose(0, 1),
        "peer": lambda: peer(time_first),
    }
    check(name, runs, weight, list(net.parameters()))

    def forward(run: Run) -> Run:
        return lambda: without_gradients(run)

    def both(run: Run) -> Run:
        return lambda: (run() * weight).sum().backward()

    return {k: forward(r) for k, r in runs.items()}, {k: both(r) for k, r in runs.items()}


def check(name: str, runs: dict[str, Run], weight: torch.Tensor, parameters: list[Any]) -> None:
    """A contender that computes something else is not timed: raise."""
    ours, theirs = (results(run, weight, parameters) for run in runs.values())
    if not (apart := error(ours, theirs)) < 1e-3:
        raise SystemExit(f"{name}: results differ by {apart:.1e} of their size; not timed")


def measure(
    names: list[str], sizes: list[tuple[int, int, int]], count: int
) -> list[dict[str, Any]]:
    """Time every network at every size."""
    rows = []
    with Progress(transient=True, console=Console(stderr=True)) as progress:
        task = progress.add_task("timing", total=len(names) * len(sizes))
        for name in names:
            for size in sizes:
                row: dict[str, Any] = {"network": name, "sizes": size, "peer": peer_name(name)}
                for what, runs in zip(("forward", "both"), contenders(name, size)):
                    found = rounds(runs, count)
                    row[what] = {k: summary(v) for k, v in found.items()}
                    pairs = zip(found["peer"], found["graphnn"])
                    row[what]["ratio"] = statistics.median(p / g for p, g in pairs)
                rows.append(row)
                progress.advance(task)
    return rows


def peer_name(name: str) -> str:
    """What the network is compared with."""
    return f"nn.{name}" if issubclass(NETWORKS[name], Layer) else "eager loop"


def planning() -> list[dict[str, Any]]:
    """Seconds to trace, plan and write the code of each network, for short and long inputs."""
    rows = []
    for name, kind in {**NETWORKS, "3 layers, 2 directions": Deep}.items():
        for length in (10, 10_000):
            net = kind(8)
            x = torch.randn(1, length, 8)
            start = time.perf_counter()
            model = gn.compile(net)
            model.source()
            seconds = time.perf_counter() - start
            with torch.no_grad():
                model(x=x)
            rows.append({"network": name, "length": length, "ms": seconds * 1e3})
    return rows


def show(rows: list[dict[str, Any]], plans: list[dict[str, Any]], about: dict[str, Any]) -> None:
    """The tables."""
    console = Console()
    table = Table(title=f"{about['device']}, torch {about['torch']}, float32, ms (median)")
    for column in ("network", "T, B, H", "against", "forward", "peer", "ratio"):
        table.add_column(column, justify="left" if column in ("network", "against") else "right")
    for column in ("forward+backward", "peer", "ratio"):
        table.add_column(column, justify="right")
    for row in rows:
        cells = [row["network"], ", ".join(map(str, row["sizes"])), row["peer"]]
        for what in ("forward", "both"):
            found = row[what]
            cells += [f"{found[k]['median']:.1f}" for k in ("graphnn", "peer")]
            cells.append(f"{found['ratio']:.2f}x")
        table.add_row(*cells)
    console.print(table)
    table = Table(title="trace, check, plan, derive the backward and write the code, ms")
    for column in ("network", "T = 10", "T = 10,000"):
        table.add_column(column, justify="left" if column == "network" else "right")
    for short, long in zip(plans[::2], plans[1::2]):
        table.add_row(short["network"], f"{short['ms']:.0f}", f"{long['ms']:.0f}")
    console.print(table)


def main() -> None:
    """Parse the command line, measure, show, and write the JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", action="append", choices=list(NETWORKS))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--save", metavar="NAME", help="write bench/results/NAME.json")
    args = parser.parse_args()
    about = environment()
    rows = measure(args.network or list(NETWORKS), SIZES, args.rounds)
    plans = planning()
    show(rows, plans, about)
    if args.save:
        RESULTS.mkdir(exist_ok=True)
        found = {"about": about, "timings": rows, "planning": plans}
        (RESULTS / f"{args.save}.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
