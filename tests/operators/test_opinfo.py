"""Every operator in torch's OpInfo database computes the same in a graph, or is refused.

`opinfo_refused.json` lists which operators are refused, with the start of each message, and where,
and which are left out with the reason. To rewrite it: `python -m tests.operators.test_opinfo`.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch

from tests.operators.opinfo import DTYPES, OPERATORS, PLACES, examine

FILE = Path(__file__).with_name("opinfo_refused.json")
# number of samples for each operator, dtype and place
MOST = 4
# operators in the default run
SOME = sorted(random.Random(15).sample(sorted(OPERATORS), 24))

Refused = dict[str, list[str]]


def recorded_refusals() -> dict[str, Refused]:
    found: dict[str, Refused] = json.loads(FILE.read_text())
    return found


def refusals(name: str) -> Refused:
    """Returns an operator's refusals and where they occur; fails if any result is wrong."""
    found: Refused = {}
    for kind, dtype in DTYPES.items():
        if not OPERATORS[name].supports_dtype(dtype, "cpu"):
            continue
        for place in PLACES:
            torch.manual_seed(0)
            outcome = examine(name, dtype, place, MOST)
            assert not outcome.wrong, f"{name}, {kind}, {place}: {outcome.wrong}"
            for message in sorted(outcome.refused):
                found.setdefault(message, []).append(f"{kind} {place}")
    return found


@pytest.mark.parametrize("name", SOME)
def test_a_sample_of_operators_equals_torch_or_is_refused_as_recorded(name: str) -> None:
    assert refusals(name) == recorded_refusals().get(name, {})


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_every_operator_equals_torch_or_is_refused_as_recorded(name: str) -> None:
    assert refusals(name) == recorded_refusals().get(name, {})


def test_the_file_contains_only_known_operators() -> None:
    assert set(recorded_refusals()) <= set(OPERATORS)


if __name__ == "__main__":
    refused = {name: found for name in sorted(OPERATORS) if (found := refusals(name))}
    FILE.write_text(json.dumps(refused, indent=1) + "\n")
