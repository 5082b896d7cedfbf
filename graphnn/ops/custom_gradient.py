"""Values whose gradient the user defines: see `graphnn.tracing.effects.autograd_function`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from graphnn.ir.graph import IR, Node
from graphnn.ops.builder import Expr
from graphnn.ops.registry import OPS, row


@dataclass(frozen=True, eq=False)
class Rule:
    """A traced backward: `ir` has `given` nodes for the gradient of the value and for `reads`.

    `moving` are the inputs that have gradients, and `grads` their nodes (None: no gradient).
    """

    ir: IR
    flow: int
    moving: tuple[int, ...]
    reads: tuple[int, ...]
    grads: tuple[int | None, ...]

    def inlined(self, flow: Expr, reads: Sequence[Any]) -> list[Expr | None]:
        """Return the gradients as expressions in the graph of `flow`."""
        new = flow.ir
        moved: dict[int, int] = {self.flow: flow.id}
        places = dict(zip(self.reads, reads, strict=True))
        for node in self.ir:
            if node.id in moved:
                continue
            if node.id in places:
                moved[node.id] = places[node.id].id
                continue
            inputs = tuple(moved[i] for i in node.inputs)
            axes = node.axes
            if inputs:
                axes = OPS[node.op].axes([new[i].axes for i in inputs], node.attrs)
            moved[node.id] = new.insert(replace(node, id=new.fresh(), inputs=inputs, axes=axes))
        return [None if i is None else Expr(new, moved[i]) for i in self.grads]

    def evaluated(self, flow: torch.Tensor, reads: Sequence[Any]) -> list[Any]:
        """Return the gradients of one example, as tensors."""
        values: dict[int, Any] = {self.flow: flow, **dict(zip(self.reads, reads, strict=True))}
        for node in self.ir:
            if node.id not in values:
                values[node.id] = _run(node, [values[i] for i in node.inputs], flow)
        return [None if i is None else values[i] for i in self.grads]


def _run(node: Node, operands: list[Any], like: torch.Tensor) -> Any:
    if node.op == "const":
        return torch.full((), node.attrs["value"], dtype=node.dtype, device=like.device)
    if node.op == "pick":
        return operands[0][node.attrs["which"]]
    op = OPS[node.op]
    keys = ("function", "arrange") if op.name == "opaque" else node.attrs
    attrs = {k: node.attrs[k] for k in keys if k not in op.private}
    return op.run(*operands, **attrs)  # type: ignore[misc]


class _WithRule(torch.autograd.Function):
    """The identity on the first tensor; a rule computes the gradients of the others."""

    generate_vmap_rule = True

    @staticmethod
    def forward(rule: Rule, value: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.rule, _, *rest = inputs
        ctx.save_for_backward(*rest)

    @staticmethod
    def backward(ctx: Any, flow: torch.Tensor) -> Any:  # type: ignore[override]
        rule: Rule = ctx.rule
        moving = ctx.saved_tensors[: len(rule.moving)]
        found = rule.evaluated(flow, ctx.saved_tensors[len(rule.moving) :])
        grads = [None if g is None else _fitted(g, x) for g, x in zip(found, moving, strict=True)]
        return None, None, *grads, *[None] * len(rule.reads)


def _fitted(g: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Return a gradient in the shape and dtype of its input, as torch's engine does."""
    return g.sum_to_size(x.shape).to(x.dtype)


def with_rule(value: torch.Tensor, *rest: torch.Tensor, rule: Rule) -> torch.Tensor:
    """Return `value`; a rule computes the gradients of its moving inputs, followed by its reads."""
    return _WithRule.apply(rule, value, *rest)  # type: ignore[no-any-return]


def _grad(g: Expr, y: Expr, value: Expr, *rest: Expr) -> Any:
    rule: Rule = y.node.attrs["rule"]
    count = len(rule.moving)
    return (None, *rule.inlined(g, rest[count:]), *[None] * len(rule.reads))


row(
    "custom",
    "custom",
    with_rule,
    grad=_grad,
    axes=lambda operands, attrs: operands[0],
    private=frozenset({"called"}),
)


def values_alone(ir: IR) -> IR:
    """Return a graph without `custom` nodes: the values of these, without gradients."""
    if not any(n.op == "custom" for n in ir):
        return ir
    new = ir.copy()
    for i, node in ir.nodes.items():
        if node.op == "custom":
            new.nodes[i] = replace(node, op="detach", inputs=node.inputs[:1], attrs={})
    return new
