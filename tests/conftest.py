"""Settings of the whole suite: one thread, a fixed hypothesis profile, imports as `tests.x`."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, settings

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from tests.without_triton import skip_if_needed

torch.set_num_threads(1)
settings.register_profile(
    "ci",
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
settings.register_profile("search", settings.get_profile("ci"), derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


# slow tests that repeat at full size what other tests check at small sizes: `pytest -m proof`
PROOFS = (
    "attention/",
    "backends/",
    "frontend/test_names.py",
    "fuzz/",
    "operators/test_opinfo.py",
    "package/test_import.py",
    "pictures/test_layout.py",
    "pictures/test_random.py",
    "runtime/test_integration.py",
    "runtime/test_lifetime.py",
    "runtime/test_transforms.py",
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the proofs, by where they are."""
    home = os.path.dirname(os.path.abspath(__file__))
    for item in items:
        if os.path.relpath(item.path, home).startswith(PROOFS):
            item.add_marker(pytest.mark.proof)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    """Skip modules that import Triton if it is missing."""
    report = yield
    if report.failed and report.call is not None and report.call.excinfo is not None:
        skip_if_needed(collector, report, report.call.excinfo.value)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Skip tests that run kernels if Triton is missing."""
    report = yield
    if report.failed and call.excinfo is not None:
        skip_if_needed(item, report, call.excinfo.value)
    return report


def pytest_collection_finish() -> None:
    """Garbage is looked for less often, and not in modules, which stay: it was a fifth of a run."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def pytest_unconfigure() -> None:
    """Unfreezes modules at the end; otherwise Triton reports its own objects as leaked."""
    gc.unfreeze()
