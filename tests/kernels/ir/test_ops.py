"""Operations of kernels have a known kind, and the arguments and attributes that it needs."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from graphnn.kernels.codegen.persistent import WRITERS
from graphnn.kernels.cooperative.codegen.emit import FETCHING, WRITING
from graphnn.kernels.ir.ops import OP_KINDS
from graphnn.kernels.ir.program import Op


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (lambda: Op("x", "red"), "'x' has an unknown kind 'red'"),
        (lambda: Op("x", "size"), "'x' of kind 'size' lacks axis"),
        (lambda: Op("x", "draw", attrs={"tensor": None}), "lacks law, p"),
        (lambda: Op("x", "sum", ("a", "b")), "'x' of kind 'sum' has 2 arguments"),
        (lambda: Op("x", "const", attrs={"value": 1, "vaule": 2}), "has no attribute vaule"),
    ],
)
def test_operations_that_do_not_match_their_kind_are_errors(
    made: Callable[[], Op], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        made()


def test_every_kind_of_a_loop_has_a_writer() -> None:
    attention = {"online_softmax", "expand", "column_sum", "column_max", "column_argmax"}
    attention |= {"column_logsumexp"}
    sharded = {name for name, kind in OP_KINDS.items() if kind.sharded}
    assert OP_KINDS.keys() - attention - sharded == WRITERS.keys()
    assert sharded == (WRITING.keys() - WRITERS.keys()) | FETCHING.keys() | {"sharded_matmul"}
