"""factor: in a backward loop, what a gradient is multiplied by is multiplied together outside.

`tanh'(y) (s d)` with y and s saved is `k d` with `k = s (1 - y²)`, made for the whole axis at once:
one call a step where there were two.
"""

from __future__ import annotations

from collections.abc import Callable

from graphnn.ir import IR, Node
from graphnn.ops.expr import Expr, make
from graphnn.planner.rewrite import rewrite
from graphnn.planner.simplify import simplify
from graphnn.planner.split import home_loops

At = Callable[[int], Expr]


def factor(ir: IR) -> IR:
    """Join chains of multiplications by values from outside the loop."""
    users, home = ir.users(), home_loops(ir)
    outputs = set(ir.outputs.values())
    moved: dict[int, int] = {}

    def scaled(node: Node) -> tuple[int, Callable[[At], Expr]] | None:
        """`node` as (value in the loop, its factor from outside), where it is such a product."""
        if node.op not in ("mul", "tanh_grad", "sigmoid_grad"):
            return None
        pairs = [node.inputs, node.inputs[::-1]] if node.op == "mul" else [node.inputs]
        for inner, outer in pairs:
            if inner in home and outer not in home and _same_form(ir, node, inner, outer):
                return inner, lambda at, op=node.op, outer=outer: _factor(op, at(outer))
        return None

    def only(i: int) -> bool:
        return len(users[i]) == 1 and i not in outputs

    def chain(node: Node) -> tuple[int, list[Callable[[At], Expr]]]:
        """The value at the far end of a chain of such products, and the factors on the way."""
        factors, found = [], scaled(node)
        end = node.id
        while found is not None:
            end, make_factor = found
            factors.append(make_factor)
            found = scaled(ir[end]) if only(end) else None
        return end, factors

    def across_cat(new: IR, node: Node) -> Expr | None:
        """A derivative taken of a concatenation whose parts are such products themselves."""
        if node.op not in ("tanh_grad", "sigmoid_grad") or node.inputs[1] in home:
            return None
        cat = ir[node.inputs[0]]
        if cat.op != "cat" or cat.id not in home or not only(cat.id) or len(node.shape) != 1:
            return None
        if any(scaled(ir[i]) is None or not only(i) for i in cat.inputs):
            return None
        y, start, parts = at(node.inputs[1]), 0, []
        for i in cat.inputs:
            end, factors = chain(ir[i])
            stop = start + ir[i].shape[0]
            piece = make("slice", y, dim=0, start=start, stop=stop, step=1, name="")
            parts.append(at(end) * _product([*(f(at) for f in factors), _factor(node.op, piece)]))
            start = stop
        return make("cat", *parts, dim=0)

    def at(i: int) -> Expr:
        return Expr(current[0], moved[i])

    current: list[IR] = []

    def rule(new: IR, node: Node) -> Expr | None:
        current[:] = [new]
        old = ir.nodes.get(node.id)
        if old is None or old.id not in home:
            return None
        joined = across_cat(new, old)
        if joined is not None:
            return joined
        end, factors = chain(old)
        if len(factors) < 2:
            return None
        return at(end) * _product([f(at) for f in factors])

    return simplify(rewrite(ir, rule, moved))


def _same_form(ir: IR, node: Node, inner: int, outer: int) -> bool:
    """Nothing is broadcast and no dtype changes on the way."""
    a, b = ir[inner], ir[outer]
    forms = {(x.shape, x.dtype) for x in (node, a, b)}
    return len(forms) == 1 and a.axes == node.axes and b.axes <= node.axes


def _factor(op: str, y: Expr) -> Expr:
    if op == "tanh_grad":
        return 1 - make("square", y)
    return y - make("square", y) if op == "sigmoid_grad" else y


def _product(factors: list[Expr]) -> Expr:
    total = factors[0]
    for other in factors[1:]:
        total = total * other
    return total
