"""Constants of devices that were not measured here: from data sheets, and of one measured CPU.

Rates of matmuls are dense ones. Constants that `graphnn calibrate` measures take precedence.
"""

from __future__ import annotations

from graphnn.planner.core.cost import Device

SHEET = "data sheet, not measured by us; launch and barrier are published estimates"
# the H200's copy and bf16 product are rates that were published as reached, not its data sheet's
REACHED = "published as reached (copy, bfloat16 product), else data sheet; not measured by us"
T = 1e12
# Python's part of a call, on the CPU below
CALL = 60e-6


def _gpu(name: str, copy: float, half: float, single: float, units: int, source: str) -> Device:
    """A data centre GPU. Half precision runs on its matrix units, float32 as TF32."""
    products = {
        "bfloat16": ((1.0, half),),
        "float16": ((1.0, half),),
        "float32": ((1.0, single),),
    }
    pointwise = half / 16  # ordinary units have at most a sixteenth of the matrix units' rate
    return Device(
        name,
        source,
        ((1.0, copy),),
        products,
        pointwise,
        launch=2.5e-6,
        barrier=1.3e-6,
        call=CALL,
        units=units,
    )


# B300: the rates of B200. GB10: 48 of the 170 multiprocessors of an RTX 5090, with its own memory.
KNOWN: dict[str, Device] = {
    "sm_75": _gpu("NVIDIA T4", 0.32 * T, 65 * T, 8.1 * T, 40, SHEET),
    "sm_80": _gpu("NVIDIA A100 80GB", 2.04 * T, 312 * T, 156 * T, 108, SHEET),
    "sm_86": _gpu("NVIDIA GeForce RTX 3090", 0.94 * T, 71 * T, 35.6 * T, 82, SHEET),
    "sm_87": _gpu("NVIDIA Jetson AGX Orin", 0.2 * T, 42 * T, 21 * T, 16, SHEET),
    "sm_89": _gpu("NVIDIA GeForce RTX 4090", 1.01 * T, 165 * T, 82.6 * T, 128, SHEET),
    "sm_90": _gpu("NVIDIA H200", 4.3 * T, 790 * T, 494 * T, 132, REACHED),
    "sm_100": _gpu("NVIDIA B200", 8.0 * T, 2250 * T, 1125 * T, 148, SHEET),
    "sm_103": _gpu("NVIDIA B300", 8.0 * T, 2250 * T, 1125 * T, 148, SHEET),
    "sm_120": _gpu("NVIDIA GeForce RTX 5090", 1.79 * T, 209 * T, 105 * T, 170, SHEET),
    "sm_121": _gpu("NVIDIA GB10", 0.27 * T, 59 * T, 30 * T, 48, SHEET),
}
NAMED: dict[str, Device] = {
    "H100": _gpu("NVIDIA H100 SXM", 3.35 * T, 989 * T, 494 * T, 132, SHEET),
}
# by `graphnn calibrate` on 2026-11-24: 2 threads of an Intel Xeon, torch 2.13; copies beyond
# the nearest cache with one thread, as the other core was busy
CPU = Device(
    name="CPU, 2 threads, Intel(R) Xeon(R) Processor",
    source="measured on another CPU (Intel Xeon, 2 threads, 2026-11-24)",
    copies=((2.6e5, 161e9), (4.2e6, 30e9), (1.34e8, 14e9)),
    products={
        "float32": ((5.24e5, 161e9), (4.19e6, 313e9), (1.34e8, 371e9), (2.15e9, 371e9)),
    },
    pointwise=54e9,
    launch=0.75e-6,
    call=CALL,
    units=2,
)


def default(kind: str, name: str = "", target: str = "sm_90") -> Device:
    """The constants of a device that was not measured, by its name or else by its target.

    Every CPU gets the constants of the one CPU that was measured for this file.
    """
    if kind != "cuda":
        return CPU
    return next((d for part, d in NAMED.items() if part in name), KNOWN.get(target, KNOWN["sm_90"]))
