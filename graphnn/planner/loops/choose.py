"""The strategy of each loop, and the reason for it.

`aten` is torch's own layer, `scan` a parallel scan over the axis, `stepwise` one torch call per
operation and time step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from graphnn.backends.torch_compile import constant
from graphnn.ir.graph import IR, Node
from graphnn.ir.source_location import Site
from graphnn.kernels.feasibility.targets import device_limits
from graphnn.planner.core.regions import Loop, loops, partition
from graphnn.planner.loops.scan import scan, scannable
from graphnn.planner.loops.torch_layers import Match, find, replace_loops


@dataclass(frozen=True)
class Target:
    """The device of a plan.

    `traced` is true under torch.compile, which cannot trace ATen's recurrent layers. `gpu` is the
    compute capability of a CUDA device ("sm_89"), empty if none is at hand. `autocast` is the dtype
    in which calls compute what the graph has in float32 ("bfloat16"), empty outside autocast.
    """

    device: str = "cpu"
    traced: bool = False
    gpu: str = ""
    autocast: str = ""

    @classmethod
    def of(cls, device: torch.device, traced: bool = False) -> Target:
        """The target of plans for tensors on a device, under the autocast that is on now."""
        gpu = gpu_of(device.index) if device.type == "cuda" else ""
        return cls(device.type, traced, gpu, autocast_of(device.type))


def autocast_of(kind: str) -> str:
    """The dtype of autocast on a type of device, empty if autocast is off there."""
    if kind not in ("cpu", "cuda") or not torch.is_autocast_enabled(kind):
        return ""
    return str(torch.get_autocast_dtype(kind)).removeprefix("torch.")


@constant
def gpu_of(index: int | None) -> str:
    """The compute capability of a CUDA device, as kernels are planned for it."""
    return device_limits(index).target if torch.cuda.is_available() else ""


@dataclass(frozen=True)
class Fallback:
    """A call of torch without a row in the operations table, and the user's line."""

    called: str
    site: Site | None


@dataclass
class Decision:
    """The strategy of one loop, the reason for it, and what falls back to torch.

    `layer` is the name of the layer of torch that runs the loop, if one does.
    """

    loop: str
    axis: str
    strategy: str
    reason: str
    fallbacks: list[Fallback]
    layer: str = ""


# The layers of torch that run instead of a generated loop. CPU (Xeon, 2 cores), float32, forward
# and backward at (T, B, H) = (100, 32, 128): LSTM (oneDNN) 10.6 ms, ours 19.5; GRU 19.9, ours 15.5;
# RNN 7.6, ours 6.2: the last two stay ours. At (64, 16, 512): LSTM 44, ours 60; GRU 63, ours 46;
# RNN 18, ours 13. On CUDA all layers are cuDNN's; this was not measured by us.
PREFERRED = {
    ("cpu", torch.float32): {"lstm"},
    ("cuda", torch.float32): {"lstm", "gru", "rnn_tanh", "rnn_relu"},
    ("cuda", torch.float16): {"lstm", "gru", "rnn_tanh", "rnn_relu"},
    ("cuda", torch.bfloat16): {"lstm", "gru", "rnn_tanh", "rnn_relu"},
}
# On a CPU torch runs packed sequences without oneDNN. Padded and packed LSTMs take equally long,
# forward and backward, if this share of the positions is no padding: 0.07 at (T, B, H) =
# (100, 8, 64), 0.11 at (99, 32, 96), 0.22 at (64, 16, 512), 0.33 at (50, 64, 256). Only layers
# whose values stay bounded may run on the padding, so ReLU layers may not.
PADDED, SHARE = frozenset({"lstm", "gru", "rnn_tanh"}), 0.2
LAYER = {"lstm": "LSTM", "gru": "GRU", "rnn_tanh": "RNN (tanh)", "rnn_relu": "RNN (relu)"}


def use_torch_layers(ir: IR, target: Target) -> tuple[IR, list[Decision], dict[int, Match]]:
    """Replace loops by an equivalent layer of torch if that is faster.

    Returns the graph, a decision for each replaced loop, and all loops with an equivalent layer,
    keyed by their first state.
    """
    matches = find(ir)
    preferred = PREFERRED.get((target.device, ir.floating), set())
    possible = [m for m in matches if not m.withheld and not target.traced]
    faster = [m for m in possible if m.kind in preferred]
    decisions = [_torch_layer(ir, m, target) for m in faster]
    return replace_loops(ir, faster), decisions, {m.loop.states[0]: m for m in matches}


def use_scans(ir: IR) -> tuple[IR, list[Decision]]:
    """Replace loops by scans if possible. Returns the graph and a decision for each such loop."""
    decisions = [_scan(ir, loop) for loop in loops(partition(ir)) if scannable(ir, loop)]
    return scan(ir), decisions


def keep_loops(ir: IR, target: Target, matches: Mapping[int, Match]) -> list[Decision]:
    """Decide on the remaining loops, and say why an equivalent layer of torch does not run one."""
    found = loops(partition(ir))
    return [_stepwise(ir, loop, matches.get(loop.states[0]), target) for loop in found]


def loop_name(ir: IR, loop: Loop) -> str:
    """The name of a loop: those of its states."""
    return ", ".join(dict.fromkeys(ir[i].label for i in loop.states))


def _torch_layer(ir: IR, match: Match, target: Target) -> Decision:
    layer = f"torch.nn.{LAYER[match.kind].replace(' ', '')} computes exactly this"
    on_cpu = f"{layer}, faster on {target.device.upper()}"
    reason = f"{layer}, with cuDNN" if target.device == "cuda" else on_cpu
    if match.ragged and target.device == "cpu":
        reason += ", " + _ragged(ir, match)
    return Decision(
        loop_name(ir, match.loop), match.loop.axis, "aten", reason, [], LAYER[match.kind]
    )


def _ragged(ir: IR, match: Match) -> str:
    """How torch's layer runs a ragged batch."""
    kept = {n.attrs["delay"] for n in ir if n.op == "final"}
    if match.kind not in PADDED or kept & {*match.states[1:]}:
        return "on packed sequences: only these return the final states"
    return (
        f"on all positions with the padding masked if at least {SHARE:.0%} of them are no padding, "
        "otherwise on packed sequences"
    )


def _scan(ir: IR, loop: Loop) -> Decision:
    reason = "the state enters only as a(t) * z + b(t)"
    return Decision(loop_name(ir, loop), loop.axis, "scan", reason, [])


def _stepwise(ir: IR, loop: Loop, match: Match | None, target: Target) -> Decision:
    reason = "one torch call per operation and time step, into preallocated buffers"
    if match is not None:
        reason += f"; torch.nn.{LAYER[match.kind].replace(' ', '')} is equivalent"
        reason += f", but {_why_not(ir, match, target)}"
    return Decision(
        loop_name(ir, loop), loop.axis, "stepwise", reason, fallbacks([ir[i] for i in loop.nodes])
    )


def _why_not(ir: IR, match: Match, target: Target) -> str:
    """Why an equivalent layer of torch does not run a loop."""
    if match.withheld:
        return f"does not return all of {match.withheld}"
    if target.traced:
        return "torch.compile cannot trace it"
    measured = (target.device, ir.floating) in PREFERRED
    return f"slower on {target.device.upper()}" if measured else f"not measured in {ir.floating}"


def fallbacks(nodes: list[Node]) -> list[Fallback]:
    """The calls among nodes that have no row in the operations table."""
    return [Fallback(n.attrs["called"], n.site) for n in nodes if n.op == "opaque"]
