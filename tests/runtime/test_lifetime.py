"""What a program is known by, and how long it lives: like its model, or what it still owes."""

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
    def __init__(self, width: int = WIDTH, own: bool = False):
        super().__init__()
        self.rec, self.width, self.own = nn.Linear(width, width), width, own

    def shaped(self, v: Tensor) -> Tensor:
        return torch.cumsum(v, 0) * 0.1 if self.own else v

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


class Best(networks.Net):
    def mixed(self, q: gn.Value, k: gn.Value) -> gn.Value:
        return gn.lookup(self.query(q), self.key(k), self.value(k), over="source", topk=2)


def of_time() -> dict[str, Tensor]:
    return {"x": torch.randn(2, 5, WIDTH)}


def of_pairs() -> dict[str, Tensor]:
    return {"q": torch.randn(2, 3, WIDTH), "k": torch.randn(2, 4, WIDTH)}


def of_story() -> dict[str, Tensor]:
    return networks.inputs(gn.compile(networks.Story()), {"batch": 2}, torch.float32)


MADE: dict[str, tuple[Any, Any]] = {
    "loop": (Elman, of_time),
    "a function of the user's own": (lambda: Elman(own=True), of_time),
    "layers": (Deep, of_time),
    "attention": (networks.Net, of_pairs),
    "additive attention": (networks.Additive, of_pairs),
    "reductions": (Coverage, of_pairs),
    "the best": (Best, of_pairs),
}
BACKENDS = ("torch", "interpret")


def run(model: gn.Compiled, given: dict[str, Tensor]) -> Tensor:
    found = model(**given)
    return sum(v.float().sum() for v in (found.values() if isinstance(found, dict) else [found]))  # type: ignore[return-value]


def once(name: str, backend: str) -> list[weakref.ref[Any]]:
    """A model made, trained by a step and dropped; what of it must be gone."""
    make, inputs = MADE[name]
    net = make()
    model = gn.compile(net, backend=backend)
    given = {k: v.requires_grad_() for k, v in inputs().items()}
    run(model, given).backward()
    made = list(model.programs)
    return [weakref.ref(x) for x in (net, model, *made, *model.parameters())]


def tables() -> dict[str, int]:
    """How much each table of the process holds, and how many there are of what models are made."""
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
@pytest.mark.parametrize("name", MADE)
def test_a_dropped_model_leaves_nothing_behind(name: str, backend: str) -> None:
    once(name, backend)
    before = tables()
    refs = [r for _ in range(3) for r in once(name, backend)]
    assert tables() == before
    assert not [r() for r in refs if r() is not None]


def test_a_hundred_dropped_models_leave_nothing_behind() -> None:
    once("loop", "torch")
    before = tables()
    for width in range(2, 102):
        gn.compile(Elman(width))(x=torch.randn(1, 2, width)).sum().backward()
    assert tables() == before


class Scaled(Elman):
    scale = 1.0

    def shaped(self, v: Tensor) -> Tensor:
        return v * self.scale


def test_a_drawing_that_is_gone_takes_its_programs_with_it() -> None:
    """An attribute that changes from call to call: few drawings are kept, and their programs."""
    net = Scaled()
    model, x, counts = gn.compile(net), torch.randn(2, 3, WIDTH), []
    for k in range(40):
        net.scale = 1.0 + k
        model(x=x).sum().backward()
        if k in (29, 39):
            counts.append(tables())
    assert counts[0] == counts[1]


def kept(call: Callable[[int], None], calls: int) -> tuple[int, Counter[type]]:
    """The bytes and objects that so many calls leave behind."""
    gc.collect()
    before, kinds = tracemalloc.get_traced_memory()[0], Counter(map(type, gc.get_objects()))
    for k in range(calls):
        call(k)
    gc.collect()
    after = tracemalloc.get_traced_memory()[0]
    return after - before, Counter(map(type, gc.get_objects())) - kinds


def leaves_nothing(model: gn.Compiled, calls: int, lengths: int) -> None:
    """Calls of several lengths and batches, and steps. What is made once is made in the first
    three quarters: nothing is to come with the last."""
    given = [torch.randn(1 + k % 3, 2 + k % lengths, WIDTH) for k in range(3 * lengths)]

    def call(k: int) -> None:
        model(x=given[k % len(given)]).sum().backward()
        with torch.no_grad():
            model.step(model.initial_state(batch=1), x=given[0][:1, 0])

    tracemalloc.start()
    try:
        kept(call, 3 * calls // 4)
        more, kinds = kept(call, calls // 4)
    finally:
        tracemalloc.stop()
    assert more < 50_000 and kinds.total() < calls // 4, (more, kinds.most_common(5))


@pytest.mark.parametrize(
    "calls", [400, pytest.param(10_000, marks=pytest.mark.slow)], ids="{} calls".format
)
def test_calls_leave_nothing_behind(calls: int) -> None:
    leaves_nothing(gn.compile(Elman()), calls, 5)


def test_calls_of_kernels_leave_nothing_behind() -> None:
    leaves_nothing(gn.compile(Elman(), backend="interpret"), 16, 1)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", MADE)
def test_a_backward_runs_when_its_model_is_gone(name: str, backend: str) -> None:
    make, inputs = MADE[name]
    net, given = make().double(), {k: v.double().requires_grad_() for k, v in inputs().items()}
    moving = [*given.values(), *net.parameters()]
    wanted = torch.autograd.grad(run(gn.compile(net, backend="torch"), given), moving)
    model = gn.compile(net, backend=backend)
    loss, gone = run(model, given), weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
    torch.testing.assert_close(torch.autograd.grad(loss, moving), wanted)


def test_a_compiled_backward_runs_when_its_model_is_gone() -> None:
    net, x = Elman(), torch.randn(2, 3, WIDTH)
    wanted = torch.autograd.grad(gn.compile(net)(x=x).sum(), [*net.parameters()])
    fast = torch.compile(gn.compile(net), backend="aot_eager", fullgraph=True)
    loss = fast(x=x).sum()
    del fast
    gc.collect()
    torch.testing.assert_close(torch.autograd.grad(loss, [*net.parameters()]), wanted)


def precisions(model: gn.Compiled) -> set[str]:
    """How the kernels of a training step are told to multiply float32."""
    found = set()

    def runner(function: Any, grid: Any, args: Any, constants: dict[str, Any]) -> None:
        found.add(constants["PRECISION"])
        function.run(*args, grid=grid, warmup=False, **constants)

    with interpreter.launches_run_by(runner):
        model(x=torch.randn(2, 3, WIDTH)).sum().backward()
    return found


def test_programs_of_one_source_keep_kernels_of_their_own() -> None:
    net, ways = Elman(), ("ieee", "tf32x3", "tf32")
    models = [gn.compile(net, backend="interpret", float32=way) for way in ways]
    sources = {model.source() for model in models}
    assert len(sources) == 1
    assert [precisions(model) for model in models] == [{way} for way in ways]


def test_timings_are_of_one_way_to_multiply() -> None:
    """What was timed with products of TF32 says nothing of plain multiply-adds."""
    net = Elman()
    models = [gn.compile(net, backend="interpret", float32=way) for way in ("ieee", "tf32")]
    (first,), (second,) = (model.program().loops for model in models)
    assert first.made_of()[0] == second.made_of()[0]
    assert first.made_of()[1:] and first.made_of()[1:] != second.made_of()[1:]


def test_equal_models_have_keys_of_their_own() -> None:
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
