"""Loops that many thread blocks share, and whose steps take all of an axis: a block has one row.

Every kernel runs unmodified, its programs in turns. No GPU has run one yet.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

import graphnn as gn
from graphnn.kernels import simulate
from tests.backends.places import INTERPRET, choices
from tests.backends.test_lanes import DECODERS, Decoder, Machine
from tests.graphs import compare
from tests.nn.common import doubles, shuffled

SKIP = INTERPRET.skip("cooperative")


def regimes(net: nn.Module, inputs: dict[str, torch.Tensor]) -> set[str]:
    model = gn.compile(net, backend="interpret", skip=SKIP)
    out = model(**inputs)
    found = out.values() if isinstance(out, dict) else [out]
    sum(v.sum() for v in found).backward()
    return {choice.regime for choice in choices(model)}


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("places", [1, 7])
def test_a_decoder_is_one_kernel_a_direction(name: str, places: int) -> None:
    net = shuffled(Decoder(**DECODERS[name]))  # type: ignore[arg-type]
    given = {"x": doubles(3, 3, 3), "source": doubles(3, places, net.size)}
    lengths = {"target": torch.tensor([3, 1, 2]), "source": torch.tensor([places, 1, places])}
    compare(net, given, lengths, given=True, backend="interpret", skips=[SKIP])
    assert regimes(net, given) == {"cooperative"}


@pytest.mark.parametrize(
    "options",
    [
        {"hidden": 20},
        {"controller": "feedforward", "start": "learned", "read_heads": 2, "hidden": 36},
    ],
    ids=["lstm", "feedforward"],
)
def test_a_neural_turing_machine_is_one_kernel_a_direction(options: dict[str, object]) -> None:
    net = shuffled(Machine(**options))  # type: ignore[arg-type]
    x = doubles(3, 2, 3)
    lengths = {"time": torch.tensor([2, 1, 2])}
    compare(net, {"x": x}, lengths, backend="interpret", skips=[SKIP])
    assert regimes(net, {"x": x[:1, :1]}) == {"cooperative"}
