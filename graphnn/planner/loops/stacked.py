"""Layer pipelining: loops that feed each other position by position, as one loop.

One step of the joint loop is one step of each loop, the lower first, with the work between them.
If blocks share the loop, they exchange a step of the lower loop together with the upper loop's
previous step, so that all layers need only one barrier per step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from graphnn.ir.graph import IR, Node
from graphnn.ops.registry import OPS
from graphnn.planner.core.regions import Loop, Whole
from graphnn.planner.loops.side_by_side import Part, operands_of, row_axes

# families of operations that a step may contain between two loops
WITHIN = frozenset({"pointwise", "view", "join", "einsum", "reduce"})
# the most loops that are tried as one: the cost of trying grows with the square of their number
MOST = 8
# whether loops run faster as the one loop that is the last argument
Weigh = Callable[[IR, Sequence[Loop], Loop], bool]


@dataclass(frozen=True)
class Stack:
    """Loops as `one`, the nodes that have to be computed `before` it, and the regions after it."""

    loops: list[Loop]
    one: Loop
    before: list[int]
    rest: list[Part]


def stack_loops(ir: IR, parts: Sequence[Part], weigh: Weigh) -> list[Part]:
    """The parts with loops joined if that is possible and, by `weigh`, faster."""
    left, done = list(parts), list[Part]()
    while left:
        part = left.pop(0)
        found = [] if isinstance(part, Whole) or len(part) > 1 else _stacks(ir, part[0], left)
        chosen = next((s for s in reversed(found) if weigh(ir, s.loops, s.one)), None)
        if chosen is None:
            done.append(part)
        else:
            done += [Whole(chosen.before)] if chosen.before else []
            done.append([chosen.one])
            left = chosen.rest
    return done


def _stacks(ir: IR, loop: Loop, rest: list[Part]) -> list[Stack]:
    """The stacks that begin with a loop: of two loops, of three, and so on."""
    found: list[Stack] = []
    stack: Stack | None = Stack([loop], loop, [], rest)
    while stack is not None and len(stack.loops) < MOST:
        stack = _above(ir, stack)
        found += [stack] if stack else []
    return found


def _above(ir: IR, stack: Stack) -> Stack | None:
    """The stack with the next loop on top, if that reads only values of its own position."""
    after, waiting, before = set(stack.one.nodes), list[int](), list(stack.before)
    for k, part in enumerate(stack.rest):
        if isinstance(part, Whole):
            for i in part.nodes:
                if after & operands_of(ir, i):
                    after.add(i)
                    waiting.append(i)
                else:
                    before.append(i)
            continue
        upper = part[0]
        if len(part) > 1 or not _same_positions(ir, stack.one, upper):
            return None
        between = _between(ir, upper, waiting)
        if not _position_by_position(ir, upper, between, after):
            return None
        late = [i for i in waiting if i not in between]
        rest = [*([Whole(late)] if late else []), *stack.rest[k + 1 :]]
        return Stack([*stack.loops, upper], _one(stack.one, between, upper), before, rest)
    return None


def _same_positions(ir: IR, lower: Loop, upper: Loop) -> bool:
    """Whether two loops have one direction, the same positions and the same rows."""
    same = (lower.axis, lower.reverse) == (upper.axis, upper.reverse)
    plain = all(
        x.stop is None and all(isinstance(r, Whole) for r in x.body) for x in (lower, upper)
    )
    return same and plain and row_axes(ir, lower) == row_axes(ir, upper)


def _between(ir: IR, upper: Loop, waiting: list[int]) -> list[int]:
    """The nodes that the upper loop depends on, in order."""
    needed = {j for i in upper.nodes for j in operands_of(ir, i)}
    for i in reversed(waiting):
        if i in needed:
            needed |= operands_of(ir, i)
    return [i for i in waiting if i in needed]


def _position_by_position(ir: IR, upper: Loop, between: list[int], after: set[int]) -> bool:
    """Whether the upper loop depends on the lower one, each position only on itself."""
    starts = {j for d in upper.states for j in ir[d].inputs}
    depends = any(after & operands_of(ir, i) for i in upper.nodes)
    return depends and not starts & after and all(_within(ir[i], upper.axis) for i in between)


def _within(node: Node, axis: str) -> bool:
    summed = node.attrs.get("contract", frozenset())
    return OPS[node.op].family in WITHIN and axis in node.axes and axis not in summed


def _one(lower: Loop, between: list[int], upper: Loop) -> Loop:
    nodes = [*lower.nodes, *between, *upper.nodes]
    states = [*lower.states, *upper.states]
    return Loop(lower.axis, lower.reverse, nodes, states, [Whole(nodes)])
