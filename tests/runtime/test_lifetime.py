"""Program keys and lifetimes: a program lives as long as its model or a pending backward."""

from __future__ import annotations

import gc
import linecache
import sys
import traceback
import tracemalloc
import types
import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphnn as gn
from graphnn.backends.torch.codegen.lowering import Function
from graphnn.backends.torch.operators.loop import LoopOperator
from graphnn.backends.torch.program import Program
from graphnn.backends.torch.runtime import registry
from graphnn.ir.graph import IR, Node
from graphnn.kernels import cache
from graphnn.kernels.interpreter import interpreter
from graphnn.kernels.runtime.launch import Launcher
from graphnn.runtime.call import registry as programs
from tests.attention import networks
from tests.attention.readers import Coverage

WIDTH = networks.WIDTH


class Elman(nn.Module):
    def __init__(self, width: int = WIDTH, opaque: bool = False):
        super().__init__()
        self.rec, self.width, self.opaque = nn.Linear(width, width), width, opaque

    def shaped(self, v: Tensor) -> Tensor:
        return torch.cumsum(v, 0) * 0.1 if self.opaque else v

    def graph(self, g: gn.Graph) -> None:
        x, z = g.input("x", (self.width,), over="time"), g.state("z", (self.width,))
        z.next = torch.tanh(x + self.shaped(self.rec(z)))
        g.output("y", z.next)


