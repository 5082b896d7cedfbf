"""The reference semantics of a graph: its unrolled definition, one position at a time.

Every value at every position is a tensor over the batch alone, computed by `torch.vmap` of the
primitive's definition. It is slow, plain and independent of the planner: tests compare every other
backend with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from graphnn.backends.opaque_calls import OpaqueCall, empty_batch, opaque_run
from graphnn.backends.random import draw, random_nodes
from graphnn.ir.graph import BATCH, IR, Node
from graphnn.ops.registry import OPS, numbers_stay
from graphnn.planner.boundary.states import FINAL
from graphnn.planner.core.regions import carried

Tensor = torch.Tensor
Place = tuple[tuple[str, int], ...]
Key = tuple[int, Place, str]


class Reference:
    """One evaluation of a graph; `values` is filled with keys (node, place) on demand."""

    def __init__(
        self,
        ir: IR,
        lookup: Callable[[Node], Tensor],
        inputs: dict[str, Tensor],
        sizes: dict[str, int],
        lengths: dict[str, Tensor],
        state: dict[str, Tensor],
        device: torch.device,
    ):
        self.ir, self.lookup, self.inputs, self.sizes = ir, lookup, inputs, sizes
        self.lengths, self.state = lengths, state
        self.device = device
        self.values: dict[Key, Any] = {}
        self.drawn = {n.id: self._draw(n) for n in random_nodes(ir)}

    def _draw(self, node: Node) -> Tensor:
        axes = self.ir.layout(node.axes)
        shape = [*(self.sizes[a] for a in axes), *node.shape]
        return draw(node.attrs["kind"], node.attrs["p"], shape, node.dtype, self.device)

    def _at(self, node: Node, place: dict[str, int], what: str = "") -> Key:
        axes = (a for a in self.ir.layout(node.axes) if a != BATCH and a in place)
        return (node.id, tuple((a, place[a]) for a in axes), what)

    def needs(self, key: Key) -> list[Key]:
        """The keys that one key is computed from."""
        node, place = self.ir[key[0]], dict(key[1])
        if node.op == "delay":
            return self._delay_needs(node, place)
        if OPS[node.op].family == "axis":
            axis = node.attrs["axis"]
            if OPS[node.op].keeps_axis and key[2] != "all":
                whole = {a: p for a, p in place.items() if a != axis}
                return [self._at(node, whole, "all")]
            first, *rest = self.ir.operands(node)
            spread = [self._at(first, {**place, axis: p}) for p in range(self.sizes[axis])]
            return spread + [self._at(x, place) for x in rest]
        if node.op == "rename":
            back = {new: old for old, new in node.attrs["axes"].items()}
            place = {back.get(a, a): p for a, p in place.items()}
        return [self._at(x, place) for x in self.ir.operands(node) if x.op != "const"]

    def _delay_needs(self, node: Node, place: dict[str, int]) -> list[Key]:
        axis, steps = node.attrs["axis"], node.attrs["steps"]
        source = place[axis] - steps
        outside = {a: p for a, p in place.items() if a != axis}
        inits = [self._at(x, outside) for x in self.ir.operands(node) if x.op != "const"]
        if not 0 <= source < self.sizes[axis]:
            return inits
        reads = [self._at(self.ir[self.ir.closings[node.id]], {**place, axis: source})]
        return reads + inits if steps < 0 and axis in self.lengths else reads

    def value(self, node: Node, place: dict[str, int]) -> Tensor:
        """A node's value at a place, after everything it needs (without recursion)."""
        goal = self._at(node, place)
        stack = [goal]
        while stack:
            key = stack[-1]
            if key in self.values:
                stack.pop()
                continue
            missing = [k for k in self.needs(key) if k not in self.values]
            if missing:
                stack.extend(missing)
            else:
                self.values[key] = self.compute(key)
                stack.pop()
        return self.values[goal]  # type: ignore[no-any-return]

    def compute(self, key: Key) -> Any:
        """One node at one place, from known values."""
        node, place = self.ir[key[0]], dict(key[1])
        if node.op == "delay":
            return self._delay(node, place)
        if OPS[node.op].family == "source":
            return self._source(node, place)
        if OPS[node.op].family == "axis":
            return self._over_axis(node, place, key)
        if node.op == "along":
            whole = self.values[self._at(self.ir.operands(node)[0], {})]
            return whole[place[node.attrs["axis"]]]
        read = self.needs(key)
        values = iter([self.values[k] for k in read])
        operands = self.ir.operands(node)
        bare = numbers_stay(OPS[node.op], operands)
        given = [
            (self._number(x, bare) if x.op == "const" else next(values), BATCH in x.axes)
            for x in operands
        ]
        return self._run(node, given)

    def _number(self, node: Node, bare: bool) -> Any:
        """A number as it is, or as a tensor."""
        value = node.attrs["value"]
        return value if bare else torch.full((), value, dtype=node.dtype, device=self.device)

    def _run(self, node: Node, operands: list[tuple[Any, bool]]) -> Any:
        op = OPS[node.op]
        attrs = {k: v for k, v in node.attrs.items() if k not in op.private}
        if op.name == "pick":
            return operands[0][0][attrs["which"]]
        if op.family == "opaque":
            called = OpaqueCall(node, opaque_run(node))
            return called.all(lambda: _batched(called, operands))
        return _batched(lambda *xs: op.run(*xs, **attrs), operands)  # type: ignore[misc]

    def _source(self, node: Node, place: dict[str, int]) -> Any:
        if node.op == "const":
            return self._number(node, bare=False)
        if node.op == "index":
            return torch.full((), place[node.attrs["axis"]], device=self.device) + self._offset(
                node
            )
        if node.op == "size":
            return torch.full((), self.sizes[node.attrs["axis"]], device=self.device)
        if node.op == "length":
            axis = self.ir.axes[node.attrs["axis"]].copy_of or node.attrs["axis"]
            full = torch.full((self.sizes[BATCH],), self.sizes[axis], device=self.device)
            return self.lengths.get(axis, full)
        if node.op in ("parameter", "tensor"):
            return self.lookup(node)
        if node.op == "random" and node.id not in self.drawn:
            return torch.ones(node.shape, dtype=node.dtype, device=self.device).expand(
                *[self.sizes[BATCH]] * (BATCH in node.axes), *node.shape
            )
        whole = self.inputs[node.attrs["key"]] if node.op == "input" else self.drawn[node.id]
        given = (BATCH, *node.attrs["over"]) if node.op == "input" else self.ir.layout(node.axes)
        return whole[tuple(slice(None) if a == BATCH else place[a] for a in given)]

    def _offset(self, node: Node) -> Any:
        return self.state.get(f"@{node.attrs['axis']}", 0)

    def _over_axis(self, node: Node, place: dict[str, int], key: Key) -> Any:
        axis = node.attrs["axis"]
        if OPS[node.op].keeps_axis and key[2] != "all":
            return self.values[self.needs(key)[0]].select(int(BATCH in node.axes), place[axis])
        first, *rest = self.ir.operands(node)
        keys = self.needs(key)
        rows = [self.values[k] for k in keys[: self.sizes[axis]]]
        stacked = torch.stack(rows, dim=int(BATCH in first.axes))
        lengths = [(self.values[k], BATCH in x.axes) for k, x in zip(keys[len(rows) :], rest)]
        return self._run(node, [(stacked, BATCH in first.axes), *lengths])

    def _delay(self, node: Node, place: dict[str, int]) -> Any:
        axis, steps = node.attrs["axis"], node.attrs["steps"]
        source, size = place[axis] - steps, self.sizes[axis]
        if 0 <= source < size:
            after = self.ir[self.ir.closings[node.id]]
            read = self._full(after, self.values[self._at(after, {**place, axis: source})], node)
        else:
            slot = place[axis] if steps > 0 else size - 1 - place[axis]
            read = self._initial(node, place, slot)
        if steps > 0 or axis not in self.lengths:
            return read
        # with a negative delay, each example starts from its own last position
        slots = self.lengths[axis] - 1 - place[axis]
        for k in range(-steps):
            initial = self._initial(node, place, k)
            read = torch.where(_wide(slots == k, initial), initial, read)
        return read

    def _initial(self, node: Node, place: dict[str, int], slot: int) -> Tensor:
        """The initial value that a delay reads in its first steps; `slot` 0 is read first."""
        axis, steps, key = node.attrs["axis"], node.attrs["steps"], node.attrs["key"]
        outside = {a: p for a, p in place.items() if a != axis}
        if key in self.state:
            given = self.state[key]
            axes = [a for a in self.ir.layout(node.axes - {axis}) if a != BATCH]
            index: Any = (slice(None), *(outside[a] for a in axes))
            picked = given[index]
            return picked if abs(steps) == 1 else picked[:, slot]
        init = self.ir.operands(node)[0 if self.ir.alone(node.id) else slot]
        if init.op == "const":
            value = torch.full((), init.attrs["value"], dtype=node.dtype, device=self.device)
        else:
            value = self.values[self._at(init, outside)]
        return self._full(init, value, node)

    def _full(self, source: Node, value: Tensor, node: Node) -> Tensor:
        """`value` of `source` as a value of `node`: with the batch, in its shape and dtype."""
        if BATCH not in source.axes and BATCH in node.axes:
            value = value.expand(self.sizes[BATCH], *value.shape)
        lead = [self.sizes[BATCH]] * (BATCH in node.axes)
        if value.dim() < len(lead) + len(node.shape):
            value = value.reshape(*lead, *[1] * len(node.shape))
        return value.to(node.dtype).expand(*lead, *node.shape)

    def whole(self, node: Node) -> Tensor:
        """A node at all its positions: (batch, *axes, *shape)."""
        axes = [a for a in self.ir.layout(node.axes) if a != BATCH]
        places = list(_places(axes, self.sizes))
        values = [self.value(node, place) for place in places]
        value = torch.stack(values, dim=int(BATCH in node.axes)) if axes else values[0]
        sizes = [self.sizes[a] for a in axes]
        if BATCH not in node.axes:
            value = value.expand(self.sizes[BATCH], *value.shape)
        return value.reshape(self.sizes[BATCH], *sizes, *node.shape)

    def initial(self, node: Node, axes: list[str], slot: int) -> Tensor:
        """The initial value that a delay reads in step `slot`, at all places of `axes`."""
        rows = []
        for place in _places(axes, self.sizes):
            for x in self.ir.operands(node):
                if x.op != "const":
                    self.value(x, place)
            rows.append(self._initial(node, place, slot))
        sizes = [self.sizes[a] for a in axes]
        return torch.stack(rows, 1).reshape(self.sizes[BATCH], *sizes, *node.shape)

    def final(self, node: Node) -> Tensor:
        """The values a delay reads after the last position: (batch, *axes, [slots,] *shape)."""
        axis, steps = node.attrs["axis"], node.attrs["steps"]
        others = [a for a in self.ir.layout(node.axes) if a not in (BATCH, axis)]
        slots = [self._final_slot(node, axis, steps, others, k) for k in range(abs(steps))]
        return slots[0] if abs(steps) == 1 else torch.stack(slots, 1 + len(others))

    def _final_slot(self, node: Node, axis: str, steps: int, others: list[str], k: int) -> Tensor:
        after, size = self.ir[self.ir.closings[node.id]], self.sizes[axis]
        rows = []
        for place in _places(others, self.sizes):
            for x in self.ir.operands(node):
                if x.op != "const":
                    self.value(x, place)
            line = [self.value(after, {**place, axis: p}) for p in range(size)]
            line = [self._full(after, v, node) for v in line]
            starts = [self._initial(node, {**place, axis: 0}, j) for j in range(abs(steps))]
            line = starts + line if steps > 0 else starts + line[::-1]
            table = torch.stack(line)
            if axis in self.lengths:
                places = self.lengths[axis] + k
                if steps < 0:
                    places = torch.where(places < -steps, places, size + k)
                rows.append(table[places, torch.arange(len(places), device=self.device)])
            else:
                rows.append(table[size + k])
        sizes = [self.sizes[a] for a in others]
        return torch.stack(rows, 1).reshape(self.sizes[BATCH], *sizes, *node.shape)


