"""Unrolling: the acyclic graph of n copies of a loop's body, with shared weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from graphnn.errors import AxisError, UnsupportedError
from graphnn.frontend.graph import Graph
from graphnn.frontend.trace import trace
from graphnn.ir.graph import BATCH, IR, Node
from graphnn.ops.builder import Expr, const, make, reshape
from graphnn.ops.registry import OPS, build
from graphnn.planner.pipeline import checked

Key = tuple[int, int | None]


def unroll(source: nn.Module | Graph, **steps: int) -> Graph:
    """The same network with `time` written out as three copies: `unroll(g, time=3)`.

    Returns a graph without that axis, on the same parameters. It takes the same tensors: the axis
    of an input becomes the first dimension of its shape, (batch, *axes, 3, *shape). It has no
    lengths for that axis. Raises AxisError for an axis that the graph does not have,
    UnsupportedError if the axis is renamed (self-attention) or is not the last of an input.

        flat = gn.unroll(Net(), time=3)
        y = gn.compile(flat)(x=torch.randn(8, 3, 16))
    """
    traced = trace(source)
    ir = checked(traced.ir)
    owner = source.owner if isinstance(source, Graph) else source
    for axis, count in steps.items():
        if axis not in ir.axes or axis == BATCH or count < 1:
            raise AxisError(
                f"'{ir.name}' cannot be unrolled over '{axis}'",
                got=f"{axis}={count}",
                wanted=f"one of {[a for a in ir.axes if a != BATCH]}, and at least one step",
                fix="name an axis of the graph",
            )
        ir = _Unroller(ir, axis, count).run()
    graph = Graph(ir.name, owner)
    graph.ir, graph.constants = ir, traced.constants
    return graph


class _Unroller:
    def __init__(self, ir: IR, axis: str, count: int):
        self.old, self.axis, self.count = ir, axis, count
        self.new = ir.empty()
        self.new.name = f"{ir.name} unrolled"
        self.new.counter = 0
        self.new.axes = {a: x for a, x in ir.axes.items() if a != axis}
        self.made: dict[Key, Expr] = {}

    def run(self) -> IR:
        for name, i in self.old.outputs.items():
            self.new.outputs[name] = self._stacked(self.old[i]).id
        for delay, source in self.old.closings.items():
            if (delay, None) in self.made:
                after = self._value((source, None))
                self.new.closings[self.made[delay, None].id] = after.id
        return checked(self.new)

    def _stacked(self, node: Node) -> Expr:
        """All copies of a value, concatenated along a new first dimension."""
        if self.axis not in node.axes:
            return self._value((node.id, None))
        parts = [self._value((node.id, p)) for p in range(self.count)]
        rows = [reshape(x, (1, *x.shape)) for x in parts]
        return rows[0] if len(rows) == 1 else make("cat", *rows, dim=0)

    def _value(self, goal: Key) -> Expr:
        stack = [goal]
        while stack:
            key = stack[-1]
            missing = [k for k in self._operands(key) if k not in self.made]
            if key in self.made or not missing:
                stack.pop()
                if key not in self.made:
                    self.made[key] = self._copy(*key)
            else:
                stack.extend(missing)
        return self.made[goal]

    def _key(self, i: int, p: int | None) -> Key:
        return (i, p if self.axis in self.old[i].axes else None)

    def _operands(self, key: Key) -> list[Key]:
        node, p = self.old[key[0]], key[1]
        if node.op == "delay" and node.attrs["axis"] == self.axis:
            assert p is not None
            source = p - node.attrs["steps"]
            if 0 <= source < self.count:
                return [self._key(self.old.closings[node.id], source)]
            return [self._key(self._init(node, p), None)]
        if OPS[node.op].family == "axis" and node.attrs["axis"] == self.axis:
            return [self._key(node.inputs[0], q) for q in range(self.count)]
        return [self._key(i, p) for i in node.inputs]

    def _init(self, node: Node, p: int) -> int:
        slot = p if node.attrs["steps"] > 0 else self.count - 1 - p
        return node.inputs[slot if len(node.inputs) > 1 else 0]

    def _copy(self, i: int, p: int | None) -> Expr:
        node = self.old[i]
        self.new.here = (
            f"{node.name}[{p}]" if node.name and p is not None else node.name,
            node.site,
        )
        if node.op == "delay" and node.attrs["axis"] == self.axis:
            return self._initial_value(self.made[self._operands((i, p))[0]], node)
        if OPS[node.op].family == "axis" and node.attrs["axis"] == self.axis:
            return self._over_axis(node, p)
        if node.op == "input" and self.axis in node.attrs["over"]:
            return self._input(node, p)
        if node.attrs.get("axis") == self.axis and node.op in ("index", "size", "length"):
            return const(self.new, p if node.op == "index" and p is not None else self.count)
        if node.op == "rename" and self.axis in {*node.attrs["axes"], *node.attrs["axes"].values()}:
            raise UnsupportedError(
                f"'{self.axis}' is renamed, so it cannot be unrolled",
                node=node.label,
                site=node.site,
                fix="unroll an axis that a loop runs over",
            )
        inputs = tuple(self.made[k].id for k in self._operands((i, p)))
        axes = node.axes - {self.axis}
        name = self.new.here[0]
        made = replace(node, id=self.new.fresh(), inputs=inputs, axes=axes, name=name)
        return Expr(self.new, self.new.insert(made))

    def _initial_value(self, x: Expr, node: Node) -> Expr:
        """An initial value, cast and expanded to the state's dtype and shape."""
        if x.dtype != node.dtype:
            x = make("cast", x, dtype=node.dtype)
        return x if x.shape == node.shape else make("expand", x, shape=node.shape)

    def _input(self, node: Node, p: int | None) -> Expr:
        """A row of the input: one input serves all copies, with the axis as its first dimension."""
        key: Key = (node.id, -1)
        if key not in self.made:
            rest = tuple(a for a in node.attrs["over"] if a != self.axis)
            if node.attrs["over"][len(rest) :] != (self.axis,):
                raise UnsupportedError(
                    f"'{self.axis}' is not the last axis of input '{node.name}'",
                    node=node.label,
                    site=node.site,
                    fix=f"declare over=(…, '{self.axis}')",
                )
            whole = build(
                self.new,
                "input",
                (),
                {**node.attrs, "over": rest},
                shape=(self.count, *node.shape),
                dtype=node.dtype,
                axes=node.axes - {self.axis},
                name=node.name,
                site=node.site,
            )
            self.made[key] = Expr(self.new, whole)
        assert p is not None
        row = make("slice", self.made[key], dim=0, start=p, stop=p + 1, step=1)
        return reshape(row, node.shape)

    def _over_axis(self, node: Node, p: int | None) -> Expr:
        rows = [self.made[k] for k in self._operands((node.id, p))]
        if node.op in ROW_OF:
            return rows[ROW_OF[node.op](node.attrs, p, self.count)]
        wide = [reshape(x, (1, *x.shape)) for x in rows]
        stacked = wide[0] if len(wide) == 1 else make("cat", *wide, dim=0)
        if node.op == "axis_softmax":
            soft = make("softmax", stacked, dim=0)
            assert p is not None
            return reshape(make("slice", soft, dim=0, start=p, stop=p + 1, step=1), node.shape)
        if node.op == "axis_argmax":
            return make("argmax", stacked, dim=0)
        if node.op in DIMENSION_OP:
            return make(DIMENSION_OP[node.op], stacked, dims=(0,))
        raise UnsupportedError(
            f"{node.op} over '{self.axis}' cannot be unrolled", node=node.label, site=node.site
        )


DIMENSION_OP = {"axis_sum": "sum", "axis_max": "amax", "axis_logsumexp": "logsumexp"}
ROW_OF: dict[str, Any] = {
    "axis_at": lambda attrs, p, n: attrs["position"],
    "axis_reverse": lambda attrs, p, n: n - 1 - p,
    "axis_roll": lambda attrs, p, n: (p - attrs["shift"]) % n,
}
