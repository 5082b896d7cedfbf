"""An end-to-end memory network answers questions about a story in a few hops.

The network and its training follow Sukhbaatar et al. 2015 (arXiv:1503.08895).
Run `python examples/babi.py -h` for the options.
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

# Test error in percent (table 1 of the paper): (trained task by task, trained jointly).
# 1,000 questions per task, three hops, position encoding, linear start, random noise, and
# adjacent weight tying.
PUBLISHED = {
    1: (0.0, 0.0), 2: (8.3, 11.4), 3: (40.3, 21.9), 4: (2.8, 13.4), 5: (13.1, 14.4),
    6: (7.6, 2.8), 7: (17.3, 18.3), 8: (10.0, 9.3), 9: (13.2, 1.9), 10: (15.1, 6.5),
    11: (0.9, 0.3), 12: (0.2, 0.1), 13: (0.4, 0.2), 14: (1.7, 6.9), 15: (0.0, 0.0),
    16: (1.3, 2.7), 17: (51.0, 40.4), 18: (11.1, 9.4), 19: (82.8, 88.0), 20: (0.0, 0.0),
}  # fmt: skip
BATCH = 32
SOLVED = 1e-3  # below this mean loss a network answers all its training questions


class Answerer(nn.Module):
    """Maps a story and a question to a score per answer word and the attention weights per hop."""

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
        question = g.input("question", over="query", dtype=torch.int64)
        scores, weights = self.memory(story, question, over="sentence", with_weights=True)
        g.output("scores", scores)
        for hop, weight in enumerate(weights, start=1):
            g.output(f"hop {hop}", weight)


def ask(model: gn.Compiled, batch: data.Batch) -> dict[str, Tensor]:
    """Returns the outputs of the model for a batch."""
    outputs: dict[str, Tensor] = model(
        story=batch.story, question=batch.question, lengths={"sentence": batch.count}
    )
    return outputs


def evaluate(model: gn.Compiled, batch: data.Batch) -> tuple[float, float]:
    """Returns (mean log loss, error in percent) over a batch, in evaluation mode."""
    model.eval()
    with torch.no_grad():
        scores = ask(model, batch)["scores"]
    model.train()
    wrong = (scores.argmax(-1) != batch.answer).double().mean()
    return F.cross_entropy(scores, batch.answer).item(), 100 * wrong.item()


@dataclass(frozen=True)
class Schedule:
    """A training schedule: `linear` epochs without softmaxes, then `epochs` with them.

    The learning rate starts at `rate` and is halved every `halve` epochs.
    """

    epochs: int
    halve: int
    rate: float
    linear: int

    @staticmethod
    def of(options: argparse.Namespace) -> Schedule:
        """Returns the schedule of the paper: 100 epochs per task, or 60 jointly (section 4.2).

        The paper ends the linear start when the held-out loss stops falling. Its authors'
        program ends it after 20 epochs, and so does this one.
        """
        epochs = options.epochs or (60 if options.joint else 100)
        rate = 0.01 if options.no_linear_start else 0.005
        linear = 0 if options.no_linear_start else math.ceil(epochs / 5)
        return Schedule(epochs, math.ceil(epochs / 4), rate, linear)


def epoch(model: gn.Compiled, batch: data.Batch, optimizer: torch.optim.Optimizer) -> float:
    """Trains once on all questions in a new random order. Returns the mean loss."""
    total, order = 0.0, torch.randperm(len(batch))
    for indices in order.split(BATCH):
        part = batch.take(indices)
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
    on_epoch: Callable[[float], None],
) -> None:
    """Runs the linear start and then the epochs. Calls `on_epoch` with the loss of each epoch."""
    optimizer = torch.optim.SGD(model.parameters(), lr=schedule.rate)
    for number in range(-schedule.linear, schedule.epochs):
        network.linear = number < 0
        halvings = max(number, 0) // schedule.halve
        optimizer.param_groups[0]["lr"] = schedule.rate * 0.5**halvings
        on_epoch(epoch(model, batch, optimizer))


@dataclass(frozen=True)
class Split:
    """Training questions, a validation tenth that is held out of them, and each task's tests."""

    train: data.Batch
    held_out: data.Batch
    tests: dict[int, data.Batch]
    vocabulary: data.Vocabulary
    questions: dict[int, list[data.Question]]


def split(options: argparse.Namespace, tasks: Sequence[int]) -> Split:
    """Loads or generates the data of the tasks. Raises ValueError if a task has no files."""
    train: list[data.Question] = []
    tests: dict[int, list[data.Question]] = {}
    held_out: list[data.Question] = []
    for task in tasks:
        if options.data:
            questions, tests[task] = data.load(options.data, task)
        else:
            questions = data.generate(task, 1_000, options.seed)
            tests[task] = data.generate(task, 1_000, options.seed + 1)
        cut = len(questions) - len(questions) // 10
        train, held_out = train + questions[:cut], held_out + questions[cut:]
    vocabulary = data.Vocabulary([*train, *held_out, *(q for t in tests.values() for q in t)])
    batches = {task: data.collate(t, vocabulary).to(options.device) for task, t in tests.items()}
    return Split(
        data.collate(train, vocabulary).to(options.device),
        data.collate(held_out, vocabulary).to(options.device),
        batches,
        vocabulary,
        tests,
    )


@dataclass
class Trained:
    """The network with the least training loss among those of several seeds."""

    model: gn.Compiled
    loss: float
    seconds: float
    held_out: float  # error in percent on the held-out questions
    restart: int  # which restart it was, from 1


