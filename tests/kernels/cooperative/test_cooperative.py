"""However a loop is cut among thread blocks, it stores what one block alone would."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from graphnn.kernels.codegen.persistent import emit
from graphnn.kernels.cooperative.codegen.emit import CooperativeSource, emit_cooperative
from graphnn.kernels.cooperative.plan.tiling import Tiling
from graphnn.kernels.executors.named import INTERPRETER
from graphnn.kernels.feasibility.cases import loop_case
from graphnn.kernels.ir.program import LoopProgram, LoopState, Op, Tensor
from graphnn.kernels.runtime.cooperative_launch import CooperativeLauncher
from graphnn.kernels.runtime.launch import Launcher
from tests.kernels.cooperative.test_sharding import program

TILINGS = {
    "four units, whose products split the operand": Tiling(4, 8, 256, 4),
    "columns enough for each warp": Tiling(16, 4, 32, 8),
    "many pieces, one at a time": Tiling(16, 2, 16, 1),
    "some weights loaded at each step": Tiling(16, 4, 16, 2, room=2048),
    "all weights loaded at each step": Tiling(16, 8, 128, 4, room=0),
    "more than one block needs": Tiling(64),
    "numbers in parts": Tiling(16, 4, 32, 2, bf16x3=True),
}
SIZES = {"time": 3, "batch": 3}


def stored(launcher: Launcher, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    """What a kernel stores of random numbers."""
    generator = torch.Generator().manual_seed(0)
    shapes = [[*(SIZES[a] for a in t.axes), *t.shape] for t in launcher.source.program.tensors]
    tensors = [0.3 * torch.randn(s, dtype=torch.float64, generator=generator) for s in shapes]
    return launcher([t.to(dtype) for t in tensors], SIZES, dtype)


def agree(source: CooperativeSource) -> None:
    """Asserts that the kernel equals the persistent kernel of the same program up to rounding."""
    wanted = stored(Launcher(emit(source.program), INTERPRETER))
    for got, want in zip(stored(CooperativeLauncher(source, INTERPRETER)), wanted, strict=True):
        assert (got - want).abs().max() <= 1e-12 * want.abs().max()


@pytest.mark.parametrize("kind", ["saving", "backward"])
@pytest.mark.parametrize("tiling", TILINGS)
def test_however_it_is_cut(tiling: str, kind: str) -> None:
    source = emit_cooperative(program("lstm", kind, 50), TILINGS[tiling])
    assert (source.streamed > 0) == ("each step" in tiling)
    assert bool(source.weights) == (not tiling.startswith("all"))
    agree(source)


@pytest.mark.parametrize("kind", ["saving", "backward"])
def test_numbers_multiplied_in_parts_are_as_exact_as_float32(kind: str) -> None:
    """Errors against float64, next to the same kernel with float32 matmuls of numpy."""
    found = {}
    for parted in (False, True):
        source = emit_cooperative(program("lstm", kind, 50), Tiling(8, 8, 256, 4, bf16x3=parted))
        assert ("matmul_bf16x3(" in source.text) == parted
        found[parted] = stored(
            CooperativeLauncher(source, INTERPRETER, float32="tf32x3"), torch.float32
        )
    wanted = stored(CooperativeLauncher(source, INTERPRETER))
    errors = {
        parted: max((a - b).abs().max() / b.abs().max() for a, b in zip(got, wanted, strict=True))
        for parted, got in found.items()
    }
    assert 0 < errors[True] <= 2 * errors[False]
    assert any(not torch.equal(a, b) for a, b in zip(found[True], found[False], strict=True))


@pytest.mark.parametrize("kind", ["saving", "backward"])
@pytest.mark.parametrize("name", ["gru", "projected", "norm"])
def test_whatever_it_exchanges(name: str, kind: str) -> None:
    agree(emit_cooperative(program(name, kind, 36), Tiling(8)))


def by_hand() -> LoopProgram:
    """h is shared out, g of three numbers is not; x moves; s is one number."""
    time, batch = "time", ("batch",)
    kept = {"w": (48, 48), "v": (48, 3), "u": (48, 5), "to_g": (3, 48), "to_s": (1, 48)}
    tensors = [Tensor(name, shape, ()) for name, shape in kept.items()]
    x = Tensor("x", (5,), (time, *batch))
    reads = [Op(t.name, "read", (), t.shape, "float", {"tensor": t}) for t in (*tensors, x)]

    def times(name: str, value: str, weight: str) -> Op:
        shape = kept[weight][:1]
        return Op(name, "einsum", (value, weight), shape, "float", {"sub": "k,nk->n"})

    def point(name: str, template: str, *args: str, size: int = 48) -> Op:
        return Op(name, "pointwise", args, (size,), "float", {"template": template})

    ops = [
        Op("zero", "const", (), (), "float", {"value": 0.0}),
        *reads,
        Op("h", "state", (), (48,)),
        Op("g", "state", (), (3,)),
        times("of_h", "h", "w"),
        times("of_g", "g", "v"),
        times("of_x", "x", "u"),
        times("s", "h", "to_s"),
        point("total", "({0} + {1} + {2})", "of_h", "of_g", "of_x"),
        point("scaled", "({0} * sigmoid({1}))", "total", "s"),
        point("after", "tanh({0})", "scaled"),
        times("next_g", "after", "to_g"),
    ]
    states = LoopState("h", 1, ("zero",), "after"), LoopState("g", 1, ("zero",), "next_g")
    stores = [
        (n, Tensor(f"{n}_out", s, (time, *batch))) for n, s in (("after", (48,)), ("g", (3,)))
    ]
    return LoopProgram(
        "by_hand", time, batch, False, (*tensors, x), tuple(ops), states, tuple(stores)
    )


@pytest.mark.parametrize("warps", [2, 8])
def test_what_is_not_shared_out_every_block_has(warps: int) -> None:
    source = emit_cooperative(by_hand(), Tiling(8, warps, 16, 2))
    # the elements of h for g are published with those for the next step: one barrier serves both
    assert source.blocks == 6 and source.barriers == 1
    assert {e.name for e in source.exchanges} == {"h_all", "after_all"}
    agree(source)
    found = loop_case(source, "bf16", 16, warps).judge("sm_90")
    assert found.faults == () and found.weights == "resident"


def test_single_elements_next_to_others_belong_to_one_product() -> None:
    """A product of five elements that every block has. Its first element is also used alone."""
    first = by_hand()
    wide = Tensor("wide", (5, 48), ())
    five = Op("five", "einsum", ("h", "wide"), (5,), "float", {"sub": "k,nk->n"})
    one = Op("one", "view", ("five",), (1,), "float", {"maps": [np.arange(1)]})
    rest = Op("rest", "view", ("five",), (3,), "float", {"maps": [np.arange(1, 4)]})
    template = {"template": "tanh({0} + {1} * {2})"}
    g = Op("after_g", "pointwise", ("next_g", "rest", "one"), (3,), "float", template)
    read = Op("wide", "read", (), (5, 48), "float", {"tensor": wide})
    ops = (first.ops[0], read, *first.ops[1:], five, one, rest, g)
    states = first.states[0], replace(first.states[1], next="after_g")
    made = replace(first, tensors=(*first.tensors, wide), ops=ops, states=states)
    agree(emit_cooperative(made, Tiling(8, 8, 16, 2)))


def test_the_text_names_blocks_barriers_and_the_users_nodes() -> None:
    text = emit_cooperative(program("gru"), Tiling(16)).text
    assert "a loop over time, 3 blocks per tile of rows" in text.splitlines()[0]
    assert text.count("= wait(arrived") == 2 and text.count("\n        arrive(arrived)") == 2
    assert "# for all blocks: layer.h" in text.replace("module.h", "layer.h")


def test_lengths_and_batch_are_not_specialised_on() -> None:
    text = emit_cooperative(program("lstm"), Tiling(16)).text
    assert '@triton.jit(do_not_specialize=["n_time", "n_batch", "begin"])' in text
