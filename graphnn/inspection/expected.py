"""The cost model's expectation for the parts of a program, for given lengths of its axes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from graphnn.backends.torch.main_function import Piece
from graphnn.backends.torch.program import Program
from graphnn.ir.graph import Node
from graphnn.ops.builder import owner
from graphnn.planner.contexts import PartsContext
from graphnn.planner.core.cost import Device, Work
from graphnn.planner.core.regions import Loop, Whole, partition
from graphnn.planner.core.work import expected, through
from graphnn.planner.loops.choose import LAYER, loop_name
from graphnn.planner.pipeline import Stage, run

Sizes = Mapping[str, int]
UNNAMED = frozenset({"const", "size", "parameter", "tensor", "slice", "input", "view"})


@dataclass(frozen=True)
class Expected:
    """A part of a program: its name, execution strategy, least work, and expected seconds."""

    name: str
    strategy: str
    work: Work
    seconds: float


def forecast(program: Program, sizes: Sizes, device: Device) -> float:
    """The expected seconds of a forward call, by the cost model."""
    return device.call + sum(part.seconds for part in parts(program, sizes, device))


def parts(program: Program, sizes: Sizes, device: Device) -> list[Expected]:
    """The parts of a program in the order they run, each with its expected cost."""
    return [of_piece(program, piece, sizes, device) for piece in program.pieces[1:]]


def of_piece(program: Program, piece: Piece, sizes: Sizes, device: Device) -> Expected:
    """The expected cost of one part of a program."""
    if piece.cut is None:
        within = frozenset().union(*(p.cut.absorbed for p in program.pieces if p.cut))
        nodes = [i for i in piece.nodes if i not in within]
        work = through(program.ir, nodes, sizes)
        return Expected(
            whole_name(program, nodes),
            "whole axes",
            work,
            expected(device, program.ir, Whole(nodes), sizes),
        )
    cut = piece.cut
    # the outputs of a loop's own graph are the values that are read outside the loop
    work = through(cut.ir, [i for i in cut.ir.nodes if cut.ir[i].op != "given"], sizes)
    ir = run(Stage.FUNCTION, cut.ir, PartsContext())
    seconds = device.call
    strategy = strategy_of(piece.program)
    for region in partition(ir):
        inner = [n for n in region.nodes if ir[n].op not in ("given", "const", "size")]
        if isinstance(region, Loop):
            seconds += expected(device, ir, region, sizes, strategy)
        else:  # work before the loop that was moved into its steps
            seconds += expected(device, ir, Whole(inner), sizes)
    return Expected(f"loop {loop_name(program.ir, cut.loop)}", strategy, work, seconds)


def strategy_of(program: Any) -> str:
    """The execution strategy of a loop's forward."""
    chosen = program.choices() if program is not None else []
    return chosen[0].strategy if chosen else "stepwise"


def _word(node: Node) -> str:
    if node.op == "aten":
        return f"torch's {LAYER[node.attrs['kind']]}"
    return owner(node.name) or node.op


def whole_name(program: Program, nodes: list[int]) -> str:
    """A short name for operations over whole axes, made of the first three names among them."""
    ir = program.ir
    named = [ir[i] for i in nodes if ir[i].op not in UNNAMED]
    # the user named modules; other operations are called by their kind
    words = list(dict.fromkeys(map(_word, sorted(named, key=lambda n: not n.name))))
    return ", ".join(words[:3]) + (", …" if len(words) > 3 else "") or "nothing"
