"""Four recurrent networks learn from real C source to tell whether a piece of C is well-formed.

Brackets in strings, character literals and comments do not count. A network therefore has to
remember both the kind of text around it and the brackets that are still open.
Run `python examples/brackets.py --help` for the options.
"""

from __future__ import annotations

import argparse
import bisect
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from torch import nn
from torch.nn import functional as F

import graphnn as gn
from graphnn.examples import bracket_report as report
from graphnn.examples import bracket_timing as timing
from graphnn.examples.c_source import VOCABULARY, Batch, Sample, collate, load_samples
from graphnn.nn.types import Value

EMBEDDED = 32


class Checker(nn.Module, ABC):
    """Maps a text to one number, which is above zero if the text is well-formed.

    Subclasses define the recurrent cell.
    """

    def __init__(self, reading: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, EMBEDDED)
        self.judge = nn.Linear(reading, 1)

    def graph(self, g: gn.Graph) -> None:
        char = g.input("char", shape=(), over="time", dtype=torch.long)
        reading = self.cell(g, self.embed(char))
        g.output("whole", self.judge(gn.last(reading, over="time")).squeeze(-1))

    @abstractmethod
    def cell(self, g: gn.Graph, x: Value) -> Value:
        """Maps x (EMBEDDED,) at each character to the reading (reading,) of the text so far."""


class Elman(Checker):
    """An Elman network: z(t) = tanh(W x(t) + U z(t-1) + b)."""

    def __init__(self, hidden: int) -> None:
        super().__init__(hidden)
        self.step = nn.Linear(EMBEDDED + hidden, hidden)
        # An orthogonal U preserves norms, which is the best start for this network.
        nn.init.orthogonal_(self.step.weight.data[:, EMBEDDED:])

    def cell(self, g: gn.Graph, x: Value) -> Value:
        z = g.state("z", shape=(self.step.out_features,), over="time")
        z.next = torch.tanh(self.step(torch.cat([x, z])))
        return z.next


class LSTM(Checker):
    """The LSTM of Hochreiter and Schmidhuber with a forget gate, from `gn.nn`."""

    def __init__(self, hidden: int) -> None:
        super().__init__(hidden)
        self.lstm = gn.nn.LSTM(EMBEDDED, hidden, forget_bias=1.0)

    def cell(self, g: gn.Graph, x: Value) -> Value:
        return self.lstm(x)


class GRU(Checker):
    """The GRU of Cho et al. as first published: the reset gate acts before the matmul."""

    def __init__(self, hidden: int) -> None:
        super().__init__(hidden)
        self.gru = gn.nn.GRU(EMBEDDED, hidden, reset="before")

    def cell(self, g: gn.Graph, x: Value) -> Value:
        return self.gru(x)


class Turtles(Checker):
    """A cell whose states are turtles that move in a plane.

    A text is well-formed if every turtle ends where it began. At each character a turtle makes
    half a turn, a stride, and the other half of the turn. The opposite turn and stride therefore
    lead exactly back: an opening bracket is a move, and its closing bracket undoes it. Moves of
    different kinds do not commute, which distinguishes ([)] from ([]). The states neither fade nor
    grow, however long the text is. A small gated state `mode` decides which characters move the
    turtles (none inside a comment). The state `low` holds the least heading so far, because )(
    also leads back to the start.
    """

    def __init__(self, hidden: int, turtles: int = 24) -> None:
        mode = hidden // 2
        super().__init__(mode + 4 * turtles)
        self.mode, self.turtles = mode, turtles
        self.steer = nn.Linear(EMBEDDED + mode + 4 * turtles, 2 * mode + turtles)
        self.turn = nn.Linear(EMBEDDED, turtles, bias=False)
        self.stride = nn.Linear(EMBEDDED, turtles, bias=False)
        for move in (self.turn, self.stride):
            nn.init.normal_(move.weight, std=0.01)  # tanh of a position saturates far from 0

    def cell(self, g: gn.Graph, x: Value) -> Value:
        m, n = self.mode, self.turtles
        mode = g.state("mode", shape=(m,), over="time")
        heading, east, north, low = (
            g.state(name, shape=(n,), over="time") for name in ("heading", "east", "north", "low")
        )
        view = torch.cat([mode, heading.cos(), heading.sin(), east.tanh(), north.tanh()])
        content, gates = self.steer(torch.cat([x, view])).split([m, m + n])
        update, awake = torch.sigmoid(gates).split([m, n])
        mode.next = mode + update * (torch.tanh(content) - mode)

        half, stride = awake * (self.turn(x) / 2), awake * self.stride(x)
        course = heading + half
        east.next = east + stride * torch.cos(course)
        north.next = north + stride * torch.sin(course)
        heading.next = course + half
        low.next = torch.minimum(low, heading.next)
        away = [heading.next.cos(), east.next.tanh() ** 2, north.next.tanh() ** 2, low.next.tanh()]
        return torch.cat([mode.next, *away])


@dataclass(frozen=True)
class Entry:
    """A network of the comparison, with the learning rate that worked best in trials."""

    name: str
    build: Callable[[int], Checker]
    rate: float


ENTRIES = (
    Entry("Elman", Elman, 1e-3),
    Entry("LSTM", LSTM, 1e-2),
    Entry("GRU", GRU, 1e-2),
    Entry("turtles", Turtles, 4e-3),
)


