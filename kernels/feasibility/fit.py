"""Whether an emitted kernel fits a GPU: foretold where that is clear, compiled and read where not.

Foretelling costs nothing and is what most kernels need; the rest take a second or two each, once:
verdicts are kept in the cache.
"""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass, replace

import triton

from .. import cache
from ..analysis.block_axis import EQUAL, padded_length
from ..analysis.matmul_form import WeightMatmul, matmul_form
from ..codegen.persistent import LoopSource, emit
from ..ir.program import LoopProgram
from .aot import Row
from .cases import case
from .limits import SHARED, register_cap

ITEMSIZE = {"bf16": 2, "fp16": 2, "fp32": 4, "fp64": 8}
# No launch is a cluster of blocks (num_ctas > 1). Triton 3.9 does compile the unchanged kernels so:
# columns of the weights are split over the blocks, rows of everything else, and both change places
# through the others' shared memory, with five barriers of the cluster a step (sm_90, bf16, 16 rows,
# 8 warps; an LSTM of 256 units, forward: 136 KB and 214 registers in 4 blocks, 68 KB in 8). But
# between storing the state for the product and the others' loads of it there is a barrier of the
# block alone: a race. Without a spill compile RNNs of 384 and 512 units (2 and 4 blocks) both ways;
# LSTMs of 160 to 256 forward only (backward 8 to 830 spills; of 320 to 512 415 to 1,465); GRUs with
# reset before the product, of 192 to 384, neither way (8 to 882). Triton 3.6 fails on LSTMs of 256.
WARPS = (8, 16, 4)
# whether Triton has the operands of a product side by side in shared memory
TOGETHER = tuple(map(int, triton.__version__.split(".")[:2])) < (3, 9)
# rows a program with matrix products, and without: those take any number, and the fewer the more
# programs share the work
ROWS, FEW = (16, 32, 64), (1, 4, 16)
# Registers a thread, as `registers` counts them, of 248 emitted kernels of 16 rows (eleven cells of
# 4 to 320 units, forward and backward; bf16, tf32, tf32x3; 4, 8, 16 warps; sm_80, sm_90, sm_100;
# Triton 3.9). None of the 114 up to SURELY spills: the first counts 198 (a layer-norm GRU of 48
# units). Of the 120 up to NEVER 27 do: there the compiler is asked, or those up to LIKELY are
# believed, which is wrong for 11 that spill and 20 that do not. Above it 10 of 14 spill, the others
# have 16 warps. That is for loads a step ahead: of 57 that load later and count as little 5 spill.
SURELY, NEVER = 195, 420
LIKELY = 300
# Weights a thread from which plain multiply-adds of float32 are refused, 8 warps: they go through
# registers, and of 28 kernels (RNN, GRU and LSTM of 8 to 128 units, sm_90, Triton 3.9) none with
# fewer spills, all forward ones with as many do (an LSTM of 64 units: 64, 18 spills)
HELD = 64
# numbers of one tile in a thread: of a phase without products the most that never spilled, and what
# is tried first (sm_90, Triton 3.9: an LSTM's of 512 units and 16 rows, 64 a thread, spills 1,563
# times; of 4 rows, 16 a thread, it takes 126 registers, of 1 row 40)
MOST, FIRST = 16, 4
# lanes that are tried where more do not fit
FEWER = (32,)
# Lines of kernels that the compiler is asked about at most, to choose the kernel of one loop one
# way: about 4 s on one core (3.5 ms a line: a liquid cell of 8 units, of 1,761 lines, takes 6 s
# once, and was compiled four times). Lines and not seconds, so that a plan is the same on every
# machine, whatever is in the cache. Of longer kernels what is foretold is believed.
LINES = 1200
# bytes a thread that may be spilled where a step takes all of an axis
SPARE = 1024


@dataclass(frozen=True)
class Launch:
    """How a kernel is to be run: floats of `dtype`, `rows` a program, `warps` of threads."""

    dtype: str
    precision: str
    rows: int = 16
    warps: int = 8


