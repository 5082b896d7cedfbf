"""The rows of the table, and the inference of shape, dtype and axes from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from graphnn.errors import DtypeError, ShapeError
from graphnn.ir.graph import IR, Node
from graphnn.ir.source_location import Site
from graphnn.ops.triton_math import TRITON

Signature = tuple[tuple[int, ...], torch.dtype]
Axes = frozenset[str]


def _union(axes: Sequence[Axes], attrs: dict[str, Any]) -> Axes:
    return frozenset().union(*axes)


def contracted(axes: Sequence[Axes], attrs: dict[str, Any]) -> Axes:
    """Axes of an operation that sums over the named axes in its attribute `contract`."""
    return _union(axes, attrs) - attrs["contract"]


@dataclass(frozen=True)
class Op:
    """One primitive.

    `run(*tensors, **attrs)` is the meaning, on one example at one position; operations of the
    family `axis` get their first argument with the axis as its first dimension. `grad(g, y, *xs)`
    gives, as expressions, what flows to each input (None: nothing). `torch` and `out` are the
    templates by which the torch backend writes the batched operation, `triton` that of the kernels.
    """

    name: str
    family: str
    run: Callable[..., Any] | None = None
    grad: Callable[..., Sequence[Any]] | None = None
    torch: str = ""
    out: str = ""
    triton: str = ""
    axes: Callable[[Sequence[Axes], dict[str, Any]], Axes] = _union
    private: frozenset[str] = frozenset()
    flops: int = 1


OPS: dict[str, Op] = {}


def row(name: str, family: str, run: Callable[..., Any] | None = None, **fields: Any) -> Op:
    """Add a row to the table."""
    OPS[name] = Op(name, family, run, triton=TRITON.get(name, ""), **fields)
    return OPS[name]


# operations over a named axis whose result still varies over it
KEEPS_AXIS = frozenset({"axis_softmax", "axis_reverse", "axis_roll", "axis_top", "axis_put"})
_INFERRED: dict[Any, Signature] = {}
# signatures that are remembered at most
INFERRED = 4096


def _key(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return tuple(_key(v) for v in value)
    return value


# pointwise operations whose result has the dtype of operands that all have one
SAME_DTYPE = frozenset(
    "neg exp tanh sigmoid relu sqrt square add sub mul div addcmul lerp tanh_grad".split()
)


def _plain(op: Op, operands: list[Node]) -> Signature | None:
    """The signature of the plainest operations, without running them."""
    first = operands[0] if operands else None
    if first is None or op.name not in SAME_DTYPE or not first.dtype.is_floating_point:
        return None
    if any(n.op == "const" or n.dtype != first.dtype for n in operands):
        return None
    if all(n.shape == first.shape for n in operands):
        return first.shape, first.dtype
    return None


def numbers_stay(op: Op, operands: Sequence[Node]) -> bool:
    """Whether numbers stay Python's: where they meet tensors, whose dtype they take."""
    return op.family == "pointwise" and any(n.op != "const" for n in operands)


def infer(op: Op, operands: list[Node], attrs: dict[str, Any]) -> Signature:
    """Shape and dtype, by running the meaning on meta tensors; remembered by signature."""
    public = {k: v for k, v in attrs.items() if k not in op.private}
    bare = numbers_stay(op, operands)
    args = [n.attrs["value"] if bare and n.op == "const" else (n.shape, n.dtype) for n in operands]
    # 1, 1.0 and True are equal keys but infer different dtypes, hence the type beside the value
    typed = [(type(a), a) for a in args]
    attributes = _key(sorted(public.items(), key=lambda item: item[0]))
    # torch makes floats of integers in its default dtype
    key = (op.name, _key(typed), attributes, torch.get_default_dtype())
    if len(_INFERRED) > INFERRED:
        _INFERRED.clear()
    if key not in _INFERRED and (plain := _plain(op, operands)):
        _INFERRED[key] = plain
    if key not in _INFERRED:
        tensors = [
            torch.empty((2,) * (op.family == "axis" and i == 0) + a[0], dtype=a[1], device="meta")
            if isinstance(a, tuple)
            else a
            for i, a in enumerate(args)
        ]
        result = op.run(*tensors, **public)  # type: ignore[misc]
        skip = int(op.name in KEEPS_AXIS)
        _INFERRED[key] = (tuple(result.shape)[skip:], result.dtype)
    return _INFERRED[key]


def build(
    ir: IR,
    op_name: str,
    inputs: Sequence[int],
    attrs: dict[str, Any],
    *,
    shape: tuple[int, ...] | None = None,
    dtype: torch.dtype | None = None,
    axes: Axes | None = None,
    name: str | None = None,
    site: Site | None = None,
) -> int:
    """Add a node, inferring what is not given. Raises ShapeError naming the user's line."""
    op = OPS[op_name]
    operands = [ir[i] for i in inputs]
    if shape is None or dtype is None:
        try:
            inferred = infer(op, operands, attrs)
        except (RuntimeError, IndexError, TypeError, ValueError) as error:
            _refuse_mixing(op_name, operands, name or ir.here[0] or op_name, site or ir.here[1])
            raise ShapeError(
                f"'{op_name}' cannot be applied to these shapes: {_first_line(error)}",
                node=name or ir.here[0] or op_name,
                site=site or ir.here[1],
                got=", ".join(f"{n.label} {tuple(n.shape)} {n.dtype}" for n in operands),
                wanted="shapes of one example at one position: no batch, no named axis",
                fix="compare each value's `.shape`; batch and time are implied, never written",
            ) from None
        shape = inferred[0] if shape is None else shape
        dtype = inferred[1] if dtype is None else dtype
    if axes is None:
        axes = op.axes([n.axes for n in operands], attrs)
    node = Node(
        ir.fresh(),
        op_name,
        tuple(inputs),
        attrs,
        tuple(shape),
        axes,
        dtype,
        ir.here[0] if name is None else name,
        site or ir.here[1],
    )
    return ir.insert(node)


def _refuse_mixing(op: str, operands: list[Node], name: str, site: Site | None) -> None:
    """Raise the error of a product of several dtypes: as in torch, nothing casts its operands."""
    kinds = dict.fromkeys(n.dtype for n in operands if n.op != "const")
    if op != "product" or len(kinds) < 2:
        return
    got = " by ".join(f"{n.label} of {n.dtype}" for n in operands)
    raise DtypeError(
        f"a product of {' by '.join(map(str, kinds))}",
        node=name,
        site=site,
        got=got,
        wanted="operands of one dtype, as torch wants them",
        fix="cast one of them: x.type_as(weight), or x.to(dtype)",
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
