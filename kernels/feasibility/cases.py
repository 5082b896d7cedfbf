"""Emitted loop kernels as cases of the ahead-of-time check."""

from __future__ import annotations

from typing import Any

import triton.language as tl

from ..codegen.persistent import LoopSource
from ..cooperative.codegen.emit import CooperativeSource
from ..rules.table import loaded
from .aot import KernelCase
from .limits import PATIENCE, register_option

POINTER_TYPES = {"int": "*i64", "bool": "*i1", "seed": "*i64", "acc": "*fp32"}


def loop_case(
    source: LoopSource, dtype: str, rows: int, warps: int, precision: str = "ieee"
) -> KernelCase:
    """Return the case of a kernel, compiled as a launch would compile it.

    `dtype` is that of its floats: "bf16", "fp16" or "fp32".
    """
    function = getattr(loaded(source.text, source.name), source.name)
    names = function.arg_names
    kinds = [POINTER_TYPES.get(t.kind, f"*{dtype}") for t in source.pointers]
    constants: dict[str, Any] = {
        "ROWS": rows,
        "ACC": tl.float32,
        "PRECISION": precision,
        "UPCAST": False,
    }
    cooperative = isinstance(source, CooperativeSource)
    if isinstance(source, CooperativeSource):
        kinds += ["*fp32" if e.wide else f"*{dtype}" for e in source.exchanges]
        kinds += ["*i32", "*i32", "i32"]
        constants["PATIENCE"] = PATIENCE
    kinds += ["i32"] * len(source.sizes)
    weights = tuple(
        name for name, t in zip(names, source.pointers, strict=False) if t.name in source.weights
    )
    return KernelCase(
        f"{source.name} {dtype} rows {rows} warps {warps}",
        function,
        dict(zip(names, kinds, strict=False)),
        constants,
        warps,
        weights,
        cooperative=cooperative,
        maxnreg=register_option(32 * warps, source.capped),
        own_process=dtype == "fp32" and precision == "ieee",
    )
