"""`gn.verify`: checks every kernel of a model as compiled."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from graphnn.errors import BackendError, GraphnnError
from graphnn.frontend.graph import Graph
from graphnn.kernels.executors.executor import launches_run_by
from graphnn.kernels.executors.named import named
from graphnn.kernels.runtime.launch import DTYPE_NAMES as NAMES
from graphnn.kernels.runtime.launch import input_precision
from graphnn.kernels.select.autotune import every_candidate_run
from graphnn.planner.pipeline import SWITCHABLE
from graphnn.runtime.call.options import Options
from graphnn.runtime.model import Compiled, compile, network_of
from graphnn.tools.verification.examples import example_calls
from graphnn.tools.verification.launches import LaunchChecker, raised
from graphnn.tools.verification.results import Call, Definition, check_results, results
from graphnn.tools.verification.rows import LaunchRow
from graphnn.tools.verification.verification import Verification

Tensor = torch.Tensor
DTYPES = {name: dtype for dtype, name in NAMES.items()}


def verify(
    model: Compiled | nn.Module | Graph,
    *,
    target: str | None = None,
    dtype: torch.dtype | str | None = None,
    lengths: Mapping[str, Any] | None = None,
    sizes: Mapping[str, int] | None = None,
    backward: bool = True,
    every_launch: bool = False,
    seed: int = 0,
    told: Callable[[LaunchRow], None] | None = None,
    **inputs: Tensor,
) -> Verification:
    """Check every kernel of a model as Triton compiles it, forward and backward.

    Kernels run on the GPU if there is one, else their PTX is executed on the CPU. The model and its
    parameters are not changed. Each launch is compared with Triton's interpreter on the same
    tensors, in the same dtype and in float64: its error may be twice that of the interpreter, plus
    one rounding. Outputs are poisoned before each launch; inputs must not change. Executed PTX is
    also checked for races between threads, for barriers that are never passed, and for accesses out
    of bounds. Outputs, final states and gradients of the model are compared with backend
    "reference" in float64, next to backend "torch" in the same dtype.

    Arguments:

    - `target`: "sm_80" or "sm_90", for instance: execute PTX for this GPU, even if one is there.
    - `dtype`: of parameters and floating inputs: "bf16", "fp16", "fp32", or a dtype of torch. None
      keeps the model's.
    - `inputs`, `lengths`: tensors of a call, as the model takes them. Without inputs there are two
      calls on random ones, of odd sizes: with all positions, and ragged. `sizes` are then the
      lengths of axes, and "batch".
    - `backward`: also run the backward.
    - `every_launch`: run every launch among which the autotuner chooses, not only the first.
    - `told`: called with the row of a launch before it runs, to show progress.

    Returns a `Verification`: printed, it is a table; `ok` is whether there is no fault. Raises
    BackendError for an unknown target or dtype.

    >>> found = gn.verify(gn.nn.RNN(4, 8), dtype="bf16", sizes={"batch": 2, "time": 2})
    >>> found.ok
    True
    """
    source, options = _source(model)
    kind = _dtype(source, dtype)
    on_gpu = target is None and torch.cuda.is_available()
    device, backend = ("cuda", "triton") if on_gpu else ("cpu", "ptx")
    where = None if on_gpu else target or "sm_90"
    tested = compile(
        copy.deepcopy(source),
        backend,
        skip=sorted(set(SWITCHABLE) - options.passes),
        recompute=options.recompute,
        float32=options.float32,
        tune=False,
        target=where,
    ).to(device, kind)
    executor = named("gpu" if on_gpu else f"ptx:{where}")
    given = Call("", inputs, dict(lengths or {}), backward, seed)
    calls = [given] if inputs else example_calls(tested, given, sizes)
    checker = LaunchChecker(executor, told)
    found = Verification(tested.ir.name, executor.name, NAMES[kind])
    # products of TF32, which are ordered, are not as exact as torch's on a CPU
    tf32 = input_precision(kind, options.float32) == "tf32"
    definition = Definition(source, kind, device, "tf32" if tf32 else NAMES[kind])
    with every_candidate_run() if every_launch else nullcontext():
        for call in calls:
            _check(found, tested, call, checker, definition)
    found.launches = list(checker.rows.values())
    return found


def _check(
    found: Verification,
    tested: Compiled,
    call: Call,
    checker: LaunchChecker,
    definition: Definition,
) -> None:
    """Run one call; add the rows of its results, or a fault if it raises."""
    checker.title = call.title
    given = call.on(definition.device, definition.dtype)
    try:
        with launches_run_by(checker):
            got = results(tested, given)
    except GraphnnError:
        raise  # the arguments are wrong
    except Exception as error:
        found.faults.append(raised(f"the model{call.title}", error))
        return
    found.results += check_results(definition, call, got)


def _source(model: Compiled | nn.Module | Graph) -> tuple[nn.Module | Graph, Options]:
    """Return what a model is compiled from, and its options; of a module, the default ones."""
    compiled = model if isinstance(model, Compiled) else compile(model)
    network = network_of(compiled)
    return network.source, network.options


def _dtype(source: nn.Module | Graph, given: torch.dtype | str | None) -> torch.dtype:
    """Return the dtype to verify in. Raises BackendError for an unknown one."""
    if given is None:
        return network_of(compile(source, "reference")).floating()
    kind = DTYPES.get(given, given) if isinstance(given, str) else given
    if kind not in NAMES:
        raise BackendError(
            f"kernels have no dtype {given!r}",
            got=f"dtype={given!r}",
            wanted=f"one of {', '.join(DTYPES)}, or None for that of the model",
        )
    return kind
