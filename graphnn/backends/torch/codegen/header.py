"""The comments before a generated function: the network, and the values it reads and returns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from graphnn.ir.graph import IR, Node


def described(heading: str, ir: IR, nodes: Iterable[tuple[Node, str]]) -> list[str]:
    """A heading, and each value as in `x (time, batch, 16)` or `length (batch) int64`.

    A value has its given name, or, if that is empty, its node's.
    """
    found = [_described(ir, node, name or node.name or _op(node)) for node, name in nodes]
    return [f"{heading}:", *(found or ["nothing"])]


def reads_and_returns(
    ir: IR, reads: Iterable[int], results: Sequence[tuple[int, Node]]
) -> list[list[str]]:
    """The comments on a function's arguments and results."""
    known = [(ir[i], "") for i in reads if i in ir.nodes]
    made = [(like, ir[i].name or _op(ir[i])) for i, like in results]
    return [described("reads", ir, known), described("returns", ir, made)]


def _op(node: Node) -> str:
    return str(node.attrs.get("was", node.op))


def _described(ir: IR, node: Node, name: str) -> str:
    sizes = ", ".join([*ir.layout(node.axes), *map(str, node.shape)])
    dtype = "" if node.dtype == ir.floating else f" {str(node.dtype).removeprefix('torch.')}"
    return f"{name} ({sizes}){dtype}"
