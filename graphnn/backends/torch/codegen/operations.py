"""Writing one operation on batched tensors as a torch expression."""

from __future__ import annotations

import string
from collections.abc import Callable

import torch

from graphnn.backends.opaque_calls import Called, opaque_run
from graphnn.backends.torch.codegen.scope import Scope, as_tensor, dtype_text, literal, takes_number
from graphnn.ir.graph import IR, Node
from graphnn.ops.custom_gradient import own
from graphnn.ops.matmul import split_sub
from graphnn.ops.registry import OPS, numbers_stay


def express(s: Scope, node: Node) -> str:
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


def pointwise(s: Scope, node: Node, template: str, out: str = "") -> str:
    """A pointwise operation from its template."""
    axes, rank = s.axes(node), len(node.shape)
    operands = [s.aligned(i, axes, rank) for i in node.inputs]
    mixed = numbers_stay(OPS[node.op], s.ir.operands(node))
    if not mixed:
        operands = [s.tensor(i) for i in node.inputs]
    calls = "(" in template.partition("{")[0][1:]
    for k, i in enumerate(node.inputs if mixed else ()):
        bare = s.ir[i].op == "const" and not takes_number(node.op, k)
        if node.op == "where" and k == 2 and all(s.ir[j].op == "const" for j in node.inputs[1:]):
            kind = dtype_text(s.ir, node.dtype)
            operands[k] = f"torch.full((), {operands[k]}, dtype={kind}, device=device)"
        if bare and calls and node.op != "where":
            kind = dtype_text(s.ir, s.ir[i].dtype)
            operands[k] = f"torch.full((), {operands[k]}, dtype={kind}, device=device)"
    attrs = {k: literal(v) for k, v in node.attrs.items() if isinstance(v, (int, float))}
    if "dtype" in node.attrs:
        attrs["dtype"] = dtype_text(s.ir, node.attrs["dtype"])
    text = template.format(*operands, out=out, **attrs)
    return text[1:-1] if not out and text.startswith("(") and _wrapped(text) else text


def _wrapped(text: str) -> bool:
    depth = 0
    for k, c in enumerate(text):
        depth += (c == "(") - (c == ")")
        if depth == 0:
            return k == len(text) - 1
    return False


def _axis(s: Scope, node: Node) -> str:
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
    x = f"{x}[{'None, ' * missing}...]" if missing else x
    if axis not in have:
        sizes = [s.size(a) if a == axis else "-1" for a in axes] + ["-1"] * len(first.shape)
        x = f"{x}.expand({', '.join(sizes)})"
    parts = [x, str(axes.index(axis))]
    parts += [s.aligned(r.id, axes, len(first.shape)) for r in rest]
    for k in ("shift", "position", "k"):
        if k in node.attrs:
            parts.append(f"{k}={node.attrs[k]}")
    if node.op == "axis_softmax" and _masked(s.ir, first):
        parts.append("masked=True")
    return f"runtime.{node.op}({', '.join(parts)})"


# what is finite, whatever it is made of; of a product -inf makes no mask
FINITE = frozenset(
    "tanh sigmoid sin cos erf sign exp relu abs square sqrt rsqrt product axis_softmax "
    "softmax axis_argmax argmax index size length random".split()
)


def _masked(ir: IR, node: Node) -> bool:
    """Whether a score may be -inf: by a mask in the graph, or one that is given."""
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


def _cast(s: Scope, node: Node) -> str:
    """In another dtype; a number becomes a tensor by it."""
    if s.ir[node.inputs[0]].op != "const":
        return pointwise(s, node, OPS["cast"].torch_text)
    kind = dtype_text(s.ir, node.dtype)
    return f"torch.full((), {s.var(node.inputs[0])}, dtype={kind}, device=device)"


def _reshape(s: Scope, node: Node) -> str:
    x, k = s.tensor(node.inputs[0]), len(s.axes(node))
    sizes = [f"*{x}.shape[:{k}]"] * bool(k) + [str(n) for n in node.shape]
    return f"{x}.reshape({', '.join(sizes)})" if sizes else f"{x}.reshape(())"


def _permute(s: Scope, node: Node) -> str:
    k = len(s.axes(node))
    dims = [*range(k), *(k + d for d in node.attrs["dims"])]
    return f"{s.tensor(node.inputs[0])}.permute({', '.join(map(str, dims))})"