class Deep(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = gn.nn.LSTM(WIDTH, WIDTH, num_layers=2, bidirectional=True)

    def graph(self, g: gn.Graph) -> None:
        g.output("y", self.lstm(g.input("x", (WIDTH,), over="time")))


class Scan(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = gn.nn.MinGRU(WIDTH, WIDTH)

    def graph(self, g: gn.Graph) -> None:
        g.output("y", self.layer(g.input("x", (WIDTH,), over="time")))


class TopK(networks.Net):
    def mixed(self, q: gn.Value, k: gn.Value) -> gn.Value:
        return gn.lookup(self.query(q), self.key(k), self.value(k), over="source", topk=2)


def time_inputs() -> dict[str, Tensor]:
    return {"x": torch.randn(2, 5, WIDTH)}


def pair_inputs() -> dict[str, Tensor]:
    return {"q": torch.randn(2, 3, WIDTH), "k": torch.randn(2, 4, WIDTH)}


def story_inputs() -> dict[str, Tensor]:
    memory = {name: torch.randn(2, 4, WIDTH) for name in "mc"}
    return {"q": torch.randn(2, WIDTH), **memory}


MODELS: dict[str, tuple[Any, Any]] = {
    "loop": (Elman, time_inputs),
    "opaque function": (lambda: Elman(opaque=True), time_inputs),
    "layers": (Deep, time_inputs),
    "attention": (networks.Net, pair_inputs),
    "additive attention": (networks.Additive, pair_inputs),
    "reductions": (Coverage, pair_inputs),
    "top-k": (TopK, pair_inputs),
    "hops": (networks.Story, story_inputs),
    "scan": (Scan, time_inputs),
}
BACKENDS = ("torch", "interpret")


def run(model: gn.Compiled, given: dict[str, Tensor]) -> Tensor:
    found = model(**given)
    return sum(v.float().sum() for v in (found.values() if isinstance(found, dict) else [found]))  # type: ignore[return-value]


def train_and_drop(name: str, backend: str) -> list[weakref.ref[Any]]:
    """Makes a model, trains it for one step and drops it; returns weak references to its parts."""
    make, inputs = MODELS[name]
    net = make()
    model = gn.compile(net, backend=backend)
    given = {k: v.requires_grad_() for k, v in inputs().items()}
    run(model, given).backward()
    programs = list(model.programs)
    return [weakref.ref(x) for x in (net, model, *programs, *model.parameters())]


def live_objects() -> dict[str, int]:
    """Returns the sizes of all global tables and the number of live objects of each kind."""
    gc.collect()
    jit = sys.modules["triton.runtime.jit"]
    kinds = (gn.Compiled, gn.Graph, IR, Node, Program, LoopOperator, Function, Launcher)
    count = Counter(type(x) for x in gc.get_objects())
    code = sum(isinstance(x, types.FunctionType) and "<graphnn" in x.__code__.co_filename
               for x in gc.get_objects())  # fmt: skip
    return {
        "registry": len(registry._PROGRAMS),
        "traced": len(registry._TRACED),
        "programs": len(programs._PROGRAMS),
        "models": len(programs._NETWORKS),
        "lines": len(linecache.cache),
        "modules": len(cache._MODULES),
        "jitted": len(getattr(jit, "_triton_jit_function_registry", ())),
        "code": code,
        **{kind.__name__: count[kind] for kind in kinds},
    }


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", MODELS)
def test_a_dropped_model_leaves_nothing_behind(name: str, backend: str) -> None:
    train_and_drop(name, backend)
    before = live_objects()
    refs = [r for _ in range(3) for r in train_and_drop(name, backend)]
    assert live_objects() == before
    assert not [r() for r in refs if r() is not None]


def test_a_hundred_dropped_models_leave_nothing_behind() -> None:
    train_and_drop("loop", "torch")
    before = live_objects()
    for width in range(2, 102):
        gn.compile(Elman(width))(x=torch.randn(1, 2, width)).sum().backward()
    assert live_objects() == before


@pytest.mark.parametrize("name", ["attention", "scan"])
def test_a_sweep_over_sizes_leaves_nothing_behind(name: str) -> None:
    """As in a search for the best size: every model has other kernels, calls and results."""

    def trial(k: int) -> None:
        make, inputs = MODELS[name]
        with torch.no_grad():
            given = {key: v.repeat(1 + k % 2, 1 + k, 1) for key, v in inputs().items()}
            gn.compile(make(), backend="interpret")(**given)

    trial(0)
    before = live_objects()
    for k in range(4):
        trial(k)
    assert live_objects() == before


class Scaled(Elman):
    scale = 1.0

    def shaped(self, v: Tensor) -> Tensor:
        return v * self.scale


def test_a_dropped_trace_takes_its_programs_with_it() -> None:
    """An attribute changes at each call; only a few traces and their programs are cached."""
    net = Scaled()
    model, x, counts = gn.compile(net), torch.randn(2, 3, WIDTH), []
    for k in range(40):
        net.scale = 1.0 + k
        model(x=x).sum().backward()
        if k in (29, 39):
            counts.append(live_objects())
    assert counts[0] == counts[1]


def leaked(call: Callable[[int], None], calls: int) -> tuple[int, Counter[type]]:
    """Returns the bytes and objects that `calls` calls leave behind."""
    gc.collect()
    before, kinds = tracemalloc.get_traced_memory()[0], Counter(map(type, gc.get_objects()))
    for k in range(calls):
        call(k)
    gc.collect()
    after = tracemalloc.get_traced_memory()[0]
    return after - before, Counter(map(type, gc.get_objects())) - kinds


def assert_no_leak(model: gn.Compiled, calls: int, lengths: int) -> None:
    """Checks that calls and steps with several lengths and batches leave nothing behind.

    The first three quarters of the calls fill all caches; only the last quarter is checked.
    Measuring itself leaves about 20 kB, however many calls there are: this is subtracted.
    """
    inputs = [torch.randn(1 + k % 3, 2 + k % lengths, WIDTH) for k in range(3 * lengths)]

    def call(k: int) -> None:
        model(x=inputs[k % len(inputs)]).sum().backward()
        with torch.no_grad():
            model.step(model.initial_state(batch=1), x=inputs[0][:1, 0])

    tracemalloc.start()
    try:
        leaked(call, 3 * calls // 4)
        measuring, _ = leaked(call, 1)
        more, kinds = leaked(call, calls // 4)
    finally:
        tracemalloc.stop()
    assert more - measuring < 30_000 and kinds.total() < calls // 4, (
        more,
        measuring,
        kinds.most_common(5),
    )


@pytest.mark.parametrize(
    "calls", [400, pytest.param(10_000, marks=pytest.mark.slow)], ids="{} calls".format
)
def test_calls_leave_nothing_behind(calls: int) -> None:
    assert_no_leak(gn.compile(Elman()), calls, 5)


def test_calls_on_the_interpreter_leave_nothing_behind() -> None:
    assert_no_leak(gn.compile(Elman(), backend="interpret"), 16, 1)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", MODELS)
def test_a_backward_runs_after_its_model_is_gone(name: str, backend: str) -> None:
    make, inputs = MODELS[name]
    net, given = make().double(), {k: v.double().requires_grad_() for k, v in inputs().items()}
    moving = [*given.values(), *net.parameters()]
    wanted = torch.autograd.grad(run(gn.compile(net, backend="torch"), given), moving)
    model = gn.compile(net, backend=backend)
    loss, gone = run(model, given), weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
    torch.testing.assert_close(torch.autograd.grad(loss, moving), wanted)


def test_a_compiled_backward_runs_after_its_model_is_gone() -> None:
    net, x = Elman(), torch.randn(2, 3, WIDTH)
    wanted = torch.autograd.grad(gn.compile(net)(x=x).sum(), [*net.parameters()])
    fast = torch.compile(gn.compile(net), backend="aot_eager", fullgraph=True)
    loss = fast(x=x).sum()
    del fast
    gc.collect()
    torch.testing.assert_close(torch.autograd.grad(loss, [*net.parameters()]), wanted)


def precisions(model: gn.Compiled) -> set[str]:
    """Returns the float32 matmul precisions that the kernels of a training step receive."""
    found = set()

    def runner(function: Any, grid: Any, args: Any, constants: dict[str, Any]) -> None:
        found.add(constants["PRECISION"])
        function.run(*args, grid=grid, warmup=False, **constants)

    with interpreter.launches_run_by(runner):
        model(x=torch.randn(2, 3, WIDTH)).sum().backward()
    return found


def test_programs_with_equal_source_keep_separate_kernels() -> None:
    net, settings = Elman(), ("ieee", "tf32x3", "tf32")
    models = [gn.compile(net, backend="interpret", float32=setting) for setting in settings]
    sources = {model.source() for model in models}
    assert len(sources) == 1
    assert [precisions(model) for model in models] == [{setting} for setting in settings]


def test_cached_timings_depend_on_the_matmul_precision() -> None:
    """A timing with TF32 matmuls is not reused for IEEE float32."""
    net = Elman()
    models = [gn.compile(net, backend="interpret", float32=setting) for setting in ("ieee", "tf32")]
    (first,), (second,) = (model.program().loops for model in models)
    assert first.made_of()[0] == second.made_of()[0]
    assert first.made_of()[1:] and first.made_of()[1:] != second.made_of()[1:]


def test_equal_models_have_different_keys() -> None:
    net = Elman()
    keys = [gn.compile(net).program().loops[0].key for _ in range(2)]
    assert keys[0] != keys[1]
    assert keys[0].rsplit(" ", 1)[0] == keys[1].rsplit(" ", 1)[0], "the same code, the same hash"


def test_a_traceback_shows_generated_lines_while_they_live() -> None:
    model = gn.compile(Elman())
    main = model.program().main
    file = main.__code__.co_filename
    with pytest.raises(TypeError) as caught:
        main([], None, {}, None, None)
    text = "".join(traceback.format_exception(caught.value))
    assert "n_time = sizes['time']" in text
    del model, main, caught
    gc.collect()
    assert file not in linecache.cache
