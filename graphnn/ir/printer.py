"""A graph as text in SSA form: one line per node, so that a graph can be read and compared.

    graph elman (f32), axes batch, time
      %0: f32[4] {time, batch} = input x          # net.py:7
      %1: f32[] {} = const 0.0
      %2: f32[4] {time, batch} = delay %1 next=%4 axis=time steps=1   # h net.py:8
      %3: f32[4] {time, batch} = add %0, %2       # net.py:9
      %4: f32[4] {time, batch} = tanh %3          # net.py:9
      y = %4

A line has the node's number, dtype, shape of one example at one position, the axes it varies over
in memory order, operation, operands and attributes; after `#` the user's name, file and line.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from graphnn.ir.graph import IR, Node

SHORT = {
    torch.float64: "f64",
    torch.float32: "f32",
    torch.float16: "f16",
    torch.bfloat16: "bf16",
    torch.complex64: "c64",
    torch.complex128: "c128",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.int16: "i16",
    torch.int8: "i8",
    torch.uint8: "u8",
    torch.bool: "bool",
}
# attributes that repeat what a line says already, or that only graphnn can read
HIDDEN = frozenset(
    "key part shape axes stated arrange batched state_axes state_shape switch".split()
    + "start stop step".split()
)
# operations whose values come from outside, under a name
NAMED = frozenset({"input", "parameter", "tensor", "given"})
# the column of comments; longer lines push it to the right
COLUMN = 72


def text(ir: IR) -> str:
    """The whole graph."""
    return "\n".join(_lines(ir))


def summary(ir: IR) -> str:
    """The graph in one line: its name and sizes."""
    states = sum(n.op == "delay" for n in ir)
    counts = f"{len(ir)} nodes, {states} states, outputs {', '.join(ir.outputs) or 'none'}"
    return f"<IR {ir.name}: {counts}>"


def node_text(ir: IR, node: Node) -> str:
    """The line of one node."""
    value = f"%{node.id}: {dtype_text(node.dtype)}{_shape(node)} {_axes(ir, node)}"
    operands = ", ".join(f"%{i}" for i in node.inputs)
    line = f"{value} = {' '.join(filter(None, [node.op, operands, *_attributes(ir, node)]))}"
    name = "" if node.op in NAMED else node.name
    comment = " ".join(filter(None, [name, str(node.site or "")]))
    return f"{line:<{COLUMN}}  # {comment}" if comment else line


def dtype_text(dtype: torch.dtype) -> str:
    """A dtype in short: f32, bf16, i64."""
    return SHORT.get(dtype, str(dtype).removeprefix("torch."))


def diff(before: IR, after: IR) -> str:
    """The lines that a pass removed (-) and added (+), in the order of the graphs; "" if none."""
    lines = difflib.unified_diff(text(before).split("\n"), text(after).split("\n"), n=0)
    return "\n".join(x for x in lines if not x.startswith(("---", "+++", "@@")))


def _lines(ir: IR) -> Iterator[str]:
    axes = ", ".join(_axis(ir, name) for name in ir.axes)
    yield f"graph {ir.name} ({dtype_text(ir.floating)}), axes {axes}"
    for node in ir:
        yield f"  {node_text(ir, node)}"
        inner = getattr(node.attrs.get("part"), "ir", None)
        if inner is not None:  # an attention: a graph of its own
            yield from (f"    | {line}" for line in _lines(inner))
    yield from (f"  stop {axis} when %{i}" for axis, i in ir.until.items())
    yield from (f"  {name} = %{i}" for name, i in ir.outputs.items())


def _axis(ir: IR, name: str) -> str:
    axis = ir.axes[name]
    copied = f" (copy of {axis.copy_of})" if axis.copy_of else ""
    return name + copied + ("" if axis.length is None else f" ({axis.length})")


def _shape(node: Node) -> str:
    return f"[{', '.join(map(str, node.shape))}]"


def _axes(ir: IR, node: Node) -> str:
    return f"{{{', '.join(ir.layout(node.axes))}}}"


def _attributes(ir: IR, node: Node) -> list[str]:
    """What an operation does in addition to its name: `sub=k,nk->n`, `axis=time`."""
    attrs = node.attrs
    if node.op == "const":
        return [repr(attrs["value"])]
    if node.op in NAMED:
        return [_key(attrs.get("key"))]
    found = [f"next=%{ir.closings[node.id]}"] if node.id in ir.closings else []
    if "stop" in attrs and "dim" in attrs:
        step = attrs.get("step", 1)
        found.append(f"[{attrs['start']}:{attrs['stop']}{f':{step}' if step != 1 else ''}]")
    shown = {k: v for k, v in attrs.items() if k not in HIDDEN and not _is_empty(v)}
    return found + [f"{k}={_value(ir, v)}" for k, v in shown.items()]


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, (tuple, frozenset)) and not value)


def _key(key: Any) -> str:
    """What comes from outside: a name, or a value of the graph that a loop was cut out of."""
    if isinstance(key, tuple):
        return f"{key[0]}%{key[1]}"
    return f"%{key}" if isinstance(key, int) else str(key)


def _value(ir: IR, value: Any) -> str:
    if isinstance(value, frozenset):
        return f"{{{', '.join(map(str, ir.layout(value)))}}}" if value else "{}"
    if isinstance(value, torch.dtype):
        return dtype_text(value)
    if isinstance(value, (tuple, list)):
        return f"({', '.join(_value(ir, v) for v in value)})"
    if isinstance(value, (str, bool, int, float, torch.Size)):
        return str(value)
    return getattr(value, "__name__", type(value).__name__)
