"""attend: a softmax over an axis and the sums it weights become one operation, done in tiles.

Scores of queries and keys are then never stored, nor what they are added up from. Looked for
outside loops only: within a step a softmax stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from graphnn.ir import IR, Node
from graphnn.ops.expr import Expr
from graphnn.ops.product import split_sub
from graphnn.ops.table import OPS, build
from graphnn.planner.loopir import merge_orders
from graphnn.planner.rewrite import keep, reachable, rewrite
from graphnn.planner.split import home_loops, parted
from graphnn.planner.tiles import (
    OWN,
    Contraction,
    Dims,
    Pattern,
    Unfit,
    Writer,
    operands,
    supported,
)

# what a weight may go through on its way to a sum
LINEAR = frozenset({"mul", "reshape", "permute", "expand", "neg"})


@dataclass(frozen=True)
class Note:
    """What became of one softmax over an axis: its contraction, or why there is none."""

    name: str
    softmax: str
    axis: str
    place: str
    reason: str
    part: Contraction | None = None
    hops: bool = False


def attend(ir: IR) -> tuple[IR, list[Note]]:
    """The graph with `attend` nodes, and a note on each softmax over an axis."""
    notes: list[Note] = []
    if all(n.op != "axis_softmax" for n in ir):
        return ir, notes
    ir = separate(ir)
    left = [n.id for n in ir if n.op == "axis_softmax"]
    while left:
        new, swap, again = ir.copy(), dict[int, int](), list[int]()
        for node in (ir[i] for i in left if i in ir.nodes):
            try:
                used = [n.name for n in notes if n.part]
                pattern, rest = find(ir, node, used)
                writer = Writer(ir, pattern)
                part = writer.write()
            except Unfit as why:
                if not any(n.softmax == node.label and n.part for n in notes):
                    notes.append(_note(node, node.label, str(why)))
                continue
            notes.append(_note(node, part.name, _whole(part, rest), part))
            swap |= placed(new, pattern, part, writer.dims)
            again += [node.id] * rest.again
        ir, left = (rewired(new, swap) if swap else ir), again
    return ir, notes


def _note(node: Node, name: str, reason: str, part: Contraction | None = None) -> Note:
    return Note(name, node.label, node.attrs["axis"], str(node.site or ""), reason, part)


@dataclass(frozen=True)
class Rest:
    """Who else reads the weights, and whether sums are left that wait for others."""

    readers: tuple[str, ...]
    again: bool


def _whole(part: Contraction, rest: Rest) -> str:
    said = []
    if rest.readers:
        said.append(f"the weights are stored besides, for {', '.join(rest.readers)}")
    if part.stored:
        said.append(f"as large as the weights, and stored: {', '.join(part.stored)}")
    return "; ".join(said)


def find(ir: IR, softmax: Node, used: Sequence[str] = ()) -> tuple[Pattern, Rest]:
    """The pattern around a softmax. Raises Unfit, in words for users."""
    axis, home = softmax.attrs["axis"], home_loops(ir)
    if softmax.id in home:
        raise Unfit("it is taken at each step of a loop")
    if softmax.dtype != ir.floating:
        raise Unfit(f"its scores are {softmax.dtype} in a graph of {ir.floating}")
    score, top = best(ir, softmax)
    if score.axes == {axis}:
        raise Unfit("its scores vary over nothing but the axis: there are no queries")
    chain, sums, readers = follow(ir, softmax, home)
    if not sums:
        raise Unfit(f"no sum over '{axis}' of what it weights")
    ready = independent(ir, sums)
    inner = Inside(ir, axis, home)
    if not inner(score.id):
        raise Unfit("its scores are given whole: they are not computed from queries and keys here")
    wanted = {*chain, *ready} & reachable(ir, ready)
    roots = [score.id, *softmax.inputs[1:]]
    roots += [j for i in sorted(wanted - {softmax.id}) for j in ir[i].inputs if j not in chain]
    inside = wanted | inner.all(roots)
    order = [i for i in ir.nodes if i in inside]
    name = f"attention over {axis}"
    count = sum(n.split(", ")[0] == name for n in used)
    name = f"{name}, {count + 1}" if count else name
    reads = operands(ir, order, {softmax.id: [score.id, *softmax.inputs[1:]]})
    found = Pattern(name, softmax.id, ready, order, reads, score.id, top)
    return found, Rest(tuple(readers), len(ready) < len(sums))


def best(ir: IR, softmax: Node) -> tuple[Node, int]:
    """What softmax takes; and how many of the best of it, where all others are masked."""
    score, axis = ir[softmax.inputs[0]], softmax.attrs["axis"]
    if score.op == "where":
        mask, kept, none = ir.operands(score)
        masked = none.op == "const" and none.attrs["value"] == float("-inf")
        of_it = mask.op == "axis_top" and mask.inputs == (kept.id, *softmax.inputs[1:])
        if masked and of_it and mask.attrs["axis"] == axis:
            return kept, mask.attrs["k"]
    return score, 0


def follow(ir: IR, softmax: Node, home: dict[int, int]) -> tuple[set[int], list[int], list[str]]:
    """Where the weights go: through what, into which sums, and who else reads them."""
    users, outputs = ir.users(), {i: k for k, i in ir.outputs.items()}
    axis, chain = softmax.attrs["axis"], {softmax.id}
    sums: list[int] = []
    readers: list[str] = []
    stack = [softmax.id]
    while stack:
        i = stack.pop()
        if i in outputs:
            readers.append(f"output '{outputs[i]}'")
        for j in users[i]:
            node = ir[j]
            once = node.inputs.count(i) == 1 and not (set(node.inputs) - {i}) & chain
            if node.op == "axis_sum" and node.attrs["axis"] == axis and j not in home:
                sums += [j] * (j not in sums)
            elif node.op in LINEAR and once and j not in home:
                chain.add(j)
                stack.append(j)
            else:
                readers.append(f"'{node.label}' at {node.site}" if node.site else node.label)
    return chain, sorted(sums, key=list(ir.nodes).index), list(dict.fromkeys(readers))


def independent(ir: IR, sums: list[int]) -> list[int]:
    """The sums that wait for none of the others."""
    found: list[int] = []
    for i in sums:
        if not (reachable(ir, [i]) - {i}) & set(sums):
            found.append(i)
    return found


class Inside:
    """Which nodes belong into tiles: those larger than any of what they are made of."""

    def __init__(self, ir: IR, axis: str, home: dict[int, int]):
        self.ir, self.axis, self.home = ir, axis, home
        self.known: dict[int, bool] = {}

    def __call__(self, i: int) -> bool:
        if i not in self.known:
            self.known[i] = self._ask(self.ir[i])
        return self.known[i]

    def _ask(self, node: Node) -> bool:
        if node.id in self.home or node.op in OWN or not supported(node):
            return False
        parts = self.ir.operands(node)
        if self._positional(node):
            return True
        if not node.dtype.is_floating_point:
            # a mask is compared anew in each tile, unless it is as large as what it compares
            return all(p.axes != node.axes or p.op in OWN or self(p.id) for p in parts)
        if self.axis not in node.axes:
            return False
        numbers = [p for p in parts if p.dtype.is_floating_point and p.axes]
        if any(self(p.id) for p in numbers):
            return True
        if numbers and all(p.axes != node.axes for p in numbers):
            return True
        return self._matched(node, numbers)

    def _positional(self, node: Node) -> bool:
        """What positions and lengths alone are made into: cheaper made anew than read."""
        if node.op in OWN or node.op == "length":
            return True
        return OPS[node.op].family == "pointwise" and all(
            self._positional(p) for p in self.ir.operands(node)
        )

    def _matched(self, node: Node, numbers: list[Node]) -> bool:
        """A key matched with a query of its own: read once, in tiles."""
        if node.op != "product" or len(numbers) != 2:
            return False
        left, right, out = split_sub(node.attrs["sub"])
        alone = any(self.axis not in p.axes for p in numbers)
        return alone and bool((set(left) & set(right)) - set(out))

    def all(self, roots: list[int]) -> set[int]:
        """All nodes inside that the roots are made of."""
        found: set[int] = set()
        stack = [i for i in roots if self(i)]
        while stack:
            i = stack.pop()
            if i not in found:
                found.add(i)
                stack += [j for j in self.ir[i].inputs if self(j)]
        return found


def placed(new: IR, pattern: Pattern, part: Contraction, dims: Dims) -> dict[int, int]:
    """Add an `attend` node for a pattern; gives the nodes to be read in place of its sums."""
    first = new[pattern.exits[0]]
    given = [dims.given(Expr(new, i), i) for i in pattern.reads]
    node = build(
        new,
        "attend",
        [x.id for x in given],
        {"part": part, "axes": first.axes},
        shape=part.ir[part.results[0]].shape,
        dtype=first.dtype,
        axes=first.axes,
        name=part.name,
        site=new[pattern.softmax].site,
    )
    swap: dict[int, int] = {}
    for which, i in enumerate(pattern.exits):
        old = new[i]
        new.here = (old.name, old.site)
        sizes = [part.ir.axes[a].length or 0 for a in part.parts]
        shape = (*sizes, *part.ir[part.results[which]].shape)
        pick = build(new, "pick", (node,), {"which": which}, shape=shape, dtype=old.dtype)
        swap[i] = dims.taken(Expr(new, pick), i).id
    new.here = ("", None)
    return swap


def rewired(ir: IR, swap: dict[int, int]) -> IR:
    """The graph with nodes read in place of others; what nothing reads any more goes."""
    nodes = {
        i: replace(n, inputs=tuple(swap.get(j, j) for j in n.inputs))
        if any(j in swap for j in n.inputs)
        else n
        for i, n in ir.nodes.items()
    }
    ir.closings = {d: swap.get(s, s) for d, s in ir.closings.items()}
    ir.outputs = {k: swap.get(i, i) for k, i in ir.outputs.items()}
    ir.until = {a: swap.get(i, i) for a, i in ir.until.items()}
    ir.nodes = merge_orders(nodes, {})
    roots = [*ir.outputs.values(), *ir.until.values()]
    roots += [n.id for n in ir if n.op in ("random", "input", "given")]
    return keep(ir, reachable(ir, roots))


def separate(ir: IR) -> IR:
    """Linear maps of a query and a key put together become sums of linear maps of each."""
    home = home_loops(ir)

    def rule(new: IR, node: Node) -> Expr | None:
        if node.op != "product" or node.id in home or node.attrs["contract"]:
            return None
        for side in (0, 1):
            joined = new[node.inputs[side]]
            other = new[node.inputs[1 - side]]
            if joined.op != "cat" or other.axes:
                continue
            left, right, out = split_sub(node.attrs["sub"])
            letter = (left, right)[side][joined.attrs["dim"]]
            apart = all(new[i].axes != joined.axes for i in joined.inputs)
            if apart and letter not in out and letter in (left, right)[1 - side]:
                return parted(new, node, side)
        return None

    return rewrite(ir, rule)
