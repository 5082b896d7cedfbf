"""Torch's conventions in edge cases: kinks, integers, ranges, scalars, masks, empty tensors.

Expected results and gradients are those of eager torch for each example and position separately.
Each function is tested outside and inside a loop over time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import graphnn as gn
from graphnn.errors import FunctionError, GraphError, GraphnnError, ShapeError

BACKENDS = ("torch", "interpret", "reference")
Function = Callable[..., Any]
# bounds, zero and ties of the functions
POINTS = torch.tensor([-6.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 6.0], dtype=torch.float64)


class Applied(nn.Module):
    """Applies `f` to inputs; in a loop, a state that stays zero is added to the first input."""

    def __init__(self, f: Function, like: dict[str, Tensor], loop: bool):
        super().__init__()
        self.f, self.like, self.loop = f, like, loop
        self.unit = nn.Parameter(torch.ones((), dtype=torch.float64))

    def graph(self, g: gn.Graph) -> None:
        xs = [g.input(n, tuple(x.shape[2:]), "time", x.dtype) for n, x in self.like.items()]
        if self.loop:
            h = g.state("h", (), dtype=xs[0].dtype)
            xs[0] = xs[0] + h
        y = self.f(*xs)
        if self.loop:
            h.next = (y != y).sum().to(h.dtype)
        g.output("y", y)


def apply_separately(f: Function, inputs: dict[str, Tensor]) -> Tensor:
    """Applies `f` to each example and position separately."""
    batch, time = next(iter(inputs.values())).shape[:2]
    rows = [[f(*(x[b, t] for x in inputs.values())) for t in range(time)] for b in range(batch)]
    return torch.stack([torch.stack(row) for row in rows])


def result_and_gradients(call: Function, given: dict[str, Tensor]) -> list[Tensor]:
    """Returns the result and the gradients of a weighted sum of it."""
    inputs = {n: x.clone().requires_grad_(x.is_floating_point()) for n, x in given.items()}
    y = call(inputs)
    found = [y.detach()]
    if y.requires_grad:
        weights = torch.linspace(0.5, 2, y.numel(), dtype=y.dtype).reshape(y.shape)
        wanted = [x for x in inputs.values() if x.requires_grad]
        grads = torch.autograd.grad((weights * y).sum(), wanted, allow_unused=True)
        found += [torch.zeros_like(x) if d is None else d for d, x in zip(grads, wanted)]
    return found


def compare(f: Function, backends: tuple[str, ...] = BACKENDS, **given: Tensor) -> None:
    """Checks that `f` in a graph equals torch on each backend, outside and inside a loop."""
    wanted = result_and_gradients(lambda xs: apply_separately(f, xs), given)
    for loop in (False, True):
        for backend in backends:
            model = gn.compile(Applied(f, given, loop), backend=backend)
            got = result_and_gradients(lambda xs: model(**xs), given)  # noqa: B023
            # a missing gradient counts as zeros
            got += [torch.zeros_like(w) for w in wanted[len(got) :]]
            case = f"{backend}, {'in a loop' if loop else 'outside'}"
            for a, b in zip(got[: len(wanted)], wanted, strict=True):
                assert a.dtype == b.dtype, case
                torch.testing.assert_close(
                    a, b, rtol=1e-12, atol=1e-12, equal_nan=True, msg=lambda m, s=case: f"{s}: {m}"
                )


KINKS: dict[str, Function] = {
    "elu": F.elu,
    "elu steeper": lambda x: F.elu(x, 2.0),
    "clamp": lambda x: torch.clamp(x, -1, 1),
    "clamp from below": lambda x: x.clamp(min=0),
    "clamp from above": lambda x: x.clamp(max=0.5),
    "clamp with swapped bounds": lambda x: x.clamp(1, -1),
    "hardtanh": F.hardtanh,
    "relu6": F.relu6,
    "relu": torch.relu,
    "leaky_relu": F.leaky_relu,
    "abs": torch.abs,
    "softplus at its threshold": lambda x: F.softplus(x, 1.0, 6.0),
    "logsigmoid": F.logsigmoid,
    "maximum of equals": lambda x: torch.maximum(x, x.detach().abs()),
    "minimum of equals": lambda x: torch.minimum(x, x.detach().abs()),
    "amax of equals": lambda x: torch.stack([x, x, -x]).amax(0),
    "power 0": lambda x: x**0,
    "power 1": lambda x: x**1,
    "polynomial": lambda x: sum(c * x**k for k, c in enumerate((0.5, 1.0, -0.2))),
    "power of integers": lambda x: x ** torch.round(x),
    "power of a constant": lambda x: 2.0**x,
    "power of a negative constant": lambda x: (-2.0) ** torch.round(x.detach()) * x,
    "power of zero": lambda x: 0.0 ** x.abs(),
    "sqrt": lambda x: torch.sqrt(x.abs()),
    "floor division": lambda x: x - torch.div(x, 0.3, rounding_mode="floor"),
    "truncated division": lambda x: x - torch.div(x, 0.3, rounding_mode="trunc"),
    "remainder": lambda x: x % 0.3,
    "remainder, gradient of the divisor": lambda x: torch.remainder(x.detach() + 7, x + 0.3),
    "round to decimals": lambda x: torch.round(x * 1.2345, decimals=2) + x,
    "logaddexp": lambda x: torch.logaddexp(x, -x),
}


@pytest.mark.parametrize("name", KINKS)
def test_functions_at_kinks_equal_torch(name: str) -> None:
    compare(KINKS[name], x=POINTS.reshape(1, 1, 9))


def test_maximum_with_nan_equals_torch() -> None:
    compare(
        lambda x: torch.maximum(x, x * 0 + 1), x=torch.tensor([[[math.nan, 1.0, 2.0]]]).double()
    )


def test_clamp_with_tensor_bounds_equals_torch() -> None:
    low, high = POINTS.reshape(1, 1, 9) * 0, POINTS.abs().reshape(1, 1, 9)
    compare(torch.clamp, ("torch", "reference"), x=POINTS.reshape(1, 1, 9), low=low, high=high)


INTEGERS: dict[str, Function] = {
    "and": lambda a, b: a & b,
    "or": lambda a, b: a | b,
    "xor": lambda a, b: a ^ b,
    "not": lambda a, b: ~a,
    "constants": lambda a, b: ((a & 6) | 1) ^ 3,
    "constants first": lambda a, b: (6 & a) + (1 | a) + (3 ^ a),
    "shifts": lambda a, b: (a << 1) + (b >> 1) + (1 << b.clamp(0, 9)),
    "functions": lambda a, b: torch.bitwise_and(a, b) - torch.bitwise_xor(a, b),
    "division": lambda a, b: a // (b + 20),
    "remainder": lambda a, b: a % 3 - a % -3,
    "boolean": lambda a, b: (a > 0) & (b > 0) | ~(a == b) ^ (a < b),
    "boolean and constant": lambda a, b: (a > 0) & 1,
    "clamp": lambda a, b: a.clamp(-2, 3) + b.clamp(min=0),
    "sum of booleans": lambda a, b: (a > b).sum() + a.sum(),
    "comparison": lambda a, b: (a >= b).long() * 2,
    "extremes": lambda a, b: a.amax() - b.amin() + a.max(0).values,
    "product": lambda a, b: (a.clamp(1, 3)).prod(),
    "argmax": lambda a, b: a.argmax(-1, keepdim=True) + b.argmin(),
    "power": lambda a, b: a**3,
}


@pytest.mark.parametrize("name", INTEGERS)
def test_integers_and_booleans_equal_torch(name: str) -> None:
    a = torch.tensor([[[-9, -1, 0, 3], [5, 6, 7, 8]]])
    b = torch.tensor([[[3, -1, 4, -1], [5, 9, 2, 6]]])
    compare(INTEGERS[name], a=a, b=b)


SCALARS: dict[str, Function] = {
    "sum 0": lambda x: torch.sum(x, 0),
    "sum -1": lambda x: x + x.sum(-1),
    "mean": lambda x: x.mean(-1),
    "amax": lambda x: x.amax(-1),
    "logsumexp": lambda x: torch.logsumexp(x, 0),
    "softmax": lambda x: torch.softmax(x, -1) * x,
    "log_softmax": lambda x: torch.log_softmax(x, 0) * x,
    "cosine": lambda x: F.cosine_similarity(x, 2 * x, 0),
    "argmax": lambda x: x * (1 + x.argmax(0)),
    "squeeze": lambda x: x.squeeze(-1).unsqueeze(-1),
}


@pytest.mark.parametrize("name", SCALARS)
def test_reductions_of_scalars_equal_torch(name: str) -> None:
    compare(SCALARS[name], x=torch.arange(1.0, 7.0, dtype=torch.float64).reshape(2, 3))


INVALID: dict[str, Function] = {
    "softmax": lambda x: torch.softmax(x, 2),
    "log_softmax": lambda x: F.log_softmax(x, 2),
    "softmin": lambda x: F.softmin(x, 2),
    "sum": lambda x: x.sum(2),
    "sum from the end": lambda x: x.sum(-3),
    "mean": lambda x: x.mean(2),
    "logsumexp": lambda x: torch.logsumexp(x, 2),
    "cat": lambda x: torch.cat([x, x], 2),
    "stack": lambda x: torch.stack([x, x], 3),
    "argmax": lambda x: x.argmax(2),
    "split": lambda x: x.split(1, 2)[0],
    "select": lambda x: x.select(2, 0),
    "unsqueeze": lambda x: x.unsqueeze(3),
    "flip": lambda x: torch.flip(x, (2,)),
    "var": lambda x: x.var(2),
    "cumsum": lambda x: x.cumsum(2),
    "sort": lambda x: x.sort(2).values,
    "index": lambda x: x[:, 3],
    "too many indices": lambda x: x[0, 0, 0],
    "negative step": lambda x: x[::-1],
    "mean of integers": lambda x: x.long().mean(),
    "negative shape": lambda x: x.reshape(5, -1),
}


@pytest.mark.parametrize("name", INVALID)
def test_shape_errors_of_torch_are_shape_errors_with_the_users_line(name: str) -> None:
    x = torch.randn(4, 3, dtype=torch.float64)
    with pytest.raises((IndexError, RuntimeError, ValueError)):
        INVALID[name](x)
    with pytest.raises(ShapeError, match=r"test_edges\.py"):
        gn.compile(Applied(INVALID[name], {"x": x[None, None]}, False))


SPELLINGS: dict[str, Function] = {
    "flip by name": lambda x: torch.flip(x, dims=(0,)),
    "flip of several": lambda x: x.reshape(2, 3).flip(0, 1),
    "variance of all": lambda x: torch.var(x, dim=None),
    "variance, corrected": lambda x: torch.var(x, 0, correction=2) + torch.std(x, correction=0),
    "instance_norm": lambda x: F.instance_norm(x.reshape(2, 3)[None])[0],
    "InstanceNorm1d": lambda x: nn.InstanceNorm1d(2)(x.reshape(2, 3)),
    "determinant": lambda x: torch.det(x[:4].reshape(2, 2)),
    "mH": lambda x: x.reshape(2, 3).mH + x.reshape(2, 3).H,
    "is_floating_point": lambda x: x if torch.is_floating_point(x) else x + 1,
    "empty slice": lambda x: x[:0].sum() + x.sum(),
    "cat with an empty slice": lambda x: torch.cat([x, x[:0]]),
    "sum over an empty dimension": lambda x: x.reshape(2, 3)[:, :0].sum(1) + x[:2],
    "roll of several": lambda x: x.reshape(2, 3).roll((1, -1), (0, 1)),
    "unflatten": lambda x: x.unflatten(-1, (2, -1)),
    "numpy divisor": lambda x: x / np.sqrt(8),
    "numpy first": lambda x: np.float32(2) * x,
    "numpy bound": lambda x: torch.clamp(x, min=np.float64(0.1)),
    "numpy slope": lambda x: F.leaky_relu(x, np.float64(0.3)),
    "products with True, 1 and 1.0": lambda x: x * True + x * 1 + x * 1.0,
    "select_scatter": lambda x: torch.select_scatter(x.reshape(3, 2), x[:2] * 2, 0, -2),
    "to a device": lambda x: x.to("cpu") + x.to(x.device),
    "columns": lambda x: torch.column_stack([x, x.reshape(6, 1)]),
    "axis for dim": lambda x: x.reshape(2, 3).sum(axis=0),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_alternative_spellings_equal_torch(name: str) -> None:
    x = torch.randn(2, 2, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    compare(SPELLINGS[name], ("torch", "reference"), x=x)


INDICES: dict[str, Function] = {
    "a position": lambda x, k, i: x[k],
    "an argmax": lambda x, k, i: x[x[0].argmax() % 3],
    "a position after a slice": lambda x, k, i: x[1:, k],
    "a position from the end": lambda x, k, i: x[k - 3],
    "two positions": lambda x, k, i: x[k, k],
    "a position and None": lambda x, k, i: x[None, k, ..., None],
    "positions": lambda x, k, i: x[i],
    "positions in the last dimension": lambda x, k, i: x[..., i],
    "positions and a constant": lambda x, k, i: x[1, i],
    "pairs of positions": lambda x, k, i: x[i, i],
    "separated positions": lambda x, k, i: x[i, None, i],
    "a position and positions": lambda x, k, i: x[k, i],
    "constants": lambda x, k, i: x[-1, ::2],
}


@pytest.mark.parametrize("name", INDICES)
def test_indices_from_values_equal_torch(name: str) -> None:
    x = torch.randn(2, 2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    k, i = torch.tensor([[0, 2], [1, 0]]), torch.tensor([[[0, 1], [2, 2]], [[-1, 0], [1, -3]]])
    compare(INDICES[name], ("torch", "reference"), x=x, k=k, i=i)


class Table(nn.Module):
    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        self.table = nn.Parameter(torch.randn(shape, generator=draw, dtype=torch.float64))

    def graph(self, g: gn.Graph) -> None:
        x, table = g.input("x", (), over="time"), g.value(self.table)
        z = g.state("z", table.shape[1:])
        z.next = torch.tanh(z + x * table[gn.index("time")])
        g.output("z", z.next)


@pytest.mark.parametrize("shape", [(4,), (4, 3), (4, 2, 3)])
def test_a_table_indexed_by_position_equals_torch(shape: tuple[int, ...]) -> None:
    x = torch.randn(2, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    net = Table(shape)
    rows = []
    for b in range(2):
        z = torch.zeros(shape[1:], dtype=torch.float64)
        for t in range(4):
            z = torch.tanh(z + x[b, t] * net.table[t])
            rows.append(z)
    wanted = torch.stack(rows).reshape(2, 4, *shape[1:])
    (grad,) = torch.autograd.grad(wanted.sin().sum(), net.table)
    for backend in BACKENDS:
        z = gn.compile(net, backend=backend)(x=x)
        torch.testing.assert_close(z, wanted, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(torch.autograd.grad(z.sin().sum(), net.table)[0], grad)


UNSUPPORTED: dict[str, tuple[Function, str]] = {
    "a mask": (lambda x: x[x > 0], "indexed by a mask"),
    "a mask of bytes": (lambda x: x[(x > 0).to(torch.uint8)], "no indices"),
    "a float": (lambda x: x[x], "no indices"),
    "nonzero": (lambda x: x.nonzero(), "depend on the data"),
    "unique": (lambda x: torch.unique(x), "depend on the data"),
    "max_norm": (
        lambda x: F.embedding(x.long(), torch.ones(3, 2), max_norm=1.0),
        "an embedding with max_norm",
    ),
    "frequencies": (
        lambda x: F.embedding(x.long(), torch.ones(3, 2), scale_grad_by_freq=True),
        "an embedding with scale_grad_by_freq",
    ),
    "batch norm": (
        lambda x: F.batch_norm(x[None], None, None, training=True),
        "mixes the examples",
    ),
    "running statistics": (
        lambda x: F.instance_norm(x.reshape(1, 2, 3), torch.zeros(2), torch.ones(2)),
        "mixes the examples",
    ),
    "a check of values": (
        lambda x: F.gaussian_nll_loss(x, x * 2, x.square() + 1),
        "'gaussian_nll_loss' cannot be planned",
    ),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_unsupported_functions_are_refused_with_the_users_line(name: str) -> None:
    function, message = UNSUPPORTED[name]
    with pytest.raises(GraphError, match=message) as caught:
        gn.compile(Applied(function, {"x": torch.ones(1, 1, 6)}, False))
    assert caught.value.site is not None and caught.value.site.file == __file__


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("loop", [False, True], ids=["outside", "loop"])
def test_a_failing_call_raises_an_error_with_the_users_line(backend: str, loop: bool) -> None:
    """An index out of range raises FunctionError, not torch's IndexError."""
    given = {"x": torch.ones(1, 1, 3, dtype=torch.float64), "i": torch.tensor([[[0, 7]]])}
    model = gn.compile(Applied(lambda x, i: x[i], given, loop), backend=backend)
    with pytest.raises(FunctionError, match="'__getitem__' failed") as caught:
        model(**given)
    assert caught.value.site is not None and caught.value.site.file == __file__


