"""Wide values are loaded again if their uses are far apart."""

from __future__ import annotations

import pytest

from graphnn.kernels.analysis import reload_wide
from graphnn.kernels.ir.expression import Name
from graphnn.kernels.ir.symbols import NameTable
from tests.kernels.statements import sizes, statements

SIZES = sizes({"kept": 8, "wide": 16, "narrow": 1})
LINES = [
    "kept = tl.load(p + t)",
    "wide = kept.to(ACC)",
    "narrow = tl.load(q + t)",
    "a = wide + narrow",
    *(f"x_{k} = f(a)" for k in range(5)),
    "b = wide + narrow",
    "c = wide * 2",
]


@pytest.fixture(autouse=True)
def nearer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reload_wide, "MIN_DISTANCE", 4)


def lines(texts: list[str], used: set[str] | None = None) -> list[str]:
    made, held = statements(texts), {Name(name) for name in used or ()}
    names = NameTable(name.text for s in made for name in s.names)
    found = reload_wide.reloaded(made, held, SIZES, lambda wanted: Name(names.fresh(wanted)))
    return [s.text for s in found]


def test_a_wide_value_is_loaded_again_for_distant_uses() -> None:
    assert lines(LINES) == [
        *LINES[:-2],
        "kept_again = tl.load(p + t)",
        "wide_again = kept_again.to(ACC)",
        "b = wide_again + narrow",
        "c = wide_again * 2",
    ]


def test_names_are_free() -> None:
    texts = ["wide_again = f(z)", *LINES]
    assert lines(texts)[-2] == "b = wide_again_2 + narrow"


def test_what_is_held_anyway_is_not() -> None:
    assert lines(LINES, {"wide"}) == LINES


def test_a_name_that_is_given_anew_is_not() -> None:
    texts = [*LINES[:3], "wide = wide + 1", *LINES[3:]]
    assert lines(texts) == texts


@pytest.mark.parametrize("loaded", ["tl.load(slot, '.cg')", "tl.load(p + a_0)", "f(t)"])
def test_what_others_write_or_more_goes_into_is_not(loaded: str) -> None:
    texts = ["a_0 = f(t)", f"kept = {loaded}", *LINES[1:]]
    assert lines(texts) == texts
