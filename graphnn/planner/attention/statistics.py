"""Attention statistics: other reductions of softmax weights are computed tile by tile.

These are sums, maxima and their positions, over keys or over queries, of elementwise functions of
the weights, for example entropy and coverage. A weight is recomputed from its score and the
logsumexp of the scores.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from graphnn.ir.graph import IR, Node
from graphnn.ops.builder import Expr, make, reshape
from graphnn.ops.registry import OPS, build
from graphnn.ops.sources import index_of
from graphnn.planner.attention.insert import insert_region, rewire, unused_name
from graphnn.planner.attention.region import TileMembers, independent
from graphnn.planner.attention.tiles import (
    AttentionRegion,
    Dims,
    NotFusable,
    Pattern,
    Writer,
    operands,
    other_dtype,
    supported,
)
from graphnn.planner.core.regions import loop_numbers, users_of
from graphnn.planner.core.rewrite import keep, reachable, rewrite

REDUCERS = frozenset({"axis_sum", "axis_max", "axis_argmax", "axis_logsumexp"})
# operations that commute with a sum
LINEAR = frozenset({"sum", "reshape", "permute", "neg", "mul", "div"})
INF = float("inf")


@dataclass(eq=False)
class StatisticsRegion(AttentionRegion):
    """Reductions over queries or keys of values that vary over both, as a graph.

    `results` are sums, `axis_max` and `axis_argmax` nodes; only sums pass gradients on. `asking`
    are the axes of the queries of its softmax. Reads marked `wide` are at least float32.
    """

    asking: frozenset[str] = field(default_factory=frozenset)

    @property
    def axes(self) -> frozenset[str]:
        """The axes of the scores except the axis of keys."""
        return self.ir[self.score].axes - {self.axis}

    @property
    def queries(self) -> frozenset[str]:
        """The axes of queries, except those that a result has together with the axis of keys.

        All results are reduced over one axis.
        """
        kept = (self.ir[i].axes for i in self.results)
        return self.asking - frozenset().union(*(a for a in kept if self.axis in a))

    @property
    def ends(self) -> list[int]:
        """The nodes whose gradients are passed on."""
        return [i for i in self.results if self.sums(i)]

    def sums(self, i: int) -> bool:
        """Whether a result is a sum."""
        return self.ir[i].op in ("axis_sum", "einsum")

    def reduced(self, i: int) -> str:
        """The axis that a result is reduced over."""
        node = self.ir[i]
        (axis,) = node.attrs["contract"] if node.op == "einsum" else (node.attrs["axis"],)
        return str(axis)


class Uses:
    """The uses of some values.

    `through` are elementwise functions of the values, `exits` the reductions of these, and `whole`
    the labels of all other readers, which need the values in memory.
    """

    def __init__(self, ir: IR, starts: Iterable[int], part: AttentionRegion, home: dict[int, int]):
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
        """Whether a reader is elementwise over queries and keys and can stay in tiles."""
        outside = node.id not in self.home
        outside = outside and other_dtype(self.ir, [node, *self.ir.operands(node)]) is None
        if outside and node.op in REDUCERS and self._smaller(node):
            self.exits += [node.id] * (node.id not in self.exits)
            return False
        if outside and supported(node) and not node.attrs.get("contract"):
            return True
        self.whole.append(_label(node))
        return False

    def _smaller(self, node: Node) -> bool:
        """Whether a reduction runs over keys or over an axis of queries."""
        return node.attrs["axis"] in {self.part.axis, *self.part.queries}

    def ready(self) -> list[int]:
        """The reductions that depend on no other; among those over queries, one axis only."""
        first = independent(self.ir, self.exits)
        axes = [self.ir[i].attrs["axis"] for i in first]
        asked = [a for a in axes if a != self.part.axis][:1]
        return [i for i, a in zip(first, axes, strict=True) if a in (self.part.axis, *asked)]


def _label(node: Node) -> str:
    """The label of a reader for users."""
    over = f" over {node.attrs['axis']}" if node.op in REDUCERS else ""
    what = f"'{node.name or node.op.removeprefix('axis_') + over}'"
    return f"{what} at {node.site}" if node.site else what


@dataclass(frozen=True)
class Source:
    """The `attend` node that provides the logsumexp of a softmax, and its region."""

    node: int
    part: AttentionRegion
    dims: Dims
    softmax: Node


def peak_of(new: IR, softmax: Node, source: Source, narrow: bool = False) -> Expr:
    """The logsumexp of the scores of a softmax, in the shape of the softmax.

    It is at least float32, unless `narrow`.
    """
    part = source.part
    sizes = tuple(part.ir.axes[a].length or 0 for a in part.parts)
    attrs = {"which": len(part.results), "axes": softmax.axes - {part.axis}, "narrow": narrow}
    pick = build(new, "pick", (source.node,), attrs, shape=sizes, dtype=softmax.dtype)
    return source.dims.taken(Expr(new, pick), softmax.id)


def recompute_weights(new: IR, softmax: Node, peak: Expr) -> Expr:
    """The weights, recomputed from scores and their logsumexp; zero beyond the length of the axis.

    Scores beyond the length are masked before and after, so that neither their values nor their
    gradients matter.
    """
    score, rest = Expr(new, softmax.inputs[0]), softmax.inputs[1:]
    if not rest:
        return make("weigh", score, peak)
    valid = make("lt", index_of(new, softmax.attrs["axis"]), Expr(new, rest[0]))
    return make("where", valid, make("weigh", make("where", valid, score, -INF), peak), 0.0)


def delay_reshapes(ir: IR, through: set[int], starts: Sequence[int]) -> IR:
    """The graph with reshapes of weights moved behind elementwise functions and reductions.

    Dimensions such as heads then stay separate in tiles. Nodes in `starts` stay as they are.
    """
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


def sum_axis_first(new: IR, node: Node) -> Expr | None:
    """Take the sum along an axis before the sums over other dimensions, such as heads."""
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


def as_sums(new: IR, node: Node) -> Expr | None:
    """A maximum or a logsumexp written with sums, whose derivatives tiles support."""
    if node.op == "axis_sum":
        return sum_axis_first(new, node)
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


class StatisticsWriter(Writer):
    """Writes the graph of reductions. Nodes in `wide` are read as float32 or wider."""

    def __init__(self, ir: IR, pattern: Pattern, wide: frozenset[int]):
        super().__init__(ir, pattern)
        self.wide = wide

    def write_statistics(self, asking: frozenset[str]) -> StatisticsRegion:
        """The region of reductions. Raises NotFusable if shapes are too complicated."""
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
        return StatisticsRegion(p.name, self.axis, self.new, reads, *rest, asking=asking)

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
                return make("einsum", a, b, sub=",z->z", contract=frozenset({axis}))
        x = x if valid is None else make("where", valid, x, 0.0)
        return make("axis_sum", x, axis=axis)


@dataclass
class StatisticsRewrite:
    """A graph in which reductions become tiles.

    `starts` are the values that the reductions start from, `parts` the regions made so far, `reads`
    the labels of the reductions.
    """

    ir: IR
    softmax: Node
    source: Source
    starts: list[int]
    parts: list[StatisticsRegion]
    reads: list[str]

    def uses(self) -> Uses:
        """The uses of the values that nothing needs in memory."""
        home, part = loop_numbers(self.ir), self.source.part
        mine = [i for i in self.starts if i in self.ir.nodes]
        fit = [i for i in mine if not Uses(self.ir, [i], part, home).whole]
        return Uses(self.ir, fit, part, home)


def tile_statistics(
    ir: IR, softmax: Node, source: Source, used: Sequence[str]
) -> StatisticsRewrite | None:
    """Compute reductions of the weights and scores of a softmax in tiles.

    Returns None if there are none. Raises NotFusable if something needs the weights in memory.
    """
    part = source.part
    if softmax.id in ir.nodes:
        _check(Uses(ir, [softmax.id], part, loop_numbers(ir)), part)
    elif part.top or not part.queries:
        return None
    made = StatisticsRewrite(ir, softmax, source, scores(ir, softmax), [], [])
    if softmax.id in ir.nodes:
        _replace_softmax(made)
    made.ir = delay_reshapes(made.ir, made.uses().through, made.starts)
    reach = made.uses()
    if not reach.exits and made.ir is ir:
        return None
    made.reads = [_label(made.ir[i]) for i in reach.exits]
    _write_as_sums(made, reach)
    while (reach := made.uses()).exits:
        names = [*used, *(p.name for p in made.parts)]
        _step(made, reach, unused_name(f"weights over {part.axis}", names))
    if wide_of(made.ir, source, narrow=True):
        part.read_peak()
    return made if made.reads else None


def _check(reach: Uses, part: AttentionRegion) -> None:
    if reach.whole:
        raise NotFusable(f"for {', '.join(dict.fromkeys(reach.whole))}")
    names = ", ".join(_label(reach.ir[i]) for i in reach.exits)
    if part.top:
        raise NotFusable(f"for {names}, as only the {part.top} largest scores take part")
    if not part.queries:
        raise NotFusable(f"for {names}: the weights are as many as the keys")


def scores(ir: IR, softmax: Node) -> list[int]:
    """The scores of a softmax, and the values that they are elementwise functions of."""
    top = ir[softmax.inputs[0]] if softmax.inputs[0] in ir.nodes else None
    found = [top] if top is not None else []
    for node in found:
        for x in ir.operands(node):
            same = x.axes == softmax.axes and x.shape == softmax.shape and x not in found
            if same and x.dtype.is_floating_point and supported(x):
                found.append(x)
    return [n.id for n in found]


def _replace_softmax(made: StatisticsRewrite) -> None:
    """Replace the softmax by weights that are recomputed from scores."""
    new, softmax = made.ir.copy(), made.softmax
    new.here = (softmax.name, softmax.site)
    weight = recompute_weights(new, softmax, peak_of(new, softmax, made.source)).id
    new.here = ("", None)
    made.starts.append(weight)
    made.ir = rewire(new, {softmax.id: weight})


def _write_as_sums(made: StatisticsRewrite, reach: Uses) -> None:
    """Write reductions as sums; the logsumexp of the scores is available already."""
    new, swap = made.ir.copy(), dict[int, int]()
    for node in (new[i] for i in reach.exits):
        new.here = (node.name, node.site)
        axis = node.attrs["axis"] == made.softmax.attrs["axis"]
        if node.op == "axis_logsumexp" and axis and node.inputs == made.softmax.inputs:
            swap[node.id] = peak_of(new, made.softmax, made.source, narrow=True).id
        elif (found := as_sums(new, node)) is not None:
            swap[node.id] = found.id
    new.here = ("", None)
    made.ir = rewire(new, swap)


def _step(made: StatisticsRewrite, reach: Uses, name: str) -> None:
    """Put the reductions that depend on no other into tiles."""
    ir, axis = made.ir, reach.part.axis
    ready = reach.ready()
    inner = TileMembers(ir, axis, reach.home)
    wanted = {*ready, *reach.through} & reachable(ir, ready)
    roots = [j for i in sorted(wanted) for j in ir[i].inputs if j not in wanted]
    # a score may be a start of reductions; it is computed in tiles as well
    inside = wanted | inner.all([*(i for i in wanted if inner(i)), *roots])
    order = [i for i in ir.nodes if i in inside]
    score = made.softmax.inputs[0]
    pattern = Pattern(name, axis, -1, ready, order, operands(ir, order, {}), score)
    writer = StatisticsWriter(ir, pattern, wide_of(ir, made.source))
    part = writer.write_statistics(reach.part.queries)
    new = ir.copy()
    _, swap = insert_region(new, pattern, part, writer.dims, made.softmax.site)
    made.ir = rewire(new, swap)
    made.parts.append(part)


def wide_of(ir: IR, source: Source, narrow: bool = False) -> frozenset[int]:
    """The nodes that hold the logsumexp of a softmax; with `narrow` ones if asked."""
    found: set[int] = set()
    for node in ir:
        peak = node.op == "pick" and node.inputs[0] == source.node
        peak = peak and node.attrs["which"] == len(source.part.results)
        peak = peak and (narrow or not node.attrs["narrow"])
        if peak or (node.op in ("reshape", "permute") and node.inputs[0] in found):
            found.add(node.id)
    return frozenset(found)
