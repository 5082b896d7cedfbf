"""stacked: loops that feed each other position by position, as stacked layers do, as one loop.

A step of it is a step of each, the lower first, with what lies between. Nothing has to wait for
the step after: where blocks share a loop, a step of the lower and what the upper made of the step
before are published together, so that all layers meet at one barrier a step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from graphnn.ir.graph import IR, Node
from graphnn.ops.registry import OPS
from graphnn.planner.core.regions import Loop, Whole
from graphnn.planner.loops.side_by_side import Part, reads, rows

# operations that a step can have between two loops
WITHIN = frozenset({"pointwise", "view", "join", "product", "reduce"})
# loops that are tried as one at most: what is weighed grows with the square of their number
MOST = 8
# whether loops are better as the one that the last argument is
Weigh = Callable[[IR, Sequence[Loop], Loop], bool]


@dataclass(frozen=True)
class Stack:
    """Loops as one, what has to be computed before it, and the regions that come after."""

    loops: list[Loop]
    one: Loop
    before: list[int]
    rest: list[Part]


def stacked(ir: IR, parts: Sequence[Part], weigh: Weigh) -> list[Part]:
    """The regions with loops joined where that is possible and `weigh` says that it pays."""
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
    """A loop with one above it, with two, and so on."""
    found: list[Stack] = []
    stack: Stack | None = Stack([loop], loop, [], rest)
    while stack is not None and len(stack.loops) < MOST:
        stack = _above(ir, stack)
        found += [stack] if stack else []
    return found


def _above(ir: IR, stack: Stack) -> Stack | None:
    """The stack with the next loop on it, if that needs no more of it than each position's own."""
    after, waiting, before = set(stack.one.nodes), list[int](), list(stack.before)
    for k, part in enumerate(stack.rest):
        if isinstance(part, Whole):
            for i in part.nodes:
                if after & reads(ir, i):
                    after.add(i)
                    waiting.append(i)
                else:
                    before.append(i)
            continue
        upper = part[0]
        if len(part) > 1 or not _alike(ir, stack.one, upper):
            return None
        between = _between(ir, upper, waiting)
        if not _position_by_position(ir, upper, between, after):
            return None
        late = [i for i in waiting if i not in between]
        rest = [*([Whole(late)] if late else []), *stack.rest[k + 1 :]]
        return Stack([*stack.loops, upper], _one(stack.one, between, upper), before, rest)
    return None


def _alike(ir: IR, lower: Loop, upper: Loop) -> bool:
    """Whether two loops go the same way over the same positions of the same rows."""
    same = (lower.axis, lower.reverse) == (upper.axis, upper.reverse)
    plain = all(
        x.stop is None and all(isinstance(r, Whole) for r in x.body) for x in (lower, upper)
    )
    return same and plain and rows(ir, lower) == rows(ir, upper)


def _between(ir: IR, upper: Loop, waiting: list[int]) -> list[int]:
    """Those nodes that the upper loop needs, in order."""
    needed = {j for i in upper.nodes for j in reads(ir, i)}
    for i in reversed(waiting):
        if i in needed:
            needed |= reads(ir, i)
    return [i for i in waiting if i in needed]


def _position_by_position(ir: IR, upper: Loop, between: list[int], after: set[int]) -> bool:
    """Whether the upper loop hangs on the lower one, and only on what that has at each position."""
    starts = {j for d in upper.states for j in ir[d].inputs}
    hangs = any(after & reads(ir, i) for i in upper.nodes)
    return hangs and not starts & after and all(_within(ir[i], upper.axis) for i in between)


def _within(node: Node, axis: str) -> bool:
    summed = node.attrs.get("contract", frozenset())
    return OPS[node.op].family in WITHIN and axis in node.axes and axis not in summed


def _one(lower: Loop, between: list[int], upper: Loop) -> Loop:
    nodes = [*lower.nodes, *between, *upper.nodes]
    states = [*lower.states, *upper.states]
    return Loop(lower.axis, lower.reverse, nodes, states, [Whole(nodes)])
