"""Checks the kernels of attention on first use: a few queries of a few examples, by torch.

The axis that is attended to is not cut: the number of parts of its loop depends on its length.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence

import torch

from graphnn.ir.graph import IR, Node
from graphnn.kernels.executors.executor import Executor
from graphnn.kernels.ir.program import Unsupported
from graphnn.kernels.precision import matmul_precision
from graphnn.kernels.trust.cut import TILES, cut_tensors, tile_rows
from graphnn.kernels.trust.failures import KernelWarning
from graphnn.kernels.trust.gate import Cut, Gate, Problem, Run, Tensors, Way

Sizes = Mapping[str, int]
Layouts = Sequence[Sequence[str]]
Compared = Callable[[list[torch.Tensor], Tensors, Sizes], list[torch.Tensor]]


class TrustedKernels:
    """Runs the kernels of one attention, each direction by what was found right.

    Rows of tiles run over the axes `rows`, programs over `blocks`, in a graph `ir`.
    """

    def __init__(
        self, name: str, executor: Executor, ir: IR, rows: Sequence[str], blocks: Sequence[str]
    ):
        self.name, self.executor = name, executor
        self.rows, self.blocks = (_cuttable(ir, axes) for axes in (rows, blocks))
        self.gates: dict[str, Gate] = {}
        # directions whose kernels fit no GPU of the executor, and why
        self.unfit: dict[str, str] = {}

    def __call__(
        self,
        direction: str,
        variant: Hashable,
        tensors: Tensors,
        sizes: Sizes,
        run: Run,
        reference: Run,
        layouts: Callable[[], Layouts],
        compared: Compared | None = None,
    ) -> list[torch.Tensor]:
        """Return the results of `run`, or of `reference`, which computes them by torch.

        `variant` distinguishes functions of one direction. `layouts` returns the axes of the first
        dimensions of each tensor, and `compared` what of the results is compared.
        """
        if not self.executor.checked:
            return self._if_it_fits(direction, tensors, sizes, run, reference)
        gate = self.gates.get(direction)
        if gate is None:
            gate = self.gates[direction] = Gate(f"{self.name}, {direction}", self.executor)
        like = next(t for t in tensors if t.is_floating_point())
        precision = matmul_precision() if like.dtype == torch.float32 else ""
        kind = (variant, like.dtype, like.device, precision, *sizes.values())
        known = gate.known.get(kind)
        if known is not None:
            return known(tensors, sizes)
        cut = lambda t, s, rows: self._cut(t, s, rows, layouts())
        ways = [Way("attention", run)]
        return gate(kind, Problem(lambda: ways, reference, cut, compared), tensors, sizes)

    def _if_it_fits(
        self, direction: str, tensors: Tensors, sizes: Sizes, run: Run, reference: Run
    ) -> list[torch.Tensor]:
        """Return the results of kernels, unchecked; of torch, with a warning, if no tile fits."""
        if direction not in self.unfit:
            try:
                return run(tensors, sizes)
            except Unsupported as reason:
                self.unfit[direction] = str(reason)
                warnings.warn(
                    f"{self.name}, {direction}: kernels are not used: {reason}. Torch computes it",
                    KernelWarning,
                    stacklevel=2,
                )
        return reference(tensors, sizes)

    def _cut(self, tensors: Tensors, sizes: Sizes, rows: int, layouts: Layouts) -> Cut:
        wanted = dict.fromkeys(self.blocks, TILES) | dict.fromkeys(self.rows, tile_rows(rows))
        lengths = {a: n for a, n in wanted.items() if sizes[a] > n}
        if not lengths:
            return Cut(tensors, sizes)
        return Cut(cut_tensors(tensors, layouts, lengths), {**sizes, **lengths}, dict(sizes))

    @property
    def refused(self) -> list[str]:
        """The directions whose kernels were refused, and why, as text."""
        refused = [*self.unfit.items()]
        refused += [
            (d, reason) for d, gate in self.gates.items() for reason in gate.refused.values()
        ]
        return [f"{d}: kernels are refused: {reason}; torch computes it" for d, reason in refused]


def layouts_of(ir: IR, nodes: Sequence[int]) -> list[tuple[str, ...]]:
    """Return the axes that the tensors of nodes have as their first dimensions."""
    return [_layout(ir, ir[i]) for i in nodes]


def _layout(ir: IR, node: Node) -> tuple[str, ...]:
    """Return the axes of a node's tensor; noise is given as its seed, which has none."""
    return () if "places" in node.attrs else ir.layout(node.axes)


def _cuttable(ir: IR, axes: Sequence[str]) -> tuple[str, ...]:
    """Return the axes along which inputs may end earlier: of no fixed length, and not renamed."""
    renamed = {a for n in ir if n.op == "rename" for a in (*n.axes, *ir[n.inputs[0]].axes)}
    return tuple(a for a in axes if ir.axes[a].length is None and a not in renamed)
