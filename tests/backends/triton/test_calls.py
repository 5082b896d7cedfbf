"""What a model can be asked for, asked of kernels: the same as of torch, and the same every time.

No GPU has run these yet.
"""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor

import graphnn as gn
from bench.networks import LSTM, TwoSpeeds
from graphnn.kernels import cache
from tests.backends.triton.places import Place, both, everywhere, strategies

SIZE = 5


def made(kind: type = LSTM, dtype: torch.dtype = torch.float32, device: str = "cpu") -> LSTM:
    """A network with the same weights every time."""
    torch.manual_seed(0)
    return kind(SIZE).to(device, dtype)


def data(
    batch: int = 3, length: int = 6, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> Tensor:
    draw = torch.Generator().manual_seed(length)
    return torch.randn(batch, length, SIZE, generator=draw).to(device, dtype)


def compiled(net: LSTM, place: Place, strategy: str = "resident") -> gn.Compiled:
    return gn.compile(net, backend=place.backend, skip=place.skip(strategy))


def trained(run: gn.Compiled, model: gn.Compiled, x: Tensor, **options) -> list[Tensor]:
    """The output of a call and the gradients of the weights."""
    y = run(x=x, **options)
    return [y, *torch.autograd.grad(y.float().square().sum(), list(model.parameters()))]


def near(got: list[Tensor], wanted: list[Tensor]) -> None:
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@everywhere
@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_same_bits_every_time(dtype: torch.dtype, strategy: str, place: Place) -> None:
    net, x = made(LSTM, dtype, place.device), data(17, 6, dtype, place.device)
    model, other = (compiled(net, place, strategy) for _ in range(2))
    first = trained(model, model, x)
    assert strategies(model) == {strategy}
    for again in (trained(model, model, x), trained(other, other, x)):
        assert all(map(torch.equal, first, again))


@everywhere
@both
def test_another_length_or_batch_writes_nothing_new(
    strategy: str, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = made(device=place.device)
    model = compiled(net, place, strategy)
    trained(model, model, data(3, 50, device=place.device))
    modules, programs = dict(cache._MODULES), model.programs
    monkeypatch.setattr(cache, "_run", lambda *args: pytest.fail("a kernel was written"))
    for batch, length in ((3, 5), (1, 1), (20, 2)):
        x = data(batch, length, device=place.device)
        torch_model = gn.compile(net, backend="torch")
        near(trained(model, model, x), trained(torch_model, torch_model, x))
    assert modules == cache._MODULES and model.programs == programs


@everywhere
@both
@pytest.mark.parametrize("kind", [LSTM, TwoSpeeds])
def test_torch_compile_takes_it_whole(kind: type, strategy: str, place: Place) -> None:
    torch._dynamo.reset()
    model = compiled(made(kind, device=place.device), place, strategy)
    whole = torch.compile(model, fullgraph=True, backend="aot_eager")
    x = data(device=place.device)
    near(trained(whole, model, x), trained(model, model, x))
    lengths = {"time": torch.tensor([6, 1, 3], device=place.device)}
    near(trained(whole, model, x, lengths=lengths), trained(model, model, x, lengths=lengths))


@everywhere
@both
def test_autocast_runs_kernels_in_low_precision(strategy: str, place: Place) -> None:
    net, x = made(device=place.device), data(device=place.device)
    exact = gn.compile(net, backend="torch")(x=x)
    model = compiled(net, place, strategy)
    with torch.autocast(place.device, dtype=torch.bfloat16):
        found = trained(model, model, x)
    assert found[0].dtype == torch.bfloat16
    assert {g.dtype for g in found[1:]} == {torch.float32}
    torch.testing.assert_close(found[0].float(), exact, rtol=0.05, atol=0.05)
    assert all(g.isfinite().all() for g in found)


@everywhere
@both
@pytest.mark.parametrize("batch, length", [(0, 4), (1, 1), (2, 1)])
def test_small_calls(batch: int, length: int, strategy: str, place: Place) -> None:
    net, x = made(device=place.device), data(batch, length, device=place.device)
    model, torch_model = compiled(net, place, strategy), gn.compile(net, backend="torch")
    near(trained(model, model, x), trained(torch_model, torch_model, x))


@everywhere
@both
def test_streams_step_by_step_from_any_state(strategy: str, place: Place) -> None:
    net, x = made(device=place.device), data(device=place.device)
    model = compiled(net, place, strategy)
    whole, final = model(x=x, return_state=True)
    begun, state = model(x=x[:, :4], return_state=True)
    rest, last = model(x=x[:, 4:], state=state, return_state=True)
    near([torch.cat([begun, rest], 1), *last.values()], [whole, *final.values()])
    state, steps = model.initial_state(3), []
    for t in range(x.shape[1]):
        y, state = model.step(state, x=x[:, t])
        steps.append(y)
    near([torch.stack(steps, 1), *state.values()], [whole, *final.values()])


@everywhere
@both
def test_states_are_recorded_and_their_gradients_measured(strategy: str, place: Place) -> None:
    net, x = made(device=place.device), data(device=place.device)
    model, torch_model = compiled(net, place, strategy), gn.compile(net, backend="torch")
    (y, states), (wanted, others) = (m(x=x, record=True) for m in (model, torch_model))
    assert states.keys() == others.keys()
    near([y, *states.values()], [wanted, *others.values()])
    flows = [gn.gradient_flow(m, lambda y: y[:, -1].sum(), {"x": x}) for m in (model, torch_model)]
    near(*(list(f.values()) for f in flows))


@everywhere
def test_it_is_copied_pickled_and_loaded_as_any_module(place: Place) -> None:
    net, x = made(device=place.device), data(device=place.device)
    model = compiled(net, place)
    wanted = model(x=x)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(x=x), wanted)
        assert strategies(twin) == {"resident"}
    torch.manual_seed(1)
    other = compiled(LSTM(SIZE).to(place.device), place)
    assert not torch.equal(other(x=x), wanted)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(x=x), wanted)


@everywhere
def test_frozen_weights_and_inputs_get_no_gradient(place: Place) -> None:
    net, x = made(device=place.device), data(device=place.device).requires_grad_()
    model, torch_model = compiled(net, place), gn.compile(net, backend="torch")
    first, *others = net.parameters()
    first.requires_grad_(False)
    found = [torch.autograd.grad(m(x=x).sum(), [x, *others]) for m in (model, torch_model)]
    near(*found)
