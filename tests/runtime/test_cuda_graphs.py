"""CUDA graph replay of loops: when a call is recorded, replayed or dropped, on a fake device."""

from __future__ import annotations

import gc
import logging

import pytest
import torch

import graphnn as gn
from bench.networks import NETWORKS
from graphnn.backends.triton import cuda_graphs
from graphnn.backends.triton.cuda_graphs import Replayed, agree
from graphnn.backends.triton.graph_memory import GraphMemory
from graphnn.backends.triton.strategy import KernelLowering
from graphnn.kernels.executors.named import INTERPRETER
from graphnn.runtime.call.options import Options
from graphnn.runtime.model import network_of

STEPS = 100


class Device:
    """A fake GPU: records by running the function and replays by running it again."""

    def __init__(self):
        self.place, self.total, self.recorded, self.replays = "gpu 0", 1 << 40, 0, 0
        self.fault, self.taken, self.pool = None, 0, 0

    def held(self, device):
        return self.taken

    def form(self, tensors):
        return self.place

    def memory(self, device):
        return self.total

    def record(self, run, device):
        if isinstance(self.fault, Exception):
            raise self.fault
        outs = run()
        self.recorded += 1
        self.taken += self.pool

        def replay():
            self.replays += 1
            for out, new in zip(outs, run()):
                out.copy_(new if self.fault is None else new * self.fault)

        return replay, outs


class Function:
    """A generated function of two tensors; counts its calls."""

    def __init__(self):
        self.calls = 0

    def __call__(self, tensors, sizes):
        self.calls += 1
        x, w = tensors
        return [torch.tanh(x @ w) * sizes[0], (x > 0).sum(0)]


@pytest.fixture
def device(monkeypatch):
    monkeypatch.setattr(cuda_graphs, "GRAPHS", GraphMemory())
    return Device()


@pytest.fixture
def replayed(device):
    return Replayed(Function(), ("time", "batch"), [("time", 3)], device)


def call(replayed, rows=2, steps=STEPS, dtype=torch.float64, seed=None):
    """Makes one call on new values and compares the results with those of the function itself."""
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 4, dtype=dtype, generator=generator)
    w = torch.randn(4, 4, dtype=dtype, requires_grad=True)
    found = replayed([x, w], [steps, rows])
    for a, b in zip(found, Function()([x, w], [steps, rows])):
        torch.testing.assert_close(a, b.detach(), check_stride=False)
    return found


def graph_use(device, run):
    """Returns how many graphs `run` recorded and how many replays it made."""
    before = device.recorded, device.replays
    run()
    return device.recorded - before[0], device.replays - before[1]


def test_the_third_call_is_recorded_and_later_calls_replay_it_on_new_values(replayed, device):
    assert [graph_use(device, lambda: call(replayed)) for _ in range(6)] == [
        (0, 0), (0, 0), (1, 1), (0, 1), (0, 1), (0, 1),
    ]  # fmt: skip


def test_only_the_first_replays_are_compared_with_launches(replayed, device):
    for _ in range(3):
        call(replayed)
    while replayed.graphs[next(iter(replayed.graphs))].unchecked:
        call(replayed)
    before, replays = replayed.call.calls, device.replays
    call(replayed)
    # the fake device replays by calling the function
    assert replayed.call.calls - before == device.replays - replays == 1


def test_later_replays_do_not_overwrite_earlier_results(replayed):
    found = [call(replayed, seed=k) for k in range(8)]
    copies = [[t.clone() for t in outs] for outs in found]
    call(replayed)
    for outs, saved in zip(found, copies):
        assert all(torch.equal(a, b) for a, b in zip(outs, saved))


def test_each_call_signature_has_its_own_graph(replayed, device):
    signatures = [{}, {"rows": 3}, {"steps": 50}, {"dtype": torch.float32}]
    for signature in signatures:
        for _ in range(4):
            call(replayed, **signature)
    assert device.recorded == 4 and len(replayed.graphs) == 4
    device.place = "gpu 1"
    assert graph_use(device, lambda: call(replayed)) == (0, 0)


def test_the_matmul_precision_is_part_of_the_call_signature(replayed, device):
    for _ in range(3):
        call(replayed)
    torch.set_float32_matmul_precision("high")
    try:
        assert graph_use(device, lambda: call(replayed)) == (0, 0)
    finally:
        torch.set_float32_matmul_precision("highest")
    assert graph_use(device, lambda: call(replayed)) == (0, 1)


def test_evicting_the_least_recently_used_graph_raises_the_recording_threshold(replayed):
    for rows in (1, 2, 3, 4):
        for _ in range(3):
            call(replayed, rows=rows)
    call(replayed, rows=1)
    assert replayed.patience == cuda_graphs.SEEN
    for _ in range(3):
        call(replayed, rows=5)
    by_turn = sorted(replayed.graphs, key=lambda key: replayed.graphs[key].turn)
    assert [key[3][0][0][0] for key in by_turn] == [3, 4, 1, 5]
    assert replayed.patience == 2 * cuda_graphs.SEEN


