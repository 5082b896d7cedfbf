"""Loops that compute exactly what torch's LSTM, GRU or RNN computes.

A loop is recognised by its formula, not by names: its weights may be one linear map or four, or act
on a concatenation, with the gates in any order. If torch's layer is faster on the device, the loop
becomes one call of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from graphnn.ir.graph import BATCH, IR, Node
from graphnn.ops.builder import Expr, const, make
from graphnn.ops.matmul import split_sub
from graphnn.ops.registry import build
from graphnn.planner.core.regions import Loop, loops, partition
from graphnn.planner.core.rewrite import keep, reachable, rewrite, tidy

Rows = tuple[int, int]
Piece = tuple[int, Rows]


@dataclass
class Gate:
    """`W x + U h + b`, as rows of the weights that make it up."""

    to_x: Piece
    to_h: Piece
    x: int
    biases: list[Piece]
    # biases inside the recurrent term: those of a reset-after GRU's candidate are scaled by r
    recurrent_biases: list[Piece] = field(default_factory=list)


@dataclass
class Match:
    """A loop that is one of torch's layers.

    `lasts` are the nodes that read only the last value of a state, by node: torch returns such a
    state only as its last value. `withheld` names a value that is read and that torch does not
    return.
    """

    kind: str
    loop: Loop
    gates: list[Gate]
    states: list[int]
    outputs: set[int]
    ragged: bool
    lasts: dict[int, int] = field(default_factory=dict)
    withheld: str = ""


class _Reader:
    """Recognises formulas in a loop's nodes, operands in any order."""

    def __init__(self, ir: IR, loop: Loop):
        self.ir, self.loop, self.inside = ir, loop, set(loop.nodes)

    def is_(self, i: int, op: str) -> Node | None:
        node = self.ir[i]
        return node if node.op == op else None

    def product(self, i: int, left: Callable[[int], object]) -> tuple[object, int] | None:
        """The product `i` if `left` accepts one of its factors: (what it returned, the other)."""
        node = self.is_(i, "mul")
        if node is not None:
            for a, b in (node.inputs, node.inputs[::-1]):
                found = left(a)
                if found is not None:
                    return found, b
        return None

    def gate_of(self, op: str) -> Callable[[int], Gate | None]:
        def read(i: int) -> Gate | None:
            node = self.is_(i, op)
            return None if node is None else self.gate(node.inputs[0])

        return read

    def terms(self, i: int, rows: Rows | None = None) -> list[tuple[str, int, Piece]] | None:
        """The terms of a sum of linear maps and biases, through slices: (kind, operand, rows)."""
        node = self.ir[i]
        if node.op == "add":
            parts = [self.terms(j, rows) for j in node.inputs]
            return None if None in parts else [t for p in parts for t in p or ()]
        if node.op == "slice" and len(node.shape) == 1 and node.attrs["step"] == 1:
            start = node.attrs["start"]
            low, high = rows or (0, node.shape[0])
            return self.terms(node.inputs[0], (start + low, start + high))
        if node.op == "einsum" and node.attrs["sub"].count(",") == 1:
            left, right, out = split_sub(node.attrs["sub"])
            weight = self.ir[node.inputs[1]]
            if len(left) == 1 and right == out + left and not weight.axes:
                return [("map", node.inputs[0], (weight.id, rows or (0, weight.shape[0])))]
        if not node.axes and len(node.shape) == 1:
            return [("bias", node.id, (node.id, rows or (0, node.shape[0])))]
        return None

    def gate(self, i: int) -> Gate | None:
        terms = self.terms(i)
        if terms is None:
            return None
        maps = [t for t in terms if t[0] == "map"]
        to_h = [t for t in maps if t[1] in self.loop.states]
        to_x = [t for t in maps if t[1] not in self.inside]
        if len(to_h) != 1 or len(to_x) != 1 or len(maps) != 2:
            return None
        biases = [t[2] for t in terms if t[0] == "bias"]
        return Gate(to_x[0][2], to_h[0][2], to_x[0][1], biases)


