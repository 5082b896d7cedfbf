"""Associative memories: values are read by how well their keys match an address."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from graphnn.errors import AxisError, UnsupportedError
from graphnn.frontend.attention import lookup
from graphnn.frontend.functions import along, dot, index, softmax
from graphnn.frontend.functions import sum as axis_sum
from graphnn.ir.source_location import user_site
from graphnn.nn.axes import sequence_axis
from graphnn.nn.standalone import standalone_graph
from graphnn.nn.types import Value


class AssociativeMemory(nn.Module):
    """An associative memory: α_i = k_iᵀ x, c = softmax(sharpness α), s = Σ c_i v_i over slots.

    Compiled alone it takes `address` (batch, time, key_size) and, if not learned, `key` and
    `value`. Keys and values are parameters (long-term memory), or they are written at run time
    (short-term memory): each position of a sequence reads the pairs that earlier positions wrote. A
    write replaces the oldest pair, so a memory of n slots holds the last n pairs. An empty memory
    reads as zeros.

        model = gn.compile(gn.nn.AssociativeMemory(16, 4, 3))
        s = model(address=torch.randn(2, 5, 4))  # (2, 5, 3)

    Parameters
    ----------
    slots : number of pairs
    key_size, value_size : widths of keys (and addresses) and of values
    learned : keys and values are parameters; if the memory is also written, these are its initial
        content
    topk : read and train only the k best matching slots; None for all
    sharpness : factor of the matches; a large one reads mostly the best match
    """

    def __init__(
        self,
        slots: int,
        key_size: int,
        value_size: int,
        *,
        learned: bool = True,
        topk: int | None = None,
        sharpness: float = 1.0,
    ):
        super().__init__()
        self.slots, self.key_size, self.value_size = slots, key_size, value_size
        self.learned, self.topk, self.sharpness = learned, topk, sharpness
        if learned:
            self.keys = nn.Parameter(torch.randn(slots, key_size) / key_size**0.5)
            self.values = nn.Parameter(torch.randn(slots, value_size) / value_size**0.5)

    def graph(self, g: Any) -> None:
        """Input `address` over time, if not learned also `key` and `value`; output `y`."""
        pair = [("key", self.key_size, "time"), ("value", self.value_size, "time")]
        standalone_graph(
            self, g, ("address", self.key_size, "time"), *([] if self.learned else pair)
        )

    def forward(
        self,
        address: Value,
        key: Value | None = None,
        value: Value | None = None,
        write: Value | None = None,
        over: str | None = None,
        with_weights: bool = False,
    ) -> Any:
        """Read at an address: (key_size,) -> (value_size,).

        If `key` (key_size,) and `value` (value_size,) are given, they are written after reading,
        along the axis `over` (by default the only axis of `key`). Nothing is written where `write`,
        a Boolean of shape (), is false. Key and value may depend on the value read. If
        `with_weights`, returns also c () over slots. Raises UnsupportedError if only one of key and
        value is given, AxisError if the axis is missing or ambiguous.
        """
        self._check(key, value)
        slot = self._slots(address)
        options: dict[str, Any] = {"over": slot, "topk": self.topk, "sharpness": self.sharpness}
        if key is None or value is None:
            held = (along(v, slot, address.graph) for v in (self.keys, self.values))
            return lookup(address, *held, with_weights=with_weights, **options)
        return self._written(address, key, value, write, over, with_weights, options)

    def _check(self, key: Value | None, value: Value | None) -> None:
        if (key is None) == (value is None) and (self.learned or key is not None):
            return
        raise UnsupportedError(
            "a memory needs both a key and a value, or, if it is learned, neither",
            site=user_site(),
            got=f"learned={self.learned}, key={key}, value={value}",
            wanted="memory(address, key, value), or memory(address) with learned=True",
            fix="give both or neither",
        )

    def _slots(self, address: Value) -> str:
        """A new axis for the slots: each call has its own content."""
        g = address.graph
        name, count = f"{g.name_of(self)} slot", 2
        while name in g.ir.axes:
            name, count = f"{g.name_of(self)} slot {count}", count + 1
        return g.axis(name, self.slots)

    def _written(
        self,
        address: Value,
        key: Value,
        value: Value,
        write: Value | None,
        over: str | None,
        with_weights: bool,
        options: dict[str, Any],
    ) -> Any:
        """Declare the content of each slot and the number of writes as states."""
        g, slot, over = key.graph, options["over"], sequence_axis(key, over)
        if over not in address.axes:
            raise AxisError(
                f"a memory written over '{over}' must be read over '{over}'",
                node=address.label,
                site=user_site(),
                got=f"an address over {address.axes}",
                wanted=f"an address that varies over '{over}'",
                fix="to read after the last write, use gn.last(memory(address, …), over=…)",
            )
        wide = {a for v in (key, value) for a in v.axes} - {over}
        axes, name = [*g.ir.layout(wide), slot], g.name_of(self)
        start = (self.keys, self.values) if self.learned else (None, None)
        held = []
        for what, size, init in zip(("keys", "values"), (self.key_size, self.value_size), start):
            begin = None if init is None else along(init, slot, g)
            held.append(g.state(g.unique(f"{name}.{what}"), size, over, axes, begin))
        count = g.state(
            g.unique(f"{name}.count"), (), over, g.ir.layout(wide), 0, dtype=torch.int64
        )
        place = index(slot, g)
        mask = None if self.learned else place < count
        read = lookup(address, *held, mask=mask, with_weights=with_weights, **options)
        here = place == count % self.slots
        here = here if write is None else here & write
        for state, new in zip(held, (key, value)):
            state.next = torch.where(here, new, state)
        count.next = count + (1 if write is None else write.to(torch.int64))
        return read

    def extra_repr(self) -> str:
        return f"{self.slots}, {self.key_size}, {self.value_size}, learned={self.learned}"


class KeyValueMemory(nn.Module):
    """A memory of given keys and values, addressed in hops: q ← R_h (q + Σ softmax(qᵀ k) v).

    Compiled alone it takes `question` (batch, width), `keys` and `values` (batch, source, width).
    Miller et al. 2016 (arXiv:1606.03126), section 3.1, without the embedding of keys and values.

        model = gn.compile(gn.nn.KeyValueMemory(4))
        keys, values = torch.randn(2, 2, 6, 4)
        q = model(question=torch.randn(2, 4), keys=keys, values=values)  # (2, 4)

    Parameters
    ----------
    width : width of keys, values and the question
    hops : number of hops, each with its own map R_h
    """

    def __init__(self, width: int, hops: int = 2):
        super().__init__()
        self.width = width
        self.maps = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(hops))

    def graph(self, g: Any) -> None:
        """Inputs `question` (width,), `keys` and `values` (width,) over source; output `y`."""
        held = (("keys", self.width, "source"), ("values", self.width, "source"))
        standalone_graph(self, g, ("question", self.width, ()), *held)

    def forward(
        self,
        question: Value,
        keys: Value,
        values: Value,
        over: str | None = None,
        with_weights: bool = False,
    ) -> Any:
        """A question (width,) with keys and values (width,) over an axis -> (width,).

        `over` names the axis if keys have several. If `with_weights`, returns also a list with the
        weights () over that axis of each hop.
        """
        over, weights = sequence_axis(keys, over), []
        for map in self.maps:
            chosen = softmax(dot(question, keys), over)
            question = map(question + axis_sum(chosen * values, over))
            weights.append(chosen)
        return (question, weights) if with_weights else question
