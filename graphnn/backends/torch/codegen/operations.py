"""One operation on batched tensors as a torch expression."""

from __future__ import annotations

import functools
import string
from collections.abc import Callable

import torch

from graphnn.backends.opaque_calls import OpaqueCall, opaque_run
from graphnn.backends.torch.codegen.code import Expression, code, joined
from graphnn.backends.torch.codegen.scope import (
    DEVICE,
    DTYPE,
    Scope,
    accepts_number,
    as_tensor,
    dtype_text,
    expand,
    filled,
    literal,
    permute,
    shape_text,
)
from graphnn.ir.graph import IR, Node
from graphnn.kernels.ir.printer import closing
from graphnn.ops.custom_gradient import with_rule
from graphnn.ops.matmul import split_sub
from graphnn.ops.registry import OPS, numbers_stay


def express(s: Scope, node: Node) -> Expression:
    """The expression that computes `node` from variables in scope."""
    writer = WRITERS.get(node.op)
    if writer is not None:
        return writer(s, node)
    family = OPS[node.op].family
    if family == "pointwise":
        return pointwise(s, node, OPS[node.op].torch_text)
    if family == "axis":
        return _axis(s, node)
    raise AssertionError(f"operation '{node.op}' has no torch code")


def pointwise(s: Scope, node: Node, template: str, out: Expression | None = None) -> Expression:
    """A pointwise operation from its template, which writes into `out` if given."""
    axes, rank = s.axes(node), len(node.shape)
    operands = [s.aligned(i, axes, rank) for i in node.inputs]
    mixed = numbers_stay(OPS[node.op], s.ir.operands(node))
    if not mixed:
        operands = [s.tensor(i) for i in node.inputs]
    calls = "(" in template.partition("{")[0][1:]
    for k, i in enumerate(node.inputs if mixed else ()):
        bare = s.ir[i].op == "const" and not accepts_number(node.op, k)
        if node.op == "where" and k == 2 and all(s.ir[j].op == "const" for j in node.inputs[1:]):
            operands[k] = filled("()", operands[k], dtype_text(s.ir, node.dtype))
        if bare and calls and node.op != "where":
            operands[k] = filled("()", operands[k], dtype_text(s.ir, s.ir[i].dtype))
    attrs: dict[str, object] = {
        k: literal(v) for k, v in node.attrs.items() if isinstance(v, (int, float))
    }
    if "dtype" in node.attrs:
        attrs["dtype"] = dtype_text(s.ir, node.attrs["dtype"])
    if out is not None:
        return code(template, *operands, out=out, **attrs)
    return code(_bare(template), *operands, **attrs)


@functools.cache
def _bare(template: str) -> str:
    """A template without a pair of parentheses around all of it."""
    around = template.startswith("(") and closing(template, 0) == len(template) - 1
    return template[1:-1] if around else template


def _axis(s: Scope, node: Node) -> Expression:
    axis = node.attrs["axis"]
    first, *rest = [s.ir[i] for i in node.inputs]
    axes = tuple(
        a
        for a in s.ir.layout(frozenset().union(*(s.ir[i].axes for i in node.inputs)) | {axis})
        if a not in s.dropped
    )
    x = s.aligned(first.id, axes, len(first.shape))
    have = s.axes(first)
    missing = next((k for k, a in enumerate(axes) if a in have), len(axes))
    x = code("{}[{}...]", x, "None, " * missing) if missing else x
    if axis not in have:
        sizes = [s.size(a) if a == axis else "-1" for a in axes] + ["-1"] * len(first.shape)
        x = expand(x, sizes)
    parts: list[object] = [x, axes.index(axis)]
    parts += [s.aligned(r.id, axes, len(first.shape)) for r in rest]
    parts += [f"{k}={node.attrs[k]}" for k in ("shift", "position", "k") if k in node.attrs]
    if node.op == "axis_softmax" and _masked(s.ir, first):
        parts.append("masked=True")
    return code("runtime.{}({})", node.op, joined(parts))


# operations whose results are finite; a -inf inside a product does not act as a mask
FINITE = frozenset(
    "tanh sigmoid sin cos erf sign exp relu abs square sqrt rsqrt product axis_softmax "
    "softmax axis_argmax argmax index size length random".split()
)


def _masked(ir: IR, node: Node) -> bool:
    """Whether a score may be -inf, by a mask in the graph or by one in the data."""
    seen: set[int] = set()
    stack = [node]
    while stack:
        node = stack.pop()
        op = node.attrs.get("was", node.op)
        if node.id in seen or op in FINITE or not node.dtype.is_floating_point:
            continue
        seen.add(node.id)
        if op == "const":
            if node.attrs["value"] == float("-inf"):
                return True
        elif op == "log" or not node.inputs or op in ("delay", "pick"):
            return True
        stack.extend(ir.operands(node)[: 1 if op == "affine" else None])
    return False


