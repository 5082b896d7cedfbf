"""Registers per thread."""

from __future__ import annotations

import pytest

from graphnn.kernels.feasibility.limits import register_cap


@pytest.mark.parametrize(("threads", "cap"), [(128, 255), (256, 255), (512, 128), (1024, 64)])
def test_registers_are_divided_among_threads(threads, cap):
    assert register_cap(threads) == cap
