"""The tile size of an attention kernel: rows, columns and warps that fit a GPU, present or not."""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from ..cache import recall, remember
from ..codegen.digest import digest
from ..feasibility.aot import DoesNotCompile, KernelCase, unverified
from ..feasibility.large_tiles import LARGE, large_tiles, most_rows
from ..feasibility.limits import register_cap
from ..feasibility.targets import refusal, shared_memory_of
from ..ir.program import Unsupported
from ..rules.table import loaded
from ..trust.switches import most_tile_rows
from .emit import AttentionSource

POINTER_TYPES = {"int": "*i64", "bool": "*i1", "acc": "*fp32", "seed": "*i64"}
STAGES = 2


class TileShape(NamedTuple):
    """Rows and columns of a tile, and the warps that compute it."""

    rows: int
    columns: int
    warps: int


# larger tiles first; matmuls need at least 16 rows and columns
MATMUL_SHAPES = [
    *(TileShape(64, 64, 4), TileShape(64, 64, 8), TileShape(64, 32, 4), TileShape(64, 32, 8)),
    *(TileShape(32, 64, 4), TileShape(32, 32, 4)),
    # the last is for values of more than 128 elements, whose sums fill the registers of 4 warps
    *(TileShape(16, 16, 4), TileShape(16, 16, 8)),
]
# for values over rows, columns and a width: one column at a time keeps a tile [rows, width] in
# registers
WIDE_SHAPES = [TileShape(16, 1, 4), TileShape(16, 1, 8)]
# for programs without rows: one query per program
SINGLE_ROW_SHAPES = [TileShape(1, 128, 4), TileShape(1, 64, 4), TileShape(1, 32, 4)]
FEW_ROWS_SHAPES = [TileShape(16, 64, 4), TileShape(16, 32, 4), TileShape(16, 16, 4)]
# the interpreter's time depends on the number of steps, not on the size of tiles
INTERPRETED_SHAPE = TileShape(16, 16, 4)


def tile_shapes(source: AttentionSource, few: bool = False, target: str = "") -> list[TileShape]:
    """Return the tiles that a kernel may use, the best first. `few`: at most 16 rows.

    With a target they have at most the rows that matmuls may have on it. Columns of keys may
    become rows of a matmul: only the compiled kernel shows that.
    """
    if not source.program.rows:
        return SINGLE_ROW_SHAPES
    if source.wide:
        return WIDE_SHAPES
    # top-k lists are filled in rounds, as many as the slowest row of a tile needs
    shapes = FEW_ROWS_SHAPES if few or source.program.top else MATMUL_SHAPES
    most = min(most_tile_rows(), most_rows(target) if target else LARGE)
    return [shape for shape in shapes if shape.rows <= most]


def attention_case(
    source: AttentionSource, dtype: str, shape: TileShape, precision: str = "ieee"
) -> KernelCase:
    """Return a kernel as a case of the ahead-of-time check.

    `dtype` is that of its floats: "bf16", "fp16" or "fp32".
    """
    function = getattr(loaded(source.text, source.name), source.name)
    names = function.arg_names
    sums = {s.tensor.name for s in source.program.stores if s.kind == "tile"}
    sums |= {source.program.peak.name} if source.program.peak else set()
    kinds = [
        "*fp32" if t.name in sums else POINTER_TYPES.get(t.kind, f"*{dtype}")
        for t in source.pointers
    ]
    kinds += ["i32"] * (len(source.sizes) + 1)
    constants: dict[str, Any] = {
        "ROWS": shape.rows,
        "COLS": shape.columns,
        "ACC": tl.float32,
        "PRECISION": precision,
        "UPCAST": False,
    }
    return KernelCase(
        f"{source.name} {dtype} {shape.rows} x {shape.columns}, {shape.warps} warps",
        function,
        dict(zip(names, kinds, strict=False)),
        constants,
        shape.warps,
        stages=STAGES,
        maxnreg=register_cap(32 * shape.warps),
        own_process=dtype == "fp32" and precision == "ieee",
    )


def choose_tile(
    source: AttentionSource, dtype: str, target: str, precision: str, few: bool = False
) -> TileShape:
    """Return the first tile without spills, or else the one with the fewest; it is remembered.

    Raises Unsupported if no tile fits the target.
    """
    if why := refusal(target, dtype, precision):
        raise Unsupported(why)
    shapes = tile_shapes(source, few, target)
    key = {"contraction": digest(source), "dtype": dtype, "target": target, "precision": precision}
    key["shapes"] = str([tuple(shape) for shape in shapes])
    key["large"] = str(large_tiles(target))
    key["triton"] = triton.__version__
    known = recall(key)
    if known is not None and "unfit" in known:
        raise Unsupported(known["unfit"])
    if known is not None:
        return TileShape(known["rows"], known["columns"], known["warps"])
    judged = []
    for shape in shapes:
        case = attention_case(source, dtype, shape, precision)
        try:
            row = case.judge(target)
        except DoesNotCompile:
            continue
        found = row.resources
        if found is None or found.shared > shared_memory_of(target) or unverified(found):
            continue
        judged.append((found.spills, shape))
        if not found.spills:
            break
    if not judged:
        tried = ", ".join(f"{x.rows} x {x.columns}" for x in shapes)
        unfit = f"no tile of {source.name} fits {target} (tried: {tried})"
        remember(key, {"unfit": unfit})
        raise Unsupported(unfit)
    chosen = min(judged)[1]
    remember(key, chosen._asdict())
    return chosen
