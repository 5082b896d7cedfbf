"""A contraction and its derivative as programs of the kernels package: what is a row, what a
column, and which sums each kernel takes.

Raises `Unsupported`, in words for users, where kernels cannot carry it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from graphnn.backends.triton.elements import (
    element_kind,
    take_name,
    unused_name,
)
from graphnn.ir.graph import IR, Node
from graphnn.kernels.ir.contraction import AttentionProgram, Picks, Store
from graphnn.kernels.ir.program import Op, Tensor, Unsupported
from graphnn.ops.builder import Expr, make
from graphnn.ops.matmul import split_sub
from graphnn.ops.registry import OPS, build
from graphnn.planner.attention.tiles import AttentionRegion
from graphnn.planner.attention.topk import TopkRegion
from graphnn.planner.core.rewrite import keep, reachable, rewrite


@dataclass(frozen=True)
class Roles:
    """The axes of a contraction: of queries and keys both, of queries alone, of keys alone.

    Where the keys were `picked` for each query, all axes but the picked are of both.
    """

    blocks: tuple[str, ...]
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    picked: TopkRegion | None = None


def roles(part: AttentionRegion, picked: TopkRegion | None = None) -> Roles:
    """What is a row, what a column, and which axes both have."""
    axes = part.ir.layout(part.axes)
    if picked is not None:
        return Roles(axes, (), (part.axis,), picked)
    rows = tuple(a for a in axes if a in part.queries)
    return Roles(tuple(a for a in axes if a not in rows), rows, (part.axis,))


@dataclass(frozen=True)
class Exit:
    """Where a graph of tiles leaves them: node `end` is a sum of what `args` make over `gone`.

    `kind`: "row", "tile", "each" as in `kernels.tiles.Store`; "column": summed over the rows.
    `axes` are those of what a kernel stores. `how` may be "most" or "place" instead of "total".
    """

    end: int
    args: tuple[int, ...]
    sub: str
    kind: str
    axes: frozenset[str]
    gone: frozenset[str]
    how: str = "total"


class Exits:
    """Finds where a derived graph leaves the tiles."""

    def __init__(self, ir: IR, part: AttentionRegion, role: Roles):
        self.ir, self.axis, self.role = ir, part.axis, role
        self.users = ir.users()
        self.found: dict[int, Exit] = {}
        self.after: set[int] = set()
        for node in ir:
            self._node(node)
        for i in ir.outputs.values():
            if i not in self.after and self.inside(ir[i].axes):
                self._whole(i)

    def inside(self, axes: Iterable[str]) -> bool:
        """Whether a value varies over rows and columns."""
        axes = set(axes)
        return self.axis in axes and (not self.role.rows or bool(axes & set(self.role.rows)))

    def _node(self, node: Node) -> None:
        if node.id in self.after:
            return
        if any(i in self.after for i in node.inputs):
            for i in node.inputs:
                if i not in self.after and self.inside(self.ir[i].axes):
                    self._whole(i)
            self.after.add(node.id)
            return
        axes = frozenset().union(*(self.ir[i].axes for i in node.inputs))
        summed = node.op == "axis_sum" or bool(node.attrs.get("contract"))
        if summed and self.inside(axes):
            self._exit(node, axes)

    def _exit(self, node: Node, axes: frozenset[str]) -> None:
        gone = set(node.attrs["contract"]) if node.op == "product" else {node.attrs["axis"]}
        end, passed = node, [node.id]
        while len(self.users[end.id]) == 1 and end.id not in self.ir.outputs.values():
            following = self.ir[self.users[end.id][0]]
            if following.op != "axis_sum" or len(following.inputs) > 1:
                break
            gone.add(following.attrs["axis"])
            end = following
            passed.append(end.id)
        self.after |= set(passed)
        sub = node.attrs["sub"] if node.op == "product" else ""
        self._put(end.id, node.inputs, sub, axes, frozenset(gone))

    def _whole(self, i: int) -> None:
        self.after.add(i)
        self._put(i, (i,), "", self.ir[i].axes, frozenset())

    def _put(
        self, end: int, args: Sequence[int], sub: str, axes: frozenset[str], gone: frozenset[str]
    ) -> None:
        rows, blocks = set(self.role.rows), axes & set(self.role.blocks)
        kept = axes - gone
        if self.axis in kept and (kept & rows or not rows):
            kind, stored = "each", axes
            if len(args) > 1:
                raise Unsupported(f"'{self.ir[end].label}' adds up a product over some axes only")
        elif self.axis in kept:
            kind, stored = "column", blocks | {self.axis}
        elif kept & rows or not rows:
            kind, stored = "row", blocks | rows
        else:
            kind, stored = "tile", blocks
        if kind != "each" and not rows <= axes:
            raise Unsupported(f"'{self.ir[end].label}' varies over some of the queries' axes only")
        self.found[end] = Exit(end, tuple(args), sub, kind, frozenset(stored), gone)


def finish(ir: IR, exits: dict[int, Exit], places: dict[int, int]) -> IR:
    """What is left to do on what kernels store: sums over axes, and what comes after.

    `places` fills with the node that each exit's stored value is given as.
    """

    def rule(new: IR, node: Node) -> Expr | None:
        found = exits.get(node.id)
        if found is None:
            return None
        old = ir[node.id]
        attrs = {"key": ("stored", node.id), "was": "total"}
        i = build(
            new,
            "given",
            (),
            attrs,
            shape=old.shape,
            dtype=old.dtype,
            axes=found.axes,
            name=old.name,
        )
        places[node.id] = i
        made = Expr(new, i)
        for axis in new.layout(found.axes & found.gone):
            made = make("axis_sum", made, axis=axis)
        return made

    new = rewrite(ir, rule)
    return keep(new, reachable(new, new.outputs.values()))


class Ops:
    """Nodes of a graph as operations of a kernel."""

    def __init__(self, ir: IR, picked: TopkRegion | None = None):
        """`picked` says where the columns are positions, and of which reads."""
        self.ir, self.ops = ir, dict[str, Op]()
        self.named: dict[int, str] = {}
        self.tensors: list[Tensor] = []
        self.arguments: dict[str, int] = {}
        self.reads: list[int] = []
        self.lies = picked.lies if picked else {}
        self.picks: Picks | None = None
        if picked is not None:
            self.named[picked.places] = self._read(picked.part.ir[picked.places])
            self.picks = Picks(picked.source, self.named[picked.places])

    def fresh(self, wanted: str) -> str:
        """A name that no operation has."""
        return unused_name(wanted, self.ops)

    def argument(self, wanted: str) -> str:
        """A name that no tensor has, read or written."""
        return take_name(wanted, self.arguments)

    def put(self, op: Op) -> str:
        """Add an operation; returns its name."""
        self.ops[op.name] = op
        return op.name

    def need(self, i: int) -> str:
        """The operation that makes a node, and before it those it reads."""
        if i not in self.named:
            node = self.ir[i]
            for j in node.inputs:
                self.need(j)
            self.named[i] = self._node(node)
        return self.named[i]

    def _node(self, node: Node) -> str:
        made: dict[str, Callable[[Node], str]] = {
            "given": self._read,
            "const": lambda n: self._add(n, "const", (), value=n.attrs["value"]),
            "size": lambda n: self._add(n, "size", (), axis=n.attrs["axis"]),
            "index": lambda n: self._add(n, "index", (), axis=n.attrs["axis"]),
            "cast": self._cast,
            "product": self._product,
            "expand": lambda n: self._add(n, "expand", self._args(n)),
            "reshape": self._reshape,
            "sum": lambda n: self._add(n, "sum", self._args(n)),
            "amax": lambda n: self._add(n, "max", self._args(n)),
            "logsumexp": self._logsumexp,
            "softmax": self._softmax,
        }
        if node.op in made:
            return made[node.op](node)
        if OPS[node.op].family == "pointwise" and OPS[node.op].triton_text:
            return self._pointwise(node)
        raise Unsupported(f"'{node.label}' at {node.site} is a '{node.op}', which no kernel writes")

    def _args(self, node: Node) -> tuple[str, ...]:
        return tuple(self.named[i] for i in node.inputs)

    def _add(self, node: Node, kind: str, args: Sequence[str], **attrs: Any) -> str:
        wanted = node.name or node.attrs.get("was", node.op)
        note = f"{node.label}, {node.site}" if node.site else node.label
        name = self.fresh(wanted)
        return self.put(Op(name, kind, tuple(args), node.shape, element_kind(node), attrs, note))

    def _make(self, like: Node, kind: str, args: Sequence[str], shape: tuple[int, ...],
              dtype: str = "float", **attrs: Any) -> str:  # fmt: skip
        name = self.fresh(like.name or like.op)
        return self.put(Op(name, kind, tuple(args), shape, dtype, attrs, like.label))

    def _read(self, node: Node) -> str:
        if node.dtype.is_floating_point and node.dtype != self.ir.floating:
            raise Unsupported(f"'{node.label}' is {node.dtype} in a graph of {self.ir.floating}")
        name = self.argument(node.name or node.attrs.get("was", node.op))
        drawn = "places" in node.attrs
        kind = "seed" if drawn else self._kind(node)
        axes = self.lies.get(node.id) or self.ir.layout(node.axes)
        tensor = Tensor(name, node.shape, node.attrs["places"] if drawn else axes, kind)
        self.tensors.append(tensor)
        self.reads.append(node.id)
        if drawn:
            law = {"law": node.attrs["kind"], "p": float(node.attrs["p"])}
            return self._add(node, "draw", (), tensor=tensor, **law)
        return self._add(node, "read", (), tensor=tensor)

    def _kind(self, node: Node) -> str:
        wide = node.attrs.get("wide") or node.attrs.get("key") in ("peak", "delta")
        return "acc" if wide else element_kind(node)

    def _pointwise(self, node: Node) -> str:
        args = [self._operand(node, k, i) for k, i in enumerate(node.inputs)]
        return self._add(node, "point", args, template=OPS[node.op].triton_text)

    def _operand(self, node: Node, k: int, i: int) -> str:
        """An operand in the kind of number that the operation computes with."""
        name, have = self.named[i], element_kind(self.ir[i])
        if self.ir[i].op == "const":
            return name
        shape = self.ops[name].shape
        if OPS[node.op].truth_operands and have != "bool":
            return self._make(node, "point", [name], shape, "bool", template="({0} != 0)")
        chosen = node.op == "where" and k == 0
        if element_kind(node) == "float" and have != "float" and not chosen:
            return self._make(node, "point", [name], shape, template="{0}.to(ACC)")
        return name

    def _cast(self, node: Node) -> str:
        templates = {"float": "{0}.to(ACC)", "int": "{0}.to(tl.int64)", "bool": "({0} != 0)"}
        return self._add(node, "point", self._args(node), template=templates[element_kind(node)])

    def _product(self, node: Node) -> str:
        if node.attrs["contract"]:
            raise Unsupported(f"'{node.label}' sums over an axis before another sum is taken")
        return self._add(node, "product", self._args(node), sub=node.attrs["sub"])

    def _reshape(self, node: Node) -> str:
        x = self.ir[node.inputs[0]]
        if [n for n in x.shape if n != 1] != [n for n in node.shape if n != 1]:
            raise Unsupported(f"'{node.label}' at {node.site} takes dimensions apart")
        return self._add(node, "point", self._args(node), template="{0}")

    def _logsumexp(self, node: Node) -> str:
        (x,) = self._args(node)
        shape = self.ops[x].shape
        top = self._make(node, "max", [x], ())
        safe = "tl.where(tl.abs({0}) < float('inf'), {0}, 0.0)"
        top = self._make(node, "point", [top], (), template=safe)
        raised = self._make(node, "point", [x, top], shape, template="tl.exp({0} - {1})")
        total = self._make(node, "sum", [raised], ())
        return self._add(node, "point", [top, total], template="({0} + tl.log({1}))")

    def _softmax(self, node: Node) -> str:
        (x,) = self._args(node)
        shape = self.ops[x].shape
        top = self._make(node, "max", [x], ())
        raised = self._make(node, "point", [x, top], shape, template="tl.exp({0} - {1})")
        total = self._make(node, "sum", [raised], ())
        return self._add(node, "point", [raised, total], template="({0} / {1})")


@dataclass(frozen=True)
class Kernel:
    """A program, the nodes it reads, and those whose values it stores."""

    program: AttentionProgram
    reads: list[int]
    stores: list[int]


def ahead(part: AttentionRegion, role: Roles, name: str) -> Kernel:
    """The forward kernel."""
    ops = Ops(part.ir, role.picked)
    score = ops.need(part.score)
    note = f"softmax over {part.axis}"
    ops.named[part.weight] = ops.put(Op(ops.fresh("soft"), "soft", (score,), note=note))
    stores = []
    for i in part.results:
        node = part.ir[i]
        stores.append(_store(ops, node, node.inputs, node.attrs.get("sub", ""), "row", part.axes))
    layout = part.ir.layout(part.axes)
    peak = Tensor(ops.argument("peak"), (), layout, "float")
    title = f"{part.name}: softmax over {part.axis} and the sums it weights."
    tensors, made = tuple(ops.tensors), tuple(ops.ops.values())
    program = AttentionProgram(
        name, title, *_roles(role), tensors, made, tuple(stores), peak, picks=ops.picks
    )
    return Kernel(program, ops.reads, list(part.results))


def _roles(role: Roles, turned: bool = False) -> tuple[tuple[str, ...], ...]:
    if turned:
        return role.blocks, role.columns, role.rows
    return role.blocks, role.rows, role.columns


def _store(
    ops: Ops,
    node: Node,
    args: Sequence[int],
    sub: str,
    kind: str,
    axes: Iterable[str],
    how: str = "total",
) -> Store:
    """What is stored of a node: its terms as an operation, and where they go."""
    named = [ops.need(i) for i in args]
    label = f"{node.label}, {node.site}" if node.site else node.label
    if kind == "each":
        (name,) = named
    else:
        shape = _summed(ops, named, sub)
        attrs = {"sub": sub} if sub else {}
        wanted = ops.fresh(node.name or "total")
        name = ops.put(Op(wanted, how, tuple(named), shape, "float", attrs, label))
    out = ops.argument(f"{name}_out")
    dtype = {"most": "acc", "place": "int"}.get(how, "float")
    return Store(name, Tensor(out, ops.ops[name].shape, ops.ir.layout(axes), dtype), kind)


def _summed(ops: Ops, args: Sequence[str], sub: str) -> tuple[int, ...]:
    if not sub:
        return ops.ops[args[0]].shape
    left, right, out = split_sub(sub)
    sizes: dict[str, int] = {}
    for letters, arg in zip((left, right), args, strict=True):
        sizes.update(zip(letters, ops.ops[arg].shape, strict=True))
    return tuple(sizes[c] for c in out)


def back(
    part: AttentionRegion,
    role: Roles,
    ir: IR,
    exits: Iterable[Exit],
    name: str,
    what: str = "gradients",
) -> list[Kernel]:
    """Kernels of sums, of a backward for one: one whose rows are the queries, one whose rows are
    the keys."""
    made = []
    exits = list(exits)
    ways = (("queries", ("row", "tile", "each"), False), ("keys", ("column",), True))
    for word, kinds, turned in ways:
        mine = [e for e in exits if e.kind in kinds]
        if not mine:
            continue
        ops = Ops(ir, role.picked)
        stores = []
        for e in mine:
            kind = "row" if e.kind == "column" else e.kind
            axes = () if kind == "tile" else exit_axes(role, e)
            stores.append(_store(ops, ir[e.end], e.args, e.sub, kind, axes, e.how))
        title = f"{part.name}: {what}, one program a tile of {word}."
        program = AttentionProgram(
            f"{name}_{word}",
            title,
            *_roles(role, turned),
            tuple(ops.tensors),
            tuple(ops.ops.values()),
            tuple(stores),
            picks=ops.picks,
        )
        made.append(Kernel(program, ops.reads, [e.end for e in mine]))
    return made


def exit_axes(role: Roles, e: Exit) -> tuple[str, ...]:
    """The axes of what a kernel stores: all that its programs and rows run over."""
    if e.kind == "row":
        return (*role.blocks, *role.rows)
    if e.kind == "column":
        return (*role.blocks, *role.columns)
    return tuple(e.axes) if e.kind == "each" else role.blocks
