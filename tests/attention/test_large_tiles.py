"""Attention without tiles of 64 rows, where Triton is known to miscompile those."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import graphnn as gn
from graphnn.kernels.attention import emit, tile_size
from graphnn.kernels.attention.tile_size import TileShape, attention_case, choose_tile
from graphnn.kernels.feasibility import large_tiles
from graphnn.kernels.ir.program import Unsupported
from graphnn.kernels.ir.tile import Span
from graphnn.kernels.trust.failures import KernelWarning
from tests.attention.networks import Net, Slots, inputs
from tests.attention.test_kernels import stages
from tests.kernels.trust.faulty_gpu import FaultyGpu, as_the_gpu
from tests.networks.equality import assert_same, results


class Layered(Net):
    """A score with a layer of its own: the gradient of its weight is a sum of outer products."""

    def __init__(self, width: int = 48) -> None:
        super().__init__(8, width)
        self.layer, self.last = nn.Linear(width, width), nn.Linear(width, 1)

    def score(self, q: gn.Value, k: gn.Value) -> gn.Value:
        return self.last(torch.tanh(self.layer(torch.tanh(q + k))))


def instructions(net: nn.Module, few: bool = False) -> set[str]:
    """The matrix instructions of a network's attention, compiled for sm_90 as they would run."""
    found: set[str] = set()
    for stage in stages(net.bfloat16()):
        shape = choose_tile(stage.run.source, "bf16", "sm_90", "ieee", few)
        row = attention_case(stage.run.source, "bf16", shape).judge("sm_90")
        assert row.resources is not None and not row.resources.spills
        found |= row.resources.matmuls.keys()
    return found


@pytest.fixture
def verified(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Tiles of 64 rows are verified on sm_90, in a cache of their own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    large_tiles.remember_verified("sm_90")
    monkeypatch.setattr(large_tiles, "_verified", lambda target: target == "sm_90")


NETWORKS = {"dot": lambda: Net(64, 64), "slots": Slots, "layered": lambda: Layered(64)}


@pytest.mark.parametrize("name", NETWORKS)
def test_no_kernel_has_the_instructions_of_large_tiles(name: str) -> None:
    for few in (False, True):
        assert instructions(NETWORKS[name](), few) <= {"mma"}


@pytest.mark.usefixtures("verified")
def test_the_instructions_come_back_once_they_are_verified() -> None:
    assert "wgmma" in instructions(Net(64, 64))


def test_a_tile_is_rejected_by_the_instructions_of_its_compiled_kernel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also if its shape does not show them, as if columns become the rows of a matmul."""
    source = stages(Net(64, 64).bfloat16())[0].run.source
    large, small = TileShape(64, 64, 4), TileShape(32, 32, 4)
    monkeypatch.setattr(tile_size, "tile_shapes", lambda *_: [large, small])
    assert choose_tile(source, "bf16", "sm_90", "ieee") == small
    monkeypatch.setattr(tile_size, "tile_shapes", lambda *_: [large])
    with pytest.raises(Unsupported, match="no tile of attention_over_source fits sm_90"):
        choose_tile(source, "bf16", "sm_90", "ieee")


def test_gradients_of_weights_are_summed_in_pieces_of_few_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert emit._pieces(Span(64, 48, 64)) == [Span(64, 32, 32), Span(96, 16, 32)]
    assert emit._pieces(Span(0, 16, 16)) == [Span(0, 16, 16)]
    net = Layered().double()
    given = inputs(gn.compile(net), 2, 3, 17)
    wanted = results(gn.compile(net, backend="reference"), given, {})[0]
    model = gn.compile(net, backend="interpret")
    assert_same(wanted, results(model, given, {})[0], 1e-12)
    assert "piece_of(" in model.source()
    monkeypatch.setattr(emit, "SMALL", 64)  # as one piece it would be the faulty instruction
    shape = TileShape(16, 1, 4)
    sources = [s.run.source for s in stages(Layered(64).bfloat16())]
    rows = [attention_case(s, "bf16", shape).judge("sm_90") for s in sources]
    assert any(r.resources is not None and "wgmma" in r.resources.matmuls for r in rows)


def test_torch_computes_what_no_tile_fits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither a first call raises nor a later one, which recalls what was found."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(tile_size, "shared_memory_of", lambda target: 0)
    net = Net(8, 16)
    reference = gn.compile(net, "torch")
    given = inputs(reference, 2, 3, 4, torch.float32)
    wanted = results(reference, given, {})
    for _ in range(2):
        model = gn.compile(net, "ptx")
        with pytest.warns(KernelWarning, match=r"no tile of .* fits sm_90 .*Torch computes it"):
            found = results(model, given, {})
        for got, want in zip(found, wanted, strict=True):
            assert_same(want, got, 1e-5)
        with pytest.warns(KernelWarning, match="forward: kernels are not used"):
            model(**given)
        assert "torch computes it" in model.explain()


@pytest.mark.parametrize("mode", ["0", "1"])
def test_a_gpu_on_which_no_tile_fits_warns_in_every_mode_of_trust(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mode: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("GRAPHNN_TRUST", mode)
    monkeypatch.setattr(tile_size, "shared_memory_of", lambda target: 0)
    net = Net(8, 16)
    reference = gn.compile(net, "torch")
    given = inputs(reference, 2, 3, 4, torch.float32)
    wanted = results(reference, given, {})
    with as_the_gpu(FaultyGpu()) as gpu:
        model = gn.compile(net, "interpret")
        with pytest.warns(KernelWarning, match=r"no tile of .* fits sm_90"):
            found = results(model, given, {})
        assert isinstance(gpu, FaultyGpu) and not gpu.ran
    for got, want in zip(found, wanted, strict=True):
        assert_same(want, got, 1e-5)
