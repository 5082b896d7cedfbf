"""Loops that may be run in several ways: each gives the same, and the fastest is taken.

The GPU and its timer are made up: kernels are interpreted, and ATen stands where cuDNN would.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import torch

import graphnn as gn
from graphnn.backends.torch.runtime import torch_layers
from graphnn.backends.triton.loops.dispatch import StrategyDispatcher
from graphnn.backends.triton.loops.torch_layers import CUDNN, KERNELS
from graphnn.kernels import cache
from graphnn.kernels.select import gpu_timer, strategy_timing
from graphnn.kernels.select.gpu_timer import Timing
from graphnn.kernels.select.strategies import COOPERATIVE, RESIDENT, STEPWISE
from graphnn.planner.loops import choose
from graphnn.runtime.call.options import Options
from tests.backends.triton.cells import Sizes, inputs, network, ragged, run
from tests.backends.triton.places import INTERPRET, Place, choices, lowerings
from tests.nn.common import close

TOLERANCE = 1e-12
SIZES = Sizes(3, 2, 20)
KINDS = {"lstm", "gru", "rnn_tanh", "rnn_relu"}


class Timer:
    """Takes as long as a table says; `running` it runs each way that it times."""

    def __init__(self, times: Mapping[str, float], running: bool = False):
        self.times, self.running, self.ran = times, running, list[str]()

    def __call__(self, run: Callable[[], Any], limit: float) -> Timing:
        (way,) = run.args  # type: ignore[attr-defined]
        if self.running:
            run()
        self.ran.append(way)
        return Timing(self.times.get(way, 1.0))


@pytest.fixture
def time(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Timer]:
    """A fake GPU, with a timer that each test defines."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(cache, "_TEMPORARY", [])
    monkeypatch.setenv("GRAPHNN_TUNE", "all")
    monkeypatch.setattr(strategy_timing, "gpu_name", lambda tensor: "a made-up GPU")

    def use(running: bool = False, **times: float) -> Timer:
        timer = Timer(times, running)
        monkeypatch.setattr(gpu_timer, "time_on_gpu", timer)
        return timer

    return use


def dispatchers(model: gn.Compiled) -> Iterator[StrategyDispatcher]:
    found = {id(s): s for w in lowerings(model) for s in w.dispatchers.values()}
    return iter(found.values())


def taken(model: gn.Compiled) -> set[str]:
    return {x.strategy for s in dispatchers(model) for x in s.tuner.choices.values()}


# kernels of one loop

EVERY = itertools.product(
    ("lstm", "gru_before", "rnn_both_ways"), (RESIDENT, COOPERATIVE, STEPWISE)
)


@pytest.mark.parametrize(
    "name, way",
    [
        ("lstm", RESIDENT),
        ("gru_before", COOPERATIVE),
        ("rnn_both_ways", STEPWISE),
        *(pytest.param(*x, marks=pytest.mark.slow) for x in EVERY),
    ],
)
def test_each_way_equals_the_reference(name: str, way: str, time: Callable[..., Timer]) -> None:
    timer = time(**{way: 0.5})
    net = network(name, SIZES.hidden)
    lengths = ragged(SIZES, "cpu")
    given = inputs(net, SIZES, torch.float64, "cpu")
    wanted, _ = run(net, Place("reference", "cpu"), (), given, lengths)
    got, model = run(net, INTERPRET, (), inputs(net, SIZES, torch.float64, "cpu"), lengths)
    close(got, wanted, TOLERANCE)
    assert taken(model) == {way}
    # forward and backward, each of all the ways there are
    assert timer.ran == [RESIDENT, COOPERATIVE, STEPWISE] * 2
    assert {c.strategy for c in choices(model)} == {RESIDENT}, "what was planned stays what it was"


