"""Builds a case: the network, the compiled model, its contenders, and the reference result."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import graphnn as gn
from graphnn.backends.triton.cuda_graphs import CHECKED, SEEN, Replayed
from graphnn.bench.attention import KINDS
from graphnn.bench.cases import COMPILED_STEPS, DEEP, PLANNING, STEP, Case
from graphnn.bench.networks import Deep, Layer
from graphnn.bench.peers import others
from graphnn.bench.variants import ALL, loop
from graphnn.inspection.expected import forecast
from graphnn.planner.core.cost import Device
from graphnn.planner.core.work import of_graph
from graphnn.timing.clock import Run
from graphnn.timing.contest import BOTH, FORWARD, Contest, results
from graphnn.timing.suite import OURS, Prepared

EAGER, LAYER_OF_TORCH, COMPILE = "eager", "torch.nn", "torch.compile"
# up to so many positions the backend "reference" gives the reference result; beyond, the eager loop
DEFINED = 64
# bytes of GPU memory that are filled with NaN before results are checked
POISON = 256 << 20


@dataclass
class Subject:
    """A network and its inputs.

    `given` converts the inputs to those of the graph, and `back` the graph's output to that of the
    peers: eager loops have time first, graphs have the batch first.
    """

    net: Any
    inputs: dict[str, Tensor]
    eager: Callable[..., Tensor]
    given: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] = dict
    back: Callable[[Tensor], Tensor] = lambda y: y

    def ours(self, model: gn.Compiled) -> Run:
        """A call of a compiled model."""
        return lambda: self.back(model(**self.given(self.inputs)))

    def in_float64(self) -> Subject:
        """The same in float64."""
        net = copy.deepcopy(self.net).double()
        inputs = {k: v.detach().double().requires_grad_() for k, v in self.inputs.items()}
        eager = net.eager if isinstance(net, tuple(KINDS.values())) else loop(net)
        return Subject(net, inputs, eager, self.given, self.back)


def subject(case: Case, device: str) -> Subject:
    """The network of a case, with deterministic parameters and inputs."""
    torch.manual_seed(0)
    dtype = getattr(torch, case.dtype)

    def leaf(*shape: int) -> Tensor:
        return torch.randn(shape, device=device).to(dtype).requires_grad_()

    sizes = dict(case.sizes)
    if case.network in KINDS:
        net = KINDS[case.network](sizes["H"], sizes["S"]).to(device, dtype)
        inputs = {"q": leaf(sizes["B"], *([sizes["Q"]] if "Q" in sizes else []), sizes["H"])}
        if "Q" in sizes:
            inputs["h"] = leaf(sizes["B"], sizes["S"], sizes["H"])
        return Subject(net, inputs, net.eager)
    made = ALL[case.network](sizes["H"]).to(device, dtype)
    if isinstance(made, Layer):
        made.layer.flatten_parameters()
    x = leaf(sizes["T"], sizes["B"], sizes["H"] * getattr(made, "inputs", 1))
    turn = lambda y: y.transpose(0, 1)
    return Subject(made, {"x": x}, loop(made), lambda inputs: {"x": turn(inputs["x"])}, turn)


def prepare(case: Case, backend: str, device: str, limits: Device, patience: float) -> Prepared:
    """Everything that timing a case needs."""
    if case.network == DEEP:
        return Prepared(Contest(str(case), {}), passes={PLANNING: planning(Deep(8), backend)})
    found = subject(case, device)
    model = gn.compile(found.net, backend=backend)
    runs, absent = contenders(case, found, model, device)
    contest = Contest(
        str(case),
        runs,
        wanted=[*found.inputs.values(), *found.net.parameters()],
        right=lambda: right(case, found),
        baseline=EAGER,
        dtype=case.dtype,
        slow=frozenset({COMPILE, "FlexAttention"} & set(runs)),
        patience=patience,
        before=lambda: poison(device),
        absent=absent,
    )
    sizes = model_sizes(model, found)
    work = {w: of_graph(model.plan.ir, sizes, w == BOTH) for w in (FORWARD, BOTH)}
    return Prepared(
        contest,
        work,
        extra(case, found, model),
        {FORWARD: forecast(model.program(), sizes, limits)},
        lambda: details(model, case, device),
        SEEN + CHECKED if device == "cuda" else 0,
        first=bool(case.extra),
    )


def model_sizes(model: gn.Compiled, found: Subject) -> dict[str, int]:
    """The lengths of the axes of a graph in a call."""
    from graphnn.runtime.call import read

    return read.read(model.ir, found.given(found.inputs), None, None, None).sizes


def contenders(
    case: Case, found: Subject, model: gn.Compiled, device: str
) -> tuple[dict[str, Run], dict[str, str]]:
    """The contenders with the same parameters and inputs, and the absent ones with the reason."""
    inputs = found.inputs
    bound: Callable[[Callable[..., Tensor]], Run] = lambda f: lambda: f(**inputs)
    runs: dict[str, Run] = {OURS: found.ours(model)}
    absent: dict[str, str] = {}
    if isinstance(found.net, Layer):
        runs[LAYER_OF_TORCH] = bound(found.net.peer())
    runs[EAGER] = bound(found.eager)
    if hasattr(found.net, "sdpa"):
        runs["SDPA"] = bound(found.net.sdpa)
    if case.network in KINDS and not case.network.startswith("lookup"):
        _flex(case, device, inputs, runs, absent)
    there, missing = others(found.net, case.network, device, case.dtype)
    runs |= {name: bound(peer) for name, peer in there.items()}
    if case.compiled:
        runs[COMPILE] = bound(_compiled(found.eager))
    else:
        absent[COMPILE] = f"unrolls loops: timed only up to {COMPILED_STEPS} steps"
    return runs, {**absent, **missing}


def _compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """torch.compile of a function, made at the first call, as its imports take seconds."""
    made: list[Callable[..., Tensor]] = []

    def call(**inputs: Tensor) -> Tensor:
        if not made:
            made.append(torch.compile(function, dynamic=False))
        return made[0](**inputs)

    return call


def _flex(
    case: Case, device: str, inputs: dict[str, Tensor], runs: dict[str, Run], absent: dict[str, str]
) -> None:
    """Add FlexAttention for scores that it can represent."""
    if case.network != "dot attention":
        absent["FlexAttention"] = "its score function cannot reduce over features"
    elif device != "cuda":
        absent["FlexAttention"] = "has no backward on a CPU"
    else:
        from torch.nn.attention.flex_attention import flex_attention

        flex = _compiled(lambda q, h: flex_attention(q[:, None], h[:, None], h[:, None])[:, 0])
        runs["FlexAttention"] = lambda: flex(**inputs)


def right(case: Case, found: Subject) -> list[Tensor]:
    """Results and gradients in float64, by the reference or, if that is slow, the eager loop."""
    exact = found.in_float64()
    wanted = [*exact.inputs.values(), *exact.net.parameters()]
    if positions(case) <= DEFINED:
        return results(exact.ours(gn.compile(exact.net, backend="reference")), wanted)
    return results(lambda: exact.eager(**exact.inputs), wanted)


def poison(device: str) -> None:
    """Fill the memory that is allocated next with NaN, so that unwritten elements are detected."""
    if device == "cuda":
        torch.full((POISON // 4,), float("nan"), device=device)


def positions(case: Case) -> int:
    """The number of positions that the reference evaluates one by one."""
    sizes = dict(case.sizes)
    return sizes.get("T", 1) * sizes.get("Q", 1) * sizes.get("S", 1)


def extra(case: Case, found: Subject, model: gn.Compiled) -> dict[str, dict[str, Run]]:
    """The passes in addition to forward and backward: one streaming step, and planning."""
    made: dict[str, dict[str, Run]] = {}
    if STEP in case.extra:
        made[STEP] = _steps(found, model)
    if PLANNING in case.extra:
        made[PLANNING] = planning(found.net, model.backend)
    return made


def planning(net: nn.Module, backend: str) -> dict[str, Run]:
    """Tracing, checking, planning and code generation with backward; no kernel is compiled."""

    def run() -> None:
        gn.compile(net, backend=backend).source()

    return {OURS: run}


def _steps(found: Subject, model: gn.Compiled) -> dict[str, Run]:
    """One position from given states, as in streaming."""
    x = found.inputs["x"].detach()[:1]
    with torch.no_grad():
        _, state = model.step(model.initial_state(x.shape[1]), x=x[0])

    def without(run: Run) -> Run:
        def call() -> Any:
            with torch.no_grad():
                return run()

        return call

    runs: dict[str, Run] = {OURS: lambda: model.step(state, x=x[0])}
    if isinstance(found.net, Layer):
        layer = found.net.peer()
        runs[LAYER_OF_TORCH] = lambda: layer(x)
    runs[EAGER] = lambda: found.eager(x)
    return {name: without(run) for name, run in runs.items()}


def details(model: gn.Compiled, case: Case, device: str) -> dict[str, Any]:
    """How graphnn ran the loops, with which launches, and what the results were checked against."""
    by = "the reference" if positions(case) <= DEFINED else "the eager loop"
    found = {"right": f"{by}, float64", "strategies": strategies(model)}
    if device == "cuda":
        found |= {"launches": launches(model), "graphs": replays(model)}
    return found


def strategies(model: gn.Compiled) -> dict[str, dict[str, str]]:
    """The execution strategy of each loop or generated function of a model, and the reason."""
    found = {d.loop: {"strategy": d.strategy, "why": d.reason} for d in model.plan.decisions}
    for part in _loops(model):
        choices = getattr(part.lowering, "choices", {})
        found |= {k: {"strategy": c.strategy, "why": c.reason} for k, c in choices.items()}
    return found


def launches(model: gn.Compiled) -> dict[str, list[dict[str, Any]]]:
    """The autotuned launches of each compiled kernel of a model."""
    lowerings = [part.lowering for part in _loops(model)]
    kernels = [item for x in lowerings if x is not None for item in x.launchers.items()]
    return {name: [vars(c) for c in k.tuner.chosen.values()] for name, k in kernels}


def replays(model: gn.Compiled) -> dict[str, dict[str, Any]]:
    """For each stepwise function, the number of recorded CUDA graphs, or why there are none."""
    functions = [f for x in _loops(model) for f in (x.train, x.infer, *x._backwards.values())]
    found = {f.name: f.call for f in functions if isinstance(f.call, Replayed)}
    return {name: {"recorded": len(f.graphs), "off": f.off} for name, f in found.items()}


def _loops(model: gn.Compiled) -> list[Any]:
    return [part for p in model.programs for part in p.loops]
