"""Runs a launch in a process of its own first, and says what became of it.

An illegal access makes a GPU unusable for its process, a compiler may abort it, and a kernel may
hang: here it is a child, which is killed.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

from ..executors.executor import Executor, KernelLaunch
from .job import packed

_LOG = logging.getLogger(__name__)
# what a child says after each step, and the seconds that it may take until then: it imports torch,
# reads the launch and starts CUDA; it compiles, which takes minutes at the very most; it runs
READY, COMPILED, RAN = "ready", "compiled", "ran"
STEPS = {READY: 120.0, COMPILED: 300.0, RAN: 30.0}
DOING = {READY: "start", COMPILED: "compile", RAN: "run"}
COMMAND = "-m", "graphnn.kernels.trust"


def prove(executor: Executor, launch: KernelLaunch) -> str:
    """Run a launch in another process; return what went wrong there, empty if nothing did.

    What says nothing about the kernel is logged: memory that is full, a child that cannot start.
    """
    job = packed(executor, launch)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        child = subprocess.Popen(
            [sys.executable, *COMMAND], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        _LOG.warning("a kernel is not tried in a process of its own first: %s", error)
        return ""
    lines: queue.Queue[bytes] = queue.Queue()
    errors: queue.Queue[bytes] = queue.Queue()
    given: tuple[tuple[Callable[..., None], Any], ...]
    given = (_write, job), (_read, lines), (_read_errors, errors)
    threads = [threading.Thread(target=f, args=(child, x), daemon=True) for f, x in given]
    for thread in threads:
        thread.start()
    try:
        return _followed(child, lines, errors)
    finally:
        _end(child, threads)


def _followed(
    child: subprocess.Popen[bytes], lines: queue.Queue[bytes], errors: queue.Queue[bytes]
) -> str:
    """Follow the steps of a child; return what went wrong."""
    for step, seconds in STEPS.items():
        try:
            line = lines.get(timeout=seconds)
        except queue.Empty:
            return _late(step, seconds)
        if not line:
            return _ended(child, step, errors)
        said = json.loads(line)
        if said.get("memory") or (step == READY and "error" in said):
            _LOG.warning("a kernel was not tried in a process of its own: %s", said["error"])
            return ""
        if "error" in said:
            return str(said["error"])
    return ""


def _late(step: str, seconds: float) -> str:
    if step == READY:
        _LOG.warning("a kernel was not tried: the other process did not start in %g s", seconds)
        return ""
    return f"it does not {DOING[step]} within {seconds:g} s"


def _ended(child: subprocess.Popen[bytes], step: str, errors: queue.Queue[bytes]) -> str:
    """Return how a child ended before its step, and the last line of what it complained of."""
    code = child.wait(timeout=10)
    last = errors.get(timeout=10).decode(errors="replace").strip().splitlines()[-1:]
    if step == READY:
        _LOG.warning("a kernel was not tried: the other process ended with %d %s", code, last)
        return ""
    how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
    said = f" ({last[0][:200]})" if last else ""
    return f"the process ends with {how} when it {DOING[step]}s the kernel{said}"


def _write(child: subprocess.Popen[bytes], job: bytes) -> None:
    assert child.stdin is not None
    with contextlib.suppress(OSError):  # the child has ended, which is seen where it is read
        child.stdin.write(job)
        child.stdin.close()


def _read(child: subprocess.Popen[bytes], lines: queue.Queue[bytes]) -> None:
    assert child.stdout is not None
    for line in child.stdout:
        lines.put(line)
    lines.put(b"")


def _read_errors(child: subprocess.Popen[bytes], errors: queue.Queue[bytes]) -> None:
    assert child.stderr is not None
    errors.put(child.stderr.read())


def _end(child: subprocess.Popen[bytes], threads: list[threading.Thread]) -> None:
    """Kill a child and what it started, a compiler for example."""
    with contextlib.suppress(OSError):  # it has ended
        os.killpg(child.pid, signal.SIGKILL)
    child.wait(timeout=10)
    for thread in threads:
        thread.join(timeout=10)
    for pipe in (child.stdin, child.stdout, child.stderr):
        if pipe is not None:
            with contextlib.suppress(OSError):  # what was not read is not needed
                pipe.close()
