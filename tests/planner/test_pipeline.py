"""The list of passes: every pass is in it, changes some network, and is run by its stage alone."""

from __future__ import annotations

import ast
import pathlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import graphnn as gn
from graphnn.errors import GraphnnError
from graphnn.ir.graph import IR
from graphnn.planner import pipeline
from graphnn.planner.contexts import Context, DeriveContext
from graphnn.planner.observe import recording
from graphnn.planner.pipeline import PASSES, SWITCHABLE, Pass, Stage
from graphnn.tools.gradient_flow import gradient_flow
from tests.planner.firing import (
    FIXED,
    RAGGED,
    SWITCHES,
    WIDE,
    WIDTH,
    Fires,
    Net,
    elman,
    gated,
    wide,
)

S = Stage
ROOT = pathlib.Path(__file__).parent.parent.parent


def complex_loop() -> None:
    g = gn.Graph("turning")
    x, z = g.input("x", (2,), over="time"), g.state("z", (2,), dtype=torch.complex64)
    z.next = z * 0.5j + x
    g.output("y", z.next.abs())
    gn.compile(g).explain()


def wired() -> None:
    g = gn.Graph("wired")
    x, wire = g.input("x", (2,), over="time"), g.state("wire", (2,), delay=0)
    g.output("y", wire * 2)
    wire.next = x + 1
    gn.compile(g).explain()


def moved() -> None:
    g = gn.Graph("moved")
    g.output("y", g.input("x", (2,), over="time") * g.parameter("w", torch.ones(2)))
    gn.compile(g).double().explain()


def mixed_dtypes() -> None:
    g = gn.Graph("mixed")
    x, k = g.input("x", (2,)), g.input("k", (2,), dtype=torch.int64)
    g.output("y", x + k)
    gn.compile(g).explain()


def called(**options: Any) -> Callable[[], None]:
    """A call of an Elman network with options."""

    def call() -> None:
        model = gn.compile(Net(elman))
        model(x=torch.randn(2, 3, WIDTH), **options)

    return call


def started() -> None:
    model = gn.compile(Net(elman))
    model(x=torch.randn(2, 3, WIDTH), state={"z": torch.randn(2, WIDTH)})


def probed() -> None:
    net = Net(elman)
    gradient_flow(gn.compile(net), torch.Tensor.sum, {"x": torch.randn(2, 3, WIDTH)})


class Decoder(nn.Module):
    """A loop that reads a sum over an encoder's positions, and attends to its own past."""

    def __init__(self, causal: bool) -> None:
        super().__init__()
        self.causal = causal

    def graph(self, g: gn.Graph) -> None:
        x = g.input("x", (WIDTH,), over="time")
        if self.causal:
            g.output("y", gn.attend(x, x, over="time", causal=True))
        else:
            source = torch.tanh(gn.sum(g.input("source", (WIDTH,), over="word"), over="word"))
            z = g.state("z", (WIDTH,))
            z.next = torch.tanh(x + z + source)
            g.output("y", z.next)


def streamed() -> None:
    gn.compile(Decoder(causal=True)).initial_state(2)


def encoded() -> None:
    model = gn.compile(Decoder(causal=False))
    model.initial_state(over="time", source=torch.randn(2, 3, WIDTH))


def of_results_alone() -> None:
    """A backward for a forward pass that hands out nothing but its results."""
    example = Fires(lambda: Net(gated))
    model = example.compiled()
    example.results(model)
    (program,) = (loop for made in model.programs for loop in made.loops)
    loop = program.loop
    options = {"recompute": False, "kernels": False, "saved": loop.results}
    context = DeriveContext(loop=loop, wanted=loop.reads[:1], **options)
    pipeline.run(S.DERIVED, loop.ir, context)


def fired(example: Fires) -> Callable[[], None]:
    """A call, and its gradients."""
    return lambda: example.results(example.compiled()) and None


