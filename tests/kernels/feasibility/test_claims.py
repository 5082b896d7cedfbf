"""The sizes that the README claims for one multiprocessor of sm_90, compiled ahead of time.

The largest of the usual sizes of each network has persistent kernels, forward and backward, without
a spill or a reload. For the next size, every refusal has the expected reason.
"""

from __future__ import annotations

import functools
import re

import pytest
import torch
from torch import nn

import graphnn as gn
from bench.networks import NETWORKS
from graphnn.kernels.codegen.persistent import LoopSource
from graphnn.kernels.cooperative.plan.outline import outline
from graphnn.kernels.feasibility import aot
from graphnn.kernels.feasibility.aot import VerdictRow
from graphnn.kernels.feasibility.cases import loop_case
from graphnn.kernels.feasibility.fit import (
    OPERANDS_SIDE_BY_SIDE,
    Launch,
    Verdict,
    choose_kernel,
    serious_faults,
)
from graphnn.kernels.select.search import choose_cooperative
from graphnn.tools.resources import LIBRARY, Layer, kernels, rows

HALF = Launch("bf16", "ieee")


@functools.cache
def sources(name: str, size: int) -> list[LoopSource]:
    """The kernels of a network, forward and backward, in the first variant that is tried."""
    net = NETWORKS[name](size).to(torch.bfloat16)
    model = gn.compile(net, backend="interpret", skip=("fit",))
    model.source()
    (program,) = model.programs
    launchers = program.loops[0].lowering.launchers
    return [launchers[name].source for name in sorted(launchers)]


def chosen(name: str, size: int, target: str = "sm_90") -> list[tuple[LoopSource, Verdict]]:
    return [choose_kernel(source.program, HALF, target) for source in sources(name, size)]


@pytest.mark.parametrize("name, size", [("LSTM", 160), ("RNN", 320), ("GRU", 160)])
def test_the_widest_networks_that_fit(name: str, size: int) -> None:
    for source, verdict in chosen(name, size):
        assert verdict.fits, f"{source.name}: {verdict.reason}"
        made = loop_case(source, "bf16", verdict.launch.rows, verdict.launch.warps)
        found = made.judge("sm_90").resources
        assert found is not None and source.weights
        assert found.spills == found.stack == 0 and found.shared <= found.shared_limit
        assert not set(made.loaded_once) & {*found.loaded_inside, *found.staged_inside}
        assert set(found.matmuls) == {"mma"}


@pytest.mark.parametrize(
    "name, size, why",
    [
        ("LSTM", 192, "do not fit the 227 KB"),
        ("RNN", 384, "do not fit the 227 KB"),
        # Triton before 3.9 places operands side by side: there the shared memory is too small
        ("GRU", 192, "do not fit the 227 KB" if OPERANDS_SIDE_BY_SIDE else "spills"),
    ],
)
def test_the_next_wider_networks_do_not_fit(name: str, size: int, why: str) -> None:
    reasons = [verdict.reason for _, verdict in chosen(name, size) if not verdict.fits]
    assert reasons and all(why in reason for reason in reasons)


class Decoder(nn.Module):
    """Additive attention inside a loop, with one width for all values."""

    def __init__(self, size: int):
        super().__init__()
        self.size, self.decoder = size, gn.nn.AttentionDecoder(size, size, size)

    def graph(self, g: gn.Graph) -> None:
        x, source = (g.input(name, (self.size,), over=name) for name in ("target", "source"))
        g.output("y", self.decoder(x, source))


def test_a_decoder_of_64_units_fits_with_a_source_of_128_positions() -> None:
    for source in kernels(gn.compile(Decoder(64)), torch.bfloat16):
        made, verdict = choose_kernel(source.program, HALF, "sm_90")
        assert verdict.fits and made.program.most == verdict.launch.rows == 128, verdict.reason
        found = loop_case(made, "bf16", 128, verdict.launch.warps).judge("sm_90")
        assert found.faults == () and found.weights == "resident"


@pytest.mark.parametrize(
    "target", ["sm_90", *(pytest.param(t, marks=pytest.mark.slow) for t in ("sm_80", "sm_100"))]
)
def test_a_decoder_of_512_units_is_sharded_and_blocks_keep_its_weights(target: str) -> None:
    for source in kernels(gn.compile(Decoder(512)), torch.bfloat16):
        made, verdict = choose_cooperative(source.program, HALF, target)
        assert made.blocks == 64 and made.barriers == 5 and not made.streamed
        assert "a group of 4 blocks" in made.text
        found = loop_case(made, "bf16", 16, verdict.launch.warps).judge(target)
        assert found.faults == () and found.weights == "resident"


@pytest.mark.slow
@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100"])
def test_a_neural_turing_machine_of_128_slots_fits(target: str) -> None:
    model = gn.compile(LIBRARY["NTM, 128 slots of 20"]())
    found = list(rows({"machine": model}, "bf16", [target]))
    assert len(found) == 2
    for row in found:
        assert isinstance(row, VerdictRow), row
        assert serious_faults(row) == () and row.weights == "resident"
        # sm_80 has no room for the weights on one multiprocessor; before Triton 3.9, which has the
        # operands of a matmul side by side, a forward kernel of one block spills
        assert bool(row.step) == (
            target == "sm_80" or (OPERANDS_SIDE_BY_SIDE and "forward" in row.name)
        )


@pytest.mark.parametrize("units", [8, 16])
def test_the_heads_of_such_a_machine_are_one_matmul(units: int) -> None:
    forward, _ = kernels(gn.compile(Layer(gn.nn.NTM(8, 100, 128, 20), 8)), torch.bfloat16)
    made = outline(forward.program, units)
    assert made.phases.barriers == 3
    shared = [
        op
        for op in made.sharded.program.ops
        if op.kind == "sharded_matmul" and op.name in made.moving
    ]
    assert len(shared) == 3  # of what was read, of the state, and of all heads


def test_a_network_far_too_wide_is_rejected_without_compiling() -> None:
    for source in sources("LSTM", 256):
        _, verdict = choose_kernel(source.program, HALF, "sm_90", may_compile=False)
        assert not verdict.fits and "do not fit the 227 KB" in verdict.reason


@pytest.mark.slow
@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100"])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_of_the_benchmarks_fits(name: str, target: str) -> None:
    for source, verdict in chosen(name, 64, target):
        assert verdict.fits, f"{source.name}: {verdict.reason}"
        assert loop_case(source, "bf16", 16, verdict.launch.warps).judge(target).faults == ()


@pytest.mark.slow
@pytest.mark.skipif(OPERANDS_SIDE_BY_SIDE, reason="Triton before 3.9 compiles no clusters")
def test_in_a_cluster_the_state_is_read_before_all_blocks_have_stored_it() -> None:
    """The reason why no kernel uses clusters. If Triton fixes this, clusters are worth a try."""
    (source,) = (x for x in sources("LSTM", 256) if "saving" in x.name)
    made = loop_case(source, "bf16", 16, 8)
    options = {"num_warps": 8, "num_stages": 1, "maxnreg": made.maxnreg, "num_ctas": 4}
    described = aot._source(made.function, made.signature, made.constants)
    options["enable_fp_fusion"] = True
    ptx = aot._compile(described, "sm_90", options).asm["ptx"]
    does = re.findall(r"barrier\.cluster\.wait|bar\.sync|\bst\.shared|\bld\.shared::cluster", ptx)
    first = does.index("ld.shared::cluster")
    stored = first - 1 - does[:first][::-1].index("st.shared")
    assert does[stored:first] == ["st.shared", "bar.sync"], "of this block alone"
    assert does.count("barrier.cluster.wait") >= 5
