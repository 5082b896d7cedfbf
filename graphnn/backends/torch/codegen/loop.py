"""Writing a loop as a Python `for` over preallocated buffers.

What is read outside lies in whole-axis buffers, written a step at a time by `out=`; the rest in
buffers of one step. All views are made before the loop, so that a step is nothing but arithmetic.
"""

from __future__ import annotations

import re

import torch

from graphnn.backends.torch.codegen.buffer_plan import (
    accumulated,
    gathered,
    joined_later,
    part_spans,
)
from graphnn.backends.torch.codegen.operations import express, is_linear, is_transposed, pointwise
from graphnn.backends.torch.codegen.ragged_loop import Narrowed, rows_of
from graphnn.backends.torch.codegen.scope import Scope, dtype_text, origin, sizes_text, takes_number
from graphnn.ir.graph import BATCH, Node
from graphnn.ops.registry import OPS
from graphnn.planner.core.regions import Loop, Whole

INDENT = "    "


class LoopWriter:
    """Writes one loop. `outer` is the scope around it; `keep` are the nodes that scope reads,
    `results` those that it hands out as they are."""

    def __init__(self, outer: Scope, loop: Loop, keep: set[int], results: set[int] = frozenset()):  # type: ignore[assignment]
        self.ir, self.loop, self.outer = outer.ir, loop, outer
        self.s = Scope(outer.ir, (*outer.dropped, loop.axis), outer)
        self.rows = rows_of(outer, self.s, loop)
        self.before: list[str] = []
        self.step: list[str] = []
        self.sources: dict[str, str] = {}
        self.whole: dict[int, str] = {}
        self.fixed: set[int] = set()
        self.under: dict[int, int] = {}
        self.later: dict[int, Node] = {}
        self.gathered: set[int] = set()
        self.members, self.results = set(loop.nodes), results
        self.buffers: list[str] = []
        self.copies: dict[int, list[tuple[str, int]]] = {}
        self.next_of = {d: self.ir.closings[d] for d in loop.states}
        self.keep = keep | set(self.next_of.values())

    def write(self) -> list[str]:
        """The lines of the loop, unindented; `outer` afterwards knows the kept values."""
        self._enter()
        self._join_buffers()
        self.gathered = gathered(self)
        self.under, self.later = accumulated(self), joined_later(self)
        for region in self.loop.body:
            if isinstance(region, Whole):
                for i in region.nodes:
                    self._node(self.ir[i])
            else:
                self._inner(region)
        return self._assemble()

    def _enter(self) -> None:
        """Step variables for what comes from outside, and for the states."""
        inside = set(self.loop.nodes)
        reads = dict.fromkeys(j for i in self.loop.nodes for j in self.ir[i].inputs)
        for j in reads:
            node = self.ir[j]
            if j in inside or node.op == "const":
                continue
            if self.loop.axis not in node.axes:
                self._enter_fixed(node)
                continue
            self.s.names[j] = self.s.fresh(f"{self.outer.var(j)}_t")
            self.sources[self.s.names[j]] = self.rows.steps(self.outer.var(j), node)
            self.whole[j] = self.outer.var(j)
        for d in self.loop.states:
            self.s.declare(self.ir[d])

    def _enter_fixed(self, node: Node) -> None:
        """What is the same at each step, of the rows that run."""
        if BATCH in node.axes and isinstance(self.rows, Narrowed):
            name = self.s.fresh(f"{self.outer.var(node.id)}_fixed")
            self.before.append(f"{name} = {self.outer.var(node.id)}")
            self.s.names[node.id] = self.rows.own(name, node)

    def _allocate(self, scope: Scope, node: Node, name: str) -> None:
        if scope is self.s:
            self.rows.own(name, node)
        kind = dtype_text(self.ir, node.dtype)
        sizes = sizes_text(scope, node)
        if scope is self.outer and not scope.dropped:
            self.before.append(f"{name} = runtime.buffer({sizes}, {kind}, device)")
        else:
            self.before.append(f"{name} = torch.empty({sizes}, dtype={kind}, device=device)")

    def _sequence(self, node: Node) -> str:
        """A whole-axis buffer for a node; returns the variable of its step."""
        if node.id in self.later:
            return self._sequence_in(node, self._part_of_join(node))
        name = self.s.fresh(f"{node.name or node.op}_all")
        self._allocate(self.outer, node, name)
        self.buffers.append(name)
        return self._sequence_in(node, name)

    def _sequence_in(self, node: Node, whole: str) -> str:
        self.outer.names[node.id] = whole
        self.whole[node.id] = whole
        self.rows.kept(whole, node)
        step = self.s.fresh(node.name or node.op)
        self.sources[step] = self.rows.steps(whole, node)
        return step

    def _storage(self, node: Node) -> str:
        """The buffer that a node's result is written into at each step."""
        if node.id in self.under:
            total = self.ir[self.under[node.id]]
            self.s.names[node.id] = self._place_of(total)
            return self.s.names[node.id]
        if node.id in self.keep:
            name = self._sequence(node)
        else:
            name = self.s.fresh(node.name or node.op)
            self._allocate(self.s, node, name)
            self.fixed.add(node.id)
        self.s.names[node.id] = name
        return name

    def _place_of(self, node: Node) -> str:
        """The buffer of a node, made now if it has none yet."""
        given = node.id in self.placed or node.id in self.under.values()
        if given and node.id in self.s.names:
            return self.s.names[node.id]
        return self._storage(node)

    def _join_buffers(self) -> None:
        """The parts of a concatenation are written straight into their places in it."""
        inside = set(self.loop.nodes)
        self.placed: set[int] = set()
        for i in self.loop.nodes:
            node = self.ir[i]
            if node.op != "cat" or not self.top(i):
                continue
            parts = [self.ir[j] for j in node.inputs]
            own = [
                p
                for p in parts
                if p.id in inside
                and self.top(p.id)
                and self.writes_out(p)
                and p.axes == node.axes
                and p.dtype == node.dtype
                and p.id not in self.placed
                and p.id not in self.next_of.values()
                and node.inputs.count(p.id) == 1
            ]
            if any(p.id in self.keep for p in own):
                self.keep.add(i)
            self._storage(node)
            self._place(node, parts, {p.id for p in own})
            self.placed.add(i)

    def _place(self, node: Node, parts: list[Node], own: set[int]) -> None:
        self.copies[node.id] = []
        for part, cut in zip(parts, part_spans(self.ir, node), strict=True):
            name = self.s.fresh(part.name or part.op)
            if node.id in self.whole:
                whole = f"{self.whole[node.id]}[{cut}]"
                self.sources[name] = self.rows.steps(whole, node)
                if part.id in own:
                    self.whole[part.id] = self.outer.names[part.id] = whole
            else:
                self.before.append(f"{self.rows.own(name, node)} = {self.s.names[node.id]}[{cut}]")
                if part.id in own:
                    self.fixed.add(part.id)
            if part.id in own:
                self.s.names[part.id] = name
                self.placed.add(part.id)
            else:
                self.copies[node.id].append((name, part.id))

    def _part_of_join(self, node: Node) -> str:
        """The place of a node's sequence in the concatenation that it belongs to."""
        join = self.later[node.id]
        if join.id not in self.outer.names:
            name = self.outer.names[join.id] = self.s.fresh(f"{join.name or join.op}_all")
            self._allocate(self.outer, join, name)
            self.outer.started[join.id] = set()
        self.outer.started[join.id].add(node.id)
        spans = part_spans(self.ir, join)
        return f"{self.outer.names[join.id]}[{spans[join.inputs.index(node.id)]}]"

    def top(self, i: int) -> bool:
        """Whether a node is computed in this loop's own step, not in a loop within it."""
        return any(isinstance(r, Whole) and i in r.nodes for r in self.loop.body)

    def writes_out(self, node: Node) -> bool:
        """Whether torch can write this operation's result into a given buffer."""
        if node.op in ("product", "affine"):
            return self._two_dimensional(node)
        return OPS[node.op].family == "pointwise" and bool(OPS[node.op].out_text)

    def _two_dimensional(self, node: Node) -> bool:
        a, b = (self.ir[i] for i in node.inputs[-2:])
        sub = node.attrs["sub"]
        known = is_linear(self.s, a, b, sub) or is_transposed(self.s, a, b, sub)
        contract = node.attrs["contract"] - set(self.s.dropped)
        return known and not contract and len(self.s.axes(a)) == 1 and len(a.shape) == 1

    def _node(self, node: Node) -> None:
        if node.id in self.loop.states and node.id in self.next_of.values():
            # one state is the next value of another: keep what this step read of it
            step = self._sequence(node)
            self.step.append(f"{step}.copy_({self.s.names[node.id]})")
            return
        if node.id in self.loop.states or OPS[node.op].family == "source":
            return
        if node.id in self.gathered:
            return
        if node.op == "axis_sum" and node.attrs["axis"] == self.loop.axis:
            self._gather(node)
            return
        if node.op == "cat":
            self._finish_cat(node)
        elif self.writes_out(node):
            self._comment(node, self._out(node, self._place_of(node)))
        elif OPS[node.op].family == "view" and self._hoisted(node):
            pass
        else:
            name = self.s.fresh(node.name or node.op)
            self._comment(node, f"{name} = {express(self.s, node)}")
            self.s.names[node.id] = name
        if node.id in self.keep and node.id not in self.whole:
            step = self._sequence(node)
            self.step.append(f"{step}.copy_({self.s.names[node.id]})")

    def _gather(self, node: Node) -> None:
        """A sum over the loop's axis, added up step by step (in float32 where values are less)."""
        total = self.s.fresh(node.name or node.op)
        kind = dtype_text(self.ir, node.dtype)
        sizes = sizes_text(self.s, node)
        wide = f"runtime.summing({kind})"
        self.before.append(f"{total} = torch.zeros({sizes}, dtype={wide}, device=device)")
        self.outer.names[node.id] = self.whole[node.id] = f"{total}.to({kind})"
        if BATCH in node.axes:
            whole, total = total, self.s.fresh(f"{total}_now")
            self.before.append(f"{self.rows.own(total, node)} = {whole}")
        x, axes = self.ir[node.inputs[0]], self.s.axes(node)
        if x.id in self.gathered:
            parts = [self.s.aligned(i, axes, len(x.shape)) for i in x.inputs]
            self._comment(node, f"torch.addcmul({total}, {', '.join(parts)}, out={total})")
        else:
            part = self.s.aligned(x.id, axes, len(x.shape))
            self._comment(node, f"torch.add({total}, {part}, out={total})")

    def _comment(self, node: Node, line: str) -> None:
        self.step.append(f"{line}{origin(node)}")

    def _finish_cat(self, node: Node) -> None:
        for name, i in self.copies[node.id]:
            self.step.append(f"{name}.copy_({self.s.full(i, node)})")

    def _hoisted(self, node: Node) -> bool:
        """Make a view before the loop, where its base stays in place from step to step."""
        base = node.inputs[0]
        if node.op == "slice" and base in self.whole and node.id not in self.keep:
            whole = Scope(self.ir, self.outer.dropped, self.outer)
            whole.names[base] = self.whole[base]
            name = self.s.fresh(node.name or node.op)
            self.whole[node.id] = express(whole, node)
            self.sources[name] = self.rows.steps(self.whole[node.id], node)
            self.s.names[node.id] = name
            return True
        if base not in self.fixed or node.op not in ("slice", "permute", "expand"):
            return False
        name = self.s.fresh(node.name or node.op)
        self.before.append(f"{self.rows.own(name, node)} = {express(self.s, node)}")
        self.s.names[node.id] = name
        self.fixed.add(node.id)
        return True

    def _out(self, node: Node, out: str) -> str:
        if node.op in ("product", "affine"):
            return self._product_out(node, out)
        if any(self.ir[i].op == "const" for i in node.inputs):
            return self._with_scalars(node, out)
        return pointwise(self.s, node, OPS[node.op].out_text, out)

    def _with_scalars(self, node: Node, out: str) -> str:
        """Numbers that torch wants as tensors are made once, before the loop."""
        template, fills = OPS[node.op].out_text, []
        for k, i in enumerate(node.inputs):
            x = self.ir[i]
            if x.op == "const" and not takes_number(node.op, k):
                name = self.s.fresh("number")
                kind = dtype_text(self.ir, x.dtype if node.dtype == torch.bool else node.dtype)
                value = self.s.var(i)
                self.before.append(f"{name} = torch.full((), {value}, dtype={kind}, device=device)")
                fills.append(name)
            else:
                fills.append(self.s.aligned(i, self.s.axes(node), len(node.shape)))
        return template.format(*fills, out=out)

    def _product_out(self, node: Node, out: str) -> str:
        a, b = (self.ir[i] for i in node.inputs[-2:])
        weight, x = self.s.var(b.id), self.s.var(a.id)
        times = self.s.fresh(f"by_{weight}")
        turned = "" if is_linear(self.s, a, b, node.attrs["sub"]) else ".t()"
        steps, rows = self.s.size(self.loop.axis), self.s.size(self.s.axes(a)[0])
        if isinstance(self.rows, Narrowed):
            rows = "1"  # fewer and fewer: the form that hangs on no number of them
        self.before.append(f"{times} = runtime.times({weight}{turned}, {steps}, {rows})")
        if node.op == "product":
            return f"{times}.into({out}, {x})"
        if node.inputs[0] in self.under:
            return f"{times}.onto({out}, {x})"
        c = self.s.aligned(node.inputs[0], self.s.axes(node), len(node.shape))
        return f"{times}.plus({out}, {c}, {x})"

    def _inner(self, loop: Loop) -> None:
        """A loop within the step."""
        inside = set(loop.nodes)
        users = self.ir.users()
        read = {i for i in inside if any(u not in inside for u in users[i])}
        writer = LoopWriter(self.s, loop, read | (inside & self.keep))
        self.step += writer.write()
        for i in sorted(inside & self.keep):
            step = self._sequence(self.ir[i])
            self.step.append(f"{step}.copy_({self.s.names[i]})")

    def _starts(self) -> None:
        """Each state's first values, then what its steps wrote: one list a state."""
        for d in self.loop.states:
            node, after = self.ir[d], self.next_of[d]
            count = abs(node.attrs["steps"])
            slots = [node.inputs[k if len(node.inputs) > 1 else 0] for k in range(count)]
            first = [self._initial(node, i) for i in slots]
            same = self.ir[after].axes == node.axes
            whole = self.whole[after] if same else self.outer.full(after, node)
            self.sources[self.s.names[d]] = self.rows.states(first, whole, node)

    def _initial(self, node: Node, init: int) -> str:
        sizes, kind = sizes_text(self.s, node), dtype_text(self.ir, node.dtype)
        source = self.ir[init]
        if source.op == "const":
            value = self.s.var(init)
            return f"torch.full({sizes}, {value}, dtype={kind}, device=device)"
        text = self.outer.aligned(init, self.s.axes(node), len(node.shape))
        return f"{text}.expand({sizes})"

    def _assemble(self) -> list[str]:
        self._starts()
        self.sources.update(self.rows.sources())
        words = set(re.findall(r"\w+", " ".join(self.step)))
        used = {k: v for k, v in self.sources.items() if k in words}
        if not used:
            used = self.sources
        variables, lists = list(used), list(used.values())
        lines = [*self.rows.before(), *self.before, *self.rows.ready()]
        stop = self.loop.stop
        if stop is not None:
            lines.append("done = 0")
        lines.append(f"for {', '.join(variables)} in zip(")
        lines += [f"{INDENT}{text}," for text in lists]
        lines.append("):")
        if len(variables) == 1:
            place = next(k for k, x in enumerate(lines) if x.startswith("for "))
            lines[place] = f"for ({variables[0]},) in zip("
        lines += [INDENT + line for line in self.step]
        if stop is not None:
            running = self.s.names[self.ir.closings[stop]]
            lines += [
                f"{INDENT}done += 1",
                f"{INDENT}if not {running}.any():",
                f"{INDENT * 2}break",
                f"runtime.hold([{', '.join(self.buffers)}], done)",
            ]
        return lines + self.rows.after(used)
