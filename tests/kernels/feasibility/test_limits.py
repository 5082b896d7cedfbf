"""Registers per thread, and the known GPU whose limits an unknown GPU gets."""

from __future__ import annotations

import pytest

from graphnn.kernels.feasibility.limits import nearest_target, register_cap


@pytest.mark.parametrize(("threads", "cap"), [(128, 255), (256, 255), (512, 128), (1024, 64)])
def test_registers_are_divided_among_threads(threads, cap):
    assert register_cap(threads) == cap


@pytest.mark.parametrize(
    ("capability", "target"),
    [
        ((7, 5), "sm_80"),
        ((8, 0), "sm_80"),
        ((8, 9), "sm_80"),
        ((9, 0), "sm_90"),
        ((12, 0), "sm_100"),
    ],
)
def test_an_unknown_gpu_has_the_limits_of_the_newest_below_it(capability, target):
    assert nearest_target(*capability) == target
