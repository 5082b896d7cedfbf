"""What generated torch code and a backend with kernels know of each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from graphnn.backends.torch.codegen.code import Line
from graphnn.backends.torch.codegen.scope import Scope
from graphnn.ir.graph import IR, Node
from graphnn.kernels.ir.symbols import NameTable
from graphnn.planner.attention.hops import Hops
from graphnn.planner.attention.tiles import AttentionRegion
from graphnn.planner.core.regions import Loop

Tensor = torch.Tensor


@dataclass
class Function:
    """A generated function, `call(tensors, sizes)`.

    `sizes` are the lengths of `axes`. `floating` is the index of the first tensor in the graph's
    floating dtype. `results` are the axes, shapes and dtypes of the results; None stands for the
    dtype of that tensor. `user_code`: it calls functions of the user. `layouts` are the axes that
    the first dimensions of each tensor are; calls on the beginnings of tensors along the axes
    `cuttable` are valid calls. `lengths` is the index of the tensor that has those of a ragged
    axis.
    """

    name: str
    source: str
    call: Callable[[Sequence[Tensor], Sequence[int]], list[Tensor]]
    axes: tuple[str, ...]
    floating: int | None
    results: list[tuple[tuple[str, ...], tuple[int, ...], torch.dtype | None]]
    user_code: bool
    layouts: tuple[tuple[str, ...], ...] = ()
    cuttable: frozenset[str] = frozenset()
    lengths: int | None = None

    def shapes(self, tensors: Sequence[Tensor], sizes: Sequence[int]) -> list[Tensor]:
        """Empty tensors of the results' shapes, for tracing."""
        known = dict(zip(self.axes, sizes, strict=True))
        like = tensors[0]
        default = like.dtype if self.floating is None else tensors[self.floating].dtype
        return [
            like.new_empty([*(known[a] for a in axes), *shape], dtype=dtype or default)
            for axes, shape, dtype in self.results
        ]


class Lowering(Protocol):
    """Turns loops into kernels; methods return None for what stays with torch.

    `key` identifies its options. `names` are the names of loops, `choices` how functions run their
    loops, `unwritten` why attention has no kernel, by name, and `unwritten_phases` why phases have
    none: by the names of their functions, then by their own.
    """

    names: NameTable
    choices: dict[str, Any]
    unwritten: dict[str, str]
    unwritten_phases: dict[str, dict[str, str]]
    dispatchers: dict[str, Any]

    @property
    def key(self) -> str:
        """Every option as text."""
        ...

    def dispatched(
        self, write: Callable[[Any], Function], direction: str, layer: str, axis: str
    ) -> Function:
        """The function that `write` returns for this lowering, or a dispatcher over variants.

        The variants run the loops by other strategies; a call takes the best for its sizes.
        `direction` names the function in reports, `layer` the loop, which is over `axis`.
        """
        ...

    def write(self, scope: Scope, loop: Loop, keep: set[int], name: str) -> list[Line] | None:
        """Statements that run a loop by kernels."""
        ...

    def sources(self) -> list[str]:
        """The source of every kernel."""
        ...

    def pair(self, scope: Scope, loops: list[Loop], keep: set[int], name: str) -> list[Line] | None:
        """Statements that run two loops at once; None runs each on its own."""
        ...

    def together(self, ir: IR, loops: Sequence[Loop], one: Loop) -> bool:
        """Whether loops that feed each other are faster as the loop `one`."""
        ...

    def called(self) -> dict[str, Any]:
        """Functions that replace those of `loading.CALLED`."""
        ...

    def layer(self, node: Node, own: Any, wanted: Sequence[int]) -> Any:
        """A callable that runs one of torch's layers, or `own`, the program of its definition."""
        ...

    def attend(self, part: AttentionRegion, passes: frozenset[str]) -> Any:
        """Kernels for a contraction."""
        ...

    def hops(self, part: Hops, passes: frozenset[str]) -> Any:
        """Kernels for hops."""
        ...

    def note(self, ir: IR) -> str:
        """Text to append to the title of a function written from `ir`."""
        ...

    def replayed(self, ir: IR, call: Any, axes: Sequence[str]) -> Any:
        """The function itself, or one that replays its launches."""
        ...