def find(ir: IR) -> list[Match]:
    """The outermost loops that are exactly an LSTM, a GRU or an RNN of torch.

    Includes those of which a value is read that torch does not return.
    """
    users = ir.users()
    found = []
    for loop in loops(partition(ir)):
        match = _lstm(ir, loop) or _gru(ir, loop) or _rnn(ir, loop)
        if match is not None and _has_supported_form(ir, match):
            match.lasts = _lasts(ir, match, users)
            match.withheld = _withheld(ir, match, users)
            found.append(match)
    return found


def _without_mask(ir: IR, delay: int) -> tuple[int, bool]:
    """The node that closes a state, without its mask, and whether it had one."""
    after = ir[ir.closings[delay]]
    if after.op == "where" and after.inputs[2] == delay:
        return after.inputs[1], True
    return after.id, False


def _lstm(ir: IR, loop: Loop) -> Match | None:
    if len(loop.states) != 2:
        return None
    read = _Reader(ir, loop)
    for h, c in (loop.states, loop.states[::-1]):
        (h_next, ragged), (c_next, _) = _without_mask(ir, h), _without_mask(ir, c)

        def squashed(i: int, c_next: int = c_next) -> int | None:
            node = read.is_(i, "tanh")
            return i if node is not None and node.inputs[0] == c_next else None

        out = read.product(h_next, squashed)
        total = read.is_(c_next, "add")
        if out is None or total is None:
            continue
        o = read.gate_of("sigmoid")(out[1])
        for forget, write in (total.inputs, total.inputs[::-1]):
            f = read.product(forget, _only(c))
            g = read.product(write, read.gate_of("tanh"))
            if f is None or g is None:
                continue
            gates = [read.gate_of("sigmoid")(g[1]), read.gate_of("sigmoid")(f[1]), g[0], o]
            if all(isinstance(gate, Gate) for gate in gates):
                return Match("lstm", loop, gates, [h, c], {h_next}, ragged)  # type: ignore[arg-type]
    return None


def _rnn(ir: IR, loop: Loop) -> Match | None:
    if len(loop.states) != 1:
        return None
    read = _Reader(ir, loop)
    (h,) = loop.states
    h_next, ragged = _without_mask(ir, h)
    for op in ("tanh", "relu"):
        gate = read.gate_of(op)(h_next)
        if gate is not None:
            return Match(f"rnn_{op}", loop, [gate], [h], {h_next}, ragged)
    return None


def _gru(ir: IR, loop: Loop) -> Match | None:
    """h' = (1 - z) n + z h, with n = tanh(W x + b + r (U h + c)): reset after the product."""
    if len(loop.states) != 1:
        return None
    read = _Reader(ir, loop)
    (h,) = loop.states
    h_next, ragged = _without_mask(ir, h)
    total = read.is_(h_next, "add")
    if total is None:
        return None
    for keep_, new in (total.inputs, total.inputs[::-1]):
        past = read.product(keep_, _only(h))
        candidate = read.product(new, lambda i: i if read.is_(i, "tanh") else None)
        if past is None or candidate is None:
            continue
        z, rest, n = past[1], read.is_(candidate[1], "sub"), candidate[0]
        if rest is None or rest.inputs[1] != z or not _is_one(ir[rest.inputs[0]]):
            continue
        gate_z, parts = read.gate_of("sigmoid")(z), _candidate(read, ir[n].inputs[0], h)  # type: ignore[index]
        if gate_z is not None and parts is not None:
            return Match("gru", loop, [parts[0], gate_z, parts[1]], [h], {h_next}, ragged)
    return None


def _only(wanted: int) -> Callable[[int], int | None]:
    return lambda i: i if i == wanted else None


def _is_one(node: Node) -> bool:
    return node.op == "const" and node.attrs["value"] == 1


