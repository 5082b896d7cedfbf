"""Checks that a graph is well formed, after each pass."""

from __future__ import annotations

from graphnn.errors import GraphnnError
from graphnn.ir.graph import IR


def verify(ir: IR, after: str) -> None:
    """Raises GraphnnError if a graph is not well formed: a defect of the pass named `after`."""
    seen: set[int] = set()
    for node in ir:
        missing = [i for i in node.inputs if i not in seen]
        if missing:
            raise GraphnnError(f"pass '{after}': {node.label} reads {missing} before they exist")
        if unknown := node.axes - set(ir.axes):
            raise GraphnnError(f"pass '{after}': {node.label} varies over unknown {unknown}")
        seen.add(node.id)
    _verify_closings(ir, seen, after)
    if lost := [name for name, i in ir.outputs.items() if i not in seen]:
        raise GraphnnError(f"pass '{after}': outputs {lost} name lost nodes")


def _verify_closings(ir: IR, seen: set[int], after: str) -> None:
    """Each delay and what closes it exist, and agree on shape and axes."""
    for delay, source in ir.closings.items():
        if delay not in seen or source not in seen:
            raise GraphnnError(f"pass '{after}': closing {delay} <- {source} names a lost node")
        if not ir[source].axes <= ir[delay].axes or ir[source].shape != ir[delay].shape:
            raise GraphnnError(f"pass '{after}': state {ir[delay].label} and its next disagree")