def train_best(sets: Split, options: argparse.Namespace, name: str, progress: Progress) -> Trained:
    """Trains networks from different seeds and returns the one with the least training loss.

    Some seeds end in a poor local minimum, so the paper repeats the training 10 times. Restarts
    stop early once a network answers all its training questions.
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
        loss, _ = evaluate(model, sets.train)
        if best is None or loss < best.loss:
            held_out = evaluate(model, sets.held_out)[1]
            best = Trained(copy.deepcopy(model), loss, 0.0, held_out, restart + 1)
        if loss < SOLVED:
            break
    assert best is not None
    best.seconds = time.perf_counter() - begin
    progress.remove_task(bar)
    return best


def table(errors: dict[int, tuple[Trained, float]], options: argparse.Namespace) -> Table:
    """Returns a table with the test error of each task next to the published error."""
    real, joint = options.data is not None, options.joint
    published_column = "published" if real else "published (bAbI)"
    shown = Table(title=f"Test error in percent, {'joint' if joint else 'task by task'}")
    for column in ("task", "", "error", published_column, "held out", "loss", "restart", "seconds"):
        shown.add_column(column, justify="left" if column in ("task", "") else "right")
    for task, (trained, error) in errors.items():
        row = [f"{error:.1f}", f"{PUBLISHED[task][joint]:.1f}", f"{trained.held_out:.1f}"]
        row += [f"{trained.loss:.4f}", str(trained.restart), f"{trained.seconds:.0f}"]
        shown.add_row(str(task), data.NAMES[task], *row)
    mean = sum(error for _, error in errors.values()) / len(errors)
    published = sum(PUBLISHED[task][joint] for task in errors) / len(errors)
    shown.add_section()
    shown.add_row("mean", "", f"{mean:.1f}", f"{published:.1f}", "", "", "", "")
    return shown


def attention_table(model: gn.Compiled, sets: Split, task: int, number: int) -> Table:
    """Returns a table of the attention weights of each hop over the story of a test question."""
    model.eval()
    with torch.no_grad():
        outputs = ask(model, sets.tests[task].take(torch.tensor([number])))
    question = sets.questions[task][number]
    word = {n: w for w, n in sets.vocabulary.ids.items()}
    answer = word.get(int(outputs["scores"].argmax()), "")
    title = f"{' '.join(question.words)}? {answer}"
    shown = Table(title=title + ("" if answer == question.answer else f" (no: {question.answer})"))
    shown.add_column("sentence")
    hops = [name for name in outputs if name.startswith("hop")]
    for name in hops:
        shown.add_column(name, justify="right")
    for k, sentence in enumerate(question.story):
        weights = [outputs[name][0, k].item() for name in hops]
        shown.add_row(" ".join(sentence), *(f"{w:.2f}" if w >= 0.005 else "" for w in weights))
    return shown


def _tasks(text: str) -> list[int]:
    """Parses a list of tasks such as 1,4,6-9. Raises ArgumentTypeError if it is malformed."""
    tasks: list[int] = []
    for part in text.split(","):
        low, _, high = part.partition("-")
        if not low.isdigit() or (high and not high.isdigit()):
            raise argparse.ArgumentTypeError(f"'{text}' is not of the form 1,4,6-9")
        tasks += range(int(low), int(high or low) + 1)
    if not tasks or min(tasks) < 1 or max(tasks) > 20:
        raise argparse.ArgumentTypeError("tasks are 1 to 20")
    return list(dict.fromkeys(tasks))


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add = result.add_argument
    add("--data", type=Path, help="folder of the bAbI files (default: generate stories)")
    add("--tasks", type=_tasks, help="tasks, such as 1,4,6-9 (default: all available)")
    add("--joint", action="store_true", help="train one network on all tasks")
    add("--epochs", type=int, help="epochs after the linear start (100, joint: 60)")
    add(
        "--restarts",
        type=int,
        default=10,
        help="most networks to train; the best is kept (%(default)s)",
    )
    add("--hops", type=int, default=3, help="number of reads of the memory (%(default)s)")
    add("--width", type=int, help="width of the embeddings (20, joint: 50)")
    add("--encoding", choices=("position", "bag"), default="position", help="sentence encoding")
    add("--tying", choices=("adjacent", "layer"), default="adjacent", help="weight tying")
    add(
        "--noise",
        type=float,
        default=0.1,
        help="fraction of empty memories in training (%(default)s)",
    )
    add("--no-linear-start", action="store_true", help="use softmaxes from the first epoch")
    add(
        "--show", type=int, default=1, help="questions per task to show attention for (%(default)s)"
    )
    add("--seed", type=int, default=0, help="seed of data, weights and noise (%(default)s)")
    add("--device", default="cpu", help="device: cpu or cuda (%(default)s)")
    # At this size, threads spend more time on synchronisation than on work.
    add("--threads", type=int, default=1, help="CPU threads (%(default)s)")
    return result


def main(argv: Sequence[str] | None = None) -> None:
    """Trains on the tasks, one by one or jointly, and prints errors and attention weights."""
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
                parser().error(f"no data for task {error}" if options.data is None else str(error))
            name = "all tasks" if options.joint else f"{group[0]:2} {data.NAMES[group[0]]}"
            trained = train_best(sets, options, name, progress)
            for task in group:
                errors[task] = trained, evaluate(trained.model, sets.tests[task])[1]
                for number in range(options.show):
                    console.print(attention_table(trained.model, sets, task, 7 * number + 3))
                console.print(f"task {task}: error {errors[task][1]:.1f}%", highlight=False)
    console.print(table(errors, options))


if __name__ == "__main__":
    main()
