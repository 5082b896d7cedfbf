"""A contraction and its derivative as programs of the kernels package.

Raises `Unsupported`, with a reason for users, if kernels cannot run it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from graphnn.backends.triton.attention.exits import TileAxes, TileExit
from graphnn.backends.triton.elements import (
    CONVERSIONS,
    element_kind,
    located,
    name_of,
    note_of,
    take_name,
    unused_name,
)
from graphnn.ir.graph import IR, Node
from graphnn.kernels.ir.contraction import AttentionProgram, Picks, Store
from graphnn.kernels.ir.program import Op, Tensor, Unsupported
from graphnn.ops.matmul import split_sub
from graphnn.ops.registry import OPS
from graphnn.planner.attention.tiles import AttentionRegion
from graphnn.planner.attention.topk import TopkRegion


class TileTranslator:
    """Translates nodes of a graph to operations of a kernel, each when it is first needed.

    `named` maps nodes to operations; `tensors` are the arguments and `reads` their nodes. If the
    columns are positions along an axis, `picked` says which, and which reads they index.
    """

    def __init__(self, ir: IR, picked: TopkRegion | None = None):
        self.ir, self.ops = ir, dict[str, Op]()
        self.named: dict[int, str] = {}
        self.tensors: list[Tensor] = []
        self.arguments: dict[str, int] = {}
        self.reads: list[int] = []
        self.layouts = picked.layouts if picked else {}
        self.picks: Picks | None = None
        if picked is not None:
            self.named[picked.places] = self._read(picked.part.ir[picked.places])
            self.picks = Picks(picked.source, self.named[picked.places])

    def fresh(self, wanted: str) -> str:
        """Return a name that no operation has."""
        return unused_name(wanted, self.ops)

    def argument(self, wanted: str) -> str:
        """Return a name that no argument has."""
        return take_name(wanted, self.arguments)

    def put(self, op: Op) -> str:
        """Add an operation; returns its name."""
        self.ops[op.name] = op
        return op.name

    def need(self, i: int) -> str:
        """Return the operation that computes a node; it is added after those that it reads."""
        if i not in self.named:
            node = self.ir[i]
            for j in node.inputs:
                self.need(j)
            self.named[i] = self._translate(node)
        return self.named[i]

    def _translate(self, node: Node) -> str:
        if node.op in _METHODS:
            return _METHODS[node.op](self, node)
        if OPS[node.op].family == "pointwise" and OPS[node.op].triton_text:
            return self._pointwise(node)
        raise Unsupported(f"{located(node)} is a '{node.op}', which no kernel writes")

    def _args(self, node: Node) -> tuple[str, ...]:
        return tuple(self.named[i] for i in node.inputs)

    def _add(self, node: Node, kind: str, args: Sequence[str], **attrs: Any) -> str:
        name, dtype = self.fresh(name_of(node)), element_kind(node)
        return self.put(Op(name, kind, tuple(args), node.shape, dtype, attrs, note_of(node)))

    def _make(
        self,
        like: Node,
        kind: str,
        args: Sequence[str],
        shape: tuple[int, ...],
        dtype: str = "float",
        **attrs: Any,
    ) -> str:
        """Add an operation whose value is no node's; it is named after `like`."""
        name = self.fresh(like.name or like.op)
        return self.put(Op(name, kind, tuple(args), shape, dtype, attrs, like.label))

    # values without operands

    def _read(self, node: Node) -> str:
        if node.dtype.is_floating_point and node.dtype != self.ir.floating:
            raise Unsupported(f"'{node.label}' is {node.dtype} in a graph of {self.ir.floating}")
        name = self.argument(name_of(node))
        random = "places" in node.attrs
        kind = "seed" if random else self._storage_kind(node)
        axes = self.layouts.get(node.id) or self.ir.layout(node.axes)
        tensor = Tensor(name, node.shape, node.attrs["places"] if random else axes, kind)
        self.tensors.append(tensor)
        self.reads.append(node.id)
        if random:
            law = {"law": node.attrs["kind"], "p": float(node.attrs["p"])}
            return self._add(node, "draw", (), tensor=tensor, **law)
        return self._add(node, "read", (), tensor=tensor)

    def _storage_kind(self, node: Node) -> str:
        wide = node.attrs.get("wide") or node.attrs.get("key") in ("peak", "delta")
        return "acc" if wide else element_kind(node)

    def _const(self, node: Node) -> str:
        return self._add(node, "const", (), value=node.attrs["value"])

    def _size(self, node: Node) -> str:
        return self._add(node, "size", (), axis=node.attrs["axis"])

    def _index(self, node: Node) -> str:
        return self._add(node, "index", (), axis=node.attrs["axis"])

    # pointwise operations

    def _pointwise(self, node: Node) -> str:
        args = [self._operand(node, k, i) for k, i in enumerate(node.inputs)]
        return self._add(node, "pointwise", args, template=OPS[node.op].triton_text)

    def _operand(self, node: Node, k: int, i: int) -> str:
        """Return an operand, converted to the kind of element that the operation computes with."""
        name, kind = self.named[i], element_kind(self.ir[i])
        if self.ir[i].op == "const":
            return name
        if OPS[node.op].truth_operands and kind != "bool":
            return self._converted(node, name, "bool")
        is_condition = node.op == "where" and k == 0
        if element_kind(node) == "float" and kind != "float" and not is_condition:
            return self._converted(node, name, "float")
        return name

    def _converted(self, node: Node, name: str, kind: str) -> str:
        shape = self.ops[name].shape
        return self._make(node, "pointwise", [name], shape, kind, template=CONVERSIONS[kind])

    def _cast(self, node: Node) -> str:
        return self._add(
            node, "pointwise", self._args(node), template=CONVERSIONS[element_kind(node)]
        )

    # products, shapes and reductions over a value's own dimension

    def _matmul(self, node: Node) -> str:
        if node.attrs["contract"]:
            raise Unsupported(f"'{node.label}' sums over an axis before another sum")
        return self._add(node, "einsum", self._args(node), sub=node.attrs["sub"])

    def _expand(self, node: Node) -> str:
        return self._add(node, "expand", self._args(node))

    def _reshape(self, node: Node) -> str:
        x = self.ir[node.inputs[0]]
        if [n for n in x.shape if n != 1] != [n for n in node.shape if n != 1]:
            raise Unsupported(f"{located(node)} splits or merges dimensions")
        return self._add(node, "pointwise", self._args(node), template="{0}")

    def _sum(self, node: Node) -> str:
        return self._add(node, "sum", self._args(node))

    def _max(self, node: Node) -> str:
        return self._add(node, "max", self._args(node))

    def _logsumexp(self, node: Node) -> str:
        (x,) = self._args(node)
        shape = self.ops[x].shape
        top = self._make(node, "max", [x], ())
        finite = "tl.where(tl.abs({0}) < float('inf'), {0}, 0.0)"
        top = self._make(node, "pointwise", [top], (), template=finite)
        exp = self._make(node, "pointwise", [x, top], shape, template="tl.exp({0} - {1})")
        total = self._make(node, "sum", [exp], ())
        return self._add(node, "pointwise", [top, total], template="({0} + tl.log({1}))")

    def _softmax(self, node: Node) -> str:
        (x,) = self._args(node)
        shape = self.ops[x].shape
        top = self._make(node, "max", [x], ())
        exp = self._make(node, "pointwise", [x, top], shape, template="tl.exp({0} - {1})")
        total = self._make(node, "sum", [exp], ())
        return self._add(node, "pointwise", [exp, total], template="({0} / {1})")