def _candidate(read: _Reader, i: int, h: int) -> tuple[Gate, Gate] | None:
    total = read.is_(i, "add")
    if total is None:
        return None
    for outside, reset in (total.inputs, total.inputs[::-1]):
        product = read.product(reset, read.gate_of("sigmoid"))
        x_terms = read.terms(outside)
        if product is None or x_terms is None:
            continue
        r, inner = product
        h_terms = read.terms(inner)
        x_maps = [t for t in x_terms if t[0] == "map"]
        h_maps = [t for t in h_terms or () if t[0] == "map"]
        if len(x_maps) == 1 and len(h_maps) == 1 and h_maps[0][1] == h and h_terms is not None:
            gate = Gate(
                x_maps[0][2],
                h_maps[0][2],
                x_maps[0][1],
                [t[2] for t in x_terms if t[0] == "bias"],
                [t[2] for t in h_terms if t[0] == "bias"],
            )
            return r, gate  # type: ignore[return-value]
    return None


def _has_supported_form(ir: IR, match: Match) -> bool:
    """Whether all gates read one x, and axes and sizes are those of torch's layers."""
    loop, delays = match.loop, [ir[d] for d in match.states]
    x = ir[match.gates[0].x]
    if any(g.x != x.id for g in match.gates) or len(x.shape) != 1:
        return False
    axes = frozenset({loop.axis, BATCH})
    plain = all(d.axes == axes and abs(d.attrs["steps"]) == 1 for d in delays)
    hidden = delays[0].shape
    sized = all(g.to_h[1][1] - g.to_h[1][0] == hidden[0] for g in match.gates)
    return plain and sized and x.axes == axes and all(d.shape == hidden for d in delays)


def _lasts(ir: IR, match: Match, users: dict[int, list[int]]) -> dict[int, int]:
    """The nodes that read only the last value of a state's sequence, and the state."""
    if match.ragged:
        return {}  # for an example without positions they read zeros
    end = {"axis": match.loop.axis, "position": 0 if match.loop.reverse else -1}
    after = {ir.closings[d]: d for d in match.states if ir.closings[d] not in match.outputs}
    return {
        u: d
        for i, d in after.items()
        for u in users[i]
        if ir[u].op == "axis_at" and end.items() <= ir[u].attrs.items()
    }


def _withheld(ir: IR, match: Match, users: dict[int, list[int]]) -> str:
    """The name of the first value that is read outside and is not an output, or ""."""
    inside, named = (
        set(match.loop.nodes),
        {_without_mask(ir, d)[0]: ir[d].label for d in match.states},
    )
    for i in match.loop.nodes:
        outer = {u for u in users[i] if u not in inside and ir[u].op != "final"} - {*match.lasts}
        if i not in match.outputs and (outer or i in ir.outputs.values()):
            return named.get(i, ir[i].label)
    return ""


def _with_finals(ir: IR, matches: list[Match]) -> IR:
    """The graph with `lasts` as final states of the layers."""
    import networkx as nx  # imported late: importing it needs 0.2 s

    lasts = {u: (m, d) for m in matches for u, d in m.lasts.items()}
    if not lasts:
        return ir
    new, net = ir.copy(), nx.DiGraph()
    for u, (match, delay) in lasts.items():
        axes = {"axis": match.loop.axis, "state_axes": ir[delay].axes}
        attrs = {"delay": delay, "ragged": 0, **axes}
        new.nodes[u] = replace(ir[u], op="final", inputs=(min(match.outputs),), attrs=attrs)
    net.add_nodes_from(new.nodes)
    net.add_edges_from((i, n.id) for n in new for i in n.inputs)
    place = {i: k for k, i in enumerate(new.nodes)}
    order = nx.lexicographical_topological_sort(net, key=place.__getitem__)
    new.nodes = {i: new.nodes[i] for i in order}
    return new


def replace_loops(ir: IR, matches: list[Match]) -> IR:
    """Replace each match by one `aten` node; `pick` nodes select its results."""
    if not matches:
        return ir
    ir = tidy(_with_finals(ir, matches))
    by_output = {i: m for m in matches for i in m.outputs}
    by_state = {d: (m, k) for m in matches for k, d in enumerate(m.states)}
    made: dict[int, Expr] = {}
    moved: dict[int, int] = {}

    def rule(new: IR, node: Node) -> Expr | None:
        if node.id in by_output:
            match = by_output[node.id]
            made[match.states[0]] = _aten(new, match, ir, moved)
            return _pick(new, made[match.states[0]], 0, ir[node.id], node.axes)
        if node.op == "final" and node.attrs["delay"] in by_state:
            match, k = by_state[node.attrs["delay"]]
            return _pick(new, made[match.states[0]], 1 + k, node, frozenset({BATCH}))
        return None

    new = rewrite(ir, rule, moved)
    return keep(new, reachable(new, [*new.outputs.values(), *_roots(new)]))


