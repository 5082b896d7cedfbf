"""A small causal transformer learns to write a text, one character after another.

Trained on whole sequences, it writes by `model.step`: the same declaration, streamed. Its keys and
values are kept from step to step as the graph's mask tells. Run `python examples/characters.py -h`.
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

ENOUGH = 1_000_000  # characters, where none are given


class Writer(nn.Module):
    """The characters so far in, scores of the next one out.

    Each layer looks back over `window` characters, however long the text.
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
    """A text as numbers of its characters, its last tenth held out."""

    def __init__(self, text: str) -> None:
        self.alphabet = sorted(set(text))
        number = {c: n for n, c in enumerate(self.alphabet)}
        numbers = torch.tensor([number[c] for c in text])
        cut = len(text) * 9 // 10
        self.train, self.held = numbers[:cut], numbers[cut:]

    def write(self, numbers: Sequence[int]) -> str:
        """The characters of these numbers."""
        return "".join(self.alphabet[n] for n in numbers)


def load(path: Path | None) -> str:
    """A file's text, or Python source found installed. Raises ValueError where it is too short."""
    if path is not None:
        text = path.read_text(encoding="utf-8", errors="replace")
    else:
        parts, size = [], 0
        for file in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
            parts.append(file.read_text(encoding="utf-8", errors="replace"))
            size += len(parts[-1])
            if size > ENOUGH:
                break
        text = "".join(parts)[:ENOUGH].encode("ascii", "replace").decode()
    if len(text) < 20_000:
        raise ValueError(f"{path or 'the standard library'} has {len(text)} characters, of 20,000")
    return text


def loss_of(model: gn.Compiled, text: Tensor) -> Tensor:
    """Mean loss in nats of (batch, time + 1) characters, each by those before it."""
    scores: Tensor = model(char=text[:, :-1])
    return F.cross_entropy(scores.flatten(0, 1), text[:, 1:].flatten())


def windows(text: Tensor, starts: Tensor, length: int, device: str) -> Tensor:
    """(batch, length + 1) characters from each start."""
    return text[starts[:, None] + torch.arange(length + 1)].to(device)


def validate(model: gn.Compiled, text: Tensor, options: argparse.Namespace) -> float:
    """Mean loss in nats a character over a held-out text, cut into windows one after another."""
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
    model: gn.Compiled, text: Tensor, options: argparse.Namespace, tick: Callable[[float], None]
) -> None:
    """AdamW, warmed up and then cooled down by a cosine; `tick` gets each step's loss."""
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
        tick(loss.item())


def steps_of(text: Tensor, options: argparse.Namespace) -> int:
    """How many batches see as many characters as so many passes over the text."""
    return max(1, round(options.epochs * len(text) / (options.batch * options.length)))


def sample(model: gn.Compiled, start: Tensor, count: int, warmth: float) -> list[int]:
    """`count` characters that follow those of `start`, drawn one by one as the model streams."""
    model.eval()
    state, numbers = model.initial_state(batch=1), start.tolist()
    with torch.no_grad():
        for position in range(len(numbers) + count - 1):
            char = torch.tensor([numbers[position]], device=start.device)
            scores, state = model.step(state, char=char)
            if position >= len(start) - 1:
                chances = torch.softmax(scores[0] / warmth, -1)
                numbers.append(int(torch.multinomial(chances, 1)))
    model.train()
    return numbers[len(start) :]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add = found.add_argument
    add("--data", type=Path, help="a text file (else Python source found installed)")
    add("--epochs", type=float, default=2, help="passes over the text (%(default)s)")
    add("--batch", type=int, default=16, help="sequences a step (%(default)s)")
    add("--length", type=int, default=64, help="characters of a sequence (%(default)s)")
    add("--window", type=int, default=64, help="characters a layer looks back (%(default)s)")
    add("--layers", type=int, default=3, help="of the transformer (%(default)s)")
    add("--width", type=int, default=128, help="of the transformer (%(default)s)")
    add("--heads", type=int, default=4, help="of attention (%(default)s)")
    add("--dropout", type=float, default=0.0, help="while training (%(default)s)")
    add("--rate", type=float, default=3e-3, help="learning rate (%(default)s)")
    add("--sample", type=int, default=400, help="characters to write at the end (%(default)s)")
    add("--warmth", type=float, default=0.8, help="temperature of the writing (%(default)s)")
    add("--seed", type=int, default=0, help="of weights, batches and sample (%(default)s)")
    add("--device", default="cpu", help="where to run: cpu, cuda (%(default)s)")
    add("--threads", type=int, default=2, help="processor threads (%(default)s)")
    return found


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
    console.print(f"{len(text.train):,} characters of {len(text.alphabet)}, {count:,} weights")
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
    loss = validate(model, text.held, options)
    console.print(f"held out: {loss:.3f} nats a character, after {seconds:.0f} s of training")
    begin = time.perf_counter()
    start = text.held[: options.length].to(options.device)
    written = sample(model, start, options.sample, options.warmth)
    seconds = time.perf_counter() - begin
    steps = len(start) + len(written)
    console.print(f"written in {seconds:.1f} s, {steps} steps, after {text.write(start[-40:])!r}:")
    console.print(text.write(written), markup=False, highlight=False)


if __name__ == "__main__":
    main()
