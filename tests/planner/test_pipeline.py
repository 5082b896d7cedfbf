"""The list of passes: each pass changes some network and is run by its stage only."""

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
from tests.planner.pass_examples import (
    FIXED,
    RAGGED,
    SWITCHES,
    WIDE,
    WIDTH,
    Example,
    Net,
    elman,
    gated,
    wide_inputs,
)

S = Stage
ROOT = pathlib.Path(__file__).parent.parent.parent


def compile_complex_loop() -> None:
    g = gn.Graph("turning")
    x, z = g.input("x", (2,), over="time"), g.state("z", (2,), dtype=torch.complex64)
    z.next = z * 0.5j + x
    g.output("y", z.next.abs())
    gn.compile(g).explain()


def compile_wire() -> None:
    g = gn.Graph("wired")
    x, wire = g.input("x", (2,), over="time"), g.state("wire", (2,), delay=0)
    g.output("y", wire * 2)
    wire.next = x + 1
    gn.compile(g).explain()


def compile_after_dtype_change() -> None:
    g = gn.Graph("compile_after_dtype_change")
    g.output("y", g.input("x", (2,), over="time") * g.parameter("w", torch.ones(2)))
    gn.compile(g).double().explain()


def compile_mixed_dtypes() -> None:
    g = gn.Graph("mixed")
    x, k = g.input("x", (2,)), g.input("k", (2,), dtype=torch.int64)
    g.output("y", x + k)
    gn.compile(g).explain()


def call_with(**options: Any) -> Callable[[], None]:
    """Returns a function that calls an Elman network with `options`."""

    def call() -> None:
        model = gn.compile(Net(elman))
        model(x=torch.randn(2, 3, WIDTH), **options)

    return call


def call_with_initial_state() -> None:
    model = gn.compile(Net(elman))
    model(x=torch.randn(2, 3, WIDTH), state={"z": torch.randn(2, WIDTH)})


def compute_gradient_flow() -> None:
    net = Net(elman)
    gradient_flow(gn.compile(net), torch.Tensor.sum, {"x": torch.randn(2, 3, WIDTH)})


class Decoder(nn.Module):
    """Causal attention over time, or a loop that reads a sum over an encoder's positions."""

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


def begin_causal_stream() -> None:
    gn.compile(Decoder(causal=True)).initial_state(2)


def begin_stream_with_source() -> None:
    model = gn.compile(Decoder(causal=False))
    model.initial_state(over="time", source=torch.randn(2, 3, WIDTH))


def derive_from_results_only() -> None:
    """Derives a backward for a forward pass that saves only its results."""
    example = Example(lambda: Net(gated))
    model = example.compiled()
    example.results(model)
    (program,) = (loop for program in model.programs for loop in program.loops)
    loop = program.loop
    options = {"recompute": False, "kernels": False, "saved": loop.results}
    context = DeriveContext(loop=loop, wanted=loop.reads[:1], **options)
    pipeline.run(S.DERIVED, loop.ir, context)


def call_and_differentiate(example: Example) -> Callable[[], None]:
    """Returns a function that computes the results and gradients of an example."""
    return lambda: example.results(example.compiled()) and None


# for each pass, a function that uses a network which the pass changes
CHANGED: dict[tuple[Stage, str], Callable[[], None]] = {
    (S.TRACED, "retype"): compile_after_dtype_change,
    (S.CHECKED, "promote_dtypes"): compile_mixed_dtypes,
    (S.CHECKED, "inline_wires"): compile_wire,
    (S.REQUESTED, "probe_states"): compute_gradient_flow,
    (S.REQUESTED, "record_states"): call_with(record=True),
    (S.CALL, "initial_states"): call_with_initial_state,
    (S.CALL, "final_states"): call_with(return_state=True),
    (S.CALL, "complex_as_real"): compile_complex_loop,
    (S.GRAPH, "split_linear"): call_and_differentiate(SWITCHES["split"]),
    (S.GRAPH, "factor"): call_and_differentiate(SWITCHES["gather"]),
    (S.GRAPH, "attention"): call_and_differentiate(SWITCHES["attend"]),
    (S.GRAPH, "torch_layers"): call_and_differentiate(SWITCHES["match"]),
    (S.GRAPH, "strategies"): call_and_differentiate(Example(lambda: Net(elman))),
    (S.CHOSEN, "simplify"): call_and_differentiate(SWITCHES["scan"]),
    (S.CHOSEN, "horizontal"): call_and_differentiate(SWITCHES["merge"]),
    (S.CHOSEN, "multiply_add"): call_and_differentiate(SWITCHES["contract"]),
    (S.PROGRAM, "regions"): call_and_differentiate(Example(lambda: Net(elman))),
    (S.PROGRAM, "side_by_side"): call_and_differentiate(SWITCHES["beside"]),
    (S.PROGRAM, "stacked"): call_and_differentiate(SWITCHES["stacked"]),
    (S.LOOP, "extract"): call_and_differentiate(Example(lambda: Net(elman))),
    (S.DERIVED, "differentiate"): call_and_differentiate(Example(lambda: Net(elman))),
    (S.DERIVED, "recompute_unsaved"): derive_from_results_only,
    (S.BACKWARD, "simplify"): call_and_differentiate(Example(lambda: Net(gated))),
    (S.BACKWARD, "horizontal"): call_and_differentiate(SWITCHES["merge"]),
    (S.BACKWARD, "multiply_add"): call_and_differentiate(
        Example(lambda: Net(lambda n, x, z: elman(n, x, z) * z))
    ),
    (S.ATTENTION, "softmax_backward"): call_and_differentiate(SWITCHES["attend"]),
    (S.ATTENTION, "hops_backward"): call_and_differentiate(SWITCHES["hops"]),
    (S.FUNCTION, "multiply_add"): call_and_differentiate(
        Example(lambda: Net(elman, WIDE, before=lambda v: v * v.sin() + v.cos()), wide_inputs)
    ),
    (S.FUNCTION, "regions"): call_and_differentiate(Example(lambda: Net(elman))),
    (S.FUNCTION, "sink"): call_and_differentiate(SWITCHES["sink"]),
    (S.FUNCTION, "side_by_side"): call_and_differentiate(SWITCHES["beside"]),
    (S.FUNCTION, "stacked"): call_and_differentiate(SWITCHES["stacked"]),
    (S.INVARIANTS, "invariants"): begin_stream_with_source,
    (S.STEP, "step_graph"): begin_causal_stream,
    **{key: call_and_differentiate(example) for key, (example, _) in FIXED.items()},
}


