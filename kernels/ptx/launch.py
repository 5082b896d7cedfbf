"""Runs a program on tensors."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from .arithmetic.products import Adder
from .machine.machine import LIMIT, Launch, Machine
from .machine.schedule import in_turns, one_after_another
from .program.locations import Describe
from .program.program import Program
from .program.report import Report


def run(
    program: Program,
    grid: Sequence[int],
    arguments: Sequence[Any],
    shared: int,
    cooperative: bool = False,
    seed: int = 0,
    ulps: str = "exact",
    adder: Adder | None = None,
    limit: int = LIMIT,
    describe: Describe | None = None,
    names: Sequence[str] = (),
) -> Report:
    """Execute `program[grid](*arguments)` with `shared` bytes of shared memory per block.

    `arguments` are torch tensors on the CPU, whose memory is read and written, and numbers, in the
    order of the parameters. The blocks of a cooperative launch run in turns that `seed` draws,
    others one after another. `ulps` says how approximate instructions err, within the bounds that
    NVIDIA documents: one of `arithmetic.approximate.MODES`. `adder` is how tensor cores add, and
    None is exactly. `describe` returns text for a file and a line, such as the node of a network
    that the line belongs to; `names` are those of the arguments in messages.

    Returns what was done and found. Raises PtxFault for invalid accesses, deadlocks, and kernels
    that execute more than `limit` statements; ValueError for too many arguments.

        program = parse(kernel.asm["ptx"])
        report = run(program, (4,), [x, y, 128], shared=kernel.metadata.shared)
    """
    x, y, z = (*grid, *[1] * (3 - len(grid)))
    launch = Launch(
        program,
        (x, y, z),
        arguments,
        shared,
        cooperative,
        seed,
        ulps,
        adder,
        limit,
        describe,
        names,
    )
    machine = Machine(launch)
    begin = time.perf_counter()
    with np.errstate(all="ignore"):
        if cooperative:
            in_turns(machine, launch.count, seed)
        else:
            one_after_another(machine, launch.count)
    report = machine.finish()
    report.seconds = time.perf_counter() - begin
    return report
