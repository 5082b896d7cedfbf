"""How a model is compiled: the arguments of `gn.compile`, checked, and what follows from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from graphnn.backends.requirements import (
    has_triton,
    need_gpu,
    need_triton,
    warn_if_missing,
    warn_if_untested,
)
from graphnn.errors import BackendError, closest
from graphnn.kernels.feasibility.targets import refusal
from graphnn.kernels.trust.switches import allowed_kinds, check_switches
from graphnn.planner.loops.choose import Target
from graphnn.planner.pipeline import SWITCHABLE
from graphnn.runtime.backends import BACKENDS, FLOAT32, KERNELS, PLANNED

if TYPE_CHECKING:
    from graphnn.backends.triton.strategy import KernelLowering


@dataclass(frozen=True)
class Options:
    """The arguments of `gn.compile`. `passes` run; "tune" is among them if kernels are timed.

    Kernels are planned for the GPU `target`, or else for the one at hand.
    """

    backend: str
    passes: frozenset[str]
    recompute: bool | None = None
    float32: str | None = None
    target: str | None = None

    def kernels(self, target: Target) -> bool:
        """Whether loops become Triton kernels: always, never, or on a GPU, if it can have them."""
        if not allowed_kinds():
            return False
        return self.backend in KERNELS or (self._prefers_kernels(target) and has_triton())

    def _prefers_kernels(self, target: Target) -> bool:
        fits = target.device == "cuda" and not (target.gpu and refusal(target.gpu))
        return self.backend == "auto" and fits

    def backend_for(self, target: Target) -> str:
        """The backend that runs on a target: "auto" becomes "triton" or "torch"."""
        if self.backend != "auto":
            return self.backend
        return "triton" if self.kernels(target) else "torch"

    def passes_for(self, target: Target) -> frozenset[str]:
        """The passes that run for a target."""
        if not self.kernels(target):
            return self.passes - {"hops"}
        # If kernels were requested by name, no loop is left to torch's layers. Operations that
        # torch's code sinks into its loops are as fast over whole axes in front of a kernel.
        return self.passes - ({"match", "sink"} if self.backend in KERNELS else {"sink"})

    def lowering(self, target: Target) -> KernelLowering | None:
        """The lowering of loops to kernels, or None if loops stay torch code.

        Raises BackendError if Triton is missing, or if the GPU is too old for kernels. "auto" then
        takes torch code, with a warning if Triton is missing. Warns of an untested Triton.
        """
        if not self.kernels(target):
            if self._prefers_kernels(target):
                warn_if_missing()
            return None
        need_triton(self.backend)
        need_gpu(self.backend, target.gpu)
        warn_if_untested()
        from graphnn.backends.triton import cuda_graphs
        from graphnn.backends.triton.strategy import KernelLowering
        from graphnn.backends.triton.target import current
        from graphnn.kernels.executors.named import named

        gpu = self.target or target.gpu or current()
        executors = {"interpret": "interpret", "ptx": f"ptx:{gpu}"}
        return KernelLowering(
            named(executors.get(self.backend, "gpu")),
            gpu,
            "resident" in self.passes,
            "fit" in self.passes,
            "cooperative" in self.passes,
            # torch.compile may record CUDA graphs itself
            self.backend not in PLANNED and not target.traced and cuda_graphs.enabled(),
            self.float32,
            "tune" in self.passes,
            autocast=target.autocast,
        )


def checked(
    backend: str,
    skip: Sequence[str],
    recompute: bool | None,
    float32: str | None,
    tune: bool,
    target: str | None = None,
) -> Options:
    """The options of a call of `gn.compile`. Raises BackendError if one has no such value."""
    if backend not in BACKENDS:
        raise BackendError(
            f"there is no backend '{backend}'",
            got=repr(backend),
            wanted=f"one of {', '.join(BACKENDS)}",
            fix="backend='auto' takes the fastest there is",
        )
    if backend in KERNELS:
        need_triton(backend)
    skip = [skip] if isinstance(skip, str) else list(skip)
    if unknown := sorted(set(skip) - set(SWITCHABLE)):
        near = closest(unknown[0], SWITCHABLE)
        raise BackendError(
            f"there is no pass {', '.join(map(repr, unknown))} to skip",
            got=skip,
            wanted=f"passes among {list(SWITCHABLE)}",
            fix=f"{near!r}, if that is meant" if near else "check the spelling",
        )
    if float32 is not None and float32 not in FLOAT32:
        raise BackendError(
            f"float32 is not multiplied as '{float32}'",
            got=f"float32={float32!r}",
            wanted="one of 'ieee', 'tf32x3', 'tf32', or None",
            fix="None follows torch's setting for CUDA",
        )
    if target is not None:
        _check_target(backend, target)
    if backend in (*KERNELS, "auto"):
        _check_switches()
    passes = frozenset(SWITCHABLE) - set(skip) | ({"tune"} if tune else set())
    return Options(backend, passes, recompute, float32, target)


def _check_switches() -> None:
    """Raise BackendError if an environment variable about kernels has no such value."""
    try:
        check_switches()
    except ValueError as error:
        raise BackendError(str(error)) from None


def _check_target(backend: str, target: str) -> None:
    """Raise BackendError unless a backend can plan for this GPU."""
    if backend not in PLANNED:
        raise BackendError(
            f"backend '{backend}' cannot plan for a GPU that is absent",
            got=f"target={target!r}",
            wanted=f"one of the backends {', '.join(PLANNED)}",
            fix=f"gn.compile(net, backend='ptx', target={target!r})",
        )
    from graphnn.kernels.executors.ptx import EXECUTED

    if target not in EXECUTED:
        raise BackendError(
            f"kernels are not executed for target {target!r}",
            got=f"target={target!r}",
            wanted=f"one of {', '.join(EXECUTED)}",
            fix="target='sm_90' is an H100 or H200, 'sm_80' an A100",
        )
