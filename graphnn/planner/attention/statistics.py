"""tally: what else than weighted sums is read of a softmax's weights becomes reductions in tiles.

Sums, largest values and their positions, over keys or over queries, of whatever is made of weights
one by one: entropy, coverage. A weight is made anew from its score and the scores' logsumexp.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from graphnn.ir.graph import IR, Node
from graphnn.ops.builder import Expr, make, reshape
from graphnn.ops.registry import OPS, build
from graphnn.ops.sources import index_of
from graphnn.planner.attention.insert import named, placed, rewired
from graphnn.planner.attention.region import Inside, independent
from graphnn.planner.attention.tiles import (
    Contraction,
    Dims,
    Pattern,
    Unfit,
    Writer,
    operands,
    strange,
    supported,
)
from graphnn.planner.core.regions import loop_numbers, users_of
from graphnn.planner.core.rewrite import keep, reachable, rewrite

REDUCERS = frozenset({"axis_sum", "axis_max", "axis_argmax", "axis_logsumexp"})
# what a sum may be taken before as well as behind
LINEAR = frozenset({"sum", "reshape", "permute", "neg", "mul", "div"})
INF = float("inf")


@dataclass(eq=False)
class Tally(Contraction):
    """Reductions over queries or keys of what is computed for each of both, as a graph.

    `results` are sums, `axis_max` and `axis_argmax` nodes; gradients come from the sums alone.
    `asking` are the axes that its softmax has queries over. Reads that are `wide` are in float32 at
    least.
    """

    asking: frozenset[str] = field(default_factory=frozenset)

    @property
    def axes(self) -> frozenset[str]:
        """The axes of scores but that of keys."""
        return self.ir[self.score].axes - {self.axis}

    @property
    def queries(self) -> frozenset[str]:
        """The axes of queries: none that a result has along with that of keys, as all of these are
        reduced over one axis."""
        kept = (self.ir[i].axes for i in self.results)
        return self.asking - frozenset().union(*(a for a in kept if self.axis in a))

    @property
    def ends(self) -> list[int]:
        """The nodes that gradients come from."""
        return [i for i in self.results if self.sums(i)]

    def sums(self, i: int) -> bool:
        """Whether a result is a sum."""
        return self.ir[i].op in ("axis_sum", "product")

    def reduced(self, i: int) -> str:
        """The axis that a result is reduced over."""
        node = self.ir[i]
        (axis,) = node.attrs["contract"] if node.op == "product" else (node.attrs["axis"],)
        return str(axis)


class Reach:
    """Where some values go: the nodes made of them one by one, the reductions these end in, and
    what reads them otherwise, in words for users."""

    def __init__(self, ir: IR, starts: Iterable[int], part: Contraction, home: dict[int, int]):
        self.ir, self.part, self.home = ir, part, home
        self.outputs = {i: k for k, i in ir.outputs.items()}
        self.through = set(starts)
        self.exits: list[int] = []
        self.whole: list[str] = []
        users, stack = users_of(ir), [*self.through]
        while stack:
            i = stack.pop()
            if i in self.outputs:
                self.whole.append(f"output '{self.outputs[i]}'")
            for j in users[i]:
                if j not in self.through and self._into(ir[j]):
                    self.through.add(j)
                    stack.append(j)

    def _into(self, node: Node) -> bool:
        """Whether a reader makes numbers for each query and key that may stay in tiles."""
        outside = node.id not in self.home
        outside = outside and strange(self.ir, [node, *self.ir.operands(node)]) is None
        if outside and node.op in REDUCERS and self._smaller(node):
            self.exits += [node.id] * (node.id not in self.exits)
            return False
        if outside and supported(node) and not node.attrs.get("contract"):
            return True
        self.whole.append(_said(node))
        return False

    def _smaller(self, node: Node) -> bool:
        """Whether a reduction is one over keys or over an axis of queries."""
        return node.attrs["axis"] in {self.part.axis, *self.part.queries}

    def at_once(self) -> list[int]:
        """The reductions that wait for no other, of those over queries the ones over one axis."""
        ready = independent(self.ir, self.exits)
        axes = [self.ir[i].attrs["axis"] for i in ready]
        asked = [a for a in axes if a != self.part.axis][:1]
        return [i for i, a in zip(ready, axes, strict=True) if a in (self.part.axis, *asked)]


def _said(node: Node) -> str:
    """A reader, in words for users."""
    over = f" over {node.attrs['axis']}" if node.op in REDUCERS else ""
    what = f"'{node.name or node.op.removeprefix('axis_') + over}'"
    return f"{what} at {node.site}" if node.site else what


@dataclass(frozen=True)
class Source:
    """The `attend` node that gives a softmax's logsumexp, and what it computes."""

    node: int
    part: Contraction
    dims: Dims
    softmax: Node