def _cast(s: Scope, node: Node) -> Expression:
    """Another dtype; the cast of a number is a tensor."""
    if s.ir[node.inputs[0]].op != "const":
        return pointwise(s, node, OPS["cast"].torch_text)
    return filled("()", s.var(node.inputs[0]), dtype_text(s.ir, node.dtype))


def _reshape(s: Scope, node: Node) -> Expression:
    x, k = s.tensor(node.inputs[0]), len(s.axes(node))
    lead = [code("*{}.shape[:{}]", x, k)] * bool(k)
    sizes = [*lead, *node.shape]
    return code("{}.reshape({})", x, joined(sizes) if sizes else "()")


def _permute(s: Scope, node: Node) -> Expression:
    k = len(s.axes(node))
    return permute(s.tensor(node.inputs[0]), [*range(k), *(k + d for d in node.attrs["dims"])])


def _expand(s: Scope, node: Node) -> Expression:
    axes = s.axes(node)
    x = s.aligned(node.inputs[0], axes, len(node.shape))
    if s.ir[node.inputs[0]].op in ("const", "size"):
        x = as_tensor(s, s.ir[node.inputs[0]])
    sizes = [*s.sizes(axes), *node.shape]
    return expand(x, sizes) if sizes else x


def _slice(s: Scope, node: Node) -> Expression:
    a, rank = node.attrs, len(node.shape)
    step = f":{a['step']}" if a["step"] != 1 else ""
    index = [f"{a['start']}:{a['stop']}{step}", *[":"] * (rank - a["dim"] - 1)]
    lead = ["..."] if len(s.axes(node)) + a["dim"] else []
    return code("{}[{}]", s.var(node.inputs[0]), ", ".join(lead + index))


def _flip(s: Scope, node: Node) -> Expression:
    return code("{}.flip({})", s.var(node.inputs[0]), node.attrs["dim"] - len(node.shape))


def _pad(s: Scope, node: Node) -> Expression:
    a = node.attrs
    where = (a["dim"] - len(node.shape), a["start"], a["step"], a["size"])
    return code("runtime.pad({}, {}, {}, {}, {})", s.var(node.inputs[0]), *where)


def _cat(s: Scope, node: Node) -> Expression:
    parts = joined(s.full(i, node) for i in node.inputs)
    return code("torch.cat(({}), {})", parts, node.attrs["dim"] - len(node.shape))


def _take(s: Scope, node: Node) -> Expression:
    table, index = node.inputs
    padding, axes = node.attrs["padding_idx"], s.axes(node)
    if s.axes(s.ir[table]):
        rank = len(s.ir[table].shape)
        wide, at = s.aligned(table, axes, rank), s.full(index, node)
        return code("runtime.take_each({}, {}, {}, {})", wide, at, len(axes), rank)
    more = f", {padding}" if padding is not None else ""
    return code("F.embedding({}, {}{})", s.var(index), s.var(table), more)


def _put_rows(s: Scope, node: Node) -> Expression:
    g, index = (s.ir[i] for i in node.inputs)
    wide = Node(-1, "", (), {}, (), g.axes | index.axes, g.dtype)
    kept = [s.axes(wide).index(a) for a in s.axes(node)]
    more = [kept] if kept else []
    operands = [s.full(g.id, wide), s.full(index.id, wide)]
    parts = [*operands, node.attrs["rows"], node.attrs["padding_idx"], *more]
    return code("runtime.{}({})", "put_each" if kept else "put_rows", joined(parts))


def _reduce(s: Scope, node: Node) -> Expression:
    x = s.ir[node.inputs[0]]
    dims = ", ".join(str(d - len(x.shape)) for d in node.attrs["dims"])
    return code("{}.{}(({},))", s.tensor(x.id), node.op, dims)


def _along_dim(s: Scope, node: Node) -> Expression:
    x = s.ir[node.inputs[0]]
    return code("{}.{}({})", s.tensor(x.id), node.op, node.attrs["dim"] - len(x.shape))


def _rename(s: Scope, node: Node) -> Expression:
    x = s.ir[node.inputs[0]]
    return s.permuted(s.var(x.id), [node.attrs["axes"].get(a, a) for a in s.axes(x)], node)


def _delay(s: Scope, node: Node) -> Expression:
    """A delay outside any loop: the whole sequence shifted."""
    axes, rank = s.axes(node), len(node.shape)
    source = s.full(s.ir.closings[node.id], node)
    inits = joined(s.aligned(i, axes, rank) for i in node.inputs)
    where = (axes.index(node.attrs["axis"]), node.attrs["steps"])
    return code("runtime.shift({}, {}, {}, [{}])", source, *where, inits)


