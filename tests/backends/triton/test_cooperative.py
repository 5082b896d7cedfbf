"""Loops that many thread blocks share: equal to the definition, whoever runs first, and no faults.

Every kernel runs unmodified, its programs in turns. No GPU has run one yet.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings

import graphnn as gn
from graphnn.backends.triton import target
from graphnn.kernels import simulate
from graphnn.kernels.cache import load_module
from graphnn.kernels.cooperative.plan.sharding import MIN_UNITS
from graphnn.kernels.executors.executor import Executor, GpuInfo, KernelLaunch, launches_run_by
from graphnn.kernels.executors.interpreted import Interpreter
from graphnn.kernels.executors.named import INTERPRETER
from graphnn.kernels.runtime import cooperative_launch
from graphnn.kernels.runtime.cooperative_launch import CooperativeLauncher
from graphnn.kernels.runtime.watchdog import StuckBarrier
from tests.backends.triton.cells import CELLS, Sizes, inputs, network, ragged, run, skipped
from tests.backends.triton.places import INTERPRET, Place, choices, lowerings
from tests.networks import random_cells
from tests.networks.equality import compare, results
from tests.networks.random_cells import CellRecipe, RandomCell, cells
from tests.nn.common import close

TOLERANCE = 1e-12
SKIP = INTERPRET.skip("cooperative")
# two blocks, of 16 and 4 units
SIZES = Sizes(3, 2, 20)
SOME = {
    "lstm": Sizes(17, 2, 20),
    "lstm_peepholes": Sizes(1, 3, 8),
    "lstm_layer_norm": SIZES,
    "lstm_projected": Sizes(3, 2, 33),
    "lstm_zoneout": Sizes(3, 3, 63),
    "gru_before": Sizes(17, 1, 33),
    "gru_after": Sizes(1, 2, 100),
    "gru_before_layer_norm": Sizes(1, 1, 20),
    "rnn_relu": Sizes(3, 3, 100),
    "multiplicative_lstm": SIZES,
    "delayed": Sizes(3, 4, 20),
    "rnn_both_ways": Sizes(17, 2, 20),
}
# no product by a weight in the loop, or numbers of each example by numbers of each example
UNSHARED = re.compile("hyper|min_gru|sru")
ALL = [Sizes(*s) for s in ((17, 1, 33), (1, 9, 8), (3, 2, 63), (1, 2, 64), (3, 9, 20), (3, 5, 3))]
# the turns of five seeds, and of more
ATTEMPTS = [range(5), pytest.param(range(5, 12), marks=pytest.mark.slow)]


def check(name: str, sizes: Sizes) -> gn.Compiled:
    """Hold a cell against the reference, ragged where it has three examples."""
    net = network(name, sizes.hidden)
    given = inputs(net, sizes, torch.float64, "cpu")
    lengths = ragged(sizes, "cpu") if sizes.batch == 3 else {}
    wanted, _ = run(net, Place("reference", "cpu"), (), given, lengths)
    given = inputs(net, sizes, torch.float64, "cpu")
    got, model = run(net, INTERPRET, skipped(name, INTERPRET, "cooperative"), given, lengths)
    close(got, wanted, TOLERANCE)
    return model


@pytest.mark.parametrize("name", SOME)
def test_equals_the_reference(name: str) -> None:
    model = check(name, SOME[name])
    assert {c.strategy for c in choices(model)} == {"cooperative"}


@pytest.mark.slow
@pytest.mark.parametrize("sizes", ALL, ids=str)
@pytest.mark.parametrize("name", CELLS)
def test_every_cell_equals_the_reference(name: str, sizes: Sizes) -> None:
    model = check(name, sizes)
    if not UNSHARED.search(name) and "everything" not in name:
        # one block has four units or more, and one alone shares with nobody
        strategy = "cooperative" if sizes.hidden > MIN_UNITS else "stepwise"
        assert {c.strategy for c in choices(model)} == {strategy}, choices(model)


def test_an_empty_batch_is_no_launch() -> None:
    net, sizes = network("lstm", 20), Sizes(0, 2, 20)
    got, _ = run(net, INTERPRET, SKIP, inputs(net, sizes, torch.float64, "cpu"), {})
    assert got["y"].shape == (0, 2, 20)
    assert got["final module.h"].shape == (0, 20)


EMPTY = torch.empty


def poisoned(*args: Any, **options: Any) -> torch.Tensor:
    """An empty tensor whose numbers show where they are used."""
    made = EMPTY(*args, **options)
    return made.fill_(float("nan")) if made.is_floating_point() else made


def check_cell(recipe: CellRecipe) -> None:
    """A loop that nobody wrote; what a kernel leaves unwritten is not a number."""
    given, lengths = random_cells.tensors(recipe)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "empty", poisoned)
        compare(RandomCell(recipe), given, lengths, recipe.given, [SKIP], backend="interpret")


@given(cells())
@settings(max_examples=5)
def test_random_cells(recipe: CellRecipe) -> None:
    check_cell(recipe)


@pytest.mark.slow
@given(cells(most_steps=12))
@settings(max_examples=300)
def test_many_random_cells(recipe: CellRecipe) -> None:
    check_cell(recipe)


# under the checker


def launchers(model: gn.Compiled) -> list[CooperativeLauncher]:
    """The kernels of all loops of a model."""
    found = [k for lowering in lowerings(model) for k in lowering.launchers.values()]
    return [k for k in found if isinstance(k, CooperativeLauncher)]


def stores(launcher: CooperativeLauncher) -> tuple[list[str], list[str]]:
    """The arguments that a kernel stores to: outputs, and exchanges."""
    names, source = launcher.function.arg_names, launcher.source
    first, last = len(source.program.tensors), len(source.pointers)
    return names[first:last], names[last : last + len(source.exchanges)]


@pytest.mark.parametrize("seeds", ATTEMPTS, ids=str)
@pytest.mark.parametrize("name", ["lstm", "gru_before", "lstm_layer_norm"])
def test_whoever_runs_first_the_bits_are_the_same(name: str, seeds: range) -> None:
    net = network(name, SIZES.hidden)
    given = inputs(net, SIZES, torch.float64, "cpu")
    wanted, model = run(net, INTERPRET, SKIP, given, {})
    kernels = launchers(model)
    kept = {k.source.name: [*stores(k)[0], *stores(k)[1]] for k in kernels}
    outputs = [name for k in kernels for name in stores(k)[0]]
    turns = set()
    for seed in seeds:
        with simulate.checking(kept, seed=seed) as reports:
            got, _ = results(model, given, {})
        assert all(torch.equal(got[k], wanted[k]) for k in wanted)
        assert len(reports) == 2 and all(r.programs == 2 and r.atomics for r in reports)
        turns.add(tuple(r.turns for r in reports))
    assert outputs and len(turns) > 1


@functools.cache
def saving(name: str = "lstm", backward: bool = False) -> CooperativeLauncher:
    """A kernel of a cell: the forward that saves for its backward, or that."""
    net = network(name, SIZES.hidden)
    _, model = run(net, INTERPRET, SKIP, inputs(net, SIZES, torch.float64, "cpu"), {})
    wanted = "backward" if backward else "saving"
    return next(k for k in launchers(model) if wanted in k.source.name)


def made_up(launcher: CooperativeLauncher, time: int = 3, batch: int = 3) -> list[torch.Tensor]:
    """Run a kernel on tensors of random numbers."""
    known = {"time": time, "batch": batch}
    generator = torch.Generator().manual_seed(0)
    tensors = [
        torch.randn(
            [*(known[a] for a in t.axes), *t.shape], dtype=torch.float64, generator=generator
        )
        for t in launcher.source.program.tensors
    ]
    return launcher(tensors, known, torch.float64)


def checked(launcher: CooperativeLauncher, attempts: int = 2) -> None:
    """Under the checker, its outputs and exchanges poisoned, whoever runs first."""
    outputs, exchanges = stores(launcher)
    kept = {launcher.source.name: [*outputs, *exchanges]}
    for seed in range(attempts):
        with simulate.checking(kept, seed=seed, written=outputs):
            made_up(launcher)


def changed(launcher: CooperativeLauncher, change: Callable[[str], str]) -> CooperativeLauncher:
    """A kernel whose text is another, loaded even if it breaks the rules of sources."""
    text = change(launcher.source.text)
    assert text != launcher.source.text
    found = CooperativeLauncher(replace(launcher.source, text=text), executor=INTERPRETER)
    found.module = load_module(text, found.source.name)
    return found


def early(text: str) -> str:
    """The arrival in the loop before what is published there."""
    head, loop = text.split("    for step", 1)
    call = re.search(r"\n +arrive\(arrived\)", loop)
    assert call is not None
    loop = loop.replace(call[0], "", 1)
    first = loop.index("# for all blocks")
    return f"{head}    for step{loop[:first]}arrive(arrived)\n        {loop[first:]}"


FAULTS: dict[str, tuple[Callable[[str], str], type]] = {
    "a missing arrival": (
        lambda text: re.sub(r"\n        arrive\(arrived\)", "", text),
        simulate.Deadlock,
    ),
    "an arrival too early": (early, simulate.Race),
    "one exchange slot too few": (
        lambda text: text.replace("next_slot = 1 - slot", "next_slot = 0").replace(
            "slot = step % 2", "slot = 0"
        ),
        simulate.Race,
    ),
    "a wait for one block too few": (
        lambda text: re.sub(r"wait\(arrived, (.*?) \* 2,", r"wait(arrived, \1 * 2 - 1,", text),
        simulate.KernelFault,
    ),
    "no wait": (
        lambda text: re.sub(r"\n        patience = wait\(.*?\)\n", "\n", text),
        simulate.KernelFault,
    ),
    "an arrival that releases nothing": (
        lambda text: text.replace(
            "        arrive(arrived)", '        tl.atomic_add(arrived, 1, sem="relaxed")'
        ),
        simulate.Race,
    ),
    "a missing mask of rows": (
        lambda text: text.replace("live = rows < n_rows", "live = rows < n_rows + 1"),
        simulate.OutOfBounds,
    ),
    "a missing mask of units": (
        lambda text: text.replace(" & (shard_20 + cols_16 < 20)", ""),
        simulate.KernelFault,
    ),
    "a save of another's units": (
        lambda text: re.sub(r"(_out_ptr \+ \(.*?)shard_20 \+ ", r"\1", text),
        simulate.KernelFault,
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_emitted_text_is_named(fault: str) -> None:
    sound = saving()
    change, kind = FAULTS[fault]
    with pytest.raises(kind, match=sound.source.name):
        checked(changed(sound, change))


@pytest.mark.parametrize("name", ["gru_before", "lstm_layer_norm"])
def test_sound_kernels_of_several_barriers_have_no_fault(name: str) -> None:
    for backward in (False, True):
        launcher = saving(name, backward)
        assert launcher.source.barriers > 1
        checked(launcher)


def test_two_loops_share_one_launch_and_no_counter() -> None:
    net = network("rnn_both_ways", SIZES.hidden)
    given = inputs(net, SIZES, torch.float64, "cpu")
    wanted, model = run(net, INTERPRET, SKIP, given, {})
    kernels = launchers(model)
    assert {k.source.loops for k in kernels} == {2}
    assert all("side by side in one launch" in c.reason for c in choices(model))
    kept = {k.source.name: [x for names in stores(k) for x in names] for k in kernels}
    with simulate.checking(kept, seed=1, written=[x for k in kernels for x in stores(k)[0]]):
        got, _ = results(model, given, {})
    assert all(torch.equal(got[k], wanted[k]) for k in wanted)


# launches


def test_a_stuck_barrier_is_an_error_that_names_kernel_and_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cooperative_launch, "PATIENCE", 20)
    stuck = changed(saving(), lambda text: re.sub(r"\n        arrive\(arrived\)", "", text))
    with pytest.raises(
        StuckBarrier, match=rf"{stuck.source.name}: a barrier was never passed at step 1; .*are NaN"
    ):
        made_up(stuck)


def test_after_a_stuck_barrier_all_is_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cooperative_launch, "PATIENCE", 20)
    stuck = changed(saving(), lambda text: re.sub(r"\n        arrive\(arrived\)", "", text))
    monkeypatch.setattr(stuck.watchdog, "look", lambda flag: None)
    for out in made_up(stuck):
        assert not out[0].isnan().any() and out[1:].isnan().all()


def test_a_batch_too_large_for_one_launch_takes_several(monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = saving()
    wanted = made_up(launcher, 2, 40)
    grids: list[tuple[int, ...]] = []

    def counted(executor: Executor, launch: KernelLaunch) -> None:
        grids.append(launch.grid)
        executor.run(launch)

    monkeypatch.setattr(Interpreter, "gpu", lambda self, index: GpuInfo("small", "sm_90", 5))
    with launches_run_by(counted):
        few = made_up(launcher, 2, 40)
    blocks = launcher.source.blocks
    assert grids == [(2 * blocks, 1), (blocks, 1)]
    for got, want in zip(few, wanted, strict=True):
        assert torch.equal(got, want)


# the choice of strategies


def planned(size: int, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """How an LSTM in bfloat16 is run on an H200, forward and backward; nothing is launched."""
    monkeypatch.setattr(target, "current", lambda: "sm_90")
    net = network("lstm", size).bfloat16()
    model = gn.compile(net, backend="interpret")
    model.program()
    return [(c.strategy, c.reason) for c in choices(model)]


def test_wider_loops_take_more_of_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = {}
    for size in (256, 1024):
        for strategy, reason in planned(size, monkeypatch):
            assert strategy == "cooperative"
            blocks[size] = int(re.match(r"one kernel on (\d+) of 132 multi", reason)[1])  # type: ignore[index]
            assert re.search(r"1 barrier per step; predicted \d\.\d µs per step", reason)
            assert re.search(r"others: .*stepwise \d+\.\d", reason)
            assert "do not fit the 227 KB of one multiprocessor" in reason
    assert 1 < blocks[256] < blocks[1024] <= 132
    assert {strategy for strategy, _ in planned(64, monkeypatch)} == {"resident"}
    for strategy, reason in planned(4096, monkeypatch):
        assert strategy == "stepwise"
        assert re.search(r"predicted \d+\.\d µs per step, stepwise \d+\.\d", reason)


def test_switched_off_a_wide_loop_goes_step_by_step() -> None:
    model = gn.compile(network("lstm", 256).bfloat16(), backend="interpret", skip=("cooperative",))
    model.program()
    assert {c.strategy for c in choices(model)} == {"stepwise"}
    assert all("skip 'cooperative'" in c.reason for c in choices(model))
