"""Every operator of torch's database means in a graph what it means in torch, or is refused.

`opinfo_refused.json` says which are refused, in which first words and where, and what is left out
and why; it is kept true here. To write it anew: `python -m tests.operators.test_opinfo`.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch

from tests.operators.opinfo import DTYPES, OPERATORS, PLACES, examine

FILE = Path(__file__).with_name("opinfo_refused.json")
# samples of an operator, dtype and place
MOST = 4
# operators in the default run
SOME = sorted(random.Random(15).sample(sorted(OPERATORS), 24))

Refused = dict[str, list[str]]


def kept() -> dict[str, Refused]:
    found: dict[str, Refused] = json.loads(FILE.read_text())
    return found


def refusals(name: str) -> Refused:
    """The first words of an operator's refusals, and where they are met; none may be wrong."""
    found: Refused = {}
    for kind, dtype in DTYPES.items():
        if not OPERATORS[name].supports_dtype(dtype, "cpu"):
            continue
        for place in PLACES:
            torch.manual_seed(0)
            seen = examine(name, dtype, place, MOST)
            assert not seen.wrong, f"{name}, {kind}, {place}: {seen.wrong}"
            for said in sorted(seen.refused):
                found.setdefault(said, []).append(f"{kind} {place}")
    return found


@pytest.mark.parametrize("name", SOME)
def test_some_operators(name: str) -> None:
    assert refusals(name) == kept().get(name, {})


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_every_operator(name: str) -> None:
    assert refusals(name) == kept().get(name, {})


def test_the_file_names_operators() -> None:
    assert set(kept()) <= set(OPERATORS)


if __name__ == "__main__":
    made = {name: found for name in sorted(OPERATORS) if (found := refusals(name))}
    FILE.write_text(json.dumps(made, indent=1) + "\n")
