"""A softmax and the sums it weights, as a graph of its own over tiles of queries and keys.

Dimensions of a value's own shape that run through all of it, such as heads, become axes here; those
of size one are left out. What remains of a shape is what a score adds up over, or a value's width.
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

Place = tuple[int, int]
REDUCED = frozenset({"sum", "amax", "logsumexp", "softmax"})
RESHAPED = frozenset({"reshape", "permute", "expand"})
OWN = frozenset({"const", "index", "size"})


class Unfit(Exception):
    """A softmax that is left as it is: the message says why, in words for users."""


@dataclass(eq=False)
class Contraction:
    """Σ_axis softmax_axis(score) · value, as a graph.

    `ir` has a `given` node for each value in `reads`; `score` is what softmax takes, `weight` its
    value, a `soft` node of the score and two `given` nodes that are no reads: `peak`, the score's
    logsumexp over the axis, and `delta`. `results` are sums over the axis. `parts` are the axes
    that dimensions became; `origin` is the same in all forms of one contraction. With `top`, only
    so many of the best scores take part. Where `peak` is read besides, `total` is the sum of the
    weights: as the derivative of a score's logsumexp is its weight, what flows to `peak` is taken
    as flowing to it.
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
        """The nodes that gradients come from."""
        return [*self.results, *[self.total] * (self.total >= 0)]

    def read_peak(self) -> None:
        """From now on `peak` is a result too, behind the others."""
        if self.total < 0:
            self.total = make("axis_sum", Expr(self.ir, self.weight), axis=self.axis).id

    def drawn(self, i: int) -> bool:
        """Whether a read is given as a seed, of which its numbers are drawn where they are used."""
        return "places" in self.ir[i].attrs

    @property
    def moving(self) -> tuple[bool, ...]:
        """Which reads may have a gradient: numbers, but no noise."""
        return tuple(self.ir[i].dtype.is_floating_point and not self.drawn(i) for i in self.reads)

    @property
    def peak(self) -> int:
        """The score's logsumexp."""
        return self.ir[self.weight].inputs[1]

    @property
    def delta(self) -> int:
        """The sum of weights times what flows to them."""
        return self.ir[self.weight].inputs[2]

    @property
    def axes(self) -> frozenset[str]:
        """The axes of the results."""
        return self.ir[self.peak].axes

    @property
    def queries(self) -> frozenset[str]:
        """The axes that no value of several numbers has along with the axis: those of queries."""
        shared: set[str] = set()
        for node in (self.ir[i] for i in self.reads):
            if self.axis in node.axes and node.shape and node.dtype.is_floating_point:
                shared |= node.axes
        return self.axes - shared

    def spread(self, axes: frozenset[str]) -> bool:
        """Whether a value of these axes has a number for each query and key."""
        return self.axis in axes and (not self.queries or bool(axes & self.queries))

    @property
    def stored(self) -> list[str]:
        """Reads as large as the weights themselves; what is drawn from a seed is none."""
        found = (self.ir[i] for i in self.reads if not self.drawn(i))
        return [n.label for n in found if self.axis in n.axes and n.axes & self.queries]


@dataclass
class Pattern:
    """What was found in a graph: `inside` are the nodes to be computed in tiles, in order."""

    name: str
    axis: str
    softmax: int
    exits: list[int]
    inside: list[int]
    reads: list[int]
    score: int
    top: int = 0


