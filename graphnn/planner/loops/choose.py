"""choose: how each loop is run, and why.

`aten` is torch's own layer, `scan` a scan over the axis, `stepwise` one call an operation and step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from graphnn.ir.graph import IR, Node
from graphnn.planner.core.regions import Loop, loops, partition
from graphnn.planner.loops.scan import scan, scannable
from graphnn.planner.loops.torch_layers import Match, find, replace_loops


@dataclass(frozen=True)
class Target:
    """What a plan is made for. `traced` is true under torch.compile, which cannot see into ATen's
    recurrent layers."""

    device: str = "cpu"
    traced: bool = False


@dataclass
class Decision:
    """The regime of one loop and the reason for it."""

    loop: str
    axis: str
    regime: str
    reason: str
    fallbacks: list[str]


# Which of torch's layers are run rather than our own loop. CPU (Xeon, 2 cores), float32, forward
# and backward at (T, B, H) = (100, 32, 128): LSTM (oneDNN) 10.6 ms against 19.5 of ours; GRU 19.9
# against 15.5, RNN 7.6 against 6.2, so these two stay ours; at (64, 16, 512) LSTM 44 against 60,
# GRU 63 against 46, RNN 18 against 13. On CUDA all are cuDNN's: not measured by us.
PREFERRED = {
    ("cpu", torch.float32): {"lstm"},
    ("cuda", torch.float32): {"lstm", "gru", "rnn_tanh", "rnn_relu"},
    ("cuda", torch.float16): {"lstm", "gru", "rnn_tanh", "rnn_relu"},
    ("cuda", torch.bfloat16): {"lstm", "gru", "rnn_tanh", "rnn_relu"},
}
# Packed sequences torch runs without oneDNN on a CPU: forward and backward, all positions of a
# padded LSTM take as long where the packed are a share of 0.07 (T, B, H = 100, 8, 64), 0.11 (99,
# 32, 96), 0.22 (64, 16, 512), 0.33 (50, 64, 256) of them. What is beyond stays bounded, unlike
# relu's.
PADDED, SHARE = frozenset({"lstm", "gru", "rnn_tanh"}), 0.2
LAYER = {"lstm": "LSTM", "gru": "GRU", "rnn_tanh": "RNN (tanh)", "rnn_relu": "RNN (relu)"}


def use_torch_layers(ir: IR, target: Target) -> tuple[IR, list[Decision], dict[int, Match]]:
    """Replace the loops that one of torch's layers runs faster.

    Returns the graph, a decision for each loop replaced, and by their first states all loops that
    are one of torch's layers, faster or not.
    """
    matches = find(ir)
    preferred = PREFERRED.get((target.device, ir.floating), set())
    possible = [m for m in matches if not m.withheld and not target.traced]
    faster = [m for m in possible if m.kind in preferred]
    decisions = [_torch_layer(ir, m, target) for m in faster]
    return replace_loops(ir, faster), decisions, {m.loop.states[0]: m for m in matches}


def use_scans(ir: IR) -> tuple[IR, list[Decision]]:
    """Replace the loops that are a scan. Returns the graph, and a decision for each."""
    decisions = [_scan(ir, loop) for loop in loops(partition(ir)) if scannable(ir, loop)]
    return scan(ir), decisions


def keep_loops(ir: IR, target: Target, matches: Mapping[int, Match]) -> list[Decision]:
    """A decision for each loop that stays one: why it is none of torch's layers, if it could be."""
    found = loops(partition(ir))
    return [_stepwise(ir, loop, matches.get(loop.states[0]), target) for loop in found]


def loop_name(ir: IR, loop: Loop) -> str:
    """A loop is called by its states."""
    return ", ".join(dict.fromkeys(ir[i].label for i in loop.states))


def _torch_layer(ir: IR, match: Match, target: Target) -> Decision:
    reason = f"exactly torch's {LAYER[match.kind]}, "
    there = f"faster there on {target.device}"
    reason += "which cuDNN has" if target.device == "cuda" else there
    if match.ragged and target.device == "cpu":
        reason += ", " + _ragged(ir, match)
    return Decision(loop_name(ir, match.loop), match.loop.axis, "aten", reason, [])


def _ragged(ir: IR, match: Match) -> str:
    """How a ragged batch is run."""
    kept = {n.attrs["delay"] for n in ir if n.op == "final"}
    if match.kind not in PADDED or kept & {*match.states[1:]}:
        return "on packed sequences, which alone give the final states"
    return (
        f"where {SHARE:.0%} of the positions or more are there on all of them, what is beyond "
        "cut off, else on packed sequences"
    )


def _scan(ir: IR, loop: Loop) -> Decision:
    reason = "the state enters only as a(t) * z + b(t)"
    return Decision(loop_name(ir, loop), loop.axis, "scan", reason, [])


def _stepwise(ir: IR, loop: Loop, match: Match | None, target: Target) -> Decision:
    reason = "one call an operation and step, into buffers made beforehand"
    if match is not None:
        reason += f"; torch's {LAYER[match.kind]} computes the same"
        reason += f", but {_why_not(ir, match, target)}"
    return Decision(
        loop_name(ir, loop), loop.axis, "stepwise", reason, fallbacks([ir[i] for i in loop.nodes])
    )


def _why_not(ir: IR, match: Match, target: Target) -> str:
    """Why a loop is not given to the layer of torch's that it is."""
    if match.withheld:
        return f"does not give out all of {match.withheld}"
    if target.traced:
        return "torch.compile cannot see into it"
    measured = (target.device, ir.floating) in PREFERRED
    return f"slower on {target.device}" if measured else f"not measured in {ir.floating}"


def fallbacks(nodes: list[Node]) -> list[str]:
    """What could not be lowered: functions without a row, with the user's line and the remedy."""
    return [
        f"'{n.attrs['called']}' at {n.site or '?'} has no row in the operations table: torch runs "
        "it one step at a time; write it with the functions of the table to have it fused"
        for n in nodes
        if n.op == "opaque"
    ]
