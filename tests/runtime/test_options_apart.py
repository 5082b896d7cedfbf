"""Models of one network that differ in an option share no code: neither kernels nor choices."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import graphnn as gn
from graphnn.backends.triton.loops.dispatch import StrategyDispatcher
from graphnn.backends.triton.loops.report import LoopStrategy
from graphnn.backends.triton.options import options_text
from graphnn.backends.triton.strategy import KernelLowering
from graphnn.kernels.codegen import digest as digests
from graphnn.kernels.codegen.digest import digest
from graphnn.kernels.codegen.persistent import LoopSource
from graphnn.kernels.executors.executor import Executor, KernelLaunch, launches_run_by
from graphnn.kernels.executors.named import INTERPRETER
from graphnn.kernels.feasibility import large_tiles
from graphnn.kernels.feasibility.fit import Launch
from graphnn.kernels.select.autotune import Autotuner
from graphnn.runtime.model import Compiled
from tests.attention.networks import Net, Story
from tests.kernels.emitted import Over, sources
from tests.kernels.made_up_gpu import MadeUpGpu

SIZE = 4


class Statistics(nn.Module):
    """The entropy of attention, beside what it reads."""

    def graph(self, g: gn.Graph) -> None:
        q, k = g.input("q", (SIZE,), over="target"), g.input("k", (SIZE,), over="source")
        weights = gn.softmax(gn.dot(q, k), over="source")
        g.output("y", gn.sum(weights * k, over="source"))
        g.output("h", gn.sum(weights * torch.log(weights + 1e-9), over="source"))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "loop": lambda: Over(gn.nn.RNN(8, 8), 8),
    "layer": lambda: Over(gn.nn.LSTM(SIZE, SIZE), SIZE),
    "scan": lambda: Over(gn.nn.MinGRU(SIZE, SIZE), SIZE),
    "attention": lambda: Net(SIZE, SIZE),
    "statistics": Statistics,
    "hops": Story,
}
OPTIONS: list[dict[str, Any]] = [
    {"float32": "ieee"},
    {"float32": "tf32x3"},
    {"float32": "tf32"},
    {"tune": False},
    {"recompute": True},
    {"recompute": False},
    {"skip": ("resident",)},
    {"skip": ("cooperative",)},
    {"skip": ("fit",)},
    {"skip": ("resident", "cooperative")},
]


def keys(model: Compiled) -> list[str]:
    """The keys of a model's operators."""
    program = model.program()
    return [x.key for x in (*program.loops, *program.attends)]


@pytest.mark.parametrize("name", NETWORKS)
def test_operators_of_models_with_other_options_have_other_keys(name: str) -> None:
    """Also without the number, which another process may give to another operator."""
    net = NETWORKS[name]()
    # attention recomputes its weights in any case
    options = OPTIONS if name == "loop" else [o for o in OPTIONS if "recompute" not in o][::2]
    models = [gn.compile(net, "interpret", **chosen) for chosen in ({}, *options)]
    found = [keys(model) for model in models]
    assert all(found) or name == "scan"
    plain = [key.rsplit(" ", 1)[0] for each in found for key in dict.fromkeys(each)]
    assert len(set(plain)) == len(plain)
    again = gn.compile(net, "interpret")
    assert [k.rsplit(" ", 1)[0] for k in keys(again)] == [k.rsplit(" ", 1)[0] for k in found[0]]
    assert not set(keys(again)) & set(found[0])


