"""Initial states of a call as inputs; final states, sequences and probes of states as outputs."""

from __future__ import annotations

from graphnn.ir.graph import BATCH, IR, Node
from graphnn.ops.builder import Expr, make
from graphnn.ops.registry import build
from graphnn.ops.sources import length_of
from graphnn.planner.core.rewrite import remake, rewrite

FINAL = "@final state of "


def resume(ir: IR, given: frozenset[str]) -> IR:
    """Let the delays named in `given` start from an input instead of their initial value.

    `"@time"` is the position along `time` at which the call begins.
    """

    def rule(new: IR, node: Node) -> Expr | None:
        if node.op == "index" and f"@{node.attrs['axis']}" in given:
            key = f"@{node.attrs['axis']}"
            start = _input(new, node, key, (), frozenset())
            return make("add", Expr(new, new.insert(node)), start)
        if node.op != "delay" or node.attrs["key"] not in given:
            return None
        steps = abs(node.attrs["steps"])
        shape = node.shape if steps == 1 else (steps, *node.shape)
        whole = _input(new, node, node.attrs["key"], shape, node.axes - {node.attrs["axis"]})
        inputs = (whole.id,) if steps == 1 else tuple(_slot(whole, k).id for k in range(steps))
        return Expr(new, new.insert(remake(new, node, inputs)))

    return rewrite(ir, rule) if given else ir


def _input(new: IR, node: Node, key: str, shape: tuple[int, ...], axes: frozenset[str]) -> Expr:
    over = tuple(a for a in new.layout(axes) if a != BATCH)
    made = build(
        new,
        "input",
        (),
        {"key": f"state {key}", "over": over, "batched": bool(axes)},
        shape=shape,
        dtype=node.dtype,
        axes=axes,
        name=f"{node.name or key.strip('@')}_start",
    )
    return Expr(new, made)


def _slot(whole: Expr, k: int) -> Expr:
    cut = make("slice", whole, dim=0, start=k, stop=k + 1, step=1)
    return make("reshape", cut, shape=whole.shape[1:])


def add_finals(ir: IR, wanted: list[int], ragged: frozenset[str]) -> IR:
    """Add an output for the final value of each delay in `wanted`."""
    new = ir.copy()
    for i in wanted:
        node = new[i]
        axis, steps = node.attrs["axis"], node.attrs["steps"]
        inputs = [new.closings[i], *node.inputs]
        if uneven := axis in ragged:
            inputs.append(length_of(new, axis).id)
        slots = () if abs(steps) == 1 else (abs(steps),)
        made = build(
            new,
            "final",
            inputs,
            {
                "axis": axis,
                "steps": steps,
                "delay": i,
                "ragged": int(uneven),
                "state_axes": node.axes,
                "state_shape": node.shape,
            },
            shape=(*slots, *node.shape),
            dtype=node.dtype,
            axes=node.axes - {axis},
            name=f"{node.name}_final",
        )
        new.outputs[FINAL + node.attrs["key"]] = made
    return new


RECORD = "@sequence of "


def record(ir: IR, names: frozenset[str]) -> IR:
    """Add an output for the whole sequence of each named state."""
    new = ir.copy()
    for node in ir:
        if node.op == "delay" and node.attrs["key"] in names:
            new.outputs[RECORD + node.attrs["key"]] = new.closings[node.id]
    return new


def probe(ir: IR, names: frozenset[str]) -> IR:
    """Add to each named state an input that is zero: its gradient is that of the state."""
    delays = [n for n in ir if n.op == "delay" and n.attrs["key"] in names]
    sources = {ir.closings[d.id]: d for d in reversed(delays)}

    def rule(new: IR, node: Node) -> Expr | None:
        delay = sources.get(node.id)
        if delay is None:
            return None
        value = Expr(new, new.insert(node))
        # the sum's node comes after `node` under a new id, so every reader reads the sum
        return value + _input(new, delay, f"probe {delay.attrs['key']}", delay.shape, delay.axes)

    return rewrite(ir, rule)
