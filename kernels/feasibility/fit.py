"""Whether a kernel fits a GPU: predicted if that is clear, otherwise compiled and inspected.

A prediction costs nothing and suffices for most kernels. Compiling takes a second or two per
kernel, once: its findings are kept in the cache.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import triton

from .. import cache
from ..analysis.block_axis import MIN_MATMUL_ROWS, padded_length
from ..analysis.matmul_form import WeightMatmul, matmul_form
from ..codegen.digest import digest
from ..codegen.persistent import LoopSource, emit
from ..ir.program import LoopProgram
from .aot import VerdictRow, unverified
from .cases import loop_case
from .large_tiles import large_tiles, most_rows
from .limits import register_cap
from .targets import capability, has_matrix_units, refusal, shared_memory_of

ITEMSIZE = {"bf16": 2, "fp16": 2, "fp32": 4, "fp64": 8}
# No launch uses a cluster of blocks (num_ctas > 1). Triton 3.9 does compile the unchanged kernels
# with clusters: it splits columns of weights and rows of everything else over the blocks, and
# exchanges both through distributed shared memory, with five cluster barriers per step (sm_90,
# bf16, 16 rows, 8 warps; an LSTM of 256 units, forward: 136 KB and 214 registers in 4 blocks, 68 KB
# in 8). But between storing the state for the matmul and loading it from other blocks there is only
# a barrier of the own block: a race. RNNs of 384 and 512 units (2 and 4 blocks) compile without a
# spill in both directions; LSTMs of 160 to 256 only forward (backward 8 to 830 spills; of 320 to
# 512 415 to 1,465); GRUs with reset before the product, of 192 to 384, in neither direction (8 to
# 882). Triton 3.6 fails on LSTMs of 256.
WARPS = (8, 16, 4)
# whether Triton places the operands of a matmul side by side in shared memory
OPERANDS_SIDE_BY_SIDE = tuple(map(int, triton.__version__.split(".")[:2])) < (3, 9)
# rows per program with matmuls, and without: those work with any number of rows, and fewer rows
# give more programs
MATMUL_ROWS, PHASE_ROWS = (16, 32, 64), (1, 4, 16)
# Registers per thread, as counted by `estimate_registers`, of 248 emitted kernels of 16 rows
# (eleven cells of 4 to 320 units, forward and backward; bf16, tf32, tf32x3; 4, 8, 16 warps; sm_80,
# sm_90, sm_100; Triton 3.9). None of the 114 up to SAFE spills: the first one counts 198 (a
# layer-norm GRU of 48 units). Of the 120 up to HOPELESS 27 spill: these are compiled, or, without
# compiling, accepted up to LIKELY. That is wrong for 11 that spill and 20 that do not. Above
# HOPELESS 10 of 14 spill, the others have 16 warps. All this is for loads one step ahead: of 57
# kernels that load later and count as little, 5 spill.
SAFE, HOPELESS = 195, 420
LIKELY = 300
# Weights per thread from which multiply-adds of float32 are rejected, for 8 warps: such weights
# pass through registers. Of 28 kernels (RNN, GRU and LSTM of 8 to 128 units, sm_90, Triton 3.9)
# none with fewer weights spills, and all forward ones with at least as many do (an LSTM of 64
# units: 64 weights, 18 spills).
FMA_WEIGHTS = 64
# Elements of one tile per thread in a phase without matmuls: the most that never spilled, and the
# number tried first (sm_90, Triton 3.9: an LSTM of 512 units with 16 rows, 64 elements per thread,
# spills 1,563 times; with 4 rows, 16 elements, it uses 126 registers, with 1 row 40).
MAX_ELEMENTS, FIRST_ELEMENTS = 16, 4
# lengths of the block axis that are tried if longer ones do not fit
FEWER_POSITIONS = (32,)
# Lines of kernels that are compiled at most to choose the kernel of one loop in one direction:
# about 4 s on one core (3.5 ms per line; a liquid cell of 8 units, of 1,761 lines, takes 6 s once,
# and was compiled four times). The limit is in lines, not seconds, so that a plan is the same on
# every machine, whatever the cache holds. For longer kernels the prediction counts.
COMPILED_LINES = 1200
# bytes per thread that a kernel with a block axis may spill
TOLERATED_SPILL = 1024


@dataclass(frozen=True)
class Launch:
    """How a kernel is run: floats of `dtype`, matmul `precision`, `rows` per program, `warps`."""

    dtype: str
    precision: str
    rows: int = 16
    warps: int = 8


class Fault(NamedTuple):
    """Why a compiled kernel does not fit. `spilled` are the bytes per thread, if it spills."""

    text: str
    spilled: int = 0


class CompileBudget:
    """The lines of kernels that may still be compiled in order to choose one kernel."""

    def __init__(self, lines: int = COMPILED_LINES):
        self.left = lines

    def spend(self, source: LoopSource) -> bool:
        """Return whether a kernel may be compiled; if so, deduct its lines."""
        lines = source.text.count("\n")
        if lines > self.left:
            return False
        self.left -= lines
        return True


def uses_multiply_adds(launch: Launch, target: str) -> bool:
    """Return whether matrices are multiplied by multiply-adds of float32, not by matrix units.

    Such kernels are compiled in a process of their own.
    """
    exact = launch.dtype == "fp32" and launch.precision == "ieee"
    return exact or not has_matrix_units(target)


@dataclass(frozen=True)
class Verdict:
    """Whether a kernel fits, how it is then launched, and the reason as text.

    `tolerated` are faults that do not keep the kernel from being used; the reason names them.
    """

    fits: bool
    launch: Launch
    reason: str
    tolerated: tuple[str, ...] = ()


def choose_kernel(
    program: LoopProgram, launch: Launch, target: str, may_compile: bool = True
) -> tuple[LoopSource, Verdict]:
    """Return the fastest persistent kernel of a program that fits `target`, with its verdict.

    If none fits, the last one tried is returned with the reason. Variants differ in whether
    matmuls are joined, and whether values are loaded one step ahead or when they are used. Raises
    Unsupported if no kernel can be written.
    """
    budget = CompileBudget() if may_compile else None
    if program.block_axis:
        return _choose_block_axis_kernel(program, launch, target, budget)
    tried: list[tuple[LoopSource, Verdict]] = []
    for join, ahead in ((True, True), (False, True), (True, False), (False, False)):
        if not join and not tried[-1][0].joined:
            continue
        source = emit(program, join, ahead)
        # once one variant does not fit, predictions for the next are in doubt: it may load later
        verdict = judge(source, launch, target, budget or False, doubt=bool(tried))
        tried.append((source, verdict))
        need = shared_memory(source, launch, target)
        if verdict.fits or (not source.joined and need > shared_memory_of(target)):
            break
    return tried[-1]


def _choose_block_axis_kernel(
    program: LoopProgram, launch: Launch, target: str, budget: CompileBudget | None
) -> tuple[LoopSource, Verdict]:
    """Return the kernel of a program with a block axis. Only one variant is tried.

    Its tiles have several layouts, for which no prediction was fitted, so it is compiled. That
    takes a minute (a Neural Turing Machine of 128 slots), and as long for each further variant. If
    the length of the block axis is not known, shorter lengths are tried if long ones do not fit.

    If the assembler knows the register limit, it prepares values before the loop until a few
    registers are missing (that machine, sm_90: 8 bytes spilled backward, none without the limit).
    Without the limit it may stop at 128 registers (a decoder of 64 units: 16 bytes spilled
    forward). Both are tried.
    """
    predicted = 0 if budget else LIKELY
    for most in (program.most, *FEWER_POSITIONS * program.open):
        made = emit(replace(program, most=most), ahead=False)
        tried: list[tuple[LoopSource, Verdict]] = []
        for source in (replace(made, capped=False), made):
            sized = replace(launch, rows=padded_length(most))
            verdict = _judge_launch(source, sized, target, predicted, budget)
            tried.append((source, verdict))
            if verdict.fits and not verdict.tolerated:
                return source, verdict
        if fitting := [found for found in tried if found[1].fits]:
            return fitting[0]
    return tried[-1]


def judge(
    source: LoopSource,
    launch: Launch,
    target: str,
    may_compile: bool | CompileBudget = True,
    doubt: bool = False,
) -> Verdict:
    """Return the verdict for the first number of warps that fits, or else for the first tried.

    The kernel is compiled if no prediction is possible, or if predictions are in `doubt`, as far as
    `may_compile` allows. Other numbers of warps are skipped if every thread would hold the same
    values: the code is then the same.
    """
    budget = CompileBudget() if may_compile is True else may_compile or None
    predicted = LIKELY if budget is None else 0 if doubt else SAFE
    verdicts: list[Verdict] = []
    needed: dict[int, int] = {}
    for warps in WARPS:
        trial = replace(launch, warps=warps)
        have, need = register_cap(32 * warps), estimate_registers(source, trial)
        if needed.get(have) == need:
            continue
        verdict = _judge_launch(source, trial, target, predicted, budget)
        if verdict.fits:
            return verdict
        needed[have] = need
        verdicts.append(verdict)
    return verdicts[0]


def launch_candidates(source: LoopSource, launch: Launch, target: str, rows: int) -> list[Launch]:
    """Return launches that should fit `target` for a call with `rows` rows, the safest first.

    With matmuls the first is `launch`, which was judged. The others are not compiled: timing one
    that spills in vain costs less than missing one that does not (of 188 kernels of 32 and 64 rows
    18 spill and are timed; 22 that do not spill count more than LIKELY).
    """
    if source.program.block_axis:
        return [launch]
    if not source.uses_matmul:
        return _phase_launches(source, launch)
    if uses_multiply_adds(launch, target):  # others were not compiled, which may crash the process
        return [launch]
    most = min(max(16, rows), most_rows(target))
    tries = (replace(launch, rows=r, warps=w) for r in MATMUL_ROWS if r <= most for w in WARPS)
    fitting = [x for x in tries if x != launch and _judge_launch(source, x, target, HOPELESS).fits]
    return [launch, *fitting]


def _phase_launches(source: LoopSource, launch: Launch) -> list[Launch]:
    """Return the launches of a phase: first those with few elements per thread, then few warps."""
    widest = source.widest

    def elements(x: Launch) -> int:
        return max(1, x.rows * widest // (32 * x.warps))

    tries = [replace(launch, rows=r, warps=w) for w in sorted(WARPS) for r in PHASE_ROWS]
    fitting = [x for x in tries if elements(x) <= MAX_ELEMENTS * register_cap(32 * x.warps) // 255]
    fitting = fitting or [replace(launch, rows=1, warps=max(WARPS))]

    def order(x: Launch) -> tuple[bool, int, int]:
        return elements(x) > FIRST_ELEMENTS, x.warps, abs(elements(x) - FIRST_ELEMENTS)

    return sorted(fitting, key=order)


def weight_bytes(program: LoopProgram, launch: Launch) -> int:
    """Return the bytes that a kernel's weights need at least; the kernel need not be written."""
    ops = {op.name: op for op in program.ops}
    forms = [matmul_form(op, ops) for op in program.ops if op.kind == "einsum"]
    weights = {form.weight for form in forms if isinstance(form, WeightMatmul)}
    return sum(math.prod(ops[w].shape) for w in weights) * bytes_per_weight(launch)


