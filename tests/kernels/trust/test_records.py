"""What is remembered about kernels is listed, taken back, and true of tuners' candidates."""

from __future__ import annotations

import pytest
import torch

from graphnn.cli import main
from graphnn.kernels import cache
from graphnn.kernels.trust import record
from graphnn.kernels.trust.compare import Expected, candidates_differ, difference
from graphnn.kernels.trust.record import Verdict


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(cache, "_TEMPORARY", [])


def test_doctor_lists_refusals_and_forgets_them_on_request(capsys):
    key = {"name": "h_saving", "device": "a made-up GPU", "triton": "3.9.0"}
    record.remember(key, Verdict(False, "it does not run within 30 s", "layer.h, forward"))
    record.remember({"name": "right"}, Verdict(True))
    assert main(["doctor"]) == 1
    text = capsys.readouterr().out
    line = "layer.h, forward: h_saving (Triton 3.9.0, a made-up GPU): it does not run within 30 s"
    assert line in text and "graphnn doctor --retry" in text
    assert main(["doctor", "--retry"]) == 0
    assert capsys.readouterr().out == "1 refusal forgotten\n"
    assert not record.refusals() and record.recalled({"name": "right"}) == Verdict(True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_candidates_may_round_differently_and_nothing_more(dtype):
    x = torch.linspace(-1, 1, 64).to(dtype)
    near, far, gone = x.clone(), x.clone(), x.clone()
    near[5] *= 1 + torch.finfo(dtype).eps
    far[5] += 0.5
    gone[5] = float("nan")
    assert candidates_differ([near], [x]) == ""
    assert "1 of 64 are wrong, the worst at (5,) by 0.5" in candidates_differ([far], [x])
    assert "NaN or infinite" in candidates_differ([gone], [x])


def test_a_result_that_cancels_may_be_off_by_what_rounded_inputs_change():
    zero = torch.zeros(1)
    off = torch.full((1,), 1e-7)
    assert "wrong" in difference([off], Expected([zero], [zero.double()]))
    assert not difference([off], Expected([zero], [zero.double()], shaken=[off.double()]))
