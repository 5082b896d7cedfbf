"""Dtypes equal torch's for one example: explicit ones stay, others follow the model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import graphnn as gn
from graphnn.errors import DtypeError, InputDtypeError

BACKENDS = ("reference", "torch", "interpret")
HALVES = (torch.bfloat16, torch.float16)


class FunctionNet(nn.Module):
    """A module with two linear maps, a parameter and a graph given as a function."""

    def __init__(self, draw: Callable[[FunctionNet, gn.Graph], None], size: int = 4):
        super().__init__()
        self.draw = draw
        self.map, self.back = nn.Linear(size, size), nn.Linear(size, size)
        self.p = nn.Parameter(torch.rand(size))

    def graph(self, g: gn.Graph) -> None:
        self.draw(self, g)


def max_difference(a: Tensor, b: Tensor) -> float:
    return float((a.detach().double() - b.detach().double()).abs().max())


def outputs(model: gn.Compiled, y: Any) -> dict[str, Tensor]:
    return y if isinstance(y, dict) else dict.fromkeys(model.ir.outputs, y)


def check_against_eager(
    net: nn.Module,
    eager: Callable[[nn.Module, Tensor], dict[str, Tensor]],
    x: Tensor,
    backend: str,
    skip: tuple[str, ...] = (),
) -> gn.Compiled:
    """Checks dtypes against eager torch; errors against float64 may be at most twice as large."""
    exact = copy.deepcopy(net).double()
    precise = eager(exact, x.double())
    sum(v.double().square().sum() for v in precise.values()).backward()
    plain = copy.deepcopy(net)
    wanted = eager(plain, x)
    sum(v.double().square().sum() for v in wanted.values()).backward()
    model = gn.compile(copy.deepcopy(net), backend=backend, skip=skip)
    got = outputs(model, model(x=x))
    sum(v.double().square().sum() for v in got.values()).backward()
    slack = torch.finfo(x.dtype).eps * (0.5 if x.dtype in HALVES else 8)
    for name, value in wanted.items():
        assert got[name].dtype == value.dtype, name
        allowed = 2 * max_difference(value, precise[name]) + slack * max(
            float(value.detach().abs().max()), 1
        )
        assert max_difference(got[name], precise[name]) <= allowed, name
    for (name, p), q, r in zip(model.named_parameters(), plain.parameters(), exact.parameters()):
        if r.grad is None:
            assert p.grad is None or not p.grad.any(), name
            continue
        assert q.grad is not None and p.grad is not None, name
        allowed = 2 * max_difference(q.grad, r.grad) + slack * float(r.grad.abs().max())
        assert max_difference(p.grad, r.grad) <= allowed, name
    return model


# a float32 state in a model with half-precision weights


def _float32_state(net: FunctionNet, g: gn.Graph) -> None:
    x = g.input("x", (4,), over="time")
    h = g.state("h", (4,), dtype=torch.float32, init=0.5)
    y = torch.tanh(net.map(x) + net.back(h.type_as(x)))
    h.next = torch.where(x > 0, h * 0.9, h) + 0.01 * y.float()
    g.output("h", h.next)
    g.output("y", y)


def _float32_state_eager(net: Any, x: Tensor) -> dict[str, Tensor]:
    wide = torch.promote_types(x.dtype, torch.float32)
    h, hs, ys = torch.full((len(x), 4), 0.5, dtype=wide), [], []
    for v in x.unbind(1):
        y = torch.tanh(net.map(v) + net.back(h.type_as(v)))
        h = torch.where(v > 0, h * 0.9, h) + 0.01 * y.to(wide)
        hs.append(h)
        ys.append(y)
    return {"h": torch.stack(hs, 1), "y": torch.stack(ys, 1)}


def _float32_sum(net: FunctionNet, g: gn.Graph) -> None:
    x, h = g.input("x", (4,), over="time"), g.state("h", (4,), dtype=torch.float32)
    h.next = h + x.float() * net.p
    g.output("h", h.next)


def _float32_sum_eager(net: Any, x: Tensor) -> dict[str, Tensor]:
    return {"h": (x.to(torch.promote_types(x.dtype, torch.float32)) * net.p).cumsum(1)}


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize(
    "backend, skip, strategy",
    [
        ("reference", (), ""),
        ("torch", (), ""),
        ("interpret", (), "resident"),
        ("interpret", ("resident",), ""),
        ("interpret", ("resident", "cooperative"), "stepwise"),
    ],
)
def test_a_float32_state_stays_float32_in_a_half_precision_model(
    backend: str, skip: tuple[str, ...], strategy: str, dtype: torch.dtype
) -> None:
    torch.manual_seed(1)
    x = torch.randn(2, 12, 4).to(dtype)
    model = check_against_eager(
        FunctionNet(_float32_state).to(dtype), _float32_state_eager, x, backend, skip
    )
    if strategy:
        loops = [loop for p in model.programs for loop in p.loops]
        assert {c.strategy for loop in loops for c in loop.choices()} == {strategy}


@pytest.mark.parametrize("skip", [(), ("scan",)])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_long_sum_in_a_float32_state_is_precise(backend: str, skip: tuple[str, ...]) -> None:
    x = torch.full((1, 64, 4), 0.01, dtype=torch.bfloat16)
    check_against_eager(FunctionNet(_float32_sum).bfloat16(), _float32_sum_eager, x, backend, skip)


def _wide_weight(net: FunctionNet, g: gn.Graph) -> None:
    x, h = g.input("x", (4,), over="time"), g.state("h", (4,), dtype=torch.float32)
    h.next = torch.tanh(F.linear(h, g.value(net.wide)) + net.map(x).float())
    g.output("h", h.next)


def _wide_weight_eager(net: Any, x: Tensor) -> dict[str, Tensor]:
    h, hs = torch.zeros(len(x), 4, dtype=net.wide.dtype), []
    for v in x.unbind(1):
        h = torch.tanh(F.linear(h, net.wide) + net.map(v).to(h.dtype))
        hs.append(h)
    return {"h": torch.stack(hs, 1)}


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_float32_weight_in_a_bfloat16_model_is_multiplied_by_torch(backend: str) -> None:
    torch.manual_seed(2)
    net = FunctionNet(_wide_weight).bfloat16()
    net.wide = nn.Parameter(torch.randn(4, 4))
    model = check_against_eager(net, _wide_weight_eager, torch.randn(2, 6, 4).bfloat16(), backend)
    if backend == "interpret":
        assert "a weight of torch.float32 in a graph of torch.bfloat16" in model.explain()


# explicit casts


class RMS(nn.Module):
    def __init__(self, size: int):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(size))

    def forward(self, x: Any) -> Any:
        v = x.float() if x.dtype != torch.float64 else x
        return (v * torch.rsqrt((v * v).mean(-1, keepdim=True) + 1e-6)).type_as(x) * self.gain


def _casts(net: Any, x: Any) -> dict[str, Any]:
    wide = torch.promote_types(x.dtype, torch.float32)
    return {
        "norm": net.norm(x * 300),
        "soft": torch.softmax(x, -1, dtype=wide),
        "logs": torch.log_softmax(x, -1, dtype=wide),
        "sum": torch.sum(x * 8, -1, dtype=wide),
        "to": x.to(wide).exp(),
        "like": x.exp().to(x) * net.p,
    }


@pytest.mark.parametrize("dtype", (*HALVES, torch.float32, torch.float64))
@pytest.mark.parametrize("backend", BACKENDS)
def test_explicit_casts_equal_torch(backend: str, dtype: torch.dtype) -> None:
    def draw(net: Any, g: gn.Graph) -> None:
        for name, value in _casts(net, g.input("x", (4,), over="time")).items():
            g.output(name, value)

    torch.manual_seed(3)
    net = FunctionNet(draw)
    net.norm = RMS(4)
    check_against_eager(net.to(dtype), _casts, torch.randn(2, 3, 4).to(dtype), backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_cast_to_lower_precision_rounds(backend: str) -> None:
    def draw(net: FunctionNet, g: gn.Graph) -> None:
        x, h = g.input("x", (4,), over="time"), g.state("h", (4,), dtype=torch.float32)
        h.next = torch.maximum((h + x.float() / 3).bfloat16().float(), h * 0.5)
        g.output("h", h.next)

    x, h, hs = torch.rand(1, 8, 4).bfloat16(), torch.zeros(1, 4), []
    for v in x.unbind(1):
        h = torch.maximum((h + v.float() / 3).bfloat16().float(), h * 0.5)
        hs.append(h)
    y = gn.compile(FunctionNet(draw).bfloat16(), backend=backend)(x=x)
    torch.testing.assert_close(y, torch.stack(hs, 1), rtol=1e-6, atol=0)


# mixed dtypes


POSITIONS: dict[str, Callable[[Any], Any]] = {
    "float": lambda t: t.float(),
    "div": lambda t: t / 3,
    "mul": lambda t: t * 0.1,
    "radd": lambda t: 0.5 + t,
    "sin": lambda t: torch.sin(t * 0.1),
    "sqrt": lambda t: torch.sqrt(t),
    "floor": lambda t: t // 3,
    "power": lambda t: t**2,
    "compare": lambda t: t > 2.5,
    "double": lambda t: t.double() / 7,
    "int32": lambda t: t.int() * 2,
    "uint8": lambda t: t.byte() * 3,
}


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float32, torch.float64))
@pytest.mark.parametrize("backend", BACKENDS)
def test_positions_promote_like_torch(backend: str, dtype: torch.dtype) -> None:
    def draw(net: FunctionNet, g: gn.Graph) -> None:
        x = g.input("x", (), over="time")
        g.output("x", x * g.value(net.p)[0])
        for name, form in POSITIONS.items():
            g.output(name, form(gn.index("time", g)))

    y = gn.compile(FunctionNet(draw).to(dtype), backend=backend)(x=torch.ones(1, 300, dtype=dtype))
    for name, form in POSITIONS.items():
        torch.testing.assert_close(y[name][0], form(torch.arange(300)), rtol=0, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_divided_positions_in_a_loop_are_float32_in_a_bfloat16_model(backend: str) -> None:
    def draw(net: FunctionNet, g: gn.Graph) -> None:
        x, h = g.input("x", (), over="time"), g.state("h", (), dtype=torch.float32)
        h.next = torch.maximum(h * 0.5, gn.index("time", g) / 3) + x * g.value(net.p)[0]
        g.output("h", h.next)

    net, x = FunctionNet(draw).bfloat16(), torch.zeros(1, 300).bfloat16()
    y = gn.compile(net, backend=backend)(x=x)
    torch.testing.assert_close(y[0], torch.arange(300) / 3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_scalar_values_of_a_batch_promote_like_zero_dimensional_tensors(backend: str) -> None:
    def draw(net: FunctionNet, g: gn.Graph) -> None:
        x, h = g.input("x", (4,), over="time"), g.state("h", (4,))
        n, b = g.state("n", (4,), dtype=torch.int32), g.state("b", (4,), dtype=torch.uint8)
        h.next = torch.tanh(x.sum().double() * x * net.p + h)
        n.next = n * 3 + (x > 0).int()
        b.next = b + (x > 0).byte() * 100
        for name, value in {"h": h.next, "n": n.next, "b": b.next}.items():
            g.output(name, value)
        g.output("s", x.sum() * torch.tensor(0.1, dtype=torch.float64))
        g.output("where", torch.where(x > 0, x.sum().double(), x))
        g.output("cat", torch.cat([x, (x > 0).long()]))
        g.output("eq", x.sum().double() == x.sum())

    torch.manual_seed(4)
    net, x = FunctionNet(draw), torch.randn(2, 30, 4)
    y = gn.compile(net, backend=backend)(x=x)
    for k in range(2):
        h, n = torch.zeros(4), torch.zeros(4, dtype=torch.int32)
        b = torch.zeros(4, dtype=torch.uint8)
        for t, v in enumerate(x[k]):
            h = torch.tanh(v.sum().double() * v * net.p + h)
            n, b = n * 3 + (v > 0).int(), b + (v > 0).byte() * 100
            want = {"h": h, "n": n, "b": b, "s": v.sum() * torch.tensor(0.1, dtype=torch.float64)}
            want["where"] = torch.where(v > 0, v.sum().double(), v)
            want["cat"] = torch.cat([v, (v > 0).long()])
            for name, value in want.items():
                torch.testing.assert_close(y[name][k, t], value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["positions", "booleans", "integers"])
def test_weights_times_integers_and_booleans_equal_torch(kind: str, backend: str) -> None:
    values = {"positions": torch.arange(5), "booleans": torch.arange(5) > 2}
    values["integers"] = torch.tensor([3, 1, 4, 1, 5])

    def draw(net: FunctionNet, g: gn.Graph) -> None:
        x = g.input("x", (4,), over="time")
        g.axis("slot", 5)
        position = gn.index("slot", g)
        factors = {"positions": position, "booleans": position > 2}
        factors["integers"] = gn.along(values["integers"], "slot", g)
        weights = gn.softmax(position * net.map(x)[0], over="slot")
        g.output("y", gn.sum(weights * factors[kind], over="slot"))

    torch.manual_seed(5)
    net, x = FunctionNet(draw).double(), torch.randn(2, 3, 4, dtype=torch.float64)
    y = gn.compile(net, backend=backend)(x=x)
    weights = torch.softmax(torch.arange(5) * net.map(x)[..., :1], -1)
    torch.testing.assert_close(y, (weights * values[kind]).sum(-1))
    wanted = torch.autograd.grad((weights * values[kind]).sum(), net.map.weight)
    torch.testing.assert_close(torch.autograd.grad(y.sum(), net.map.weight), wanted)


@pytest.mark.parametrize("backend", BACKENDS)
def test_attention_in_float32_within_a_bfloat16_model_equals_torch(backend: str) -> None:
    def draw(net: FunctionNet, g: gn.Graph) -> None:
        x = g.input("x", (4,), over="time")
        keys = gn.rename(x, time="key")
        score = (net.map(x) * keys).sum(-1, keepdim=True).float() * 4
        g.output("y", gn.sum(gn.softmax(score, over="key") * keys, over="key"))

    torch.manual_seed(6)
    net, x = FunctionNet(draw).bfloat16(), torch.randn(1, 5, 4).bfloat16()
    y = gn.compile(net, backend=backend)(x=x)
    score = (net.map(x)[:, :, None] * x[:, None]).sum(-1).float() * 4
    wanted = (torch.softmax(score, -1)[..., None] * x[:, None]).sum(-2)
    assert y.dtype == wanted.dtype == torch.float32
    torch.testing.assert_close(y, wanted, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_an_integer_state_in_a_reverse_loop_follows_back_pointers(
    backend: str, ragged: bool
) -> None:
    def draw(net: FunctionNet, g: gn.Graph) -> None:
        back = g.input("x", (3,), over="time", dtype=torch.int64)
        nxt = g.state("nxt", (), delay=-1, dtype=torch.int64)
        nxt.next = torch.gather(back, 0, nxt[None])[0]
        g.output("tag", nxt.next)

    torch.manual_seed(7)
    back, n = torch.randint(3, (2, 5, 3)), torch.tensor([5, 3] if ragged else [5, 5])
    lengths = {"time": n} if ragged else None
    y = gn.compile(FunctionNet(draw), backend=backend)(x=back, lengths=lengths)
    assert y.dtype == torch.int64
    for k in range(2):
        tag = torch.tensor(0)
        for t in reversed(range(int(n[k]))):
            tag = back[k, t, tag]
            assert y[k, t] == tag


# initial values


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.bfloat16))
@pytest.mark.parametrize("backend", BACKENDS)
def test_an_initial_value_is_cast_to_the_dtype_of_its_state(
    backend: str, dtype: torch.dtype
) -> None:
    def draw(net: FunctionNet, g: gn.Graph) -> None:
        x = g.input("x", (4,), over="time")
        h = g.state("h", (4,), init=torch.full((4,), 0.5))
        k = g.state("k", (4,), init=g.value(net.p), dtype=torch.float64)
        n = g.state("n", (), init=torch.tensor([2, 3], dtype=torch.int32)[0], dtype=torch.int64)
        h.next, k.next = torch.tanh(net.back(h) + x), k * 0.5 + x
        n.next = torch.maximum(n * 2, n)
        for name, value in {"h": h.next, "k": k.next, "n": n.next}.items():
            g.output(name, value)

    def eager(net: Any, x: Tensor) -> dict[str, Tensor]:
        h, k = torch.full((2, 4), 0.5).to(x), net.p.double().expand(2, 4)
        n, found = torch.full((2,), 2), {"h": [], "k": [], "n": []}
        for v in x.unbind(1):
            h, k, n = torch.tanh(net.back(h) + v), k * 0.5 + v, n * 2
            for name, value in {"h": h, "k": k, "n": n}.items():
                found[name].append(value)
        return {name: torch.stack(values, 1) for name, values in found.items()}

    torch.manual_seed(8)
    check_against_eager(FunctionNet(draw).to(dtype), eager, torch.randn(2, 5, 4).to(dtype), backend)


@pytest.mark.parametrize("init", [0.5, torch.ones(4), torch.zeros((), dtype=torch.complex64)])
def test_an_initial_value_with_a_lossy_cast_is_refused(init: Any) -> None:
    g = gn.Graph()
    g.input("x", (4,), over="time")
    with pytest.raises(DtypeError, match="the initial value of state 'n' cannot be torch") as error:
        g.state("n", (4,), init=init, dtype=torch.int64)
    assert "test_dtypes.py" in str(error.value)


# the model's floating dtype


class Echo(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("W", torch.randn(4, 4) * 0.3)

    def graph(self, g: gn.Graph) -> None:
        x, z = g.input("x", (4,), over="time"), g.state("z", (4,))
        z.next = torch.tanh(x + F.linear(z, self.W))
        g.output("z", z.next)


class Leak(nn.Module):
    def graph(self, g: gn.Graph) -> None:
        x, z = g.input("x", (4,), over="time"), g.state("z", (4,))
        z.next = 0.5 * z + x
        g.output("z", z.next)


@pytest.mark.parametrize("kind", [Echo, Leak])
@pytest.mark.parametrize("backend", BACKENDS)
def test_models_without_parameters_can_change_dtype(backend: str, kind: type[nn.Module]) -> None:
    model = gn.compile(kind(), backend=backend)
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float32):
        model.to(dtype)
        x = torch.randn(2, 3, 4, dtype=dtype)
        assert model(x=x).dtype == dtype
        assert all(s.dtype == dtype for s in model.initial_state(2).values())
    with pytest.raises(InputDtypeError):
        model(x=torch.randn(2, 3, 4).double())


@pytest.mark.parametrize("backend", BACKENDS)
def test_models_without_parameters_use_the_default_dtype(backend: str) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        y = gn.compile(Leak(), backend=backend)(x=torch.ones(1, 3, 4))
    finally:
        torch.set_default_dtype(torch.float32)
    assert y.dtype == torch.float64
    torch.testing.assert_close(y[0, 2], torch.full((4,), 1.75).double())


@pytest.mark.parametrize("backend", BACKENDS)
def test_double_converts_a_traced_graph_and_keeps_explicit_dtypes(backend: str) -> None:
    torch.manual_seed(9)
    g = gn.Graph()
    x, h = g.input("x", (4,), over="time"), g.state("h", (4,))
    k = g.state("k", (4,), dtype=torch.float32)
    net = g.module("map", nn.Linear(4, 4))
    h.next = torch.tanh(net(x) + h)
    k.next = k + h.next.float() + gn.index("time", g) / 3
    g.output("h", h.next)
    g.output("k", k.next)
    g.output("soft", torch.softmax(x, -1, dtype=torch.float32))
    g.output("late", gn.delay(x.float(), 1))
    g.output("fft", torch.fft.rfft(x).abs())
    model = gn.compile(g, backend=backend).double()
    x = torch.randn(2, 5, 4, dtype=torch.float64)
    y = model(x=x)
    want = {"h": torch.float64, "k": torch.float32, "soft": torch.float32, "late": torch.float32}
    assert {name: y[name].dtype for name in y} == {**want, "fft": torch.float64}
    h, k = torch.zeros(2, 4, dtype=torch.float64), torch.zeros(2, 4)
    for t, v in enumerate(x.unbind(1)):
        h = torch.tanh(net(v) + h)
        k = k + h.float() + torch.tensor(t) / 3
        torch.testing.assert_close(y["h"][:, t], h)
        torch.testing.assert_close(y["k"][:, t], k)
    torch.testing.assert_close(y["fft"], torch.fft.rfft(x).abs())


def test_an_explicit_state_dtype_that_no_longer_fits_is_refused() -> None:
    g = gn.Graph()
    h = g.state("h", (4,), dtype=torch.float32)
    h.next = h + g.input("x", (4,), over="time")
    g.output("h", h.next)
    model = gn.compile(g)
    with pytest.raises(DtypeError, match="next value of state 'h' has another dtype"):
        model.double()


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_matmuls_of_mixed_dtypes_are_refused(backend: str) -> None:
    def draw(net: FunctionNet, g: gn.Graph) -> None:
        g.output("y", net.map(g.input("x", (4,), over="time", dtype=torch.float32)))

    with pytest.raises(DtypeError, match=r"torch.float32 by torch.bfloat16") as error:
        gn.compile(FunctionNet(draw).bfloat16(), backend=backend)
    assert "x.type_as(weight)" in str(error.value) and "test_dtypes.py" in str(error.value)


@pytest.mark.parametrize("skip", [(), ("scan",)])
@pytest.mark.parametrize("backend", ["torch", "interpret"])
def test_a_float32_state_stays_float32_under_autocast(backend: str, skip: tuple[str, ...]) -> None:
    x = torch.full((1, 1000, 4), 0.01)
    model = gn.compile(FunctionNet(_float32_sum), backend=backend, skip=skip)
    with torch.no_grad():
        model.p.fill_(1.0)
    with torch.autocast("cpu", torch.bfloat16):
        y = model(x=x[:, : 1000 if backend == "torch" else 300])
    assert y.dtype == torch.float32
    y.sum().backward()
    torch.testing.assert_close(y, x.cumsum(1)[:, : y.shape[1]], rtol=1e-4, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_constant_can_be_cast(backend: str) -> None:
    def draw(net: FunctionNet, g: gn.Graph) -> None:
        x, h = g.input("x", (4,), over="time"), g.state("h", (), dtype=torch.float64)
        h.next = torch.maximum(h * 0.5, g.value(3).double()) + x.sum().double()
        g.output("h", h.next)
        g.output("a", g.value(0.5).double())
        g.output("b", x * g.value(2).float()[None])
        g.output("c", g.value(2.7).int() * 2)

    x = torch.ones(1, 3, 4, dtype=torch.bfloat16)
    y = gn.compile(FunctionNet(draw).bfloat16(), backend=backend)(x=x)
    torch.testing.assert_close(y["h"], torch.tensor([[7.0, 7.5, 7.75]]).double())
    assert y["a"].dtype == torch.float64 and (y["a"] == 0.5).all()
    torch.testing.assert_close(y["b"], torch.full((1, 3, 4), 2.0))
    assert y["c"].dtype == torch.int32 and (y["c"] == 4).all()


def test_a_model_is_traced_again_if_its_dtype_changes() -> None:
    model, source = gn.compile(Leak()), Echo()
    echo = gn.compile(source)
    assert model(x=torch.ones(1, 2, 4)).dtype == torch.float32
    source.double()
    assert echo(x=torch.ones(1, 2, 4).double()).dtype == torch.float64
    torch.set_default_dtype(torch.float64)
    try:
        assert model(x=torch.ones(1, 2, 4)).dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert copy.deepcopy(model.half())(x=torch.ones(1, 2, 4).half()).dtype == torch.float16


# results stay finite


@pytest.mark.parametrize("dtype", (*HALVES, torch.float32))
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_cosine_with_a_zero_vector_is_zero_with_finite_gradients(
    backend: str, dtype: torch.dtype
) -> None:
    def draw(net: FunctionNet, g: gn.Graph) -> None:
        x = g.input("x", (4,), over="time")
        g.output("y", gn.cosine(x, g.value(net.p)))

    torch.manual_seed(10)
    net = FunctionNet(draw).to(dtype)
    x = torch.cat([torch.zeros(1, 1, 4), torch.randn(1, 3, 4)], 1).to(dtype).requires_grad_()
    y = gn.compile(net, backend=backend)(x=x)
    y.sum().backward()
    assert x.grad is not None and x.grad.isfinite().all() and y[0, 0] == 0
    wanted = F.cosine_similarity(x[0, 1:].float(), net.p.float(), -1)
    torch.testing.assert_close(y[0, 1:].float(), wanted, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype, sharp", [(torch.float16, 0.0), (torch.float32, 60.0)])
def test_ntm_heads_have_finite_results_and_gradients(
    dtype: torch.dtype, sharp: float, backend: str
) -> None:
    torch.manual_seed(0)
    net = FunctionNet(lambda net, g: g.output("y", net.ntm(g.input("x", (4,), over="time"))))
    net.ntm = gn.nn.NTM(4, 8, 16, 6)
    with torch.no_grad():
        for head in net.ntm.modules():
            if isinstance(head, gn.nn.memory.ntm.Head):
                head.map.bias[head.width + 2 * head.reach + 3] += sharp
    model = gn.compile(net.to(dtype), backend=backend)
    y = model(x=torch.randn(1, 3, 4).to(dtype))
    y.float().sum().backward()
    assert y.isfinite().all()
    assert all(p.grad.isfinite().all() for p in net.ntm.parameters() if p.grad is not None)
