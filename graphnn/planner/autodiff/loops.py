"""The backward of a loop, as a graph that goes through the same passes.

A delay of d steps becomes a delay of -d steps for gradients, so the derived graph is the same loop
in reverse. Weight gradients are matmuls summed over each axis that the weight lacks. Nothing in the
loop needs them, so each leaves the loop as one matmul.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from graphnn.ir.graph import IR, Node
from graphnn.ops.builder import Expr, const, make, reshape
from graphnn.ops.registry import OPS, build
from graphnn.ops.sources import in_order, pull_of
from graphnn.planner.core.gradient_paths import between
from graphnn.planner.core.loop_graph import LoopIR, given
from graphnn.planner.core.rewrite import keep, reachable

FREE = ("view", "rename")


@dataclass
class Derived:
    """The gradient graph of a loop.

    Its `given` nodes have the ids of the loop's values (`saved` lists those that the loop computes)
    and, for gradients of results, the ids in `cotangents`. `ir.outputs["d<i>"]` is the gradient of
    the value `i` that the loop reads.
    """

    ir: IR
    cotangents: dict[int, int]
    saved: list[int]
    recomputed: list[int]


def differentiate(
    loop: LoopIR,
    wanted: Iterable[int],
    recompute: bool = False,
    again: frozenset[int] = frozenset(),
) -> Derived:
    """The gradients of the values `wanted` among `loop.reads`.

    If `recompute`, the backward recomputes pointwise values instead of reading saved ones. Values
    in `again` are always recomputed.
    """
    return _Adjoint(loop, set(wanted), recompute, again).run()


class _Adjoint:
    def __init__(self, loop: LoopIR, wanted: set[int], recompute: bool, again: frozenset[int]):
        self.loop, self.wanted, self.recompute = loop, wanted, recompute
        self.again = again | loop.absorbed
        self.old = loop.ir
        self.new = loop.ir.empty()
        self.parts: dict[int, list[Expr]] = {}
        self.slices: dict[int, list[tuple[Node, Expr]]] = {}
        self.forward: dict[int, int] = {}
        self.anti: dict[int, Expr] = {}
        self.closes = set(self.old.closings.values())
        self.users = self.old.users()
        self.live = between(loop.ir, wanted, loop.results)

    def value(self, i: int) -> Expr:
        """The forward value `i` in the gradient graph: given, or recomputed if cheap."""
        if i not in self.forward:
            node = self.old[i]
            family = OPS[node.op].family
            again = family in FREE or (self.recompute and not self._must_save(i))
            again = again or node.op in ("const", "index", "size", "length", "given")
            again = again or i in self.again
            if node.op == "delay":
                self.forward[i] = self._delayed(node)
            elif node.op == "custom":
                self.forward[i] = self.value(node.inputs[0]).id
            elif again:
                inputs = tuple(self.value(j).id for j in node.inputs)
                self.forward[i] = self.new.insert(replace(node, inputs=inputs))
            else:
                self.forward[i] = self.new.insert(given(node))
        return Expr(self.new, self.forward[i])

    def _must_save(self, i: int) -> bool:
        """Whether recomputing a value would need a matmul, or the loop itself.

        In a pointwise chain that starts at a matmul, the last value is saved: it is as large as the
        first, and less work remains.
        """
        if i in self.closes or OPS[self.old[i].op].family != "pointwise":
            return True
        for j in self.old[i].inputs:
            while OPS[self.old[j].op].family in FREE:
                j = self.old[j].inputs[0]
            family = OPS[self.old[j].op].family
            if family == "pointwise":
                if j not in self.closes and len(self.users[j]) == 1 and self._must_save(j):
                    return True
            elif family not in ("source", "delay"):
                return True
        return False

    def _delayed(self, node: Node) -> int:
        """A state, read from the saved sequence of its next values."""
        self.forward[node.id] = node.id
        inputs = tuple(self.value(j).id for j in node.inputs)
        after = self.value(self.old.closings[node.id])
        self.new.insert(replace(node, inputs=inputs))
        self.new.closings[node.id] = after.id
        return node.id

    def run(self) -> Derived:
        cotangents = {}
        for i in self.loop.results:
            if i in self.live:
                source = replace(
                    given(self.old[i]),
                    id=self.new.fresh(),
                    attrs={"key": ("d", i)},
                    name=f"d_{self.old[i].label}",
                )
                cotangents[i] = self.new.insert(source)
                self._flow(i, Expr(self.new, source.id))
        for node in self.old:
            if node.op == "delay" and node.id in self.live:
                self._open(node)
        for node in reversed(list(self.old)):
            if node.id in self.live:
                self._back(node)
        self._close()
        outputs = {f"d{i}": self._total(i) for i in sorted(self.wanted) if i in self.live}
        self.new.outputs = {k: x.id for k, x in outputs.items() if x is not None}
        ir = _ordered(self.new)
        used = reachable(ir, ir.outputs.values())
        ir = keep(ir, used)
        computed = {n.id for n in self.old if n.op != "given"}
        saved = [n.id for n in ir if n.op == "given" and n.attrs["key"] in computed]
        again = [
            i
            for i, j in self.forward.items()
            if j in used
            and self.old[i].op != "given"
            and self.new[j].op not in ("given", "const", "index", "size", "length")
        ]
        cotangents = {i: c for i, c in cotangents.items() if c in used}
        return Derived(ir, cotangents, saved, again)

    def _open(self, node: Node) -> None:
        """Start the gradient of a delay: it reaches the source `steps` positions earlier."""
        zero = const(self.new, 0.0)
        steps = -node.attrs["steps"]
        i = build(
            self.new,
            "delay",
            [zero.id],
            {"axis": node.attrs["axis"], "steps": steps, "key": ""},
            shape=node.shape,
            dtype=node.dtype,
            axes=node.axes,
            name=f"d_{node.label}",
            site=node.site,
        )
        self.anti[node.id] = Expr(self.new, i)
        self._flow(self.old.closings[node.id], self.anti[node.id])

    def _close(self) -> None:
        """Close the delays of gradients."""
        for i, anti in self.anti.items():
            total = self._total(i)
            closed = const(self.new, 0.0) if total is None else total
            self.new.closings[anti.id] = self._filled(closed, self.old[i]).id

    def _filled(self, x: Expr, like: Node) -> Expr:
        """`x` expanded to the shape of `like`, as a gradient may be smaller than its value."""
        if x.shape != like.shape:
            x = make("expand", x, shape=like.shape)
        return x

    def _flow(self, i: int, g: Expr | None) -> None:
        """Add a contribution to the gradient of node `i`, summed over the axes that `i` lacks."""
        if g is None or i not in self.live:
            return
        self.parts.setdefault(i, []).append(self.fit(g, self.old[i]))

    def fit(self, g: Expr, like: Node) -> Expr:
        """`g` summed over the axes and dimensions along which `like` was broadcast."""
        for axis in self.new.layout(g.axes - like.axes):
            g = make("axis_sum", g, axis=axis)
        extra = len(g.shape) - len(like.shape)
        dims = [d for d in range(len(g.shape)) if d < extra]
        ones = [
            d + extra
            for d, n in enumerate(like.shape)
            if extra >= 0 and n == 1 and g.shape[d + extra] != 1
        ]
        if dims or ones:
            g = reshape(make("sum", g, dims=tuple(dims + ones)), like.shape)
        if g.dtype != like.dtype:
            g = make("cast", g, dtype=like.dtype)
        return g

    def _total(self, i: int) -> Expr | None:
        """The gradient of node `i`: the sum of its contributions."""
        parts = list(self.parts.get(i, ()))
        cuts = self.slices.get(i, [])
        if cuts:
            parts += self._assembled(self.old[i], cuts)
        if not parts:
            return None
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        self.parts[i], self.slices[i] = [total], []
        return total

    def _assembled(self, node: Node, cuts: list[tuple[Node, Expr]]) -> list[Expr]:
        """Gradients of slices: concatenated if they cover the whole value, else padded by zeros."""
        merged: dict[tuple[int, int, int, int], Expr] = {}
        for cut, g in cuts:
            a = cut.attrs
            span = (a["dim"], a["start"], a["stop"], a["step"])
            g = self._filled(g, cut)
            merged[span] = merged[span] + g if span in merged else g
        spans = sorted(merged)
        joined = len({s[0] for s in spans}) == 1 and all(s[3] == 1 for s in spans)
        joined = joined and all(a[2] == b[1] for a, b in pairwise(spans))
        dim = spans[0][0]
        if joined and spans[0][1] == 0 and spans[-1][2] == node.shape[dim]:
            pieces = [merged[s] for s in spans]
            return [pieces[0] if len(pieces) == 1 else make("cat", *pieces, dim=dim)]
        return [
            make("pad", g, dim=d, start=start, step=step, size=node.shape[d])
            for (d, start, _, step), g in merged.items()
        ]

    def _back(self, node: Node) -> None:
        self.new.here = (f"d_{node.name}" if node.name else "", node.site)
        if node.op == "delay":
            self._back_delay(node)
        elif node.op == "slice":
            g = self._total(node.id)
            if g is not None and node.inputs[0] in self.live:
                self.slices.setdefault(node.inputs[0], []).append((node, g))
        elif OPS[node.op].family == "opaque":
            self._back_opaque(node)
        elif node.op not in ("given", "pick") and node.inputs:
            self._back_row(node)
        self.new.here = ("", None)

    def _back_row(self, node: Node) -> None:
        g = self._total(node.id)
        row = OPS[node.op]
        if g is None:
            return
        if row.grad is None:
            raise AssertionError(f"operation '{node.op}' has no derivative")
        if node.op not in ("einsum", "affine"):
            g = self._widened(g, node, node.inputs)
        y = _Lazy(self, node.id)
        flows = row.grad(g, y, *[_Lazy(self, i) for i in node.inputs])
        if flows is None:
            return
        for i, flow in zip(node.inputs, flows, strict=True):
            if flow is not None and i in self.live:
                self._flow(i, flow)

    def _back_delay(self, node: Node) -> None:
        """Add the gradients of initial values, which the first |steps| positions read."""
        g = self._total(node.id)
        axis, steps = node.attrs["axis"], node.attrs["steps"]
        if g is None:
            return
        g = self._widened(g, node, node.inputs)
        for slot in range(abs(steps)):
            i = node.inputs[slot if len(node.inputs) > 1 else 0]
            position = slot if steps > 0 else -1 - slot
            if i in self.live:
                self._flow(i, make("axis_at", self._over(g, axis), axis=axis, position=position))

    def _widened(self, g: Expr, node: Node, inputs: Iterable[int]) -> Expr:
        """`g` broadcast over the axes of `node` that an input lacks, as the sum runs over them."""
        lacking = [node.axes - self.old[i].axes for i in inputs if i in self.live]
        for axis in self.new.layout(frozenset().union(*lacking) - g.axes):
            g = self._over(g, axis)
        return g

    def _over(self, g: Expr, axis: str) -> Expr:
        return g if axis in g.axes else g + make("cast", _index(self.new, axis) * 0, dtype=g.dtype)

    def _back_opaque(self, node: Node) -> None:
        """Differentiate a function without a row of the table: torch does so, step by step."""
        picks = {n.attrs["which"]: n for n in self.old if n.op == "pick" and n.inputs[0] == node.id}
        forms = node.attrs["outs"]
        able = [k for k, (_, dtype) in enumerate(forms) if dtype.is_floating_point and k in picks]
        totals = {k: self._total(picks[k].id) for k in able}
        # torch is not asked for derivatives of unused results, which may have none
        used = tuple(k for k in able if totals[k] is not None)
        wanted = tuple(k for k, i in enumerate(node.inputs) if i in self.live)
        if not used or not wanted:
            return
        flows = [g for g in totals.values() if g is not None]
        grads = [self._filled(g, picks[k]) for k, g in zip(used, flows, strict=True)]
        operands = [*grads, *self._arguments(node, wanted)]
        attrs = {k: node.attrs[k] for k in ("function", "arrange", "called")}
        if node.op == "vjp":
            attrs |= {"function": pull_of(node.attrs), "arrange": in_order}
        inputs = [self.old[node.inputs[k]] for k in wanted]
        outs = tuple((x.shape, x.dtype) for x in inputs)
        vjp = build(
            self.new,
            "vjp",
            [x.id for x in operands],
            {**attrs, "used": used, "wanted": wanted, "outs": outs},
            shape=(),
            dtype=node.dtype,
        )
        for which, x in enumerate(inputs):
            pick = build(self.new, "pick", (vjp,), {"which": which}, shape=x.shape, dtype=x.dtype)
            self._flow(x.id, Expr(self.new, pick))

    def _arguments(self, node: Node, wanted: tuple[int, ...]) -> list[Expr]:
        """The point at which a function is differentiated.

        A derivative is linear in its incoming gradients. If it is differentiated by these alone,
        zeros take their place.
        """
        linear = len(node.attrs.get("used", ()))
        if any(k >= linear for k in wanted):
            linear = 0
        flows = [self._zeros(x.shape, x.dtype) for x in self.old.operands(node)[:linear]]
        return [*flows, *[self.value(i) for i in node.inputs[linear:]]]

    def _zeros(self, shape: tuple[int, ...], dtype: Any) -> Expr:
        zero = make("cast", const(self.new, 0.0), dtype=dtype)
        return make("expand", zero, shape=shape)


class _Lazy(Expr):
    """A forward value in the formula of a derivative; it is saved only if the formula reads it."""

    __slots__ = ("adjoint", "old_id")

    def __init__(self, adjoint: _Adjoint, old_id: int):
        self.adjoint, self.old_id = adjoint, old_id
        self.ir = adjoint.new

    @property
    def id(self) -> int:  # type: ignore[override]
        return self.adjoint.value(self.old_id).id

    @property
    def node(self) -> Node:
        return self.adjoint.old[self.old_id]


def _index(ir: IR, axis: str) -> Any:
    from graphnn.ops.sources import index_of

    return index_of(ir, axis)


def _ordered(ir: IR) -> IR:
    """The graph in topological order, as saved values may be inserted late."""
    from graphnn.planner.core.loop_graph import merge_orders

    new = ir.copy()
    new.nodes = merge_orders(ir.nodes, {})
    return new
