"""Regions of a graph, in order: loops, and the nodes over whole axes between them.

A loop is a strongly connected component. Nodes that do not depend on its states come before it,
nodes that its states do not depend on after it; both belong to whole-axis regions.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from graphnn.errors import DirectionError, NonCausalError
from graphnn.ir.graph import BATCH, IR, Node

if TYPE_CHECKING:
    import networkx as nx


@dataclass
class Whole:
    """Nodes computed for all positions at once, in order."""

    nodes: list[int]


@dataclass
class Loop:
    """Nodes computed position by position along `axis`; `body` holds the regions of one step.

    `stop` is the state that ends the loop, if it stops by itself.
    """

    axis: str
    reverse: bool
    nodes: list[int]
    states: list[int]
    body: list[Any] = field(default_factory=list)
    stop: int | None = None


Region = Whole | Loop


def memoized(ir: IR, what: str, find: Callable[[], Any]) -> Any:
    """`find()`, memoized by name for as long as the graph has the same nodes.

    Consecutive passes need the same analyses. Callers must not change the result.
    """
    key = (*ir.nodes.values(), *ir.closings.items(), *ir.until.items(), *ir.axes)
    known = ir.known.get(what)
    if known is None or known[0] != key:
        known = ir.known[what] = key, find()
    return known[1]


def positions(ir: IR) -> dict[int, int]:
    """The index of each node in the graph's order, memoized: not to be changed."""
    found: dict[int, int] = memoized(ir, "order", lambda: {i: n for n, i in enumerate(ir.nodes)})
    return found


def users_of(ir: IR) -> dict[int, list[int]]:
    """`ir.users()`, memoized: not to be changed."""
    found: dict[int, list[int]] = memoized(ir, "users", ir.users)
    return found


def partition(ir: IR) -> list[Region]:
    """The regions of a graph, each after the regions that it reads.

    Raises DirectionError if a loop runs in both directions, NonCausalError if it needs its future.
    """
    found = memoized(ir, "regions", lambda: _regions(ir, list(ir.nodes), frozenset()))
    return list(found)


def components(net: nx.DiGraph) -> list[set[int]]:
    """The strongly connected components, including single nodes.

    Most nodes are on no cycle: these are found first, by removing nodes without predecessors.
    """
    import networkx as nx  # imported late: importing it needs 0.2 s

    waits = dict(net.in_degree())
    free = [i for i, count in waits.items() if not count]
    for i in free:
        for j in net._succ[i]:
            waits[j] -= 1
            if not waits[j]:
                free.append(j)
    alone = set(free)
    left = [i for i in net if i not in alone]
    rest = nx.DiGraph()
    rest.add_nodes_from(left)
    rest.add_edges_from((i, j) for i in left for j in net._succ[i])
    return [{i} for i in free] + list(nx.strongly_connected_components(rest))


def loop_numbers(ir: IR) -> dict[int, int]:
    """The number of the outermost loop that each node is in; nodes outside loops are absent."""

    def find() -> dict[int, int]:
        found = [c for c in components(dependencies(ir, ir.nodes)) if len(c) > 1]
        return {i: n for n, component in enumerate(found) for i in component}

    numbers: dict[int, int] = memoized(ir, "loop numbers", find)
    return numbers


def loops(regions: Iterable[Region]) -> list[Loop]:
    """The outermost loops among regions."""
    return [r for r in regions if isinstance(r, Loop)]


def carried(ir: IR) -> list[int]:
    """The delays whose final values the next call may start from: all but those of inner loops."""
    inner: set[int] = set()
    for loop in loops(partition(ir)):
        delays = {i for i in loop.nodes if ir[i].op == "delay"}
        inner |= delays - set(loop.states)
    return [n.id for n in ir if n.op == "delay" and n.id not in inner and n.attrs.get("key")]


def _regions(ir: IR, ids: list[int], cut: frozenset[int]) -> list[Region]:
    """The regions of the nodes `ids`; the delays in `cut` come from outside."""
    net = dependencies(ir, ids, cut)
    groups = [sorted(c) for c in components(net)]
    place = {i: n for n, group in enumerate(groups) for i in group}
    looped = [len(g) > 1 or net.has_edge(g[0], g[0]) for g in groups]
    for i in ids:
        # `pick` nodes belong to the region of the operation whose results they select
        if ir[i].op == "pick" and (home := place[ir[i].inputs[0]]) != place[i] and looped[home]:
            groups[place[i]].remove(i)
            groups[home].append(i)
            place[i] = home
    nonempty = [n for n, g in enumerate(groups) if g]
    groups, looped = [groups[n] for n in nonempty], [looped[n] for n in nonempty]
    place = {i: n for n, group in enumerate(groups) for i in group}
    order = {i: n for n, i in enumerate(ids)}
    return _schedule(ir, net, groups, place, looped, order)


