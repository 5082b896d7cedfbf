"""A gate in front of one computation: its kernels run only after their results were found right.

The first call of each kind runs the kernels under a guard, then compares them with torch on cut
inputs. If they fail, the next way to compute the same is tried; the last one is torch. Later calls
of the kind take one look into a dictionary.
"""

from __future__ import annotations

import threading
import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..executors.executor import Executor
from ..ir.program import Unsupported
from ..precision import matmul_precision
from .compare import Expected, difference, proves_nothing, unit
from .failures import DeviceLost, KernelRefused, KernelWarning, is_out_of_memory, summary
from .guard import Guard
from .rehearsal import rehearsal_of
from .switches import ALWAYS, NEVER, trust_mode
from .versions import versions

Tensors = Sequence[Tensor]
# computes results from tensors and the lengths of axes, in whatever form a caller has them
Run = Callable[[Tensors, Any], list[Tensor]]
TORCH = "torch"
# kinds of calls whose way is remembered
MAX_KNOWN = 1024
# calls after which kernels are not checked again although all their results were zero
UNPROVEN = 3
_CHECKING = threading.RLock()


@dataclass(frozen=True)
class Way:
    """One of several ways to compute the same; `rows` is the most rows of its tiles, 0 for any."""

    name: str
    run: Run
    rows: int = 0


@dataclass(frozen=True)
class Cut:
    """Inputs that are cut to what a check needs, and the lengths of the full axes by name.

    `part` returns the part of the full results that belongs to them, if that can be had without
    another run.
    """

    tensors: Tensors
    sizes: Any
    full: dict[str, int] = field(default_factory=dict)
    part: Callable[[list[Tensor]], list[Tensor]] | None = None


@dataclass(frozen=True)
class Problem:
    """What a gate guards.

    `reference` computes the results by torch, in the dtype of the tensors given. `cut` cuts inputs
    for tiles of a number of rows. `compared` turns results into what is compared, where several
    results are right.
    """

    ways: Callable[[], Iterable[Way]]
    reference: Run
    cut: Callable[[Tensors, Any, int], Cut]
    compared: Callable[[list[Tensor], Tensors, Any], list[Tensor]] | None = None


class Gate:
    """Guards one computation of a layer. `title` names layer and direction in warnings."""

    def __init__(self, title: str, executor: Executor):
        self.title, self.executor = title, executor
        self.known: dict[tuple[Any, ...], Run] = {}
        self._unproven: Counter[tuple[Any, ...]] = Counter()
        self.refused: dict[str, str] = {}
        self._warned: set[Hashable] = set()

    def __call__(
        self, kind: tuple[Any, ...], problem: Problem, tensors: Tensors, sizes: Any
    ) -> list[Tensor]:
        """Run a call of a kind that is not in `known`: check its ways in order."""
        with _CHECKING, torch.no_grad():
            run, lasting, outs = self._first(problem, tensors, sizes)
            self._unproven[kind] += 1
        if run is not None and (lasting or self._unproven[kind] >= UNPROVEN):
            if len(self.known) >= MAX_KNOWN:
                self.known.clear()
            self.known[kind] = run
        return outs

    def _first(
        self, problem: Problem, tensors: Tensors, sizes: Any
    ) -> tuple[Run | None, bool, list[Tensor]]:
        """Return the way of later calls, if there is one; whether it was proven; the results."""
        mode = trust_mode()
        strict = torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()
        failed_rows = 0
        for way in problem.ways():
            if mode == NEVER:
                try:
                    return way.run, True, way.run(tensors, sizes)
                except Unsupported as reason:  # no tile fits the GPU: the next way may
                    self._report_unfit(way, str(reason), tensors)
                    continue
            if 0 < failed_rows <= way.rows:
                continue  # the same tiles have failed
            trial = Trial(self, way, problem, strict or mode == ALWAYS)
            outs = trial.results(tensors, sizes, strict)
            if outs is not None:
                return None if strict or mode == ALWAYS else way.run, trial.proven, outs
            failed_rows = trial.guard.rows
            self._report(trial, strict, tensors)
        outs = problem.reference(tensors, sizes)
        again = strict or mode == ALWAYS
        return None if again else problem.reference, not again, outs

    def _report_unfit(self, way: Way, reason: str, tensors: Tensors) -> None:
        """Warn once that no kernel of a way fits the GPU, by dtype."""
        topic = way.name, _dtype(tensors), False
        if topic not in self._warned:
            self._warned.add(topic)
            self.refused[way.name] = reason
            warnings.warn(
                f"{self.title}: kernels are not used ({way.name}): {reason}. Something slower runs",
                KernelWarning,
                stacklevel=2,
            )

    def _report(self, trial: Trial, strict: bool, tensors: Tensors) -> None:
        """Warn once that a way is not taken, by dtype."""
        way, reason = trial.way, trial.reason
        topic = way.name, _dtype(tensors), strict
        if topic in self._warned:
            return
        self._warned.add(topic)
        if not strict:
            self.refused[way.name] = reason
        gpu = self.executor.gpu(tensors[0].get_device())
        where = f"{way.name}; Triton {versions()['triton']}, {gpu.target}"
        after = "while a CUDA graph is captured" if strict else "from now on"
        warnings.warn(
            f"{self.title}: {trial.guard.kernels} ({where}) is not used: {reason}. Something "
            f"slower runs {after}. GRAPHNN_TRUST=0 runs it all the same; `graphnn doctor` lists "
            "refused kernels and says how to check them again",
            KernelWarning,
            stacklevel=2,
        )


