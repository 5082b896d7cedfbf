"""custom: a `torch.autograd.Function` keeps its own backward.

Its forward and its backward are drawn as any other code. The graph holds the value that the forward
makes in a node `custom`, whose derivative is what the backward drew: so it runs in loops, kernels
and everywhere else as any operation does.
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


# while graphs are drawn, functions applied to their values are drawn into them
MET = Patch(attributes(torch.autograd.Function, apply=classmethod(_apply)))


def _graph_of(args: Any) -> GraphLike | None:
    """The graph that a function's arguments belong to, as values or as what is followed."""
    for x in tree_leaves(args):
        if is_value(x):
            return x.graph
    graph = current_graph()
    tracer = graph.tracer if graph is not None else None
    if tracer is None or not any(tracer.tracks(x) for x in tree_leaves(args)):
        return None
    return graph


def drawn(graph: GraphLike, function: Any, *args: Any) -> Any:
    """What a function of the library's own gives of values."""
    return _Call(graph, function, args, {}).run()


class Context:
    """What a function's forward leaves for its backward: the `ctx` of torch."""

    def __init__(self, needs: Sequence[bool]):
        self.needs_input_grad = tuple(needs)
        self.saved_tensors: tuple[Any, ...] = ()
        self.materialize_grads = True
        self.undifferentiated: tuple[Any, ...] = ()

    def save_for_backward(self, *tensors: Any) -> None:
        self.saved_tensors = tensors

    def save_for_forward(self, *tensors: Any) -> None:
        """Nothing: its forward-mode derivative is not asked for."""

    def mark_non_differentiable(self, *tensors: Any) -> None:
        self.undifferentiated = tensors

    def set_materialize_grads(self, value: bool) -> None:
        self.materialize_grads = value

    def mark_dirty(self, *tensors: Any) -> None:
        raise UnsupportedError(
            "a custom function that changes its input in place cannot be in a graph",
            site=user_site(),
            got="ctx.mark_dirty(…)",
            wanted="a forward that returns new values",
            fix="leave mark_dirty out and return the result",
        )


