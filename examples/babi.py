"""Questions about a story, answered by an end-to-end memory network in a few hops.

Sukhbaatar et al. 2015 (arXiv:1503.08895), trained as they did. Run `python examples/babi.py -h`.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

import graphnn as gn
from graphnn.examples import babi_data as data

# Test error in percent, 1,000 questions a task, three hops, position encoding, linear start and
# random noise, weights tied adjacently (table 1 of the paper): trained task by task, and jointly.
PUBLISHED = {
    1: (0.0, 0.0), 2: (8.3, 11.4), 3: (40.3, 21.9), 4: (2.8, 13.4), 5: (13.1, 14.4),
    6: (7.6, 2.8), 7: (17.3, 18.3), 8: (10.0, 9.3), 9: (13.2, 1.9), 10: (15.1, 6.5),
    11: (0.9, 0.3), 12: (0.2, 0.1), 13: (0.4, 0.2), 14: (1.7, 6.9), 15: (0.0, 0.0),
    16: (1.3, 2.7), 17: (51.0, 40.4), 18: (11.1, 9.4), 19: (82.8, 88.0), 20: (0.0, 0.0),
}  # fmt: skip
BATCH = 32
ENOUGH = 1e-3  # mean loss of a network that knows all its training questions


class Answerer(nn.Module):
    """A story and a question in, the scores of all words as its answer out, and what was read."""

    def __init__(self, vocabulary: int, slots: int, options: argparse.Namespace) -> None:
        super().__init__()
        self.memory = gn.nn.MemoryNetwork(
            vocabulary,
            options.width,
            options.hops,
            capacity=slots,
            encoding=options.encoding,
            tying=options.tying,
            noise=options.noise,
        )

    def graph(self, g: gn.Graph) -> None:
        story = g.input("story", over=("sentence", "word"), dtype=torch.int64)
        question = g.input("question", over="asked", dtype=torch.int64)
        scores, weights = self.memory(story, question, over="sentence", with_weights=True)
        g.output("scores", scores)
        for hop, weight in enumerate(weights, start=1):
            g.output(f"hop {hop}", weight)


def ask(model: gn.Compiled, batch: data.Batch) -> dict[str, Tensor]:
    """The model's outputs for a batch."""
    found: dict[str, Tensor] = model(
        story=batch.story, question=batch.question, lengths={"sentence": batch.count}
    )
    return found


def examine(model: gn.Compiled, batch: data.Batch) -> tuple[float, float]:
    """(mean log loss, error in percent) over a batch, in evaluation mode."""
    model.eval()
    with torch.no_grad():
        scores = ask(model, batch)["scores"]
    model.train()
    wrong = (scores.argmax(-1) != batch.answer).double().mean()
    return F.cross_entropy(scores, batch.answer).item(), 100 * wrong.item()


@dataclass(frozen=True)
class Schedule:
    """`linear` epochs without softmaxes, then `epochs`, the learning rate halved every `halve`."""

    epochs: int
    halve: int
    rate: float
    linear: int

    @staticmethod
    def of(options: argparse.Namespace) -> Schedule:
        """The paper's: 100 epochs a task, 60 jointly (section 4.2). It ends the linear start when
        the held-out loss no longer falls; its authors' program, and this one, after 20 epochs."""
        epochs = options.epochs or (60 if options.joint else 100)
        rate = 0.01 if options.no_linear_start else 0.005
        linear = 0 if options.no_linear_start else math.ceil(epochs / 5)
        return Schedule(epochs, math.ceil(epochs / 4), rate, linear)


def epoch(model: gn.Compiled, batch: data.Batch, optimizer: torch.optim.Optimizer) -> float:
    """Once over all questions in a new order; returns the mean loss."""
    total, order = 0.0, torch.randperm(len(batch))
    for which in order.split(BATCH):
        part = batch.take(which)
        loss = F.cross_entropy(ask(model, part)["scores"], part.answer, reduction="sum")
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 40.0)
        optimizer.step()
        total += loss.item()
    return total / len(batch)


