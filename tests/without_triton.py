"""Tests that need Triton are skipped where it is not installed, as on macOS and Windows.

`tests/package/test_without_triton.py` holds what must run there, so that this hides nothing.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import pytest

MISSING = importlib.util.find_spec("triton") is None
REASON = "Triton is not installed"


def skip_if_needed(item: pytest.Item | pytest.Collector, report: object, error: object) -> None:
    """Turns the failure of a report into a skip if `error` is that Triton is missing."""
    if MISSING and any(_lacks_triton(e) for e in _chain(error)):
        path, line, _ = item.reportinfo() if isinstance(item, pytest.Item) else (item.path, 0, "")
        report.outcome = "skipped"  # type: ignore[attr-defined]
        report.longrepr = (str(path), (line or 0) + 1, REASON)  # type: ignore[attr-defined]


def _chain(error: object) -> Iterator[BaseException]:
    """Yields an error and what it was raised from."""
    while isinstance(error, BaseException):
        yield error
        error = error.__cause__ or error.__context__


def _lacks_triton(error: BaseException) -> bool:
    from graphnn.errors import BackendError

    if isinstance(error, ModuleNotFoundError):
        return (error.name or "").partition(".")[0] == "triton"
    return isinstance(error, BackendError) and error.got == "no module named 'triton'"
