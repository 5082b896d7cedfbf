"""A small causal transformer learns to write a text, one character after another.

The model is trained on whole sequences and writes by `model.step`: one declaration serves both.
The keys and values that `step` caches follow from the mask of the graph.
Run `python examples/characters.py -h` for the options.
"""

from __future__ import annotations

import argparse
import math
import sysconfig
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor, nn
from torch.nn import functional as F

import graphnn as gn

DEFAULT_SIZE = 1_000_000  # characters of the default text


class Writer(nn.Module):
    """Maps the characters so far to a score per next character.

    Each layer attends to the last `window` characters, however long the text is.
    """

    def __init__(self, alphabet: int, options: argparse.Namespace) -> None:
        super().__init__()
        width, heads = options.width, options.heads
        self.embed = nn.Embedding(alphabet, width)
        self.blocks = nn.ModuleList(
            gn.nn.TransformerBlock(
                width,
                heads,
                causal=True,
                norm_first=True,
                activation="gelu",
                dropout=options.dropout,
                window=options.window,
                positions=gn.nn.RotaryPositions(width // heads),
            )
            for _ in range(options.layers)
        )
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, alphabet, bias=False)
        self.out.weight = self.embed.weight
        nn.init.normal_(self.embed.weight, std=0.02)

    def graph(self, g: gn.Graph) -> None:
        x = self.embed(g.input("char", over="time", dtype=torch.int64))
        for block in self.blocks:
            x = block(x)
        g.output("scores", self.out(self.norm(x)))


class Text:
    """A text as ids of its characters. The last tenth is held out."""

    def __init__(self, text: str) -> None:
        self.alphabet = sorted(set(text))
        id_of = {c: n for n, c in enumerate(self.alphabet)}
        ids = torch.tensor([id_of[c] for c in text])
        cut = len(text) * 9 // 10
        self.train, self.held_out = ids[:cut], ids[cut:]

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of these ids."""
        return "".join(self.alphabet[n] for n in ids)


def load(path: Path | None) -> str:
    """Returns the text of a file; by default, Python's standard library.

    Raises ValueError if the text has less than 20,000 characters.
    """
    if path is not None:
        text = path.read_text(encoding="utf-8", errors="replace")
    else:
        parts, size = [], 0
        for file in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
            parts.append(file.read_text(encoding="utf-8", errors="replace"))
            size += len(parts[-1])
            if size > DEFAULT_SIZE:
                break
        text = "".join(parts)[:DEFAULT_SIZE].encode("ascii", "replace").decode()
    if len(text) < 20_000:
        source = path or "the standard library"
        raise ValueError(f"{source} has {len(text)} characters; at least 20,000 are needed")
    return text


def loss_of(model: gn.Compiled, text: Tensor) -> Tensor:
    """Returns the mean loss, in nats per character, of predicting each character from those before.

    `text` has the shape (batch, time + 1).
    """
    scores: Tensor = model(char=text[:, :-1])
    return F.cross_entropy(scores.flatten(0, 1), text[:, 1:].flatten())


def windows(text: Tensor, starts: Tensor, length: int, device: str) -> Tensor:
    """Returns `length + 1` characters from each start, as (batch, length + 1)."""
    return text[starts[:, None] + torch.arange(length + 1)].to(device)


def validate(model: gn.Compiled, text: Tensor, options: argparse.Namespace) -> float:
    """Returns the mean loss in nats per character over consecutive windows of a held-out text."""
    length = options.length
    starts, total = torch.arange(0, len(text) - length - 1, length), 0.0
    model.eval()
    with torch.no_grad():
        for part in starts.split(options.batch):
            batch = windows(text, part, length, options.device)
            total += loss_of(model, batch).item() * len(part)
    model.train()
    return total / len(starts)


def train(
    model: gn.Compiled, text: Tensor, options: argparse.Namespace, on_step: Callable[[float], None]
) -> None:
    """Trains with AdamW, warm-up and cosine decay. Calls `on_step` with the loss of each step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.rate, betas=(0.9, 0.99))
    steps = steps_of(text, options)
    for step in range(steps):
        warm, done = min(1.0, (step + 1) / 50), step / steps
        optimizer.param_groups[0]["lr"] = (
            options.rate * warm * (0.55 + 0.45 * math.cos(math.pi * done))
        )
        starts = torch.randint(len(text) - options.length - 1, (options.batch,))
        loss = loss_of(model, windows(text, starts, options.length, options.device))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        on_step(loss.item())


