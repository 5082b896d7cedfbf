"""A representative set of kernels for every GPU, compiled ahead of time with fixed launches.

The launches are not those that the planner would choose: the set is the same in every version.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import triton.language as tl
from torch import nn

import graphnn as gn
from graphnn.backends.triton.attention.hops import HopKernels
from graphnn.backends.triton.attention.operators import AttentionKernels
from graphnn.backends.triton.attention.topk import TopKKernels
from graphnn.bench.versions import prelude
from graphnn.kernels.attention.tile_size import attention_case, tile_shapes
from graphnn.kernels.attention.topk import merge_case
from graphnn.kernels.feasibility.aot import KernelCase, VerdictRow
from graphnn.kernels.feasibility.cases import loop_case
from graphnn.kernels.feasibility.fit import Launch
from graphnn.kernels.ir.program import Unsupported
from graphnn.kernels.runtime import random, scan
from graphnn.kernels.select.search import choose_cooperative
from graphnn.tools.resources import DTYPES, PRECISION, Facts, Layer, kernels, plan_kernels

# the dtypes for each GPU. MAIN names the kernels that are compiled for all of them, the others are
# compiled for FULL: the GPUs differ in matrix instructions and sizes. SLOW ones take half a minute.
SETS = {
    "sm_75": ("fp16",),
    "sm_80": ("bf16", "fp32"),
    "sm_86": ("bf16",),
    "sm_89": ("bf16",),
    "sm_90": ("bf16", "fp32"),
    "sm_100": ("bf16",),
    "sm_120": ("bf16",),
}
FULL = (("bf16", "sm_80"), ("bf16", "sm_90"))
SLOW, SLOW_FOR = ("NTM 16",), ("bf16", "sm_90")
MAIN = ("LSTM 64", "LSTM 256, sharded", "attention 64")
# one thread block per tile of rows
LOOPS: dict[str, Callable[[], nn.Module]] = {
    "LSTM 64": lambda: Layer(gn.nn.LSTM(64, 64), 64),
    "RNN 64": lambda: Layer(gn.nn.RNN(64, 64), 64),
    "GRU 64": lambda: Layer(gn.nn.GRU(64, 64), 64),
    "NTM 16": lambda: Layer(gn.nn.NTM(4, 16, 16, 4), 4),
}
# many thread blocks
SHARDED = {"LSTM 256, sharded": lambda: Layer(gn.nn.LSTM(256, 256), 256)}
ATTENTION: dict[str, Callable[[], nn.Module]] = {
    "attention 64": lambda: Layer(gn.nn.AssociativeMemory(256, 64, 64), 64),
    "attention 64, 8 best": lambda: Layer(gn.nn.AssociativeMemory(256, 64, 64, topk=8), 64),
    "hops 32": lambda: Facts(32, 2),
}
PRELUDE = ("sm_75", "sm_80", "sm_90", "sm_100", "sm_120")
ROWS, WARPS = 16, 8


def compiled(targets: Sequence[str] = tuple(SETS)) -> Iterator[tuple[str, VerdictRow]]:
    """Compile everything for some targets; pairs of a dtype and the verdict on a kernel."""
    for target in targets:
        for dtype in SETS[target]:
            for case in cases(dtype, target):
                yield dtype, case.judge(target)


def prelude_compiled(targets: Sequence[str] = PRELUDE) -> Iterator[tuple[str, VerdictRow]]:
    """Compile every function of the prelude, in float32; pairs as above."""
    for target in targets:
        for case in prelude.cases("ieee" if target == "sm_75" else PRECISION["fp32"]):
            yield "fp32", case.judge(target)


def cases(dtype: str, target: str) -> Iterator[KernelCase]:
    """The kernels of the set in a dtype."""
    full = (dtype, target) in FULL
    for name, make in LOOPS.items():
        wanted = (dtype, target) == SLOW_FOR if name in SLOW else full or name in MAIN
        if wanted:
            yield from _loop(make(), name, dtype)
    for name, make in SHARDED.items():
        yield from _sharded(make(), name, dtype, target)
    for name, make in ATTENTION.items():
        if full or name in MAIN:
            yield from _attention(make(), name, dtype)
    if full:
        yield from _scan(dtype)
        yield from _random(dtype)


def _loop(module: nn.Module, name: str, dtype: str) -> Iterator[KernelCase]:
    for source in kernels(gn.compile(module), DTYPES[dtype]):
        case = loop_case(source, dtype, ROWS, WARPS, PRECISION[dtype])
        yield replace(case, name=f"{name}, {_way(source.name)}")


def _sharded(module: nn.Module, name: str, dtype: str, target: str) -> Iterator[KernelCase]:
    """Nothing for GPUs without matrix units, which have no sharded loops."""
    how = Launch(dtype, PRECISION[dtype], rows=ROWS, warps=WARPS)
    for source in kernels(gn.compile(module), DTYPES[dtype]):
        try:
            made, verdict = choose_cooperative(source.program, how, target, may_compile=False)
        except Unsupported:
            continue
        launch = verdict.launch
        case = loop_case(made, dtype, launch.rows, launch.warps, how.precision)
        yield replace(case, name=f"{name}, {_way(source.name)}")


def _way(name: str) -> str:
    return "backward" if name.endswith("backward") else "forward"


def _attention(module: nn.Module, name: str, dtype: str) -> Iterator[KernelCase]:
    planned = plan_kernels(gn.compile(module), DTYPES[dtype])
    engines = [a.engine for program in planned.programs for a in program.attends]
    for engine in engines:
        if not isinstance(engine, AttentionKernels | TopKKernels | HopKernels):
            continue
        for source in engine.kernels():
            shape = next(x for x in tile_shapes(source) if x.rows <= 32)
            case = attention_case(source, dtype, shape, PRECISION[dtype])
            yield replace(case, name=f"{name}, {source.name.replace('_', ' ')}")
        if isinstance(engine, TopKKernels):
            yield merge_case(engine.part.top)


def _scan(dtype: str) -> Iterator[KernelCase]:
    size = 4 if dtype == "fp32" else 2
    both: tuple[tuple[str, Any, int, dict[str, Any]], ...] = (
        ("summary", scan.summary_kernel, 2, {"BACK": False}),
        ("forward", scan.forward_kernel, 2, {}),
        ("backward", scan.backward_kernel, 3, {}),
    )
    for name, kernel, operands, extra in both:
        tiling = scan.scan_tiling(1024, 4096, size, operands)
        constants = {**extra, "ROWS": tiling.rows, "COLUMNS": tiling.columns, "ALIGN": tiling.align}
        kinds = dict.fromkeys(scan.LENGTHS, "i32") | {"summaries": "*fp32"}
        names = [n for n in kernel.arg_names if n not in constants]
        types = {n: kinds.get(n, f"*{dtype}") for n in names}
        yield KernelCase(f"scan, {name}", kernel, types, constants, warps=1)


def _random(dtype: str) -> Iterator[KernelCase]:
    for law in random.LAWS:
        constants = {"LAW": law, "P": 0.5, "ACC": tl.float32, "BLOCK": random.BLOCK}
        types = {"seed_ptr": "*i64", "out_ptr": f"*{dtype}", "count": "i32"}
        yield KernelCase(f"random fill, {law}", random.fill, types, constants)