def test_signatures_that_keep_changing_are_rarely_recorded(replayed, device):
    for _ in range(50):
        for rows in range(1, 9):
            call(replayed, rows=rows)
    assert device.recorded < 50 and len(replayed.graphs) == cuda_graphs.KEPT


def test_the_number_of_counted_signatures_is_limited(replayed):
    for rows in range(1, 100):
        call(replayed, rows=rows)
    assert len(replayed.counts) == cuda_graphs.COUNTED


@pytest.mark.parametrize("steps", [1, 21, 7000])
def test_calls_with_very_few_or_very_many_launches_are_not_recorded(replayed, device, steps):
    assert graph_use(device, lambda: [call(replayed, steps=steps) for _ in range(5)]) == (0, 0)


def test_a_call_that_needs_too_much_memory_is_not_recorded(replayed, device):
    device.total = 16 * 3 * (2 * 4 + 4 * 4) * 8 - 1
    assert graph_use(device, lambda: [call(replayed) for _ in range(5)]) == (0, 0)
    device.total += 1
    assert graph_use(device, lambda: [call(replayed) for _ in range(5)]) == (1, 3)


def test_all_functions_share_the_memory_for_graphs(replayed, device):
    """Three graphs of a third of the budget and a bit: the one used longest ago is dropped."""
    others = [Replayed(Function(), ("time", "batch"), [("time", 3)], device) for _ in range(2)]
    device.total, device.pool = 16 * 3000, 1001
    for function in (replayed, *others):
        for _ in range(3):
            call(function)
    assert [len(f.graphs) for f in (replayed, *others)] == [0, 1, 1]
    assert replayed.patience == 2 * cuda_graphs.SEEN
    assert cuda_graphs.GRAPHS.held(torch.device("cpu")) == 2 * 1001


def test_a_graph_that_holds_more_than_all_may_is_not_kept(replayed, device, caplog):
    device.total, device.pool = 16 << 20, (1 << 20) + 1
    for _ in range(4):
        call(replayed)
    assert not replayed.graphs and "holds 1 MB, more than all graphs" in caplog.text
    assert device.recorded == 1


def test_a_dropped_function_frees_the_memory_of_its_graphs(device):
    function = Replayed(Function(), ("time", "batch"), [("time", 3)], device)
    device.pool = 1000
    for _ in range(3):
        call(function)
    assert cuda_graphs.GRAPHS.held(torch.device("cpu")) == 1000
    del function
    gc.collect()
    assert cuda_graphs.GRAPHS.held(torch.device("cpu")) == 0