class Course:
    """A curriculum: batches of texts of similar length, short at first and longer later."""

    def __init__(self, samples: list[Sample], size: int, seed: int) -> None:
        self.samples = sorted(samples, key=lambda sample: len(sample.text))
        self.lengths = [len(sample.text) for sample in self.samples]
        self.size, self.draw = min(size, len(samples)), random.Random(seed)

    def batch(self, done: float) -> Batch:
        """Returns a batch for the time when the fraction `done` of the training is over."""
        shortest, longest = self.lengths[self.size - 1] + 8, self.lengths[-1]
        limit = shortest + (longest - shortest) * min(1.0, done / 0.75)
        allowed = bisect.bisect_right(self.lengths, limit)
        start = self.draw.randint(0, allowed - self.size)
        return collate(self.samples[start : start + self.size])


def train(
    model: gn.Compiled, course: Course, steps: int, rate: float, on_step: Callable[[float], None]
) -> None:
    """Trains with Adam on the log loss. Calls `on_step` with the loss of each step."""
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    for step in range(steps):
        done = step / steps
        optimizer.param_groups[0]["lr"] = rate * min(1.0, 2 * (1 - done))
        batch = course.batch(done)
        answers = report.ask(model, batch)
        loss = F.binary_cross_entropy_with_logits(answers, batch.whole.to(answers.device))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        on_step(loss.item())


def train_all(
    samples: list[Sample], options: argparse.Namespace, console: Console
) -> dict[str, report.Trained]:
    """Trains each network on the same batches and shows a progress bar with the running loss."""
    trained = {}
    columns = (
        TextColumn("{task.description:8}"),
        BarColumn(),
        TextColumn("{task.completed:5.0f} steps, loss {task.fields[loss]:.3f}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        for entry in ENTRIES:
            torch.manual_seed(options.seed)
            model = gn.compile(entry.build(options.hidden).to(options.device))
            bar = progress.add_task(entry.name, total=options.steps, loss=0.7)
            begin = time.perf_counter()
            train(
                model,
                Course(samples, 32, options.seed),
                options.steps,
                entry.rate,
                _progress_callback(progress, bar),
            )
            seconds = time.perf_counter() - begin
            trained[entry.name] = report.Trained(model, seconds)
    return trained


def _progress_callback(progress: Progress, bar: TaskID) -> Callable[[float], None]:
    """Returns a function that advances the bar by one step and shows the mean of recent losses."""
    mean = 0.7

    def on_step(loss: float) -> None:
        nonlocal mean
        mean += 0.02 * (loss - mean)
        progress.update(bar, advance=1, loss=mean)

    return on_step


def show(
    trained: dict[str, report.Trained],
    held_out: list[Sample],
    equal_length: list[Sample],
    console: Console,
) -> None:
    """Prints all tables. The gradient flow is measured on the samples `equal_length`."""
    answers = {name: report.evaluate(t.model, held_out) for name, t in trained.items()}
    console.print(report.accuracy_table(trained, answers))
    console.print(report.bucket_table(answers, "distance", report.DISTANCES))
    console.print(report.bucket_table(answers, "depth", report.DEPTHS))
    flows = {name: trained[name].model for name in ("Elman", "LSTM")}
    console.print(report.flow_table(flows, equal_length))


def samples_of_length(folder: Path | None, length: int, seed: int) -> list[Sample]:
    """Returns some samples of exactly `length` characters."""
    samples, _ = load_samples(folder, 32, 2, (length, length), seed)
    return [sample for sample in samples if len(sample.text) == length]


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add = result.add_argument
    add("--data", type=Path, help="folder of .c and .h files (default: installed headers)")
    add("--samples", type=int, default=20_000, help="number of training samples (%(default)s)")
    add("--steps", type=int, default=2_000, help="training steps per network (%(default)s)")
    add("--hidden", type=int, default=64, help="width of the networks (%(default)s)")
    add("--length", type=int, default=160, help="longest text, in characters (%(default)s)")
    add("--seed", type=int, default=0, help="seed of data, weights and batches (%(default)s)")
    add("--device", default="cpu", help="device: cpu or cuda (%(default)s)")
    # At this size, threads spend more time on synchronisation than on work.
    add("--threads", type=int, default=1, help="CPU threads (%(default)s)")
    return result


def main(argv: Sequence[str] | None = None) -> None:
    """Loads the data, trains the four networks, and prints accuracies, times and a plan."""
    options = parser().parse_args(argv)
    torch.set_num_threads(options.threads)
    console = Console()
    lengths = (min(16, options.length), options.length)
    try:
        train, held_out = load_samples(options.data, options.samples, 2_000, lengths, options.seed)
        equal_length = samples_of_length(options.data, 200, options.seed)
    except ValueError as error:
        parser().error(str(error))
    console.print(
        f"{len(train):,} training texts, {len(held_out):,} held-out texts from other files:"
    )
    for sample in held_out[:2]:
        console.print(f"  {'whole ' if sample.whole else 'broken'} {sample.text!r}", markup=False)
    trained = train_all(train, options, console)
    show(trained, held_out, equal_length, console)
    print(trained["turtles"].model.explain())
    fresh = {entry.name: entry.build(options.hidden).to(options.device) for entry in ENTRIES}
    console.print(timing.timing_table(fresh))


def demo(quick: bool = True) -> None:
    """Runs the whole program. If `quick`, it needs less than two minutes on two CPU cores."""
    main(["--steps", "700", "--length", "128"] if quick else [])


if __name__ == "__main__":
    main()