# for each pass a network that it changes, and what is done with it
CHANGED: dict[tuple[Stage, str], Callable[[], None]] = {
    (S.TRACED, "retype"): moved,
    (S.CHECKED, "promote_dtypes"): mixed_dtypes,
    (S.CHECKED, "inline_wires"): wired,
    (S.REQUESTED, "probe_states"): probed,
    (S.REQUESTED, "record_states"): called(record=True),
    (S.CALL, "initial_states"): started,
    (S.CALL, "final_states"): called(return_state=True),
    (S.CALL, "complex_as_real"): complex_loop,
    (S.GRAPH, "split_linear"): fired(SWITCHES["split"]),
    (S.GRAPH, "factor"): fired(SWITCHES["gather"]),
    (S.GRAPH, "attention"): fired(SWITCHES["attend"]),
    (S.GRAPH, "torch_layers"): fired(SWITCHES["match"]),
    (S.GRAPH, "strategies"): fired(Fires(lambda: Net(elman))),
    (S.CHOSEN, "simplify"): fired(SWITCHES["scan"]),
    (S.CHOSEN, "horizontal"): fired(SWITCHES["merge"]),
    (S.CHOSEN, "multiply_add"): fired(SWITCHES["contract"]),
    (S.PROGRAM, "regions"): fired(Fires(lambda: Net(elman))),
    (S.PROGRAM, "side_by_side"): fired(SWITCHES["beside"]),
    (S.PROGRAM, "stacked"): fired(SWITCHES["stacked"]),
    (S.LOOP, "extract"): fired(Fires(lambda: Net(elman))),
    (S.DERIVED, "differentiate"): fired(Fires(lambda: Net(elman))),
    (S.DERIVED, "recompute_unsaved"): of_results_alone,
    (S.BACKWARD, "simplify"): fired(Fires(lambda: Net(gated))),
    (S.BACKWARD, "horizontal"): fired(SWITCHES["merge"]),
    (S.BACKWARD, "multiply_add"): fired(Fires(lambda: Net(lambda n, x, z: elman(n, x, z) * z))),
    (S.ATTENTION, "softmax_backward"): fired(SWITCHES["attend"]),
    (S.ATTENTION, "hops_backward"): fired(SWITCHES["hops"]),
    (S.FUNCTION, "multiply_add"): fired(
        Fires(lambda: Net(elman, WIDE, before=lambda v: v * v.sin() + v.cos()), wide)
    ),
    (S.FUNCTION, "regions"): fired(Fires(lambda: Net(elman))),
    (S.FUNCTION, "sink"): fired(SWITCHES["sink"]),
    (S.FUNCTION, "side_by_side"): fired(SWITCHES["beside"]),
    (S.FUNCTION, "stacked"): fired(SWITCHES["stacked"]),
    (S.INVARIANTS, "invariants"): encoded,
    (S.STEP, "step_graph"): streamed,
    **{key: fired(example) for key, (example, _) in FIXED.items()},
}


def facts(context: Context) -> dict[str, Any]:
    """What a context knows, lists as they are now."""
    return {k: list(v) if isinstance(v, list) else v for k, v in vars(context).items()}


def watched(changes: set[tuple[Stage, str]]) -> tuple[Pass, ...]:
    """The passes of the pipeline; those that change a graph or their context enter `changes`."""

    def watch(step: Pass) -> Pass:
        def run(ir: IR, context: Context) -> IR:
            before = str(ir), facts(context)
            after = step.run(ir, context)
            if (str(after), facts(context)) != before:
                changes.add((step.stage, step.name))
            return after

        return replace(step, run=run)

    return tuple(map(watch, PASSES))


@pytest.mark.parametrize("stage, name", dict.fromkeys((p.stage, p.name) for p in PASSES))
def test_every_pass_changes_a_network(
    stage: Stage, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    default = fired(SWITCHES[name]) if name in SWITCHES else None
    run = CHANGED.get((stage, name), default)
    assert run is not None, "no network that this pass changes"
    changes: set[tuple[Stage, str]] = set()
    monkeypatch.setattr(pipeline, "PASSES", watched(changes))
    torch.manual_seed(0)
    run()
    assert (stage, name) in changes


def test_the_words_of_skip_are_those_of_passes_and_of_kernels() -> None:
    words = {p.skip for p in PASSES if p.skip is not None}
    assert {*SWITCHABLE} == words | {"resident", "cooperative", "fit"}


def imports(path: pathlib.Path) -> Iterator[str]:
    """The modules that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def test_only_the_pipeline_runs_the_passes_on_whole_graphs() -> None:
    """Backends, streaming and tracing run stages; no pass of algebra is theirs to call."""
    outside = [
        f"{path.relative_to(ROOT)} imports {module}"
        for folder in ("graphnn", "bench", "kernels")
        for path in (ROOT / folder).rglob("*.py")
        if "planner" not in path.parts
        for module in imports(path)
        if module.startswith("graphnn.planner.algebra") or module == "graphnn.planner.steps"
    ]
    assert outside == []


def test_a_stage_runs_its_passes_in_the_order_of_the_list() -> None:
    with recording() as found:
        gn.compile(Net(elman)).explain()
    names = [name for name, _ in found if ":" not in name]
    plain = {"final_states", "hops", "attention_rng", "rng", "side_by_side", "stacked", "retype"}
    whole = (S.CHECKED, S.REQUESTED, S.CALL, S.GRAPH, S.CHOSEN, S.PROGRAM)
    assert names == [p.name for p in PASSES if p.stage in whole and p.name not in plain]
    loops = [name for name, _ in found if name.startswith("loop z")]
    assert loops[:3] == ["loop z: sink", "loop z: extract", "loop z, derived: differentiate"]


def test_a_pass_that_breaks_a_graph_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(ir: IR, context: Context) -> IR:
        new = ir.copy()
        new.nodes.popitem()
        return new

    steps = tuple(replace(p, run=broken) if p.name == "hoist" else p for p in PASSES)
    monkeypatch.setattr(pipeline, "PASSES", steps)
    with pytest.raises(GraphnnError, match="pass 'hoist': closing"):
        gn.compile(Net(elman)).explain()


def test_ragged_loops_on_sorted_rows_lose_their_masks() -> None:
    with recording() as found:
        example = Fires(lambda: Net(elman), **RAGGED)
        example.results(example.compiled())
    graphs = dict(found)
    masked, free = graphs["loop z: extract"], graphs["loop z: active_rows"]
    assert "where" in {n.op for n in masked} and "where" not in {n.op for n in free}
