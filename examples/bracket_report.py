"""Tables of the trained bracket checkers: their accuracy, and how far back gradients reach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

import graphnn as gn
from graphnn.examples.c_source import Batch, Sample, batches, collate

DISTANCES = (0, 8, 16, 32, 64, 96)
DEPTHS = (0, 2, 3, 4)
BARS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Trained:
    """A trained model and its training time in seconds."""

    model: gn.Compiled
    seconds: float


@dataclass(frozen=True)
class Answers:
    """Results per sample, all of shape (samples,): is the answer right, the label, the buckets."""

    right: Tensor
    whole: Tensor
    distance: Tensor
    depth: Tensor


def ask(model: gn.Compiled, batch: Batch) -> Tensor:
    """Returns the answers (batch,) of the model: above zero means well-formed."""
    device = next(model.parameters()).device
    answers: Tensor = model(char=batch.char.to(device), lengths={"time": batch.length.to(device)})
    return answers


@torch.no_grad()
def evaluate(model: gn.Compiled, samples: list[Sample]) -> Answers:
    """Returns the answers for all samples. Leaves the model in evaluation mode."""
    model.eval()
    parts = [
        ((ask(model, batch).cpu() > 0) == (batch.whole > 0), batch)
        for batch in batches(samples, 256)
    ]
    return Answers(
        right=torch.cat([right for right, _ in parts]),
        whole=torch.cat([batch.whole for _, batch in parts]) > 0,
        distance=torch.cat([batch.distance for _, batch in parts]),
        depth=torch.cat([batch.depth for _, batch in parts]),
    )


def accuracy_table(trained: Mapping[str, Trained], answers: Mapping[str, Answers]) -> Table:
    """Returns a table with one row per network, and one for always giving the commoner answer."""
    table = Table(title="Held-out files: is the text well-formed?")
    for column in ("network", "parameters", "trained in", "accuracy"):
        table.add_column(column, justify="left" if column == "network" else "right")
    first = next(iter(answers.values()))
    table.add_row("majority", "", "", _percent(_majority(first.whole)))
    for name, (model, seconds) in ((k, (v.model, v.seconds)) for k, v in trained.items()):
        count = sum(p.numel() for p in model.parameters())
        right = _percent(answers[name].right.float().mean().item())
        table.add_row(name, f"{count:,}", f"{seconds:.1f} s", right)
    return table


def bucket_table(answers: Mapping[str, Answers], key: str, edges: Sequence[int]) -> Table:
    """Returns the accuracy of each network per bucket of `key` ("distance" or "depth")."""
    table = Table(title=f"Accuracy by {key}")
    table.add_column(key)
    for column in ("samples", "majority", *answers):
        table.add_column(column, justify="right")
    first = next(iter(answers.values()))
    bucket = torch.bucketize(getattr(first, key), torch.tensor(edges), right=True) - 1
    for number, low in enumerate(edges):
        selected = bucket == number
        if selected.any():
            high = edges[number + 1] - 1 if number + 1 < len(edges) else None
            rates = [a.right[selected].float().mean().item() for a in answers.values()]
            rates.insert(0, _majority(first.whole[selected]))
            table.add_row(_span(low, high), str(int(selected.sum())), *map(_percent, rates))
    return table


def _majority(whole: Tensor) -> float:
    fraction = whole.float().mean().item()
    return max(fraction, 1 - fraction)


def _percent(rate: float) -> str:
    return f"{100 * rate:.1f}%"


def _span(low: int, high: int | None) -> str:
    if high is None:
        return f"{low} or more"
    low = max(low, 1)
    return str(low) if low == high else f"{low} to {high}"


def flow_table(models: Mapping[str, gn.Compiled], samples: list[Sample]) -> Table:
    """Returns the norm of the gradient of the loss at each state and step, as bars.

    All `samples` must have the same length.
    """
    batch = collate(samples)
    steps = batch.char.shape[1]
    table = Table(title=f"Gradient of the loss per state over {steps} steps (log scale)")
    for column in ("network", "state", f"step 1 to step {steps}", "first / last"):
        table.add_column(column, justify="right" if column == "first / last" else "left")
    flows = {name: _flow(model, batch) for name, model in models.items()}
    norms = torch.cat([norm for flow in flows.values() for norm in flow.values()])
    top = norms.max().clamp(min=1e-30).log10().item()
    for name, flow in flows.items():
        for state, norm in flow.items():
            first, last = norm[0].item(), norm[-1].item()
            ratio = f"{first / last:.0e}" if last else "-"
            table.add_row(name, state, _bars(norm, top), ratio)
    return table


def _flow(model: gn.Compiled, batch: Batch) -> dict[str, Tensor]:
    device = next(model.parameters()).device
    whole = batch.whole.to(device)
    flow: dict[str, Tensor] = gn.gradient_flow(
        model,
        lambda answers: F.binary_cross_entropy_with_logits(answers, whole),
        {"char": batch.char.to(device)},
    )
    return {state: norm.cpu() for state, norm in flow.items()}


def _bars(norm: Tensor, top: float, width: int = 40, decades: float = 8.0) -> str:
    """Returns norm (time,) as a row of bars from 10^(top - decades) (empty) to 10^top (full)."""
    means = torch.stack([part.mean() for part in norm.tensor_split(min(width, len(norm)))])
    height = (means.clamp(min=1e-30).log10() - top) / decades + 1
    levels = (height.clamp(0, 1) * (len(BARS) - 1)).round().long()
    return "".join(BARS[level] for level in levels.tolist())
