"""Functions in processes of their own: they end well, raise, crash, abort, hang, lack memory."""

from __future__ import annotations

import os
import pathlib
import resource
import subprocess
import time
from typing import Any

import pytest

from graphnn.tools.child import Outcome, in_child


def double(number: int) -> int:
    """Return twice a number, and print something."""
    print("a line that is no part of the answer")
    return 2 * number


def fail() -> None:
    """Raise."""
    raise ValueError("a wrong kernel")


def crash() -> None:
    """End as an illegal access ends a process."""
    os.kill(os.getpid(), 11)


def abort() -> None:
    """End as a failed assertion of LLVM does."""
    os.abort()


def leave() -> None:
    """End without a result."""
    os._exit(3)


def hang(path: str) -> None:
    """Wait for ever, as does a process that this one starts."""
    child = subprocess.Popen(["sleep", "60"])
    with open(path, "w") as file:
        file.write(str(child.pid))
    time.sleep(60)


def exhaust() -> None:
    """Allocate more memory than there is."""
    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
    bytearray(1 << 40)


def variable(key: str) -> Any:
    """Return a variable of the environment."""
    return os.environ.get(key)


def run(name: str, limit: float = 60.0, **arguments: Any) -> Outcome:
    """The outcome of a function of this module."""
    return in_child(__name__, name, arguments, limit, {"GRAPHNN_OF_A_TEST": "yes"})


def test_a_result_is_returned_without_what_was_printed():
    found = run("double", number=21)
    assert (found.kind, found.value) == ("done", 42)
    assert "no part of the answer" in found.printed


def test_an_exception_is_reported_with_its_traceback():
    found = run("fail")
    assert (found.kind, found.text) == ("raised", "ValueError: a wrong kernel")
    assert "in fail" in found.printed


@pytest.mark.parametrize(("name", "signal"), [("crash", "SIGSEGV"), ("abort", "SIGABRT")])
def test_a_crash_is_reported_with_its_signal_and_line(name, signal):
    found = run(name)
    assert (found.kind, found.text) == ("crashed", f"ended by {signal}")
    assert f"in {name}" in found.printed, "faulthandler prints the line"


def test_a_process_that_leaves_is_reported():
    assert run("leave").text == "ended with code 3 and no result"


def test_a_hang_ends_with_its_own_processes(tmp_path):
    where = tmp_path / "pid"
    found = run("hang", limit=3.0, path=str(where))
    assert (found.kind, found.text) == ("hung", "it did not end within 3 seconds")
    status = pathlib.Path(f"/proc/{where.read_text()}/stat")
    for _ in range(50):  # a killed process is there, as a zombie, until its parent looks
        if not status.exists() or ") Z " in status.read_text():
            return
        time.sleep(0.1)
    pytest.fail("the process that the child started still runs")


def test_a_lack_of_memory_is_reported():
    found = run("exhaust")
    assert found.kind == "raised" and found.text.startswith("MemoryError")


def test_variables_are_set_for_the_child():
    assert run("variable", key="GRAPHNN_OF_A_TEST").value == "yes"
    assert "GRAPHNN_OF_A_TEST" not in os.environ
