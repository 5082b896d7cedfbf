"""Random torch code in graphs, compared with the same code run eagerly for each example.

`python -m tests.fuzz` runs more of them, from any seed, and prints their outcomes.
"""

from __future__ import annotations

import pytest

from tests.fuzz.run import run


def hold(count: int, backend: str, most: int) -> None:
    """None of `count` networks differs from torch, and nearly all are judged."""
    said: list[str] = []
    found = run(range(count), backend, most, 200, said.append)
    assert not [name for name in found if name.startswith("FOUND")], "\n".join(said)
    assert found["equal"] > 0.8 * count, found


def test_random_code() -> None:
    hold(150, "torch", 5)


def test_random_code_in_kernels() -> None:
    hold(30, "interpret", 3)


@pytest.mark.slow
def test_much_random_code() -> None:
    hold(10_000, "torch", 5)


@pytest.mark.slow
def test_much_random_code_in_kernels() -> None:
    hold(1_000, "interpret", 4)


def test_a_wrong_network_is_found_and_shrunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests above fail if one function of the library is wrong."""
    import torch

    from graphnn.frontend.dispatch import TABLE
    from graphnn.ops.torch.registry import HANDLERS

    wrong = HANDLERS["sin"]
    for function in (torch.cos, torch.Tensor.cos):
        monkeypatch.setitem(TABLE, function, wrong)
    said: list[str] = []
    found = run(range(30), "torch", 3, 40, said.append)
    assert any(name.startswith("FOUND differs") for name in found)
    recipes = [line for text in said for line in text.splitlines() if line.startswith("Recipe(")]
    assert recipes and all(len(line) < 3000 for line in recipes)
