"""Complex values inside and outside loops: values and gradients equal those of torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphnn as gn
from graphnn.errors import UnsupportedError

BACKENDS = ("reference", "torch", "interpret")
REAL, COMPLEX = torch.float64, torch.complex128


class Cell(nn.Module):
    """A loop over `step(net, x, h) -> (h, y)`, as a graph or run eagerly by torch."""

    def __init__(self, step: Callable[..., Any], dtype: torch.dtype, init: Any = None):
        super().__init__()
        self.step, self.dtype, self.init = step, dtype, init
        self.a, self.b = (nn.Parameter(torch.rand(4, dtype=REAL)) for _ in "ab")
        self.w = nn.Parameter(torch.randn(4, 4, dtype=COMPLEX) * 0.3)
        self.c = nn.Parameter(torch.randn(4, dtype=COMPLEX))

    def graph(self, g: gn.Graph) -> None:
        x, h = g.input("x", (4,), over="time"), g.state("h", (4,), dtype=self.dtype, init=self.init)
        h.next, y = self.step(Values(g, self), x, h)
        g.output("y", y)

    def eager(self, x: Tensor) -> Tensor:
        start = torch.zeros(4) if self.init is None else torch.as_tensor(self.init)
        h, ys = start.to(self.dtype).expand(len(x), 4), []
        for v in x.unbind(1):
            h, y = self.step(self, v, h)
            ys.append(y)
        return torch.stack(ys, 1)


class Values:
    """The parameters of a module as values of a graph."""

    def __init__(self, g: gn.Graph, net: nn.Module):
        self.g, self.net = g, net

    def __getattr__(self, name: str) -> Any:
        return self.g.value(getattr(self.net, name))


def _times(w: Any, z: Any) -> Any:
    return (w * z.unsqueeze(-2)).sum(-1)


def _lru(net: Any, x: Any, h: Any) -> Any:
    lam = torch.polar(torch.exp(-torch.exp(net.a)), net.b)
    h = lam * h + net.c * x
    return h, (net.c * h).real


def _matrix(net: Any, x: Any, h: Any) -> Any:
    h = _times(net.w, h) + x.to(COMPLEX) - h * 0.1
    return h, torch.view_as_real(h).sum(-1)


def _spectral(net: Any, x: Any, h: Any) -> Any:
    h = torch.tanh(torch.fft.irfft(torch.fft.rfft(h + x) * net.a[:3], n=4))
    return h, h


def _mixed(net: Any, x: Any, h: Any) -> Any:
    z = torch.complex(net.a * x + h, x) / torch.complex(net.b + 1, h)
    z = torch.where(x > 0, z * z, -z).conj() * torch.exp(1j * net.b)
    return torch.tanh(z.real - z.imag + torch.abs(z)), torch.cat([z, z[..., :2]], -1).imag


def _cast(net: Any, x: Any, h: Any) -> Any:
    z = torch.complex(net.a * x + 0.5 * h, x)
    return torch.tanh(torch.real(z * z) + torch.angle(z)), z.abs()


def _complex_out(net: Any, x: Any, h: Any) -> Any:
    h = h * net.c * 0.5 + x
    return h, h * 2


STEPS = {
    "lru": (_lru, COMPLEX, None),
    "matrix": (_matrix, COMPLEX, torch.full((4,), 0.3 + 0.1j, dtype=COMPLEX)),
    "spectral": (_spectral, REAL, None),
    "mixed": (_mixed, REAL, 0.25),
    "cast": (_cast, REAL, None),
    "complex output": (_complex_out, COMPLEX, 0.5),
}


def _loss(y: Tensor) -> Tensor:
    return (torch.view_as_real(y) if y.is_complex() else y).sin().sum()


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_values_and_gradients_equal_torch(backend: str, name: str) -> None:
    torch.manual_seed(0)
    net, x = Cell(*STEPS[name]).double(), torch.randn(2, 5, 4, dtype=REAL, requires_grad=True)
    moving = [x, *net.parameters()]
    wanted = net.eager(x)
    expected = torch.autograd.grad(_loss(wanted), moving, allow_unused=True)
    y = gn.compile(net, backend=backend)(x=x)
    assert y.dtype == wanted.dtype
    torch.testing.assert_close(y, wanted)
    found = torch.autograd.grad(_loss(y), moving, allow_unused=True)
    for a, b in zip(found, expected, strict=True):
        pair = (torch.zeros(()) if g is None else g for g in (a, b))
        torch.testing.assert_close(*pair, check_dtype=a is not None and b is not None)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_complex_state_can_be_passed_and_returned(backend: str) -> None:
    torch.manual_seed(1)
    net, x = Cell(*STEPS["lru"]), torch.randn(2, 6, 4, dtype=REAL)
    model = gn.compile(net, backend=backend)
    whole, last = model(x=x, return_state=True)
    first, state = model(x=x[:, :2], return_state=True)
    assert state["h"].dtype == COMPLEX and state["h"].shape == (2, 4)
    rest, end = model(x=x[:, 2:], state=state, return_state=True)
    torch.testing.assert_close(torch.cat([first, rest], 1), whole)
    torch.testing.assert_close(end["h"], last["h"])
    ragged, final = model(x=x, lengths={"time": torch.tensor([6, 2])}, return_state=True)
    torch.testing.assert_close(ragged[1, :2], whole[1, :2])
    torch.testing.assert_close(final["h"][1], state["h"][1])


@pytest.mark.parametrize("backend", BACKENDS)
def test_complex_values_between_loops_and_over_an_axis_equal_torch(backend: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Parameter(torch.rand(3, dtype=REAL))

        def graph(self, g: gn.Graph) -> None:
            x = g.input("x", (3,), over=("time", "slot"))
            h = g.state("h", (3,), along="slot", dtype=COMPLEX)
            k = g.state("k", (3,), dtype=COMPLEX)
            h.next = h * torch.complex(g.value(self.a), g.value(self.a)) + x
            k.next = k * 0.5j + gn.sum(torch.fft.fft(h.next) * 0.5, over="slot")
            g.output("y", k.next.imag)

    torch.manual_seed(2)
    net, x = Net(), torch.randn(2, 4, 2, 3, dtype=REAL)
    h, k, ys = torch.zeros(2, 2, 3, dtype=COMPLEX), torch.zeros(2, 3, dtype=COMPLEX), []
    for v in x.unbind(1):
        h = h * torch.complex(net.a, net.a) + v
        k = k * 0.5j + (torch.fft.fft(h) * 0.5).sum(1)
        ys.append(k.imag)
    wanted = torch.stack(ys, 1)
    y = gn.compile(net, backend=backend)(x=x)
    torch.testing.assert_close(y, wanted)
    expected = torch.autograd.grad(wanted.sin().sum(), net.a)
    torch.testing.assert_close(torch.autograd.grad(y.sin().sum(), net.a), expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_parts_of_a_complex_value_equal_torch(backend: str) -> None:
    def draw(g: gn.Graph) -> None:
        x = g.input("x", (4,), over="time")
        z = torch.fft.fft(x)
        assert z.is_complex() and not x.is_complex() and x.real is x
        g.output("real", z.real)
        g.output("imag", z.imag)
        g.output("abs", abs(z))
        g.output("conj", z.conj() * 2j)

    g, x = gn.Graph(), torch.randn(2, 3, 4)
    draw(g)
    y, z = gn.compile(g, backend=backend)(x=x), torch.fft.fft(x)
    wanted = {"real": z.real, "imag": z.imag, "abs": z.abs(), "conj": z.conj() * 2j}
    for name, value in wanted.items():
        torch.testing.assert_close(y[name], value)


def test_unsupported_operations_on_complex_values_are_refused() -> None:
    g = gn.Graph()
    x = g.input("x", (), over=("time", "slot"))
    k = g.state("k", (), along="slot", dtype=torch.complex64)
    k.next = gn.logsumexp(k * x, over="slot") + k
    g.output("y", k.next.real)
    model = gn.compile(g, backend="torch")
    with pytest.raises(UnsupportedError, match="complex values in a loop have no 'axis_logsumexp'"):
        model(x=torch.ones(1, 2, 3))
