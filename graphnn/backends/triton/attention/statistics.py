"""Reductions of what is computed for each query and key, as kernels: one whose rows are the queries
for what is reduced over keys, one whose rows are the keys for what is reduced over queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from graphnn.backends.torch.codegen.scope import function_name
from graphnn.backends.torch.operators.statistics_tiles import SAVED_TEXT
from graphnn.backends.triton.attention.operators import Backward, Kernels, Stage
from graphnn.backends.triton.attention.to_kernel import Exit, Exits, Kernel, Roles, back, roles
from graphnn.kernels.ir.program import Unsupported
from graphnn.planner.attention.statistics import StatisticsRegion

Tensor = torch.Tensor
# a position is found along with the number that is there
ORDER = ("total", "place", "most")


class Reductions(Kernels):
    """Runs reductions by generated kernels. Raises Unsupported where there can be none."""

    part: StatisticsRegion  # type: ignore[assignment]

    def __init__(
        self,
        part: StatisticsRegion,
        passes: frozenset[str],
        interpret: bool,
        float32: str | None = None,
    ):
        self.part, self.passes, self.interpret = part, passes, interpret
        self.float32 = float32
        self.role: Roles = roles(part)
        self.name = function_name(part.name)
        self.exits = exits(part, self.role)
        kernels = back(part, self.role, part.ir, self.exits, self.name, "reductions")
        self.stages = [self._stage(k) for k in kernels]
        self._backwards: dict[Any, Backward] = {}
        self.full = part.moving, (True,) * len(part.ends)
        if part.ends:
            self.backward_of(*self.full)

    def forward(self, tensors: Sequence[Tensor], sizes: Mapping[str, int]) -> list[Tensor]:
        """The results, in the dtype of the call; positions in int64."""
        part = self.part
        kind, acc = self.kinds(tensors)
        values = dict(zip(part.reads, tensors, strict=True))
        found: dict[tuple[int, str], Tensor] = {}
        for stage in self.stages:
            how = [_how(stage.kernel, k) for k in range(len(stage.kernel.stores))]
            kinds = [torch.int64 if h == "place" else acc for h in how]
            outs = stage.run(self._picked(stage, values), sizes, kinds)
            found.update(zip(zip(stage.kernel.stores, how, strict=True), outs, strict=True))
        return [self._merged(i, found, kind) for i in part.results]

    def _merged(self, i: int, found: Mapping[tuple[int, str], Tensor], kind: torch.dtype) -> Tensor:
        """The parts of a walk as one."""
        if self.part.sums(i):
            return found[i, "total"].sum(0).to(kind)
        tops = found[i, "most"]
        if (i, "place") not in found:
            return tops.amax(0).to(kind)
        return found[i, "place"].gather(0, tops.argmax(0, keepdim=True))[0]

    def pull(
        self,
        tensors: Sequence[Tensor],
        flows: Sequence[Tensor | None],
        wanted: Sequence[bool],
        sizes: Mapping[str, int],
    ) -> list[Tensor]:
        """The gradients of the reads that are wanted, given those of some of `part.ends`."""
        code = self.backward_of(tuple(wanted), tuple(f is not None for f in flows))
        given = [*tensors, *(f for f in flows if f is not None)]
        return self.gradients(code, given, wanted, sizes)

    def kept(self) -> list[int]:
        """A backward reads nothing besides."""
        return []

    def _all(self) -> tuple[list[Stage], list[Stage]]:
        return self.stages, self.backward_of(*self.full).stages if self.part.ends else []

    def report(self) -> list[str]:
        """How it computes, in words for users."""
        texts = []
        for word, stages in zip(("forward", "backward"), self._all(), strict=True):
            ways = [s.kernel.program.name.rpartition("_")[2] for s in stages]
            by = ", ".join(f"by {w}" for w in ways)
            texts += [f"{word}: {len(ways)} kernel{'s' * (len(ways) > 1)}: {by}"] * bool(ways)
        return [*texts, SAVED_TEXT]

    def sources(self) -> list[str]:
        """The kernels, forward and backward, and what torch does after them."""
        forward, backward = self._all()
        after = self.backward_of(*self.full).after if self.part.ends else None
        texts = [s.run.source.text for s in (*forward, *backward)]
        return texts + ([after.source] if after is not None else [])


def _how(kernel: Kernel, k: int) -> str:
    program = kernel.program
    kind = next(op.kind for op in program.ops if op.name == program.stores[k].op)
    return kind


def exits(part: StatisticsRegion, role: Roles) -> list[Exit]:
    """Where results leave the tiles."""
    sums = Exits(part.ir, part, role).found
    found = []
    for i in part.results:
        node, turned = part.ir[i], part.reduced(i) != part.axis
        if part.sums(i):
            if i not in sums or sums[i].kind != ("column" if turned else "row"):
                raise Unsupported(
                    f"'{node.label}' at {node.site} is a sum of a kind tiles do not have"
                )
            found.append(sums[i])
            continue
        axes = {*role.blocks, *(role.columns if turned else role.rows)}
        kind, gone = "column" if turned else "row", frozenset({part.reduced(i)})
        more = {"axis_argmax": ["place", "most"]}.get(node.op, ["most"])
        found += [Exit(i, node.inputs, "", kind, frozenset(axes), gone, how) for how in more]
    return sorted(found, key=lambda e: ORDER.index(e.how))
