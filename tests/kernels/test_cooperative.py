"""However a loop is cut among thread blocks, it stores what one block alone would."""

from __future__ import annotations

import pytest
import torch

from graphnn.kernels.across import Tiling
from graphnn.kernels.cooperative import Cooperative, cooperate
from graphnn.kernels.emit import emit
from graphnn.kernels.grid import GridLauncher
from graphnn.kernels.launch import Launcher
from tests.kernels.test_share import program

TILINGS = {
    "four units, whose products split the operand": Tiling(4, 8, 256, 4),
    "columns enough for each warp": Tiling(16, 4, 32, 8),
    "many pieces, one at a time": Tiling(16, 2, 16, 1),
    "some weights loaded at each step": Tiling(16, 4, 16, 2, room=2048),
    "all weights loaded at each step": Tiling(16, 8, 128, 4, room=0),
    "more than one block needs": Tiling(64),
}
SIZES = {"time": 3, "batch": 3}


def stored(launcher: Launcher) -> list[torch.Tensor]:
    """What a kernel stores of random numbers."""
    generator = torch.Generator().manual_seed(0)
    shapes = [[*(SIZES[a] for a in t.axes), *t.shape] for t in launcher.source.program.tensors]
    tensors = [0.3 * torch.randn(s, dtype=torch.float64, generator=generator) for s in shapes]
    return launcher(tensors, SIZES, torch.float64)


def agree(source: Cooperative) -> None:
    """Equal to the resident kernel of the same program, to rounding."""
    wanted = stored(Launcher(emit(source.program), interpret=True))
    for got, want in zip(stored(GridLauncher(source, interpret=True)), wanted, strict=True):
        assert (got - want).abs().max() <= 1e-12 * want.abs().max()


@pytest.mark.parametrize("kind", ["saving", "backward"])
@pytest.mark.parametrize("tiling", TILINGS)
def test_however_it_is_cut(tiling: str, kind: str) -> None:
    source = cooperate(program("lstm", kind, 50), TILINGS[tiling])
    assert (source.streamed > 0) == ("each step" in tiling)
    assert bool(source.weights) == (not tiling.startswith("all"))
    agree(source)


@pytest.mark.parametrize("kind", ["saving", "backward"])
@pytest.mark.parametrize("name", ["gru", "projected", "norm"])
def test_whatever_it_exchanges(name: str, kind: str) -> None:
    agree(cooperate(program(name, kind, 36), Tiling(8)))


def test_the_text_names_blocks_barriers_and_the_users_nodes() -> None:
    text = cooperate(program("gru"), Tiling(16)).text
    assert "a loop over time, 3 blocks a tile of rows" in text.splitlines()[0]
    assert text.count("= wait(arrived") == 2 and text.count("\n        arrive(arrived)") == 2
    assert "# for all blocks: layer.h" in text.replace("module.h", "layer.h")


def test_lengths_and_batch_are_not_specialised_on() -> None:
    text = cooperate(program("lstm"), Tiling(16)).text
    assert '@triton.jit(do_not_specialize=["n_time", "n_batch", "begin"])' in text
