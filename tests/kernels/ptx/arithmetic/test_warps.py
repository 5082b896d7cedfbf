"""Instructions of a warp against loops over its lanes, by the formulas of the PTX ISA."""

import functools
import operator

import numpy as np
import pytest

from graphnn.kernels.ptx.arithmetic import warps

THREADS = 96
RNG = np.random.default_rng(0)
VALUES = RNG.integers(0, 2**32, THREADS).astype(np.uint32)
EVERYONE = np.ones(THREADS, bool)
SOME = RNG.random(THREADS) < 0.6
SOME[:32] = False


def one_lane(mode, lane, b, c):
    """The source lane and whether it is in range, as the ISA's pseudocode has them."""
    clamp, mask = c & 31, c >> 8 & 31
    most, least = (lane & mask) | (clamp & ~mask & 31), lane & mask
    b &= 31
    j = {"up": lane - b, "down": lane + b, "bfly": lane ^ b, "idx": least | (b & ~mask & 31)}[mode]
    valid = j >= most if mode == "up" else j <= most
    return (j if valid else lane), valid


@pytest.mark.parametrize("mode", ["up", "down", "bfly", "idx"])
@pytest.mark.parametrize("c", [31, 0, 0x1C1F, 0x1C00, 0x181F, 0x0F07])
@pytest.mark.parametrize("b", [0, 1, 5, 16, 31, 33])
def test_shuffles(mode, c, b):
    got, valid = warps.shuffle(
        mode, VALUES, np.full(THREADS, b, np.uint32), np.full(THREADS, c, np.uint32)
    )
    for t in range(THREADS):
        lane, there = one_lane(mode, t % 32, b, c)
        assert (got[t], valid[t]) == (VALUES[t // 32 * 32 + lane], there)


def test_each_lane_may_read_another():
    b = RNG.integers(0, 32, THREADS).astype(np.uint32)
    got, _ = warps.shuffle("idx", VALUES, b, np.full(THREADS, 31, np.uint32))
    assert got.tolist() == [VALUES[t // 32 * 32 + b[t]] for t in range(THREADS)]


@pytest.mark.parametrize("members", [EVERYONE, SOME], ids=["all", "some"])
def test_votes(members):
    p = RNG.random(THREADS) < 0.9
    p[32:64] = True
    for w in range(3):
        here = range(32 * w, 32 * w + 32)
        votes = [p[t] for t in here if members[t]]
        want = {
            "all": all(votes),
            "any": any(votes),
            "uni": len(set(votes)) < 2,
        }
        for mode, expected in want.items():
            assert (warps.vote(mode, p, members)[here] == expected).all()
        mask = sum(1 << t % 32 for t in here if p[t] and members[t])
        assert (warps.ballot(p, members)[here] == mask).all()


@pytest.mark.parametrize("dtype", [np.int32, np.uint32])
@pytest.mark.parametrize("mode", ["add", "min", "max", "and", "or", "xor"])
def test_reductions(mode, dtype):
    function = {
        "add": operator.add,
        "min": min,
        "max": max,
        "and": operator.and_,
        "or": operator.or_,
        "xor": operator.xor,
    }[mode]
    x = VALUES.view(dtype)
    members = SOME.copy()
    members[:3] = True
    got = warps.reduce(mode, x, members)
    for w in range(3):
        here = range(32 * w, 32 * w + 32)
        total = functools.reduce(function, [int(x[t]) for t in here if members[t]])
        assert (got[here].view(np.uint32) == total % 2**32).all()


def test_matches():
    x = RNG.integers(0, 4, THREADS).astype(np.uint32)
    x[64:] = 9
    got = warps.match(x, SOME)
    for t in range(THREADS):
        here = range(t // 32 * 32, t // 32 * 32 + 32)
        assert got[t] == sum(1 << s % 32 for s in here if SOME[s] and x[s] == x[t])
    mask, every = warps.match_all(x, EVERYONE)
    assert mask[64:].tolist() == [2**32 - 1] * 32 and every[64:].all()
    assert not mask[:64].any() and not every[:64].any()


def test_the_lowest_member_is_elected():
    members = SOME.copy()
    members[30] = True
    leader, chosen = warps.elect(members)
    for w in range(3):
        first = next(t for t in range(32) if members[32 * w + t])
        assert (leader[32 * w : 32 * w + 32] == first).all()
        assert np.flatnonzero(chosen[32 * w : 32 * w + 32]).tolist() == [first]