def test_a_second_call_of_the_form_times_nothing(time: Callable[..., Timer]) -> None:
    timer = time(cooperative=0.5)
    model = gn.compile(network("lstm", 20), backend="interpret")
    net = network("lstm", 20)
    call = lambda batch: model(**inputs(net, Sizes(batch, 2, 20), torch.float64, "cpu"))
    call(3)
    ran = len(timer.ran)
    call(4)
    assert len(timer.ran) == ran == 3
    call(5)
    assert len(timer.ran) == 2 * ran
    (forward,) = (s for s in dispatchers(model) if s.tuner.choices)
    assert {name for name, _ in forward.calls} == {RESIDENT, COOPERATIVE}, "what lost is forgotten"


def test_explain_lists_the_measured_times(time: Callable[..., Timer]) -> None:
    time(cooperative=0.5)
    net = network("lstm", 20)
    model = gn.compile(net, backend="interpret")
    given = inputs(net, SIZES, torch.float64, "cpu")
    model(**given)["y"].sum().backward()
    with torch.no_grad():
        model(**given)
    text = model.explain()
    assert "predicted µs per step at batch 16 (cost model, not measured): persistent" in text
    for direction in ("forward, saving", "forward", "backward"):
        form = f"timed on a made-up GPU ({direction}, time up to 16, batch up to 4)"
        assert f"{form}: cooperative 0.5 ms, persistent 1 ms, stepwise 1 ms; cooperative" in text


def test_a_model_that_is_not_tuned_times_nothing(time: Callable[..., Timer]) -> None:
    timer = time(cooperative=0.5)
    net = network("lstm", 20)
    model = gn.compile(net, backend="interpret", tune=False)
    model(**inputs(net, SIZES, torch.float64, "cpu"))
    assert timer.ran == [] and taken(model) == {RESIDENT}
    launchers = [x for w in lowerings(model) for x in w.launchers.values()]
    assert launchers and not any(x.tuner.enabled for x in launchers)


def planned(size: int) -> list[StrategyDispatcher]:
    """An LSTM in bfloat16, planned for an H200."""
    model = gn.compile(network("lstm", size).bfloat16(), backend="interpret")
    model.program()
    return list(dispatchers(model))


def test_the_model_foretells_from_which_batch_on_launches_are_better() -> None:
    for one in planned(256):
        assert one.predicted_best({"time": 64, "batch": 64}) == COOPERATIVE
        assert one.predicted_best({"time": 64, "batch": 1024}) == STEPWISE
        assert any("stepwise is faster above batch " in line for line in one.report())
    for one in planned(64):
        assert one.predicted_best({"time": 64, "batch": 1024}) == RESIDENT


def test_a_loop_that_fits_gets_a_persistent_kernel_and_the_reason() -> None:
    for one in planned(160):
        assert one.planned == RESIDENT
        assert "persistent nevertheless: no block waits for others" in one.report()[0]


def test_what_is_switched_off_is_no_candidate() -> None:
    net = network("lstm", 64).bfloat16()
    model = gn.compile(net, backend="interpret", skip=("cooperative",))
    model.program()
    for one in dispatchers(model):
        assert list(one.choices[0].predicted(16)) == [RESIDENT, STEPWISE]


def test_untimed_a_large_batch_goes_as_foretold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphnn.kernels.select.search.GPUS", small())
    net = network("lstm", 100)
    sizes = Sizes(20, 1, 100)
    given = inputs(net, sizes, torch.float64, "cpu")
    wanted, _ = run(net, Place("reference", "cpu"), (), given, {})
    skip = ("resident",)
    got, model = run(net, INTERPRET, skip, inputs(net, sizes, torch.float64, "cpu"), {})
    close(got, wanted, TOLERANCE)
    assert {c.strategy for c in choices(model)} == {COOPERATIVE}
    assert taken(model) == {COOPERATIVE, STEPWISE}, "the backward alone has too much to publish"


def small() -> dict[str, Any]:
    """A GPU whose launches of many blocks take long when there are two tiles of them."""
    from dataclasses import replace

    from graphnn.kernels.select.cost_model import GPUS

    return {k: replace(d, processors=7, l2_bytes_each=5e3) for k, d in GPUS.items()}


