"""The best columns of each row, of a walk in parts: each part's best, then the best of these."""
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import triton
import triton.language as tl

from ..codegen.prelude import NEVER, kept, unfilled
from ..feasibility.aot import Case
from ..interpreter import interpreter
from .emit import AttentionSource
from .launch import Runner

Tensor = torch.Tensor
# candidates that are looked at together
CHUNK, WARPS = 128, 4
# longer lists would not stay in registers beside a tile of scores
LONGEST = 128


@triton.jit(do_not_specialize=["n_rows", "n_parts", "n_columns"])
def merge(
    best_ptr, places_ptr, out_ptr, n_rows, n_parts, n_columns,
    TOP: tl.constexpr, KEEP: tl.constexpr, COLS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """One row a program: the best of what the parts of a walk found, (parts, rows, TOP)."""
    row = tl.program_id(0).to(tl.int64)
    best, places = unfilled(1, TOP, KEEP, ACC)
    for start in range(0, n_parts * TOP, COLS):
        candidate = start + tl.arange(0, COLS)[None, :]
        listed = candidate < n_parts * TOP
        at = (candidate // TOP * n_rows + row) * TOP + candidate % TOP
        score = tl.load(best_ptr + at, mask=listed, other=0.0)
        place = tl.load(places_ptr + at, mask=listed, other=NEVER)
        best, places = kept(best, places, score, place, place < n_columns)
    slot = tl.arange(0, KEEP)[None, :]
    tl.store(out_ptr + row * TOP + slot, places, mask=slot < TOP)


class Finder:
    """A kernel that finds the best columns, made callable."""

    def __init__(self, source: AttentionSource, interpret: bool, float32: str | None = None):
        self.run, self.interpret = Runner(source, interpret, float32=float32), interpret

    def __call__(self, tensors: Sequence[Tensor], sizes: Mapping[str, int]) -> Tensor:
        """Where the best columns are: (axes of the rows, k), int64, in no order; k is no more than
        there are columns."""
        program = self.run.source.program
        top = program.top
        assert top is not None
        given = zip(program.tensors, tensors, strict=True)
        dtype = next(x.dtype for t, x in given if t.kind == "float")
        acc = torch.promote_types(dtype, torch.float32)
        best, places = self.run(tensors, sizes, [acc, torch.int64])
        columns = math.prod(sizes[a] for a in program.columns)
        found = places[0] if len(places) == 1 else self._merged(best, places, columns)
        return found[..., : min(top.count, columns)]

    def _merged(self, best: Tensor, places: Tensor, columns: int) -> Tensor:
        found = places.new_empty(places.shape[1:])
        rows = math.prod(found.shape[:-1])
        acc = tl.float64 if best.dtype == torch.float64 else tl.float32
        args = (best, places, found, rows, len(best), columns)
        constants = {**_constants(found.shape[-1]), "ACC": acc}
        if self.interpret:
            interpreter.launch(merge, (rows,), *args, **constants)
        else:
            with torch.cuda.device_of(best):
                merge[(rows,)](*args, **constants, num_warps=WARPS, enable_fp_fusion=True)
        return found


def _constants(top: int) -> dict[str, int]:
    return {"TOP": top, "KEEP": 1 << (top - 1).bit_length(), "COLS": CHUNK}


def case(top: int) -> Case:
    """The merging of lists so long, to be compiled ahead of time."""
    kinds = {"best_ptr": "*fp32", "places_ptr": "*i64", "out_ptr": "*i64"}
    kinds |= dict.fromkeys(("n_rows", "n_parts", "n_columns"), "i32")
    constants = {**_constants(top), "ACC": tl.float32}
    return Case(f"merge of the {top} best", merge, kinds, constants, WARPS)