def steps_of(text: Tensor, options: argparse.Namespace) -> int:
    """Returns the number of batches that cover the text `options.epochs` times."""
    return max(1, round(options.epochs * len(text) / (options.batch * options.length)))


def sample(model: gn.Compiled, start: Tensor, count: int, temperature: float) -> list[int]:
    """Draws `count` characters that follow those of `start`, one per step of the model."""
    model.eval()
    state, ids = model.initial_state(batch=1), start.tolist()
    with torch.no_grad():
        for position in range(len(ids) + count - 1):
            char = torch.tensor([ids[position]], device=start.device)
            scores, state = model.step(state, char=char)
            if position >= len(start) - 1:
                probabilities = torch.softmax(scores[0] / temperature, -1)
                ids.append(int(torch.multinomial(probabilities, 1)))
    model.train()
    return ids[len(start) :]


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add = result.add_argument
    add("--data", type=Path, help="a text file (default: Python's standard library)")
    add("--epochs", type=float, default=2, help="passes over the text (%(default)s)")
    add("--batch", type=int, default=16, help="sequences per step (%(default)s)")
    add("--length", type=int, default=64, help="characters per sequence (%(default)s)")
    add("--window", type=int, default=64, help="characters that a layer attends to (%(default)s)")
    add("--layers", type=int, default=3, help="transformer blocks (%(default)s)")
    add("--width", type=int, default=128, help="width of the model (%(default)s)")
    add("--heads", type=int, default=4, help="attention heads (%(default)s)")
    add("--dropout", type=float, default=0.0, help="dropout rate in training (%(default)s)")
    add("--rate", type=float, default=3e-3, help="learning rate (%(default)s)")
    add("--sample", type=int, default=400, help="characters to write after training (%(default)s)")
    add("--warmth", type=float, default=0.8, help="sampling temperature (%(default)s)")
    add("--seed", type=int, default=0, help="seed of weights, batches and sample (%(default)s)")
    add("--device", default="cpu", help="device: cpu or cuda (%(default)s)")
    add("--threads", type=int, default=2, help="CPU threads (%(default)s)")
    return result


def main(argv: Sequence[str] | None = None) -> None:
    """Trains, prints the loss on the held-out text, and writes a sample."""
    options = parser().parse_args(argv)
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    console = Console()
    try:
        text = Text(load(options.data))
    except (OSError, ValueError) as error:
        parser().error(str(error))
    model = gn.compile(Writer(len(text.alphabet), options).to(options.device))
    count = sum(p.numel() for p in model.parameters())
    console.print(
        f"{len(text.train):,} characters, alphabet of {len(text.alphabet)}, {count:,} weights"
    )
    columns = (
        TextColumn("training"),
        BarColumn(),
        TextColumn("{task.completed:5.0f} steps, loss {task.fields[loss]:.3f}"),
        TimeElapsedColumn(),
    )
    begin = time.perf_counter()
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("training", total=steps_of(text.train, options), loss=0.0)
        train(model, text.train, options, lambda x: progress.update(bar, advance=1, loss=x))
    seconds = time.perf_counter() - begin
    loss = validate(model, text.held_out, options)
    console.print(f"held out: {loss:.3f} nats per character after {seconds:.0f} s of training")
    begin = time.perf_counter()
    start = text.held_out[: options.length].to(options.device)
    written = sample(model, start, options.sample, options.warmth)
    seconds = time.perf_counter() - begin
    steps = len(start) + len(written)
    console.print(f"written in {seconds:.1f} s, {steps} steps, after {text.decode(start[-40:])!r}:")
    console.print(text.decode(written), markup=False, highlight=False)


if __name__ == "__main__":
    main()