EMPTY: dict[str, Function] = {"tanh": torch.tanh, "lgamma": torch.lgamma, "selu": F.selu}


@pytest.mark.parametrize("shape", [(0, 4, 3), (2, 4, 0)], ids=["no example", "no feature"])
@pytest.mark.parametrize("name", EMPTY)
def test_empty_batches_and_features_have_empty_results_and_gradients(
    name: str, shape: tuple[int, ...]
) -> None:
    for loop in (False, True):
        for backend in ("torch", "reference"):
            x = torch.ones(shape, dtype=torch.float64, requires_grad=True)
            model = gn.compile(Applied(EMPTY[name], {"x": x}, loop), backend=backend)
            y = model(x=x)
            y.sum().backward()
            assert y.shape == shape and x.grad is not None and x.grad.shape == shape


class Masked(nn.Module):
    """Attention over a source with a mask added to the scores."""

    def __init__(self, mask: Function, loop: bool):
        super().__init__()
        torch.manual_seed(0)
        self.W, self.mask, self.loop = nn.Linear(3, 3).double(), mask, loop

    def graph(self, g: gn.Graph) -> None:
        q, h = g.input("q", (3,), over="time"), g.input("h", (3,), over="source")
        m = g.input("m", (), over=("time", "source"))
        z = g.state("z", (3,)) if self.loop else q
        scores = gn.dot(self.W(torch.tanh(z + q)), h) + self.mask(m)
        read = gn.sum(gn.softmax(scores, over="source") * h, over="source")
        if self.loop:
            z.next = read
        g.output("c", read)

    def eager(self, q: Tensor, h: Tensor, m: Tensor) -> Tensor:
        """Computes the same with torch; a fully masked row reads zeros."""
        z, rows = torch.zeros_like(q[:, 0]), []
        for t in range(q.shape[1]):
            x = self.W(torch.tanh((z if self.loop else q[:, t]) + q[:, t]))
            scores = torch.einsum("bi,bsi->bs", x, h) + self.mask(m[:, t])
            any_unmasked = (scores > -math.inf).any(1, keepdim=True)
            weights = torch.softmax(torch.where(any_unmasked, scores, 0), 1) * any_unmasked
            z = torch.einsum("bs,bsi->bi", weights, h)
            rows.append(z)
        return torch.stack(rows, 1)


