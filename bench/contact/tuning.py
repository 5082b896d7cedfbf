"""Item 8: what tuning chooses from empty caches, and what memory stays."""

from __future__ import annotations

import gc
from typing import Any

import torch

from graphnn.bench.contact.networks import made
from graphnn.bench.contact.place import Place
from graphnn.kernels import cache

NAMES, CALLS = ("LSTM 64", "LSTM 512"), 5


def choices(place: Place) -> dict[str, Any]:
    """Tune some networks, and return what was chosen: three caches should give the same."""
    for name in NAMES:
        model = place.compiled(made(name), torch.bfloat16, tune=True)
        _train(place, model, int(name.rpartition(" ")[2]))
    files = sorted((cache.folder() / "tuned").glob("*.json"))
    return {"choices": {file.name: file.read_text() for file in files}}


def memory(place: Place) -> dict[str, Any]:
    """Return the bytes before a stepwise model, with its CUDA graphs, and after it is deleted."""
    found = {"before": torch.cuda.memory_allocated()}
    model = place.compiled(made("LSTM 512"), torch.bfloat16, skip=("resident", "cooperative"))
    for length in (64, 96, 128, 160):  # a CUDA graph for each
        for _ in range(CALLS):
            _train(place, model, 512, length)
    found["with 4 graphs"] = torch.cuda.memory_reserved()
    found["peak"] = torch.cuda.max_memory_allocated()
    del model
    gc.collect()
    torch.cuda.empty_cache()
    return {**found, "after": torch.cuda.memory_allocated()}


def _train(place: Place, model: Any, size: int, length: int = 64) -> None:
    x = torch.randn(16, length, size, device=place.device, dtype=torch.bfloat16)
    model(x=x).float().sum().backward()
    torch.cuda.synchronize()