class _Call:
    """One application of a function to values."""

    def __init__(self, graph: GraphLike, function: Any, args: Any, kwargs: Any):
        self.graph, self.function, self.site = graph, function, user_site()
        self.args = [graph.value(x) if isinstance(x, torch.Tensor) else x for x in args]
        self.kwargs = kwargs
        self.moving = [
            k for k, x in enumerate(self.args) if is_value(x) and x.dtype.is_floating_point
        ]
        self.context = Context([k in self.moving for k in range(len(self.args))])

    def run(self) -> Any:
        graph, function = self.graph, self.function
        if function.setup_context is not torch.autograd.Function.setup_context:
            result = function.forward(*self.args, **self.kwargs)
            function.setup_context(self.context, tuple(self.args), result)
        else:
            result = function.forward(self.context, *self.args, **self.kwargs)
        single = not isinstance(result, tuple)
        outs = [graph.value(x) if isinstance(x, torch.Tensor) else x for x in taken(result)]
        floats = [k for k, x in enumerate(outs) if self._flows(x)]
        for k, x in enumerate(outs):
            if is_value(x) and k not in floats:
                outs[k] = graph.value_of(make("detach", Expr(graph.ir, x.id)).id)
        if floats and self.moving and torch.is_grad_enabled():
            self._attach(outs, floats)
        return outs[0] if single else tuple(outs)

    def _flows(self, x: Any) -> bool:
        if not is_value(x) or not x.dtype.is_floating_point:
            return False
        return not any(x is u for u in self.context.undifferentiated)

    def _attach(self, outs: list[Any], floats: list[int]) -> None:
        """Put the results under the function's own derivative."""
        graph, name = self.graph, self.function.__name__
        ir = graph.ir
        parts = [Expr(ir, outs[k].id) for k in floats]
        if len({p.dtype for p in parts}) > 1:
            self._refuse("returns results of several dtypes", [str(p.dtype) for p in parts])
        ir.here = (name, self.site)
        packed = parts[0] if len(parts) == 1 else _packed(parts)
        for k in self.moving:
            packed = _over(packed, Expr(ir, self.args[k].id))
        rule, reads = self._rule(packed, outs, floats)
        inputs = [packed.id, *(self.args[k].id for k in self.moving), *reads]
        attrs = {"rule": rule, "called": name}
        kept: dict[str, Any] = _form(packed)
        node = Expr(ir, build(ir, "custom", inputs, attrs, name=name, site=self.site, **kept))
        whole = [node] if len(parts) == 1 else _unpacked(node, [p.shape for p in parts])
        for k, x in zip(floats, whole, strict=True):
            outs[k] = graph.value_of(x.id)
        ir.here = ("", None)

    def _rule(self, packed: Expr, outs: list[Any], floats: list[int]) -> tuple[Rule, list[int]]:
        """Draw the backward, and take what it drew out of the graph again."""
        if len(floats) > 1 and not self.context.materialize_grads:
            self._refuse(
                "asks for None where one of several results has no gradient",
                ["zeros there, as torch gives without set_materialize_grads(False)"],
                fix="leave ctx.set_materialize_grads(False) out, or return one result",
            )
        graph, ir = self.graph, self.graph.ir
        since = ir.fresh()
        flow = build(ir, "given", (), {"key": ("flow", since)}, name="flow", **_form(packed))
        flows = [Expr(ir, flow)]
        if len(floats) > 1:
            flows = _unpacked(flows[0], [tuple(outs[k].shape) for k in floats])
        # torch gives zeros for results without a gradient, and None for what is no tensor
        given: list[Any] = [_zeros(x) for x in outs]
        for k, x in zip(floats, flows, strict=True):
            given[k] = graph.value_of(x.id)
        with graph.context.undetached(), torch.no_grad():
            found = taken(self.function.backward(self.context, *given))
        if len(found) < len(self.args):
            self._refuse(f"returns {len(found)} gradients", [f"{len(self.args)} arguments"])
        grads = [found[k] for k in self.moving]
        ids = [None if g is None else graph.value(g).id for g in grads]
        for k, i in zip(self.moving, ids, strict=True):
            self._fits(k, i)
        return self._taken_out(since, flow, ids)

    def _fits(self, k: int, i: int | None) -> None:
        """The input could be expanded to its gradient's shape: torch sums over what is added."""
        if i is None:
            return
        have, want = self.graph.ir[i].shape, tuple(self.args[k].shape)
        try:
            fits = torch.broadcast_shapes(have, want) == have
        except RuntimeError:
            fits = False
        if not fits:
            self._refuse(f"gives a gradient of shape {have}", [f"its input has {want}"])

    def _taken_out(self, since: int, flow: int, grads: list[int | None]) -> tuple[Rule, list[int]]:
        """What the backward drew, as a rule: new sources stay in the graph, and are read."""
        ir = self.graph.ir
        drawn = [n for i, n in ir.nodes.items() if i >= since]
        sources = {n.id for n in drawn if OPS[n.op].family == "source"} - {flow}
        sources -= {n.id for n in drawn if n.op == "const"}
        part, reads = ir.empty(), list[int]()
        wanted = [i for i in grads if i is not None]
        for n in sorted(_above(ir.nodes, wanted, since, sources), key=lambda n: n.id):
            if n.id == flow or (n.id >= since and n.id not in sources) or n.op == "const":
                self._plain(n)
                part.insert(n)
            else:
                reads.append(n.id)
                part.insert(_given(n))
        for n in (n for n in drawn if n.id not in sources):
            del ir.nodes[n.id]
            self.graph.unbound.discard(n.id)
        moving = tuple(self.args[k].id for k in self.moving)
        return Rule(part, flow, moving, tuple(reads), tuple(grads)), reads

    def _plain(self, n: Node) -> None:
        if OPS[n.op].family in ("axis", "delay", "along", "rename"):
            self._refuse(f"uses '{n.op}' in its backward", ["operations on one example"])

    def _refuse(
        self,
        what: str,
        wanted: list[str],
        fix: str = "write the function with plain torch operations, one example at a time",
    ) -> None:
        raise UnsupportedError(
            f"the custom function '{self.function.__name__}' {what}",
            node=self.function.__name__,
            site=self.site,
            got=what,
            wanted=", ".join(wanted),
            fix=fix,
        )


def _zeros(x: Any) -> Any:
    if not is_value(x):
        return None
    return x.graph.value(torch.zeros(x.shape, dtype=x.dtype))


def _over(x: Expr, like: Expr) -> Expr:
    """`x` over the axes of `like`, at each position of which the backward is called."""
    if like.axes <= x.axes:
        return x
    strange = make("cast", make("isnan", like), dtype=torch.int64)
    if like.shape:
        strange = make("sum", strange, dims=tuple(range(len(like.shape))))
    return make("where", make("gt", strange, 0), x, x)


def _form(x: Expr) -> dict[str, Any]:
    return {"shape": x.shape, "dtype": x.dtype, "axes": x.axes}


def taken(results: Any) -> list[Any]:
    """The results of a call, as a list."""
    return list(results) if isinstance(results, (tuple, list)) else [results]


def _packed(parts: list[Expr]) -> Expr:
    flat = [reshape(p, (int(torch.Size(p.shape).numel()),)) for p in parts]
    return make("cat", *flat, dim=0)


def _unpacked(x: Expr, shapes: Sequence[tuple[int, ...]]) -> list[Expr]:
    start, found = 0, []
    for shape in shapes:
        stop = start + torch.Size(shape).numel()
        found.append(reshape(make("slice", x, dim=0, start=start, stop=stop, step=1), shape))
        start = stop
    return found


def _given(n: Node) -> Node:
    attrs = {"key": n.id, "was": n.op}
    return Node(n.id, "given", (), attrs, n.shape, n.axes, n.dtype, n.name, n.site)


def _above(nodes: dict[int, Node], wanted: list[int], since: int, sources: set[int]) -> list[Node]:
    """What gradients are made of, down to what was there before."""
    found: dict[int, Node] = {}
    stack = list(wanted)
    while stack:
        i = stack.pop()
        if i not in found:
            found[i] = nodes[i]
            if i >= since and i not in sources:
                stack.extend(nodes[i].inputs)
    return list(found.values())