class Asking:
    """What the compiler may still be asked about, to choose one kernel."""

    def __init__(self, lines: int = LINES):
        self.left = lines

    def about(self, source: LoopSource) -> bool:
        """Whether it may be asked about a kernel, which is then counted."""
        lines = source.text.count("\n")
        if lines > self.left:
            return False
        self.left -= lines
        return True


def plain(launch: Launch) -> bool:
    """Whether float32 is multiplied by plain multiply-adds: compiled in a process of its own."""
    return launch.dtype == "fp32" and launch.precision == "ieee"


@dataclass(frozen=True)
class Verdict:
    """Whether a kernel fits, how it is then launched, and in words why or why not.

    Faults that are `borne` are in the words too.
    """

    fits: bool
    launch: Launch
    reason: str
    borne: tuple[str, ...] = ()


def best(
    program: LoopProgram, launch: Launch, target: str, ask: bool = True
) -> tuple[LoopSource, Verdict]:
    """The fastest kernel of a program that fits `target`; where none does, one and why it does not.

    Products are joined and loads made a step ahead, or apart, or as they are used. Raises
    Unsupported where there can be no kernel.
    """
    asking = Asking() if ask else None
    if program.lanes:
        return _with_lanes(program, launch, target, asking)
    tried: list[tuple[LoopSource, Verdict]] = []
    for join, ahead in ((True, True), (False, True), (True, False), (False, False)):
        if not join and not tried[-1][0].joined:
            continue
        source = emit(program, join, ahead)
        # one form found not to fit, what is foretold of the next, which may load later, is in doubt
        verdict = judge(source, launch, target, asking or False, doubt=bool(tried))
        tried.append((source, verdict))
        too_wide = not source.joined and shared(source, launch, target) > SHARED[target]
        if verdict.fits or too_wide:
            break
    return tried[-1]


def _with_lanes(
    program: LoopProgram, launch: Launch, target: str, asking: Asking | None
) -> tuple[LoopSource, Verdict]:
    """The one form that is tried where a step takes all of an axis.

    Its tiles are of several layouts, and no forecast was fitted to them: the compiler is asked. A
    minute goes by (a Neural Turing Machine of 128 slots), and so much more with each form tried. Of
    an open axis fewer lanes are tried where many do not fit.

    An assembler that is told how many registers there are makes ready before the loop until a few
    too many are taken (that machine, sm_90: 8 bytes spilled backward, none if it is not told), but
    may stop at 128 if it is not (a decoder of 64 units: 16 bytes forward): both are tried.
    """
    believed = 0 if asking else LIKELY
    for most in (program.most, *FEWER * program.open):
        made = emit(replace(program, most=most), ahead=False)
        tried: list[tuple[LoopSource, Verdict]] = []
        for source in (replace(made, capped=False), made):
            verdict = _judge(
                source, replace(launch, rows=padded_length(most)), target, believed, asking
            )
            tried.append((source, verdict))
            if verdict.fits and not verdict.borne:
                return source, verdict
        if able := [found for found in tried if found[1].fits]:
            return able[0]
    return tried[-1]


def judge(
    source: LoopSource,
    launch: Launch,
    target: str,
    ask: bool | Asking = True,
    doubt: bool = False,
) -> Verdict:
    """The first number of warps with which a kernel fits `target`, or why there is none.

    Where it cannot be foretold, or what is foretold is in `doubt`, the compiler is asked if `ask`,
    as far as that goes. It is not asked about single numbers in other warps: every thread has all
    of them, and the code is the same.
    """
    asking = Asking() if ask is True else ask or None
    believed = LIKELY if asking is None else 0 if doubt else SURELY
    verdicts: list[Verdict] = []
    held: dict[int, int] = {}
    for warps in WARPS:
        trial = replace(launch, warps=warps)
        have, need = register_cap(32 * warps), registers(source, trial)
        if held.get(have) == need:
            continue
        verdict = _judge(source, trial, target, believed, asking)
        if verdict.fits:
            return verdict
        held[have] = need
        verdicts.append(verdict)
    return verdicts[0]


