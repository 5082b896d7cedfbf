"""The loops that are timed on a GPU, as data: which, how large, in which order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

from bench.variants import ALL


@dataclass(frozen=True)
class Case:
    """One network at one size. `compiled`: torch.compile of its eager loop is timed too."""

    network: str
    steps: int = 256
    batch: int = 16
    width: int = 128
    dtype: str = "bfloat16"
    compiled: bool = False

    def __str__(self) -> str:
        return f"{self.network} T{self.steps} B{self.batch} H{self.width} {self.dtype}"


LAYERS = ("LSTM", "GRU", "RNN", "reset-before GRU")
CELLS = tuple(name for name in ALL if name not in LAYERS)
# unrolled, torch.compile takes minutes beyond
COMPILED_STEPS = 64


def _sweeps() -> Iterator[Case]:
    """Each size on its own, around the case in the middle."""
    for name in LAYERS:
        middle = Case(name)
        yield middle
        yield from (replace(middle, width=h) for h in (64, 256, 512))
        yield from (replace(middle, dtype=d) for d in ("float32", "float16"))
        yield from (replace(middle, batch=b) for b in (1, 64, 256))
        yield from (replace(middle, steps=t) for t in (64, 1024))


TINY = [Case(name, 3, 2, 16, "float32") for name in ("LSTM", "layer-norm LSTM", "MinGRU")]
TINY += [Case("RNN", 2, 1, 16, "bfloat16")]
QUICK = [Case(n) for n in ("LSTM", "GRU", "RNN", "layer-norm LSTM", "MinGRU")]
QUICK += [Case("LSTM", width=512)]
# in order of what matters most: a budget of time may cut the end off
GPU = [
    *QUICK,
    *(Case(name) for name in (*LAYERS, *CELLS)),
    *(Case(n, COMPILED_STEPS, compiled=True) for n in ("LSTM", "layer-norm LSTM")),
    *_sweeps(),
    *(Case(name, width=h) for name in CELLS for h in (64, 512)),
]
GPU = list(dict.fromkeys(GPU))
SIZES = product((64, 256, 1024), (1, 16, 64, 256), (64, 128, 256, 512))
DTYPES = ("bfloat16", "float16", "float32")
EVERY = [Case(n, *s, dtype=d) for s in SIZES for n in ALL for d in DTYPES]
