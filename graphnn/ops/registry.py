"""The rows of the table of operations, and the inference of shape, dtype and axes from them.

Recipe: a new operation is one row.

1. Find the module of its family: `pointwise.unary`, `pointwise.binary`, `pointwise.select`,
   `matmul`, `reductions`, `views` or `axis`. A pointwise function of one tensor that torch has
   under the same name is one call, for example in `pointwise.unary`:

       unary("tan", lambda g, y, x: g * (y * y + 1), triton="(tl.sin({0}) / tl.cos({0}))", flops=20)

   The name gives the reference semantics (`torch.tan`), the text of the torch backend
   (`torch.tan({0})`, `torch.tan({0}, out={out})`) and the functions that are traced to the row
   (`torch.tan`, `Tensor.tan`, `torch.special.tan` if there is one; more names in `aliases=`).
   The lambda is the gradient: `g` flows to the result `y` of the operand `x`.
   `triton` is the text in kernels. Functions without `tl.` are those of
   `graphnn.kernels.codegen.prelude`: write a longer one there, as a `@triton.jit` function.
   The generated kernel imports it by itself. `flops` is the cost of one element, in additions.
2. Run `tests/operators/test_registry.py`. It names every part that the row lacks (no gradient, no
   Triton text, no torch function, ...), and says what to add. A part that cannot exist goes into
   the test's table LACKING, with the reason. The same test compares the row with torch: forward and
   gradient, in and outside a loop, on every backend, kernels included. Kernels are also compared
   in float32, relative to each result. If the function is not defined for every number, add its
   interval to the test's table DOMAINS, and to WIDE in `tests/operators/accuracy.py`.
3. A new function of the prelude is compared with torch, also at infinities and NaN, by
   `tests/kernels/codegen/test_prelude.py`: add it to that file's table.

A torch function that is a formula of operations that exist needs no row but a handler: see
`graphnn.ops.torch.registry`.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from graphnn.errors import DtypeError, ShapeError
from graphnn.ir.graph import IR, Node
from graphnn.ir.source_location import Site

Signature = tuple[tuple[int, ...], torch.dtype]
Axes = frozenset[str]
# a sum of products: for each summand its sign, and the operands that it multiplies
SumOfProducts = tuple[tuple[int, tuple[int, ...]], ...]


def _union(axes: Sequence[Axes], attrs: dict[str, Any]) -> Axes:
    return frozenset().union(*axes)


def contracted(axes: Sequence[Axes], attrs: dict[str, Any]) -> Axes:
    """Return the axes of an operation that sums over the axes in its attribute `contract`."""
    return _union(axes, attrs) - attrs["contract"]


@dataclass(frozen=True)
class Primitive:
    """One row of the table: all that is known of one primitive operation.

    Semantics:
        `run(*tensors, **attrs)` defines the operation, on one example at one position. Operations
        of the family `axis` get the axis as the first dimension of their first argument.
        `grad(g, y, *xs)` returns one expression per operand, its gradient (None: no gradient),
        from the gradient `g` of the result `y`.
        `axes(axes of the operands, attrs)` returns the axes of the result; the union by default.
        `keeps_axis`: the result of an operation over an axis varies over this axis, too.
        `private` attributes are not passed to `run`.
    Tracing:
        `torch_names`: the torch functions that are exactly this operation.
    Torch backend:
        `torch_text` and `out_text` are the batched operation and the one that writes into `{out}`,
        operands in braces.
    Kernels:
        `triton_text` is the operation on tiles, operands in braces. `prelude` is the function of
        `graphnn.kernels.codegen.prelude` that computes it: of pointwise operations `triton_text`
        follows from it; of operations over an axis it is a function over the positions of the block
        axis. `floats_only`: kernels have it for floating numbers only. `truth_operands`: operands
        are converted to truth values first.
    Properties that passes use:
        `linear_in`: the operation as a sum of products of its operands; () if it is not one.
        `same_dtype`: operands of one floating dtype and one shape give a result of both, so that
        inference needs no call of `run`.
        `flops`: the cost per element, in additions.
    """

    name: str
    family: str
    run: Callable[..., Any] | None = None
    grad: Callable[..., Sequence[Any]] | None = None
    torch_names: tuple[str, ...] = ()
    torch_text: str = ""
    out_text: str = ""
    triton_text: str = ""
    prelude: str = ""
    linear_in: SumOfProducts = ()
    same_dtype: bool = False
    floats_only: bool = False
    truth_operands: bool = False
    keeps_axis: bool = False
    axes: Callable[[Sequence[Axes], dict[str, Any]], Axes] = _union
    private: frozenset[str] = frozenset()
    flops: int = 1

    @property
    def arity(self) -> int:
        """The number of operands, which the text of the torch backend has in braces."""
        fields = (field for _, field, _, _ in string.Formatter().parse(self.torch_text))
        return len({f for f in fields if f and f.isdigit()})


OPS: dict[str, Primitive] = {}


def row(name: str, family: str, run: Callable[..., Any] | None = None, **fields: Any) -> Primitive:
    """Add a row to the table."""
    made = Primitive(name, family, run, **fields)
    if made.prelude and family == "pointwise":
        operands = ", ".join(f"{{{k}}}" for k in range(made.arity))
        made = replace(made, triton_text=f"{made.prelude}({operands})")
    OPS[name] = made
    return made


_INFERRED: dict[Any, Signature] = {}
# the largest number of signatures that are remembered
INFERRED = 4096


def _key(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return tuple(_key(v) for v in value)
    return value


def _plain(op: Primitive, operands: list[Node]) -> Signature | None:
    """The signature of an operation whose result is like its operands, without running it."""
    first = operands[0] if operands else None
    if first is None or not op.same_dtype or not first.dtype.is_floating_point:
        return None
    if any(n.op == "const" or n.dtype != first.dtype for n in operands):
        return None
    if all(n.shape == first.shape for n in operands):
        return first.shape, first.dtype
    return None


def numbers_stay(op: Primitive, operands: Sequence[Node]) -> bool:
    """Return whether Python numbers stay numbers: next to tensors they take their dtype."""
    return op.family == "pointwise" and any(n.op != "const" for n in operands)


def infer(op: Primitive, operands: list[Node], attrs: dict[str, Any]) -> Signature:
    """Return shape and dtype by running the operation on meta tensors; cached by signature."""
    public = {k: v for k, v in attrs.items() if k not in op.private}
    bare = numbers_stay(op, operands)
    args = [n.attrs["value"] if bare and n.op == "const" else (n.shape, n.dtype) for n in operands]
    # 1, 1.0 and True are equal keys but infer different dtypes, hence the type next to the value
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
        _INFERRED[key] = (tuple(result.shape)[int(op.keeps_axis) :], result.dtype)
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
    """Add a node; shape, dtype and axes are inferred unless given. Returns its id.

    Raises ShapeError, with the user's line, if the operands do not fit together.
    """
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
    """Raise DtypeError for a product of several dtypes: as in torch, operands are not cast."""
    kinds = dict.fromkeys(n.dtype for n in operands if n.op != "const")
    if op != "einsum" or len(kinds) < 2:
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
