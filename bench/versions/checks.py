"""What is checked of the installed versions. Each check returns a result, or raises an error."""

from __future__ import annotations

import importlib.util
import pathlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

ROOT = pathlib.Path(__file__).parents[2]
BACKENDS = ("reference", "torch", "interpret", "ptx")
NEED_TRITON = ("interpret", "ptx")
# parts of the suite that depend most on versions: torch's internals, Triton, syntax
SAMPLE = (
    "tests/kernels/interpreter",
    "tests/kernels/runtime",
    "tests/package/test_versions.py",
    "tests/runtime/test_model.py",
    "tests/tracing/test_autograd_function.py",
    "tests/tracing/test_contexts.py",
    "tests/tracing/test_guards.py",
)
# relative to the largest value; float32
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Result:
    """Whether a check passed, None if it was not possible; a short text; and the kernels, if any.

    A kernel is (name, dtype, target, registers, spilled bytes, shared memory, fault).
    """

    passed: bool | None
    text: str
    kernels: list[list[Any]] = field(default_factory=list)


def import_alone() -> Result:
    """`import graphnn` warns of nothing and imports no Triton."""
    code = "import sys, graphnn; assert 'triton' not in sys.modules"
    return _runs("-W", "error", "-c", code)


def commands() -> Result:
    """`graphnn explain` prints how a network of a file runs."""
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder, "net.py")
        file.write_text("import graphnn as gn\n\nnet = gn.nn.LSTM(3, 4)\n")
        return _runs("-m", "graphnn", "explain", f"{file}:net")


def demo() -> Result:
    """`graphnn demo` trains its networks: minutes."""
    return _runs("-m", "graphnn", "demo")


def backends() -> Result:
    """An LSTM has the same results and gradients on every backend that needs no GPU."""
    import torch

    import graphnn as gn

    there = [b for b in BACKENDS if b not in NEED_TRITON or has_triton()]
    found = {}
    for backend in there:
        torch.manual_seed(0)
        model = gn.compile(gn.nn.LSTM(5, 16), backend)
        x = torch.randn(3, 5, 5, requires_grad=True)
        y = model(x=x)
        y.square().sum().backward()
        found[backend] = [y.detach(), x.grad, *(p.grad for p in model.parameters())]
    for backend in there[1:]:
        for wanted, got in zip(found["reference"], found[backend]):
            error = ((got - wanted).abs().max() / wanted.abs().max()).item()
            if not error < TOLERANCE:
                return Result(False, f"{backend} differs from reference by {error:.1e}")
    return Result(True, ", ".join(there))


def kernels() -> Result:
    """A representative set of kernels compiles for every GPU."""
    return _compiled("compiled")


def prelude() -> Result:
    """Every function that generated kernels call compiles for every GPU."""
    return _compiled("prelude_compiled")


def tests() -> Result:
    """A sample of the suite passes."""
    return _pytest(SAMPLE)


def suite() -> Result:
    """All default tests pass: minutes."""
    return _pytest(())


def _runs(*arguments: str) -> Result:
    """Whether Python with these arguments exits with 0; else the last line that it printed."""
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    return Result(True, "yes") if done.returncode == 0 else Result(False, last_line(done.stderr))


def _compiled(function: str) -> Result:
    if not has_triton():
        return Result(None, "no Triton")
    from graphnn.bench.versions import kernels

    return judged(getattr(kernels, function)())


def judged(rows: Iterable[tuple[str, Any]]) -> Result:
    """The result for compiled kernels. One that spills is listed; it compiled all the same."""
    found = [_entry(dtype, row) for dtype, row in rows]
    bad = [x for x in found if x[6]]
    spilling = sum(bool(x[4]) for x in found)
    text = f"{len(found) - len(bad)} of {len(found)}" + f", {spilling} spill" * bool(spilling)
    return Result(not bad, text, found)


def _entry(dtype: str, row: Any) -> list[Any]:
    if (r := row.resources) is None:
        return [row.name, dtype, row.target, None, None, None, row.faults[0]]
    return [row.name, dtype, row.target, r.registers, r.stack, r.shared, ""]


def _pytest(paths: Iterable[str]) -> Result:
    if not (ROOT / "tests").is_dir() or importlib.util.find_spec("pytest") is None:
        return Result(None, "no tests or no pytest here")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rf", *paths]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    closing = last_line(done.stdout)
    counts = re.findall(r"\d+ (?:passed|failed|skipped|errors?)", closing)
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", done.stdout, flags=re.M)
    return Result(done.returncode == 0, ", ".join(counts) or closing, [[f] for f in failed])


def has_triton() -> bool:
    """Whether Triton is installed."""
    return importlib.util.find_spec("triton") is not None


def last_line(text: str) -> str:
    """The last line of a text that is not empty."""
    return next((x for x in reversed(text.splitlines()) if x.strip()), "")


CHECKS: dict[str, Callable[[], Result]] = {
    "import": import_alone,
    "commands": commands,
    "backends": backends,
    "prelude": prelude,
    "kernels": kernels,
    "tests": tests,
    "demo": demo,
    "suite": suite,
}
# take minutes and run only if they are named
LONG = ("demo", "suite")
