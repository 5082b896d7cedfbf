"""Torch functions on values, and functions over named axes, against plain torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import graphnn as gn
from tests.networks.equality import assert_same

BATCH, TIME = 2, 3
BACKENDS = ("torch", "reference")
Function = Callable[..., Any]

# functions of x (4,), y (4,) and s (); each must equal torch for every example and position
FUNCTIONS: dict[str, Function] = {
    "add": lambda x, y, s: x + y,
    "radd": lambda x, y, s: 1.5 + x,
    "sub": lambda x, y, s: x - 2,
    "rsub": lambda x, y, s: 2 - x,
    "mul": lambda x, y, s: x * s,
    "rmul": lambda x, y, s: 3 * x,
    "div": lambda x, y, s: x / (2 + y * y),
    "rdiv": lambda x, y, s: 1 / (2 + x * x),
    "pow": lambda x, y, s: x**3,
    "pow float": lambda x, y, s: (x * x + 1) ** 0.3,
    "pow value": lambda x, y, s: (x * x + 1) ** y,
    "rpow": lambda x, y, s: 2**x,
    "floordiv": lambda x, y, s: x.detach() // 0.3 + x,
    "mod": lambda x, y, s: x % 0.7,
    "neg": lambda x, y, s: -x,
    "abs": lambda x, y, s: abs(x),
    "compare": lambda x, y, s: torch.where((x < y) & ~(x > 1) | (x >= s), x, y),
    "equal": lambda x, y, s: torch.where(x == y, x, y * 2),
    "matmul": lambda x, y, s: x @ y,
    "python sum": lambda x, y, s: sum([x, y, x * y]),
    "sum": lambda x, y, s: x.sum(),
    "sum keepdim": lambda x, y, s: x.sum(-1, keepdim=True),
    "mean": lambda x, y, s: torch.mean(x),
    "prod": lambda x, y, s: x.prod(),
    "var": lambda x, y, s: x.var(),
    "var unbiased": lambda x, y, s: x.var(0, unbiased=False),
    "std": lambda x, y, s: x.std(),
    "norm": lambda x, y, s: x.norm(),
    "linalg norm": lambda x, y, s: torch.linalg.vector_norm(x),
    "max": lambda x, y, s: x.max(),
    "max dim": lambda x, y, s: x.max(0).values,
    "max of two": lambda x, y, s: torch.max(x, y),
    "maximum number": lambda x, y, s: torch.maximum(x, torch.tensor(0.1, dtype=x.dtype)),
    "min": lambda x, y, s: x.min(),
    "amax": lambda x, y, s: torch.amax(x, 0, keepdim=True),
    "amin": lambda x, y, s: x.amin(-1),
    "argmax": lambda x, y, s: x.argmax(-1),
    "argmin": lambda x, y, s: x.argmin(),
    "clamp": lambda x, y, s: x.clamp(-0.5, 0.5),
    "clamp min": lambda x, y, s: x.clamp(min=0.1),
    "where number": lambda x, y, s: torch.where(x > 0, x, 0.0),
    "where numbers": lambda x, y, s: torch.where(x > 0, 1.0, 0.0) * x,
    "masked_fill": lambda x, y, s: x.masked_fill(x > 0, -1.0),
    "lerp": lambda x, y, s: torch.lerp(x, y, 0.3),
    "addcmul": lambda x, y, s: torch.addcmul(x, y, y, value=0.5),
    "split": lambda x, y, s: torch.split(x, 2)[1],
    "split sizes": lambda x, y, s: x.split([1, 3])[1],
    "chunk": lambda x, y, s: x.chunk(3)[1],
    "unbind": lambda x, y, s: x.unbind(0)[2],
    "unpack": lambda x, y, s: (lambda a, b, c, d: a * d + b * c)(*x),
    "cat": lambda x, y, s: torch.cat([x, y, x]),
    "stack": lambda x, y, s: torch.stack([x, y], 1),
    "hstack": lambda x, y, s: torch.hstack([x, y]),
    "vstack": lambda x, y, s: torch.vstack([x, y]),
    "tile": lambda x, y, s: x.tile(2),
    "repeat": lambda x, y, s: x.repeat(2, 3),
    "repeat_interleave": lambda x, y, s: x.repeat_interleave(2),
    "expand": lambda x, y, s: x.expand(3, 4),
    "reshape": lambda x, y, s: x.reshape(2, -1),
    "view": lambda x, y, s: x.view(2, 2).t(),
    "unflatten": lambda x, y, s: x.unflatten(0, (2, 2)),
    "flatten": lambda x, y, s: torch.stack([x, y]).flatten(),
    "squeeze": lambda x, y, s: x[None, :, None].squeeze(),
    "unsqueeze": lambda x, y, s: x.unsqueeze(-1),
    "permute": lambda x, y, s: torch.stack([x, y]).permute(1, 0),
    "T": lambda x, y, s: torch.stack([x, y]).T,
    "mT": lambda x, y, s: torch.stack([x, y]).mT,
    "flip": lambda x, y, s: x.flip(0),
    "roll": lambda x, y, s: x.roll(-1, 0),
    "roll flat": lambda x, y, s: torch.roll(x, 1),
    "movedim": lambda x, y, s: torch.stack([x, y]).movedim(0, 1),
    "index": lambda x, y, s: x[1],
    "index negative": lambda x, y, s: x[-1],
    "index none": lambda x, y, s: x[None, 1:3],
    "index ellipsis": lambda x, y, s: x[..., None],
    "index none on scalar": lambda x, y, s: s[None] * x,
    "index slice negative": lambda x, y, s: x[-3:-1],
    "index step": lambda x, y, s: x[::2],
    "index list": lambda x, y, s: x[[2, 0]],
    "index tensor": lambda x, y, s: x[torch.tensor([1, 1, 3])],
    "index_select": lambda x, y, s: x.index_select(0, torch.tensor([3, 0])),
    "gather": lambda x, y, s: x.gather(0, torch.tensor([3, 0])),
    "select": lambda x, y, s: torch.select(x, 0, 2),
    "narrow": lambda x, y, s: x.narrow(0, 1, 2),
    "einsum dot": lambda x, y, s: torch.einsum("i,i->", x, y),
    "einsum outer": lambda x, y, s: torch.einsum("i,j->ij", x, y),
    "einsum one": lambda x, y, s: torch.einsum("i->", x),
    "einsum three": lambda x, y, s: torch.einsum("i,ij,j->", x, torch.outer(y, x), y),
    "einsum implicit": lambda x, y, s: torch.einsum("i,j", x, y),
    "einsum alone": lambda x, y, s: torch.einsum("i,j->i", x, y),
    "outer": lambda x, y, s: torch.outer(x, y),
    "dot": lambda x, y, s: torch.dot(x, y),
    "inner": lambda x, y, s: torch.inner(x, y),
    "inner matrix": lambda x, y, s: torch.inner(torch.stack([x, y]), y),
    "inner matrices": lambda x, y, s: torch.inner(torch.stack([x, y]), torch.stack([y, x, x])),
    "mv": lambda x, y, s: torch.mv(torch.outer(x, y), x),
    "mm": lambda x, y, s: torch.mm(torch.outer(x, y), torch.outer(y, x)),
    "bmm": lambda x, y, s: torch.bmm(x.reshape(2, 1, 2), y.reshape(2, 2, 1)),
    "matmul vector matrix": lambda x, y, s: x @ torch.outer(x, y),
    "matmul batched": lambda x, y, s: torch.matmul(torch.ones(3, 4, 4, dtype=x.dtype), x),
    "matmul broadcast": lambda x, y, s: x.reshape(1, 2, 2) @ torch.ones(3, 2, 2, dtype=x.dtype),
    "matmul constant left": lambda x, y, s: torch.ones(2, 4, dtype=x.dtype) @ x,
    "addmm": lambda x, y, s: torch.addmm(torch.outer(x, x), torch.outer(x, y), torch.outer(y, x)),
    "baddbmm": lambda x, y, s: torch.baddbmm(
        x.reshape(2, 1, 2)[..., :1], x.reshape(2, 1, 2), y.reshape(2, 2, 1)
    ),
    "softmax": lambda x, y, s: x.softmax(-1),
    "F.softmax": lambda x, y, s: F.softmax(x, dim=0),
    "log_softmax": lambda x, y, s: F.log_softmax(x, -1),
    "logsumexp": lambda x, y, s: torch.logsumexp(x, 0),
    "logaddexp": lambda x, y, s: torch.logaddexp(x, y),
    "softmin": lambda x, y, s: F.softmin(x, 0),
    "cosine_similarity": lambda x, y, s: F.cosine_similarity(x, y, dim=0),
    "layer_norm": lambda x, y, s: F.layer_norm(x, (4,)),
    "rms_norm": lambda x, y, s: F.rms_norm(x, (4,)),
    "normalize": lambda x, y, s: F.normalize(x, dim=0),
    "group_norm": lambda x, y, s: F.group_norm(x[None, :, None] + 0 * y, 2),
    "one_hot": lambda x, y, s: F.one_hot(x.argmax(-1), 4) * x,
    "pad": lambda x, y, s: F.pad(x, (1, 2)),
    "glu": lambda x, y, s: F.glu(x),
    "mse_loss": lambda x, y, s: F.mse_loss(x, y),
    "smooth_l1_loss": lambda x, y, s: F.smooth_l1_loss(x, y),
    "bce": lambda x, y, s: F.binary_cross_entropy_with_logits(x, y.sigmoid()),
    "cross_entropy": lambda x, y, s: F.cross_entropy(x, y.softmax(0)),
    "cumsum": lambda x, y, s: torch.cumsum(x, 0),
    "cumprod": lambda x, y, s: x.cumprod(0),
    "sort": lambda x, y, s: torch.sort(x).values,
    "topk": lambda x, y, s: x.topk(2).values,
    "det": lambda x, y, s: torch.linalg.det(x.reshape(2, 2)),
    "inverse": lambda x, y, s: torch.linalg.inv(
        torch.eye(4, dtype=x.dtype) * 9 + torch.outer(x, y)
    ),
    "trace": lambda x, y, s: torch.trace(torch.outer(x, y)),
    "diagonal": lambda x, y, s: torch.diagonal(torch.outer(x, y)),
    "tril": lambda x, y, s: torch.outer(x, y).tril(),
    "kron": lambda x, y, s: torch.kron(x, y),
    "cross": lambda x, y, s: torch.linalg.cross(x[:3], y[1:]),
    "atan2": lambda x, y, s: torch.atan2(x, y),
    "hypot": lambda x, y, s: torch.hypot(x, y),
    "frac": lambda x, y, s: x.frac(),
    "zeros_like": lambda x, y, s: x + torch.zeros_like(x) + torch.ones_like(y),
    "full_like": lambda x, y, s: x * torch.full_like(x, 2.0),
    "new_zeros": lambda x, y, s: torch.cat([x, x.new_zeros(2)]),
    "to": lambda x, y, s: x.to(torch.float64) * (x > 0).to(x.dtype),
    "type_as": lambda x, y, s: (x > 0).type_as(x) * y,
    "bool any": lambda x, y, s: torch.where((x > 0).any(), x, y),
    "bool all": lambda x, y, s: torch.where((x > -9).all(), x, y),
    "count": lambda x, y, s: (x > 0).sum() * x,
    "size": lambda x, y, s: x / x.shape[-1] + x.size(0) + len(x) + x.numel(),
    "detach": lambda x, y, s: x.detach() * y,
    "heaviside": lambda x, y, s: torch.heaviside(x.detach(), y.detach()) * x,
    "constant tensor": lambda x, y, s: x * torch.arange(4, dtype=x.dtype),
    "rsub function": lambda x, y, s: torch.rsub(x, 1.0),
    "sub alpha": lambda x, y, s: torch.sub(x, y, alpha=2),
    "true_divide": lambda x, y, s: torch.true_divide(x, 3),
    "nan_to_num": lambda x, y, s: torch.nan_to_num(x),
    "isfinite": lambda x, y, s: torch.where(torch.isfinite(x), x, y),
    "broadcast shapes": lambda x, y, s: x[:, None] * y[None] + s,
    "scalar first": lambda x, y, s: s - x,
    "tensordot": lambda x, y, s: torch.tensordot(x, y, 1),
    "meshgrid": lambda x, y, s: torch.meshgrid(x, y, indexing="ij")[0],
    "scaled_dot_product_attention": lambda x, y, s: F.scaled_dot_product_attention(
        torch.stack([x, y]), torch.stack([y, x, x]), torch.stack([x, x, y])
    ),
    "conv1d": lambda x, y, s: F.conv1d(x[None], y[None, None, :3]),
    "max_pool1d": lambda x, y, s: F.max_pool1d(x[None], 2),
    "interpolate": lambda x, y, s: F.interpolate(x[None, None], scale_factor=2)[0, 0],
}
_EVERYWHERE = "exp expm1 sign tanh sigmoid relu sin cos tan erf erfc square floor ceil round trunc"
_EVERYWHERE += " atan asinh sinh cosh"
_POSITIVE = "sqrt rsqrt reciprocal log log1p log2 log10 digamma lgamma"
_ACTIVATIONS = "elu selu celu gelu silu mish softplus logsigmoid softsign leaky_relu hardtanh"
_ACTIVATIONS += " hardswish hardsigmoid tanhshrink softshrink hardshrink relu6"


def _of_x(f: Function) -> Function:
    return lambda x, y, s: f(x)


def _of_positive(f: Function) -> Function:
    return lambda x, y, s: f(x * x + 0.5)


FUNCTIONS |= {name: _of_x(getattr(torch, name)) for name in _EVERYWHERE.split()}
FUNCTIONS |= {name: _of_positive(getattr(torch, name)) for name in _POSITIVE.split()}
FUNCTIONS |= {f"F.{name}": _of_x(getattr(F, name)) for name in _ACTIVATIONS.split()}


class Apply(nn.Module):
    """Applies a function to three sequences at each step, optionally in a loop."""

    def __init__(self, function: Function, loop: bool):
        super().__init__()
        self.function, self.loop = function, loop
        self.unit = nn.Parameter(torch.ones((), dtype=torch.float64))

    def graph(self, g: gn.Graph) -> None:
        x = g.input("x", shape=(4,), over="time")
        y = g.input("y", shape=(4,), over="time")
        s = g.input("s", over="time")
        if not self.loop:
            g.output("f", self.function(x, y, s))
            return
        z = g.state("z", shape=(4,))
        value = self.function(x + 0.1 * z, y, s)
        g.output("f", value)
        flat = torch.tanh(value.to(torch.float64).reshape(-1).sum())
        z.next = torch.tanh(z + flat + x)


def eager(function: Function, loop: bool, x: Tensor, y: Tensor, s: Tensor) -> Tensor:
    """Computes the same as `Apply` with torch alone."""
    if not loop:
        return torch.vmap(torch.vmap(function))(x, y, s)
    z, steps = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        value = torch.vmap(function)(x[:, t] + 0.1 * z, y[:, t], s[:, t])
        steps.append(value)
        flat = torch.tanh(value.to(x.dtype).reshape(len(x), -1).sum(1, keepdim=True))
        z = torch.tanh(z + flat + x[:, t])
    return torch.stack(steps, 1)


def with_gradients(call: Callable[..., Tensor]) -> dict[str, Tensor]:
    seed = torch.Generator().manual_seed(1)
    shapes = {"x": (BATCH, TIME, 4), "y": (BATCH, TIME, 4), "s": (BATCH, TIME)}
    inputs = {
        k: torch.randn(n, generator=seed, dtype=torch.float64).requires_grad_()
        for k, n in shapes.items()
    }
    value = call(**inputs)
    found = {"value": value.detach()}
    if value.requires_grad:
        weights = torch.randn(value.shape, generator=seed, dtype=torch.float64)
        grads = torch.autograd.grad(
            (value * weights).sum(), list(inputs.values()), allow_unused=True
        )
        for (k, v), g in zip(inputs.items(), grads, strict=True):
            found[k] = torch.zeros_like(v) if g is None else g
    else:
        found |= {k: torch.zeros_like(v) for k, v in inputs.items()}
    return found


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("loop", [False, True], ids=["whole", "loop"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_torch_function_equals_torch(name: str, loop: bool) -> None:
    function = FUNCTIONS[name]
    wanted = with_gradients(lambda x, y, s: eager(function, loop, x, y, s))
    for backend in BACKENDS:
        model = gn.compile(Apply(function, loop), backend=backend)
        assert_same(wanted, with_gradients(model), 1e-11)


# modules, each with a call on x (4,) and an index i
MODULES: dict[str, tuple[Callable[[], nn.Module], Function]] = {
    "Linear": (lambda: nn.Linear(4, 3), lambda m, x, i: m(x)),
    "Linear of a matrix": (lambda: nn.Linear(2, 3), lambda m, x, i: m(x.reshape(2, 2))),
    "Linear without bias": (lambda: nn.Linear(4, 3, bias=False), lambda m, x, i: m(x)),
    "Embedding": (lambda: nn.Embedding(5, 3), lambda m, x, i: m(i)),
    "Embedding with padding": (lambda: nn.Embedding(5, 3, padding_idx=1), lambda m, x, i: m(i)),
    "LayerNorm": (lambda: nn.LayerNorm(4), lambda m, x, i: m(x)),
    "RMSNorm": (lambda: nn.RMSNorm(4), lambda m, x, i: m(x)),
    "GroupNorm": (lambda: nn.GroupNorm(2, 4), lambda m, x, i: m(torch.stack([x, x * 2])[:1])),
    "Bilinear": (lambda: nn.Bilinear(4, 2, 3), lambda m, x, i: m(x, x[:2])),
    "Dropout": (lambda: nn.Dropout(0.5).eval(), lambda m, x, i: m(x)),
    "Conv1d": (lambda: nn.Conv1d(1, 2, 3), lambda m, x, i: m(x[None])),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(1, 2, 2), lambda m, x, i: m(x[None])),
    "GRUCell": (lambda: nn.GRUCell(4, 2), lambda m, x, i: m(x, x[:2])),
    "GRUCell alone": (lambda: nn.GRUCell(4, 2), lambda m, x, i: m(x)),
    "RNNCell": (lambda: nn.RNNCell(4, 2), lambda m, x, i: m(x, x[2:])),
    "LSTMCell": (lambda: nn.LSTMCell(4, 2), lambda m, x, i: torch.cat(m(x, (x[:2], x[2:])))),
    "MultiheadAttention": (
        lambda: nn.MultiheadAttention(4, 2).eval(),
        lambda m, x, i: m(x[None], torch.stack([x, 2 * x]), torch.stack([x, 3 * x]))[0],
    ),
    "Sequential": (
        lambda: nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 2)),
        lambda m, x, i: m(x),
    ),
    "PReLU": (lambda: nn.PReLU(), lambda m, x, i: m(x)),
    "CosineSimilarity": (lambda: nn.CosineSimilarity(0), lambda m, x, i: m(x, x.flip(0))),
    "Softmax": (lambda: nn.Softmax(-1), lambda m, x, i: m(x)),
    "Unflatten": (lambda: nn.Unflatten(0, (2, 2)), lambda m, x, i: m(x)),
    "AvgPool1d": (lambda: nn.AvgPool1d(2), lambda m, x, i: m(x[None])),
}


class Holder(nn.Module):
    """Applies a module to a sequence, optionally in a loop."""

    def __init__(self, module: nn.Module, use: Function, loop: bool):
        super().__init__()
        self.inner, self.use, self.loop = module, use, loop
        self.unit = nn.Parameter(torch.ones((), dtype=torch.float64))

    def graph(self, g: gn.Graph) -> None:
        x = g.input("x", shape=(4,), over="time")
        i = g.input("i", over="time", dtype=torch.int64)
        if not self.loop:
            g.output("f", self.use(self.inner, x, i))
            return
        z = g.state("z", shape=(4,))
        value = self.use(self.inner, x + 0.1 * z, i)
        g.output("f", value)
        z.next = torch.tanh(z + torch.tanh(value.sum()) + x)

    def eager(self, x: Tensor, i: Tensor) -> Tensor:
        """Computes the same with torch alone, for each example and position separately."""
        z, steps = torch.zeros_like(x[:, 0]), []
        for t in range(x.shape[1]):
            now = x[:, t] + 0.1 * z if self.loop else x[:, t]
            value = torch.stack([self.use(self.inner, a, b) for a, b in zip(now, i[:, t])])
            steps.append(value)
            flat = torch.tanh(value.reshape(len(x), -1).sum(1, keepdim=True))
            z = torch.tanh(z + flat + x[:, t])
        return torch.stack(steps, 1)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("loop", [False, True], ids=["whole", "loop"])
@pytest.mark.parametrize("name", MODULES)
def test_a_module_equals_torch(name: str, loop: bool) -> None:
    torch.manual_seed(0)
    make, use = MODULES[name]
    net = Holder(make().double(), use, loop)
    net.train(net.inner.training)
    i = torch.randint(0, 5, (BATCH, TIME))

    def run(call: Function) -> dict[str, Tensor]:
        seed = torch.Generator().manual_seed(1)
        x = torch.randn(BATCH, TIME, 4, generator=seed, dtype=torch.float64).requires_grad_()
        value = call(x=x, i=i)
        weights = torch.randn(value.shape, generator=seed, dtype=torch.float64)
        sources = {"x": x, **dict(net.inner.named_parameters())}
        grads = torch.autograd.grad((value * weights).sum(), [*sources.values()], allow_unused=True)
        found = {"value": value.detach()}
        for (k, v), g in zip(sources.items(), grads, strict=True):
            found[k] = torch.zeros_like(v) if g is None else g
        return found

    wanted = run(net.eager)
    for backend in BACKENDS:
        assert_same(wanted, run(gn.compile(net, backend=backend)), 1e-11)


SOURCE = 4
WEIGHT = torch.tensor([1.0, -2.0], dtype=torch.float64)
Mask = Tensor


def _present(n: Tensor) -> Mask:
    """Returns a (batch, source) mask of the positions that each example has."""
    return torch.arange(SOURCE) < n[:, None]


def _masked_softmax(v: Tensor, m: Mask) -> Tensor:
    weights = v.masked_fill(~m[:, None, :, None], float("-inf")).softmax(2)
    return torch.where(m[:, None, :, None] & m.any(1)[:, None, None, None], weights, 0)


def _reduced(f: Function) -> Function:
    """Applies `f` to the positions of each example, (time, n, width); zeros if it has none."""

    def run(v: Tensor, m: Mask) -> Tensor:
        rows = []
        for x, n in zip(v, m.sum(1).tolist()):
            rows.append(f(x[:, :n]) if n else torch.zeros_like(x[:, 0]))
        return torch.stack(rows)

    return run


def _mapped(f: Function) -> Function:
    """Applies `f` to the positions of each example; padded positions are zero in the output."""

    def run(v: Tensor, m: Mask) -> Tensor:
        rows = []
        for x, n in zip(v, m.sum(1).tolist()):
            y = f(x[:, :n])
            rows.append(torch.cat([y, y.new_zeros(len(y), x.shape[1] - n, *y.shape[2:])], 1))
        return torch.stack(rows)

    return run


# (the function of a value over time and source, the same on (batch, time, source, width))
AXIS: dict[str, tuple[Function, Function]] = {
    "sum": (lambda v: gn.sum(v, over="source"), _reduced(lambda x: x.sum(1))),
    "mean": (lambda v: gn.mean(v, over="source"), _reduced(lambda x: x.mean(1))),
    "max": (lambda v: gn.max(v, over="source"), _reduced(lambda x: x.amax(1))),
    "argmax": (lambda v: gn.argmax(v, over="source"), _reduced(lambda x: x.argmax(1))),
    "last": (lambda v: gn.last(v, over="source"), _reduced(lambda x: x[:, -1])),
    "first": (lambda v: gn.first(v, over="source"), _reduced(lambda x: x[:, 0])),
    "logsumexp": (
        lambda v: torch.exp(gn.logsumexp(v, over="source")),
        _reduced(lambda x: x.exp().sum(1)),
    ),
    "softmax": (lambda v: gn.softmax(v, over="source"), _masked_softmax),
    "reverse": (lambda v: gn.reverse(v, over="source"), _mapped(lambda x: x.flip(1))),
    "roll": (lambda v: gn.roll(v, 1, over="source"), _mapped(lambda x: x.roll(1, 1))),
    "roll back": (lambda v: gn.roll(v, -2, over="source"), _mapped(lambda x: x.roll(-2, 1))),
    "delay": (
        lambda v: gn.delay(v, 2, over="source", init=0.5),
        _mapped(lambda x: F.pad(x, (0, 0, 2, 0), value=0.5)[:, : x.shape[1]]),
    ),
    "delay ahead": (
        lambda v: gn.delay(v, -1, over="source", init=0.5),
        _mapped(lambda x: torch.cat([x[:, 1:], torch.full_like(x[:, :1], 0.5)], 1)),
    ),
    "index": (
        lambda v: v * gn.index("source").to(v.dtype),
        _mapped(lambda x: x * torch.arange(x.shape[1])[:, None]),
    ),
    "length": (
        lambda v: gn.sum(v, over="source") * gn.length("source").to(v.dtype),
        _reduced(lambda x: x.sum(1) * x.shape[1]),
    ),
    "sum of index": (
        lambda v: gn.first(v, over="source") + gn.sum(gn.index("source"), over="source"),
        _reduced(lambda x: x[:, 0] + sum(range(x.shape[1]))),
    ),
    "rename": (
        lambda v: gn.sum(v * gn.last(gn.rename(v, source="copy"), over="copy"), over="source"),
        _reduced(lambda x: (x * x[:, -1:]).sum(1)),
    ),
    "pairs": (
        lambda v: gn.sum(gn.dot(v, gn.rename(v, source="copy")) ** 2, over="copy"),
        _mapped(lambda x: (x @ x.mT).square().sum(2)),
    ),
    "dot": (lambda v: gn.dot(v, v * v), _mapped(lambda x: (x**3).sum(-1))),
    "cosine": (
        lambda v: gn.cosine(v, gn.roll(v, 1, over="source")),
        _mapped(lambda x: F.cosine_similarity(x, x.roll(1, 1), dim=-1)),
    ),
    "attend": (
        lambda v: gn.attend(v, v, over="source"),
        _mapped(lambda x: F.scaled_dot_product_attention(x, x, x)),
    ),
    "attend causal": (
        lambda v: gn.attend(v, v, over="source", causal=True),
        _mapped(lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True)),
    ),
    "attend by one query": (
        lambda v: gn.attend(gn.first(v, over="source"), v, v * 2, over="source"),
        _reduced(lambda x: F.scaled_dot_product_attention(x[:, :1], x, x * 2)[:, 0]),
    ),
    "attend heads": (
        lambda v: gn.attend(v, v, over="source", heads=2, scale=1.0),
        _mapped(
            lambda x: torch.cat(
                [F.scaled_dot_product_attention(h, h, h, scale=1.0) for h in x.chunk(2, -1)], -1
            )
        ),
    ),
    "attend additive": (
        lambda v: gn.attend(
            gn.first(v, over="source"),
            v,
            over="source",
            score="additive",
            weight=WEIGHT,
        ),
        _reduced(lambda x: ((torch.tanh(x[:, :1] + x) @ WEIGHT).softmax(1)[..., None] * x).sum(1)),
    ),
    "attend masked": (
        lambda v: gn.attend(
            gn.first(v, over="source"), v, over="source", mask=gn.index("source", v.graph) < 2
        ),
        _reduced(lambda x: F.scaled_dot_product_attention(x[:, :1], x[:, :2], x[:, :2])[:, 0]),
    ),
    "attend window": (
        lambda v: gn.attend(v, v, over="source", window=2),
        _mapped(
            lambda x: F.scaled_dot_product_attention(x, x, x, attn_mask=_window_of_two(x.shape[1]))
        ),
    ),
    "attend bias": (
        lambda v: gn.attend(
            v,
            v,
            over="source",
            bias=lambda own, key: 0.5 * (gn.index(key, v.graph) - gn.index(own, v.graph)),
        ),
        _mapped(
            lambda x: F.scaled_dot_product_attention(
                x, x, x, attn_mask=0.5 * (torch.arange(n := x.shape[1]) - torch.arange(n)[:, None])
            )
        ),
    ),
    "lookup masked": (
        lambda v: gn.lookup(
            gn.first(v, over="source"), v, v, over="source", mask=gn.index("source", v.graph) > 0
        ),
        _reduced(
            lambda x: ((x[:, :1] * x[:, 1:]).sum(-1, keepdim=True).softmax(1) * x[:, 1:]).sum(1)
        ),
    ),
    "top": (
        lambda v: v * gn.top(v[:1], 1, over="source").to(v.dtype),
        _mapped(lambda x: x * (x[..., :1] == x[..., :1].amax(1, keepdim=True))),
    ),
    "lookup": (
        lambda v: gn.lookup(gn.first(v, over="source"), v, v * v, over="source"),
        _reduced(lambda x: ((x[:, :1] * x).sum(-1, keepdim=True).softmax(1) * x * x).sum(1)),
    ),
    "lookup topk": (
        lambda v: gn.lookup(gn.first(v, over="source"), v, v, over="source", topk=2, sharpness=2.0),
        _reduced(lambda x: _topk_lookup(x)),
    ),
    "clip_gradient": (lambda v: gn.clip_gradient(v, 1e9), _mapped(lambda x: x)),
}


def _window_of_two(n: int) -> Tensor:
    """Returns a mask that is true at each position and the one before it."""
    return torch.ones(n, n, dtype=torch.bool).tril().triu(-1)


def _topk_lookup(x: Tensor) -> Tensor:
    match = 2 * (x[:, :1] * x).sum(-1)
    best = match >= match.topk(min(2, x.shape[1]), 1).values[:, -1:]
    return (match.masked_fill(~best, float("-inf")).softmax(1)[..., None] * x).sum(1)


class OverAxis(nn.Module):
    """Applies a function over an axis, optionally in a loop over time."""

    def __init__(self, function: Function, loop: bool):
        super().__init__()
        self.function, self.loop = function, loop
        self.unit = nn.Parameter(torch.ones((), dtype=torch.float64))

    def graph(self, g: gn.Graph) -> None:
        x = g.input("x", shape=(2,), over=("time", "source"))
        if not self.loop:
            g.output("f", self.function(x))
            return
        z = g.state("z", shape=(2,), along="source")
        value = self.function(x + 0.1 * z)
        g.output("f", value)
        flat = value.to(x.dtype).reshape(-1).sum()
        z.next = torch.tanh(z + torch.tanh(flat) + x)


def over_axis_eager(function: Function, loop: bool, x: Tensor, mask: Tensor) -> Tensor:
    if not loop:
        return function(x, mask)
    z, steps = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        value = function((x[:, t] + 0.1 * z)[:, None], mask)
        steps.append(value[:, 0])
        has_axis = value.dim() > 2 and value.shape[2] == SOURCE
        rows = value[:, 0].to(x.dtype).reshape(len(x), SOURCE if has_axis else 1, -1)
        flat = rows.sum(-1, keepdim=True)
        z = torch.tanh(z + torch.tanh(flat) + x[:, t])
    return torch.stack(steps, 1)


@pytest.mark.parametrize("loop", [False, True], ids=["whole", "loop"])
@pytest.mark.parametrize("ragged", [False, True], ids=["even", "ragged"])
@pytest.mark.parametrize("name", AXIS)
def test_a_function_over_an_axis_equals_torch(name: str, ragged: bool, loop: bool) -> None:
    ours, theirs = AXIS[name]
    n = torch.tensor([SOURCE, 2, 1] if ragged else [SOURCE] * 3)
    lengths = {"source": n} if ragged else None

    def run(call: Function) -> dict[str, Tensor]:
        seed = torch.Generator().manual_seed(1)
        x = torch.randn(3, TIME, SOURCE, 2, generator=seed, dtype=torch.float64).requires_grad_()
        value = call(x)
        found = {"value": value.detach(), "x": torch.zeros_like(x)}
        if value.requires_grad:
            weights = torch.randn(value.shape, generator=seed, dtype=torch.float64)
            found["x"] = torch.autograd.grad((value * weights).sum(), x)[0]
        return found

    wanted = run(lambda x: over_axis_eager(theirs, loop, x, _present(n)))
    for backend in BACKENDS:
        model = gn.compile(OverAxis(ours, loop), backend=backend)
        assert_same(wanted, run(lambda x: model(x=x, lengths=lengths)), 1e-11)  # noqa: B023


class InPlace(nn.Module):
    """Calls in-place operations and ignores their results."""

    def graph(self, g):
        x = g.input("x", (4,), over="time")
        h = x * 2
        F.relu(h, inplace=True)
        F.dropout(h, 0.5, False, inplace=True)
        g.output("y", h + x)


def test_later_reads_see_in_place_changes():
    x = torch.randn(2, 3, 4)
    torch.testing.assert_close(gn.compile(InPlace())(x=x), F.relu(x * 2) + x)
