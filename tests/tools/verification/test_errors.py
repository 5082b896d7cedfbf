"""How large errors may be, and what is noise."""

from __future__ import annotations

import math

import pytest
import torch

from graphnn.tools.verification.errors import ROUNDING, TensorError, tensor_errors

Tensor = torch.Tensor
EXACT = torch.linspace(-1, 1, 5, dtype=torch.float64)


def only(
    got: Tensor, baseline: Tensor, exact: Tensor, changed: Tensor | None = None
) -> TensorError:
    """The error of one tensor beside another, whose largest number is 1."""
    beside = EXACT
    tensors = [[x, beside] for x in (got, baseline, exact)]
    rounded = exact if changed is None else changed
    return tensor_errors(["x", "y"], *tensors, "bf16", lambda: [[rounded, beside]])[0]


@pytest.mark.parametrize(("baseline", "error"), [(0.0, 2**-8), (0.1, 0.2 + 2**-8)])
def test_twice_the_baselines_error_and_one_rounding_are_allowed(baseline, error):
    within = only(EXACT + error * 0.999, EXACT + baseline, EXACT)
    beyond = only(EXACT + error * 1.001, EXACT + baseline, EXACT)
    assert not within.fault
    assert within.allowed == pytest.approx(error)
    assert "wrong by" in beyond.fault and "is allowed" in beyond.fault


def test_errors_are_relative_to_the_largest_number():
    assert only(1000 * EXACT + 3, 1000 * EXACT, 1000 * EXACT).error == pytest.approx(3e-3)


def test_small_tensors_are_measured_against_a_share_of_the_largest():
    small = 1e-6 * EXACT
    assert only(small + 1e-5, small, small).error == pytest.approx(1e-3)


def test_what_is_zero_by_mathematics_is_measured_against_the_largest_tensor():
    nothing = 1e-17 * EXACT
    found = only(nothing + 2e-3, nothing + 1e-3, nothing)
    assert not found.fault and found.noise == "zero by mathematics"
    assert only(nothing + 0.1, nothing + 1e-3, nothing).fault


def test_an_exact_zero_is_not_noise():
    zeros = torch.zeros(5, dtype=torch.float64)
    found = only(zeros + 1e-3, zeros, zeros)
    assert found.fault and not found.noise


def test_an_ill_conditioned_result_may_change_as_rounded_inputs_change_it():
    found = only(EXACT + 0.05, EXACT, EXACT, changed=EXACT + 0.03)
    assert not found.fault and "rounded inputs change it by 3.0e-02" in found.noise
    assert only(EXACT + 0.5, EXACT, EXACT, changed=EXACT + 0.03).fault


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_number_that_is_not_finite_is_a_fault(bad):
    got = EXACT.clone()
    got[1] = bad
    assert only(got, EXACT, EXACT).fault


def test_a_number_that_should_not_be_finite_is_a_fault_if_it_is():
    exact = EXACT.clone()
    exact[1] = math.inf
    assert only(EXACT, exact, exact).fault
    assert not only(exact, exact, exact).fault


def test_numbers_that_overflow_in_the_dtype_are_left_out_and_counted():
    baseline = EXACT.clone()
    baseline[1] = math.inf
    found = only(baseline, baseline, EXACT)
    assert not found.fault and found.noise == "1 numbers overflow"


def test_whole_numbers_must_be_equal_to_the_baselines():
    whole = torch.arange(5)
    errors = tensor_errors(["x"], [whole + 1], [whole], [whole], "fp32", lambda: [[whole]])
    assert errors[0].fault == "5 of 5 differ"


def test_a_rounding_is_that_of_the_dtype():
    for name, dtype in {"bf16": torch.bfloat16, "fp16": torch.float16}.items():
        assert ROUNDING[name] == torch.finfo(dtype).eps / 2