def peak_of(new: IR, softmax: Node, source: Source, narrow: bool = False) -> Expr:
    """The logsumexp of a softmax's scores, which has the softmax's shape; in float32 at least,
    unless `narrow`."""
    part = source.part
    sizes = tuple(part.ir.axes[a].length or 0 for a in part.parts)
    attrs = {"which": len(part.results), "axes": softmax.axes - {part.axis}, "narrow": narrow}
    pick = build(new, "pick", (source.node,), attrs, shape=sizes, dtype=softmax.dtype)
    return source.dims.taken(Expr(new, pick), softmax.id)


def weighed(new: IR, softmax: Node, peak: Expr) -> Expr:
    """The weights, made from scores and their logsumexp; zero beyond the axis's length.

    Scores there are left out twice: neither they nor what is made of a zero weight are read, and
    their gradients are zero whatever flows to them.
    """
    score, rest = Expr(new, softmax.inputs[0]), softmax.inputs[1:]
    if not rest:
        return make("weigh", score, peak)
    valid = make("lt", index_of(new, softmax.attrs["axis"]), Expr(new, rest[0]))
    return make("where", valid, make("weigh", make("where", valid, score, -INF), peak), 0.0)


def settled(ir: IR, through: set[int], starts: Sequence[int]) -> IR:
    """The graph with weights reshaped after what is made of them one by one, and after their
    reductions, not before: dimensions such as heads then stay apart in tiles. `starts` stay."""
    if all(ir[i].op != "reshape" for i in through):
        return ir

    def rule(new: IR, node: Node) -> Expr | None:
        alone = OPS[node.op].family == "pointwise" or node.op in REDUCERS
        wide = [new[i] for i in node.inputs if new[i].shape]
        if not alone or not wide or any(x.op != "reshape" for x in wide):
            return None
        before = {new[x.inputs[0]].shape for x in wide}
        if len(before) > 1 or any(x.shape != node.shape for x in wide):
            return None
        if node.id in starts or through.isdisjoint(x.id for x in wide):
            return None
        inputs = [Expr(new, new[i].inputs[0] if new[i].shape else i) for i in node.inputs]
        made = reshape(make(node.op, *inputs, **node.attrs), node.shape)
        through.add(made.id)
        return made

    return rewrite(ir, rule)


def first(new: IR, node: Node) -> Expr | None:
    """A sum along an axis taken before sums over other dimensions, such as heads, that it is of."""
    x, *rest = (Expr(new, i) for i in node.inputs)
    steps: list[Node] = []
    while x.node.op in LINEAR and sum(new[i].op != "const" for i in x.node.inputs) == 1:
        if x.node.op == "div" and new[x.node.inputs[0]].op == "const":
            break
        steps.append(x.node)
        x = next(Expr(new, i) for i in x.node.inputs if new[i].op != "const")
    if all(step.op != "sum" for step in steps):
        return None
    made = make("axis_sum", x, *rest, axis=node.attrs["axis"])
    for step in reversed(steps):
        inputs = [Expr(new, i) if new[i].op == "const" else made for i in step.inputs]
        made = make(step.op, *inputs, **step.attrs)
    return made