# operations that are more than their row's text
_METHODS: dict[str, Callable[[TileTranslator, Node], str]] = {
    "given": TileTranslator._read,
    "const": TileTranslator._const,
    "size": TileTranslator._size,
    "index": TileTranslator._index,
    "cast": TileTranslator._cast,
    "einsum": TileTranslator._matmul,
    "expand": TileTranslator._expand,
    "reshape": TileTranslator._reshape,
    "sum": TileTranslator._sum,
    "amax": TileTranslator._max,
    "logsumexp": TileTranslator._logsumexp,
    "softmax": TileTranslator._softmax,
}


@dataclass(frozen=True)
class TranslatedKernel:
    """A program, the nodes it reads, and those whose values it stores."""

    program: AttentionProgram
    reads: list[int]
    stores: list[int]


def forward_kernel(part: AttentionRegion, tiles: TileAxes, name: str) -> TranslatedKernel:
    """Return the forward kernel of a contraction."""
    ops = TileTranslator(part.ir, tiles.picked)
    score = ops.need(part.score)
    note = f"softmax over {part.axis}"
    ops.named[part.weight] = ops.put(Op(ops.fresh("soft"), "online_softmax", (score,), note=note))
    stores = []
    for i in part.results:
        node = part.ir[i]
        stores.append(_store(ops, node, node.inputs, node.attrs.get("sub", ""), "row", part.axes))
    peak = Tensor(ops.argument("peak"), (), part.ir.layout(part.axes), "float")
    program = AttentionProgram(
        name,
        f"{part.name}: softmax over {part.axis} and the sums it weights.",
        *tiles.ordered(),
        tuple(ops.tensors),
        tuple(ops.ops.values()),
        tuple(stores),
        peak,
        picks=ops.picks,
    )
    return TranslatedKernel(program, ops.reads, list(part.results))


