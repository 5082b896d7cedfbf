"""Checks of a traced graph, and the removal of its wires (states without a delay)."""

from __future__ import annotations

from graphnn.errors import AxisError, CycleError, GraphError, UnclosedStateError, closest
from graphnn.ir.graph import BATCH, IR, Node
from graphnn.planner.core.regions import partition


def check_states(ir: IR) -> None:
    """Raises UnclosedStateError if a state has no next value, GraphError if there is no output."""
    for node in ir:
        if node.op == "delay" and node.id not in ir.closings:
            raise UnclosedStateError(
                f"state '{node.label}' is never closed",
                node=node.label,
                site=node.site,
                got="no `.next`",
                wanted="the value it takes at the next position",
                fix=f"assign {node.label}.next = value before the graph ends",
            )
    if not ir.outputs:
        raise GraphError(
            f"graph '{ir.name}' has no output",
            got="no g.output(...)",
            wanted="at least one output",
            fix="end the graph with g.output('y', value)",
        )


def check_axes(ir: IR) -> None:
    """Raises AxisError if the length of an axis is unknown, and the errors of `partition`."""
    _check_lengths(ir)
    partition(ir)


def _check_lengths(ir: IR) -> None:
    """Raises AxisError for an axis that no input varies over and that has no fixed length."""
    brought = {a for n in ir if n.op == "input" for a in n.attrs["over"]}
    for node in ir:
        for axis in ir.layout(node.axes - {BATCH}):
            info = ir.axes[axis]
            root = info.copy_of or axis
            if root not in brought and ir.axes[root].length is None:
                raise AxisError(
                    f"nothing says how long axis '{axis}' is",
                    node=node.label,
                    site=info.site or node.site,
                    got=f"'{node.label}' varies over '{axis}', no input does",
                    wanted="an input over it, or a fixed length",
                    fix=f"over='{meant}', if that is meant"
                    if (meant := closest(axis, brought))
                    else f"g.axis('{axis}', length), or g.input(…, over='{axis}')",
                )


def without_wires(ir: IR) -> IR:
    """Replace states of delay 0 by the values that close them. Raises CycleError."""
    import networkx as nx  # imported late: importing it needs 0.2 s

    wires = {n.id for n in ir if n.op == "delay" and n.attrs["steps"] == 0}
    target = {w: ir.closings[w] for w in wires}

    def follow(i: int) -> int:
        while i in target:
            i = target[i]
        return i

    net = nx.DiGraph()
    net.add_nodes_from(ir.nodes)
    for node in ir:
        net.add_edges_from((i, node.id) for i in node.inputs)
        if node.id in wires:
            net.add_edge(target[node.id], node.id)
    try:
        order = list(nx.lexicographical_topological_sort(net))
    except nx.NetworkXUnfeasible:
        _raise_cycle([ir[a] for a, _ in nx.find_cycle(net)])
    if not wires:
        return ir
    done = ir.empty()
    for i in order:
        if i in wires:
            continue
        node = ir[i]
        inputs = tuple(follow(j) for j in node.inputs)
        done.insert(
            Node(
                i,
                node.op,
                inputs,
                node.attrs,
                node.shape,
                node.axes,
                node.dtype,
                node.name,
                node.site,
            )
        )
    done.closings = {d: follow(s) for d, s in ir.closings.items() if d not in wires}
    done.outputs = {name: follow(i) for name, i in ir.outputs.items()}
    done.until = dict(ir.until)
    return done


def _raise_cycle(cycle: list[Node]) -> None:
    path = [n for n in cycle if n.op not in ("const", "parameter")]
    start = next(k for k, n in enumerate(path) if n.op == "delay" and not n.attrs["steps"])
    path = path[start:] + path[:start]
    steps = [f"{n.label} ({n.site})" if n.site else n.label for n in path]
    arrow = "\n           -> "
    first = path[0]
    raise CycleError(
        "a cycle without a delay: these values need each other at the same position",
        node=first.label,
        site=first.site,
        got=arrow.join([*steps, first.label]),
        wanted="at least one delay on every cycle",
        fix=f"put a delay on the edge {path[-1].label} -> {first.label}: "
        f"change delay=0 to delay=1 in g.state('{first.label}', …)",
    )