def _final(s: Scope, node: Node) -> Expression:
    """A final state, read from the whole sequence of the node that closes the delay."""
    a = node.attrs
    like = Node(-1, "", (), {}, a["state_shape"], a["state_axes"], node.dtype)
    axes, rank = s.axes(like), len(like.shape)
    after, *rest = node.inputs
    inits = joined(s.aligned(i, axes, rank) for i in rest[: len(rest) - a["ragged"]])
    where = (axes.index(a["axis"]), a["steps"])
    parts = [s.full(after, like), *where, code("[{}]", inits), rank]
    parts += [s.aligned(rest[-1], axes, rank)] * a["ragged"]
    return code("runtime.final({})", joined(parts))


def _index(s: Scope, node: Node) -> Expression:
    return code("torch.arange({}, device={})", s.size(node.attrs["axis"]), DEVICE)


def _custom(s: Scope, node: Node) -> Expression:
    """A value with a user-defined derivative, computed per example as opaque calls are."""
    rule = node.attrs["rule"]

    def call(*tensors: torch.Tensor) -> list[torch.Tensor]:
        return [with_rule(*tensors, rule=rule)]

    return code("{}[0]", _by_vmap(s, node, OpaqueCall(node, call)))


def _opaque(s: Scope, node: Node) -> Expression:
    return _by_vmap(s, node, OpaqueCall(node, opaque_run(node)))


def _by_vmap(s: Scope, node: Node, call: OpaqueCall) -> Expression:
    axes = s.axes(node)
    operands = []
    for i in node.inputs:
        moves = bool(s.axes(s.ir[i]))
        if s.ir[i].op in ("const", "size"):
            operands.append(code("({}, False)", as_tensor(s, s.ir[i])))
        else:
            operands.append(code("({}, {})", s.full(i, node) if moves else s.var(i), moves))
    name = s.object(call, f"{node.op}_{node.attrs['called']}")
    return code("runtime.opaque({}, [{}], {})", name, joined(operands), shape_text(s.sizes(axes)))


def _scan(s: Scope, node: Node) -> Expression:
    axes, rank = s.axes(node), len(node.shape)
    a, b, start = node.inputs
    rest = tuple(x for x in axes if x != node.attrs["axis"])
    parts = [_spread(s, a, node), _spread(s, b, node), s.aligned(start, rest, rank)]
    more = [f"stated={node.dtype}"] if node.attrs["stated"] else []
    where = (axes.index(node.attrs["axis"]), node.attrs["reverse"])
    return code("runtime.scan({})", joined([*parts, *where, *more]))


def _spread(s: Scope, i: int, node: Node) -> Expression:
    """A value in all the dimensions of `node`, axes and shape."""
    sizes = [*s.sizes(s.axes(node)), *node.shape]
    if s.ir[i].op in ("const", "size"):
        return filled(shape_text(sizes), s.var(i), dtype_text(s.ir, node.dtype))
    if s.axes(s.ir[i]) == s.axes(node) and s.ir[i].shape == node.shape:
        return s.var(i)
    return expand(s.aligned(i, s.axes(node), len(node.shape)), sizes)


def _aten(s: Scope, node: Node) -> Expression:
    a = node.attrs
    x, *rest = node.inputs
    length: object = None
    if a["ragged"]:
        length = code("{}.reshape(-1, 1)", s.var(rest.pop()))
    states, weights = rest[:-4], rest[-4:]
    picks = (n for n in s.ir if n.op == "pick" and n.inputs[0] == node.id)
    cell = any(n.attrs["which"] == 2 for n in picks)
    lists = [code("[{}]", joined(s.var(i) for i in group)) for group in (states, weights)]
    more = [node.dtype] if a["stated"] else []
    parts = [repr(a["kind"]), s.var(x), *lists, a["reverse"], length, cell, *more]
    return code("runtime.recurrent({})", joined(parts))


def _pick(s: Scope, node: Node) -> Expression:
    x = code("{}[{}]", s.var(node.inputs[0]), node.attrs["which"])
    return code("{}.to({})", x, DTYPE) if node.attrs.get("narrow") else x


def is_linear(s: Scope, a: Node, b: Node, sub: str) -> bool:
    """Whether an einsum is x Wᵀ over the last dimension, with a weight without axes."""
    left, right, out = split_sub(sub)
    plain = len(right) == 2 and bool(left) and left[-1] == right[1] and out == left[:-1] + right[0]
    return plain and not s.axes(b) and bool(s.rank(a))


