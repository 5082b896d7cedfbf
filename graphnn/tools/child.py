"""Runs a function in a process of its own: a crash, an abort or a hang there harms nobody else.

The function is named by its module and its name. Its arguments and its result are JSON data.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# characters of what a child prints that are kept: the end says why it failed
KEPT = 3000


@dataclass(frozen=True)
class Outcome:
    """How a child ended, after how many seconds.

    `kind` is "done", and `value` is the result; or "raised", "crashed" or "hung", and `text` says
    why. `printed` is the end of what the child printed.
    """

    kind: str
    seconds: float
    value: Any = None
    text: str = ""
    printed: str = ""


def in_child(
    module: str,
    name: str,
    arguments: Mapping[str, Any],
    limit: float,
    environment: Mapping[str, str] | None = None,
) -> Outcome:
    """Return the outcome of `name(**arguments)` of a module, which has `limit` seconds.

    The child and the processes that it started are killed when its time is over. `environment` are
    variables that are set for it.
    """
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", __name__, module, name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=_environment(environment or {}),
        start_new_session=True,
    )
    try:
        answer, printed = process.communicate(json.dumps(dict(arguments)).encode(), limit)
        kind, text, value = _ended(process.returncode, answer)
    except subprocess.TimeoutExpired:
        kind, text, value = "hung", f"it did not end within {limit:g} seconds", None
        _kill(process)
        printed = process.communicate()[1]
    finally:
        _kill(process)
    seconds = time.perf_counter() - start
    return Outcome(kind, seconds, value, text, printed.decode(errors="replace")[-KEPT:])


def _ended(code: int, answer: bytes) -> tuple[str, str, Any]:
    """Return kind, text and value of a child that ended by itself."""
    if code < 0:
        return "crashed", f"ended by {signal.Signals(-code).name}", None
    try:
        found = json.loads(answer)
    except ValueError:
        return "crashed", f"ended with code {code} and no result", None
    if "error" in found:
        return "raised", found["error"], None
    return "done", "", found["value"]


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a child and the processes of its session; nothing happens if there are none."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    path = os.pathsep.join(filter(None, sys.path))
    return {**os.environ, "PYTHONPATH": path, "PYTHONFAULTHANDLER": "1", **more}


def main(module: str, name: str) -> None:
    """Call a function with the arguments on stdin, and write its result to stdout."""
    arguments = json.load(sys.stdin)
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what is printed must not become part of the answer
    try:
        found = {"value": getattr(importlib.import_module(module), name)(**arguments)}
    except Exception as error:
        traceback.print_exc()
        found = {"error": f"{type(error).__name__}: {error}"}
    with answer:
        json.dump(found, answer)


if __name__ == "__main__":
    main(*sys.argv[1:])