def dependencies(ir: IR, ids: Iterable[int], cut: frozenset[int] = frozenset()) -> nx.DiGraph:
    """The edges among `ids` from operands to readers, and to delays from the nodes that close them.

    Edges to the delays in `cut` are left out.
    """
    import networkx as nx  # imported late: importing it needs 0.2 s

    chosen = set(ids)
    net = nx.DiGraph()
    net.add_nodes_from(ids)
    edges = [(j, i) for i in ids if i not in cut for j in ir[i].inputs if j in chosen]
    edges += [(ir.closings[i], i) for i in ids if i not in cut and ir.closings.get(i, -1) in chosen]
    net.add_edges_from(edges)
    return net


def _schedule(
    ir: IR,
    net: nx.DiGraph,
    groups: list[list[int]],
    place: dict[int, int],
    looped: list[bool],
    order: dict[int, int],
) -> list[Region]:
    """All single nodes that are ready, then one loop that is ready, and so on."""
    waits = [0] * len(groups)
    feeds: list[set[int]] = [set() for _ in groups]
    for a, b in net.edges():
        if place[a] != place[b] and place[b] not in feeds[place[a]]:
            feeds[place[a]].add(place[b])
            waits[place[b]] += 1
    first = [order[group[0]] for group in groups]
    ready: dict[bool, list[tuple[int, int]]] = {False: [], True: []}
    for g in range(len(groups)):
        if not waits[g]:
            heapq.heappush(ready[looped[g]], (first[g], g))
    regions: list[Region] = []
    while ready[False] or ready[True]:
        _, chosen = heapq.heappop(ready[False] or ready[True])
        if looped[chosen]:
            regions.append(_loop(ir, sorted(groups[chosen], key=order.__getitem__)))
        elif regions and isinstance(regions[-1], Whole):
            regions[-1].nodes.append(groups[chosen][0])
        else:
            regions.append(Whole([groups[chosen][0]]))
        for g in feeds[chosen]:
            waits[g] -= 1
            if not waits[g]:
                heapq.heappush(ready[looped[g]], (first[g], g))
    return regions


def _loop(ir: IR, nodes: list[int]) -> Loop:
    inside = set(nodes)
    delays = [ir[i] for i in nodes if ir[i].op == "delay" and ir.closings.get(i) in inside]
    axis = _axis(ir, [ir[i] for i in nodes], delays)
    states = [d for d in delays if d.attrs["axis"] == axis]
    signs = {d.attrs["steps"] > 0 for d in states}
    if len(signs) > 1:
        ahead = next(d for d in states if d.attrs["steps"] < 0)
        back = next(d for d in states if d.attrs["steps"] > 0)
        raise DirectionError(
            f"one loop over '{axis}' runs in both directions",
            node=ahead.label,
            site=ahead.site,
            got=f"{back.label} looks {back.attrs['steps']} back, {ahead.label} looks "
            f"{-ahead.attrs['steps']} ahead, and each feeds the other",
            wanted="delays of one sign in a loop",
            fix="keep the two directions in separate loops and join their outputs",
        )
    ids = [d.id for d in states]
    loop = Loop(axis, signs == {False}, nodes, ids)
    loop.body = _regions(ir, nodes, frozenset(ids))
    alive = ir.until.get(axis)
    loop.stop = alive if alive in ids else None
    return loop


def _axis(ir: IR, nodes: list[Node], delays: list[Node]) -> str:
    """The outermost axis of a loop: delays cross it, and every node varies over it."""
    crossed = [d.attrs["axis"] for d in delays]
    for axis in ir.layout(set(crossed) - {BATCH}):
        whole = next((n for n in nodes if n.attrs.get("axis") == axis and n.op != "delay"), None)
        if whole is None and all(axis in n.axes for n in nodes):
            return axis
    axis = ir.layout(set(crossed))[0]
    culprit = next(
        n for n in nodes if axis not in n.axes or (n.attrs.get("axis") == axis and n.op != "delay")
    )
    raise NonCausalError(
        f"the loop over '{axis}' depends on its own future: '{culprit.label}' reads every "
        "position and feeds the loop that computes them",
        node=culprit.label,
        site=culprit.site,
        got=f"{culprit.op} over '{axis}' inside the loop " + " -> ".join(d.label for d in delays),
        wanted=f"inside the loop, only values of this and earlier positions of '{axis}'",
        fix="accumulate in a state (total.next = total + v), or take the reduction outside",
    )