@pytest.mark.parametrize("name", ["loop", "attention"])
def test_calls_in_turn_run_the_kernels_of_their_own_model(name: str) -> None:
    net = NETWORKS[name]()
    chosen = [OPTIONS[k] for k in (0, 1, 2)] + [{"skip": ("resident", "cooperative")}]
    chosen += [{"skip": ("resident", "fit")}] * (name == "loop")
    models = [gn.compile(net, "interpret", **options) for options in chosen]
    inputs = {n: torch.ones(1, 2, *shape) for n, shape in shapes(models[0]).items()}
    seen: list[tuple[Any, ...]] = []

    def watched(executor: Executor, launch: KernelLaunch) -> None:
        seen.append((launch.function.__name__, launch.constants["PRECISION"], launch.together))
        executor.run(launch)

    def launched(model: Compiled) -> list[tuple[Any, ...]]:
        seen.clear()
        with launches_run_by(watched):
            model(**inputs)
        return list(seen)

    alone = [launched(model) for model in models]
    assert [{how for _, how, _ in each} for each in alone[:3]] == [{"ieee"}, {"tf32x3"}, {"tf32"}]
    if name == "loop":
        assert alone[3] != alone[2] and any(together for *_, together in alone[4])
    for _ in range(2):
        for model, wanted in zip(reversed(models), reversed(alone), strict=True):
            assert launched(model) == wanted


def shapes(model: Compiled) -> dict[str, tuple[int, ...]]:
    """The shape of one element of each input."""
    return {n.attrs["key"]: n.shape for n in model.ir if n.op == "input"}


@dataclasses.dataclass(eq=False)
class Extended(KernelLowering):
    """A lowering with an option that does not exist yet."""

    unheard_of: bool = True


def test_a_new_option_is_part_of_the_key() -> None:
    plain, extended = KernelLowering(INTERPRETER, "sm_90"), Extended(INTERPRETER, "sm_90")
    assert options_text(extended) == options_text(plain).replace(
        "\nlarge", "\nunheard_of: True\nlarge"
    )
    other = dataclasses.replace(extended, unheard_of=False)
    assert other.key != extended.key
    plain.launchers["a"] = extended.launchers["b"] = None  # type: ignore[assignment]
    assert plain.key == KernelLowering(INTERPRETER, "sm_90").key
    with pytest.raises(TypeError, match="the option unheard_of of a lowering is <object"):
        options_text(dataclasses.replace(extended, unheard_of=object()))


def test_every_option_of_a_lowering_is_part_of_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    lowering = KernelLowering(INTERPRETER, "sm_90", float32="tf32")
    others: dict[str, Any] = {"executor": MadeUpGpu(), "target": "sm_80", "float32": "ieee"}
    others["kinds"] = frozenset({"resident"})
    options = [f for f in dataclasses.fields(lowering) if not f.metadata.get("state")]
    assert {f.name for f in options} >= {"resident", "cooperative", "fit", "graphs", "tune"}
    for option in options:
        value = others.get(option.name, not getattr(lowering, option.name))
        assert dataclasses.replace(lowering, **{option.name: value}).key != lowering.key
    before = lowering.key
    monkeypatch.setattr(large_tiles, "_verified", lambda target: True)
    assert lowering.key != before


def test_choices_of_strategies_and_launches_are_kept_by_all_of_that() -> None:
    lowerings = [KernelLowering(INTERPRETER, "sm_90", graphs=graphs) for graphs in (False, True)]
    first = gn.compile(NETWORKS["loop"](), "interpret").program().loops[0].train
    choices = [LoopStrategy("resident", "")]
    made = [StrategyDispatcher(x, print, first, choices, ["d"], "forward") for x in lowerings]
    assert made[0].tuner.what != made[1].tuner.what


@dataclasses.dataclass(frozen=True)
class NewSource(LoopSource):
    """A source with a setting that does not exist yet."""

    unheard_of: int = 1


def test_the_digest_of_a_kernel_has_its_settings_and_the_functions_that_it_calls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = sources(NETWORKS["loop"]())["saving"]
    values = {f.name: getattr(source, f.name) for f in dataclasses.fields(source)}
    others = [dataclasses.replace(source, capped=not source.capped), NewSource(**values)]
    others += [NewSource(**values, unheard_of=2), dataclasses.replace(source, text="other")]
    found = {digest(x) for x in (source, *others)}
    assert len(found) == 5 and digest(dataclasses.replace(source)) in found
    before = Autotuner(source, MadeUpGpu())._key(Launch("bf16", "ieee"), "gpu", 16)
    assert before["kernel"] == digest(source)
    monkeypatch.setattr(digests, "_prelude", lambda: "another prelude")
    assert digest(source) not in found
