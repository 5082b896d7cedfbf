"""Item 2: kernels on their own, and small networks, each launch against float64."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import graphnn as gn
from graphnn.bench.contact.place import DTYPES, Place
from graphnn.kernels.executors.named import INTERPRETER
from graphnn.kernels.runtime import random, scan
from graphnn.tools.resources import Layer
from graphnn.tools.verification.errors import ROUNDING

Tensor = torch.Tensor


def scans(place: Place) -> dict[str, Any]:
    """Linear scans and their gradients, in both directions, whole and in segments."""
    found = {}
    time = place.size(1000, 150)
    for name in ("bf16", "fp32"):
        for reverse in (False, True):
            for segments in (1, 3):
                title = f"{name}{', reverse' * reverse}, {segments} segment{'s' * (segments > 1)}"
                found[title] = _scan_error(place, name, time, reverse, segments)
    return found


def _scan_error(place: Place, name: str, time: int, reverse: bool, segments: int) -> float:
    """Return the largest error relative to the largest number. Raises if it is too large."""
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.rand(s, generator=generator) for s in [(time, 33)] * 3 + [(33,)]]
    a, b, g, start = (x.to(place.device, DTYPES[name]) for x in drawn)
    a = a * 0.9
    z = scan.forward(a, b, start, reverse, place.executor, segments)
    grads = scan.backward(a, start, z, g, reverse, place.executor, segments)
    exact = [x.double().requires_grad_() for x in (a, b, start)]
    want = _loop(*exact, reverse)
    wanted = torch.autograd.grad(want, exact, g.double())
    error = max(_error(x, y) for x, y in zip((z, *grads), (want.detach(), *wanted)))
    # z is rounded before the backward reads it, which rounds its results again
    if not error <= (allowed := 4 * ROUNDING[name]):
        raise AssertionError(f"{name}: wrong by {error:.1e}, at most {allowed:.1e} is allowed")
    return error


def _loop(a: Tensor, b: Tensor, start: Tensor, reverse: bool) -> Tensor:
    z, state = [], start
    for t in range(len(a))[:: -1 if reverse else 1]:
        state = a[t] * state + b[t]
        z.append(state)
    return torch.stack(z[:: -1 if reverse else 1])


def _error(got: Tensor, want: Tensor) -> float:
    return float((got.double() - want).abs().max() / want.abs().max())


def random_numbers(place: Place) -> dict[str, Any]:
    """The random numbers of kernels, which must be those of the interpreter."""
    seed, shape, found = torch.tensor([1234567]), (3, 1001), {}
    for law in random.LAWS:
        for name in ("bf16", "fp32"):
            given = law, 0.3, shape, DTYPES[name]
            ours = random.random_tensor(seed.to(place.device), *given, place.executor).cpu()
            want = random.random_tensor(seed, *given, INTERPRETER)
            error = float((ours.double() - want.double()).abs().max())
            # logarithms and cosines of normal numbers differ in their last digits
            if error > (16 * ROUNDING[name] if law == "normal" else 0.0):
                raise AssertionError(f"{law}, {name}: off by {error:.1e}")
            found[f"{law}, {name}"] = error
    return found


class Rolled(nn.Module):
    """Slots of a memory that move by a position at each step, with a norm over them."""

    def graph(self, g: gn.Graph) -> None:
        """Declare the graph."""
        x = g.input("x", (4,), over="time")
        g.axis("slot", 5)
        m = g.state("m", (4,), along="slot", init=gn.index("slot", graph=g) * 0.3)
        m.next = torch.tanh(gn.roll(m, 1, over="slot") + x)
        g.output("y", gn.sum(m.next, over="slot"))


def _small(kind: str) -> Any:
    return gn.compile(Layer(gn.nn.LSTM(20, 20), 20), float32=kind)


NETWORKS: dict[str, Any] = {
    "best of slots": lambda: Layer(gn.nn.AssociativeMemory(50, 8, 8, topk=4), 8),
    "rolled slots": Rolled,
    "ieee": lambda: _small("ieee"),
    "tf32x3": lambda: _small("tf32x3"),
    "tf32": lambda: _small("tf32"),
}


def network(place: Place, name: str) -> dict[str, Any]:
    """Verify a small network: `gn.verify` compares each launch with the interpreter."""
    torch.manual_seed(0)
    found = gn.verify(NETWORKS[name](), target=place.target)
    found.raise_for_faults()
    worst = max((r.worst for r in found.launches), key=lambda e: e.severity)
    return {"launches": len(found.launches), "error": worst.error, "allowed": worst.allowed}
