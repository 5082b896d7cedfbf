"""Every emitted kernel under the checker: outputs poisoned and all written, no race, nothing past.

Then faults are put into the text of one: the checker names each.
"""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch

import graphnn as gn
from graphnn.kernels import simulate
from graphnn.kernels.executors.named import INTERPRETER
from graphnn.kernels.runtime.launch import Launcher
from tests.backends.triton.cells import CELLS, Sizes, inputs, network, ragged, run, skipped
from tests.backends.triton.places import INTERPRET, STRATEGIES, both, lowerings

TWO_TILES = Sizes(17, 2, 20)
# many loops, options that change no kernel, and scans, whose kernels have tests of their own
RARE = "layers|gru.*both_ways|everything|dropout|noise|without_bias|zoneout|options|sru$|min_gru$"
SLOW = {name for name in CELLS if re.search(RARE, name)}
SCANS = {"forward_kernel", "backward_kernel"}


def launchers(model: gn.Compiled) -> list[Launcher]:
    """The kernels of all loops of a model."""
    return [k for lowering in lowerings(model) for k in lowering.launchers.values()]


def outputs(launcher: Launcher) -> list[str]:
    """The names of the arguments that a kernel stores to."""
    program = launcher.source.program
    names = launcher.function.arg_names
    return names[len(program.tensors) : len(launcher.source.pointers)]


@both
@pytest.mark.parametrize(
    "name", [pytest.param(c, marks=pytest.mark.slow) if c in SLOW else c for c in CELLS]
)
def test_no_kernel_has_a_fault(name: str, strategy: str) -> None:
    net, skip = network(name, TWO_TILES.hidden), skipped(name, INTERPRET, strategy)
    given = inputs(net, TWO_TILES, torch.float64, "cpu")
    lengths = ragged(TWO_TILES, "cpu")
    wanted, model = run(net, INTERPRET, skip, given, lengths)
    stores = {k.source.name: outputs(k) for k in launchers(model)}
    with simulate.checking(stores) as reports:
        got, _ = run(net, INTERPRET, skip, given, lengths)
    assert all(torch.equal(got[k], wanted[k]) for k in wanted)
    assert {r.kernel for r in reports} - stores.keys() <= SCANS
    tiles = {k.source.name: 2 * k.source.loops for k in launchers(model)}
    assert all(r.programs == tiles[r.kernel] for r in reports if r.kernel in tiles)
    assert any("backward" in r.kernel for r in reports)


def lstm(strategy: str) -> Launcher:
    """The forward kernel of an LSTM that saves for its backward."""
    net = network("lstm", TWO_TILES.hidden)
    given = inputs(net, TWO_TILES, torch.float64, "cpu")
    _, model = run(net, INTERPRET, INTERPRET.skip(strategy), given, {})
    return next(k for k in launchers(model) if "saving" in k.source.name)


def checked(launcher: Launcher) -> None:
    """Run a kernel on made-up tensors, its outputs poisoned."""
    known = {"time": TWO_TILES.time, "batch": TWO_TILES.batch}
    tensors = [
        torch.randn([*(known[a] for a in t.axes), *t.shape], dtype=torch.float64)
        for t in launcher.source.program.tensors
    ]
    with simulate.checking({launcher.source.name: outputs(launcher)}):
        launcher(tensors, known, torch.float64)


def without_store(text: str) -> str:
    """The text without its last store."""
    lines = text.splitlines(keepends=True)
    start = max(k for k, line in enumerate(lines) if line.strip() == "tl.store(")
    end = next(k for k in range(start, len(lines)) if lines[k].strip() == ")")
    return "".join(lines[:start] + lines[end + 1 :])


FAULTS = {
    "a mask one column too narrow": (
        lambda text: re.sub(r"(tl\.store\([^=]*?mask=live & \(cols_32 < )20", r"\g<1>19", text),
        simulate.Unwritten,
    ),
    "a mask one row too wide": (
        lambda text: text.replace("live = rows < n_rows", "live = rows <= n_rows"),
        simulate.OutOfBounds,
    ),
    "a store past the end": (
        lambda text: re.sub(r"(tl\.store\(\s*\w+ptr \+ \()", r"\g<1>n_batch * 40 + ", text),
        simulate.OutOfBounds,
    ),
    "a row of two programs": (
        lambda text: text.replace("tl.program_id(0) * ROWS", "tl.program_id(0) * (ROWS - 1)"),
        simulate.Race,
    ),
    "a missing save": (without_store, simulate.Unwritten),
}


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_emitted_text_is_named(fault: str, strategy: str) -> None:
    sound = lstm(strategy)
    checked(sound)
    change, kind = FAULTS[fault]
    text = change(sound.source.text)
    assert text != sound.source.text
    with pytest.raises(kind, match=sound.source.name):
        checked(Launcher(replace(sound.source, text=text), executor=INTERPRETER))