def bytes_per_weight(launch: Launch) -> int:
    """Return the bytes of one weight. For tf32x3, what TF32 rounds away is a second matrix."""
    return ITEMSIZE[launch.dtype] * (2 if launch.precision == "tf32x3" else 1)


def shared_memory(source: LoopSource, launch: Launch, target: str) -> int:
    """Return the predicted bytes of shared memory: weights, operands and changes of layout.

    Of those 248 kernels, Triton never used more; the prediction is at most 15% or 8 KB too high,
    except for many small matmuls (a HyperLSTM of 32 units: 40 KB for 28; of 64 units: 100 KB for
    76). It is 4 KB too low for 1 of 80 kernels that load values when used, which are compiled
    anyway.
    """
    itemsize = ITEMSIZE[launch.dtype]
    parts = bytes_per_weight(launch) // itemsize
    weights = sum(source.weights.values()) * bytes_per_weight(launch)
    if not has_matrix_units(target):  # operands of multiply-adds are float32
        weights, itemsize = weights * 4 // itemsize, 4
    widest = max(source.staged, default=0)
    # what is equal for all positions of the block axis is multiplied in few rows; the compiler
    # accounts for the rest
    rows = MIN_MATMUL_ROWS if source.program.block_axis else launch.rows
    # Operands pass one after another, but in Triton before 3.9 side by side, together with a value
    # that is being stored (an LSTM of 128 units, backward: 4 KB and 20 KB).
    side_by_side = OPERANDS_SIDE_BY_SIDE and parts == 1
    operands = widest + sum(source.staged) if side_by_side else widest * parts
    # a joined matmul passes in float32, from Hopper on in rounds of 64 bytes per thread
    rounds = capability(target) >= 90
    change = rows * max(source.joined, default=0) * (2 if rounds else 4)
    if rounds:
        change = min(change, 64 * 32 * launch.warps)
    return weights + max(8 * 1024, rows * operands * itemsize, change)


