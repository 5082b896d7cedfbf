"""Statements that order threads are left out or weakened one by one: all of that is noticed.

What is not noticed must be redundant, and `judge.redundant` says why. The default tests change
kernels written by hand; `pytest -m ptx` changes those that Triton compiles from models.

The score with Triton 3.9, for LSTM and GRU, forward and backward, sm_80 and sm_90, bf16 and fp32:

    change                                  mutants   noticed   redundant
    persistent, 64 units: bar.sync              312       296          16
    cooperative, 20 units: bar.sync             380       258         122
        of these, with their twins               32        32           0
    acquire weakened, or of its block            48        48           0
    release weakened, or of its block            64        64           0
    arrival left out                             32        32           0

Of the 122, 64 have a twin beside them, 48 are in the path of a wait that is given up, which a run
does not take, and 10 order accesses of which each warp makes its own.
"""

from __future__ import annotations

import re
from collections import Counter

import pytest
import torch

from graphnn.kernels import ptx
from graphnn.kernels.analysis import happens_before
from graphnn.kernels.rules import table
from tests.kernels.ptx.mutants import handwritten
from tests.kernels.ptx.mutants.judge import TWIN, UNREACHED, score
from tests.kernels.ptx.mutants.launches import Layer, Recorded, recorded, sequences
from tests.kernels.ptx.mutants.pipelines import recorded_product

NOTICED = {"race", "deadlock", "fault", "NaN", "numbers"}
BLOCKS = {
    "acquire weakened",
    "acquire of the block alone",
    "release weakened",
    "release of the block alone",
    "arrival left out",
}


def check(launch: Recorded) -> Counter[tuple[str, str]]:
    """Judge all mutants of a launch; return how many of each change had each verdict."""
    assert not launch.report.races
    counts, missed = score(launch)
    assert not missed, [(m.change, str(m.statement), str(m.statement.loc[:1])) for m in missed]
    return counts


def noticed(counts: Counter[tuple[str, str]]) -> Counter[str]:
    """Return how many mutants of each change were noticed."""
    return Counter({c: 0 for c, _ in counts}) + Counter(
        {c: sum(n for (d, v), n in counts.items() if d == c and v in NOTICED) for c, _ in counts}
    )


def test_a_barrier_in_a_kernel_of_two_warps():
    assert check(handwritten.one_block(handwritten.EXCHANGE)) == {("bar.sync left out", "race"): 1}


def test_a_wait_for_copies():
    assert check(handwritten.one_block(handwritten.COPY)) == {
        ("cp.async.wait_group left out", "numbers"): 1,
        ("cp.async waits for fewer", "numbers"): 1,
    }


def test_what_orders_two_blocks():
    assert check(handwritten.two_blocks()) == {
        ("bar.sync left out", "race"): 2,
        **{(change, "race"): 1 for change in BLOCKS - {"arrival left out"}},
        ("arrival left out", "deadlock"): 1,
    }


def test_redundant_barriers_are_told_apart():
    """A second barrier, and one that is never reached; without both twins there is a race."""
    twins = handwritten.EXCHANGE.replace("bar.sync 0;", "bar.sync 0; mov.u32 %r5, 1; bar.sync 0;")
    jump = "setp.eq.s32 %p1, %r1, -1; @!%p1 bra $L_end; bar.sync 0; $L_end:"
    assert check(handwritten.one_block(twins + jump)) == {
        ("bar.sync left out", TWIN): 2,
        ("bar.sync left out", UNREACHED): 1,
        ("bar.sync left out with its twins", "race"): 1,
    }


def test_a_barrier_between_private_accesses_is_redundant():
    own = handwritten.EXCHANGE.replace("128", "4")
    ((change, why),) = check(handwritten.one_block(own))
    assert change == "bar.sync left out" and "no more bytes are shared" in why


DTYPES = [torch.bfloat16, torch.float32]
DTYPE_NAMES = ["bf16", "fp32"]


@pytest.mark.ptx
@pytest.mark.parametrize("dtype", DTYPES, ids=DTYPE_NAMES)
@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_persistent_kernels(kind, target, dtype):
    launches = recorded(Layer(kind, 64).to(dtype), sequences(3, 3, dtype), target)
    assert len(launches) == 2 and not any(x.together for x in launches)
    for launch in launches:
        found = noticed(check(launch))["bar.sync left out"]
        # Triton puts up to three barriers before stores that others order already
        assert found >= len(launch.program.barriers) - 3 and found >= 4


@pytest.mark.ptx
@pytest.mark.parametrize("dtype", DTYPES, ids=DTYPE_NAMES)
@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_cooperative_kernels(kind, target, dtype):
    # 16 rows: with fewer, all stores that a release publishes are those of one warp
    x = sequences(16, 3, dtype)
    launches = recorded(Layer(kind, 20).to(dtype), x, target, skip=("resident",))
    assert len(launches) == 2 and all(x.together for x in launches)
    for launch in launches:
        counts = check(launch)
        found = noticed(counts)
        for change in BLOCKS:
            assert found[change] == sum(n for (c, _), n in counts.items() if c == change) > 0
        assert found["bar.sync left out"] >= 6


@pytest.mark.ptx
@pytest.mark.parametrize(
    "target, stages, rows", [("sm_80", 3, 16), ("sm_80", 3, 64), ("sm_90", 1, 64), ("sm_90", 3, 64)]
)
def test_products_whose_operands_are_copied_ahead(target, stages, rows):
    found = noticed(check(recorded_product(target, stages, rows)))
    assert found["bar.sync left out"] >= 2
    assert found["fence.proxy.async left out"] == (target == "sm_90")
    for change in ("cp.async.wait_group left out", "cp.async waits for fewer"):
        assert (found[change] >= 1) == (stages > 1)


@pytest.mark.ptx
@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_one_slot_is_a_race_unless_the_analysis_allows_it(kind, target, monkeypatch):
    """A GRU waits twice in each step and needs one slot; an LSTM waits once and needs two.

    The rules for written kernels refuse too few slots already, and are left out here.
    """
    allowed = []
    monkeypatch.setattr(table, "RULES", ())

    def one(before, step, least):
        allowed.append(next(happens_before.faults(before, step, 1), None) is None)
        return 1

    monkeypatch.setattr(happens_before, "slots_needed", one)
    x = sequences(16, 4, torch.bfloat16)
    launches = recorded(Layer(kind, 20).bfloat16(), x, target, skip=("resident",))
    seen = [str(launch.run(launch.program, seed).races) for launch in launches for seed in range(4)]
    raced = any("released and acquired" in text for text in seen)
    assert raced == (kind == "lstm") == (not all(allowed))


@pytest.mark.ptx
def test_a_race_between_blocks_names_the_line_and_the_argument():
    x = sequences(16, 3, torch.bfloat16)
    launch = recorded(Layer("lstm", 20).bfloat16(), x, "sm_90", skip=("resident",))[0]
    weak = ptx.parse(launch.program.text.replace("acquire", "relaxed"))
    race = launch.run(weak).races[0]
    assert race.source[-1].file.endswith(".py") and "source:     " in str(race)
    assert re.search(r"of argument \d+ \(\d+ bytes\), which block \d stored", str(race))
