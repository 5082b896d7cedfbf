"""The tile of a contraction's kernel: rows, columns and warps that fit a GPU, which need not be
there."""

from __future__ import annotations

from typing import Any, NamedTuple

import triton.language as tl

from ..analysis.loop_carried import loaded
from ..cache import recall, remember
from ..feasibility.aot import Case, DoesNotCompile
from ..feasibility.limits import register_cap
from .emit import AttentionSource

POINTERS = {"int": "*i64", "bool": "*i1", "acc": "*fp32", "seed": "*i64"}
STAGES = 2


class Shape(NamedTuple):
    """Rows and columns of a tile, and the warps that compute it."""

    rows: int
    columns: int
    warps: int


# the larger first; matrix products take 16 rows and columns at least
PLAIN = [
    *(Shape(64, 64, 4), Shape(64, 64, 8), Shape(64, 32, 4), Shape(64, 32, 8)),
    # the last for values of more than 128 numbers, whose sums fill the registers of 4 warps
    *(Shape(32, 32, 4), Shape(16, 16, 4), Shape(16, 16, 8)),
]
# columns one by one: a tile of [rows, width] stays in registers
WIDE = [Shape(16, 1, 4), Shape(16, 1, 8)]
# one row: a query of its own for each program
SINGLE = [Shape(1, 128, 4), Shape(1, 64, 4), Shape(1, 32, 4)]
# for few rows
SMALL = [Shape(16, 64, 4), Shape(16, 32, 4), Shape(16, 16, 4)]
# the interpreter's time goes with the steps of a walk, not with the size of tiles
INTERPRETED = Shape(16, 16, 4)


def ladder(source: AttentionSource, few: bool = False) -> list[Shape]:
    """The tiles that a kernel may have, the best first. `few`: there are at most 16 rows."""
    if not source.program.rows:
        return SINGLE
    if source.wide:
        return WIDE
    # lists of the best are filled in rounds, of which there are as many as the slowest row needs
    return SMALL if few or source.program.top else PLAIN


def case(source: AttentionSource, dtype: str, shape: Shape, precision: str = "ieee") -> Case:
    """A kernel with numbers of `dtype` ("bf16", "fp16", "fp32"), to be compiled ahead of time."""
    function = getattr(loaded(source.text, source.name), source.name)
    names = function.arg_names
    sums = {s.tensor.name for s in source.program.stores if s.kind == "tile"}
    sums |= {source.program.peak.name} if source.program.peak else set()
    kinds = [
        "*fp32" if t.name in sums else POINTERS.get(t.kind, f"*{dtype}") for t in source.pointers
    ]
    kinds += ["i32"] * (len(source.sizes) + 1)
    constants: dict[str, Any] = {
        "ROWS": shape.rows,
        "COLS": shape.columns,
        "ACC": tl.float32,
        "PRECISION": precision,
        "UPCAST": False,
    }
    return Case(
        f"{source.name} {dtype} {shape.rows} x {shape.columns}, {shape.warps} warps",
        function,
        dict(zip(names, kinds, strict=False)),
        constants,
        shape.warps,
        stages=STAGES,
        maxnreg=register_cap(32 * shape.warps),
        own_process=dtype == "fp32" and precision == "ieee",
    )


def best(
    source: AttentionSource, dtype: str, target: str, precision: str, few: bool = False
) -> Shape:
    """The first tile of the ladder without spills, else the one with the fewest; remembered."""
    key = {"contraction": source.text, "dtype": dtype, "target": target, "precision": precision}
    shapes = ladder(source, few)
    key["shapes"] = str(shapes)
    known = recall(key)
    if known is not None:
        return Shape(known["rows"], known["columns"], known["warps"])
    judged = []
    for shape in shapes:
        made = case(source, dtype, shape, precision)
        try:
            row = made.judge(target)
        except DoesNotCompile:
            continue
        if row.resources is None or row.resources.shared > row.resources.shared_limit:
            continue
        judged.append((row.resources.spills, shape))
        if not row.resources.spills:
            break
    chosen = min(judged)[1] if judged else shapes[-1]
    remember(key, chosen._asdict())
    return chosen
