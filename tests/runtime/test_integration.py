"""Compiled models with torch.compile, autocast, distributed training and optimizers."""

import copy
import datetime
import os
import time

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import graphnn as gn
from bench.networks import GRU, LSTM, MultiplicativeIntegration, TwoSpeeds


def data(batch=3, length=6, size=5):
    return torch.randn(batch, length, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", [LSTM, GRU, TwoSpeeds])
def test_torch_compile_captures_one_graph_with_equal_results_and_gradients(kind):
    torch._dynamo.reset()
    model = gn.compile(kind(5))
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    x = data()
    found = []
    for run in (model, compiled):
        y = run(x=x)
        found.append((y, *torch.autograd.grad(y.square().sum(), list(model.parameters()))))
    torch.testing.assert_close(*found)
    torch.testing.assert_close(compiled(x=data(length=9)), model(x=data(length=9)))
    lengths = {"time": torch.tensor([6, 1, 3])}
    torch.testing.assert_close(compiled(x=x, lengths=lengths), model(x=x, lengths=lengths))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_torch_compile_with_inductor_gives_equal_results_and_gradients():
    torch._dynamo.reset()
    model = gn.compile(TwoSpeeds(5))
    found = []
    for run in (model, torch.compile(model, fullgraph=True)):
        y = run(x=data())
        found.append((y, *torch.autograd.grad(y.square().sum(), list(model.parameters()))))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("kind", [LSTM, TwoSpeeds])
def test_autocast_runs_the_loop_in_low_precision_and_keeps_float_gradients(kind):
    model = gn.compile(kind(5))
    exact = model(x=data())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = model(x=data())
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), exact, rtol=0.05, atol=0.05)
    y.float().square().sum().backward()
    assert all(
        p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in model.parameters()
    )


def test_an_optimizer_trains_a_compiled_model():
    model = gn.compile(TwoSpeeds(5))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    x, losses = data(), []
    for _ in range(30):
        loss = (model(x=x) - x.roll(1, 1)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_custom_operators_are_registered_correctly():
    from graphnn.backends.torch.runtime import registry

    model = gn.compile(TwoSpeeds(4).double())
    program = model.program().loops[0]
    x = torch.randn(3, 2, 4, dtype=torch.float64)
    model(x=x.transpose(0, 1))
    reads = [program.loop.ir[i] for i in program.loop.reads]
    sizes = [{"time": 3, "batch": 2}[a] for a in program.infer.axes]
    known = dict(zip(program.infer.axes, sizes, strict=True))
    tensors = [
        torch.randn(
            *[known[a] for a in program.loop.ir.layout(n.axes)], *n.shape, dtype=n.dtype
        ).requires_grad_()
        for n in reads
    ]
    assert registry.found(program.key) is program
    torch.library.opcheck(
        torch.ops.graphnn.loop.default,
        (tensors, program.key, sizes, True),
        test_utils=("test_schema", "test_faketensor", "test_autograd_registration"),
    )


def _worker(rank: int, meeting: str, net: nn.Module, results: str) -> None:
    torch.set_num_threads(1)
    soon = datetime.timedelta(seconds=60)
    dist.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=2, timeout=soon
    )
    model = DistributedDataParallel(gn.compile(net))
    x = data(batch=4)[rank::2]
    model(x=x).square().mean().backward()
    if rank == 0:
        torch.save([p.grad for p in model.parameters()], results)
    dist.barrier()
    # at a normal exit the interpreter and gloo's threads have deadlocked
    os._exit(0)


def test_two_processes_average_their_gradients(tmp_path):
    net = TwoSpeeds(5)
    file = tmp_path / "gradients.pt"
    meeting = str(tmp_path / "meeting")
    workers = mp.spawn(_worker, args=(meeting, net, str(file)), nprocs=2, join=False)
    deadline = time.monotonic() + 120
    while not workers.join(timeout=1):
        assert time.monotonic() < deadline, "the two processes did not end"
    alone = gn.compile(copy.deepcopy(net))
    alone(x=data(batch=4)).square().mean().backward()
    expected = [p.grad for p in alone.parameters()]
    torch.testing.assert_close(torch.load(file, weights_only=True), expected)


def test_gradients_summed_over_many_steps_stay_precise_under_autocast():
    torch.manual_seed(0)
    net = MultiplicativeIntegration(32)
    model, x = gn.compile(net), torch.randn(4, 600, 32)

    def gradient(low: bool):
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            y = model(x=x)
        return torch.autograd.grad((y.float() * x).sum(), net.d)[0]

    full, low = gradient(False), gradient(True)
    assert (full - low).abs().max() < 0.05 * full.abs().max()
