"""Checks the kernels of a loop on first use: against the same loop as torch code.

If one fails, the loop runs by the next way: smaller tiles, then the other strategies, then torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

import torch

from graphnn.backends.torch.codegen.lowering import Function
from graphnn.ir.graph import BATCH
from graphnn.kernels.precision import matmul_precision
from graphnn.kernels.select.strategies import COOPERATIVE, RESIDENT, STEPWISE, strategy_name
from graphnn.kernels.trust.cut import STEPS, cut_tensors, tile_rows
from graphnn.kernels.trust.gate import Cut, Gate, Problem, Run, Way

Tensors = Sequence[torch.Tensor]
# what is tried after one another, from the strategy that would be taken on: first with tiles of any
# number of rows, then of fewer, where compilers have fewer faults
LADDER = RESIDENT, COOPERATIVE, STEPWISE
FEWER_ROWS = {RESIDENT: (32, 16), COOPERATIVE: (16,), STEPWISE: ()}


class TrustedLoop:
    """Runs a function of a loop over `axis` by ways that were found right.

    `variant` returns the function by a strategy and for a most number of rows of its tiles, or None
    if there is none; `torch_code` writes it as torch code.
    """

    def __init__(
        self,
        gate: Gate,
        form: Function,
        axis: str,
        variant: Callable[[str, int], Run | None],
        torch_code: Callable[[], Function],
    ):
        self.gate, self.form, self.axis = gate, form, axis
        self.variant, self._torch_code = variant, torch_code

    @cached_property
    def reference(self) -> Run:
        """The function as torch code, written when it is first needed."""
        return self._torch_code().call

    def __call__(self, strategy: str, tensors: Tensors, sizes: Sequence[int]) -> list[torch.Tensor]:
        like = tensors[self.form.floating or 0]
        kind = (
            *(strategy, like.dtype, like.device, torch.are_deterministic_algorithms_enabled()),
            matmul_precision() if like.dtype == torch.float32 else "",
            *sizes,
        )
        known = self.gate.known.get(kind)
        if known is not None:
            return known(tensors, sizes)
        problem = Problem(lambda: self._ways(strategy), self._by_torch, self.cut)
        return self.gate(kind, problem, tensors, sizes)

    def usable(self, strategy: str, tensors: Tensors, sizes: Sequence[int]) -> bool:
        """Return whether a strategy, asked for, is not replaced by another one."""
        self(strategy, tensors, sizes)
        return strategy_name(strategy) not in self.gate.refused

    def keep_only(self, strategies: set[str]) -> None:
        """Drop the functions of other strategies."""
        known = self.gate.known
        self.gate.known = {kind: run for kind, run in known.items() if kind[0] in strategies}

    def _by_torch(self, tensors: Tensors, sizes: Sequence[int]) -> list[torch.Tensor]:
        return self.reference(tensors, sizes)

    def _ways(self, strategy: str) -> Iterator[Way]:
        """Yield the ways in the order in which they are tried; kernels are written when due."""
        for name in LADDER[LADDER.index(strategy) :] if strategy in LADDER else ():
            for rows in (0, *FEWER_ROWS[name]):
                run = self.variant(name, rows)
                if run is None:
                    break
                title = strategy_name(name)
                yield Way(f"{title}, at most {rows} rows" if rows else title, run, rows)

    def cut(self, tensors: Tensors, sizes: Sequence[int], rows: int) -> Cut:
        """Return the first steps of a few examples, as far as the loop can do with fewer."""
        full = dict(zip(self.form.axes, sizes, strict=True))
        wanted = {self.axis: STEPS, BATCH: tile_rows(rows)}
        lengths = {a: n for a, n in wanted.items() if a in self.form.cuttable and full[a] > n}
        if not lengths:
            return Cut(tensors, sizes)
        small = cut_tensors(tensors, self.form.layouts, lengths)
        at = self.form.lengths
        if at is not None and self.axis in lengths:
            small[at] = small[at].clamp(max=lengths[self.axis])
        return Cut(small, [lengths.get(a, n) for a, n in full.items()], full)
