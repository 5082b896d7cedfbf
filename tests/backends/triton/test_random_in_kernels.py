"""Noise drawn inside kernels, where a model recomputes: the definition, given the same numbers."""

from __future__ import annotations

import pytest
import torch

import graphnn as gn
from graphnn.backends.random import by_counter
from tests.backends.triton.cells import Sizes, inputs, network, ragged
from tests.backends.triton.places import Place, both, everywhere, lowerings
from tests.networks.equality import results
from tests.nn.common import close

NOISY = ("lstm_zoneout", "lstm_recurrent_dropout", "lstm_candidate_dropout", "gru_noise")
SIZES = (Sizes(3, 4, 20), Sizes(17, 2, 8), Sizes(1, 1, 33))


@everywhere
@both
@pytest.mark.parametrize("name, sizes", [(n, SIZES[k % 3]) for k, n in enumerate(NOISY)], ids=str)
def test_equals_the_reference(name: str, sizes: Sizes, strategy: str, place: Place) -> None:
    net = network(name, sizes.hidden)
    found = []
    for at in (place, Place("reference", "cpu")):
        net = net.to(at.device)
        given = inputs(net, sizes, torch.float64, at.device)
        lengths = ragged(sizes, at.device) if sizes.batch == 3 else {}
        model = gn.compile(net, backend=at.backend, skip=at.skip(strategy), recompute=True)
        torch.manual_seed(5)
        with by_counter():
            found.append({k: v.cpu() for k, v in results(model, given, lengths)[0].items()})
    close(*found, 1e-12)


def test_noise_that_kernels_draw_is_nowhere_in_memory() -> None:
    """With recompute the loop is given seeds; without, the numbers."""
    net = network("lstm_zoneout", 8).float()
    again, once = (gn.compile(net, backend="interpret", recompute=r) for r in (True, None))
    assert "new_seed(" in again.source() and "draw('dropout'" not in again.source()
    assert "new_seed(" not in once.source() and "draw('dropout'" in once.source()
    again(**inputs(net, Sizes(2, 3, 8), torch.float32, "cpu"))
    texts = [text for lowering in lowerings(again) for text in lowering.sources()]
    assert texts and all("_seed = tl.load(" in text and "dropout(" in text for text in texts)


def test_one_seed_gives_one_result() -> None:
    net = network("lstm_recurrent_dropout", 8).float()
    model = gn.compile(net, backend="interpret", recompute=True)
    given = inputs(net, Sizes(2, 3, 8), torch.float32, "cpu")

    def run(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return model(**given)["y"]

    assert torch.equal(run(1), run(1)) and not torch.equal(run(1), run(2))
    model.eval()
    assert torch.equal(run(1), run(2))