def _expand(s: Scope, node: Node) -> str:
    axes = s.axes(node)
    x = s.aligned(node.inputs[0], axes, len(node.shape))
    if s.ir[node.inputs[0]].op in ("const", "size"):
        x = as_tensor(s, s.ir[node.inputs[0]])
    sizes = s.sizes(axes) + [str(n) for n in node.shape]
    return f"{x}.expand({', '.join(sizes)})" if sizes else x


def _slice(s: Scope, node: Node) -> str:
    a, rank = node.attrs, len(node.shape)
    step = f":{a['step']}" if a["step"] != 1 else ""
    index = [f"{a['start']}:{a['stop']}{step}", *[":"] * (rank - a["dim"] - 1)]
    lead = ["..."] if len(s.axes(node)) + a["dim"] else []
    return f"{s.var(node.inputs[0])}[{', '.join(lead + index)}]"


def _flip(s: Scope, node: Node) -> str:
    return f"{s.var(node.inputs[0])}.flip({node.attrs['dim'] - len(node.shape)})"


def _pad(s: Scope, node: Node) -> str:
    a = node.attrs
    dim = a["dim"] - len(node.shape)
    return f"runtime.place({s.var(node.inputs[0])}, {dim}, {a['start']}, {a['step']}, {a['size']})"


def _cat(s: Scope, node: Node) -> str:
    parts = ", ".join(s.full(i, node) for i in node.inputs)
    return f"torch.cat(({parts}), {node.attrs['dim'] - len(node.shape)})"


def _take(s: Scope, node: Node) -> str:
    table, index = node.inputs
    padding, axes = node.attrs["padding_idx"], s.axes(node)
    if s.axes(s.ir[table]):
        rank = len(s.ir[table].shape)
        wide, at = s.aligned(table, axes, rank), s.full(index, node)
        return f"runtime.take_each({wide}, {at}, {len(axes)}, {rank})"
    more = f", {padding}" if padding is not None else ""
    return f"F.embedding({s.var(index)}, {s.var(table)}{more})"


def _put_rows(s: Scope, node: Node) -> str:
    g, index = (s.ir[i] for i in node.inputs)
    wide = Node(-1, "", (), {}, (), g.axes | index.axes, g.dtype)
    kept = [s.axes(wide).index(a) for a in s.axes(node)]
    return (
        f"runtime.{'put_each' if kept else 'put_rows'}({s.full(g.id, wide)}, "
        f"{s.full(index.id, wide)}, {node.attrs['rows']}, {node.attrs['padding_idx']}"
        f"{f', {kept}' * bool(kept)})"
    )


def _reduce(s: Scope, node: Node) -> str:
    x = s.ir[node.inputs[0]]
    dims = ", ".join(str(d - len(x.shape)) for d in node.attrs["dims"])
    return f"{s.tensor(x.id)}.{node.op}(({dims},))"


def _along_dim(s: Scope, node: Node) -> str:
    x = s.ir[node.inputs[0]]
    return f"{s.tensor(x.id)}.{node.op}({node.attrs['dim'] - len(x.shape)})"


def _rename(s: Scope, node: Node) -> str:
    x = s.ir[node.inputs[0]]
    before = [node.attrs["axes"].get(a, a) for a in s.axes(x)]
    after = s.axes(node)
    if tuple(before) == after:
        return s.var(x.id)
    dims = [before.index(a) for a in after] + [len(after) + d for d in range(len(node.shape))]
    return f"{s.var(x.id)}.permute({', '.join(map(str, dims))})"


def _delay(s: Scope, node: Node) -> str:
    """A delay outside any loop: the whole sequence shifted."""
    axes, rank = s.axes(node), len(node.shape)
    source = s.full(s.ir.closings[node.id], node)
    inits = ", ".join(s.aligned(i, axes, rank) for i in node.inputs)
    return (
        f"runtime.shift({source}, {axes.index(node.attrs['axis'])}, {node.attrs['steps']}, "
        f"[{inits}])"
    )


