"""Top-k of each row over columns in parts: the best of each part, then the best of these."""
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import triton
import triton.language as tl

from ..codegen.prelude import LAST_POSITION, empty_topk, merge_topk
from ..executors.executor import Executor, KernelLaunch
from ..feasibility.aot import KernelCase
from .emit import AttentionSource
from .launch import AttentionLauncher

Tensor = torch.Tensor
# candidates that are merged at once
CHUNK, WARPS = 128, 4
# longer lists would not stay in registers next to a tile of scores
MAX_K = 128


@triton.jit(do_not_specialize=["n_rows", "n_parts", "n_columns"])
def merge_lists(
    scores_ptr, positions_ptr, out_ptr, n_rows, n_parts, n_columns,
    TOP: tl.constexpr, KEEP: tl.constexpr, COLS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Merge the lists of all parts, (parts, rows, TOP), into one per row; one row per program."""
    row = tl.program_id(0).to(tl.int64)
    scores, positions = empty_topk(1, TOP, KEEP, ACC)
    for start in range(0, n_parts * TOP, COLS):
        candidate = start + tl.arange(0, COLS)[None, :]
        listed = candidate < n_parts * TOP
        at = (candidate // TOP * n_rows + row) * TOP + candidate % TOP
        score = tl.load(scores_ptr + at, mask=listed, other=0.0)
        position = tl.load(positions_ptr + at, mask=listed, other=LAST_POSITION)
        scores, positions = merge_topk(scores, positions, score, position, position < n_columns)
    slot = tl.arange(0, KEEP)[None, :]
    tl.store(out_ptr + row * TOP + slot, positions, mask=slot < TOP)


class TopKLauncher:
    """A callable kernel that finds the best columns of each row."""

    def __init__(self, source: AttentionSource, executor: Executor, float32: str | None = None):
        self.run, self.executor = AttentionLauncher(source, executor, float32=float32), executor

    def __call__(self, tensors: Sequence[Tensor], sizes: Mapping[str, int]) -> Tensor:
        """Return the positions of the best columns, (axes of the rows, k), int64, in no order.

        k is at most the number of columns.
        """
        program = self.run.source.program
        top = program.top
        assert top is not None
        arguments = zip(program.tensors, tensors, strict=True)
        dtype = next(x.dtype for t, x in arguments if t.kind == "float")
        acc = torch.promote_types(dtype, torch.float32)
        scores, positions = self.run(tensors, sizes, [acc, torch.int64])
        columns = math.prod(sizes[a] for a in program.columns)
        found = positions[0] if len(positions) == 1 else self._merged(scores, positions, columns)
        return found[..., : min(top.count, columns)]

    def _merged(self, scores: Tensor, positions: Tensor, columns: int) -> Tensor:
        found = positions.new_empty(positions.shape[1:])
        rows = math.prod(found.shape[:-1])
        acc = tl.float64 if scores.dtype == torch.float64 else tl.float32
        args = (scores, positions, found, rows, len(scores), columns)
        constants = {**_constants(found.shape[-1]), "ACC": acc}
        options: dict[str, Any] = {"num_warps": WARPS, "enable_fp_fusion": True}
        with self.executor.device_of(scores):
            launch = KernelLaunch(
                merge_lists, (rows,), args, constants, options, [2], family="top-k"
            )
            self.executor.launch(launch)
        return found


def _constants(top: int) -> dict[str, int]:
    return {"TOP": top, "KEEP": 1 << (top - 1).bit_length(), "COLS": CHUNK}


def merge_case(top: int) -> KernelCase:
    """Return the kernel that merges lists of length `top` as a case of the ahead-of-time check."""
    kinds = {"scores_ptr": "*fp32", "positions_ptr": "*i64", "out_ptr": "*i64"}
    kinds |= dict.fromkeys(("n_rows", "n_parts", "n_columns"), "i32")
    constants = {**_constants(top), "ACC": tl.float32}
    return KernelCase(f"merge of the {top} best", merge_lists, kinds, constants, WARPS)
