"""A loop as the emitter takes it: tensors read and written, states, and the operations of a step.

All values are of one row at one position: a row is an example, or a combination of the axes that
`rows` names. Nothing here knows of graphs, modules or torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any


class Unsupported(Exception):
    """A program that no kernel of this kind can carry: the message says why, in words for users."""


@dataclass(frozen=True)
class Tensor:
    """An argument of a kernel: a contiguous tensor of dimensions `axes`, then `shape`.

    `kind` is "float" (of the launch's dtype), "acc" (of the dtype in which sums are taken), "int"
    (int64), "bool", or "seed": one int64, of which the numbers of such a tensor are drawn where
    they are used.
    """

    name: str
    shape: tuple[int, ...]
    axes: tuple[str, ...]
    kind: str = "float"


@dataclass(frozen=True)
class Part(Tensor):
    """A tensor of which each thread block has to do with its own numbers alone.

    Of every `period` numbers a block has up to `units`; with a period of 0 all are the first
    block's. `place` is the variable that holds where a block's own begin; where they are not
    `even`, the last blocks have less. The value is part of what the tensor holds, from its `first`
    number on.
    """

    period: int = 0
    units: int = 0
    place: str = ""
    even: bool = True
    first: int = 0


@dataclass(frozen=True)
class Op:
    """One value of a step.

    kind      args                 attrs
    read      what the first       tensor, shift: how many positions ago (0 unless given)
              `shift` steps read
    draw      -                    tensor: of kind "seed", law: "dropout", "uniform", "normal", p
    const     -                    value
    index     -                    (the position along the loop's axis)
    size      -                    axis: its length
    lane      -                    (the position along the lanes)
    lanes     x[, how many count]  law: "total", "largest", "softmax", "logsumexp", "moved" by
                                   `shift`, "turned" or "picked" at `position`: of all lanes
    state     -                    (see State)
    point     its operands         template: Triton text with {0}, {1} …; linear_in: if it is a sum
                                   of products, for each its sign and the operands multiplied
    view      what it is made of   maps: for each operand, where each number of the value is taken
                                   from (flat index; -1: not from this one)
    product   a, b                 sub: as einsum, "k,nk->n"
    sum, max  x                    dims

    Where a value is shared out, `units` says how many numbers of each of its parts are here.
    """

    name: str
    kind: str
    args: tuple[str, ...] = ()
    shape: tuple[int, ...] = ()
    dtype: str = "float"
    attrs: dict[str, Any] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class LoopState:
    """The value `delay` steps ago of `next`; `inits` are read by the first steps, in their order.

    One init serves all slots, or there are `delay` of them.
    """

    name: str
    delay: int
    inits: tuple[str, ...]
    next: str


@dataclass(frozen=True)
class LoopProgram:
    """A loop over `axis`; `stores` are the values written at each step, and where.

    Without an axis ("") it is one step, or a part of one: a phase. `lanes` is an axis of which a
    step takes all: a thread block then has one row, and of it every lane, `most` at most (where the
    axis is `open`, so many are what the kernel was found to fit, and there may be more). Of a
    ragged one `ends` has the lengths of the rows and `order` their numbers, the longest first: no
    step is taken where none of a program's rows is. What is stored beyond repeats the last position
    that they have (`held`), or is zero.
    """

    name: str
    axis: str
    rows: tuple[str, ...]
    reverse: bool
    tensors: tuple[Tensor, ...]
    ops: tuple[Op, ...]
    states: tuple[LoopState, ...]
    stores: tuple[tuple[str, Tensor], ...]
    lanes: str = ""
    most: int = 0
    open: bool = False
    ends: Tensor | None = None
    order: Tensor | None = None
    held: bool = False

    @cached_property
    def _states(self) -> dict[str, LoopState]:
        return {s.name: s for s in self.states}

    def state(self, name: str) -> LoopState:
        """The state that an operation reads."""
        return self._states[name]

    @property
    def sizes(self) -> tuple[str, ...]:
        """The axes whose lengths a launch gives: the loop's own first, then the rows'."""
        used = {a for t in (*self.tensors, *(t for _, t in self.stores)) for a in t.axes}
        used |= {op.attrs["axis"] for op in self.ops if op.kind == "size"}
        own, lanes = [(a,) if a else () for a in (self.axis, self.lanes)]
        return tuple(dict.fromkeys((*own, *self.rows, *lanes, *sorted(used))))
