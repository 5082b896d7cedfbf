"""A loop of the graph as a program of the kernels package.

Raises `Unsupported`, in words for users, where no single kernel can carry the loop.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Container, Iterable, Sequence
from typing import Any

import numpy as np
import torch

from graphnn.backends.torch.codegen.code import Code, code
from graphnn.backends.torch.codegen.scope import Ends, Scope
from graphnn.backends.triton.loops.ragged import ending
from graphnn.ir.graph import IR, Node
from graphnn.kernels.ir.program import LoopProgram, LoopState, Op, Tensor, Unsupported
from graphnn.ops.registry import OPS
from graphnn.planner.core.regions import Loop, Whole

# whole numbers wrap around as their dtype does, floats that are cast down are rounded
NARROW = {
    torch.int32: "tl.int32",
    torch.int16: "tl.int16",
    torch.int8: "tl.int8",
    torch.uint8: "tl.uint8",
}
ROUNDED = {torch.bfloat16: "tl.bfloat16", torch.float16: "tl.float16"}
# the lanes, of an axis of any length, that a kernel is tried for
LONGEST = 128


def lower(
    ir: IR, loop: Loop, kept: Sequence[int], name: str, ends: Ends | None = None
) -> tuple[LoopProgram, list[int]]:
    """The program of a loop that stores the nodes `kept`, and the nodes it reads, in order.

    Over the axis of `ends` it ends with its rows; `ORDER` is then among what it reads.
    """
    if loop.stop is not None:
        raise Unsupported("the loop ends when its data says so")
    if any(not isinstance(r, Whole) for r in loop.body):
        raise Unsupported("a loop lies within its step")
    program, reads = _Lowering(ir, loop.nodes, name, loop).run(kept)
    if ends is None or loop.axis != ends.axis:
        return program, reads
    return ending(program, reads, ends)


def lower_phase(
    s: Scope, nodes: Sequence[int], kept: Sequence[int], name: str
) -> tuple[LoopProgram, list[int]]:
    """The program of a part of a step; values are as they are in the scope `s` of one step."""
    return _Lowering(s.ir, nodes, name, scope=s).run(kept)


def free(wanted: str, taken: Container[str]) -> str:
    """A name that is not taken, with a number behind it where the wanted one is."""
    numbered = (f"{wanted}_{count}" for count in itertools.count(2))
    return next(name for name in itertools.chain([wanted], numbered) if name not in taken)


def claimed(wanted: str, taken: dict[str, int]) -> str:
    """A name that is not taken, as `free` gives it, now taken: the search goes on where the last
    one for it ended."""
    name = wanted
    while name in taken:
        taken[wanted] = count = taken[wanted] + 1
        name = f"{wanted}_{count}"
    taken[name] = 1
    return name


def kind_of(node: Node) -> str:
    """The kind of number, as the kernels name it."""
    if node.dtype == torch.bool:
        return "bool"
    return "float" if node.dtype.is_floating_point else "int"


def stored_as(node: Node, floating: torch.dtype) -> str:
    """The kind of a tensor in memory. Raises Unsupported where a kernel has none for its dtype."""
    wide = torch.promote_types(floating, torch.float32)
    if node.dtype.is_complex:
        raise Unsupported(f"{_called(node)} is {node.dtype}, and kernels have real numbers")
    if not node.dtype.is_floating_point or node.dtype == floating:
        return kind_of(node)
    if node.dtype == wide:
        return "acc"
    raise Unsupported(f"{_called(node)} is {node.dtype} in a graph of {floating}")


def given(s: Scope, i: int) -> Code:
    """The argument of a kernel for a value: narrow integers become int64."""
    node = s.ir[i]
    return code("{}.to(torch.int64)", s.var(i)) if node.dtype in NARROW else s.var(i)


class _Lowering:
    def __init__(
        self,
        ir: IR,
        nodes: Sequence[int],
        name: str,
        loop: Loop | None = None,
        scope: Scope | None = None,
    ):
        self.ir, self.nodes, self.name, self.scope = ir, nodes, name, scope
        self.dropped = scope.dropped if scope else ()
        self.inside = set(nodes)
        self.axis = loop.axis if loop else ""
        self.states = loop.states if loop else []
        self.reverse = loop.reverse if loop else False
        axes = frozenset().union(*(ir[i].axes for i in nodes)) - {self.axis}
        self.lanes, self.most, self.open = self._whole() if loop else ("", 0, False)
        self.rows = self._layout(axes - {self.lanes})
        self.ops: dict[str, Op] = {}
        self.taken: dict[str, int] = {}
        self.arguments: dict[str, int] = {}
        self.named: dict[int, str] = {}
        self.tensors: dict[int, Tensor] = {}
        self.reads: list[int] = []

    def run(self, kept: Sequence[int]) -> tuple[LoopProgram, list[int]]:
        self._check()
        inits = [i for d in self.states for i in self.ir[d].inputs]
        outside = [i for n in self.nodes for i in self.ir[n].inputs]
        for i in dict.fromkeys([*inits, *outside]):
            if i not in self.inside:
                self._outside(self.ir[i])
        for d in self.states:
            self._add(self.ir[d], "state", ())
        for i in self.nodes:
            if i not in self.states:
                self._node(self.ir[i])
        stores = tuple((self.named[i], self._stored(self.ir[i])) for i in kept)
        states = tuple(self._state(self.ir[d]) for d in self.states)
        program = LoopProgram(
            self.name,
            self.axis,
            self.rows,
            self.reverse,
            tuple(self.tensors.values()),
            tuple(self.ops.values()),
            states,
            stores,
            self.lanes,
            self.most,
            self.open,
        )
        return program, self.reads

    def _whole(self) -> tuple[str, int, bool]:
        """The axis that a step takes all of, the most of it, and whether it may be longer."""
        over: set[str] = set()
        for node in (self.ir[i] for i in self.nodes):
            over |= {node.attrs["axis"]} if OPS[node.op].family == "axis" else set()
            over |= node.attrs.get("contract", set()) - set(self.dropped)
        if not over:
            return "", 0, False
        if len(over) > 1:
            raise Unsupported(f"a step takes all of {', of '.join(sorted(over))}")
        (axis,) = over
        length = self.ir.axes[axis].length
        return axis, length or LONGEST, length is None

    def _check(self) -> None:
        """What no kernel carries, whatever its sizes."""
        for node in (self.ir[i] for i in self.nodes):
            stored_as(node, self.ir.floating)
            if any(0 in n.shape for n in (node, *self.ir.operands(node))):
                raise Unsupported(f"{_called(node)} is, or is made of, a value without numbers")

    def _layout(self, axes: Iterable[str]) -> tuple[str, ...]:
        """Axes as the dimensions of a tensor: those of outer loops are gone."""
        return tuple(a for a in self.ir.layout(axes) if a not in self.dropped)

    def _put(self, op: Op) -> str:
        self.ops[op.name] = op
        return op.name

    def _add(self, node: Node, kind: str, args: Sequence[str], **attrs: Any) -> str:
        """The operation that makes a node's own value."""
        wanted = node.name or node.attrs.get("was", node.op)
        op = Op(
            claimed(wanted, self.taken),
            kind,
            tuple(args),
            node.shape,
            kind_of(node),
            attrs,
            _note(node),
        )
        self.named[node.id] = self._put(op)
        return op.name

    def _make(
        self, like: str, kind: str, args: Sequence[str], shape: tuple[int, ...], **attrs: Any
    ) -> str:
        """A value that no node of the graph names."""
        dtype = attrs.pop("dtype", "float")
        note = self.ops[like].note if like in self.ops else ""
        return self._put(
            Op(claimed(like, self.taken), kind, tuple(args), shape, dtype, attrs, note)
        )

    def _outside(self, node: Node) -> None:
        """What comes from outside: read, or, where that is free, made here of what is read."""
        if node.id in self.named:
            return
        if node.op == "const":
            self._add(node, "const", (), value=node.attrs["value"])
        elif node.op == "size":
            self._add(node, "size", (), axis=node.attrs["axis"])
        elif OPS[node.op].family == "view" and node.axes and self._known(node.inputs[0]):
            self._outside(self.ir[node.inputs[0]])
            self._view(node)
        elif self._shifted(node):
            self._late(node)
        elif "places" in node.attrs and self.scope is None:
            law = {"law": node.attrs["kind"], "p": float(node.attrs["p"])}
            self._add(node, "draw", (), tensor=self._tensor(node), **law)
        else:
            self._add(node, "read", (), tensor=self._tensor(node))

    def _known(self, i: int) -> bool:
        """Whether a value lies in memory: within a step only what phases have stored does."""
        return self.scope is None or i in self.scope.names or self.ir[i].op == "const"

    def _tensor(self, node: Node) -> Tensor:
        """The argument that a value outside the loop is given as."""
        if node.id not in self.tensors:
            self.reads.append(node.id)
            name = claimed(node.name or node.attrs.get("was", node.op), self.arguments)
            self.tensors[node.id] = self._argument(name, node)
        return self.tensors[node.id]

    def _argument(self, name: str, node: Node) -> Tensor:
        if "places" in node.attrs and self.scope is None:
            return Tensor(name, node.shape, node.attrs["places"], "seed")
        kind = stored_as(node, self.ir.floating)
        return Tensor(name, node.shape, self._layout(node.axes), kind)

    def _shifted(self, node: Node) -> bool:
        """Whether a value is a whole sequence read some steps ago."""
        if node.op != "delay" or not self.axis or node.attrs["axis"] != self.axis:
            return False
        after = self.ir.closings[node.id]
        return after not in self.inside and self.ir[after].axes == node.axes

    def _late(self, node: Node) -> None:
        for i in node.inputs:
            self._outside(self.ir[i])
        after = self.ir[self.ir.closings[node.id]]
        inits = tuple(self.named[i] for i in node.inputs)
        self._add(node, "read", inits, tensor=self._tensor(after), shift=node.attrs["steps"])

    def _stored(self, node: Node) -> Tensor:
        name = claimed(f"{self.named[node.id]}_out", self.arguments)
        kind = stored_as(node, self.ir.floating)
        return Tensor(name, node.shape, self._layout(node.axes), kind)

    def _state(self, node: Node) -> LoopState:
        inits = tuple(self.named[i] for i in node.inputs)
        after = self.named[self.ir.closings[node.id]]
        return LoopState(self.named[node.id], abs(node.attrs["steps"]), inits, after)

    # the operations of a step

    def _node(self, node: Node) -> None:
        special: dict[str, Callable[[Node], Any]] = {
            "index": self._index,
            "cast": self._cast,
            "product": self._product,
            "affine": self._affine,
            "sum": lambda n: self._reduced(n, "sum"),
            "amax": lambda n: self._reduced(n, "max"),
            "softmax": self._softmax,
            "logsumexp": self._logsumexp,
            "cat": self._cat,
        }
        family = OPS[node.op].family
        if OPS[node.op].floats_only and kind_of(node) != "float":
            raise Unsupported(f"{_called(node)} is a '{node.op}' of whole numbers")
        if node.op in ("const", "size"):
            self._outside(node)
        elif node.op in special:
            special[node.op](node)
        elif family == "axis" and OPS[node.op].prelude:
            self._across(node)
        elif family in ("view", "join"):
            self._view(node)
        elif family == "pointwise" and OPS[node.op].triton_text:
            self._pointwise(node)
        else:
            self._refuse(node)

    def _refuse(self, node: Node) -> None:
        if node.op in ("opaque", "vjp"):
            raise Unsupported(f"torch.{node.attrs['called']}{_where(node)} has no row in the table")
        if OPS[node.op].family == "axis":
            raise Unsupported(
                f"{_called(node)} takes all of '{node.attrs['axis']}' within a step ({node.op})"
            )
        raise Unsupported(f"{_called(node)} is a '{node.op}', which no kernel writes")

    def _index(self, node: Node) -> None:
        if node.attrs["axis"] not in (self.axis, self.lanes):
            raise Unsupported(f"{_called(node)} is the position along another axis")
        self._add(node, "lane" if node.attrs["axis"] == self.lanes else "index", ())

    def _across(self, node: Node) -> None:
        """An operation over all lanes."""
        whole = kind_of(self.ir[node.inputs[0]]) != "float"
        if node.attrs["axis"] != self.lanes or whole:
            self._refuse(node)
        more = {k: node.attrs[k] for k in ("shift", "position", "k") if k in node.attrs}
        args = [self.named[i] for i in node.inputs]
        self._add(node, "lanes", args, law=OPS[node.op].prelude, **more)

    def _pointwise(self, node: Node) -> None:
        args = [self._operand(node, k, i) for k, i in enumerate(node.inputs)]
        op = OPS[node.op]
        if node.dtype in NARROW:
            template = f"({op.triton_text}).to({NARROW[node.dtype]}).to(tl.int64)"
            self._add(node, "point", args, template=template)
        else:
            self._add(node, "point", args, template=op.triton_text, linear_in=op.linear_in)

    def _operand(self, node: Node, k: int, i: int) -> str:
        """An operand in the kind of number that the operation computes with."""
        name, have = self.named[i], kind_of(self.ir[i])
        if self.ir[i].op == "const":
            return name
        if OPS[node.op].truth_operands and have != "bool":
            return self._converted(name, "({0} != 0)", "bool")
        chosen = node.op == "where" and k == 0
        if kind_of(node) == "float" and have != "float" and not chosen:
            return self._converted(name, "{0}.to(ACC)", "float")
        return name

    def _converted(self, name: str, template: str, kind: str) -> str:
        return self._make(
            name, "point", [name], self.ops[name].shape, template=template, dtype=kind
        )

    def _cast(self, node: Node) -> None:
        if self.ir[node.inputs[0]].op == "const":
            number = {"float": float, "int": int, "bool": bool}[kind_of(node)]
            self._add(node, "const", (), value=number(self.ir[node.inputs[0]].attrs["value"]))
            return
        templates = {"float": "{0}.to(ACC)", "int": "{0}.to(tl.int64)", "bool": "({0} != 0)"}
        template, source = templates[kind_of(node)], self.ir[node.inputs[0]]
        through = NARROW.get(node.dtype) or ROUNDED.get(node.dtype)
        if through and (kind_of(node) == "int" or source.dtype.is_floating_point):
            template = template.replace("{0}", f"{{0}}.to({through})")
        self._add(node, "point", [self.named[source.id]], template=template)

    def _product(self, node: Node) -> None:
        self._multiplied(node)
        args = [self.named[i] for i in node.inputs]
        if not self._within(node):
            self._add(node, "product", args, sub=node.attrs["sub"])
            return
        label = node.name or "product"
        made = self._make(label, "product", args, node.shape, sub=node.attrs["sub"])
        self._add(node, "lanes", [made], law="total")

    def _multiplied(self, node: Node) -> None:
        """Matrix products are of the launch's dtype: weights of another one are torch's."""
        for x in (self.ir[i] for i in node.inputs[-2:]):
            if not x.axes and len(x.shape) > 1 and x.dtype != self.ir.floating:
                raise Unsupported(
                    f"{_called(node)} multiplies by a weight of {x.dtype} in a graph of "
                    f"{self.ir.floating}"
                )

    def _within(self, node: Node) -> bool:
        """Whether a product sums over the lanes, too."""
        over = node.attrs["contract"] - set(self.dropped)
        if over - {self.lanes}:
            raise Unsupported(f"{_called(node)} sums over {', '.join(sorted(over))} within a step")
        return bool(over)

    def _affine(self, node: Node) -> None:
        self._multiplied(node)
        c, a, b = (self.named[i] for i in node.inputs)
        label = node.name or "product"
        made = self._make(label, "product", [a, b], node.shape, sub=node.attrs["sub"])
        if self._within(node):
            made = self._make(label, "lanes", [made], node.shape, law="total")
        add = OPS["add"]
        self._add(node, "point", [made, c], template=add.triton_text, linear_in=add.linear_in)

    def _reduced(self, node: Node, kind: str) -> None:
        self._add(node, kind, [self.named[node.inputs[0]]], dims=tuple(node.attrs["dims"]))

    def _over(self, x: str, kind: str, dims: tuple[int, ...]) -> str:
        """A reduction with the dimensions it takes away kept as ones."""
        shape = self.ops[x].shape
        rest = tuple(n for d, n in enumerate(shape) if d not in dims)
        flat = self._make(x, kind, [x], rest, dims=dims)
        ones = tuple(1 if d in dims else n for d, n in enumerate(shape))
        return self._make(flat, "view", [flat], ones, maps=[np.arange(math.prod(rest))])

    def _pointed(self, template: str, *args: str) -> str:
        shape = np.broadcast_shapes(*(self.ops[a].shape for a in args))
        return self._make(args[0], "point", args, tuple(shape), template=template)

    def _softmax(self, node: Node) -> None:
        x, dim = self.named[node.inputs[0]], node.attrs["dim"]
        dims = (dim % len(node.shape),)
        raised = self._pointed("tl.exp({0} - {1})", x, self._over(x, "max", dims))
        total = self._over(raised, "sum", dims)
        self._add(node, "point", [raised, total], template="({0} / {1})")

    def _logsumexp(self, node: Node) -> None:
        x, dims = self.named[node.inputs[0]], tuple(node.attrs["dims"])
        top = self._pointed(
            "tl.where(tl.abs({0}) < float('inf'), {0}, 0.0)", self._over(x, "max", dims)
        )
        raised = self._pointed("tl.exp({0} - {1})", x, top)
        total = self._pointed("({0} + tl.log({1}))", top, self._over(raised, "sum", dims))
        count = math.prod(node.shape)
        self._add(node, "view", [total], maps=[np.arange(count)])

    def _view(self, node: Node) -> None:
        x = self.ir[node.inputs[0]]
        if node.op == "pad":
            places = torch.arange(1, math.prod(x.shape) + 1).reshape(x.shape)
            places = OPS["pad"].run(places, **node.attrs) - 1  # type: ignore[misc]
        else:
            places = torch.arange(math.prod(x.shape)).reshape(x.shape)
            places = OPS[node.op].run(places, **node.attrs)  # type: ignore[misc]
        self._add(node, "view", [self.named[x.id]], maps=[places.reshape(-1).numpy()])

    def _cat(self, node: Node) -> None:
        parts = [self.ir[i] for i in node.inputs]
        own = [np.arange(math.prod(p.shape)).reshape(p.shape) for p in parts]
        axis = node.attrs["dim"]
        places = np.concatenate(own, axis).reshape(-1)
        owner = np.concatenate([np.full_like(x, k) for k, x in enumerate(own)], axis).reshape(-1)
        maps = [np.where(owner == k, places, -1) for k in range(len(parts))]
        self._add(node, "view", [self.named[p.id] for p in parts], maps=maps)


def _called(node: Node) -> str:
    return f"'{node.label}'{_where(node)}"


def _where(node: Node) -> str:
    return f" at {node.site}" if node.site else ""


def _note(node: Node) -> str:
    return f"{node.label}, {node.site}" if node.site else node.label
