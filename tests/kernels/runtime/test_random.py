"""Counter-based random numbers: known answers, independence of the launch, distributions."""

from __future__ import annotations

import pytest
import torch

from graphnn.kernels.executors.named import INTERPRETER
from graphnn.kernels.runtime.random import LAWS, random_tensor

SEED = torch.tensor([2**40 + 12345])


def numbers(law: str, *shape: int, seed: torch.Tensor = SEED, p: float = 0.3) -> torch.Tensor:
    return random_tensor(seed, law, p, shape, torch.float64, executor=INTERPRETER)


def test_philox_gives_its_known_answer() -> None:
    """Philox4x32-10 of counter 0 and key 0 begins with 6627e8d5 (Random123's known answers)."""
    first = numbers("uniform", 1, seed=torch.tensor([0]))
    assert first.item() == pytest.approx(0x6627E8D5 / 2**31, abs=1e-7)


@pytest.mark.parametrize("law", LAWS)
def test_a_number_depends_on_its_position_alone(law: str) -> None:
    assert torch.equal(numbers(law, 7), numbers(law, 3, 1000).flatten()[:7])
    assert not torch.equal(numbers(law, 64), numbers(law, 64, seed=SEED + 1))
    assert numbers(law, 0, 4).shape == (0, 4)


@pytest.mark.parametrize(
    "law, mean, variance",
    [("uniform", 1 / 2, 1 / 12), ("normal", 0, 1), ("dropout", 1, 0.3 / 0.7)],
)
def test_moments(law: str, mean: float, variance: float) -> None:
    """A mean of 40,000 numbers is off by 5 standard errors less than once in a million."""
    found = numbers(law, 40_000)
    assert abs(found.mean() - mean) < 5 * (variance / 40_000) ** 0.5
    assert abs(found.var() - variance) < 0.03 * max(variance, 0.1)


def test_dropout_of_one_and_of_zero() -> None:
    assert numbers("dropout", 50, p=1.0).count_nonzero() == 0
    assert torch.equal(numbers("dropout", 50, p=0.0), torch.ones(50, dtype=torch.float64))