def train(
    model: gn.Compiled,
    network: gn.nn.MemoryNetwork,
    batch: data.Batch,
    schedule: Schedule,
    tick: Callable[[float], None],
) -> None:
    """The linear start, then the epochs of the schedule; `tick` gets each epoch's loss."""
    optimizer = torch.optim.SGD(model.parameters(), lr=schedule.rate)
    for number in range(-schedule.linear, schedule.epochs):
        network.linear = number < 0
        halvings = max(number, 0) // schedule.halve
        optimizer.param_groups[0]["lr"] = schedule.rate * 0.5**halvings
        tick(epoch(model, batch, optimizer))


@dataclass(frozen=True)
class Split:
    """Questions to train on, a tenth of them held out, and the tests of each task."""

    train: data.Batch
    held: data.Batch
    tests: dict[int, data.Batch]
    vocabulary: data.Vocabulary
    questions: dict[int, list[data.Question]]


def split(options: argparse.Namespace, tasks: Sequence[int]) -> Split:
    """The data of some tasks. Raises ValueError where there is none."""
    train: list[data.Question] = []
    tests: dict[int, list[data.Question]] = {}
    held: list[data.Question] = []
    for task in tasks:
        if options.data:
            known, tests[task] = data.load(options.data, task)
        else:
            known = data.generate(task, 1_000, options.seed)
            tests[task] = data.generate(task, 1_000, options.seed + 1)
        cut = len(known) - len(known) // 10
        train, held = train + known[:cut], held + known[cut:]
    vocabulary = data.Vocabulary([*train, *held, *(q for t in tests.values() for q in t)])
    sets = {task: data.collate(t, vocabulary).to(options.device) for task, t in tests.items()}
    return Split(
        data.collate(train, vocabulary).to(options.device),
        data.collate(held, vocabulary).to(options.device),
        sets,
        vocabulary,
        tests,
    )


@dataclass
class Trained:
    """The best of several networks by its loss on what it was trained with."""

    model: gn.Compiled
    loss: float
    seconds: float
    held: float  # error in percent
    number: int  # of the restart


def train_best(sets: Split, options: argparse.Namespace, name: str, progress: Progress) -> Trained:
    """Train networks of different seeds; keep the one of least training loss.

    Some settle where two facts are told apart by one: the paper repeats 10 times. No more are
    trained once a network knows all it was taught.
    """
    schedule, best = Schedule.of(options), None
    begin = time.perf_counter()
    total = options.restarts * (schedule.linear + schedule.epochs)
    bar = progress.add_task(name, total=total, loss=0.0)
    for restart in range(options.restarts):
        torch.manual_seed(1_000 * options.seed + restart)
        net = Answerer(len(sets.vocabulary), sets.train.story.shape[1], options).to(options.device)
        model = gn.compile(net)
        train(
            model,
            net.memory,
            sets.train,
            schedule,
            lambda loss: progress.update(bar, advance=1, loss=loss),
        )
        loss, _ = examine(model, sets.train)
        if best is None or loss < best.loss:
            held = examine(model, sets.held)[1]
            best = Trained(copy.deepcopy(model), loss, 0.0, held, restart + 1)
        if loss < ENOUGH:
            break
    assert best is not None
    best.seconds = time.perf_counter() - begin
    progress.remove_task(bar)
    return best


def table(errors: dict[int, tuple[Trained, float]], options: argparse.Namespace) -> Table:
    """Each task's test error beside the published one."""
    real, joint = options.data is not None, options.joint
    beside = "published" if real else "published (bAbI)"
    shown = Table(title=f"Test error in percent, {'joint' if joint else 'task by task'}")
    for column in ("task", "", "error", beside, "held out", "loss", "restart", "seconds"):
        shown.add_column(column, justify="left" if column in ("task", "") else "right")
    for task, (found, error) in errors.items():
        row = [f"{error:.1f}", f"{PUBLISHED[task][joint]:.1f}", f"{found.held:.1f}"]
        row += [f"{found.loss:.4f}", str(found.number), f"{found.seconds:.0f}"]
        shown.add_row(str(task), data.NAMES[task], *row)
    mean = sum(error for _, error in errors.values()) / len(errors)
    published = sum(PUBLISHED[task][joint] for task in errors) / len(errors)
    shown.add_section()
    shown.add_row("mean", "", f"{mean:.1f}", f"{published:.1f}", "", "", "", "")
    return shown


