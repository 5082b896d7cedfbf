"""Global state of torch during a trace: grad modes, autocast, hooks, transforms."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import graphnn as gn
from graphnn import errors
from tests.tracing.eager import BACKENDS, Cell, agree


def without_gradient(self: Any, x: Any, h: Any) -> Any:
    with torch.no_grad():
        goal = torch.tanh(self.a(x + h))
    y = torch.tanh(self.b(h) + x)
    return (y - goal) ** 2, y


def in_inference(self: Any, x: Any, h: Any) -> Any:
    scale = x.detach().abs().sum() + h.detach().square().sum()
    y = torch.tanh(self.a(h) + x / (1 + scale))
    return y * self.b(x).detach(), y


def enabled_again(self: Any, x: Any, h: Any) -> Any:
    with torch.no_grad():
        frozen = self.a(h)
        with torch.enable_grad():
            live = self.b(x)
    y = torch.tanh(frozen + live)
    return y, y


class Frozen(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(3, 3)

    @torch.no_grad()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.map(x))


def decorated(self: Any, x: Any, h: Any) -> Any:
    y = torch.tanh(self.b(x) + self.c(h) + self.a(h))
    return y, y


GRADIENTS = [without_gradient, in_inference, enabled_again, decorated]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("run", GRADIENTS)
def test_grad_modes(run: Callable[..., Any], backend: str) -> None:
    torch.manual_seed(0)
    agree(Cell(run, a=nn.Linear(3, 3), b=nn.Linear(3, 3), c=Frozen()), backend)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_compiling_without_gradients_is_no_part_of_the_graph(context: Any) -> None:
    net = Cell(lambda self, x, h: (torch.tanh(self.a(x) + h),) * 2, a=nn.Linear(3, 3))
    with context():
        model = gn.compile(net)
    model(x=torch.randn(1, 2, 3)).sum().backward()
    assert net.a.weight.grad is not None and net.a.weight.grad.any()


def test_a_bare_graph_drawn_without_gradients() -> None:
    g = gn.Graph()
    x, w = g.input("x", (3,), over="time"), g.parameter("w", torch.ones(3))
    with torch.no_grad():
        frozen = x * w
    g.output("y", frozen + x * w)
    model, x = gn.compile(g), torch.randn(1, 2, 3)
    model(x=x).sum().backward()
    torch.testing.assert_close(g.owner.w.grad, x.sum((0, 1)))


@pytest.mark.parametrize("backend", BACKENDS)
def test_functions_over_axes_know_the_grad_mode(backend: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

        def graph(self, g: gn.Graph) -> None:
            x = g.input("x", (3,), over="time")
            frozen, live = self.a(x), self.b(x)
            with torch.no_grad():
                mean, before = gn.mean(frozen, over="time"), gn.delay(frozen)
                total = gn.dot(frozen, frozen) + gn.logsumexp(frozen.sum(), over="time")
            g.output("y", live * mean + before + total.reshape(1))

    net, x = Net().double(), torch.randn(2, 4, 3, dtype=torch.float64)
    gn.compile(net, backend=backend)(x=x).sum().backward()
    assert net.a.weight.grad is None
    with torch.no_grad():
        mean = net.a(x).mean(1, keepdim=True)
    (net.b(x) * mean).sum().backward()
    ours = net.b.weight.grad / 2  # the same gradient twice
    net.b.weight.grad = None
    (net.b(x) * mean).sum().backward()
    torch.testing.assert_close(ours, net.b.weight.grad)


def test_whole_numbers_have_no_soft_choice() -> None:
    g = gn.Graph()
    k = g.input("k", (), over="time", dtype=torch.int64)
    with pytest.raises(errors.DtypeError, match="floating-point scores"):
        gn.softmax(k, over="time")


def test_autocast_within_a_graph_is_refused() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.map = nn.Linear(3, 3)

        def graph(self, g: gn.Graph) -> None:
            x = g.input("x", (3,), over="time")
            with torch.autocast("cpu", dtype=torch.bfloat16):
                g.output("y", self.map(x))

    with pytest.raises(errors.UnsupportedError, match="autocast within a graph") as caught:
        gn.compile(Net())
    assert "test_contexts.py" in str(caught.value)


def test_autocast_around_the_drawing_is_no_part_of_it() -> None:
    net = Cell(lambda self, x, h: (torch.tanh(self.a(x) + h),) * 2, a=nn.Linear(3, 3))
    model, x = gn.compile(net), torch.randn(1, 2, 3)
    before = model(x=x)
    net.a.eval()  # so that the graph is drawn anew
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(x=x).dtype == torch.bfloat16
    assert torch.equal(model(x=x), before)


# --- hooks


def hooked(kind: str, hook: Any) -> nn.Module:
    net = Cell(lambda self, x, h: (torch.tanh(self.a(x) + h),) * 2, a=nn.Linear(3, 3))
    getattr(net.a, f"register_{kind}")(hook)
    return net


@pytest.mark.parametrize(
    ("kind", "hook"),
    [
        ("forward_hook", lambda module, args, out: None),
        ("forward_pre_hook", lambda module, args: None),
        ("full_backward_hook", lambda module, into, out: None),
    ],
)
def test_observing_hooks_are_refused(kind: str, hook: Any) -> None:
    with pytest.raises(errors.UnsupportedError, match="hook"):
        gn.compile(hooked(kind, hook))


@pytest.mark.parametrize("backend", BACKENDS)
def test_hooks_that_compute_are_drawn(backend: str) -> None:
    agree(hooked("forward_hook", lambda module, args, out: out * 2), backend)
    agree(hooked("forward_pre_hook", lambda module, args: (args[0] + 1,)), backend)


def test_a_hook_on_the_source_belongs_on_the_model() -> None:
    net = Cell(lambda self, x, h: (torch.tanh(x + h),) * 2)
    net.register_forward_hook(lambda module, args, out: None)
    with pytest.raises(errors.UnsupportedError, match="is never called: the model is"):
        gn.compile(net)


# --- code that inspects tensors


def scaled(self: Any, x: Any, h: Any) -> Any:
    y = torch.tanh(self.a(x) + h)
    return (y * h if torch.is_tensor(h) and isinstance(h, torch.Tensor) else y), y


def rearranged(self: Any, x: Any, h: Any) -> Any:
    from einops import rearrange, reduce, repeat

    two = rearrange(self.a(x) + h, "(a b) -> b a", a=2)
    y = torch.tanh(rearrange(two, "b a -> (a b)"))
    return repeat(reduce(y, "(a b) -> a", "sum", a=2), "a -> (a 2)"), y


def attributes(self: Any, x: Any, h: Any) -> Any:
    assert x.shape == (4,) and x.dtype == h.dtype and x.dim() == x.ndim == 1
    assert torch.is_floating_point(x) and not torch.is_complex(x) and torch.numel(x) == 4
    assert x.is_floating_point() and len(x) == 4 and x.size(0) == 4 and not x.is_sparse
    y = torch.tanh(self.a(x) + h.real)
    return y.data + y, y


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("run", [scaled, rearranged, attributes])
def test_values_are_tensors_to_whoever_asks(run: Any, backend: str) -> None:
    torch.manual_seed(0)
    agree(Cell(run, 4, a=nn.Linear(4, 4)), backend)


# --- unsupported code, reported with the user's line


def by_func_grad(self: Any, x: Any, h: Any) -> Any:
    y = h - torch.func.grad(lambda w: ((w - x) ** 2).sum())(h)
    return y, y


def by_autograd(self: Any, x: Any, h: Any) -> Any:
    y = h - torch.autograd.grad(((h - x) ** 2).sum(), h)[0]
    return y, y


def plain(x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    return torch.tanh(x + 0.5 * h)


def by_script(self: Any, x: Any, h: Any) -> Any:
    y = torch.jit.script(plain)(x, h)
    return y, y


def by_item(self: Any, x: Any, h: Any) -> Any:
    y = x * float(self.a.weight.sum())
    return y, y


def by_state(self: Any, x: Any, h: Any) -> Any:
    h += x
    return h, h


def by_parameter(self: Any, x: Any, h: Any) -> Any:
    self.a.weight.data = self.a.weight.data * 2
    return x, x


REFUSED = [by_func_grad, by_autograd, by_script, by_item, by_state, by_parameter]


@pytest.mark.filterwarnings("ignore:.*script.*")
@pytest.mark.parametrize("run", REFUSED)
def test_refused_with_the_users_line(run: Any) -> None:
    with pytest.raises(errors.GraphnnError) as caught:
        gn.compile(Cell(run, a=nn.Linear(3, 3)))
    assert f"test_contexts.py:{run.__code__.co_firstlineno + 1}" in str(caught.value)


# --- the current graph


class Position(nn.Module):
    def __init__(self, inner: nn.Module | None = None):
        super().__init__()
        self.inner = inner

    def graph(self, g: gn.Graph) -> None:
        x = g.input("x", (3,), over="time")
        if self.inner is not None:
            gn.compile(self.inner)
        g.output("y", x * gn.index("time") + gn.length("time"))


def test_the_graph_being_drawn_after_another_was() -> None:
    y = gn.compile(Position(Position()))(x=torch.ones(1, 3, 3))
    assert y[0, :, 0].tolist() == [3, 4, 5]


def test_graphs_drawn_in_many_threads() -> None:
    found: list[Any] = []

    def work() -> None:
        for _ in range(3):
            found.append(gn.compile(Position())(x=torch.ones(1, 3, 3))[0, :, 0].tolist())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[3, 4, 5]] * 12


def test_nothing_of_torch_stays_changed() -> None:
    # torch.compile turns it off permanently if an earlier test called it
    validated = torch.distributions.Distribution._validate_args
    applied = torch.autograd.Function.apply
    gn.compile(Position())
    with pytest.raises(errors.UnsupportedError):
        gn.compile(Cell(by_state, a=nn.Linear(3, 3)))
    assert "__getattribute__" not in vars(nn.Module)
    assert torch.autograd.Function.apply == applied
    assert "graphnn" not in str(getattr(applied, "__module__", ""))
    assert torch.distributions.Distribution._validate_args == validated
    assert F.relu(torch.ones(1)).item() == 1
