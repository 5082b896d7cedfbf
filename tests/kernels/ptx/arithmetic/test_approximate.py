"""Approximate instructions stay within the documented errors, and use them."""

import numpy as np
import pytest

from graphnn.kernels.ptx.arithmetic import formats
from graphnn.kernels.ptx.arithmetic.approximate import (
    APPROXIMATIONS,
    MODES,
    Errors,
    approximate,
)
from tests.kernels.ptx.arithmetic.exact import same

# overflow and NaN are results
pytestmark = pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")
INF, NAN = np.inf, np.nan
# the tables of corner cases of the PTX ISA, from operand to result
CORNERS = {
    "ex2": ((-INF, 0.0), (-0.0, 1.0), (0.0, 1.0), (INF, INF), (NAN, NAN)),
    "lg2": ((-INF, NAN), (-1.0, NAN), (-0.0, -INF), (0.0, -INF), (INF, INF), (NAN, NAN)),
    "rcp": ((-INF, -0.0), (-0.0, -INF), (0.0, INF), (INF, 0.0), (NAN, NAN)),
    "sqrt": ((-INF, NAN), (-1.0, NAN), (-0.0, -0.0), (0.0, 0.0), (INF, INF), (NAN, NAN)),
    "rsqrt": ((-INF, NAN), (-1.0, NAN), (-0.0, -INF), (0.0, INF), (INF, 0.0), (NAN, NAN)),
    "sin": ((-INF, NAN), (-0.0, -0.0), (0.0, 0.0), (INF, NAN), (NAN, NAN)),
    "cos": ((-INF, NAN), (-0.0, 1.0), (0.0, 1.0), (INF, NAN), (NAN, NAN)),
    "tanh": ((-INF, -1.0), (-0.0, -0.0), (0.0, 0.0), (INF, 1.0), (NAN, NAN)),
}
# the largest relative and absolute errors; what is in ulps is tested apart
BOUNDS = {
    ("ex2", "f16"): (2.0**-9.9, 0),
    ("ex2", "bf16"): (2.0**-7, 0),
    ("sqrt", "f32"): (2.0**-23, 0),
    ("rsqrt", "f32"): (2.0**-22.9, 0),
    ("tanh", "f32"): (2.0**-11, 0),
    ("tanh", "f16"): (0, 2.0**-10.987),
    ("tanh", "bf16"): (0, 2.0**-8),
    ("sin", "f32"): (0, 2.0**-20.5),
    ("cos", "f32"): (0, 2.0**-20.5),
}
ULPS = {("ex2", "f32"): 2, ("rcp", "f32"): 1, ("div", "f32"): 2, ("div.full", "f32"): 2}
EXACT = {
    "ex2": np.exp2,
    "lg2": np.log2,
    "rcp": lambda x: 1 / x,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "sin": np.sin,
    "cos": np.cos,
    "tanh": np.tanh,
    "div": np.divide,
    "div.full": np.divide,
}
CASES = sorted(APPROXIMATIONS)


def operands(opcode, kind, count=2000):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, count)) * rng.choice([0.01, 1, 3], (2, count))
    x = np.abs(x) + 1e-3 if opcode in ("lg2", "sqrt", "rsqrt") else x
    x = np.clip(x, -6, 6) if opcode in ("sin", "cos", "ex2") else x
    return [formats.encode(v, kind) for v in x[: 2 if opcode.startswith("div") else 1]]


def results(opcode, kind, mode, seed=0):
    """Operands as numbers, the exact result, and that of the instruction."""
    given = operands(opcode, kind)
    wide = [formats.decode(x, kind).astype(np.float64) for x in given]
    got = approximate(opcode, kind)(Errors(mode, seed), *given)
    return wide, EXACT[opcode](*wide), formats.decode(got, kind).astype(np.float64)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", BOUNDS)
def test_errors_are_within_their_bounds(case, mode):
    _, exact, got = results(*case, mode)
    relative, absolute = BOUNDS[case]
    nearest = np.abs(formats.round_to(exact, case[1]) - exact)
    allowed = np.maximum(relative * np.abs(exact) + absolute, nearest)
    assert (np.abs(got - exact) <= allowed).all()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", ULPS)
def test_errors_in_units_of_the_last_place(case, mode):
    _, exact, got = results(*case, mode)
    nearest = exact.astype(np.float32)
    assert (np.abs(got - nearest) <= ULPS[case] * np.spacing(np.abs(nearest))).all()


@pytest.mark.parametrize("mode", MODES)
def test_the_error_of_logarithms_is_absolute_near_one(mode):
    (x,), exact, got = results("lg2", "f32", mode)
    near = (x > 0.5) & (x < 2)
    allowed = np.where(near, 2.0**-22, 2.0**-22 * np.abs(exact))
    assert (np.abs(got - exact) <= np.maximum(allowed, np.spacing(np.abs(exact)) / 2)).all()


@pytest.mark.parametrize("case", CASES)
def test_exact_results_are_rounded_correctly(case):
    _, exact, got = results(*case, "exact")
    assert np.array_equal(got, formats.round_to(exact, case[1]))


@pytest.mark.parametrize("case", CASES)
def test_errors_are_drawn_by_the_seed_and_reach_the_bound(case):
    exact = results(*case, "exact")[2]
    errors = [results(*case, "random", seed)[2] - exact for seed in (1, 1, 2)]
    assert np.array_equal(errors[0], errors[1]) and not np.array_equal(errors[0], errors[2])
    high, low, worst = (results(*case, mode)[2] - exact for mode in ("high", "low", "worst"))
    assert ((worst == high) | (worst == low)).all() and (worst == high).any()
    assert (low <= errors[0]).all() and (errors[0] <= high).all()
    assert (high >= 0).all() and (low <= 0).all() and high.any() and low.any()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", [c for c in CASES if c[0] in CORNERS])
def test_listed_results_are_exact(case, mode):
    opcode, kind = case
    x, want = map(np.array, zip(*CORNERS[opcode]))
    got = approximate(opcode, kind)(Errors(mode), formats.encode(x, kind))
    assert same(formats.decode(got, kind), want)


def test_equal_operands_err_alike_in_all_threads():
    x = np.full(64, 0.7, np.float32)
    assert len(set(approximate("ex2", "f32")(Errors("random", 5), x).tolist())) == 1


def test_flushing():
    tiny = np.array([2.0**-130, -(2.0**-127)], np.float32)
    exact = Errors()
    assert np.isinf(approximate("rcp", "f32", ftz=True)(exact, tiny)).all()
    deep = np.array([-140.0], np.float32)
    assert approximate("ex2", "f32")(exact, deep).tolist() == [2.0**-140]
    assert approximate("ex2", "f32", ftz=True)(exact, deep).tolist() == [0.0]


def test_quick_division_by_large_numbers_gives_zero():
    a, b = np.array([3.0, INF, -3.0], np.float32), np.array([2.0**127] * 3, np.float32)
    quick = approximate("div", "f32")(Errors(), a, b)
    assert same(quick, np.array([0.0, NAN, -0.0]))
    assert approximate("div.full", "f32")(Errors(), a, b)[0] == np.float32(3 * 2.0**-127)


def test_every_entry_names_its_section():
    assert all(x.source.startswith("PTX ISA 9.1, 9.7.") for x in APPROXIMATIONS.values())


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="mode 'wild' is none of exact, random"):
        Errors("wild")
