"""Whether an emitted kernel fits a GPU: foretold where that is clear, compiled and read where not.

Foretelling costs nothing and is what most kernels need; the rest take a second or two each, once:
verdicts are kept in the cache.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace

import triton

from . import cache
from .cases import case
from .emit import Source
from .limits import SHARED, register_cap

ITEMSIZE = {"bf16": 2, "fp16": 2, "fp32": 4, "fp64": 8}
WARPS = (8, 16, 4)
# rows a program with matrix products, and without: those take any number, and the fewer the more
# programs share the work
ROWS, FEW = (16, 32, 64), (1, 4, 16)
# registers a thread below which none of 109 emitted kernels spilled, and above which all did
# (sm_90, Triton 3.9); between them the compiler is asked, or half of them believed
SURELY, NEVER = 215, 345
LIKELY = 300
# numbers of one tile in a thread: of a phase without products the most that never spilled, and what
# is tried first (sm_90, Triton 3.9: an LSTM's of 512 units and 16 rows, 64 a thread, spills 1,563
# times; of 4 rows, 16 a thread, it takes 126 registers, of 1 row 40)
MOST, FIRST = 16, 4


@dataclass(frozen=True)
class Launch:
    """How a kernel is to be run: floats of `dtype`, `rows` a program, `warps` of threads."""

    dtype: str
    precision: str
    rows: int = 16
    warps: int = 8


@dataclass(frozen=True)
class Verdict:
    """Whether a kernel fits, how it is then launched, and in words why or why not."""

    fits: bool
    launch: Launch
    reason: str


def judge(source: Source, launch: Launch, target: str, ask: bool = True) -> Verdict:
    """The first number of warps with which a kernel fits `target`, or why there is none.

    Where it cannot be foretold the compiler is asked, if `ask`.
    """
    verdicts = []
    for warps in WARPS:
        verdict = _judge(source, replace(launch, warps=warps), target, ask)
        if verdict.fits:
            return verdict
        verdicts.append(verdict)
    return verdicts[0]


def candidates(source: Source, launch: Launch, target: str, rows: int) -> list[Launch]:
    """Launches that should fit `target`, for a call of `rows` rows; the first is the safest.

    With matrix products that is `launch`, which was judged; the compiler is not asked about others.
    """
    if not source.multiplies:
        return _without_products(source, launch)
    # on Blackwell 64 rows are multiplied in tensor memory: too little of it is not foretold, and is
    # compiled to a trap
    most = min(max(16, rows), 32 if target == "sm_100" else 64)
    tries = (replace(launch, rows=r, warps=w) for r in ROWS if r <= most for w in WARPS)
    able = [x for x in tries if x != launch and _judge(source, x, target, ask=False).fits]
    return [launch, *able]


def _without_products(source: Source, launch: Launch) -> list[Launch]:
    """A phase's launches: first those with few numbers a thread, and of them those of few warps."""
    widest = max(map(int, re.findall(r"\bcols_(\d+)", source.text)), default=1)

    def held(x: Launch) -> int:
        return max(1, x.rows * widest // (32 * x.warps))

    tries = [replace(launch, rows=r, warps=w) for w in sorted(WARPS) for r in FEW]
    able = [x for x in tries if held(x) <= MOST * register_cap(32 * x.warps) // 255]
    able = able or [replace(launch, rows=1, warps=max(WARPS))]
    return sorted(able, key=lambda x: (held(x) > FIRST, x.warps, abs(held(x) - FIRST)))


def shared(source: Source, launch: Launch) -> int:
    """Bytes of shared memory, about: the weights, and what operands and layouts pass through."""
    itemsize = ITEMSIZE[launch.dtype]
    kept = sum(source.weights.values()) * itemsize
    if launch.precision == "tf32x3":
        kept *= 2  # what TF32 rounds away is held as a second matrix
    widest = max(source.staged, default=0) if itemsize == 2 else sum(source.staged)
    # seen beside the weights in 109 kernels of 16 rows: at most 6 KB with 2-byte numbers and 16 KB
    # with 4-byte ones, or the operands where they are more
    least = (6 if itemsize == 2 else 16) * 1024
    return kept + max(least, launch.rows * widest * itemsize)


def registers(source: Source, launch: Launch) -> int:
    """Registers a thread, about: what is alive at once, and more where tiles come in pieces."""
    alive = sum(_elements(width, launch) for width in source.live)
    pieces = max(1, len(source.staged))
    factor = 2 if launch.precision == "tf32x3" else 1
    return 40 + 68 * (min(pieces, 2) - 1) + alive * factor


def _elements(width: int, launch: Launch) -> int:
    """Numbers of a tile in a thread: warps split its columns, by eights at least."""
    if width == 1:
        return 2
    return max(1, launch.rows * max(8, width // launch.warps) // 32)


def _judge(source: Source, launch: Launch, target: str, ask: bool) -> Verdict:
    need, have = shared(source, launch), SHARED[target]
    if need > have:
        text = f"weights of {need / 1024:.0f} KB do not fit the {have / 1024:.0f} KB of one "
        return Verdict(False, launch, f"{text}multiprocessor ({target}, {launch.dtype})")
    cap = register_cap(32 * launch.warps)
    wanted = registers(source, launch)
    if wanted <= (SURELY if ask else LIKELY) * cap // 255:
        return Verdict(True, launch, _fits(need, have, launch))
    if not ask or wanted > NEVER * cap // 255:
        text = f"a step holds about {wanted} numbers a thread at once, {cap} fit ({target})"
        return Verdict(False, launch, text)
    faults = compiled(source, launch, target)
    if faults:
        return Verdict(False, launch, f"compiled for {target}, {faults[0]}")
    return Verdict(True, launch, _fits(need, have, launch))


def _fits(need: int, have: int, launch: Launch) -> str:
    return (
        f"one kernel runs the whole loop: weights and operands take about {need / 1024:.0f} of "
        f"{have / 1024:.0f} KB of shared memory, {launch.rows} rows and {launch.warps} warps a "
        "program"
    )


def compiled(source: Source, launch: Launch, target: str) -> tuple[str, ...]:
    """What is wrong with a kernel once compiled for `target`; asked once, then remembered."""
    key = {
        "what": "faults",
        "kernel": hashlib.sha256(source.text.encode()).hexdigest(),
        "launch": repr(launch),
        "target": target,
        "triton": triton.__version__,
    }
    known = cache.recall(key)
    if known is None:
        made = case(source, launch.dtype, launch.rows, launch.warps, launch.precision)
        known = {"faults": [f for f in made.judge(target).faults if not f.startswith("all ")]}
        cache.remember(key, known)
    return tuple(known["faults"])
