"""Compiling a kernel in a process of its own: for those that may bring down the compiler.

Triton 3.9 aborts on some kernels with products of float32 by plain multiply-adds.
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

# seconds: those that compile at all take less than a third of it
PATIENCE = 120


def apart(case: Any, target: str) -> Any:
    """`case.judge(target)` of another process, or in words why there is none."""
    path = case.function.fn.__code__.co_filename
    given = pickle.dumps((path, case.function.__name__, replace(case, function=None), target))
    command = [sys.executable, "-m", "graphnn.kernels.feasibility.compile_process"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        done = subprocess.run(command, input=given, capture_output=True, env=env, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        return f"compiling takes more than {PATIENCE} seconds"
    if done.returncode < 0:
        return f"Triton dies of it ({signal.Signals(-done.returncode).name})"
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        return f"compiling it failed: {''.join(last)}"
    return pickle.loads(done.stdout)


def main(read: Callable[[], bytes], write: Callable[[bytes], Any]) -> None:
    """Judge the case that is given, and give the verdict back."""
    from ..cache import load

    path, name, case, target = pickle.loads(read())
    function = getattr(load(Path(path).read_text(), name), name)
    write(pickle.dumps(replace(case, function=function, apart=False).judge(target)))


if __name__ == "__main__":
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a compiler prints is no part of the answer
    with answer:
        main(sys.stdin.buffer.read, answer.write)
