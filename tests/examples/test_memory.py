"""The associative memory program: its lookups, its recall, and a short run."""

from __future__ import annotations

import pytest
import torch

import graphnn as gn
from graphnn.examples import memory


@pytest.mark.parametrize("sharpness", memory.KINDS.values())
def test_reads_equal_their_formula(sharpness: float) -> None:
    torch.manual_seed(0)
    keys, values, addresses = (memory.directions(5, 4) for _ in range(3))
    zeros, write = torch.zeros(5, 4), torch.arange(10) < 5
    model = gn.compile(memory.Store(5, 4, sharpness))
    inputs = {
        "address": torch.cat([zeros, addresses]),
        "key": torch.cat([keys, zeros]),
        "value": torch.cat([values, zeros]),
        "write": write,
    }
    read = model(**{k: v[None] for k, v in inputs.items()})[0]
    match = addresses[1:] @ keys.T
    expected = (torch.softmax(sharpness * match, -1) if sharpness else match) @ values
    torch.testing.assert_close(read[6:], expected)


def test_softmax_recalls_few_pairs_and_a_matrix_forgets_many() -> None:
    torch.manual_seed(0)
    assert memory.recall(4, 32, 32.0, 0.3, "cpu") == 100
    assert memory.recall(256, 16, 0.0, 0.3, "cpu") < 50


def test_the_torch_baseline_equals_the_lookup() -> None:
    torch.manual_seed(0)
    net, x = memory.Learned(20, 6), memory.directions(3, 6)
    torch.testing.assert_close(gn.compile(net)(address=x), memory.plain(net, x))


def test_a_short_run_prints_its_tables(capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--width", "4", "--slots", "4", "--epochs", "2", "--most", "1000", "--batch", "2"]
    memory.main([*small, "--threads", "1"])
    shown = capsys.readouterr().out
    for text in ("Recalled in percent", "Learned by 4 slots", "Milliseconds per 2 lookups"):
        assert text in shown
