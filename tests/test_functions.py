"""Torch's functions on values, and the vocabulary over named axes, against plain torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import graphnn as gn
from tests.graphs import assert_same

BATCH, TIME = 2, 3
BACKENDS = ("torch", "reference")
Function = Callable[..., Any]

# functions of x (4,), y (4,) and s (); each must mean per example and position what torch means
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
    "matmul broadcast": lambda x, y, s: (
        x.reshape(1, 2, 2) @ torch.ones(3, 2, 2, dtype=x.dtype)
    ),
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
    "inverse": lambda x, y, s: torch.linalg.inv(torch.eye(4, dtype=x.dtype) * 9 + torch.outer(x, y)),
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
for _name in (
    "exp log1p expm1 sqrt rsqrt sign tanh sigmoid relu sin cos tan erf erfc reciprocal square floor "
    "ceil round trunc atan asinh sinh cosh log2 log10 digamma lgamma"
).split():
    _positive = "sqrt rsqrt reciprocal log1p log2 log10 digamma lgamma".split()
    FUNCTIONS[_name] = (
        (lambda f: lambda x, y, s: f(x * x + 0.5))(getattr(torch, _name))
        if _name in _positive
        else getattr(torch, _name)
        and (lambda f: lambda x, y, s: f(x))(getattr(torch, _name))
    )
for _name in (
    "elu selu celu gelu silu mish softplus logsigmoid softsign leaky_relu hardtanh hardswish "
    "hardsigmoid tanhshrink softshrink hardshrink relu6 threshold"
).split():
    _more = (0.1, 0.2) if _name == "threshold" else ()
    FUNCTIONS[f"F.{_name}"] = (lambda f, m: lambda x, y, s: f(x, *m))(getattr(F, _name), _more)


class Apply(nn.Module):
    """Two sequences and a scalar one, a function of them at every step; in a loop on request."""

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


def plain(function: Function, loop: bool, x: Tensor, y: Tensor, s: Tensor) -> Tensor:
    """The same by torch alone."""
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
def test_torch_function(name: str, loop: bool) -> None:
    function = FUNCTIONS[name]
    wanted = with_gradients(lambda x, y, s: plain(function, loop, x, y, s))
    for backend in BACKENDS:
        model = gn.compile(Apply(function, loop), backend=backend)
        assert_same(wanted, with_gradients(model), 1e-11)