def is_transposed(s: Scope, a: Node, b: Node, sub: str) -> bool:
    """Whether an einsum is x W over the last dimension, as in a linear map's input gradient."""
    left, right, out = split_sub(sub)
    plain = len(right) == 2 and bool(left) and left[-1] == right[0] and out == left[:-1] + right[1]
    return plain and not s.axes(b) and bool(s.rank(a))


def _product(s: Scope, node: Node) -> Expression:
    a, b = (s.ir[i] for i in node.inputs[-2:])
    sub, contract = node.attrs["sub"], node.attrs["contract"] - set(s.dropped)
    if not contract and is_linear(s, a, b, sub):
        return _linear(s, a, s.var(b.id))
    if not contract and is_transposed(s, a, b, sub):
        if _packed(s, a):
            return _linear(s, a, code("{}.t()", s.var(b.id)))
        return code("torch.matmul({}, {})", s.var(a.id), s.var(b.id))
    if _is_outer(s, a, b, sub, contract):
        if s.valid is not None and _packed(s, a):
            valid = s.valid.name
            return code("runtime.packed_outer({}, {}, {})", valid, s.var(a.id), s.var(b.id))
        return code("runtime.outer({}, {})", s.var(a.id), s.var(b.id))
    return _einsum(s, node, a, b)


def _packed(s: Scope, x: Node) -> bool:
    """Whether a matmul can leave out a value's padding."""
    return s.valid is not None and s.axes(x) == s.valid.axes and len(x.shape) == 1


def _linear(s: Scope, x: Node, *weights: Expression) -> Expression:
    """A linear map by a weight and perhaps a bias.

    Matmuls over whole axes are large: there `runtime` chooses the library and skips padding.
    """
    operands = joined([s.var(x.id), *weights])
    if s.valid is not None and _packed(s, x):
        # gradients are zero beyond an example's end
        more = "" if s.valid.held else ", held=False"
        return code("runtime.packed_linear({}, {}{})", s.valid.name, operands, more)
    return code("{}.linear({})", "F" if s.dropped else "runtime", operands)


def _is_outer(s: Scope, a: Node, b: Node, sub: str, contract: frozenset[str]) -> bool:
    """Whether an einsum sums outer products over all axes, as in a weight's gradient."""
    left, right, out = split_sub(sub)
    same = s.axes(a) == s.axes(b) and set(s.axes(a)) == contract
    # the number of rows of an empty matrix cannot be inferred from its number of elements
    plain = bool(left) and bool(right) and left[:-1] == right[:-1] and 0 not in a.shape + b.shape
    return same and plain and out == left[-1] + right[-1] and left[-1] != right[-1]


def _einsum(s: Scope, node: Node, a: Node, b: Node) -> Expression:
    left, right, out = split_sub(node.attrs["sub"])
    free = iter(c for c in string.ascii_letters if c not in left + right + out)
    axes = sorted({*s.axes(a), *s.axes(b)}, key=list(s.ir.axes).index)
    letter = {axis: next(free) for axis in axes}

    def spell(n: Node, dims: str) -> str:
        return "".join(letter[x] for x in s.axes(n)) + dims

    equation = f"{spell(a, left)},{spell(b, right)}->{spell(node, out)}"
    return code("torch.einsum('{}', {}, {})", equation, s.tensor(a.id), s.tensor(b.id))


def _affine(s: Scope, node: Node) -> Expression:
    c, a, b = (s.ir[i] for i in node.inputs)
    if is_linear(s, a, b, node.attrs["sub"]) and not s.axes(c) and c.shape == b.shape[:1]:
        return _linear(s, a, s.var(b.id), s.var(c.id))
    return code("{} + {}", s.aligned(c.id, s.axes(node), len(node.shape)), _product(s, node))


WRITERS: dict[str, Callable[[Scope, Node], Expression]] = {
    "cast": _cast,
    "reshape": _reshape,
    "permute": _permute,
    "expand": _expand,
    "slice": _slice,
    "flip": _flip,
    "pad": _pad,
    "cat": _cat,
    "take": _take,
    "put_rows": _put_rows,
    "sum": _reduce,
    "amax": _reduce,
    "logsumexp": _reduce,
    "argmax": _along_dim,
    "softmax": _along_dim,
    "rename": _rename,
    "along": lambda s, node: s.var(node.inputs[0]),
    "delay": _delay,
    "final": _final,
    "index": _index,
    "opaque": _opaque,
    "custom": _custom,
    "vjp": _opaque,
    "pick": _pick,
    "scan": _scan,
    "aten": _aten,
    "einsum": _product,
    "affine": _affine,
}