def attention(model: gn.Compiled, sets: Split, task: int, number: int) -> Table:
    """What each hop read of a test's story."""
    model.eval()
    with torch.no_grad():
        found = ask(model, sets.tests[task].take(torch.tensor([number])))
    question = sets.questions[task][number]
    word = {n: w for w, n in sets.vocabulary.number.items()}
    answer = word.get(int(found["scores"].argmax()), "")
    said = f"{' '.join(question.asked)}? {answer}"
    shown = Table(title=said + ("" if answer == question.answer else f" (no: {question.answer})"))
    shown.add_column("sentence")
    hops = [name for name in found if name.startswith("hop")]
    for name in hops:
        shown.add_column(name, justify="right")
    for k, sentence in enumerate(question.story):
        weights = [found[name][0, k].item() for name in hops]
        shown.add_row(" ".join(sentence), *(f"{w:.2f}" if w >= 0.005 else "" for w in weights))
    return shown


def _tasks(text: str) -> list[int]:
    """1,4,6-9 as numbers."""
    found: list[int] = []
    for part in text.split(","):
        low, _, high = part.partition("-")
        if not low.isdigit() or (high and not high.isdigit()):
            raise argparse.ArgumentTypeError(f"'{text}' is not of the form 1,4,6-9")
        found += range(int(low), int(high or low) + 1)
    if not found or min(found) < 1 or max(found) > 20:
        raise argparse.ArgumentTypeError("tasks are 1 to 20")
    return list(dict.fromkeys(found))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add = found.add_argument
    add("--data", type=Path, help="the folder of the bAbI files (else stories are generated)")
    add("--tasks", type=_tasks, help="1,4,6-9 (default: all there are)")
    add("--joint", action="store_true", help="one network for all tasks together")
    add("--epochs", type=int, help="after the linear start (100, jointly 60)")
    add("--restarts", type=int, default=10, help="networks at most, the best kept (%(default)s)")
    add("--hops", type=int, default=3, help="how often the memory is addressed (%(default)s)")
    add("--width", type=int, help="of the embeddings (20, jointly 50)")
    add("--encoding", choices=("position", "bag"), default="position", help="of sentences")
    add("--tying", choices=("adjacent", "layer"), default="adjacent", help="of weights")
    add("--noise", type=float, default=0.1, help="empty memories while training (%(default)s)")
    add("--no-linear-start", action="store_true", help="softmaxes from the beginning")
    add("--show", type=int, default=1, help="questions a task whose reading is shown (%(default)s)")
    add("--seed", type=int, default=0, help="of data, weights and noise (%(default)s)")
    add("--device", default="cpu", help="where to run: cpu, cuda (%(default)s)")
    # At this size threads wait for each other longer than they work.
    add("--threads", type=int, default=1, help="processor threads (%(default)s)")
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Trains on the tasks, one by one or jointly, and prints errors and what was attended to."""
    options = parser().parse_args(argv)
    options.width = options.width or (50 if options.joint else 20)
    torch.set_num_threads(options.threads)
    console = Console()
    tasks = options.tasks or (list(data.NAMES) if options.data else list(data.KINDS))
    groups = [tasks] if options.joint else [[task] for task in tasks]
    errors: dict[int, tuple[Trained, float]] = {}
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f} epochs, loss {task.fields[loss]:.3f}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        for group in groups:
            try:
                sets = split(options, group)
            except (ValueError, KeyError) as error:
                parser().error(f"no data of task {error}" if options.data is None else str(error))
            name = "all tasks" if options.joint else f"{group[0]:2} {data.NAMES[group[0]]}"
            found = train_best(sets, options, name, progress)
            for task in group:
                errors[task] = found, examine(found.model, sets.tests[task])[1]
                for number in range(options.show):
                    console.print(attention(found.model, sets, task, 7 * number + 3))
                console.print(f"task {task}: error {errors[task][1]:.1f}%", highlight=False)
    console.print(table(errors, options))


if __name__ == "__main__":
    main()
