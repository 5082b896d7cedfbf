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
from graphnn.nn.standalone import standalone_graph
from graphnn.nn.types import State, Value

CONTROLLERS = ("lstm", "feedforward")
STARTS = ("constant", "learned")
# the initial content of the memory: the one that learned fastest of those compared by Collier &
# Beel 2018 (arXiv:1807.08518)
FRESH = 1e-6


@dataclass(frozen=True)
class _Address:
    """The address that the controller emits for a head (Graves et al. 2014, section 3.3)."""

    key: Value
    strength: Value
    gate: Value
    shift: Value
    sharpness: Value


class Head(nn.Module):
    """One head: maps the output of the controller to weights over the slots.

    The steps are those of Graves et al. 2014 (arXiv:1410.5401): content addressing (eq. 5, 6),
    interpolation with the previous weights (eq. 7), shift (eq. 8), sharpening (eq. 9).

    Parameters
    ----------
    hidden_size : width of the controller output
    width : width of a slot
    reach : largest shift in each direction
    written : number of elements that the head emits in addition (erase and add vectors)
    """

    def __init__(self, hidden_size: int, width: int, reach: int, written: int = 0):
        super().__init__()
        self.width, self.reach = width, reach
        self.sizes = [width, 2 * reach + 1, 3, *([written] if written else [])]
        self.map = nn.Linear(hidden_size, sum(self.sizes))

    def forward(self, h: Value, memory: Value, before: Value, slots: str) -> tuple[Value, Value]:
        """The new weights, and the additional elements of the head or None."""
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
        # the power is computed by logarithms, so that the sum over slots never vanishes
        some = torch.clamp(turned, min=least(turned.dtype, 1e-20))
        return softmax(at.sharpness * torch.log(some), slots)


class NTM(nn.Module):
    """A Neural Turing Machine: a controller with heads on a memory of (slots, width).

    Compiled alone it takes `x` (batch, time, input_size). At each step the controller reads the
    input and the previous reads of the heads. Then all heads move; the write heads erase and add
    one after another (eq. 3, 4), and the read heads read the result (eq. 2). Graves, Wayne &
    Danihelka 2014, arXiv:1410.5401. `y = ntm(x)` on a value of shape (input_size,) returns the
    controller output and all reads, (output_size,) = (hidden_size + read_heads * width,).

        model = gn.compile(gn.nn.NTM(3, 8, slots=16, width=4))
        y = model(x=torch.randn(2, 5, 3))  # (2, 5, 12)

    Parameters
    ----------
    input_size, hidden_size : widths of the input and of the controller
    slots, width : size of the memory
    read_heads, write_heads : numbers of heads
    reach : largest shift of a head per step, in each direction
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
        """Initialise learned starts: a nearly empty memory, random head positions, zero reads."""
        if self.start == "learned":
            nn.init.normal_(self.memory, std=0.01)  # type: ignore[arg-type]
            nn.init.normal_(self.places)  # type: ignore[arg-type]
            nn.init.zeros_(self.read)  # type: ignore[arg-type]

    def graph(self, g: Any) -> None:
        """Input `x` (input_size,) over time, output `y`."""
        standalone_graph(self, g, ("x", self.input_size, "time"))

    def forward(self, x: Value, over: str | None = None, with_states: bool = False) -> Any:
        """(input,) over an axis -> (output,) over it; if `with_states`, also a dict of all states.

        The states are "M" (width,) over slots; "read0" (width,) … for each read head; "w0" …, the
        weights over slots of each head, read heads first; and the states of the controller.
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
        for k, command in self._moved(h, past, now, slots):
            now["M"] = self._written(now["M"], now[f"w{k}"], command)
        for k in range(len(self.readers)):
            now[f"read{k}"] = axis_sum(now[f"w{k}"] * now["M"], slots)
        for state, before in past.items():
            before.next = now[state]
        y = torch.cat([h, *(now[f"read{k}"] for k in range(len(self.readers)))])
        return (y, now) if with_states else y

    def _declare(
        self, g: Any, name: str, over: str, slots: str, carried: list[str]
    ) -> dict[str, State]:
        """Declare the states with their initial values."""
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
        """The initial weights of a head."""
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
        """Move all heads. Returns the erase and add elements of the write heads."""
        commands = []
        for k, head in enumerate([*self.readers, *self.writers]):
            now[f"w{k}"], more = head(h, past["M"], past[f"w{k}"], slots)
            if more is not None:
                commands.append((k, more))
        return commands

    def _written(self, memory: Value, weights: Value, command: Value) -> Value:
        """M ⊙ (1 - w e) + w a."""
        erase, add = torch.split(command, [self.width, self.width])
        return memory * (1 - weights * torch.sigmoid(erase)) + weights * torch.tanh(add)

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}, slots={self.slots}, width={self.width}"
