"""Runs one launch on an executor, and returns what is known about it besides its results."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from graphnn.kernels.executors.compiled import CompiledLaunch, compiled
from graphnn.kernels.executors.executor import Executor, KernelLaunch
from graphnn.kernels.executors.ptx import PtxExecutor
from graphnn.kernels.feasibility.aot import Resources, resources_of
from graphnn.kernels.ptx import Finding


@dataclass
class Observation:
    """What one run showed: races, statements, seconds, and the resources of the kernel."""

    races: list[Finding]
    resources: Resources | None = None
    statements: int = 0
    seconds: float = 0.0
    compile_seconds: float = 0.0


def observed(executor: Executor, launch: KernelLaunch, known: Resources | None) -> Observation:
    """Run a launch. Raises what compiling and running raise.

    `known` are the resources of its kernel, if it was compiled before.
    """
    if isinstance(executor, PtxExecutor):
        return _on_ptx(executor, launch, known)
    start = time.perf_counter()
    executor.run(launch)
    if executor.device_type != "cuda":
        return Observation([], seconds=time.perf_counter() - start)
    torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    if known is None:
        target = _target()
        known = _resources(compiled(launch, target, assemble=True), launch, target)
    return Observation([], known, seconds=seconds)


def _on_ptx(executor: PtxExecutor, launch: KernelLaunch, known: Resources | None) -> Observation:
    start = time.perf_counter()
    made = compiled(launch, executor.target, assemble=True)
    known = known or _resources(made, launch, executor.target)
    compile_seconds = time.perf_counter() - start
    report = executor.execute(launch, made)
    return Observation(report.races, known, report.statements, report.seconds, compile_seconds)


def _resources(made: CompiledLaunch, launch: KernelLaunch, target: str) -> Resources:
    return resources_of(made[0], target, launch.argument_names)


def _target() -> str:
    major, minor = torch.cuda.get_device_capability()
    return f"sm_{major}{minor}"