class Dims:
    """Which dimensions of the nodes of a pattern are one, and which of them become axes."""

    def __init__(self, ir: IR, pattern: Pattern):
        self.ir, self.root, self.fixed = ir, dict[Place, Place](), set[Place]()
        for i in pattern.inside:
            self._node(ir[i])
        score = ir[pattern.score]
        if pattern.softmax >= 0:
            self._aligned(score.id, ir[pattern.softmax])
        wide = [(score.id, d) for d, n in enumerate(score.shape) if n != 1]
        self.lifted = list(dict.fromkeys(self.find(place) for place in wide))
        fixed = {self.find(place) for place in self.fixed}
        if any(place in fixed for place in self.lifted):
            raise Unfit(f"dimensions {tuple(score.shape)} of its scores are summed over as well")
        self.sizes = [ir[i].shape[d] for i, d in self.lifted]

    def find(self, place: Place) -> Place:
        """The dimension that stands for all that are one with this."""
        while (up := self.root.get(place, place)) != place:
            place = up
        return place

    def _join(self, a: Place, b: Place) -> None:
        self.root[self.find(a)] = self.find(b)

    def _node(self, node: Node) -> None:
        if node.op == "product":
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
        first: dict[str, Place] = {}
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
        """The dimensions of a node that become axes: (which axis, dimension), by axis."""
        found = [(self.find((i, d)), d) for d, n in enumerate(self.ir[i].shape) if n != 1]
        return sorted((self.lifted.index(p), d) for p, d in found if p in self.lifted)

    def rest(self, i: int) -> list[int]:
        """The dimensions of a node that are left."""
        shape = self.ir[i].shape
        taken = {d for _, d in self.parts(i)}
        return [d for d, n in enumerate(shape) if n != 1 and d not in taken]

    def kinds(self, i: int) -> list[Place]:
        """What the dimensions that are left are one with."""
        return [self.find((i, d)) for d in self.rest(i)]

    def order(self, i: int) -> tuple[int, ...]:
        """The dimensions of a node as they are wanted: those that become axes, the rest, ones."""
        first = [d for _, d in self.parts(i)] + self.rest(i)
        ones = [d for d in range(len(self.ir[i].shape)) if d not in first]
        return (*first, *ones)

    def shape(self, i: int) -> tuple[int, ...]:
        """A node's shape in that order, without ones."""
        return tuple(self.ir[i].shape[d] for d in self.order(i) if self.ir[i].shape[d] != 1)

    def given(self, x: Expr, i: int) -> Expr:
        """`x`, the value of node `i`, in that order and shape."""
        order = self.order(i)
        wide = [d for d in order if self.ir[i].shape[d] != 1]
        if wide != sorted(wide):
            x = make("permute", x, dims=order)
        return reshape(x, self.shape(i))

    def taken(self, x: Expr, i: int) -> Expr:
        """The value of node `i` again, from one in that order and shape."""
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

    def write(self) -> Contraction:
        """The contraction; raises Unfit where its shapes are too involved."""
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
            raise Unfit("the values it weights vary over axes that its scores lack")
        self.new.outputs = {f"r{k}": i for k, i in enumerate(results)}
        self.new = keep(self.new, reachable(self.new, [*results, weight, *reads]))
        rest = results, self.parts, p.top
        return Contraction(p.name, self.axis, self.new, reads, score, weight, *rest)

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
        """A sum over the axis: of a weight and a value, one product."""
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
        return make("product", a, b, sub=sub, contract=frozenset({self.axis}))

    def _node(self, node: Node) -> Expr:
        if node.op == "product":
            return self._product(node)
        if node.op in REDUCED:
            return self._reduced(node)
        if node.op in RESHAPED:
            return self._reshaped(node)
        mine = self.dims.kinds(node.id)
        for i in node.inputs:
            if self.dims.kinds(i) not in (mine, []):
                raise self._involved(node)
        return make(node.op, *(self[i] for i in node.inputs), **node.attrs)

    def _reshaped(self, node: Node) -> Expr:
        (i,) = node.inputs
        mine, before = self.dims.kinds(node.id), self.dims.kinds(i)
        if mine == before:
            return self[i]
        if node.op == "expand" and not before:
            return make("expand", self[i], shape=self._rest(node.id))
        raise self._involved(node)

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
            raise self._involved(node)
        if node.op == "sum" and (product := self._dot(self[i])) is not None:
            return product
        return make(node.op, self[i], dims=tuple(range(len(rest))))

    def _dot(self, x: Expr) -> Expr | None:
        """The sum of a product of two values, where it is one operation."""
        parts = [Expr(self.new, i) for i in x.node.inputs]
        if x.node.op != "mul" or any(len(p.shape) != 1 or p.node.op == "const" for p in parts):
            return None
        return make("product", *parts, sub="z,z->", contract=frozenset())

    def _product(self, node: Node) -> Expr:
        parts = split_sub(node.attrs["sub"])
        operands = (*node.inputs, node.id)
        kept = [
            "".join(letters[d] for d in self.dims.rest(i))
            for i, letters in zip(operands, parts, strict=True)
        ]
        sub = f"{kept[0]},{kept[1]}->{kept[2]}"
        return make("product", *(self[i] for i in node.inputs), sub=sub, contract=frozenset())

    def _involved(self, node: Node) -> Unfit:
        return Unfit(f"'{node.label}' at {node.site} takes dimensions apart in a way of its own")


def _letters(rank: int) -> str:
    return "yz"[2 - rank :] if rank <= 2 else "uvwxyz"[6 - rank :]


def supported(node: Node) -> bool:
    """Whether tiles can compute an operation."""
    if node.op in ("product", *REDUCED, *RESHAPED):
        return True
    return OPS[node.op].family == "pointwise" and bool(OPS[node.op].torch_text)


def strange(ir: IR, nodes: Iterable[Node]) -> Node | None:
    """The first that is of numbers of another dtype than the graph's: tiles have one."""
    for node in nodes:
        if (node.dtype.is_floating_point or node.dtype.is_complex) and node.dtype != ir.floating:
            return node
    return None


def of_one_dtype(ir: IR, ids: Iterable[int]) -> None:
    """Raise Unfit where a value is of another dtype than the graph's."""
    if found := strange(ir, (ir[i] for i in ids)):
        raise Unfit(f"'{found.label}' is {found.dtype} in a graph of {ir.floating}")


def operands(ir: IR, inside: Iterable[int], instead: Mapping[int, Sequence[int]]) -> list[int]:
    """What the nodes of a pattern read from outside, in order; some read others `instead`."""
    inside = list(inside)
    found = dict.fromkeys(j for i in inside for j in instead.get(i, ir[i].inputs))
    return [j for j in found if j not in inside and ir[j].op not in OWN]