def test_out_of_memory_drops_all_graphs_and_repeats_the_call(replayed, device, monkeypatch):
    other = Replayed(Function(), ("time", "batch"), [("time", 3)], device)
    for _ in range(3):
        call(other)
        call(replayed)
    assert other.graphs and replayed.graphs
    run, faults = replayed.call, [torch.OutOfMemoryError("CUDA out of memory")]

    def short_of_memory(tensors, sizes):
        if faults:
            raise faults.pop()
        return run(tensors, sizes)

    monkeypatch.setattr(replayed, "call", short_of_memory)
    call(replayed, rows=7)  # launched, not replayed
    assert not other.graphs and not replayed.graphs and not replayed.off
    faults.append(torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(torch.OutOfMemoryError):  # no graph holds memory any more
        call(replayed, rows=7)


def test_a_replay_that_runs_out_of_memory_is_repeated_without_graphs(replayed, device):
    for _ in range(3):
        call(replayed)

    def short_of_memory(*args):
        raise torch.OutOfMemoryError("CUDA out of memory")

    (graph,) = replayed.graphs.values()
    graph.replay = short_of_memory
    call(replayed)
    assert not replayed.graphs and not replayed.off


def test_nothing_is_recorded_or_counted_if_the_device_does_not_support_it(replayed, device):
    device.place = None
    assert graph_use(device, lambda: [call(replayed) for _ in range(5)]) == (0, 0)
    assert not replayed.counts


def test_the_cpu_is_never_recorded():
    assert cuda_graphs.Cuda().form([torch.zeros(1)]) is None


def test_a_call_that_cannot_be_recorded_is_launched_with_one_warning(replayed, device, caplog):
    device.fault = RuntimeError("operation not permitted when stream is capturing")
    with caplog.at_level(logging.WARNING):
        assert graph_use(device, lambda: [call(replayed) for _ in range(9)]) == (0, 0)
    assert len(caplog.records) == 1 and "operation not permitted" in caplog.text
    assert "operation not permitted" in replayed.off


@pytest.mark.parametrize("fault", [1.5, float("nan")])
def test_a_replay_with_wrong_results_is_discarded(replayed, device, caplog, fault):
    device.fault = fault
    with caplog.at_level(logging.WARNING):
        assert graph_use(device, lambda: [call(replayed) for _ in range(9)]) == (1, 1)
    assert "gave other results" in caplog.text and not replayed.graphs


def test_a_fault_that_appears_in_the_second_replay_is_detected(replayed, device):
    for _ in range(3):
        call(replayed)
    device.fault = 1.5
    call(replayed)
    assert replayed.off


def test_errors_of_the_function_itself_are_raised(replayed):
    x = torch.randn(2, 3)
    for _ in range(5):
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            replayed([x, torch.randn(4, 4)], [STEPS, 2])


def test_a_graph_recorded_in_inference_mode_replays_inside_and_outside_it(replayed, device):
    with torch.inference_mode():
        for _ in range(4):
            call(replayed)
    call(replayed)
    with torch.inference_mode():
        call(replayed)
    assert device.recorded == 1 and not replayed.off


def test_agree_compares_nan_inf_integers_and_empty_tensors():
    x = torch.tensor([1.0, float("nan"), float("inf")])
    assert agree([x], [x]) and not agree([x.nan_to_num()], [x])
    assert agree([torch.ones(3) + 1e-4], [torch.ones(3)])
    assert not agree([torch.tensor([1])], [torch.tensor([2])])
    assert agree([torch.empty(0)], [torch.empty(0)])


def stepwise(name, backend="interpret", **options):
    """A model whose loops use one kernel per step; `options` configure its kernel lowering."""
    model = gn.compile(
        NETWORKS[name](4).double(), backend=backend, skip=("resident", "cooperative")
    )
    if options:
        network = network_of(model)

        class Recording(Options):
            def lowering(self, target):
                return KernelLowering(INTERPRETER, "sm_90", False, **options)

        network.options = Recording(**vars(network.options))
    return model


def functions(model):
    (program,) = model.programs
    (loop,) = program.loops
    return [loop.train.call, loop.infer.call, *(b.call for b in loop._backwards.values())]


@pytest.mark.parametrize("name", ["LSTM", "reset-before GRU"])
def test_a_replayed_model_computes_the_same_results_and_gradients(name, device, monkeypatch):
    monkeypatch.setattr(cuda_graphs, "LEAST", 1)
    torch.manual_seed(0)
    plain = stepwise(name)
    model = stepwise(name, graphs=True, cuda=device)
    model.load_state_dict(plain.state_dict())
    for _ in range(6):
        x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
        found = []
        for m in (plain, model):
            y = m(x=x)
            found.append([y, *torch.autograd.grad(y.sin().sum(), [x, *m.parameters()])])
        for a, b in zip(*found):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
        for p in [*plain.parameters(), *model.parameters()]:
            p.data.mul_(0.9)
    assert device.recorded == 2 and device.replays == 8


def test_stepwise_loops_of_the_triton_backend_are_replayed():
    model = stepwise("LSTM", "triton")
    assert "Replayed as a CUDA graph" in model.source()
    for dispatcher in functions(model):
        function = dispatcher.first.call
        assert isinstance(function, Replayed) and function.axes == ("time", "batch")
        ((axis, launches),) = function.loops
        assert axis == "time" and launches >= 2


def test_interpreted_persistent_and_switched_off_loops_are_not_replayed(monkeypatch):
    assert "CUDA graph" not in stepwise("LSTM").source()
    persistent = gn.compile(NETWORKS["LSTM"](4), backend="triton")
    assert "CUDA graph" not in persistent.source()
    monkeypatch.setenv("GRAPHNN_CUDA_GRAPHS", "0")
    assert "CUDA graph" not in stepwise("LSTM", "triton").source()


def test_loops_under_torch_compile_are_not_replayed():
    from graphnn.planner.loops.choose import Target

    model = stepwise("LSTM", "triton")
    assert network_of(model).options.lowering(Target("cuda", False)).graphs
    assert not network_of(model).options.lowering(Target("cuda", True)).graphs


def test_a_loop_with_an_opaque_function_is_not_recorded():
    class Sums(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.f = torch.nn.Linear(3 + 4, 4)

        def graph(self, g):
            x, z = g.input("x", (3,), over="time"), g.state("z", (4,))
            z.next = torch.cumsum(torch.tanh(self.f(torch.cat([x, z]))), 0)
            g.output("y", z.next)

    assert "CUDA graph" not in gn.compile(Sums(), backend="triton").source()


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["LSTM", "reset-before GRU"])
def test_replay_on_a_gpu_matches_the_torch_backend(name):
    torch.manual_seed(0)
    net = NETWORKS[name](48).cuda()
    model = gn.compile(net, backend="triton", skip=("resident", "cooperative"))
    wanted = gn.compile(net, backend="torch", skip=("match",))
    for _ in range(8):
        x = torch.randn(4, 64, 48, device="cuda", requires_grad=True)
        found = []
        for m in (model, wanted):
            y = m(x=x)
            found.append([y, *torch.autograd.grad(y.sin().sum(), [x, *net.parameters()])])
        for a, b in zip(*found):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
        with torch.no_grad():
            for p in net.parameters():
                p.mul_(0.99)
    replayed = [f for f in functions(model) if isinstance(f, Replayed) and f.graphs]
    assert len(replayed) == 2 and not any(f.off for f in replayed)