def _roots(ir: IR) -> list[int]:
    return [n.id for n in ir if n.op in ("random", "input", "given")]


def _pick(new: IR, source: Expr, which: int, like: Node, axes: frozenset[str]) -> Expr:
    node = build(
        new,
        "pick",
        (source.id,),
        {"which": which, "without": new[source.id].attrs["axis"] if which else None},
        shape=like.shape,
        dtype=like.dtype,
        axes=axes,
        name=like.name,
        site=like.site,
    )
    return Expr(new, node)


def _rows(new: IR, moved: dict[int, int], pieces: list[Piece]) -> Expr:
    """The chosen rows of weights, concatenated."""
    parts = []
    for i, (start, stop) in pieces:
        whole = Expr(new, moved[i])
        cut = (start, stop) == (0, whole.shape[0])
        parts.append(whole if cut else make("slice", whole, dim=0, start=start, stop=stop, step=1))
    return parts[0] if len(parts) == 1 else make("cat", *parts, dim=0)


def _bias(new: IR, moved: dict[int, int], pieces: list[list[Piece]], size: int) -> Expr:
    """The sum of each gate's biases, the gates concatenated."""
    counts = {len(terms) for terms in pieces}
    if len(counts) == 1 and counts != {
        0
    }:  # add whole vectors if possible: their slices are contiguous again
        columns = [_rows(new, moved, list(column)) for column in zip(*pieces, strict=True)]
        total = columns[0]
        for column in columns[1:]:
            total = total + column
        return total
    parts = []
    for terms in pieces:
        rows = [_rows(new, moved, [t]) for t in terms]
        total = rows[0] if rows else _zeros(new, size)
        for term in rows[1:]:
            total = total + term
        parts.append(total)
    return parts[0] if len(parts) == 1 else make("cat", *parts, dim=0)


def _zeros(new: IR, size: int) -> Expr:
    """A bias of zeros, in the graph's floating dtype."""
    form = {"shape": (size,), "dtype": new.floating, "axes": frozenset[str]()}
    return Expr(new, build(new, "expand", (const(new, 0.0).id,), {"shape": (size,)}, **form))  # type: ignore[arg-type]


def _aten(new: IR, match: Match, ir: IR, moved: dict[int, int]) -> Expr:
    delays = [ir[d] for d in match.states]
    size = delays[0].shape[0]
    operands = [Expr(new, moved[match.gates[0].x])]
    operands += [Expr(new, moved[d.inputs[0]]) for d in delays]
    operands.append(_rows(new, moved, [g.to_x for g in match.gates]))
    operands.append(_rows(new, moved, [g.to_h for g in match.gates]))
    operands.append(_bias(new, moved, [g.biases for g in match.gates], size))
    operands.append(_bias(new, moved, [g.recurrent_biases for g in match.gates], size))
    if match.ragged:
        masked = ir[ir.closings[match.states[0]]]
        operands.append(Expr(new, moved[ir[masked.inputs[0]].inputs[1]]))
    axis = match.loop.axis
    node = build(
        new,
        "aten",
        [x.id for x in operands],
        {
            "kind": match.kind,
            "axis": axis,
            "reverse": match.loop.reverse,
            "ragged": match.ragged,
            "states": tuple(d.name for d in delays),
            "stated": any(d.attrs.get("stated") for d in delays),
        },
        shape=(size,),
        dtype=delays[0].dtype,
        axes=frozenset({axis, BATCH}),
        name="_".join(d.name for d in delays),
        site=delays[0].site,
    )
    return Expr(new, node)