def spelled(new: IR, node: Node) -> Expr | None:
    """A largest value, or a logsumexp, by sums, which tiles have the derivatives of."""
    if node.op == "axis_sum":
        return first(new, node)
    if node.op == "axis_argmax":
        return None
    x, *rest = (Expr(new, i) for i in node.inputs)
    axis, fixed = node.attrs["axis"], make("detach", x)
    top = make("axis_max", fixed, *rest, axis=axis)
    if node.op == "axis_logsumexp":
        safe = make("where", make("lt", make("abs", top), INF), top, 0.0)
        return make("log", make("axis_sum", make("exp", x - safe), *rest, axis=axis)) + safe
    place = make("axis_argmax", fixed, *rest, axis=axis)
    hit = make("logical_or", make("level", fixed, top), make("eq", index_of(new, axis), place))
    count = make("axis_sum", make("cast", hit, dtype=x.dtype), *rest, axis=axis)
    total = make("axis_sum", make("where", hit, x, 0.0), *rest, axis=axis)
    none = make("where", make("gt", rest[0], 0), top, 0.0) if rest else top
    return make("where", make("gt", count, 0), total / make("maximum", count, 1.0), none)


class TallyWriter(Writer):
    """Writes the graph of reductions; `wide` are nodes that are read in float32 at least."""

    def __init__(self, ir: IR, pattern: Pattern, wide: frozenset[int]):
        super().__init__(ir, pattern)
        self.wide = wide

    def tally(self, asking: frozenset[str]) -> Tally:
        """The reductions; raises Unfit where shapes are too involved."""
        p = self.pattern
        reads = [self._read(self.ir[i]) for i in p.reads]
        for i in p.inside:
            node = self.ir[i]
            self.new.here = (node.name, node.site)
            self.made[i] = self._exit(node) if i in p.exits else self._node(node)
        self.new.here = ("", None)
        results, score = [self.made[i].id for i in p.exits], self[p.score].id
        self.new.outputs = {f"r{k}": i for k, i in enumerate(results)}
        self.new = keep(self.new, reachable(self.new, [*results, score, *reads]))
        rest = score, -1, results, self.parts
        return Tally(p.name, self.axis, self.new, reads, *rest, asking=asking)

    def _read(self, node: Node) -> int:
        i = super()._read(node)
        self.new[i].attrs["wide"] = node.id in self.wide
        return i

    def _exit(self, node: Node) -> Expr:
        x, axis, valid = self[node.inputs[0]], node.attrs["axis"], None
        if len(node.inputs) > 1:
            valid = make("lt", index_of(self.new, axis), self[node.inputs[1]])
        if node.op != "axis_sum":
            x = x if valid is None else make("where", valid, x, -INF)
            return make(node.op, x, axis=axis)
        if x.node.op == "mul":
            a, b = (Expr(self.new, i) for i in x.node.inputs)
            a, b = (b, a) if a.shape else (a, b)
            if len(b.shape) == 1 and not a.shape and "const" not in (a.node.op, b.node.op):
                a = a if valid is None else make("where", valid, a, 0.0)
                return make("product", a, b, sub=",z->z", contract=frozenset({axis}))
        x = x if valid is None else make("where", valid, x, 0.0)
        return make("axis_sum", x, axis=axis)


@dataclass
class Tallied:
    """A graph with reductions in tiles: `starts` are values that they begin with, `parts` the
    reductions, `reads` what these were called."""

    ir: IR
    softmax: Node
    source: Source
    starts: list[int]
    parts: list[Tally]
    reads: list[str]

    def reach(self) -> Reach:
        """Where those values go that nothing reads whole."""
        home, part = loop_numbers(self.ir), self.source.part
        mine = [i for i in self.starts if i in self.ir.nodes]
        fit = [i for i in mine if not Reach(self.ir, [i], part, home).whole]
        return Reach(self.ir, fit, part, home)


def tallied(ir: IR, softmax: Node, source: Source, used: Sequence[str]) -> Tallied | None:
    """Reductions of a softmax's weights and scores in tiles; None where there are none.

    Raises Unfit where something reads its weights whole.
    """
    part = source.part
    if softmax.id in ir.nodes:
        _check(Reach(ir, [softmax.id], part, loop_numbers(ir)), part)
    elif part.top or not part.queries:
        return None
    made = Tallied(ir, softmax, source, scores(ir, softmax), [], [])
    if softmax.id in ir.nodes:
        _open(made)
    made.ir = settled(made.ir, made.reach().through, made.starts)
    reach = made.reach()
    if not reach.exits and made.ir is ir:
        return None
    made.reads = [_said(made.ir[i]) for i in reach.exits]
    _spell(made, reach)
    while (reach := made.reach()).exits:
        names = [*used, *(p.name for p in made.parts)]
        _step(made, reach, named(f"weights over {part.axis}", names))
    if wide_of(made.ir, source, narrow=True):
        part.read_peak()
    return made if made.reads else None


