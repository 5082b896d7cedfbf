"""The line that says that kernels are being compiled: after some seconds, and only then."""

from __future__ import annotations

import logging
import time

import pytest

from graphnn.kernels import notice


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Seconds that take milliseconds, and a process that has compiled nothing."""
    monkeypatch.setattr(notice, "SECONDS", 0.05)
    monkeypatch.setattr(notice, "AGAIN", 10.0)
    now = notice._Compiling()
    now.due = 0.05
    monkeypatch.setattr(notice, "_NOW", now)
    monkeypatch.delenv("GRAPHNN_QUIET", raising=False)
    caplog.set_level(logging.WARNING)


def compile_for(*seconds: float) -> None:
    for k, x in enumerate(seconds):
        with notice.compiling(f"kernel_{k}"):
            time.sleep(x)


def test_one_line_names_the_kernel_and_how_to_silence_it(caplog: pytest.LogCaptureFixture) -> None:
    compile_for(0.01, 0.3)
    (record,) = caplog.records
    assert record.name == "graphnn.kernels.notice" and record.levelno == logging.WARNING
    text = record.getMessage()
    assert "compiling kernels, once: kernel_1 is number 2" in text and "GRAPHNN_QUIET=1" in text


def test_quick_compilations_say_nothing(caplog: pytest.LogCaptureFixture) -> None:
    compile_for(0.0, 0.0, 0.0)
    time.sleep(0.1)
    assert not caplog.records


def test_many_quick_compilations_add_up(caplog: pytest.LogCaptureFixture) -> None:
    compile_for(*[0.02] * 6)
    assert len(caplog.records) == 1


def test_the_environment_silences_it(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAPHNN_QUIET", "1")
    compile_for(0.15)
    assert not caplog.records
