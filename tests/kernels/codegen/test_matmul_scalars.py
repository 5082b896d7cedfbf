"""Single numbers of a row that meet a weight side by side, in one tile."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import graphnn as gn
from graphnn.kernels.codegen.matmul_scalars import ScalarSpan
from graphnn.kernels.codegen.persistent import emit
from graphnn.kernels.ir.expression import Name
from graphnn.nn import NTM
from graphnn.tools.resources import Layer, kernels


@pytest.mark.parametrize(
    "starts",
    [(3, 4), (0, 9), (20, 21, 22, 23, 24, 25, 46, 47, 48, 49, 50, 51), (1, 3, 4, 8)],
)
def test_where_the_numbers_of_a_tile_lie(starts: tuple[int, ...]) -> None:
    span = ScalarSpan(starts[0], len(starts), 16, starts)
    names: dict[str, Any] = {"tl": SimpleNamespace(where=np.where), "cols": np.arange(16)}
    places = eval(span.indices(Name("cols")).text, names)
    assert (starts[0] + places[: len(starts)]).tolist() == list(starts)


def test_tiles_that_differ_only_in_their_elements_have_separate_weights() -> None:
    assert ScalarSpan(0, 2, 16, (0, 3)).shape != ScalarSpan(0, 2, 16, (0, 4)).shape


def test_a_head_of_a_memory_takes_one_product_for_its_single_numbers() -> None:
    forward, backward = kernels(gn.compile(Layer(NTM(3, 20, 16, 17), 3)), torch.bfloat16)
    text = emit(forward.program, ahead=False).text
    assert text.count("_singles_equal = matmul(") == 1 and text.count("_singles, 0.0), 1") == 12
    text = emit(backward.program, ahead=False).text
    assert text.count("_singles = tl.zeros([1, 16], ACC)") == 1
    assert "".join(text.split()).count("_singles=tl.where(cols_16==") == 12
