"""Compile a kernel in a process of its own, because it might crash the compiler.

Triton 3.9 aborts on some kernels that multiply float32 matrices by multiply-adds.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

# seconds; kernels that compile at all take less than a third of this
TIMEOUT = 120


def judge_in_subprocess(case: Any, target: str) -> Any:
    """Return `case.judge(target)` from another process, or as text why there is no result."""
    path = case.function.fn.__code__.co_filename
    given = pickle.dumps((path, case.function.__name__, replace(case, function=None), target))
    command = [sys.executable, "-m", "graphnn.kernels.feasibility.compile_process"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        done = subprocess.run(command, input=given, capture_output=True, env=env, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        return f"compiling takes more than {TIMEOUT} seconds"
    if done.returncode < 0:
        return f"Triton crashes ({signal.Signals(-done.returncode).name})"
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        return f"compiling failed: {''.join(last)}"
    return pickle.loads(done.stdout)


def main(read: Callable[[], bytes], write: Callable[[bytes], Any]) -> None:
    """Read a case, judge it, and write the verdict."""
    from ..cache import load_module

    path, name, case, target = pickle.loads(read())
    function = getattr(load_module(Path(path).read_text(), name), name)
    write(pickle.dumps(replace(case, function=function).judge_here(target)))


if __name__ == "__main__":
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a compiler prints must not become part of the answer
    with answer:
        main(sys.stdin.buffer.read, answer.write)
