"""`graphnn resources`: the table of kernels and the reasons for those that do not fit."""

from __future__ import annotations

import json
import pathlib
import re

import pytest

from graphnn.cli import main

CELLS = """
import graphnn as gn
from bench.networks import LSTM, RNN

small = RNN(32)
wide = LSTM(256)
widest = LSTM(4096)


class Best(gn.nn.AssociativeMemory):
    def graph(self, g):
        g.output("y", self(g.input("x", (8,))))


best = Best(50, 8, 8, topk=4)
"""


@pytest.fixture
def cells(tmp_path: pathlib.Path) -> str:
    file = tmp_path / "cells.py"
    file.write_text(CELLS)
    return str(file)


def test_fitting_kernels_are_in_the_table(cells: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["resources", f"{cells}:small", "--target", "sm_90", "--target", "sm_80"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "resident" in line]
    assert len(lines) == 4 and all("fits" in line and "mma" in line for line in lines)
    assert sum("backward" in line and "sm_80" in line for line in lines) == 1


def test_kernels_that_do_not_fit_are_listed_with_the_reason(
    cells: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["resources", f"{cells}:widest", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["fit"] == [] and len(found["refused"]) == 2
    assert all("do not fit the 227 KB" in reason for _, _, reason in found["refused"])
    assert all("stepwise" in reason for _, _, reason in found["refused"])


def test_cooperative_kernels_are_in_the_table(
    cells: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["resources", f"{cells}:wide", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["refused"] == [] and len(found["fit"]) == 2
    for row in found["fit"]:
        assert row["faults"] == [] and row["weights"] == "resident"
        assert re.fullmatch(r"32 blocks, 1\.\d µs", row["step"])


def test_attention_kernels_are_in_the_table(cells: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["resources", f"{cells}:best", "--target", "sm_90", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["fit"]
    assert len(found) == 4 and not any(row["faults"] for row in found)
    assert found[-1]["name"] == "best, merge of the 4 best"


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_the_default_table_lists_the_cells_of_the_library(
    dtype: str, capsys: pytest.CaptureFixture[str]
) -> None:
    targets = [x for t in ("sm_80", "sm_90", "sm_100") for x in ("--target", t)]
    assert main(["resources", "--dtype", dtype, *targets]) == 0
    assert "LSTM 160, forward" in capsys.readouterr().out
