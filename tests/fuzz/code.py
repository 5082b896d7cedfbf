"""Ordinary torch code, one line per name: `code(lab, a, b, k)` of two tensors and a small number.

`lab` has parameters, a buffer and numbers. Lines that torch rejects for their operands are left out
of a program (see `program`), so a line need not be valid for all operands.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

Code = Callable[[Any, Any, Any, int], Any]
Function: Any = torch.autograd.Function


def dim(x: Any, k: int) -> int:
    """A dimension of `x`, from its end for odd `k`."""
    rank = max(x.ndim, 1)
    return k // 2 % rank - (rank if k % 2 else 0)


def dims(x: Any, k: int) -> Any:
    """The dimensions of a reduction: one, all, or several."""
    return (dim(x, k), None, tuple(range(x.ndim)), (dim(x, k),), dim(x, k))[k % 5]


def near(x: Any) -> Any:
    """`x` moved away from kinks and ties, where rounding would decide."""
    return x + 0.37131 if x.is_floating_point() else x


def kinds(*ways: Callable[[Any, Any, Any], Any]) -> Code:
    """One of several lines."""
    return lambda lab, a, b, k: ways[k % len(ways)](lab, a, b)


class Spike(Function):
    """A step function with a smooth custom derivative."""

    @staticmethod
    def forward(ctx: Any, v: Any) -> Any:
        ctx.save_for_backward(v)
        return (v > 0.1234).to(v.dtype)

    @staticmethod
    def backward(ctx: Any, flow: Any) -> Any:
        (v,) = ctx.saved_tensors
        return flow / (1 + v * v)


class Turned(Function):
    """The identity, whose gradient is reversed and scaled."""

    @staticmethod
    def forward(x: Any, scale: float) -> Any:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.scale = inputs[1]

    @staticmethod
    def backward(ctx: Any, flow: Any) -> Any:
        return -ctx.scale * flow, None


class Both(Function):
    """Two results whose gradients are combined in the backward."""

    @staticmethod
    def forward(ctx: Any, x: Any, y: Any) -> Any:
        s, c = torch.sin(x) * y, torch.cos(x)
        ctx.save_for_backward(s, c)
        return s, c

    @staticmethod
    def backward(ctx: Any, to_s: Any, to_c: Any) -> Any:
        s, c = ctx.saved_tensors
        return to_s * c - to_c, (to_s + to_c) * s * 0.5


# smooth functions, which finite differences can check
SMOOTH: dict[str, Code] = {
    "tanh": lambda lab, a, b, k: torch.tanh(a),
    "sigmoid": lambda lab, a, b, k: a.sigmoid(),
    "sin": lambda lab, a, b, k: torch.sin(a),
    "cos": lambda lab, a, b, k: torch.cos(a) - 0.5,
    "bell": lambda lab, a, b, k: torch.exp(-a * a),
    "root": lambda lab, a, b, k: torch.sqrt(a * a + 0.5),
    "rsqrt": lambda lab, a, b, k: torch.rsqrt(a * a + 0.5),
    "log1p": lambda lab, a, b, k: torch.log1p(a * a),
    "log": lambda lab, a, b, k: torch.log(a * a + 0.3),
    "erf": lambda lab, a, b, k: torch.erf(a),
    "expm1": lambda lab, a, b, k: torch.expm1(-a * a),
    "atan": lambda lab, a, b, k: torch.atan(a),
    "sinh": lambda lab, a, b, k: torch.sinh(a.tanh()),
    "softplus": lambda lab, a, b, k: F.softplus(a) * 0.5,
    "silu": lambda lab, a, b, k: F.silu(a),
    "gelu": lambda lab, a, b, k: F.gelu(a, approximate=("none", "tanh")[k % 2]),
    "mish": lambda lab, a, b, k: F.mish(a),
    "softsign": lambda lab, a, b, k: 1 / (a * a + 1),
    "reciprocal": lambda lab, a, b, k: (a * a + 0.7).reciprocal(),
    "power": kinds(
        lambda lab, a, b: a**2,
        lambda lab, a, b: a**3 * 0.2,
        lambda lab, a, b: 2 ** -a.square(),
        lambda lab, a, b: (a * a + 0.5) ** 0.7,
    ),
    "power of two": lambda lab, a, b, k: (a * a + 0.4) ** (b.tanh()),
    "negative": lambda lab, a, b, k: -a,
    "number": kinds(
        lambda lab, a, b: a + 1,
        lambda lab, a, b: 0.5 - a,
        lambda lab, a, b: a * 2,
        lambda lab, a, b: a / 3,
        lambda lab, a, b: 3 * a - 1,
        lambda lab, a, b: 2.5 * a,
    ),
    "add": lambda lab, a, b, k: a + b,
    "sub": lambda lab, a, b, k: torch.sub(a, b, alpha=1 + k % 2),
    "mul": lambda lab, a, b, k: a * b,
    "div": lambda lab, a, b, k: a / (b * b + 1),
    "lerp": lambda lab, a, b, k: torch.lerp(a, b, 0.3) if k % 2 else torch.lerp(a, b, b.sigmoid()),
    "addcmul": lambda lab, a, b, k: torch.addcmul(a, a, b, value=0.5),
    "addcdiv": lambda lab, a, b, k: torch.addcdiv(a, b, b * b + 1),
    "hypot": lambda lab, a, b, k: torch.hypot(a + 0.7131, b),
    "logaddexp": lambda lab, a, b, k: torch.logaddexp(a, b),
    "matmul": lambda lab, a, b, k: a @ b,
    "dot": lambda lab, a, b, k: torch.dot(a, b),
    "outer": lambda lab, a, b, k: torch.outer(a, b),
    "inner": lambda lab, a, b, k: torch.inner(a, b),
    "einsum": lambda lab, a, b, k: torch.einsum(
        ("i,i->", "i,j->ij", "ij,j->i", "ij,ik->jk", "i,i->i", "ii->i")[k % 6],
        *([a] if k % 6 == 5 else [a, b]),
    ),
    "linear": lambda lab, a, b, k: F.linear(a, lab.weight(k, k % 4, a.shape[-1])),
    "affine": lambda lab, a, b, k: F.linear(
        a, lab.weight(k, 3, a.shape[-1]), lab.weight(k + 1, 3)
    ).tanh(),
    "scaled": lambda lab, a, b, k: a * lab.weight(k, *a.shape),
    "shifted": lambda lab, a, b, k: a + lab.weight(k),
    "norm": lambda lab, a, b, k: F.layer_norm(
        a, a.shape[-1:], *([lab.weight(k, *a.shape[-1:])] * (k % 3)), eps=0.1
    ),
    "rms": lambda lab, a, b, k: F.rms_norm(a, a.shape[-1:], eps=0.1),
    "softmax": lambda lab, a, b, k: a.softmax(dim(a, k)),
    "log_softmax": lambda lab, a, b, k: torch.log_softmax(a * 1.0, dim(a, k)),
    "normalize": lambda lab, a, b, k: F.normalize(a + 0.71, dim=dim(a, k)),
    "sum": lambda lab, a, b, k: a.sum(dims(a, k)) if k % 3 else a.sum(),
    "sum kept": lambda lab, a, b, k: torch.sum(a, dim(a, k), keepdim=True),
    "mean": lambda lab, a, b, k: a.mean(dims(a, k)) if k % 3 else torch.mean(a),
    "mean kept": lambda lab, a, b, k: a.mean(dim(a, k), keepdim=True),
    "var": lambda lab, a, b, k: a.var(dim(a, k), correction=0),
    "logsumexp": lambda lab, a, b, k: torch.logsumexp(a, dim(a, k), keepdim=bool(k % 3)),
    "prod": lambda lab, a, b, k: a.prod(dim(a, k)) if k % 2 else a.prod(),
    "cumsum": lambda lab, a, b, k: torch.cumsum(a, dim(a, k)),
    "logcumsumexp": lambda lab, a, b, k: a.logcumsumexp(dim(a, k)),
}

# functions that rearrange elements
SHAPES: dict[str, Code] = {
    "row": lambda lab, a, b, k: a.reshape(-1),
    "view": lambda lab, a, b, k: a.view(1, -1),
    "reshape": lambda lab, a, b, k: a.reshape(2, -1) if k % 2 else a.reshape(()),
    "like": lambda lab, a, b, k: a.view_as(b),
    "flatten": lambda lab, a, b, k: a.flatten(dim(a, k)),
    "unflatten": lambda lab, a, b, k: a.unflatten(dim(a, k), (1, -1)),
    "unsqueeze": lambda lab, a, b, k: a.unsqueeze(k % 5 % (2 * a.ndim + 2) - a.ndim - 1),
    "squeeze": lambda lab, a, b, k: a.squeeze(dim(a, k)) if k % 3 else a.squeeze(),
    "expand": lambda lab, a, b, k: a.expand(2, *a.shape) if k % 2 else a.expand_as(b),
    "turned": kinds(
        lambda lab, a, b: a.t(),
        lambda lab, a, b: (a if a.ndim > 1 else a[None]).mT,
        lambda lab, a, b: (a if a.ndim == 2 else a.reshape(1, -1)).T,
        lambda lab, a, b: a.transpose(-1, 0),
    ),
    "permute": lambda lab, a, b, k: a.permute(*reversed(range(a.ndim))),
    "movedim": lambda lab, a, b, k: a.movedim(0, -1),
    "flip": lambda lab, a, b, k: a.flip(dim(a, k)),
    "roll": lambda lab, a, b, k: a.roll(k - 4, dim(a, k)),
    "repeat": lambda lab, a, b, k: a.repeat(2) if k % 2 else a.repeat_interleave(2),
    "chunk": lambda lab, a, b, k: a.chunk(2, dim(a, k)),
    "split": lambda lab, a, b, k: torch.split(a, 1 + k % 2, dim(a, k)),
    "narrow": lambda lab, a, b, k: a.narrow(dim(a, k), k % 2, 1),
    "select": lambda lab, a, b, k: torch.select(a, dim(a, k), k % 3 - 1),
    "unbind": lambda lab, a, b, k: a.unbind(dim(a, k)),
    "diagonal": lambda lab, a, b, k: a.diagonal(k % 3 - 1),
    "triangle": lambda lab, a, b, k: torch.tril(a, k % 3 - 1),
    "cat": lambda lab, a, b, k: torch.cat([a, b, a][: 2 + k % 2], dim(a, k)),
    "stack": lambda lab, a, b, k: torch.stack([a, b], (0, -1)[k % 2]),
    "stack alike": lambda lab, a, b, k: torch.stack([a, (a + b).reshape(a.shape), a]),
    "cat rows": lambda lab, a, b, k: torch.cat([a.reshape(-1), b.reshape(-1)]),
    "pad": lambda lab, a, b, k: F.pad(a, (1, k % 2), value=0.5 * (k % 3)),
    "at": lambda lab, a, b, k: a[k % 4 - 2],
    "slice": kinds(
        lambda lab, a, b: a[1:],
        lambda lab, a, b: a[:-1],
        lambda lab, a, b: a[::2],
        lambda lab, a, b: a[..., 1:3],
        lambda lab, a, b: a[-2:],
        lambda lab, a, b: a[..., -1:],
        lambda lab, a, b: a[1:1],
        lambda lab, a, b: a[:99],
    ),
    "index": kinds(
        lambda lab, a, b: a[None],
        lambda lab, a, b: a[..., None],
        lambda lab, a, b: a[:, None],
        lambda lab, a, b: a[None, ..., 0],
        lambda lab, a, b: a[0, 1:],
        lambda lab, a, b: a[:, -1],
        lambda lab, a, b: a[()],
        lambda lab, a, b: a[...],
        lambda lab, a, b: a[[0, -1]],
        lambda lab, a, b: a[torch.tensor([1, 0])],
    ),
    "clone": lambda lab, a, b, k: a.clone(),
    "contiguous": lambda lab, a, b, k: a.contiguous(),
    "unfold": lambda lab, a, b, k: a.unfold(dim(a, k), 2, 1),
    "constant": lambda lab, a, b, k: lab.number((1.5, 2, True, -0.25, 0)[k % 5]),
    "constant row": lambda lab, a, b, k: lab.number(0.5 + k).reshape(1),
    "constant spread": lambda lab, a, b, k: lab.number((0.7, 3)[k % 2]).expand(3),
    "zeros": kinds(
        lambda lab, a, b: torch.zeros_like(a),
        lambda lab, a, b: torch.ones_like(a),
        lambda lab, a, b: torch.full_like(a, 2),
        lambda lab, a, b: a.new_zeros(2),
        lambda lab, a, b: torch.zeros(a.shape, dtype=lab.dtype),
        lambda lab, a, b: torch.arange(3, dtype=lab.dtype),
        lambda lab, a, b: torch.eye(2, dtype=lab.dtype),
    ),
    "weight": lambda lab, a, b, k: lab.weight(k, *a.shape),
    "weight row": lambda lab, a, b, k: lab.weight(k, 3)[k % 3 :],
    "weight made": kinds(
        lambda lab, a, b: lab.weight(0, 3).softmax(0),
        lambda lab, a, b: lab.weight(0, 2, 3).T,
        lambda lab, a, b: lab.weight(0, 3) * 2 - lab.weight(1, 3),
        lambda lab, a, b: lab.weight(0, 3).detach(),
        lambda lab, a, b: torch.cat([lab.weight(0, 3), lab.weight(1, 1)]),
        lambda lab, a, b: lab.weight(0, 2, 2) @ lab.weight(1, 2, 2),
        lambda lab, a, b: lab.weight(0, 3).sum(),
    ),
    "buffer": kinds(
        lambda lab, a, b: lab.buffer,
        lambda lab, a, b: lab.buffer * 2,
        lambda lab, a, b: lab.buffer[1:],
        lambda lab, a, b: lab.buffer.sum(),
    ),
}

# functions whose derivative jumps, is cut, or is a custom one
KINKED: dict[str, Code] = {
    "relu": lambda lab, a, b, k: torch.relu(near(a)),
    "abs": lambda lab, a, b, k: near(a).abs(),
    "clamp": kinds(
        lambda lab, a, b: a.clamp(-0.8711, 0.6131),
        lambda lab, a, b: near(a).clamp(min=0),
        lambda lab, a, b: torch.clamp(a, max=0.5171),
    ),
    "leaky": lambda lab, a, b, k: F.leaky_relu(near(a), 0.1),
    "elu": lambda lab, a, b, k: F.elu(near(a), 0.5 + k % 2),
    "hardtanh": lambda lab, a, b, k: F.hardtanh(a, -0.5171, 0.7131),
    "relu6": lambda lab, a, b, k: F.relu6(near(a)),
    "hardsigmoid": lambda lab, a, b, k: F.hardsigmoid(a),
    "threshold": lambda lab, a, b, k: F.threshold(a, 0.1234, 0.5),
    "maximum": lambda lab, a, b, k: torch.maximum(a, near(b)),
    "minimum": lambda lab, a, b, k: torch.minimum(a, near(b) - 0.6),
    "floor": kinds(
        lambda lab, a, b: (near(a) * 3).floor(),
        lambda lab, a, b: near(a).ceil(),
        lambda lab, a, b: (near(a) * 5).round(),
        lambda lab, a, b: near(a).trunc(),
    ),
    "sign": lambda lab, a, b, k: near(a).sign(),
    "frac": lambda lab, a, b, k: torch.frac(near(a)),
    "remainder": lambda lab, a, b, k: near(a) % 0.7,
    "fmod": lambda lab, a, b, k: torch.fmod(near(a), 0.7),
    "floor_divide": lambda lab, a, b, k: (
        near(a) // 0.3
        if k % 2
        else torch.div(near(a), 0.7, rounding_mode=("floor", "trunc")[k % 4 // 2])
    ),
    "amax": lambda lab, a, b, k: near(a).amax(dim(a, k)) if k % 2 else near(a).max(),
    "amin": lambda lab, a, b, k: near(a).amin(dim(a, k)) if k % 2 else near(a).min(),
    "max": lambda lab, a, b, k: a.max(dim(a, k)),
    "min": lambda lab, a, b, k: torch.min(a, dim(a, k), keepdim=True),
    "sort": lambda lab, a, b, k: torch.sort(a, dim(a, k)),
    "topk": lambda lab, a, b, k: a.topk(1 + k % 2),
    "median": lambda lab, a, b, k: a.flatten().clone().median(0).values,
    "cummax": lambda lab, a, b, k: a.cummax(dim(a, k)).values,
    "where": lambda lab, a, b, k: torch.where(near(a) > 0, b, a * 0.5),
    "where number": lambda lab, a, b, k: torch.where(near(b) > 0.2, a, (0.0, 1, -1.5)[k % 3]),
    "masked_fill": lambda lab, a, b, k: a.masked_fill(near(b) < 0, (0.5, -1)[k % 2]),
    "masked softmax": lambda lab, a, b, k: torch.where(
        torch.arange(a.shape[-1]) < 1 + k % 3, a, float("-inf")
    ).softmax(-1),
    "filled softmax": lambda lab, a, b, k: a.masked_fill(
        (near(b) > 0) & (torch.arange(a.shape[-1]) > 0), float("-inf")
    ).softmax(-1),
    "detach": lambda lab, a, b, k: a.detach() if k % 2 else a.detach() * 0.5 + a,
    "data": lambda lab, a, b, k: a.data * b,
    "spike": lambda lab, a, b, k: Spike.apply(a),
    "turned gradient": lambda lab, a, b, k: Turned.apply(a, 0.5 + k % 2),
    "two results": lambda lab, a, b, k: Both.apply(a, b),
    "function of weight": lambda lab, a, b, k: a * Turned.apply(lab.weight(k), 0.5),
}

# integers and booleans, as results and as operands
WHOLE: dict[str, Code] = {
    "gt": lambda lab, a, b, k: near(a) > (b, 0.25, 1)[k % 3],
    "le": lambda lab, a, b, k: torch.le(near(a), (b, 0.25, 2)[k % 3]),
    "eq": lambda lab, a, b, k: near(a) == (b, 1)[k % 2],
    "ne": lambda lab, a, b, k: near(a) != (b, 0)[k % 2],
    "and": lambda lab, a, b, k: a & b,
    "or": lambda lab, a, b, k: a | (b, 5)[k % 2],
    "xor": lambda lab, a, b, k: a ^ b,
    "not": lambda lab, a, b, k: ~a,
    "logical": kinds(
        lambda lab, a, b: torch.logical_and(a, b),
        lambda lab, a, b: a.logical_or(b),
        lambda lab, a, b: torch.logical_not(a),
        lambda lab, a, b: torch.logical_xor(a, b),
    ),
    "shift": lambda lab, a, b, k: (a.long() << 1 + k % 2) if k % 3 else (a.long() >> 1),
    "bits": kinds(
        lambda lab, a, b: torch.bitwise_and(a, 6),
        lambda lab, a, b: torch.bitwise_or(a, 1),
        lambda lab, a, b: a.bitwise_xor(3),
    ),
    "long": lambda lab, a, b, k: (near(a) * 3).long(),
    "int": lambda lab, a, b, k: (near(a) * 2).int(),
    "small": lambda lab, a, b, k: (near(a) * 2).to(torch.int8).abs(),
    "bool": lambda lab, a, b, k: a.bool() if k % 2 else (near(a) > 0),
    "floating": lambda lab, a, b, k: a.to(lab.dtype),
    "typed": lambda lab, a, b, k: a.type_as(b),
    "like it": lambda lab, a, b, k: a.to(b),
    "whole number": kinds(
        lambda lab, a, b: a + 1,
        lambda lab, a, b: a * 3,
        lambda lab, a, b: 7 - a,
        lambda lab, a, b: a - 2,
        lambda lab, a, b: a * True,
    ),
    "half": kinds(
        lambda lab, a, b: a * 0.5,
        lambda lab, a, b: a + 0.25,
        lambda lab, a, b: a / 2,
        lambda lab, a, b: 1.5 - a,
    ),
    "whole division": kinds(
        lambda lab, a, b: a // 2,
        lambda lab, a, b: a % 3,
        lambda lab, a, b: torch.div(a, 2, rounding_mode="trunc"),
    ),
    "argmax": lambda lab, a, b, k: a.argmax(dim(a, k)) if k % 3 else a.argmax(),
    "argmin": lambda lab, a, b, k: near(a).argmin(dim(a, k), keepdim=bool(k % 2)),
    "argsort": lambda lab, a, b, k: torch.argsort(a, dim(a, k)),
    "any": lambda lab, a, b, k: (near(a) > 0).any(dim(a, k)) if k % 2 else (near(a) > 0).all(),
    "count": lambda lab, a, b, k: (near(a) > 0).sum(dim(a, k)),
    "one_hot": lambda lab, a, b, k: F.one_hot(a.long() % 3, 3),
    "embedding": lambda lab, a, b, k: F.embedding(
        a.long() % 4, lab.weight(k, 4, 2), padding_idx=(None, 0)[k % 2]
    ),
    "row of": lambda lab, a, b, k: lab.weight(k, 3, 2)[a.long() % 3],
    "take": lambda lab, a, b, k: a[b.long() % a.shape[0]],
    "gather": lambda lab, a, b, k: a.gather(0, b.long() % a.shape[0]),
    "index_select": lambda lab, a, b, k: a.index_select(dim(a, k), b.long() % a.shape[dim(a, k)]),
    "scatter": lambda lab, a, b, k: torch.zeros_like(a).scatter(0, b.long() % a.shape[0], a),
    "nan_to_num": lambda lab, a, b, k: torch.nan_to_num(a),
    "isfinite": lambda lab, a, b, k: torch.isfinite(a),
}


def _set(a: Any, index: Any, value: Any) -> None:
    a[index] = value


def _add(a: Any, b: Any) -> Any:
    a += b


def _mul(a: Any, b: Any) -> Any:
    a *= b


# in-place writes, visible through other names and views
PLACES: dict[str, Code] = {
    "add_": lambda lab, a, b, k: a.add_(b),
    "mul_": lambda lab, a, b, k: a.mul_((b, 0.5)[k % 2]),
    "sub_": lambda lab, a, b, k: a.sub_(1),
    "+=": lambda lab, a, b, k: _add(a, b),
    "*=": lambda lab, a, b, k: _mul(a, (b, 2)[k % 2]),
    "fill_": lambda lab, a, b, k: a.fill_((0.5, 1)[k % 2]),
    "zero_": lambda lab, a, b, k: a.zero_(),
    "copy_": lambda lab, a, b, k: a.copy_(b),
    "tanh_": lambda lab, a, b, k: a.tanh_(),
    "clamp_": lambda lab, a, b, k: a.clamp_(-0.7131, 0.5171),
    "relu inplace": lambda lab, a, b, k: F.relu(a.add_(0.3713), inplace=True),
    "part": lambda lab, a, b, k: a[k % 2 :].mul_(2),
    "set": lambda lab, a, b, k: _set(a, k % 3 - 1, (0.5, b)[k % 2]),
    "set part": lambda lab, a, b, k: _set(a, slice(None, None, 2), b),
    "set last": lambda lab, a, b, k: _set(a, (..., -1), (1.0, b)[k % 2]),
    "set where": lambda lab, a, b, k: _set(a, near(b) > 0, 0.25),
    "turned part": lambda lab, a, b, k: a.t()[0].add_(1),
    "masked_fill_": lambda lab, a, b, k: a.masked_fill_(near(b) > 0, 0.75),
    "row part": lambda lab, a, b, k: a.view(-1)[: 1 + k % 2].copy_(b),
}

# dropout, in programs that are checked in training by finite differences
NOISE: dict[str, Code] = {
    "dropout": lambda lab, a, b, k: F.dropout(a, 0.4, lab.training),
}

CODE = {**SMOOTH, **SHAPES, **KINKED, **WHOLE, **PLACES, **NOISE}

MODES: dict[str, Callable[[], Any]] = {
    "": contextlib.nullcontext,
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "enable_grad": torch.enable_grad,
    "set_grad_enabled": lambda: torch.set_grad_enabled(False),
}