def estimate_registers(source: LoopSource, launch: Launch) -> int:
    """Estimate the registers per thread: what is live at once, and more for tiles in pieces.

    A step with many joined matmuls needs more than is seen here (a HyperLSTM of 64 units has six,
    counts 168 without the extra term for them, and spills).
    """
    elements = _block_axis_elements if source.program.block_axis else _tile_elements
    live = sum(elements(width, launch) for width in source.live)
    fixed = 40 + (68 if len(source.staged) > 1 else 0)
    fixed += 15 * max(0, len(source.joined) - 2)
    return fixed + int(live * (2.4 if launch.precision == "tf32x3" else 1))


def _tile_elements(width: int, launch: Launch) -> int:
    """Return the elements of a tile per thread: warps split its columns, in eights at least."""
    if width == 1:
        return 2
    return max(1, launch.rows * max(8, width // launch.warps) // 32)


def _block_axis_elements(width: int, launch: Launch) -> int:
    """Return the elements per thread of a tile over the block axis."""
    return max(1, launch.rows * width // (32 * launch.warps))


def _judge_launch(
    source: LoopSource,
    launch: Launch,
    target: str,
    predicted: int,
    budget: CompileBudget | None = None,
) -> Verdict:
    """Return the verdict on one launch. Up to `predicted` registers the prediction suffices."""
    if why := refusal(target, launch.dtype, launch.precision):
        return Verdict(False, launch, why)
    need, have = shared_memory(source, launch, target), shared_memory_of(target)
    if need > have:
        text = f"weights of {need / 1024:.0f} KB do not fit the {have / 1024:.0f} KB of one "
        return Verdict(False, launch, f"{text}multiprocessor ({target}, {launch.dtype})")
    cap = register_cap(32 * launch.warps)
    weights = sum(source.weights.values()) // (32 * launch.warps)
    if uses_multiply_adds(launch, target) and weights >= FMA_WEIGHTS * cap // 255:
        text = f"float32 multiply-adds need {weights} weights per thread in registers, which does "
        return Verdict(False, launch, f"{text}not fit the {cap} registers ({target})")
    if budget is not None and not has_matrix_units(target):
        predicted = 0  # the estimate was fitted to kernels with matrix units
    registers = estimate_registers(source, launch)
    if registers <= predicted * cap // 255:
        return Verdict(True, launch, _fits_text(need, have, launch))
    compile_it = budget is not None and registers <= HOPELESS * cap // 255 and budget.spend(source)
    if not compile_it and budget is not None and registers <= LIKELY * cap // 255:
        return Verdict(True, launch, f"{_fits_text(need, have, launch)}; {NOT_COMPILED}")
    if not compile_it:
        text = f"a step needs about {registers} registers per thread, {cap} exist ({target})"
        return Verdict(False, launch, text)
    faults = compile_faults(source, launch, target)
    if fatal := [fault for fault in faults if not is_tolerated(source, fault)]:
        return Verdict(False, launch, f"compiled for {target}, {fatal[0].text}")
    texts = tuple(fault.text for fault in faults)
    return Verdict(True, launch, "; ".join([_fits_text(need, have, launch), *texts]), texts)


NOT_COMPILED = f"not compiled to check this: it is too long (limit: {COMPILED_LINES} lines in all)"


def _fits_text(need: int, have: int, launch: Launch) -> str:
    return (
        f"one kernel runs the whole loop: weights and operands need about {need / 1024:.0f} of "
        f"{have / 1024:.0f} KB of shared memory, with {launch.rows} rows and {launch.warps} warps "
        "per program"
    )


def compile_faults(source: LoopSource, launch: Launch, target: str) -> tuple[Fault, ...]:
    """Return the serious faults of a kernel compiled for `target`, from the cache if known."""
    key = {
        "what": "serious faults",
        "kernel": digest(source),
        "launch": repr(launch),
        "target": target,
        "large": large_tiles(target),
        "triton": triton.__version__,
    }
    known = cache.recall(key)
    if known is None:
        case = loop_case(source, launch.dtype, launch.rows, launch.warps, launch.precision)
        known = {"faults": list(serious_faults(case.judge(target)))}
        cache.remember(key, known)
    return tuple(Fault(*fault) for fault in known["faults"])


def is_tolerated(source: LoopSource, fault: Fault) -> bool:
    """Return whether a kernel is used despite a fault: with a block axis it may spill a little.

    The alternative is dozens of launches per step. Up to 256 KB per block pass through the caches,
    in addition to what shared memory leaves of L1: the cost of that was not timed.
    """
    return bool(source.program.block_axis) and 0 < fault.spilled <= TOLERATED_SPILL


def serious_faults(row: VerdictRow) -> tuple[Fault, ...]:
    """Return the faults of a compiled kernel, except that it uses all registers without a spill."""
    if (found := row.resources) is None:
        return tuple(Fault(text) for text in row.faults)
    spilled = {found.spill_fault: found.stack}
    serious = [text for text in row.faults if text != found.register_fault]
    if instruction := unverified(found):
        serious.append(f"matmuls of 64 rows by {instruction}, not verified on {row.target}")
    return tuple(Fault(text, spilled.get(text, 0)) for text in serious)