def _final(s: Scope, node: Node) -> str:
    """A final state: read off the whole sequence of what closes it."""
    a = node.attrs
    like = Node(-1, "", (), {}, a["state_shape"], a["state_axes"], node.dtype)
    axes, rank = s.axes(like), len(like.shape)
    after, *rest = node.inputs
    inits = rest[: len(rest) - a["ragged"]]
    parts = [
        s.full(after, like),
        str(axes.index(a["axis"])),
        str(a["steps"]),
        "[" + ", ".join(s.aligned(i, axes, rank) for i in inits) + "]",
        str(rank),
    ]
    if a["ragged"]:
        parts.append(s.aligned(rest[-1], axes, rank))
    return f"runtime.final({', '.join(parts)})"


def _index(s: Scope, node: Node) -> str:
    return f"torch.arange({s.size(node.attrs['axis'])}, device=device)"


def _custom(s: Scope, node: Node) -> str:
    """A value under a derivative of the user's own, one example at a time as opaque calls are."""
    rule = node.attrs["rule"]

    def call(*tensors: torch.Tensor) -> list[torch.Tensor]:
        return [own(*tensors, rule=rule)]

    return f"{_called_by_one(s, node, Called(node, call))}[0]"


def _opaque(s: Scope, node: Node) -> str:
    return _called_by_one(s, node, Called(node, opaque_run(node)))


def _called_by_one(s: Scope, node: Node, call: Called) -> str:
    axes = s.axes(node)
    operands = []
    for i in node.inputs:
        moves = bool(s.axes(s.ir[i]))
        if s.ir[i].op in ("const", "size"):
            operands.append(f"({as_tensor(s, s.ir[i])}, False)")
        else:
            operands.append(f"({s.full(i, node) if moves else s.var(i)}, {moves})")
    name = s.object(call, f"{node.op}_{node.attrs['called']}")
    sizes = ", ".join(s.sizes(axes))
    return f"runtime.opaque({name}, [{', '.join(operands)}], ({sizes}{',' * bool(axes)}))"


def _scan(s: Scope, node: Node) -> str:
    axes, rank = s.axes(node), len(node.shape)
    a, b, start = node.inputs
    d = axes.index(node.attrs["axis"])
    wide = [_spread(s, i, node) for i in (a, b)]
    rest = tuple(x for x in axes if x != node.attrs["axis"])
    first = s.aligned(start, rest, rank)
    stated = f", stated={node.dtype}" if node.attrs["stated"] else ""
    return f"runtime.scan({wide[0]}, {wide[1]}, {first}, {d}, {node.attrs['reverse']}{stated})"


def _spread(s: Scope, i: int, node: Node) -> str:
    """A value in all the dimensions of `node`, axes and shape."""
    sizes = ", ".join(s.sizes(s.axes(node)) + [str(n) for n in node.shape])
    if s.ir[i].op in ("const", "size"):
        kind = dtype_text(s.ir, node.dtype)
        return f"torch.full(({sizes},), {s.var(i)}, dtype={kind}, device=device)"
    if s.axes(s.ir[i]) == s.axes(node) and s.ir[i].shape == node.shape:
        return s.var(i)
    return f"{s.aligned(i, s.axes(node), len(node.shape))}.expand({sizes})"


def _aten(s: Scope, node: Node) -> str:
    a = node.attrs
    x, *rest = node.inputs
    length = "None"
    if a["ragged"]:
        length = f"{s.var(rest.pop())}.reshape(-1, 1)"
    states, weights = rest[:-4], rest[-4:]
    picks = (n for n in s.ir if n.op == "pick" and n.inputs[0] == node.id)
    cell = any(n.attrs["which"] == 2 for n in picks)
    starts = ", ".join(s.var(i) for i in states)
    given = ", ".join(s.var(i) for i in weights)
    return (
        f"runtime.recurrent({a['kind']!r}, {s.var(x)}, [{starts}], [{given}], {a['reverse']}, "
        f"{length}, {cell}{f', {node.dtype}' if a['stated'] else ''})"
    )


def _pick(s: Scope, node: Node) -> str:
    narrow = ".to(dtype)" if node.attrs.get("narrow") else ""
    return f"{s.var(node.inputs[0])}[{node.attrs['which']}]{narrow}"