# torch's own layers


class Layers(torch.nn.Module):
    def __init__(self, layer: Any):
        super().__init__()
        self.layer = layer

    def graph(self, g: gn.Graph) -> None:
        g.output("y", self.layer(g.input("x", (4,), over="time")))


MADE = {
    "lstm": lambda: gn.nn.LSTM(4, 6),
    "both ways": lambda: gn.nn.LSTM(4, 6, bidirectional=True),
    "gru": lambda: gn.nn.GRU(4, 6, reset="after"),
    "rnn": lambda: gn.nn.RNN(4, 6, nonlinearity="relu"),
}


@pytest.fixture
def torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Interpreted kernels with torch's layers as rivals, as they are on a GPU."""
    monkeypatch.setattr(choose, "PREFERRED", {("cpu", torch.float64): KINDS})
    kept = Options.passes_for
    keeps = lambda options, target: kept(options, target) | (options.passes & {"match"})
    monkeypatch.setattr(Options, "passes_for", keeps)


def called(model: gn.Compiled, lengths: dict[str, Any]) -> dict[str, torch.Tensor]:
    """A call's output and final states, and the gradients of all that it reads."""
    x = torch.randn(3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x.requires_grad_()
    y, state = model(x=x, lengths=lengths, return_state=True)
    total = y.sin().sum() + sum(s.cos().sum() for s in state.values())
    wanted = [x, *model.parameters()]
    return dict(enumerate([y, *state.values(), *torch.autograd.grad(total, wanted)]))  # type: ignore[arg-type]


FULL: dict[str, Any] = {}
ENDS = {"time": torch.tensor([4, 0, 2])}


@pytest.mark.parametrize(
    "name, way, lengths",
    [
        ("lstm", KERNELS, ENDS),
        ("lstm", CUDNN, FULL),
        ("gru", KERNELS, FULL),
        ("rnn", CUDNN, ENDS),
        ("both ways", KERNELS, FULL),
        *(
            pytest.param(*x, marks=pytest.mark.slow)
            for x in itertools.product(MADE, (CUDNN, KERNELS), (FULL, ENDS))
        ),
    ],
)
def test_torchs_layer_and_kernels_give_the_same(
    name: str, way: str, lengths: Any, time: Callable[..., Timer], torchs: None
) -> None:
    timer = time(running=name == "lstm" and way == KERNELS, **{way: 0.5})
    net = Layers(MADE[name]()).double()
    wanted = called(gn.compile(net, backend="reference"), lengths)
    model = gn.compile(net, backend="interpret")
    close(called(model, lengths), wanted, TOLERANCE)
    (program,) = model.programs
    assert program.layers and timer.ran.count(CUDNN) == timer.ran.count(KERNELS)
    for layer in program.layers:
        (found,) = layer.tuner.choices.values()
        assert (found.strategy, found.direction) == (way, "training")


def test_forward_and_backward_of_a_call_are_of_one_way(
    time: Callable[..., Timer], torchs: None
) -> None:
    for way in (CUDNN, KERNELS):
        time(**{way: 0.5})
        model = gn.compile(Layers(gn.nn.LSTM(4, 6)).double(), backend="interpret")
        y = model(x=torch.randn(3, 4, 4, dtype=torch.float64))
        names, stack = set[str](), [y.grad_fn]
        while stack:
            one = stack.pop()
            if one is not None and one.name() not in names:
                names.add(one.name())
                stack += [f for f, _ in one.next_functions]
        assert any("graphnn" in n for n in names) == (way == KERNELS), names
        cache.clear()


def test_of_a_layer_the_directions_are_timed_apart(
    time: Callable[..., Timer], torchs: None
) -> None:
    timer = time(kernels=0.5)
    model = gn.compile(Layers(gn.nn.LSTM(4, 6)).double(), backend="interpret")
    x = torch.randn(3, 4, 4, dtype=torch.float64)
    model(x=x)
    trained = timer.ran.count(CUDNN)
    with torch.no_grad():
        model(x=x)
    assert (trained, timer.ran.count(CUDNN)) == (1, 2)


def test_under_autocast_a_layer_is_timed_anew(time: Callable[..., Timer], torchs: None) -> None:
    timer = time(kernels=0.5)
    model = gn.compile(Layers(gn.nn.LSTM(4, 6)), backend="interpret")
    choose.PREFERRED[("cpu", torch.float32)] = KINDS
    x = torch.randn(3, 2, 4)
    model(x=x)
    with torch.autocast("cpu", torch.bfloat16):
        model(x=x)
    assert timer.ran.count(CUDNN) == 2
    layers = [program.layers[0] for program in model.programs]
    directions = [{x.direction for x in layer.tuner.choices.values()} for layer in layers]
    assert directions == [{"training"}, {"training in torch.bfloat16"}]


def test_explain_names_cudnn_among_the_candidates(time: Callable[..., Timer], torchs: None) -> None:
    time(kernels=0.5)
    model = gn.compile(Layers(gn.nn.LSTM(4, 6)).double(), backend="interpret")
    assert (
        "candidate cuDNN: used if nothing is timed (the cost model does not cover it)"
        in model.explain()
    )
    called(model, {})
    program = next(p for p in model.programs if p.layers[0].tuner.choices)
    (said,) = (x for x in program.layers[0].report() if x.startswith("timed"))
    assert said.endswith(
        "(training, time up to 16, batch up to 4): kernels 0.5 ms, cuDNN 1 ms; kernels is used"
    )


def test_explain_lists_the_candidates_without_a_gpu() -> None:
    net = Layers(gn.nn.LSTM(4, 16)).half()
    text = gn.compile(net).explain(device="cuda")
    assert "candidate cuDNN" in text and "candidate kernels, backward: persistent" in text
    assert "candidate" not in gn.compile(net, tune=False).explain(device="cuda")
    assert "candidate" not in gn.compile(net.float()).explain()


def test_untuned_torchs_layer_is_called_directly(torchs: None) -> None:
    model = gn.compile(Layers(MADE["gru"]()).double(), backend="interpret", tune=False)
    model(x=torch.randn(3, 4, 4, dtype=torch.float64))
    (program,) = model.programs
    assert not program.layers and "runtime.recurrent('gru'" in program.source


def test_the_cudnn_warning_on_computed_weights_is_suppressed() -> None:
    def layer(text: str) -> int:
        warnings.warn(text, stacklevel=1)
        return 1

    assert (
        torch_layers._quietly(layer, "RNN module weights are not part of single contiguous chunk")
        == 1
    )
    with pytest.warns(UserWarning, match="something else"):
        torch_layers._quietly(layer, "something else")


@pytest.mark.gpu
def test_on_a_gpu_all_strategies_are_timed_and_equal_cudnn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHNN_TUNE", "all")
    torch.manual_seed(0)
    layer = torch.nn.LSTM(4, 64, batch_first=True).cuda()
    model = gn.compile(Layers(gn.nn.LSTM(4, 64)).cuda())
    weights = layer.state_dict().items()
    model.load_state_dict({f"layer.l0.{k.removesuffix('_l0')}": v for k, v in weights})
    x = torch.randn(8, 50, 4, device="cuda", requires_grad=True)
    found = []
    for y in (model(x=x), layer(x)[0]):
        found.append([y, *torch.autograd.grad(y.sin().sum(), x)])
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3)
    (program,) = model.programs
    (chosen,) = program.layers[0].tuner.choices.values()
    assert set(chosen.times) == {CUDNN, KERNELS} and chosen.strategy in chosen.times
    kernels = [x for s in dispatchers(model) for x in s.tuner.choices.values()]
    assert kernels and all(RESIDENT in x.times and x.strategy in x.times for x in kernels)
