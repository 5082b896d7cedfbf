"""A loop as emitters take it: tensors read and written, states, and the operations of a step.

All values are of one row at one position: a row is an example, or a combination of the axes that
`rows` names. Nothing here knows of graphs, modules or torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from .ops import check


class Unsupported(Exception):
    """No kernel of this kind can run the program: the message for users is the reason."""


@dataclass(frozen=True)
class Tensor:
    """An argument of a kernel: a contiguous tensor of dimensions `axes`, then `shape`.

    `kind` is "float" (the launch's dtype), "acc" (the dtype of sums), "int" (int64), "bool", or
    "seed": one int64, from which the elements of such a tensor are drawn when they are used.
    """

    name: str
    shape: tuple[int, ...]
    axes: tuple[str, ...]
    kind: str = "float"


@dataclass(frozen=True)
class Part(Tensor):
    """A tensor that is sharded: each thread block handles only its own elements.

    Of every `period` elements a block has up to `units`. With a period of 0, the first block has
    all. The variable `shard_start` holds the index of a block's first element. If shards are not
    `even`, the last blocks have fewer elements. The value is the part of the tensor that begins at
    its element `first`.
    """

    period: int = 0
    units: int = 0
    shard_start: str = ""
    even: bool = True
    first: int = 0


@dataclass(frozen=True)
class Op:
    """One value of a step: an operation of a `kind` in `ops.OP_KINDS`.

    The kind defines what the operation computes and which attributes it has.

    `args` are the names of other values. `dtype` is "float", "int" or "bool". `note` names the
    user's node that it comes from. In a sharded program the attribute `units` is the number of
    elements that a block has of each part of the value, and `own` means that the value belongs to
    the block's own row. Raises ValueError if arguments or attributes are not those of the kind.
    """

    name: str
    kind: str
    args: tuple[str, ...] = ()
    shape: tuple[int, ...] = ()
    dtype: str = "float"
    attrs: dict[str, Any] = field(default_factory=dict)
    note: str = ""

    def __post_init__(self) -> None:
        check(self.name, self.kind, len(self.args), self.attrs.keys())


@dataclass(frozen=True)
class LoopState:
    """The value that `next` had `delay` steps ago. The first steps read `inits`, in their order.

    There is one initial value for all of the first steps, or one for each of the `delay` steps.
    """

    name: str
    delay: int
    inits: tuple[str, ...]
    next: str


@dataclass(frozen=True)
class LoopProgram:
    """A loop over `axis`; `stores` are the values that each step writes, and where.

    Without an axis ("") it is one step, or a part of one: a phase.

    `block_axis` is an axis that every step reads in full. A thread block then has one row and all
    of its positions, at most `most`. If the axis is `open` its length is not known: the kernel fits
    `most` positions, and there may be more.

    For a ragged loop axis, `ends` has the lengths of the rows and `order` their numbers, the
    longest first. A program takes no step that none of its rows has. What is stored beyond a row's
    last position repeats it (`held`), or is zero.
    """

    name: str
    axis: str
    rows: tuple[str, ...]
    reverse: bool
    tensors: tuple[Tensor, ...]
    ops: tuple[Op, ...]
    states: tuple[LoopState, ...]
    stores: tuple[tuple[str, Tensor], ...]
    block_axis: str = ""
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
        """The axes whose lengths a launch gives: the loop's own first, then those of the rows."""
        used = {a for t in (*self.tensors, *(t for _, t in self.stores)) for a in t.axes}
        used |= {op.attrs["axis"] for op in self.ops if op.kind == "size"}
        own, block = [(a,) if a else () for a in (self.axis, self.block_axis)]
        return tuple(dict.fromkeys((*own, *self.rows, *block, *sorted(used))))
