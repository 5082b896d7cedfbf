"""Associative memory: stored pairs, learned pairs, and the time of lookups over many slots.

A lookup returns the value of the key that matches an address.
Run `python examples/memory.py -h` for the options.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

import graphnn as gn

LOADS = (0.25, 0.5, 1, 2, 4, 8)  # pairs per element of a key
LEARNED = (1, 2, 4, 8, 16)  # pairs per slot
# the factor of a match before the softmax; 0 means no softmax
KINDS = {"linear": 0.0, "softmax": 8.0, "sharp softmax": 32.0}


class Store(nn.Module):
    """A memory that writes a sequence of pairs and then looks up addresses.

    Recall is a softmax over the slots, or linear if `sharpness` is 0: s = Σ k_iᵀ x v_i. The
    contents of a linear memory are one matrix Σ v_i k_iᵀ.
    """

    def __init__(self, slots: int, width: int, sharpness: float) -> None:
        super().__init__()
        self.memory = gn.nn.AssociativeMemory(
            slots, width, width, learned=False, sharpness=sharpness
        )
        self.width, self.linear = width, sharpness == 0

    def graph(self, g: gn.Graph) -> None:
        names = ("address", "key", "value")
        address, key, value = (g.input(n, (self.width,), over="time") for n in names)
        write = g.input("write", over="time", dtype=torch.bool)
        if not self.linear:
            g.output("read", self.memory(address, key, value, write))
            return
        matrix = g.state("matrix", (self.width, self.width))
        matrix.next = matrix + torch.where(write, value[:, None] * key[None, :], 0.0)
        g.output("read", matrix @ address)


def directions(*shape: int) -> Tensor:
    """Returns random vectors of norm 1 along the last dimension."""
    return F.normalize(torch.randn(*shape), dim=-1)


def recall(pairs: int, width: int, sharpness: float, noise: float, device: str) -> float:
    """Returns how many of the stored pairs are recalled from noisy keys, in percent.

    A pair is recalled if the vector that is read matches its value better than any other value.
    """
    keys, values = directions(pairs, width), directions(pairs, width)
    addresses = F.normalize(keys + noise * directions(pairs, width), dim=-1)
    zeros = torch.zeros(pairs, width)
    write = torch.arange(2 * pairs) < pairs
    inputs = {
        "address": torch.cat([zeros, addresses]),
        "key": torch.cat([keys, zeros]),
        "value": torch.cat([values, zeros]),
        "write": write,
    }
    model = gn.compile(Store(pairs, width, sharpness).to(device))
    with torch.no_grad():
        read = model(**{k: v[None].to(device) for k, v in inputs.items()})[0, pairs:].cpu()
    best = (read @ values.T).argmax(-1)
    return 100 * (best == torch.arange(pairs)).double().mean().item()


def recall_table(options: argparse.Namespace, progress: Progress) -> Table:
    """Returns a table of recall against load: the number of stored pairs per element of a key."""
    width = options.width
    shown = Table(title=f"Recalled in percent, keys of {width} elements, noise {options.noise}")
    shown.add_column("pairs", justify="right")
    shown.add_column("pairs / width", justify="right")
    for kind in KINDS:
        shown.add_column(kind, justify="right")
    bar = progress.add_task("storing and recalling", total=len(LOADS) * len(KINDS))
    for load in LOADS:
        pairs, row = max(2, round(load * width)), []
        for sharpness in KINDS.values():
            torch.manual_seed(options.seed)
            row.append(f"{recall(pairs, width, sharpness, options.noise, options.device):.0f}")
            progress.advance(bar)
        shown.add_row(str(pairs), f"{load:g}", *row)
    return shown


class Learned(nn.Module):
    """A memory whose keys and values are parameters. A batch is a set of addresses."""

    def __init__(self, slots: int, width: int, topk: int | None = None) -> None:
        super().__init__()
        self.memory, self.width = gn.nn.AssociativeMemory(slots, width, width, topk=topk), width

    def graph(self, g: gn.Graph) -> None:
        g.output("read", self.memory(g.input("address", (self.width,))))


def learn(pairs: int, options: argparse.Namespace, on_epoch: Callable[[], None]) -> float:
    """Trains a memory of `slots` slots on `pairs` pairs. Returns the recalled pairs in percent."""
    torch.manual_seed(options.seed)
    keys = directions(pairs, options.width).to(options.device)
    values = directions(pairs, options.width).to(options.device)
    model = gn.compile(Learned(options.slots, options.width).to(options.device))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(options.epochs):
        loss = (model(address=keys) - values).square().sum(-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        on_epoch()
    best = (model(address=keys) @ values.T).argmax(-1).cpu()
    return 100 * (best == torch.arange(pairs)).double().mean().item()


def learned_table(options: argparse.Namespace, progress: Progress) -> Table:
    """Returns a table of the recall of pairs learned by gradient descent, by pairs per slot."""
    shown = Table(title=f"Learned by {options.slots} slots in {options.epochs} epochs")
    shown.add_column("pairs", justify="right")
    shown.add_column("recalled, %", justify="right")
    bar = progress.add_task("learning", total=len(LEARNED) * options.epochs)
    for load in LEARNED:
        pairs = max(2, load * options.slots)
        shown.add_row(str(pairs), f"{learn(pairs, options, lambda: progress.advance(bar)):.0f}")
    return shown


def plain(net: Learned, address: Tensor) -> Tensor:
    """The same lookup in plain torch, as a baseline for the timings."""
    match = torch.softmax(address @ net.memory.keys.T, -1)
    return match @ net.memory.values


def milliseconds(run: Callable[[], object], device: str, times: int = 5) -> float:
    """Returns the median time of some runs, after one warm-up run."""
    measured = []
    for _ in range(times + 1):
        begin = time.perf_counter()
        run()
        if device != "cpu":
            torch.cuda.synchronize()
        measured.append(1e3 * (time.perf_counter() - begin))
    return statistics.median(measured[1:])


def timing_table(options: argparse.Namespace, progress: Progress) -> Table:
    """Returns a table of the time of lookups over 1,000, 10,000, … slots, by graphnn and torch."""
    shown = Table(
        title=f"Milliseconds per {options.batch} lookups, keys of {options.width} elements"
    )
    shown.add_column("slots", justify="right")
    for column in ("forward", "torch", "and backward", "torch", "best 32, forward"):
        shown.add_column(column, justify="right")
    counts = [10**n for n in range(3, 9) if 10**n <= options.most]
    bar = progress.add_task("looking up", total=len(counts))
    for slots in counts:
        net = Learned(slots, options.width).to(options.device)
        best = gn.compile(Learned(slots, options.width, topk=32).to(options.device))
        model = gn.compile(net)
        x = directions(options.batch, options.width).to(options.device)
        runs: list[Callable[[], object]] = []
        for look in (lambda: model(address=x), lambda: plain(net, x)):  # noqa: B023
            runs += [torch.no_grad()(look), lambda look=look: look().sum().backward()]
        runs.append(torch.no_grad()(lambda: best(address=x)))  # noqa: B023
        times = [milliseconds(run, options.device) for run in runs]
        row = [times[i] for i in (0, 2, 1, 3, 4)]
        shown.add_row(f"{slots:,}", *(f"{ms:.2f}" for ms in row))
        progress.advance(bar)
    return shown


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add = result.add_argument
    add("--width", type=int, default=64, help="elements of keys and values (%(default)s)")
    add("--noise", type=float, default=0.5, help="noise added to the addresses (%(default)s)")
    add("--slots", type=int, default=64, help="slots of the learned memory (%(default)s)")
    add("--epochs", type=int, default=300, help="training epochs (%(default)s)")
    add("--batch", type=int, default=8, help="addresses per lookup (%(default)s)")
    add("--most", type=int, default=100_000, help="slots in the largest timing (%(default)s)")
    add("--seed", type=int, default=0, help="seed of keys, values and weights (%(default)s)")
    add("--device", default="cpu", help="device: cpu or cuda (%(default)s)")
    add("--threads", type=int, default=2, help="CPU threads (%(default)s)")
    return result


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the recall of stored and of learned pairs, and timings over growing memories."""
    options = parser().parse_args(argv)
    torch.set_num_threads(options.threads)
    console = Console()
    with Progress(console=console) as progress:
        for table in (recall_table, learned_table, timing_table):
            console.print(table(options, progress))


if __name__ == "__main__":
    main()