def _check(reach: Reach, part: Contraction) -> None:
    if reach.whole:
        raise Unfit(f"for {', '.join(dict.fromkeys(reach.whole))}")
    names = ", ".join(_said(reach.ir[i]) for i in reach.exits)
    if part.top:
        raise Unfit(f"for {names}, as only the {part.top} best scores take part")
    if not part.queries:
        raise Unfit(f"for {names}: they are no more than the keys")


def scores(ir: IR, softmax: Node) -> list[int]:
    """What a softmax takes, and what that is made of one by one."""
    top = ir[softmax.inputs[0]] if softmax.inputs[0] in ir.nodes else None
    found = [top] if top is not None else []
    for node in found:
        for x in ir.operands(node):
            alike = x.axes == softmax.axes and x.shape == softmax.shape and x not in found
            if alike and x.dtype.is_floating_point and supported(x):
                found.append(x)
    return [n.id for n in found]


def _open(made: Tallied) -> None:
    """Put weights made from scores in the place of the softmax."""
    new, softmax = made.ir.copy(), made.softmax
    new.here = (softmax.name, softmax.site)
    weight = weighed(new, softmax, peak_of(new, softmax, made.source)).id
    new.here = ("", None)
    made.starts.append(weight)
    made.ir = rewired(new, {softmax.id: weight})


def _spell(made: Tallied, reach: Reach) -> None:
    """Spell reductions by sums; the logsumexp of the scores is there already."""
    new, swap = made.ir.copy(), dict[int, int]()
    for node in (new[i] for i in reach.exits):
        new.here = (node.name, node.site)
        axis = node.attrs["axis"] == made.softmax.attrs["axis"]
        if node.op == "axis_logsumexp" and axis and node.inputs == made.softmax.inputs:
            swap[node.id] = peak_of(new, made.softmax, made.source, narrow=True).id
        elif (found := spelled(new, node)) is not None:
            swap[node.id] = found.id
    new.here = ("", None)
    made.ir = rewired(new, swap)


def _step(made: Tallied, reach: Reach, name: str) -> None:
    """Put the reductions that wait for no other into tiles."""
    ir, axis = made.ir, reach.part.axis
    ready = reach.at_once()
    inner = Inside(ir, axis, reach.home)
    wanted = {*ready, *reach.through} & reachable(ir, ready)
    roots = [j for i in sorted(wanted) for j in ir[i].inputs if j not in wanted]
    # a score may be one of those that reductions begin with, and is computed in tiles as well
    inside = wanted | inner.all([*(i for i in wanted if inner(i)), *roots])
    order = [i for i in ir.nodes if i in inside]
    score = made.softmax.inputs[0]
    pattern = Pattern(name, axis, -1, ready, order, operands(ir, order, {}), score)
    writer = TallyWriter(ir, pattern, wide_of(ir, made.source))
    part = writer.tally(reach.part.queries)
    new = ir.copy()
    _, swap = placed(new, pattern, part, writer.dims, made.softmax.site)
    made.ir = rewired(new, swap)
    made.parts.append(part)


def wide_of(ir: IR, source: Source, narrow: bool = False) -> frozenset[int]:
    """The nodes that are a softmax's logsumexp, in whatever form; with the `narrow` ones or not."""
    found: set[int] = set()
    for node in ir:
        peak = node.op == "pick" and node.inputs[0] == source.node
        peak = peak and node.attrs["which"] == len(source.part.results)
        peak = peak and (narrow or not node.attrs["narrow"])
        if peak or (node.op in ("reshape", "permute") and node.inputs[0] in found):
            found.add(node.id)
    return frozenset(found)
