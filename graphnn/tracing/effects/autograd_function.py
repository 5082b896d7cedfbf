"""A `torch.autograd.Function` in a graph keeps its own backward.

Its forward and its backward are traced as any other code. The result of the forward goes through a
node `custom`, whose gradient rule is the traced backward. It therefore runs in loops and kernels
like any other operation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from graphnn.errors import UnsupportedError
from graphnn.ir.graph import Node
from graphnn.ir.source_location import user_site
from graphnn.ops.builder import Expr, make, reshape
from graphnn.ops.custom_gradient import Rule
from graphnn.ops.registry import OPS, build
from graphnn.tracing.effects.current_graph import current_graph
from graphnn.tracing.effects.patches import Patch, attributes
from graphnn.tracing.effects.symbolic import GraphLike, is_value

_PLAIN = torch.autograd.Function.__dict__["apply"]


def _apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
    graph = _graph_of(args)
    if graph is None:
        return _PLAIN.__get__(None, cls)(*args, **kwargs)
    return _Call(graph, cls, args, kwargs).run()


# during traces, functions that are applied to values are traced
TRACED = Patch(attributes(torch.autograd.Function, apply=classmethod(_apply)))


def _graph_of(args: Any) -> GraphLike | None:
    """The graph of a function's arguments: of its values, or the one that tracks its tensors."""
    for x in tree_leaves(args):
        if is_value(x):
            return x.graph
    graph = current_graph()
    tracer = graph.tracer if graph is not None else None
    if tracer is None or not any(tracer.tracks(x) for x in tree_leaves(args)):
        return None
    return graph


def trace_function(graph: GraphLike, function: Any, *args: Any) -> Any:
    """Apply an autograd function of the library itself to values."""
    return _Call(graph, function, args, {}).run()


class Context:
    """The `ctx` of torch: what a function's forward saves for its backward."""

    def __init__(self, needs: Sequence[bool]):
        self.needs_input_grad = tuple(needs)
        self.saved_tensors: tuple[Any, ...] = ()
        self.materialize_grads = True
        self.non_differentiable: tuple[Any, ...] = ()

    def save_for_backward(self, *tensors: Any) -> None:
        self.saved_tensors = tensors

    def save_for_forward(self, *tensors: Any) -> None:
        """Does nothing: forward-mode derivatives are not traced."""

    def mark_non_differentiable(self, *tensors: Any) -> None:
        self.non_differentiable = tensors

    def set_materialize_grads(self, value: bool) -> None:
        self.materialize_grads = value

    def mark_dirty(self, *tensors: Any) -> None:
        raise UnsupportedError(
            "a custom function that changes its input in place is not supported",
            site=user_site(),
            got="ctx.mark_dirty(…)",
            wanted="a forward that returns new values",
            fix="leave mark_dirty out and return the result",
        )


