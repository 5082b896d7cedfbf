"""A softmax and the sums it weights, as a graph of its own over tiles of queries and keys.

Dimensions that all values share, such as heads, become axes here; dimensions of size one are left
out. The remaining dimensions are those that a score sums over, or the width of a value.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from graphnn.ir.graph import IR, Axis, Node
from graphnn.ops.builder import Expr, make, reshape
from graphnn.ops.matmul import split_sub
from graphnn.ops.registry import OPS, build
from graphnn.ops.sources import index_of
from graphnn.planner.core.rewrite import keep, reachable

Dim = tuple[int, int]
REDUCED = frozenset({"sum", "amax", "logsumexp", "softmax"})
RESHAPED = frozenset({"reshape", "permute", "expand"})
OWN = frozenset({"const", "index", "size"})


class NotFusable(Exception):
    """A softmax cannot be fused; the message gives the reason for users."""


@dataclass(eq=False)
class AttentionRegion:
    """Σ_axis softmax_axis(score) · value, as a graph.

    `ir` has a `given` node for each value in `reads`. `score` is the operand of softmax, and
    `weight` its value: a `soft` node of the score and of two `given` nodes that are no reads.
    These are `peak`, the logsumexp of the scores over the axis, and `delta`. `results` are sums
    over the axis. `parts` are the axes that dimensions became. All variants of one region have the
    same `origin`. If `top` is positive, only that many of the largest scores take part.

    If `peak` is read too, `total` is the sum of the weights. The derivative of the logsumexp by a
    score is the weight, so a gradient of `peak` is treated as a gradient of `total`.
    """

    name: str
    axis: str
    ir: IR
    reads: list[int]
    score: int
    weight: int
    results: list[int]
    parts: list[str]
    top: int = 0
    total: int = -1
    origin: object = field(default_factory=object)

    @property
    def ends(self) -> list[int]:
        """The nodes whose gradients are passed on."""
        return [*self.results, *[self.total] * (self.total >= 0)]

    def read_peak(self) -> None:
        """Make `peak` a result too, after the others."""
        if self.total < 0:
            self.total = make("axis_sum", Expr(self.ir, self.weight), axis=self.axis).id

    def drawn(self, i: int) -> bool:
        """Whether a read is a seed, from which noise is drawn in the tiles."""
        return "places" in self.ir[i].attrs

    @property
    def moving(self) -> tuple[bool, ...]:
        """For each read, whether it can have a gradient: it is floating and not noise."""
        return tuple(self.ir[i].dtype.is_floating_point and not self.drawn(i) for i in self.reads)

    @property
    def peak(self) -> int:
        """The logsumexp of the scores."""
        return self.ir[self.weight].inputs[1]

    @property
    def delta(self) -> int:
        """The sum of weights times their gradients."""
        return self.ir[self.weight].inputs[2]

    @property
    def axes(self) -> frozenset[str]:
        """The axes of the results."""
        return self.ir[self.peak].axes

    @property
    def queries(self) -> frozenset[str]:
        """The axes of queries: those that no vector-valued read has together with `axis`."""
        shared: set[str] = set()
        for node in (self.ir[i] for i in self.reads):
            if self.axis in node.axes and node.shape and node.dtype.is_floating_point:
                shared |= node.axes
        return self.axes - shared

    def in_tiles(self, axes: frozenset[str]) -> bool:
        """Whether a value with these axes has an element per query and key."""
        return self.axis in axes and (not self.queries or bool(axes & self.queries))

    @property
    def stored(self) -> list[str]:
        """The labels of reads that are as large as the weights, except seeds."""
        found = (self.ir[i] for i in self.reads if not self.drawn(i))
        return [n.label for n in found if self.axis in n.axes and n.axes & self.queries]


@dataclass
class Pattern:
    """A pattern found in a graph. `inside` lists the nodes to compute in tiles, in order."""

    name: str
    axis: str
    softmax: int
    exits: list[int]
    inside: list[int]
    reads: list[int]
    score: int
    top: int = 0


class Dims:
    """Finds which dimensions of the nodes of a pattern correspond, and which become axes."""

    def __init__(self, ir: IR, pattern: Pattern):
        self.ir, self.root, self.fixed = ir, dict[Dim, Dim](), set[Dim]()
        for i in pattern.inside:
            self._node(ir[i])
        score = ir[pattern.score]
        if pattern.softmax >= 0:
            self._aligned(score.id, ir[pattern.softmax])
        wide = [(score.id, d) for d, n in enumerate(score.shape) if n != 1]
        self.lifted = list(dict.fromkeys(self.find(place) for place in wide))
        fixed = {self.find(place) for place in self.fixed}
        if any(place in fixed for place in self.lifted):
            raise NotFusable(f"dimensions {tuple(score.shape)} of its scores are also summed over")
        self.sizes = [ir[i].shape[d] for i, d in self.lifted]

    def find(self, place: Dim) -> Dim:
        """The representative of all dimensions that correspond to this one."""
        while (up := self.root.get(place, place)) != place:
            place = up
        return place

    def _join(self, a: Dim, b: Dim) -> None:
        self.root[self.find(a)] = self.find(b)

    def _node(self, node: Node) -> None:
        if node.op == "einsum":
            self._letters(node)
        elif node.op == "reshape":
            self._reshape(node)
        elif node.op == "permute":
            for d, source in enumerate(node.attrs["dims"]):
                self._join((node.inputs[0], source), (node.id, d))
        elif node.op in REDUCED:
            self._reduced(node)
        else:
            for i in node.inputs:
                self._aligned(i, node)

    def _aligned(self, i: int, node: Node) -> None:
        shape = self.ir[i].shape
        shift = len(node.shape) - len(shape)
        for d, n in enumerate(shape):
            if n != 1 and d + shift >= 0 and node.shape[d + shift] == n:
                self._join((i, d), (node.id, d + shift))

    def _letters(self, node: Node) -> None:
        left, right, out = split_sub(node.attrs["sub"])
        first: dict[str, Dim] = {}
        for i, letters in zip((*node.inputs, node.id), (left, right, out), strict=True):
            for d, letter in enumerate(letters):
                self._join((i, d), first.setdefault(letter, (i, d)))
        self.fixed |= {place for letter, place in first.items() if letter not in out}

    def _reshape(self, node: Node) -> None:
        x = self.ir[node.inputs[0]]
        before = [(x.id, d) for d, n in enumerate(x.shape) if n != 1]
        after = [(node.id, d) for d, n in enumerate(node.shape) if n != 1]
        if [n for n in x.shape if n != 1] == [n for n in node.shape if n != 1]:
            for a, b in zip(before, after, strict=True):
                self._join(a, b)
        else:
            self.fixed |= {*before, *after}

    def _reduced(self, node: Node) -> None:
        x = self.ir[node.inputs[0]]
        own = (node.attrs["dim"],) if node.op == "softmax" else node.attrs["dims"]
        gone = {d % len(x.shape) for d in own}
        self.fixed |= {(x.id, d) for d in gone}
        kept = [d for d in range(len(x.shape)) if node.op == "softmax" or d not in gone]
        for d, source in enumerate(kept):
            self._join((x.id, source), (node.id, d))

    def parts(self, i: int) -> list[tuple[int, int]]:
        """The dimensions of a node that become axes: pairs (axis number, dimension), sorted."""
        found = [(self.find((i, d)), d) for d, n in enumerate(self.ir[i].shape) if n != 1]
        return sorted((self.lifted.index(p), d) for p, d in found if p in self.lifted)

    def rest(self, i: int) -> list[int]:
        """The remaining dimensions of a node."""
        shape = self.ir[i].shape
        taken = {d for _, d in self.parts(i)}
        return [d for d, n in enumerate(shape) if n != 1 and d not in taken]

    def kinds(self, i: int) -> list[Dim]:
        """The representatives of the remaining dimensions."""
        return [self.find((i, d)) for d in self.rest(i)]

    def order(self, i: int) -> tuple[int, ...]:
        """The dimensions of a node in canonical order: axes first, then the rest, then ones."""
        first = [d for _, d in self.parts(i)] + self.rest(i)
        ones = [d for d in range(len(self.ir[i].shape)) if d not in first]
        return (*first, *ones)

    def shape(self, i: int) -> tuple[int, ...]:
        """The shape of a node in canonical order, without ones."""
        return tuple(self.ir[i].shape[d] for d in self.order(i) if self.ir[i].shape[d] != 1)

    def given(self, x: Expr, i: int) -> Expr:
        """`x`, the value of node `i`, in canonical order and shape."""
        order = self.order(i)
        wide = [d for d in order if self.ir[i].shape[d] != 1]
        if wide != sorted(wide):
            x = make("permute", x, dims=order)
        return reshape(x, self.shape(i))

    def taken(self, x: Expr, i: int) -> Expr:
        """The value of node `i` in its own shape, from `x` in canonical order and shape."""
        order, shape = self.order(i), self.ir[i].shape
        wide = [d for d in order if shape[d] != 1]
        if wide == sorted(wide):
            return reshape(x, shape)
        back = tuple(sorted(range(len(order)), key=order.__getitem__))
        return make("permute", reshape(x, [shape[d] for d in order]), dims=back)


class Writer:
    """Writes the graph of a pattern."""

    def __init__(self, ir: IR, pattern: Pattern):
        self.ir, self.pattern, self.dims = ir, pattern, Dims(ir, pattern)
        self.axis = pattern.axis
        self.new = ir.empty()
        self.parts = self._named(len(self.dims.sizes))
        for part, size in zip(self.parts, self.dims.sizes, strict=True):
            self.new.axes[part] = Axis(part, size)
        self.made: dict[int, Expr] = {}
        self.soft: set[int] = set()

    def _named(self, count: int) -> list[str]:
        names: list[str] = []
        number = 1
        while len(names) < count:
            name = "head" if number == 1 else f"head_{number}"
            names += [name] * (name not in self.ir.axes)
            number += 1
        return names

    def write(self) -> AttentionRegion:
        """The region. Raises NotFusable if its shapes are too complicated."""
        p = self.pattern
        reads = [self._read(self.ir[i]) for i in p.reads]
        score = weight = -1
        for i in p.inside:
            node = self.ir[i]
            self.new.here = (node.name, node.site)
            if i == p.softmax:
                score, weight = self._softmax(node)
            elif i in p.exits:
                self.made[i] = self._sum(node)
            else:
                self.made[i] = self._node(node)
                if any(self[j].id in self.soft for j in node.inputs):
                    self.soft.add(self.made[i].id)
        self.new.here = ("", None)
        results = [self.made[i].id for i in p.exits]
        if any(self.new[i].axes != self.new[score].axes - {self.axis} for i in results):
            raise NotFusable("the values that it weights vary over axes that its scores lack")
        self.new.outputs = {f"r{k}": i for k, i in enumerate(results)}
        self.new = keep(self.new, reachable(self.new, [*results, weight, *reads]))
        rest = results, self.parts, p.top
        return AttentionRegion(p.name, self.axis, self.new, reads, score, weight, *rest)

    def __getitem__(self, i: int) -> Expr:
        if i not in self.made:
            node = self.ir[i]
            self.made[i] = Expr(self.new, self.new.insert(node))
        return self.made[i]

    def _axes(self, i: int) -> frozenset[str]:
        return self.ir[i].axes | {self.parts[k] for k, _ in self.dims.parts(i)}

    def _rest(self, i: int) -> tuple[int, ...]:
        return tuple(self.ir[i].shape[d] for d in self.dims.rest(i))

    def _read(self, node: Node) -> int:
        i = build(
            self.new,
            "given",
            (),
            {"key": node.id, "was": node.op},
            shape=self._rest(node.id),
            dtype=node.dtype,
            axes=self._axes(node.id),
            name=node.name,
            site=node.site,
        )
        self.made[node.id] = Expr(self.new, i)
        return i

    def _softmax(self, node: Node) -> tuple[int, int]:
        score = self[self.pattern.score]
        if len(node.inputs) > 1:
            valid = make("lt", index_of(self.new, self.axis), self[node.inputs[1]])
            score = make("where", valid, score, float("-inf"))
        peak, delta = (self._scalar(word, score) for word in ("peak", "delta"))
        self.made[node.id] = make("soft", score, peak, delta)
        self.soft.add(self.made[node.id].id)
        return score.id, self.made[node.id].id

    def _scalar(self, name: str, score: Expr) -> Expr:
        axes = score.axes - {self.axis}
        attrs = {"key": name, "was": name}
        return Expr(
            self.new,
            build(self.new, "given", (), attrs, shape=(), dtype=score.dtype, axes=axes, name=name),
        )

    def _sum(self, node: Node) -> Expr:
        """A sum over the axis; for a weight times a value it is one matmul."""
        x, valid = self[node.inputs[0]], None
        if len(node.inputs) > 1:
            valid = make("lt", index_of(self.new, self.axis), self[node.inputs[1]])
        if x.node.op != "mul":
            whole = x if valid is None else make("where", valid, x, 0.0)
            return make("axis_sum", whole, axis=self.axis)
        a, b = (Expr(self.new, i) for i in x.node.inputs)
        if b.id in self.soft:
            a, b = b, a
        if b.node.op == "const":
            return make("axis_sum", x, axis=self.axis)
        if valid is not None:
            b = make("where", valid, b, 0.0)
        letters = [_letters(len(v.shape)) for v in (a, b)]
        sub = f"{letters[0]},{letters[1]}->{max(letters, key=len)}"
        return make("einsum", a, b, sub=sub, contract=frozenset({self.axis}))

    def _node(self, node: Node) -> Expr:
        if node.op == "einsum":
            return self._product(node)
        if node.op in REDUCED:
            return self._reduced(node)
        if node.op in RESHAPED:
            return self._reshaped(node)
        mine = self.dims.kinds(node.id)
        for i in node.inputs:
            if self.dims.kinds(i) not in (mine, []):
                raise self._complicated(node)
        return make(node.op, *(self[i] for i in node.inputs), **node.attrs)

    def _reshaped(self, node: Node) -> Expr:
        (i,) = node.inputs
        mine, before = self.dims.kinds(node.id), self.dims.kinds(i)
        if mine == before:
            return self[i]
        if node.op == "expand" and not before:
            return make("expand", self[i], shape=self._rest(node.id))
        raise self._complicated(node)

    def _reduced(self, node: Node) -> Expr:
        (i,) = node.inputs
        rest, rank = self.dims.rest(i), len(self.ir[i].shape)
        own = (node.attrs["dim"],) if node.op == "softmax" else node.attrs["dims"]
        gone = [d for d in rest if d in {k % rank for k in own}]
        if not gone and node.op != "softmax":
            return self[i]
        if node.op == "softmax" and len(rest) == len(gone) == 1:
            return make("softmax", self[i], dim=0)
        if node.op == "softmax" or gone != rest:
            raise self._complicated(node)
        if node.op == "sum" and (product := self._dot(self[i])) is not None:
            return product
        return make(node.op, self[i], dims=tuple(range(len(rest))))

    def _dot(self, x: Expr) -> Expr | None:
        """A dot product, if `x` is the product of two vectors."""
        parts = [Expr(self.new, i) for i in x.node.inputs]
        if x.node.op != "mul" or any(len(p.shape) != 1 or p.node.op == "const" for p in parts):
            return None
        return make("einsum", *parts, sub="z,z->", contract=frozenset())

    def _product(self, node: Node) -> Expr:
        parts = split_sub(node.attrs["sub"])
        operands = (*node.inputs, node.id)
        kept = [
            "".join(letters[d] for d in self.dims.rest(i))
            for i, letters in zip(operands, parts, strict=True)
        ]
        sub = f"{kept[0]},{kept[1]}->{kept[2]}"
        return make("einsum", *(self[i] for i in node.inputs), sub=sub, contract=frozenset())

    def _complicated(self, node: Node) -> NotFusable:
        return NotFusable(
            f"'{node.label}' at {node.site} splits dimensions in a way that tiles do not support"
        )


def _letters(rank: int) -> str:
    return "yz"[2 - rank :] if rank <= 2 else "uvwxyz"[6 - rank :]


def supported(node: Node) -> bool:
    """Whether tiles can compute an operation."""
    if node.op in ("einsum", *REDUCED, *RESHAPED):
        return True
    return OPS[node.op].family == "pointwise" and bool(OPS[node.op].torch_text)


def other_dtype(ir: IR, nodes: Iterable[Node]) -> Node | None:
    """The first node whose dtype differs from that of the graph, as tiles have one dtype."""
    for node in nodes:
        if (node.dtype.is_floating_point or node.dtype.is_complex) and node.dtype != ir.floating:
            return node
    return None


def of_one_dtype(ir: IR, ids: Iterable[int]) -> None:
    """Raise NotFusable if the dtype of a value differs from that of the graph."""
    if found := other_dtype(ir, (ir[i] for i in ids)):
        raise NotFusable(f"'{found.label}' is {found.dtype} in a graph of {ir.floating}")


def operands(ir: IR, inside: Iterable[int], instead: Mapping[int, Sequence[int]]) -> list[int]:
    """The values that a pattern reads from outside, in order.

    `instead` replaces the operands of some nodes.
    """
    inside = list(inside)
    found = dict.fromkeys(j for i in inside for j in instead.get(i, ir[i].inputs))
    return [j for j in found if j not in inside and ir[j].op not in OWN]