def candidates(source: LoopSource, launch: Launch, target: str, rows: int) -> list[Launch]:
    """Launches that should fit `target`, for a call of `rows` rows; the first is the safest.

    With matrix products that is `launch`, which was judged; the compiler is not asked about others:
    one that spills is timed in vain, which costs less than to miss one that does not (of 188
    kernels of 32 and 64 rows 18 spill and are timed; 22 that do not spill count more than LIKELY).
    """
    if source.program.lanes:
        return [launch]
    if not source.multiplies:
        return _without_products(source, launch)
    if plain(launch):  # others were not compiled, which may bring the process down
        return [launch]
    # on Blackwell 64 rows are multiplied in tensor memory: too little of it is not foretold, and is
    # compiled to a trap
    most = min(max(16, rows), 32 if target == "sm_100" else 64)
    tries = (replace(launch, rows=r, warps=w) for r in ROWS if r <= most for w in WARPS)
    able = [x for x in tries if x != launch and _judge(source, x, target, NEVER).fits]
    return [launch, *able]


def _without_products(source: LoopSource, launch: Launch) -> list[Launch]:
    """A phase's launches: first those with few numbers a thread, and of them those of few warps."""
    widest = source.widest

    def held(x: Launch) -> int:
        return max(1, x.rows * widest // (32 * x.warps))

    tries = [replace(launch, rows=r, warps=w) for w in sorted(WARPS) for r in FEW]
    able = [x for x in tries if held(x) <= MOST * register_cap(32 * x.warps) // 255]
    able = able or [replace(launch, rows=1, warps=max(WARPS))]
    return sorted(able, key=lambda x: (held(x) > FIRST, x.warps, abs(held(x) - FIRST)))


def least(program: LoopProgram, launch: Launch) -> int:
    """Bytes that the weights of a kernel take at least, known before it is written."""
    ops = {op.name: op for op in program.ops}
    forms = [matmul_form(op, ops) for op in program.ops if op.kind == "product"]
    weights = {how.weight for how in forms if isinstance(how, WeightMatmul)}
    return sum(math.prod(ops[w].shape) for w in weights) * each(launch)


def each(launch: Launch) -> int:
    """Bytes of a number of a weight: what TF32 rounds away is held as a second matrix."""
    return ITEMSIZE[launch.dtype] * (2 if launch.precision == "tf32x3" else 1)


def shared(source: LoopSource, launch: Launch, target: str) -> int:
    """Bytes of shared memory: the weights, and what operands and changes of layout pass through.

    Never less than Triton took in those 248 kernels, and at most 15% or 8 KB more, but for many
    small products (a HyperLSTM of 32 units: 40 KB for 28; of 64 units: 100 KB for 76); 4 KB less in
    1 of 80 that load where they use, which are compiled anyway.
    """
    itemsize = ITEMSIZE[launch.dtype]
    parts = each(launch) // itemsize
    kept = sum(source.weights.values()) * each(launch)
    widest = max(source.staged, default=0)
    # what all lanes have alike is multiplied in few rows; the compiler knows of the rest
    rows = EQUAL if source.program.lanes else launch.rows
    # operands pass one after another, but in older Tritons side by side, with a value on its way
    # to be stored (an LSTM of 128 units, backward: 4 KB and 20 KB)
    through = widest + sum(source.staged) if TOGETHER and parts == 1 else widest * parts
    # a joined product goes through in float32, from Hopper on in rounds of 64 bytes a thread
    change = rows * max(source.joined, default=0) * (4 if target == "sm_80" else 2)
    if target != "sm_80":
        change = min(change, 64 * 32 * launch.warps)
    return kept + max(8 * 1024, rows * through * itemsize, change)


def registers(source: LoopSource, launch: Launch) -> int:
    """Registers a thread, about: what is alive at once, and more where tiles come in pieces.

    Many joined products in a step hold more than is seen here (a HyperLSTM of 64 units has six,
    counts 168 without what they add, and spills).
    """
    elements = _of_lanes if source.program.lanes else _elements
    alive = sum(elements(width, launch) for width in source.live)
    fixed = 40 + (68 if len(source.staged) > 1 else 0)
    fixed += 15 * max(0, len(source.joined) - 2)
    return fixed + int(alive * (2.4 if launch.precision == "tf32x3" else 1))


def _elements(width: int, launch: Launch) -> int:
    """Numbers of a tile in a thread: warps split its columns, by eights at least."""
    if width == 1:
        return 2
    return max(1, launch.rows * max(8, width // launch.warps) // 32)


def _of_lanes(width: int, launch: Launch) -> int:
    """Numbers of a tile of all lanes in a thread."""
    return max(1, launch.rows * width // (32 * launch.warps))


def _judge(
    source: LoopSource, launch: Launch, target: str, believed: int, asking: Asking | None = None
) -> Verdict:
    """The verdict on one launch; what is foretold is believed up to so many registers."""
    need, have = shared(source, launch, target), SHARED[target]
    if need > have:
        text = f"weights of {need / 1024:.0f} KB do not fit the {have / 1024:.0f} KB of one "
        return Verdict(False, launch, f"{text}multiprocessor ({target}, {launch.dtype})")
    cap = register_cap(32 * launch.warps)
    held = sum(source.weights.values()) // (32 * launch.warps)
    if plain(launch) and held >= HELD * cap // 255:
        text = f"{held} numbers of its weights a thread, as multiply-adds of float32 take them, do "
        return Verdict(False, launch, f"{text}not fit the {cap} registers ({target})")
    wanted = registers(source, launch)
    if wanted <= believed * cap // 255:
        return Verdict(True, launch, _fits(need, have, launch))
    asked = asking is not None and wanted <= NEVER * cap // 255 and asking.about(source)
    if not asked and asking is not None and wanted <= LIKELY * cap // 255:
        return Verdict(True, launch, f"{_fits(need, have, launch)}; {UNASKED}")
    if not asked:
        text = f"a step holds about {wanted} numbers a thread at once, {cap} fit ({target})"
        return Verdict(False, launch, text)
    faults = compiled(source, launch, target)
    if grave := [fault for fault in faults if not borne(source, fault)]:
        return Verdict(False, launch, f"compiled for {target}, {grave[0]}")
    return Verdict(True, launch, "; ".join([_fits(need, have, launch), *faults]), faults)


UNASKED = f"it is too long to be compiled for the answer (more than {LINES} lines in all)"


def _fits(need: int, have: int, launch: Launch) -> str:
    return (
        f"one kernel runs the whole loop: weights and operands take about {need / 1024:.0f} of "
        f"{have / 1024:.0f} KB of shared memory, {launch.rows} rows and {launch.warps} warps a "
        "program"
    )


def compiled(source: LoopSource, launch: Launch, target: str) -> tuple[str, ...]:
    """What is wrong with a kernel once compiled for `target`; asked once, then remembered."""
    key = {
        "what": "faults",
        "kernel": hashlib.sha256(source.text.encode()).hexdigest(),
        "capped": source.capped,
        "launch": repr(launch),
        "target": target,
        "triton": triton.__version__,
    }
    known = cache.recall(key)
    if known is None:
        made = case(source, launch.dtype, launch.rows, launch.warps, launch.precision)
        known = {"faults": list(serious(made.judge(target)))}
        cache.remember(key, known)
    return tuple(known["faults"])


def borne(source: LoopSource, fault: str) -> bool:
    """Whether a kernel is taken all the same: of a step that takes all of an axis a few spills.

    The alternative is dozens of launches a step. Up to 256 KB a block go through the caches, beside
    what shared memory leaves of the nearest: what that costs was not timed.
    """
    found = re.match(r"spills: \d+ instructions, (\d+) bytes", fault)
    return bool(source.program.lanes and found and int(found[1]) <= SPARE)


def serious(row: Row) -> tuple[str, ...]:
    """What is wrong with a compiled kernel; to take all registers and spill none is no fault."""
    return tuple(fault for fault in row.faults if not fault.startswith("all "))