class _Call:
    """One application of an autograd function to values."""

    def __init__(self, graph: GraphLike, function: Any, args: Any, kwargs: Any):
        self.graph, self.function, self.site = graph, function, user_site()
        self.args = [graph.value(x) if isinstance(x, torch.Tensor) else x for x in args]
        self.kwargs = kwargs
        self.differentiable = [
            k for k, x in enumerate(self.args) if is_value(x) and x.dtype.is_floating_point
        ]
        self.context = Context([k in self.differentiable for k in range(len(self.args))])

    def run(self) -> Any:
        graph, function = self.graph, self.function
        if function.setup_context is not torch.autograd.Function.setup_context:
            result = function.forward(*self.args, **self.kwargs)
            function.setup_context(self.context, tuple(self.args), result)
        else:
            result = function.forward(self.context, *self.args, **self.kwargs)
        single = not isinstance(result, tuple)
        outs = [graph.value(x) if isinstance(x, torch.Tensor) else x for x in as_list(result)]
        floats = [k for k, x in enumerate(outs) if self._carries_gradient(x)]
        for k, x in enumerate(outs):
            if is_value(x) and k not in floats:
                outs[k] = graph.value_of(make("detach", Expr(graph.ir, x.id)).id)
        if floats and self.differentiable and torch.is_grad_enabled():
            self._attach(outs, floats)
        return outs[0] if single else tuple(outs)

    def _carries_gradient(self, x: Any) -> bool:
        """Whether a result is differentiable."""
        if not is_value(x) or not x.dtype.is_floating_point:
            return False
        return not any(x is u for u in self.context.non_differentiable)

    def _attach(self, outs: list[Any], floats: list[int]) -> None:
        """Replace the results by those of a node with the function's own backward."""
        graph, name = self.graph, self.function.__name__
        ir = graph.ir
        parts = [Expr(ir, outs[k].id) for k in floats]
        if len({p.dtype for p in parts}) > 1:
            self._refuse("returns results of several dtypes", [str(p.dtype) for p in parts])
        ir.here = (name, self.site)
        packed = parts[0] if len(parts) == 1 else _packed(parts)
        for k in self.differentiable:
            packed = _over(packed, Expr(ir, self.args[k].id))
        rule, reads = self._rule(packed, outs, floats)
        inputs = [packed.id, *(self.args[k].id for k in self.differentiable), *reads]
        attrs = {"rule": rule, "called": name}
        signature: dict[str, Any] = _signature(packed)
        node = Expr(ir, build(ir, "custom", inputs, attrs, name=name, site=self.site, **signature))
        whole = [node] if len(parts) == 1 else _unpacked(node, [p.shape for p in parts])
        for k, x in zip(floats, whole, strict=True):
            outs[k] = graph.value_of(x.id)
        ir.here = ("", None)

    def _rule(self, packed: Expr, outs: list[Any], floats: list[int]) -> tuple[Rule, list[int]]:
        """Trace the backward, and move its nodes from the graph into a rule."""
        if len(floats) > 1 and not self.context.materialize_grads:
            self._refuse(
                "requests None for a result without a gradient, but returns several results",
                ["zeros instead, as torch passes without set_materialize_grads(False)"],
                fix="leave ctx.set_materialize_grads(False) out, or return one result",
            )
        graph, ir = self.graph, self.graph.ir
        since = ir.fresh()
        flow = build(ir, "given", (), {"key": ("flow", since)}, name="flow", **_signature(packed))
        flows = [Expr(ir, flow)]
        if len(floats) > 1:
            flows = _unpacked(flows[0], [tuple(outs[k].shape) for k in floats])
        # torch passes zeros for results without a gradient, and None for other objects
        given: list[Any] = [_zeros(x) for x in outs]
        for k, x in zip(floats, flows, strict=True):
            given[k] = graph.value_of(x.id)
        with graph.context.keeping_gradients(), torch.no_grad():
            found = as_list(self.function.backward(self.context, *given))
        if len(found) < len(self.args):
            self._refuse(f"returns {len(found)} gradients", [f"{len(self.args)} arguments"])
        grads = [found[k] for k in self.differentiable]
        ids = [None if g is None else graph.value(g).id for g in grads]
        for k, i in zip(self.differentiable, ids, strict=True):
            self._check_gradient(k, i)
        return self._extract(since, flow, ids)

    def _check_gradient(self, k: int, i: int | None) -> None:
        """Check that the input expands to the shape of its gradient, over which torch then sums."""
        if i is None:
            return
        have, want = self.graph.ir[i].shape, tuple(self.args[k].shape)
        try:
            fits = torch.broadcast_shapes(have, want) == have
        except RuntimeError:
            fits = False
        if not fits:
            self._refuse(f"gives a gradient of shape {have}", [f"its input has {want}"])

    def _extract(self, since: int, flow: int, grads: list[int | None]) -> tuple[Rule, list[int]]:
        """The nodes of the backward as a rule; new sources stay in the graph, as its inputs."""
        ir = self.graph.ir
        traced = [n for i, n in ir.nodes.items() if i >= since]
        sources = {n.id for n in traced if OPS[n.op].family == "source"} - {flow}
        sources -= {n.id for n in traced if n.op == "const"}
        part, reads = ir.empty(), list[int]()
        wanted = [i for i in grads if i is not None]
        for n in sorted(_above(ir.nodes, wanted, since, sources), key=lambda n: n.id):
            if n.id == flow or (n.id >= since and n.id not in sources) or n.op == "const":
                self._check_local(n)
                part.insert(n)
            else:
                reads.append(n.id)
                part.insert(_given(n))
        for n in (n for n in traced if n.id not in sources):
            del ir.nodes[n.id]
            self.graph.unbound.discard(n.id)
        moving = tuple(self.args[k].id for k in self.differentiable)
        return Rule(part, flow, moving, tuple(reads), tuple(grads)), reads

    def _check_local(self, n: Node) -> None:
        """Raise UnsupportedError if a node of the backward is an operation over an axis."""
        if OPS[n.op].family in ("axis", "delay", "along", "rename"):
            self._refuse(
                f"uses '{n.op}' in its backward", ["operations on one example at one position"]
            )

    def _refuse(
        self,
        problem: str,
        wanted: list[str],
        fix: str = "write the function with plain torch operations on one example",
    ) -> None:
        raise UnsupportedError(
            f"the custom function '{self.function.__name__}' {problem}",
            node=self.function.__name__,
            site=self.site,
            got=problem,
            wanted=", ".join(wanted),
            fix=fix,
        )


