"""The resources that a network's kernels need, compiled ahead of time: no GPU is needed.

There is a row for each kernel that the planner chooses, with the number of thread blocks per tile
of rows and the predicted time per step (cost model, not measured). Loops without a kernel are
listed with the reason.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace

import torch
from rich.console import Console
from torch import nn

from graphnn.backends.triton.attention.hops import HopKernels
from graphnn.backends.triton.attention.operators import AttentionKernels
from graphnn.backends.triton.attention.topk import TopKKernels
from graphnn.frontend.graph import Graph
from graphnn.kernels.attention import tile_size, topk
from graphnn.kernels.codegen.persistent import LoopSource
from graphnn.kernels.cooperative.codegen.emit import CooperativeSource
from graphnn.kernels.feasibility.aot import VerdictRow, render
from graphnn.kernels.feasibility.cases import loop_case
from graphnn.kernels.feasibility.fit import (
    Launch,
    Verdict,
    choose_kernel,
    is_tolerated,
    serious_faults,
)
from graphnn.kernels.ir.program import LoopProgram, Unsupported
from graphnn.kernels.select.search import choose_cooperative, predicted_step
from graphnn.nn import (
    GRU,
    LSTM,
    NTM,
    RNN,
    AssociativeMemory,
    AttentionDecoder,
    HyperLSTM,
    KeyValueMemory,
    MultiplicativeLSTM,
)
from graphnn.runtime.model import Compiled, compile, network_of

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
PRECISION = {"bf16": "ieee", "fp16": "ieee", "fp32": "tf32x3"}


class Layer(nn.Module):
    """A library module over time."""

    def __init__(self, module: nn.Module, size: int):
        super().__init__()
        self.layer, self.size = module, size

    def graph(self, g: Graph) -> None:
        """Draw it."""
        g.output("y", self.layer(g.input("x", (self.size,), over="time")))


class Facts(nn.Module):
    """A memory of keys and values, addressed in hops."""

    def __init__(self, size: int, hops: int):
        super().__init__()
        self.memory, self.size = KeyValueMemory(size, hops), size

    def graph(self, g: Graph) -> None:
        """Draw it."""
        keys, values = (g.input(name, (self.size,), over="fact") for name in ("keys", "values"))
        g.output("y", self.memory(g.input("x", (self.size,)), keys, values))


class Decoding(nn.Module):
    """A decoder that looks at a source as wide as itself."""

    def __init__(self, size: int):
        super().__init__()
        self.decoder, self.size = AttentionDecoder(size, size, size), size

    def graph(self, g: Graph) -> None:
        """Draw it."""
        x, source = (g.input(name, (self.size,), over=name) for name in ("target", "source"))
        g.output("y", self.decoder(x, source))


# the largest widths that fit sm_90 in half precision, and the options at a common width
LIBRARY: dict[str, Callable[[], nn.Module]] = {
    "RNN 320": lambda: Layer(RNN(320, 320), 320),
    "LSTM 160": lambda: Layer(LSTM(160, 160), 160),
    "LSTM 64, both ways": lambda: Layer(LSTM(64, 64, bidirectional=True), 64),
    "LSTM 64, peepholes": lambda: Layer(LSTM(64, 64, peepholes=True), 64),
    "LSTM 64, layer norm": lambda: Layer(LSTM(64, 64, layer_norm=True), 64),
    "LSTM 64, zoneout": lambda: Layer(LSTM(64, 64, zoneout=0.1), 64),
    "LSTM 64, projection": lambda: Layer(LSTM(64, 64, proj_size=32), 64),
    "GRU 160, reset after": lambda: Layer(GRU(160, 160, reset="after"), 160),
    "GRU 160, reset before": lambda: Layer(GRU(160, 160, reset="before"), 160),
    "multiplicative LSTM 64": lambda: Layer(MultiplicativeLSTM(64, 64), 64),
    "HyperLSTM 32": lambda: Layer(HyperLSTM(32, 32), 32),
    "HyperLSTM 64": lambda: Layer(HyperLSTM(64, 64), 64),
    "memory of slots, 64 wide": lambda: Layer(AssociativeMemory(4096, 64, 64), 64),
    "memory of slots, 64 wide, 32 best": lambda: Layer(
        AssociativeMemory(4096, 64, 64, topk=32), 64
    ),
    "memory of facts, 64 wide, 3 hops": lambda: Facts(64, 3),
    "attention decoder 64": lambda: Decoding(64),
    "attention decoder 512": lambda: Decoding(512),
    "NTM, 128 slots of 20": lambda: Layer(NTM(8, 100, 128, 20), 8),
    "LSTM 512": lambda: Layer(LSTM(512, 512), 512),
    "LSTM 1024": lambda: Layer(LSTM(1024, 1024), 1024),
    "GRU 1024, reset before": lambda: Layer(GRU(1024, 1024, reset="before"), 1024),
}


def kernels(model: Compiled, dtype: torch.dtype) -> list[LoopSource]:
    """Each loop of a model as one kernel, forward and backward, whether or not it fits."""
    return _loops(plan_kernels(model, dtype))


def _loops(planned: Compiled) -> list[LoopSource]:
    found: dict[str, LoopSource] = {}
    for program in planned.programs:
        for loop in program.loops:
            found.update({k: x.source for k, x in loop.lowering.launchers.items()})  # type: ignore[union-attr]
    return [x for x in found.values() if x.program.axis]


def plan_kernels(model: Compiled, dtype: torch.dtype) -> Compiled:
    """The model in another dtype with all of its loops and attention as kernels, fit or not."""
    network = network_of(model)
    source = network.source.to(dtype) if isinstance(network.source, nn.Module) else network.source
    recompute = network.options.recompute
    planned = compile(source, "interpret", skip=("fit", "beside"), recompute=recompute)
    planned.source()
    return planned


def _attention(planned: Compiled, name: str, how: Launch, target: str) -> Iterator[VerdictRow]:
    """A row for each kernel of a model's contractions, with the tile that it would have."""
    for program in planned.programs:
        for engine in (a.engine for a in program.attends):
            if not isinstance(engine, AttentionKernels | TopKKernels | HopKernels):
                continue
            for source in engine.kernels():
                shape = tile_size.choose_tile(source, how.dtype, target, how.precision)
                made = tile_size.attention_case(source, how.dtype, shape, how.precision)
                yield replace(made.judge(target), name=f"{name}, {source.name.replace('_', ' ')}")
            if isinstance(engine, TopKKernels):
                merge = topk.merge_case(engine.part.top)
                yield replace(merge.judge(target), name=f"{name}, {merge.name}")


