"""Public behaviour of compiled models: streaming, states, unrolling, gradient flow, modes."""

import copy
import io

import pytest
import torch
from torch import nn

import graphnn as gn
from bench.networks import LSTM, NETWORKS, TwoSpeeds

BACKENDS = ["torch", "reference"]


class Elman(nn.Module):
    """The network of the README."""

    def __init__(self, d_in=3, d_state=4, d_out=2):
        super().__init__()
        self.enc = nn.Linear(d_in, d_state)
        self.rec = nn.Linear(2 * d_state, d_state)
        self.dec = nn.Linear(d_state, d_out)

    def graph(self, g):
        x = g.input("x", shape=(3,), over="time")
        z = g.state("z", shape=(4,), over="time")
        z.next = torch.tanh(self.rec(torch.cat([self.enc(x), z])))
        g.output("y", self.dec(z.next))


class Convolution(nn.Module):
    """A loop, a feed-forward delay line and a position: everything a stream must carry."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(3, 4)

    def graph(self, g):
        x = g.input("x", shape=(3,), over="time")
        z = g.state("z", shape=(4,), delay=2, init=[0.5, -0.5])
        z.next = torch.tanh(self.a(x) + self.b(gn.delay(x, 3)) - z)
        g.output("y", z.next * (1 + gn.index("time")))
        g.output("last", gn.last(z.next, over="time"))


def sequence(length=7, batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, length, 3, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", [Elman, Convolution])
def test_streaming_equals_the_whole_sequence(kind, backend):
    model = gn.compile(kind().double(), backend=backend)
    x = sequence()
    whole = model(x=x)
    whole = whole["y"] if isinstance(whole, dict) else whole
    state, steps = model.initial_state(batch=2), []
    for t in range(x.shape[1]):
        y, state = model.step(state, x=x[:, t])
        steps.append(y["y"] if isinstance(y, dict) else y)
    torch.testing.assert_close(torch.stack(steps, 1), whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", [Elman, Convolution])
def test_two_calls_in_a_row_equal_one(kind, backend):
    model = gn.compile(kind().double(), backend=backend)
    x = sequence()
    first, state = model(x=x[:, :3], return_state=True)
    second = model(x=x[:, 3:], state=state)
    whole = model(x=x)
    if isinstance(whole, dict):
        first, second, whole = first["y"], second["y"], whole["y"]
    torch.testing.assert_close(torch.cat([first, second], 1), whole, rtol=1e-12, atol=1e-12)


def test_every_state_can_be_recorded_as_a_sequence():
    model = gn.compile(LSTM(3).double())
    x = sequence()
    y, states = model(x=x, record=True)
    assert set(states) == {"h", "c"}
    torch.testing.assert_close(states["h"], y)
    _, cells = gn.compile(LSTM(3).double(), backend="reference")(x=x, record=["c"])
    assert set(cells) == {"c"} and cells["c"].shape == (2, 7, 3)


def test_a_mean_over_time_cannot_be_streamed():
    g = gn.Graph("smooth")
    x = g.input("x", (3,), over="time")
    g.output("y", x - gn.mean(x, over="time"))
    with pytest.raises(gn.errors.StepError, match="needs all of it"):
        gn.compile(g).step({}, x=torch.randn(2, 3))


@pytest.mark.parametrize("kind", [Elman, TwoSpeeds])
def test_the_unrolled_graph_shares_weights_with_the_loop_and_equals_it(kind):
    net = (kind(3) if kind is TwoSpeeds else kind()).double()
    unrolled = gn.compile(gn.unroll(net, time=5))
    assert "0 loops" in unrolled.explain()
    assert [id(p) for p in unrolled.parameters()] == [id(p) for p in net.parameters()]
    x = sequence(5).requires_grad_()
    found = []
    for model in (gn.compile(net), unrolled):
        y = model(x=x)
        found.append((y, *torch.autograd.grad(y.square().sum(), [x, *net.parameters()])))
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradient_flow_is_the_gradient_at_each_step(backend):
    net = Elman().double()
    model = gn.compile(net, backend=backend)
    x = sequence(4)
    flow = gn.gradient_flow(model, lambda y: y[:, -1].sum(), {"x": x})["z"]

    z, states = torch.zeros(2, 4, dtype=torch.float64), []
    for t in range(4):
        z = torch.tanh(net.rec(torch.cat([net.enc(x[:, t]), z], -1)))
        z.retain_grad()
        states.append(z)
    net.dec(z).sum().backward()
    wanted = torch.stack([z.grad.norm() for z in states])
    torch.testing.assert_close(flow, wanted, rtol=1e-12, atol=1e-12)


def test_gradients_can_be_clipped_inside_the_loop():
    g = gn.Graph("clipped")
    x, z = g.input("x", (3,), over="time"), g.state("z", (3,))
    z.next = gn.clip_gradient(3 * z, 0.5) + x
    g.output("y", z.next)
    x = torch.randn(2, 6, 3, requires_grad=True)
    for backend in BACKENDS:
        y = gn.compile(g, backend=backend)(x=x)
        (grad,) = torch.autograd.grad(y[:, -1].sum(), x)
        torch.testing.assert_close(grad[:, :-1], torch.full((2, 5, 3), 1.5 * 1.0).clamp(max=1.5))


def test_training_and_evaluation_differ_by_dropout():
    class Dropped(Elman):
        def __init__(self):
            super().__init__()
            self.drop = nn.Dropout(0.5)

        def graph(self, g):
            x = g.input("x", shape=(3,), over="time")
            z = g.state("z", shape=(4,), over="time")
            z.next = torch.tanh(self.rec(torch.cat([self.drop(self.enc(x)), self.drop(z)])))
            g.output("y", self.dec(z.next))

    net = Dropped().double()
    model, x = gn.compile(net), sequence()
    torch.manual_seed(0)
    first = model(x=x)
    torch.manual_seed(0)
    assert torch.equal(first, model(x=x)), "same seed, same bits"
    assert not torch.equal(first, model(x=x))
    torch.manual_seed(0)
    torch.testing.assert_close(first, gn.compile(net, backend="reference")(x=x))
    model.eval()
    assert not net.training and torch.equal(model(x=x), model(x=x))


def test_a_compiled_model_is_a_module_like_its_source():
    net = Elman()
    model = gn.compile(net)
    assert list(model.state_dict()) == list(net.state_dict())
    assert all(a is b for a, b in zip(model.parameters(), net.parameters(), strict=True))
    x = sequence().float()
    twin = copy.deepcopy(model)
    assert torch.equal(twin(x=x), model(x=x))
    with torch.no_grad():
        next(twin.parameters()).zero_()
    assert not torch.equal(twin(x=x), model(x=x)), "a copy has its own weights"
    zeros = {k: torch.zeros_like(v) for k, v in model.state_dict().items()}
    assert not torch.func.functional_call(model, zeros, (), {"x": x}).any()


def test_weights_are_saved_and_loaded_without_running_code():
    net = Elman()
    file = io.BytesIO()
    torch.save(gn.compile(net).state_dict(), file)
    file.seek(0)
    other = gn.compile(Elman())
    other.load_state_dict(torch.load(file, weights_only=True))
    x = sequence().float()
    assert torch.equal(other(x=x), gn.compile(net)(x=x))


def test_the_dtype_follows_the_model():
    model = gn.compile(Elman())
    assert model.double()(x=sequence()).dtype == torch.float64
    assert model.bfloat16()(x=sequence().bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_low_precision_error_is_at_most_twice_that_of_eager(name, dtype):
    torch.manual_seed(1)
    net = NETWORKS[name](32).double()
    x = torch.randn(20, 8, 32, dtype=torch.float64)
    exact = net.peer()(x)
    net.to(dtype)
    eager = net.peer()(x.to(dtype)).double()
    ours = gn.compile(net)(x=x.to(dtype).transpose(0, 1)).transpose(0, 1).double()
    assert (ours - exact).abs().mean() <= 2 * (eager - exact).abs().mean() + 1e-9


def test_new_lengths_and_batch_sizes_need_no_new_program():
    model = gn.compile(TwoSpeeds(3))
    model(x=torch.randn(2, 5, 3))
    programs = len(model.programs)
    for length, batch in ((50, 2), (1, 1), (5, 7), (3, 0)):
        assert model(x=torch.randn(batch, length, 3)).shape == (batch, length, 3)
    assert len(model.programs) == programs
