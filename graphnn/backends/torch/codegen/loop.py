"""A loop as a Python `for` over preallocated buffers.

Values that are read outside the loop are in buffers over the whole axis, which each step writes by
`out=`; the others are in buffers of one step. All views are created before the loop, so that a step
consists of arithmetic alone.
"""

from __future__ import annotations

from collections.abc import Collection

import torch

from graphnn.backends.torch.codegen.buffer_plan import (
    BufferPlan,
    buffer_plan,
    part_spans,
    writes_out,
)
from graphnn.backends.torch.codegen.code import (
    Expression,
    For,
    If,
    Line,
    assign,
    code,
    do,
    joined,
    used,
)
from graphnn.backends.torch.codegen.operations import express, is_linear, pointwise
from graphnn.backends.torch.codegen.ragged_loop import ActiveRowsText, rows_of
from graphnn.backends.torch.codegen.scope import (
    DEVICE,
    Scope,
    accepts_number,
    dtype_text,
    empty,
    filled,
    origin,
    sizes_text,
)
from graphnn.ir.graph import BATCH, Node
from graphnn.ops.registry import OPS
from graphnn.planner.core.regions import Loop, Whole


class LoopWriter:
    """Writes one loop.

    `outer` is the scope around it, which reads the nodes `keep` and returns `results` as they are.
    """

    def __init__(
        self, outer: Scope, loop: Loop, keep: set[int], results: Collection[int] = frozenset()
    ):
        self.ir, self.loop, self.outer = outer.ir, loop, outer
        self.s = Scope(outer.ir, (*outer.dropped, loop.axis), outer)
        self.rows = rows_of(outer, self.s, loop)
        self.before: list[Line] = []
        self.step: list[Line] = []
        # the step variables, and the lists that they run over
        self.sources: dict[str, Expression] = {}
        # values over the whole axis, and values that stay at one place in memory
        self.whole: dict[int, Expression] = {}
        self.fixed: set[int] = set()
        self.buffers: list[Expression] = []
        # the parts of a concatenation that have to be copied into it
        self.copies: dict[int, list[tuple[Expression, int]]] = {}
        self.next_of = {d: self.ir.closings[d] for d in loop.states}
        keep = keep | set(self.next_of.values())
        self.plan: BufferPlan = buffer_plan(outer, self.s, loop, keep, set(results))

    def write(self) -> list[Line]:
        """The statements of the loop; afterwards `outer` knows the kept values."""
        self._enter()
        for i, own in self.plan.joins.items():
            self._storage(self.ir[i])
            self._place_parts(self.ir[i], own)
        for region in self.loop.body:
            if isinstance(region, Whole):
                for i in region.nodes:
                    self._node(self.ir[i])
            else:
                self._inner(region)
        return self._assemble()

    def _enter(self) -> None:
        """Step variables for values from outside, and for the states."""
        inside = set(self.loop.nodes)
        reads = dict.fromkeys(j for i in self.loop.nodes for j in self.ir[i].inputs)
        for j in reads:
            node = self.ir[j]
            if j in inside or node.op == "const":
                continue
            if self.loop.axis not in node.axes:
                self._enter_invariant(node)
                continue
            whole = self.outer.var(j)
            self.s.names[j] = self._step_of(f"{whole.text}_t", whole, node)
            self.whole[j] = whole
        for d in self.loop.states:
            self.s.declare(self.ir[d])

    def _enter_invariant(self, node: Node) -> None:
        """A loop-invariant value. Steps read its active rows."""
        if BATCH in node.axes and isinstance(self.rows, ActiveRowsText):
            whole = self.outer.var(node.id)
            name = self.s.fresh(f"{whole.text}_fixed")
            self.before.append(assign(name, whole))
            self.s.names[node.id] = self.rows.invariant(name, node)

    def _step_of(self, wanted: str, whole: Expression, node: Node) -> Expression:
        """A variable that holds a whole value at one step."""
        step = self.s.fresh(wanted)
        self.sources[step.text] = self.rows.steps(whole, node)
        return step

    def _allocate(self, scope: Scope, node: Node, name: Expression) -> None:
        if scope is self.s:
            self.rows.invariant(name, node)
        kind, sizes = dtype_text(self.ir, node.dtype), sizes_text(scope, node)
        if scope is self.outer and not scope.dropped:
            scope.buffers.add(name.text)
            made = code("runtime.buffer({}, {}, {})", sizes, kind, DEVICE)
        else:
            made = empty(sizes, kind)
        self.before.append(assign(name, made))

    def _sequence(self, node: Node) -> Expression:
        """Allocate a buffer over the whole axis for a node; returns the variable of its step."""
        if node.id in self.plan.joined_later:
            return self._sequence_in(node, self._part_of_join(node))
        whole = self.s.fresh(f"{node.name or node.op}_all")
        self._allocate(self.outer, node, whole)
        self.buffers.append(whole)
        return self._sequence_in(node, whole)

    def _sequence_in(self, node: Node, whole: Expression) -> Expression:
        self.outer.names[node.id] = self.whole[node.id] = whole
        self.rows.writes(whole, node)
        return self._step_of(node.name or node.op, whole, node)

    def _storage(self, node: Node) -> Expression:
        """The buffer that a node's result is written into at each step."""
        if node.id in self.plan.sum_of:
            name = self._place_of(self.ir[self.plan.sum_of[node.id]])
        elif node.id in self.plan.keep:
            name = self._sequence(node)
        else:
            name = self.s.fresh(node.name or node.op)
            self._allocate(self.s, node, name)
            self.fixed.add(node.id)
        self.s.names[node.id] = name
        return name

    def _place_of(self, node: Node) -> Expression:
        """The buffer of a node, allocated now if it has none yet."""
        shared = node.id in self.plan.placed or node.id in self.plan.sum_of.values()
        if shared and node.id in self.s.names:
            return self.s.names[node.id]
        return self._storage(node)

    def _place_parts(self, node: Node, own: set[int]) -> None:
        """The places of a concatenation's parts; those in `own` are computed there."""
        self.copies[node.id] = []
        parts = [self.ir[i] for i in node.inputs]
        for part, span in zip(parts, part_spans(self.ir, node), strict=True):
            if node.id in self.whole:
                whole = code("{}[{}]", self.whole[node.id], span)
                name = self._step_of(part.name or part.op, whole, node)
                if part.id in own:
                    self.whole[part.id] = self.outer.names[part.id] = whole
                    self.outer.parts.add(part.id)
            else:
                name = self.s.fresh(part.name or part.op)
                self.rows.invariant(name, node)
                self.before.append(assign(name, code("{}[{}]", self.s.names[node.id], span)))
                if part.id in own:
                    self.fixed.add(part.id)
            if part.id in own:
                self.s.names[part.id] = name
            else:
                self.copies[node.id].append((name, part.id))

    def _part_of_join(self, node: Node) -> Expression:
        """The place of a node's sequence in the concatenation that it becomes a part of."""
        join = self.plan.joined_later[node.id]
        if join.id not in self.outer.names:
            whole = self.outer.names[join.id] = self.s.fresh(f"{join.name or join.op}_all")
            self._allocate(self.outer, join, whole)
            self.outer.started[join.id] = set()
        self.outer.started[join.id].add(node.id)
        self.outer.parts.add(node.id)
        spans = part_spans(self.ir, join)
        return code("{}[{}]", self.outer.names[join.id], spans[join.inputs.index(node.id)])

    def _node(self, node: Node) -> None:
        if node.id in self.loop.states and node.id in self.next_of.values():
            # one state is the next value of another: keep what this step read of it
            self._copy_out(node)
            return
        if node.id in self.loop.states or OPS[node.op].family == "source":
            return
        if node.id in self.plan.totalled:
            return
        if node.op == "axis_sum" and node.attrs["axis"] == self.loop.axis:
            self._total(node)
            return
        if node.op == "cat":
            self._finish_cat(node)
        elif writes_out(self.s, node):
            self._run(node, self._out(node, self._place_of(node)))
        elif OPS[node.op].family == "view" and self._hoisted(node):
            pass
        else:
            name = self.s.fresh(node.name or node.op)
            self.step.append(assign(name, express(self.s, node), origin(node)))
            self.s.names[node.id] = name
        if node.id in self.plan.keep and node.id not in self.whole:
            self._copy_out(node)

    def _copy_out(self, node: Node) -> None:
        """Copy a node's value at each step into a buffer over the whole axis."""
        step = self._sequence(node)
        self.step.append(do(code("{}.copy_({})", step, self.s.names[node.id])))

    def _total(self, node: Node) -> None:
        """A sum over the loop's axis, added up step by step (in float32 for 16-bit dtypes)."""
        total = self.s.fresh(node.name or node.op)
        kind, sizes = dtype_text(self.ir, node.dtype), sizes_text(self.s, node)
        wide = code("runtime.accumulator({})", kind)
        zeros = code("torch.zeros({}, dtype={}, device={})", sizes, wide, DEVICE)
        self.before.append(assign(total, zeros))
        self.outer.names[node.id] = self.whole[node.id] = code("{}.to({})", total, kind)
        if BATCH in node.axes:
            whole, total = total, self.s.fresh(f"{total.text}_now")
            self.before.append(assign(self.rows.invariant(total, node), whole))
        x, axes = self.ir[node.inputs[0]], self.s.axes(node)
        fused = x.id in self.plan.totalled
        parts = [self.s.aligned(i, axes, len(x.shape)) for i in (x.inputs if fused else [x.id])]
        function = "addcmul" if fused else "add"
        self._run(node, code("torch.{}({}, {}, out={})", function, total, joined(parts), total))

    def _run(self, node: Node, call: Expression) -> None:
        self.step.append(do(call, origin(node)))

    def _finish_cat(self, node: Node) -> None:
        for name, i in self.copies[node.id]:
            self.step.append(do(code("{}.copy_({})", name, self.s.full(i, node))))

    def _hoisted(self, node: Node) -> bool:
        """Create a view before the loop if its base stays at one place from step to step."""
        base = node.inputs[0]
        if node.op == "slice" and base in self.whole and node.id not in self.plan.keep:
            whole = Scope(self.ir, self.outer.dropped, self.outer)
            whole.names[base] = self.whole[base]
            self.whole[node.id] = express(whole, node)
            name = self._step_of(node.name or node.op, self.whole[node.id], node)
            self.s.names[node.id] = name
            return True
        if base not in self.fixed or node.op not in ("slice", "permute", "expand"):
            return False
        name = self.s.fresh(node.name or node.op)
        self.before.append(assign(self.rows.invariant(name, node), express(self.s, node)))
        self.s.names[node.id] = name
        self.fixed.add(node.id)
        return True

    def _out(self, node: Node, out: Expression) -> Expression:
        if node.op in ("einsum", "affine"):
            return self._product_out(node, out)
        if any(self.ir[i].op == "const" for i in node.inputs):
            return self._with_scalars(node, out)
        return pointwise(self.s, node, OPS[node.op].out_text, out)

    def _with_scalars(self, node: Node, out: Expression) -> Expression:
        """Numbers that torch requires as tensors are created once, before the loop."""
        operands = []
        for k, i in enumerate(node.inputs):
            x = self.ir[i]
            if x.op == "const" and not accepts_number(node.op, k):
                name = self.s.fresh("number")
                kind = dtype_text(self.ir, x.dtype if node.dtype == torch.bool else node.dtype)
                self.before.append(assign(name, filled("()", self.s.var(i), kind)))
                operands.append(name)
            else:
                operands.append(self.s.aligned(i, self.s.axes(node), len(node.shape)))
        return code(OPS[node.op].out_text, *operands, out=out)

    def _product_out(self, node: Node, out: Expression) -> Expression:
        a, b = (self.ir[i] for i in node.inputs[-2:])
        weight, x = self.s.var(b.id), self.s.var(a.id)
        times = self.s.fresh(f"by_{weight.text}")
        turned = "" if is_linear(self.s, a, b, node.attrs["sub"]) else ".t()"
        steps, rows = self.s.size(self.loop.axis), self.s.size(self.s.axes(a)[0])
        # the number of active rows changes: choose the layout that does not depend on it
        count = 1 if isinstance(self.rows, ActiveRowsText) else rows
        made = code("runtime.recurrent_linear({}{}, {}, {})", weight, turned, steps, count)
        self.before.append(assign(times, made))
        if node.op == "einsum":
            return code("{}.multiply({}, {})", times, out, x)
        if node.inputs[0] in self.plan.sum_of:
            return code("{}.accumulate({}, {})", times, out, x)
        c = self.s.aligned(node.inputs[0], self.s.axes(node), len(node.shape))
        return code("{}.multiply_add({}, {}, {})", times, out, c, x)

    def _inner(self, loop: Loop) -> None:
        """A loop within the step."""
        inside = set(loop.nodes)
        users = self.ir.users()
        read = {i for i in inside if any(u not in inside for u in users[i])}
        self.step += LoopWriter(self.s, loop, read | (inside & self.plan.keep)).write()
        for i in sorted(inside & self.plan.keep):
            self._copy_out(self.ir[i])

    def _starts(self) -> None:
        """For each state, the list of its first values and of what its steps wrote."""
        for d in self.loop.states:
            node, after = self.ir[d], self.next_of[d]
            count = abs(node.attrs["steps"])
            slots = [node.inputs[k if len(node.inputs) > 1 else 0] for k in range(count)]
            first = [initial(self.outer, self.s, node, i) for i in slots]
            same = self.ir[after].axes == node.axes
            whole = self.whole[after] if same else self.outer.full(after, node)
            self.sources[self.s.names[d].text] = self.rows.states(first, whole, node)

    def _assemble(self) -> list[Line]:
        self._starts()
        self.sources.update(self.rows.sources())
        stop = self.loop.stop
        sources = read_sources(self.sources, self.step)
        before = [*self.rows.before(), *self.before, *self.rows.ready()]
        after = self.rows.after(sources)
        if stop is None:
            return [*before, For(sources, self.step), *after]
        done, running = self.s.fresh("done"), self.s.names[self.ir.closings[stop]]
        last = If(code("not {}.any()", running), [do(Expression("break"))])
        step = [*self.step, do(code("{} += 1", done)), last]
        held = do(code("runtime.repeat_last([{}], {})", joined(self.buffers), done))
        return [*before, assign(done, Expression("0")), For(sources, step), held, *after]


def initial(outer: Scope, step: Scope, node: Node, init: int) -> Expression:
    """The initial value of a state in the form that steps read it."""
    sizes, kind = sizes_text(step, node), dtype_text(step.ir, node.dtype)
    if step.ir[init].op == "const":
        return filled(sizes, step.var(init), kind)
    x = outer.aligned(init, step.axes(node), len(node.shape))
    return code("{}.expand({})", x, sizes)


def read_sources(sources: dict[str, Expression], step: list[Line]) -> dict[str, Expression]:
    """The lists whose variables a step reads; all if it reads none."""
    read = used(step)
    return {k: v for k, v in sources.items() if k in read} or sources
