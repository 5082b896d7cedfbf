"""What a thread block has of a loop, what it needs of others, and in what order it does it."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

import graphnn as gn
from graphnn.kernels.analysis.layout import TileLayout
from graphnn.kernels.cooperative.plan.early_sums import SumTerm, sum_depth, terms, uniform
from graphnn.kernels.cooperative.plan.granularity import (
    granularities,
    largest_granularity,
    with_pointwise_products,
)
from graphnn.kernels.cooperative.plan.phases import Event, levels, phases
from graphnn.kernels.cooperative.plan.sharding import ShardedProgram, shard
from graphnn.kernels.ir.program import LoopProgram, LoopState, Op, Part, Tensor, Unsupported
from graphnn.ops.registry import OPS
from tests.kernels.emitted import Over, sources

MADE = {
    "lstm": lambda n: gn.nn.LSTM(n, n),
    "gru": lambda n: gn.nn.GRU(n, n, reset="before"),
    "projected": lambda n: gn.nn.LSTM(n, n, proj_size=n // 2),
    "norm": lambda n: gn.nn.LSTM(n, n, layer_norm=True),
}


@functools.cache
def program(name: str, kind: str = "saving", size: int = 48) -> LoopProgram:
    """A loop as the emitter takes it."""
    return sources(Over(MADE[name](size), size))[kind].program


def shared(name: str, kind: str = "saving", units: int = 16) -> ShardedProgram:
    return shard(program(name, kind), units)


def of(kinds: str, found: ShardedProgram) -> Iterator[Op]:
    return (op for op in found.program.ops if op.kind in kinds.split())


def test_gates_and_states_have_the_period_of_the_units() -> None:
    found = granularities(program("lstm"))
    assert set(found.values()) == {48}
    assert largest_granularity(program("lstm")) == 48
    assert {*granularities(program("projected")).values()} == {24, 48}
    assert 1 in granularities(program("norm")).values()  # what a norm adds up


def test_a_block_has_its_units_of_each_gate() -> None:
    found = shared("lstm")
    assert found.blocks == 3 and found.units == {48: 16}
    (product,) = of("sharded_matmul", found)
    assert product.shape == (64,) and product.attrs["weight"].shape == (192, 48)
    assert all(op.shape == (16,) for op in of("state", found))
    assert all(t.period == 48 and t.units == 16 for _, t in found.program.stores)  # type: ignore[attr-defined]


def test_units_are_a_power_of_two_and_the_last_blocks_have_less() -> None:
    found = shard(program("projected"), 16)
    assert found.units == {24: 8, 48: 16}
    uneven = shard(program("lstm", size=20), 8)
    assert uneven.blocks == 3 and uneven.units == {20: 8}
    parts = [t for _, t in uneven.program.stores]
    assert parts and all(isinstance(t, Part) and not t.even for t in parts)


def test_a_product_wants_all_of_its_operand_by_an_exchange() -> None:
    (h,) = shared("lstm").exchanges
    assert h.state and not h.wide and h.size == 48
    state, other = shared("gru").exchanges
    assert state.state and not other.state and other.size == 48
    (gates,) = shared("lstm", "backward").exchanges
    assert not gates.state and gates.size == 4 * 48


def test_sums_over_units_are_added_up_from_parts() -> None:
    found = shared("norm")
    sums = [e for e in found.exchanges if e.part is None]
    assert len(sums) == 4 and all(e.wide and e.size == found.blocks for e in sums)
    assert [op.attrs["join"] for op in of("all_reduce", found)] == ["sum", "squared_deviations"] * 2


@pytest.mark.parametrize(
    "name, kind, count, carries",
    [
        ("lstm", "saving", 1, True),
        ("lstm", "backward", 1, False),
        ("gru", "saving", 2, True),
        ("gru", "backward", 2, False),
        ("projected", "saving", 2, True),
        ("norm", "saving", 3, True),
        ("norm", "backward", 3, False),
    ],
)
def test_no_more_barriers_than_the_loop_needs(
    name: str, kind: str, count: int, carries: bool
) -> None:
    found = shared(name, kind)
    names = [op.name for op in found.program.ops if op.kind not in ("const", "read")]
    made = phases(found, names)
    assert (made.barriers, made.carries) == (count, carries)
    arrivals = [e.barrier for e in made.events if e.what == "arrive"]
    assert arrivals == list(range(1, count + 1))


def test_what_others_need_comes_before_all_else() -> None:
    found = shared("lstm")
    made = phases(found, [op.name for op in found.program.ops if op.kind not in ("const",)])
    kinds = [e.what for e in made.events]
    assert kinds.index("publish") < kinds.index("arrive")
    wait = kinds.index("wait")
    assert made.events[wait] == Event("wait", barrier=0)
    ops = {op.name: op.kind for op in found.program.ops}
    # loads are under way while a block waits
    assert {ops[e.name] for e in made.events[:wait] if e.what == "op"} == {"read"}


def test_levels_count_the_barriers_before_an_operation() -> None:
    found = shared("gru")
    at = levels({op.name: op for op in found.program.ops}, {e.name: e for e in found.exchanges})
    first, second = of("sharded_matmul", found)
    assert (at[first.name], at[second.name]) == (0, 1)


# programs that cannot be sharded

ROWS = ("batch",)
W = Op("w", "read", (), (48, 48), "float", {"tensor": Tensor("w", (48, 48), ())})
H = Op("h", "state", (), (48,))
ZERO = Op("zero", "const", (), (), "float", {"value": 0.0})


def made(*ops: Op, after: str) -> LoopProgram:
    """A loop with one state h, which is `after` next."""
    state = LoopState("h", 1, ("zero",), after)
    stored = (after, Tensor("y", (48,), ("time", *ROWS)))
    tensors = (W.attrs["tensor"],)
    return LoopProgram(
        "made", "time", ROWS, False, tensors, (ZERO, W, H, *ops), (state,), (stored,)
    )


def times(name: str, value: str) -> Op:
    return Op(name, "einsum", (value, "w"), (48,), "float", {"sub": "k,nk->n"})


def test_permuted_elements_are_refused() -> None:
    back = Op("back", "view", ("p",), (48,), "float", {"maps": [np.arange(48)[::-1]]})
    with pytest.raises(Unsupported, match="its elements are permuted"):
        shard(made(times("p", "h"), back, after="back"), 16)


def test_a_loop_without_a_matmul_is_refused() -> None:
    twice = Op("twice", "pointwise", ("h", "h"), (48,), "float", {"template": "({0} + {1})"})
    with pytest.raises(Unsupported, match="no product by a weight to shard"):
        shard(made(twice, after="twice"), 16)


def test_a_pointwise_product_is_not_a_matmul() -> None:
    dot = Op("dot", "einsum", ("h", "h"), (), "float", {"sub": "k,k->"})
    scaled = Op("scaled", "einsum", ("h", "dot"), (48,), "float", {"sub": "k,->k"})
    found = made(dot, scaled, times("p", "scaled"), after="p")
    kinds = {op.name: op.kind for op in with_pointwise_products(found)}
    assert (kinds["dot_terms"], kinds["dot"], kinds["scaled"]) == ("pointwise", "sum", "pointwise")
    assert {e.name for e in shard(found, 16).exchanges} == {"dot_terms_sums", "scaled_all"}


def test_parts_that_no_slice_takes_apart_are_cut_all_the_same() -> None:
    wide = Tensor("wide", (144, 48), ())
    to_all = Op("to_all", "read", (), (144, 48), "float", {"tensor": wide})
    all_three = Op("p", "einsum", ("h", "to_all"), (144,), "float", {"sub": "k,nk->n"})
    first = Op("first", "view", ("p",), (48,), "float", {"maps": [np.arange(48)]})
    known = made(all_three, first, after="first")
    known = replace(known, tensors=(wide,), ops=(ZERO, H, to_all, all_three, first))
    saved = ("p", Tensor("p_out", (144,), ("time", *ROWS)))
    found = shard(replace(known, stores=(saved,)), 16)
    spans = TileLayout(found.program, 4).spans["p"]
    assert [(s.start, s.valid) for s in spans] == [(0, 16), (16, 16), (32, 16)]


# sums that need not wait


# which templates are sums of products
LINEAR = {op.triton_text: op.linear_in for op in OPS.values() if op.linear_in}


def point(name: str, template: str, *args: str, shape: tuple[int, ...] = (48,)) -> Op:
    attrs = {"template": template, "linear_in": LINEAR.get(template, ())}
    return Op(name, "pointwise", args, shape, "float", attrs)


def test_nested_sums_become_sums_of_the_original_values() -> None:
    s = Op("s", "sum", ("x",), (1,), "float", {"dims": (0,)})
    ops = {
        op.name: op
        for op in (
            Op("x", "state", (), (48,)),
            s,
            point("scaled", "({0} * {1})", "x", "s"),
            point("y", "({0} - {1})", "x", "scaled"),
            point("odd", "tanh({0})", "y"),
        )
    }
    waiting = sum_depth(ops, {"x": 48, "scaled": 48, "y": 48, "odd": 48})
    assert waiting == {"x": 0, "s": 1, "scaled": 1, "y": 1, "odd": 1}
    assert terms(ops, "y", waiting, 1) == [SumTerm(1, (), "x"), SumTerm(-1, ("s",), "x")]
    assert terms(ops, "odd", waiting, 1) is None
    assert uniform(ops, ops["scaled"], "s") == "s" and uniform(ops, ops["scaled"], "x") is None