def is_linear(s: Scope, a: Node, b: Node, sub: str) -> bool:
    """x Wᵀ over the last dimension, by a weight without axes."""
    left, right, out = split_sub(sub)
    plain = len(right) == 2 and bool(left) and left[-1] == right[1] and out == left[:-1] + right[0]
    return plain and not s.axes(b) and bool(s.rank(a))


def is_transposed(s: Scope, a: Node, b: Node, sub: str) -> bool:
    """x W over the last dimension: the gradient of a linear map to its input."""
    left, right, out = split_sub(sub)
    plain = len(right) == 2 and bool(left) and left[-1] == right[0] and out == left[:-1] + right[1]
    return plain and not s.axes(b) and bool(s.rank(a))


def _product(s: Scope, node: Node) -> str:
    a, b = (s.ir[i] for i in node.inputs[-2:])
    sub, contract = node.attrs["sub"], node.attrs["contract"] - set(s.dropped)
    packed = _packed(s, a)
    if not contract and is_linear(s, a, b, sub):
        return f"{_linear(s, packed)}{s.var(a.id)}, {s.var(b.id)}{_held(s, packed)})"
    if not contract and is_transposed(s, a, b, sub):
        if packed:
            turned = f"{s.var(b.id)}.t(){_held(s, packed)}"
            return f"{_linear(s, packed)}{s.var(a.id)}, {turned})"
        return f"torch.matmul({s.var(a.id)}, {s.var(b.id)})"
    if _is_outer(s, a, b, sub, contract):
        if s.there is not None and packed:
            return f"runtime.packed_outer({s.there[0]}, {s.var(a.id)}, {s.var(b.id)})"
        return f"runtime.outer({s.var(a.id)}, {s.var(b.id)})"
    return _einsum(s, node, a, b)


def _packed(s: Scope, x: Node) -> bool:
    """Whether a value's padding can be left out of a product."""
    return s.there is not None and s.axes(x) == s.there[1] and len(x.shape) == 1


def _linear(s: Scope, packed: bool) -> str:
    """Over whole axes products are large, and worth a choice of library, and of positions."""
    if packed and s.there is not None:
        return f"runtime.packed_linear({s.there[0]}, "
    return "F.linear(" if s.dropped else "runtime.linear("


def _held(s: Scope, packed: bool) -> str:
    """Gradients are zero beyond an example's end."""
    return ", held=False" if packed and s.there is not None and not s.there[2] else ""


def _is_outer(s: Scope, a: Node, b: Node, sub: str, contract: frozenset[str]) -> bool:
    """Σ over everything of an outer product: the gradient of a linear map to its weight."""
    left, right, out = split_sub(sub)
    same = s.axes(a) == s.axes(b) and set(s.axes(a)) == contract
    # rows of no columns cannot be counted
    plain = bool(left) and bool(right) and left[:-1] == right[:-1] and 0 not in a.shape + b.shape
    return same and plain and out == left[-1] + right[-1] and left[-1] != right[-1]


def _einsum(s: Scope, node: Node, a: Node, b: Node) -> str:
    left, right, out = split_sub(node.attrs["sub"])
    free = iter(c for c in string.ascii_letters if c not in left + right + out)
    axes = sorted({*s.axes(a), *s.axes(b)}, key=list(s.ir.axes).index)
    letter = {axis: next(free) for axis in axes}

    def spell(n: Node, dims: str) -> str:
        return "".join(letter[x] for x in s.axes(n)) + dims

    equation = f"{spell(a, left)},{spell(b, right)}->{spell(node, out)}"
    return f"torch.einsum('{equation}', {s.tensor(a.id)}, {s.tensor(b.id)})"


def _affine(s: Scope, node: Node) -> str:
    c, a, b = (s.ir[i] for i in node.inputs)
    if is_linear(s, a, b, node.attrs["sub"]) and not s.axes(c) and c.shape == b.shape[:1]:
        packed = _packed(s, a)
        operands = ", ".join(s.var(n.id) for n in (a, b, c))
        return f"{_linear(s, packed)}{operands}{_held(s, packed)})"
    return f"{s.aligned(c.id, s.axes(node), len(node.shape))} + {_product(s, node)}"


WRITERS: dict[str, Callable[[Scope, Node], str]] = {
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
    "product": _product,
    "affine": _affine,
}