def _wide(mask: Tensor, like: Tensor) -> Tensor:
    return mask.reshape(-1, *[1] * (like.dim() - 1))


def _places(axes: list[str], sizes: dict[str, int]) -> Iterator[dict[str, int]]:
    if not axes:
        yield {}
        return
    for p in range(sizes[axes[0]]):
        for rest in _places(axes[1:], sizes):
            yield {axes[0]: p, **rest}


def _batched(function: Callable[..., Any], operands: list[tuple[Any, bool]]) -> Any:
    """`function` of one example, over the batch of those operands that have one."""
    values = [v for v, _ in operands]
    moving = [i for i, (_, batched) in enumerate(operands) if batched]
    if not moving:
        return function(*values)

    def one(*rows: Tensor) -> Any:
        full = list(values)
        for i, row in zip(moving, rows, strict=True):
            full[i] = row
        return function(*full)

    rows = [values[i] for i in moving]
    if len(rows[0]) == 0:
        return empty_batch(one, values)(*rows)
    return torch.vmap(one, randomness="different")(*rows)


def evaluate(reference: Reference, keep: list[str]) -> dict[str, Tensor]:
    """All outputs, zero beyond each example's length, and the final states that `keep` names."""
    ir, outputs = reference.ir, {}
    for name, i in ir.outputs.items():
        node = ir[i]
        value = reference.whole(node)
        value = _padded(reference, value, node.axes)
        outputs[name] = value
    for i in carried(ir):
        if ir[i].attrs["key"] in keep:
            kept = ir[i].axes - {ir[i].attrs["axis"]}
            outputs[FINAL + ir[i].attrs["key"]] = _padded(reference, reference.final(ir[i]), kept)
    return outputs


def _padded(reference: Reference, value: Tensor, over: frozenset[str]) -> Tensor:
    """`value`, zero beyond each example's lengths."""
    ir = reference.ir
    axes = [a for a in ir.layout(over) if a != BATCH]
    for position, axis in enumerate(axes):
        root = ir.axes[axis].copy_of or axis
        if root in reference.lengths:
            places = torch.arange(value.shape[1 + position], device=value.device)
            valid = places < reference.lengths[root].unsqueeze(1)
            shape = [valid.shape[0], *[1] * position, valid.shape[1]]
            valid = valid.reshape(*shape, *[1] * (value.dim() - len(shape)))
            value = torch.where(valid, value, torch.zeros_like(value))
    return value