def _store(
    ops: TileTranslator,
    node: Node,
    args: Sequence[int],
    sub: str,
    kind: str,
    axes: Iterable[str],
    reduction: str = "column_sum",
) -> Store:
    """Add the reduction that a kernel stores of a node, and return where it is stored."""
    named = [ops.need(i) for i in args]
    if kind == "element":
        (name,) = named
    else:
        shape = _result_shape(ops, named, sub)
        attrs = {"sub": sub} if sub else {}
        wanted = ops.fresh(node.name or "column_sum")
        made = Op(wanted, reduction, tuple(named), shape, "float", attrs, note_of(node))
        name = ops.put(made)
    out = ops.argument(f"{name}_out")
    dtype = {"column_max": "acc", "column_argmax": "int"}.get(reduction, "float")
    return Store(name, Tensor(out, ops.ops[name].shape, ops.ir.layout(axes), dtype), kind)


def _result_shape(ops: TileTranslator, args: Sequence[str], sub: str) -> tuple[int, ...]:
    """Return the shape of an einsum of operations, or that of the one operation."""
    if not sub:
        return ops.ops[args[0]].shape
    left, right, out = split_sub(sub)
    sizes: dict[str, int] = {}
    for letters, arg in zip((left, right), args, strict=True):
        sizes.update(zip(letters, ops.ops[arg].shape, strict=True))
    return tuple(sizes[c] for c in out)


def kernels_of_exits(
    part: AttentionRegion,
    tiles: TileAxes,
    ir: IR,
    exits: Iterable[TileExit],
    name: str,
    what: str = "gradients",
) -> list[TranslatedKernel]:
    """Return the kernels that store exits of a graph, for example of a backward.

    One has the queries as rows, and sums over keys; one has the keys as rows, and sums over
    queries. A kernel without exits is left out.
    """
    made = []
    exits = list(exits)
    directions = (("queries", ("row", "tile", "element"), False), ("keys", ("column",), True))
    for rows, kinds, swapped in directions:
        mine = [e for e in exits if e.kind in kinds]
        if not mine:
            continue
        ops = TileTranslator(ir, tiles.picked)
        stores = []
        for e in mine:
            kind = "row" if e.kind == "column" else e.kind
            axes = () if kind == "tile" else e.stored_axes(tiles)
            stores.append(_store(ops, ir[e.end], e.args, e.sub, kind, axes, e.reduction))
        program = AttentionProgram(
            f"{name}_{rows}",
            f"{part.name}: {what}, one program per tile of {rows}.",
            *tiles.ordered(swapped),
            tuple(ops.tensors),
            tuple(ops.ops.values()),
            tuple(stores),
            picks=ops.picks,
        )
        made.append(TranslatedKernel(program, ops.reads, [e.end for e in mine]))
    return made
