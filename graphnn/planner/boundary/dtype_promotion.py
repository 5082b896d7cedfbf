"""Dtype promotion: operands of different dtypes are cast to the one that torch computes in.

torch's implicit promotion becomes explicit casts. They follow its rules for one example: there a
value of shape () has a lower priority than one with dimensions, which it would lose in a batch.
Afterwards all operands of an operation have one dtype, on every backend.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch

from graphnn.ir.graph import IR, Node
from graphnn.ops.builder import Expr, make
from graphnn.ops.registry import OPS
from graphnn.planner.core.rewrite import rewrite

UNPROMOTED = frozenset({"cast", "type_as", "detach", "clip_gradient", "isnan", "logical_not"})


def promote(ir: IR) -> IR:
    """Cast operands whose dtype differs from the one that their operation computes in."""
    return rewrite(ir, _uniform)


def _uniform(new: IR, node: Node) -> Expr | int | None:
    if node.op in ("cast", "type_as"):
        return _stated(new, node)
    places = list(_promoted(node))
    kind = _common(new, node, places)
    differing = {k for k in places if _needs_cast(new[node.inputs[k]], kind)}
    if differing and kind in _HALVES and not all(_fits(new[node.inputs[k]]) for k in differing):
        return _widely(new, node, places, kind)
    if differing:
        cast = [
            make("cast", Expr(new, i), name="", dtype=kind).id if k in differing else i
            for k, i in enumerate(node.inputs)
        ]
        node.inputs = tuple(cast)
    return None


_HALVES = (torch.bfloat16, torch.float16)


def _fits(operand: Node) -> bool:
    """Whether an operand is no more precise than a half."""
    return operand.dtype in _HALVES or not operand.dtype.is_floating_point


def _widely(new: IR, node: Node, places: list[int], kind: torch.dtype) -> Expr:
    """An operation on halves and a more precise value: torch rounds once, at the end."""
    wide = [
        make("cast", Expr(new, i), name="", dtype=torch.float32).id
        if k in places and new[i].op != "const"
        else i
        for k, i in enumerate(node.inputs)
    ]
    made = replace(node, id=new.fresh(), inputs=tuple(wide), dtype=torch.float32)
    return make("cast", Expr(new, new.insert(made)), dtype=kind)


def _stated(new: IR, node: Node) -> Expr | None:
    """A `cast` or `type_as` as one cast, or its operand if that has the dtype already."""
    source = Expr(new, node.inputs[0])
    if source.dtype == node.dtype and source.node.op != "const":
        return source
    return None if node.op == "cast" else make("cast", source, dtype=node.dtype)


def _promoted(node: Node) -> Iterable[int]:
    """The positions of the operands that torch promotes to one dtype."""
    family = OPS[node.op].family
    if node.op in UNPROMOTED or node.op.startswith("logical") or family not in _PROMOTING:
        return ()
    return range(node.op == "where", len(node.inputs))


def _needs_cast(operand: Node, kind: torch.dtype) -> bool:
    """Whether an operand has to be cast.

    Constants adapt to any dtype. An operation from complex to real values, such as `abs`, takes its
    operand as it is.
    """
    onto = kind.is_complex or not operand.dtype.is_complex
    return operand.op != "const" and operand.dtype != kind and onto


_PROMOTING = ("pointwise", "join")


def _common(ir: IR, node: Node, places: list[int]) -> torch.dtype:
    """The dtype that an operation computes in: that of its result, unless it is a comparison."""
    operands = [ir[node.inputs[k]] for k in places]
    if node.dtype != torch.bool or len(operands) != 2:
        return node.dtype
    a, b = (_example(n) for n in operands)
    return torch.result_type(a, b)  # type: ignore[arg-type]


def _example(node: Node) -> torch.Tensor | int | float | bool:
    if node.op == "const":
        number: int | float | bool = node.attrs["value"]
        return number
    return torch.empty(node.shape, dtype=node.dtype, device="meta")