def rows(
    models: Mapping[str, Compiled],
    dtype: str,
    targets: Sequence[str],
    float32: str = PRECISION["fp32"],
) -> Iterator[VerdictRow | tuple[str, str, str]]:
    """A row for each kernel and target, or (kernel, target, reason) if it is not chosen."""
    how = Launch(dtype, float32 if dtype == "fp32" else PRECISION[dtype])
    for name, model in models.items():
        planned = plan_kernels(model, DTYPES[dtype])
        for k, written in enumerate(_loops(planned)):
            way = "backward" if written.name.endswith("backward") else "forward"
            for target in targets:
                title = f"{name}, {way}" if k < 2 else f"{name}, {way}, loop {k // 2 + 1}"
                try:
                    source, verdict = _chosen(written.program, how, target)
                except Unsupported as reason:
                    yield title, target, str(reason)
                    continue
                launch = verdict.launch
                made = loop_case(source, dtype, launch.rows, launch.warps, launch.precision)
                step = ""
                if isinstance(source, CooperativeSource):
                    step = (
                        f"{source.blocks} blocks, {predicted_step(source, launch, target):.1f} µs"
                    )
                row = made.judge(target)
                tolerated = [f.text for f in serious_faults(row) if is_tolerated(source, f)]
                faults = tuple(f for f in row.faults if f not in tolerated)
                yield replace(row, name=title, step=step, faults=faults)
        for target in targets:
            yield from _attention(planned, name, how, target)


def _chosen(program: LoopProgram, how: Launch, target: str) -> tuple[LoopSource, Verdict]:
    """The kernel of a loop, with one thread block per tile of rows or with many.

    If the kernel of one block spills a little and one of many blocks does not, it is the latter.
    Raises Unsupported if neither fits.
    """
    source, verdict = choose_kernel(program, how, target)
    if verdict.fits and not verdict.tolerated:
        return source, verdict
    try:
        return choose_cooperative(program, how, target)
    except Unsupported as reason:
        if verdict.fits:
            return source, verdict
        raise Unsupported(f"{verdict.reason}; {reason}") from None


def show(
    models: Mapping[str, Compiled] | None,
    dtype: str,
    targets: Sequence[str],
    as_json: bool,
    float32: str = PRECISION["fp32"],
) -> int:
    """Print the table, by default of the library's modules. Returns 1 if a kernel has a fault."""
    if models is None:
        models = {name: compile(make()) for name, make in LIBRARY.items()}
    found = list(rows(models, dtype, targets, float32))
    fit = [row for row in found if isinstance(row, VerdictRow)]
    refused = [row for row in found if not isinstance(row, VerdictRow)]
    bad = any(serious_faults(row) for row in fit)
    if as_json:
        print(json.dumps({"fit": [asdict(r) for r in fit], "refused": refused}, indent=1))
        return int(bad)
    console = Console()
    if not console.is_terminal:
        console = Console(width=140)  # wide in a pipe, so that nothing is cut off
    console.print(render(fit))
    for title, target, reason in refused:
        text = f"{title}, {target}: runs step by step: {reason}"
        console.print(text, highlight=False, markup=False)
    return int(bad)