class Trial:
    """One way on trial: its results, or the reason why it is refused."""

    def __init__(self, gate: Gate, way: Way, problem: Problem, always: bool):
        self.gate, self.way, self.problem, self.always = gate, way, problem, always
        self.guard = Guard(gate.title)
        self.reason, self.proven = "", True

    def results(self, tensors: Tensors, sizes: Any, strict: bool) -> list[Tensor] | None:
        """Return the results of the way if they are right, else None; `reason` says why.

        If `strict`, a stream is captured: nothing can be compared, and only trusted kernels run.
        """
        self.guard.strict = strict
        try:
            outs = self._watched(tensors, sizes, wait=not strict)
        except KernelRefused as error:
            self.reason = str(error)
            if not strict:
                self._refuse_current()
            return None
        except Unsupported as reason:  # no tile fits the GPU: the next way may
            self.reason = str(reason)
            return None
        except ValueError:
            raise  # what the caller has to change
        except Exception as error:
            self._failed(error, tensors, sizes)
            return None
        if strict:
            return outs
        if self.guard.launches and (self.guard.untrusted() or self.always):
            return outs if self._right(outs, tensors, sizes) else None
        return outs

    def _watched(self, tensors: Tensors, sizes: Any, wait: bool = True) -> list[Tensor]:
        with self.guard.watching():
            outs = self.way.run(tensors, sizes)
        if wait and self.guard.launches:
            self.gate.executor.wait(tensors[0])
        return outs

    def _refuse_current(self) -> None:
        current = self.guard.current
        if current is not None and current in self.guard.untrusted():
            self.guard.refuse(self.reason, [current])

    def _failed(self, error: Exception, tensors: Tensors, sizes: Any) -> None:
        """Refuse the kernel that raised, unless memory is full or torch raises as well."""
        if is_out_of_memory(error):
            raise error
        self.reason = summary(error)
        try:
            self.gate.executor.wait(tensors[0])
        except RuntimeError as lost:
            self._refuse_current()
            raise DeviceLost(
                f"{self.gate.title}: the kernel ({self.way.name}) made the GPU unusable for this "
                f"process ({summary(lost)}). It is refused from now on: start the program again"
            ) from error
        cut = self.problem.cut(tensors, sizes, self.guard.rows)
        self.problem.reference(cut.tensors, cut.sizes)  # raises what the caller has to change
        self._refuse_current()

    def _right(self, outs: list[Tensor], tensors: Tensors, sizes: Any) -> bool:
        """Compare the results with torch's on cut inputs; remember the verdict."""
        problem, guard = self.problem, self.guard
        cut = problem.cut(tensors, sizes, guard.rows)
        found = outs
        if cut.part is not None:
            found = cut.part(outs)
        elif cut.full:
            try:
                with rehearsal_of(cut.full):
                    found = self._watched(cut.tensors, cut.sizes)
            except Exception as error:
                self._failed(error, tensors, sizes)
                return False
        expected = self._expected(cut)
        if problem.compared is not None:
            found = problem.compared(found, cut.tensors, cut.sizes)
        self.reason = difference(found, expected)
        if self.reason:
            self.reason = f"its results are not torch's: {self.reason}"
            guard.refuse(self.reason, guard.untrusted() or list(guard.launches))
            return False
        self.proven = not proves_nothing(expected.wide)
        if self.proven:
            guard.trust()
        return True

    def _expected(self, cut: Cut) -> Expected:
        """Compute the results by torch, in the dtype of the call and in a wider one."""
        dtype = _dtype(cut.tensors)
        # nothing is wider than float64: its error is that of float32, scaled
        narrow = torch.float32 if dtype == torch.float64 else dtype
        eager = self._reference(cut, None if narrow == dtype else narrow)
        on_gpu = bool(cut.tensors) and cut.tensors[0].is_cuda
        torchs = matmul_precision() if on_gpu and narrow == torch.float32 else "ieee"
        kernels = max(unit(dtype, p) for p in self.guard.precisions)
        ratio = kernels / unit(narrow, torchs)
        products = kernels if dtype == torch.float32 and kernels > torch.finfo(dtype).eps else 0.0
        try:
            wide, shaken = (self._reference(cut, torch.float64, off) for off in (0.0, kernels))
            return Expected(eager, wide, ratio, products, shaken)
        except (TypeError, RuntimeError) as error:
            if is_out_of_memory(error):
                raise
            # functions of the user may know one dtype only: half of the digits must agree
            largest = max((_largest(t) for t in eager), default=0.0)
            return Expected(eager, eager, floor=largest * torch.finfo(dtype).eps ** 0.5)

    def _reference(self, cut: Cut, dtype: torch.dtype | None, off: float = 0.0) -> list[Tensor]:
        """Return the results by torch in a dtype, for inputs that are off by a rounding."""
        tensors = [t.to(dtype) if dtype and t.is_floating_point() else t for t in cut.tensors]
        if off:
            tensors = [_shaken(t, off) for t in tensors]
        outs = self.problem.reference(tensors, cut.sizes)
        if self.problem.compared is None:
            return outs
        return self.problem.compared(outs, tensors, cut.sizes)


def _shaken(x: Tensor, unit: float) -> Tensor:
    """Return a tensor whose numbers are off by half a unit, up or down at random."""
    if not x.is_floating_point():
        return x
    # bits of a multiplicative hash of the position (Knuth's constant)
    position = torch.arange(x.numel(), device=x.device).view(x.shape)
    up = position * 2654435761 >> 15 & 1
    return x * (1 + unit * (up - 0.5))


def _largest(x: Tensor) -> float:
    """Return the largest finite magnitude of a tensor of floats."""
    if not x.is_floating_point() or not x.numel():
        return 0.0
    return float(torch.where(x.isfinite(), x, 0).abs().max())


def _dtype(tensors: Tensors) -> torch.dtype:
    """Return the dtype of a call: that of its first floating tensor."""
    return next((t.dtype for t in tensors if t.is_floating_point()), torch.float32)
