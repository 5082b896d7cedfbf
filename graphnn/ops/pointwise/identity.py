"""Pointwise functions that keep every element: casts, and identities with another gradient."""

from __future__ import annotations

from typing import Any

import torch

from graphnn.ops.builder import Expr, make
from graphnn.ops.registry import row


def _cast_grad(g: Expr, y: Expr, x: Expr) -> Any:
    return (make("cast", g, dtype=x.dtype) if x.dtype.is_floating_point else None,)


row(
    "cast",
    "pointwise",
    lambda x, dtype: torch.as_tensor(x).to(dtype),
    grad=_cast_grad,
    torch_text="{0}.to({dtype})",
)

# `x` in the dtype of another value. The pass `dtype_promotion` makes it a cast when the dtypes of a
# call are known.
row(
    "type_as",
    "pointwise",
    lambda x, other: x.to(other.dtype),
    axes=lambda axes, attrs: axes[0],
)


def _clip_grad(g: Expr, y: Expr, x: Expr) -> Any:
    bound = y.node.attrs["bound"]
    return (make("maximum", make("minimum", g, bound), -bound),)


class ClipGradient(torch.autograd.Function):
    """The identity whose gradient is clamped to [-bound, bound], for eager tensors."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: torch.Tensor, bound: float) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.bound = inputs[1]

    @staticmethod
    def jvp(ctx: Any, tangent: torch.Tensor, bound: None) -> torch.Tensor:
        # a view: what is computed here has no tangents of its own
        return tangent.view_as(tangent)

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> Any:  # type: ignore[override]
        return g.clamp(-ctx.bound, ctx.bound), None


def clip_gradient(x: torch.Tensor, bound: float) -> torch.Tensor:
    """Return `x`; its gradient is clamped elementwise to [-bound, bound]."""
    return ClipGradient.apply(x, bound)  # type: ignore[no-any-return]


row(
    "clip_gradient",
    "pointwise",
    lambda x, bound: x if x.device.type == "meta" else clip_gradient(x, bound),
    grad=_clip_grad,
    torch_text="runtime.clip_gradient({0}, {bound})",
    triton_text="{0}",
)
row(
    "detach",
    "pointwise",
    lambda x: x.detach(),
    grad=lambda g, y, x: (None,),
    torch_text="{0}.detach()",
    triton_text="{0}",
    same_dtype=True,
)