MASKS: dict[str, Function] = {
    "given": lambda m: m,
    "log": torch.log,
    "where": lambda m: torch.where(m > 0, 0.0, -math.inf),
    "masked_fill": lambda m: (m * 0).masked_fill(m == 0, -math.inf),
}


@pytest.mark.parametrize("loop", [False, True], ids=["outside", "loop"])
@pytest.mark.parametrize("name", MASKS)
def test_fully_masked_rows_read_zeros(name: str, loop: bool) -> None:
    draw = torch.Generator().manual_seed(1)
    q, h = (torch.randn(2, 3, 3, generator=draw, dtype=torch.float64) for _ in range(2))
    one = torch.ones(2, 3, 3, dtype=torch.float64)
    one[0, 1] = one[1, :, 0] = 0
    net = Masked(MASKS[name], loop)

    def run(call: Function, m: Tensor) -> list[Tensor]:
        inputs = [q.clone().requires_grad_(), h.clone().requires_grad_()]
        c = call(*inputs, m)
        return [c, *torch.autograd.grad(c.sin().sum(), [*inputs, *net.parameters()])]

    given = torch.where(one > 0, 0.0, -math.inf).double() if name == "given" else one
    wanted = run(net.eager, given)
    for backend in BACKENDS:
        model = gn.compile(net, backend=backend)
        got = run(lambda q, h, m: model(q=q, h=h, m=m), given)  # noqa: B023
        for a, b in zip(got, wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_a_scalar_parameter_without_gradient_does_not_break_backward() -> None:
    g = gn.Graph("rounded")
    x = g.input("x", (3,), over="time")
    z = g.state("z", (), init=g.parameter("p", torch.tensor(0.5)))
    h = g.state("h", (3,))
    z.next = torch.round(z)
    h.next = torch.tanh(x + h * z)
    g.output("y", h.next)
    x = torch.randn(2, 4, 3, requires_grad=True)
    gn.compile(g)(x=x).sum().backward()
    assert x.grad is not None


def test_layers_without_a_batch_dimension_equal_torch() -> None:
    torch.manual_seed(0)
    attention, bag = nn.MultiheadAttention(4, 2).double(), nn.EmbeddingBag(5, 3).double()

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention, self.bag = attention, bag

        def graph(self, g: gn.Graph) -> None:
            x, i = g.input("x", (3, 4), "time"), g.input("i", (2, 2), "time", torch.int64)
            g.output("a", self.attention(x, x, x, need_weights=False)[0])
            g.output("b", self.bag(i))

    x, i = torch.randn(2, 2, 3, 4, dtype=torch.float64), torch.randint(0, 5, (2, 2, 2, 2))
    for backend in ("torch", "reference"):
        found = gn.compile(Both(), backend=backend)(x=x, i=i)
        wanted = apply_separately(lambda x: attention(x, x, x, need_weights=False)[0], {"x": x})
        torch.testing.assert_close(found["a"], wanted)
        torch.testing.assert_close(found["b"], apply_separately(bag, {"i": i}))


def test_invalid_calls_raise_graphnn_errors() -> None:
    """Calls that torch refuses raise an error of graphnn."""
    for f in (lambda x: x.sum(nothing=1), lambda x: x @ torch.ones(2), lambda x: x.view("a")):
        with pytest.raises(GraphnnError):
            gn.compile(Applied(f, {"x": torch.ones(1, 1, 6)}, False))
