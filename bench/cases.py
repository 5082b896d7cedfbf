"""The timed cases as data: networks, sizes and passes, most important first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from graphnn.bench.attention import KINDS
from graphnn.bench.variants import ALL

STEP, PLANNING = "step", "planning"
BEST = "lookup of the 8 best"
# six loops; only planning is timed
DEEP = "3 layers, 2 directions"


@dataclass(frozen=True)
class Case:
    """One network at one size.

    `sizes` maps letters to sizes: T steps, B examples, H width; for attention also Q queries and
    S sources or slots. `extra` lists passes in addition to forward and backward. If `compiled`,
    torch.compile is timed too; it unrolls loops, which takes minutes beyond `COMPILED_STEPS`.
    """

    network: str
    sizes: tuple[tuple[str, int], ...]
    dtype: str = "float32"
    extra: tuple[str, ...] = ()
    compiled: bool = False

    def record(self) -> dict[str, Any]:
        """Network, sizes and dtype, in the form of the results."""
        return {"network": self.network, "sizes": dict(self.sizes), "dtype": self.dtype}

    def size(self, letter: str) -> int:
        """The size for a letter."""
        return dict(self.sizes)[letter]

    def at(self, **sizes: int) -> Case:
        """The case with other sizes, and without the passes that only the central case has."""
        changed = tuple((k, sizes.get(k, v)) for k, v in self.sizes)
        return replace(self, sizes=changed, extra=(), compiled=False)


@dataclass(frozen=True)
class Suite:
    """Cases, most important first, and the limits of their timing.

    `rounds` is the maximum per sweep, `spend` the seconds per pass and sweep, `budget` the seconds
    in all. A contender may compile for `patience` seconds, all contenders for `compiling` seconds.
    """

    cases: tuple[Case, ...]
    rounds: int
    spend: float
    sweeps: int
    budget: float
    patience: float
    compiling: float
    text: str


# torch.compile unrolls loops and takes minutes for more steps
COMPILED_STEPS = 64


def loop(network: str, T: int, B: int, H: int, dtype: str = "float32", **more: Any) -> Case:
    """A recurrent network."""
    return Case(network, (("T", T), ("B", B), ("H", H)), dtype, **more)


def attention(network: str, B: int, Q: int, S: int, H: int, dtype: str = "float32") -> Case:
    """Attention of Q queries over S sources."""
    return Case(network, (("B", B), ("Q", Q), ("S", S), ("H", H)), dtype, (PLANNING,), True)


def lookup(B: int, S: int, H: int, dtype: str = "float32", network: str = "lookup") -> Case:
    """A memory of S slots, addressed by B examples."""
    return Case(network, (("B", B), ("S", S), ("H", H)), dtype, (PLANNING,), True)


def each(middle: Case, **sizes: tuple[int, ...]) -> Iterator[Case]:
    """The central case with one size varied at a time."""
    for letter, values in sizes.items():
        yield from (middle.at(**{letter: v}) for v in values if v != middle.size(letter))


def unique(*cases: Case) -> tuple[Case, ...]:
    """The cases in order, without duplicates."""
    found: dict[str, Case] = {}
    for case in cases:
        found.setdefault(str(case.record()), case)
    return tuple(found.values())


LAYERS = ("LSTM", "GRU", "RNN", "reset-before GRU")
CELLS = tuple(name for name in ALL if name not in LAYERS)
EXTRA = (STEP, PLANNING)


def _quick() -> tuple[Case, ...]:
    """Short loops, which torch.compile unrolls in seconds; then one size varied at a time."""
    middle = [
        loop(n, 8, 16, 64, extra=EXTRA, compiled=True)
        for n in ("LSTM", "GRU", "reset-before GRU", "two speeds")
    ]
    # cases that compile in seconds come first, as all share the compile budget
    quick = [lookup(16, 4096, 64), attention("additive attention", 4, 16, 64, 64)]
    around = each(middle[0], T=(32, 128), B=(4, 64), H=(128, 256))
    return unique(*quick, *middle, *around, *each(middle[3], T=(32, 128)))


def _gpu() -> tuple[Case, ...]:
    """In bfloat16 around T=256, B=16, H=128; then attention, other cells and other dtypes."""
    half = {"dtype": "bfloat16"}
    middle = [loop(n, 256, 16, 128, extra=EXTRA, **half) for n in LAYERS]
    short = [
        loop(n, COMPILED_STEPS, 16, 128, compiled=True, **half)
        for n in ("LSTM", "reset-before GRU", "two speeds", "layer-norm LSTM")
    ]
    many = [
        attention("additive attention", 16, 64, 512, 128, "bfloat16"),
        attention("dot attention", 16, 512, 512, 64, "bfloat16"),
        lookup(16, 1 << 20, 64, "bfloat16"),
        # float32: half precision would select other slots than the float64 reference does
        lookup(16, 1 << 20, 64, network=BEST),
    ]
    cells = [loop(n, 256, 16, 128, **half) for n in CELLS]
    around: list[Case] = []
    for case in middle:
        around += each(case, H=(64, 256, 512), B=(1, 64, 256), T=(64, 1024))
        around += [replace(case.at(), dtype=d) for d in ("float32", "float16")]
    wide = [c.at(H=h) for c in cells for h in (64, 512)]
    more = [*each(many[0], S=(64, 4096)), *each(many[2], S=(1 << 17, 1 << 23))]
    return unique(*middle, *cells[:2], *many, *short, *cells[2:], *around, *more, *wide)


def _cpu() -> tuple[Case, ...]:
    """The sizes in the table of bench/README.md."""
    names = [n for n in ALL if n in LAYERS or n in ("the same, gate by gate", *CELLS[:6])]
    sizes = ((100, 32, 128), (100, 32, 256), (64, 16, 512))
    loops = [loop(n, *size, extra=(PLANNING,)) for n in names for size in sizes]
    return (*loops, Case(DEEP, (("H", 8),)))


def _tiny() -> tuple[Case, ...]:
    names = ("LSTM", "layer-norm LSTM", "MinGRU", "RNN")
    loops = [loop(n, 3, 2, 16) for n in names]
    return unique(
        *loops,
        attention("dot attention", 1, 3, 4, 8),
        *[lookup(2, 5, 4, network=n) for n in ("lookup", BEST)],
    )


def _every() -> tuple[Case, ...]:
    sizes = product((64, 256, 1024), (1, 16, 64, 256), (64, 128, 256, 512))
    dtypes = ("bfloat16", "float16", "float32")
    return tuple(loop(n, *s, dtype=d) for s in sizes for n in ALL for d in dtypes)


INF = float("inf")
SUITES = {
    "tiny": Suite(
        _tiny(), 5, 0.1, 1, INF, 30.0, INF, "a few small cases, to see that everything works"
    ),
    "quick": Suite(_quick(), 11, 0.25, 2, 100.0, 30.0, 65.0, "the main cases, within two minutes"),
    "cpu": Suite(_cpu(), 15, 3.0, 2, INF, 60.0, INF, "the sizes in the table of bench/README.md"),
    "gpu": Suite(
        _gpu(), 15, 1.0, 1, 500.0, 60.0, 240.0, "one size varied at a time, on a GPU, ten minutes"
    ),
    "every": Suite(_every(), 15, 3.0, 1, INF, 120.0, INF, "every network, size and dtype: hours"),
}
NETWORKS = (*ALL, *KINDS, DEEP)
