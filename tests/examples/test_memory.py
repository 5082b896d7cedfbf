"""The program on associative memory: recall is what it says, and a short run prints its tables."""

from __future__ import annotations

import pytest
import torch

import graphnn as gn
from graphnn.examples import memory


@pytest.mark.parametrize("sharpness", memory.KINDS.values())
def test_what_is_read_is_its_definition(sharpness: float) -> None:
    torch.manual_seed(0)
    keys, values, asked = (memory.directions(5, 4) for _ in range(3))
    none, write = torch.zeros(5, 4), torch.arange(10) < 5
    model = gn.compile(memory.Store(5, 4, sharpness))
    given = {
        "address": torch.cat([none, asked]),
        "key": torch.cat([keys, none]),
        "value": torch.cat([values, none]),
        "write": write,
    }
    read = model(**{k: v[None] for k, v in given.items()})[0]
    match = asked[1:] @ keys.T
    wanted = (torch.softmax(sharpness * match, -1) if sharpness else match) @ values
    torch.testing.assert_close(read[6:], wanted)


def test_few_pairs_are_recalled_and_many_are_not_by_a_matrix() -> None:
    torch.manual_seed(0)
    assert memory.recall(4, 32, 32.0, 0.3, "cpu") == 100
    assert memory.recall(256, 16, 0.0, 0.3, "cpu") < 50


def test_the_lookup_timed_beside_is_the_same() -> None:
    torch.manual_seed(0)
    net, x = memory.Learned(20, 6), memory.directions(3, 6)
    torch.testing.assert_close(gn.compile(net)(address=x), memory.plain(net, x))


def test_a_short_run_prints_its_tables(capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--width", "4", "--slots", "4", "--epochs", "2", "--most", "1000", "--batch", "2"]
    memory.main([*small, "--threads", "1"])
    shown = capsys.readouterr().out
    for text in ("Recalled in percent", "Learned by 4 slots", "Milliseconds of 2 lookups"):
        assert text in shown
