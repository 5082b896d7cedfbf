"""Item 7: times of first calls, of whole calls and of steps, beside torch's layers."""

from __future__ import annotations

import os
import pathlib
import statistics
import time
from typing import Any

import torch

from graphnn.bench.contact.correctness import strategies
from graphnn.bench.contact.networks import STRATEGIES, made
from graphnn.bench.contact.place import Place
from graphnn.timing.clock import rounds, timer_for
from graphnn.tools.resources import Layer

STEPS, BATCHES, ROUNDS = 256, (16, 64, 256), 9


def calls(place: Place) -> dict[str, Any]:
    """Time a first training call with tuning, and count the kernels that it compiles."""
    model = place.compiled(made("LSTM 64"), torch.bfloat16, tune=True)
    shape = (place.size(16, 2), place.size(64, 2), 64)
    x = torch.randn(shape, device=place.device, dtype=torch.bfloat16)
    found: dict[str, Any] = {}
    for name in ("first", "second", "third"):
        before, start = _kernels(), time.perf_counter()
        model(x=x).float().sum().backward()
        if place.on_gpu:
            torch.cuda.synchronize()
        found[name] = {"s": time.perf_counter() - start, "compiled": _kernels() - before}
    return found


def _kernels() -> int:
    """Return how many kernels Triton has compiled into its cache."""
    folder = pathlib.Path(os.environ["TRITON_CACHE_DIR"])
    return sum(1 for _ in folder.glob("*/*.ptx"))


def steps(place: Place, name: str) -> dict[str, Any]:
    """Time steps of an LSTM by each strategy and by cuDNN, forward, in µs per step."""
    size = int(name.rpartition(" ")[2])
    net = made(name)
    assert isinstance(net, Layer)
    found: dict[str, Any] = {}
    cudnn = torch.nn.LSTM(size, size, batch_first=True).to(place.device, torch.bfloat16)
    for batch in BATCHES:
        x = torch.randn(batch, STEPS, size, device=place.device, dtype=torch.bfloat16)
        runs: dict[str, Any] = {"cuDNN": lambda x=x: cudnn(x)}
        for strategy, skip in STRATEGIES.items():
            model = place.compiled(made(name), torch.bfloat16, skip=skip)
            with torch.no_grad():
                model(x=x)
            title = f"{strategy} ({', '.join(strategies(model))})"
            runs[title] = lambda x=x, model=model: model(x=x)
        with torch.no_grad():
            seconds = rounds(runs, ROUNDS, timer_for(place.device))
        found[f"batch {batch}"] = {
            k: statistics.median(v) * 1e6 / STEPS for k, v in seconds.items()
        }
    return found
