"""promote: operands of several dtypes are cast to the one that torch computes in.

What torch does within an operation is written out as casts, by the meaning of one example: there a
value of shape () counts less than one with dimensions, which it no longer would in a batch. After
this every operation has operands of one dtype, on whatever backend.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch

from graphnn.ir.graph import IR, Node
from graphnn.ops.builder import Expr, make
from graphnn.ops.registry import OPS
from graphnn.planner.core.rewrite import rewrite

AS_THEY_ARE = frozenset({"cast", "type_as", "detach", "clip_gradient", "isnan", "logical_not"})


def promote(ir: IR) -> IR:
    """Casts for operands that have another dtype than their operation computes in."""
    return rewrite(ir, _uniform)


def _uniform(new: IR, node: Node) -> Expr | int | None:
    if node.op in ("cast", "type_as"):
        return _stated(new, node)
    places = list(_together(node))
    kind = _common(new, node, places)
    strange = {k for k in places if _strange(new[node.inputs[k]], kind)}
    if strange and kind in _HALVES and not all(_fits(new[node.inputs[k]]) for k in strange):
        return _widely(new, node, places, kind)
    if strange:
        cast = [
            make("cast", Expr(new, i), name="", dtype=kind).id if k in strange else i
            for k, i in enumerate(node.inputs)
        ]
        node.inputs = tuple(cast)
    return None


_HALVES = (torch.bfloat16, torch.float16)


def _fits(operand: Node) -> bool:
    """Whether an operand is not more precise than the halves are."""
    return operand.dtype in _HALVES or not operand.dtype.is_floating_point


def _widely(new: IR, node: Node, places: list[int], kind: torch.dtype) -> Expr:
    """An operation on halves and a more precise number, which torch rounds once, at the end."""
    wide = [
        make("cast", Expr(new, i), name="", dtype=torch.float32).id
        if k in places and new[i].op != "const"
        else i
        for k, i in enumerate(node.inputs)
    ]
    made = replace(node, id=new.fresh(), inputs=tuple(wide), dtype=torch.float32)
    return make("cast", Expr(new, new.insert(made)), dtype=kind)


def _stated(new: IR, node: Node) -> Expr | None:
    """A cast that says one dtype, where it changes anything."""
    source = Expr(new, node.inputs[0])
    if source.dtype == node.dtype and source.node.op != "const":
        return source
    return None if node.op == "cast" else make("cast", source, dtype=node.dtype)


def _together(node: Node) -> Iterable[int]:
    """Which operands torch takes to one dtype."""
    family = OPS[node.op].family
    if node.op in AS_THEY_ARE or node.op.startswith("logical") or family not in _PROMOTING:
        return ()
    return range(node.op == "where", len(node.inputs))


def _strange(operand: Node, kind: torch.dtype) -> bool:
    """Whether an operand has to be cast: numbers take any dtype, and what takes a complex operand
    to a real value, as `abs` does, takes it as it is."""
    onto = kind.is_complex or not operand.dtype.is_complex
    return operand.op != "const" and operand.dtype != kind and onto


_PROMOTING = ("pointwise", "join")


def _common(ir: IR, node: Node, places: list[int]) -> torch.dtype:
    """The dtype that an operation computes in: of its result, unless that is an answer."""
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