def snapshot(context: Context) -> dict[str, Any]:
    """Returns the attributes of a context, with lists copied."""
    return {k: list(v) if isinstance(v, list) else v for k, v in vars(context).items()}


def recording_changes(changes: set[tuple[Stage, str]]) -> tuple[Pass, ...]:
    """Returns the passes, wrapped to add their key to `changes` if they change anything."""

    def watch(step: Pass) -> Pass:
        def run(ir: IR, context: Context) -> IR:
            before = str(ir), snapshot(context)
            after = step.run(ir, context)
            if (str(after), snapshot(context)) != before:
                changes.add((step.stage, step.name))
            return after

        return replace(step, run=run)

    return tuple(map(watch, PASSES))


@pytest.mark.parametrize("stage, name", dict.fromkeys((p.stage, p.name) for p in PASSES))
def test_every_pass_changes_a_network(
    stage: Stage, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    default = call_and_differentiate(SWITCHES[name]) if name in SWITCHES else None
    run = CHANGED.get((stage, name), default)
    assert run is not None, "no network that this pass changes"
    changes: set[tuple[Stage, str]] = set()
    monkeypatch.setattr(pipeline, "PASSES", recording_changes(changes))
    torch.manual_seed(0)
    run()
    assert (stage, name) in changes


def test_skip_accepts_exactly_the_names_of_passes_and_kernel_options() -> None:
    names = {p.skip for p in PASSES if p.skip is not None}
    assert {*SWITCHABLE} == names | {"resident", "cooperative", "fit"}


def test_the_word_of_every_pass_is_switchable() -> None:
    missing = {p.name: p.skip for p in PASSES if p.skip is not None and p.skip not in SWITCHABLE}
    assert not missing, f"these passes never run; add their words to SWITCHABLE: {missing}"


def test_the_contributing_page_lists_words_that_differ_from_their_passes() -> None:
    page = (ROOT / ".github" / "CONTRIBUTING.md").read_text()
    differ = {(p.skip, p.name) for p in PASSES if p.skip not in (None, p.name)}
    rows = [f"| `{word}` | `{name}` |" for word, name in differ]
    assert not [line for line in rows if line not in page]


def imports(path: pathlib.Path) -> Iterator[str]:
    """Yields the modules that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def test_only_the_planner_imports_the_graph_passes() -> None:
    """Backends, streaming and tracing run stages; they never call an algebra pass directly."""
    outside = [
        f"{path.relative_to(ROOT)} imports {module}"
        for folder in ("graphnn", "bench", "kernels")
        for path in (ROOT / folder).rglob("*.py")
        if "planner" not in path.parts
        for module in imports(path)
        if module.startswith("graphnn.planner.algebra") or module == "graphnn.planner.steps"
    ]
    assert outside == []


def test_stages_run_their_passes_in_list_order() -> None:
    with recording() as found:
        gn.compile(Net(elman)).explain()
    names = [name for name, _ in found if ":" not in name]
    inactive = {"final_states", "hops", "attention_rng", "rng", "side_by_side", "stacked", "retype"}
    whole = (S.CHECKED, S.REQUESTED, S.CALL, S.GRAPH, S.CHOSEN, S.PROGRAM)
    assert names == [p.name for p in PASSES if p.stage in whole and p.name not in inactive]
    loops = [name for name, _ in found if name.startswith("loop z")]
    assert loops[:3] == ["loop z: sink", "loop z: extract", "loop z, derived: differentiate"]


def test_an_invalid_graph_is_reported_with_the_pass_that_made_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(ir: IR, context: Context) -> IR:
        new = ir.copy()
        new.nodes.popitem()
        return new

    steps = tuple(replace(p, run=broken) if p.name == "hoist" else p for p in PASSES)
    monkeypatch.setattr(pipeline, "PASSES", steps)
    with pytest.raises(GraphnnError, match="pass 'hoist': closing"):
        gn.compile(Net(elman)).explain()


def test_a_ragged_loop_over_active_rows_needs_no_masks() -> None:
    with recording() as found:
        example = Example(lambda: Net(elman), **RAGGED)
        example.results(example.compiled())
    graphs = dict(found)
    before, after = graphs["loop z: extract"], graphs["loop z: active_rows"]
    assert "where" in {n.op for n in before} and "where" not in {n.op for n in after}
