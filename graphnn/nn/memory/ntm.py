"""The Neural Turing Machine: a controller whose heads read and write a memory of slots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from graphnn.frontend.functions import along, cosine, index, roll, softmax
from graphnn.frontend.functions import sum as axis_sum
from graphnn.ir.dtypes import least
from graphnn.nn.axes import sequence_axis
from graphnn.nn.options import one_of
from graphnn.nn.recurrent.lstm import LSTMCell
from graphnn.nn.standalone import alone
from graphnn.nn.types import State, Value

CONTROLLERS = ("lstm", "feedforward")
STARTS = ("constant", "learned")
# what a fresh memory holds: of the starts compared by Collier & Beel 2018 (arXiv:1807.08518) the
# one that learned soonest
FRESH = 1e-6


@dataclass(frozen=True)
class _Address:
    """What a head says at a step about where to look (Graves et al. 2014, section 3.3)."""

    key: Value
    strength: Value
    gate: Value
    shift: Value
    sharpness: Value


class Head(nn.Module):
    """How one head is moved by the controller: h -> weights over the slots.

    In the order of Graves et al. 2014 (arXiv:1410.5401): by content (eq. 5, 6), interpolated with
    where it was (eq. 7), shifted (eq. 8), sharpened (eq. 9).

    Parameters
    ----------
    hidden_size : width of the controller's output
    width : numbers in a slot
    reach : the furthest shift, to either side
    written : numbers that the head says besides its address (erase and add)
    """

    def __init__(self, hidden_size: int, width: int, reach: int, written: int = 0):
        super().__init__()
        self.width, self.reach = width, reach
        self.sizes = [width, 2 * reach + 1, 3, *([written] if written else [])]
        self.map = nn.Linear(hidden_size, sum(self.sizes))

    def forward(self, h: Value, memory: Value, before: Value, slots: str) -> tuple[Value, Value]:
        """The weights now, and what else the head says."""
        key, shift, knobs, *rest = torch.split(self.map(h), self.sizes)
        at = _Address(
            key,
            F.softplus(knobs[0]),
            torch.sigmoid(knobs[1]),
            torch.softmax(shift, -1),
            1 + F.softplus(knobs[2]),
        )
        return self._moved(at, memory, before, slots), rest[0] if rest else None

    def _moved(self, at: _Address, memory: Value, before: Value, slots: str) -> Value:
        found = softmax(at.strength * cosine(memory, at.key), slots)
        mixed = at.gate * found + (1 - at.gate) * before
        turned = sum(
            at.shift[self.reach + step] * roll(mixed, step, slots)
            for step in range(-self.reach, self.reach + 1)
        )
        # the power as its logarithm, whose sum over slots never vanishes; a weight of nothing has
        # none
        some = torch.clamp(turned, min=least(turned.dtype, 1e-20))
        return softmax(at.sharpness * torch.log(some), slots)


class NTM(nn.Module):
    """A controller with heads on a memory of `slots` times `width` numbers.

    Compiled alone it takes `x` (batch, time, input_size).
    At each step the controller sees the input and what the heads read a step ago; then every head
    is moved, the writing heads erase and add, one after another (eq. 3, 4), and the reading heads
    read what is there then (eq. 2). Graves, Wayne & Danihelka 2014, arXiv:1410.5401. Called
    `y = ntm(x)` on a value of shape (input_size,), it gives the controller's output and all that is
    read, (output_size,) = (hidden_size + read_heads * width,).

    Parameters
    ----------
    input_size, hidden_size : widths of the input and of the controller
    slots, width : the size of the memory
    read_heads, write_heads : how many of each
    reach : the furthest that a head moves at a step, to either side
    controller : "lstm" (`LSTMCell`), or "feedforward": tanh of one linear map
    start : "constant" (an empty memory, all heads at the first slot), or "learned"
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        slots: int = 128,
        width: int = 20,
        *,
        read_heads: int = 1,
        write_heads: int = 1,
        reach: int = 1,
        controller: str = "lstm",
        start: str = "constant",
    ):
        super().__init__()
        one_of("NTM", "controller", controller, CONTROLLERS)
        one_of("NTM", "start", start, STARTS)
        self.input_size, self.hidden_size = input_size, hidden_size
        self.slots, self.width, self.start = slots, width, start
        seen = input_size + read_heads * width
        self.output_size = hidden_size + read_heads * width
        lstm = controller == "lstm"
        self.controller = LSTMCell(seen, hidden_size) if lstm else nn.Linear(seen, hidden_size)
        self.readers = nn.ModuleList(Head(hidden_size, width, reach) for _ in range(read_heads))
        self.writers = nn.ModuleList(
            Head(hidden_size, width, reach, 2 * width) for _ in range(write_heads)
        )
        heads = read_heads + write_heads
        learned = start == "learned"
        shapes = {"memory": (slots, width), "places": (slots, heads), "read": (read_heads, width)}
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.empty(shape)) if learned else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Where learned, a memory near empty, heads near the first slot, nothing read."""
        if self.start == "learned":
            nn.init.normal_(self.memory, std=0.01)  # type: ignore[arg-type]
            nn.init.normal_(self.places)  # type: ignore[arg-type]
            nn.init.zeros_(self.read)  # type: ignore[arg-type]

    def graph(self, g: Any) -> None:
        """Input `x` (input_size,) over time, output `y`."""
        alone(self, g, ("x", self.input_size, "time"))

    def forward(self, x: Value, over: str | None = None, with_states: bool = False) -> Any:
        """(input,) over an axis -> (output,) over it; with `with_states` also every state by name.

        The states: "M" (width,) over slots, "read0" (width,) … for each reading head, "w0" … the
        weights over slots of each head, readers first, and the controller's.
        """
        over = sequence_axis(x, over)
        g, name = x.graph, x.graph.name_of(self)
        slots = g.axis("slot" if "slot" not in g.ir.axes else f"{name}_slot", self.slots)
        carried = [a for a in x.axes if a != over]
        past = self._declare(g, name, over, slots, carried)
        now: dict[str, Value] = {}
        seen = torch.cat([x, *(past[f"read{k}"] for k in range(len(self.readers)))])
        h = self._control(seen, past, now)
        now["M"] = past["M"]
        for k, said in self._moved(h, past, now, slots):
            now["M"] = self._written(now["M"], now[f"w{k}"], said)
        for k in range(len(self.readers)):
            now[f"read{k}"] = axis_sum(now[f"w{k}"] * now["M"], slots)
        for state, before in past.items():
            before.next = now[state]
        y = torch.cat([h, *(now[f"read{k}"] for k in range(len(self.readers)))])
        return (y, now) if with_states else y

    def _declare(
        self, g: Any, name: str, over: str, slots: str, carried: list[str]
    ) -> dict[str, State]:
        """The states, each from where it starts."""
        learned = self.start == "learned"

        def state(what: str, shape: Any, init: Any, *axes: str) -> State:
            return g.state(g.unique(f"{name}.{what}"), shape, over, (*carried, *axes), init)

        memory = along(self.memory, slots) if learned else FRESH  # type: ignore[arg-type]
        past = {"M": state("M", self.width, memory, slots)}
        for k in range(len(self.readers) + len(self.writers)):
            past[f"w{k}"] = state(f"w{k}", (), self._place(g, k, slots), slots)
        for k in range(len(self.readers)):
            start = g.value(self.read)[k] if learned else 0.0
            past[f"read{k}"] = state(f"read{k}", self.width, start)
        if isinstance(self.controller, LSTMCell):
            past |= {s: state(s, n, None) for s, n in self.controller.sizes.items()}
        return past

    def _place(self, g: Any, head: int, slots: str) -> Value:
        """Where a head is before the first step."""
        if self.start == "learned":
            return softmax(along(self.places, slots)[head], slots)  # type: ignore[arg-type]
        return torch.where(index(slots, g) == 0, 1.0, 0.0)

    def _control(self, seen: Value, past: dict[str, State], now: dict[str, Value]) -> Value:
        if isinstance(self.controller, LSTMCell):
            now |= self.controller(seen, past["h"], past["c"])
            return now["h"]
        return torch.tanh(self.controller(seen))

    def _moved(
        self, h: Value, past: dict[str, State], now: dict[str, Value], slots: str
    ) -> list[tuple[int, Value]]:
        """All heads moved, by the memory of a step ago; the writers with what they say."""
        said = []
        for k, head in enumerate([*self.readers, *self.writers]):
            now[f"w{k}"], more = head(h, past["M"], past[f"w{k}"], slots)
            if more is not None:
                said.append((k, more))
        return said

    def _written(self, memory: Value, weights: Value, said: Value) -> Value:
        """M ⊙ (1 - w e) + w a."""
        erase, add = torch.split(said, [self.width, self.width])
        return memory * (1 - weights * torch.sigmoid(erase)) + weights * torch.tanh(add)

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}, slots={self.slots}, width={self.width}"
