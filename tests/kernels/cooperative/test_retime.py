"""Products put off to the next step: fewer barriers, the same numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from graphnn.kernels.cooperative.codegen.emit import emit_cooperative
from graphnn.kernels.cooperative.plan.outline import outline
from graphnn.kernels.cooperative.plan.phases import levels
from graphnn.kernels.cooperative.plan.retime import barriers, delayed, retimed
from graphnn.kernels.cooperative.plan.tiling import Tiling
from graphnn.kernels.executors.named import INTERPRETER
from graphnn.kernels.ir.program import LoopProgram, LoopState, Op, Tensor
from graphnn.kernels.runtime.cooperative_launch import CooperativeLauncher
from tests.kernels.cooperative.test_sharding import program

SIZE, ROWS = 20, ("batch",)
KEPT = {"up": (SIZE, SIZE), "across": (SIZE, SIZE), "low": (SIZE, SIZE)}


def layers() -> LoopProgram:
    """What flows back through two layers: b's through `up`, a's through `low`, `across` between."""
    tensors = [Tensor(name, shape, ()) for name, shape in KEPT.items()]
    x = Tensor("x", (SIZE,), ("time", *ROWS))

    def times(name: str, value: str, weight: str) -> Op:
        return Op(name, "einsum", (value, weight), (SIZE,), "float", {"sub": "k,nk->n"})

    def point(name: str, template: str, *args: str) -> Op:
        return Op(name, "pointwise", args, (SIZE,), "float", {"template": template})

    ops = (
        Op("zero", "const", (), (), "float", {"value": 0.0}),
        Op("b", "state", (), (SIZE,)),
        Op("a", "state", (), (SIZE,)),
        *(Op(t.name, "read", (), t.shape, "float", {"tensor": t}) for t in (*tensors, x)),
        point("gates_b", "tanh({0} + {1})", "x", "b"),
        times("next_b", "gates_b", "up"),
        times("between", "gates_b", "across"),
        point("gates_a", "tanh({0} + {1})", "between", "a"),
        times("next_a", "gates_a", "low"),
    )
    states = LoopState("b", 1, ("zero",), "next_b"), LoopState("a", 1, ("zero",), "next_a")
    stores = tuple((n, Tensor(f"{n}_out", (SIZE,), x.axes)) for n in ("gates_a", "gates_b"))
    return LoopProgram("layers", "time", ROWS, True, (*tensors, x), ops, states, stores)


def stored(found: LoopProgram) -> list[torch.Tensor]:
    """What the kernel of two blocks stores of random numbers."""
    sizes = {"time": 4, "batch": 3}
    generator = torch.Generator().manual_seed(0)
    shapes = [[*(sizes[a] for a in t.axes), *t.shape] for t in found.tensors]
    tensors = [torch.randn(s, dtype=torch.float64, generator=generator) for s in shapes]
    source = emit_cooperative(found, Tiling(16))
    return CooperativeLauncher(source, executor=INTERPRETER)(tensors, sizes, torch.float64)


def test_a_barrier_is_spared_and_the_bits_are_the_same() -> None:
    first = layers()
    late = retimed(first, 16)
    assert (barriers(first, 16), barriers(late, 16)) == (2, 1)
    assert [s.name for s in late.states] == ["b", "gates_a_before"]
    for got, want in zip(stored(late), stored(first), strict=True):
        assert torch.equal(got, want)


def test_what_is_delayed_is_read_after_the_barrier() -> None:
    found = outline(retimed(layers(), 16), 16)
    ops = {op.name: op for op in found.sharded.program.ops if op.name in found.moving}
    at = levels(ops, {e.name: e for e in found.sharded.exchanges})
    assert (at["gates_b"], at["gates_a"]) == (0, 1)
    waited = [e.name for e in found.phases.events if e.what in ("op", "wait")]
    assert waited.index("a") > max(k for k, name in enumerate(waited) if not name)


@pytest.mark.parametrize(
    "name, kind", [("lstm", "backward"), ("gru", "backward"), ("gru", "saving")]
)
def test_where_no_barrier_is_spared_nothing_changes(name: str, kind: str) -> None:
    first = program(name, kind)
    assert retimed(first, 16) is first


def test_a_value_that_something_else_reads_is_not_delayed() -> None:
    first = layers()
    assert len(list(delayed(first))) == 2
    kept = ("next_a", Tensor("kept", (SIZE,), ("time", *ROWS)))
    assert len(list(delayed(replace(first, stores=(*first.stores, kept))))) == 1


def test_a_state_with_another_initial_value_is_not_delayed() -> None:
    first = layers()
    one = Op("one", "const", (), (), "float", {"value": 1.0})
    states = (first.states[0], replace(first.states[1], inits=("one",)))
    assert len(list(delayed(replace(first, ops=(one, *first.ops), states=states)))) == 1