def _zeros(x: Any) -> Any:
    """Zeros like a value; None for anything else."""
    if not is_value(x):
        return None
    return x.graph.value(torch.zeros(x.shape, dtype=x.dtype))


def _over(x: Expr, like: Expr) -> Expr:
    """`x` over the axes of `like` in addition: the backward runs at each of their positions."""
    if like.axes <= x.axes:
        return x
    # depends on `like`, but does not change `x`
    nans = make("cast", make("isnan", like), dtype=torch.int64)
    if like.shape:
        nans = make("sum", nans, dims=tuple(range(len(like.shape))))
    return make("where", make("gt", nans, 0), x, x)


def _signature(x: Expr) -> dict[str, Any]:
    return {"shape": x.shape, "dtype": x.dtype, "axes": x.axes}


def as_list(results: Any) -> list[Any]:
    """The results of a call, as a list."""
    return list(results) if isinstance(results, (tuple, list)) else [results]


def _packed(parts: list[Expr]) -> Expr:
    """Several results as one vector."""
    flat = [reshape(p, (int(torch.Size(p.shape).numel()),)) for p in parts]
    return make("cat", *flat, dim=0)


def _unpacked(x: Expr, shapes: Sequence[tuple[int, ...]]) -> list[Expr]:
    """The results of `shapes` in one vector."""
    start, found = 0, []
    for shape in shapes:
        stop = start + torch.Size(shape).numel()
        found.append(reshape(make("slice", x, dim=0, start=start, stop=stop, step=1), shape))
        start = stop
    return found


def _given(n: Node) -> Node:
    """An input of a rule, for a node outside of it."""
    attrs = {"key": n.id, "was": n.op}
    return Node(n.id, "given", (), attrs, n.shape, n.axes, n.dtype, n.name, n.site)


def _above(nodes: dict[int, Node], wanted: list[int], since: int, sources: set[int]) -> list[Node]:
    """The nodes that gradients are computed from, down to those from before the backward."""
    found: dict[int, Node] = {}
    stack = list(wanted)
    while stack:
        i = stack.pop()
        if i not in found:
            found[i] = nodes[i]
            if i >= since and i not in sources:
                stack.extend(nodes[i].inputs)
    return list(found.values())
