"""How float32 is multiplied: as requested, as explained, and rejected if that is not safe."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import graphnn as gn
from graphnn.errors import BackendError
from graphnn.kernels.cache import load_module
from graphnn.kernels.codegen.persistent import LoopSource
from graphnn.kernels.feasibility import compile_process, fit
from graphnn.kernels.feasibility.aot import KernelCase, VerdictRow
from graphnn.kernels.feasibility.cases import loop_case
from graphnn.kernels.feasibility.fit import Launch, judge
from graphnn.kernels.runtime.launch import PRECISIONS, Launcher
from tests.kernels.emitted import Over, sources
from tests.networks.equality import numbers

PLAIN = Launch("fp32", "ieee")


def network(size: int) -> Any:
    torch.manual_seed(0)
    return Over(gn.nn.LSTM(size, size), size)


@pytest.mark.parametrize("float32", [*PRECISIONS, None])
def test_kernels_multiply_as_requested(
    float32: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, used = network(8), []
    constants = Launcher._constants

    def seen(self: Launcher, dtype: torch.dtype) -> dict[str, Any]:
        found = constants(self, dtype)
        used.append(found["PRECISION"])
        return found

    monkeypatch.setattr(Launcher, "_constants", seen)
    model = gn.compile(net, backend="interpret", float32=float32)
    x = numbers(torch.empty(3, 4, 8), 0).float().requires_grad_()
    y = model(x=x)
    y.sum().backward()
    wanted = gn.compile(copy.deepcopy(net).double(), backend="reference")(x=x.double())
    assert (y - wanted).abs().max() < 1e-6
    how = float32 or "tf32x3"
    assert used == [how, how] and f"multiplied by {PRECISIONS[how]}" in model.explain()


def test_half_precision_and_attention() -> None:
    model = gn.compile(network(8).bfloat16(), backend="interpret", float32="ieee")
    assert "float32 is multiplied" not in model.explain()
    block = gn.nn.TransformerBlock(8, 2)
    model = gn.compile(Over(block, 8), backend="interpret", float32="ieee", skip=("match",))
    assert "float32 is multiplied by plain multiply-adds (ieee)" in model.explain()


def test_an_unknown_precision_is_an_error() -> None:
    with pytest.raises(BackendError, match="float32 is not multiplied as 'fp32'") as found:
        gn.compile(network(8), float32="fp32")
    assert "'ieee', 'tf32x3', 'tf32', or None" in str(found.value)


def test_many_weights_are_rejected_without_compiling(monkeypatch: pytest.MonkeyPatch) -> None:
    """An LSTM of 64 units has 64 weights per thread and spills (sm_90, Triton 3.9); not of 32."""
    asked: list[LoopSource] = []
    monkeypatch.setattr(fit, "compile_faults", lambda source, *_: asked.append(source) or ())
    for size, fits in ((32, True), (64, False)):
        verdicts = [judge(s, PLAIN, "sm_90") for s in sources(network(size)).values()]
        assert all(v.fits == fits for v in verdicts) and not asked
    assert all("need 64 weights per thread" in v.reason for v in verdicts)


def test_explain_says_why_a_loop_has_no_kernel() -> None:
    model = gn.compile(network(64), backend="interpret", float32="ieee", skip=("cooperative",))
    text = model.explain()
    assert "stepwise" in text and "float32 multiply-adds need" in text
    assert "torch's setting applies to its products, not float32='ieee'" in text


def test_only_the_launch_that_was_compiled_is_tried_on_a_gpu() -> None:
    (source,) = [s for k, s in sources(network(8)).items() if k == "saving"]
    assert fit.launch_candidates(source, PLAIN, "sm_90", 64) == [PLAIN]
    assert len(fit.launch_candidates(source, Launch("fp32", "tf32"), "sm_90", 64)) > 1


def made() -> KernelCase:
    """A kernel that multiplies by multiply-adds."""
    return loop_case(sources(network(8))["saving"], "fp32", 16, 8, "ieee")


def test_a_case_is_judged_in_another_process() -> None:
    given, answers = made(), []
    assert (
        given.own_process
        and not loop_case(sources(network(8))["saving"], "bf16", 16, 8).own_process
    )
    path = given.function.fn.__code__.co_filename
    sent = path, given.function.__name__, replace(given, function=None), "sm_90"
    compile_process.main(lambda: pickle.dumps(sent), answers.append)
    row = pickle.loads(answers[0])
    assert isinstance(row, VerdictRow) and not row.faults and row.resources is not None


@pytest.mark.slow
def test_a_compiler_crash_is_a_fault(tmp_path: Path) -> None:
    given = made()
    assert given.judge("sm_90").faults == ()
    text = Path(given.function.fn.__code__.co_filename).read_text()
    fatal = "import os, sys\n\nif 'pytest' not in sys.modules:\n    os.abort()\n"
    function = getattr(
        load_module(f"{text}\n\n{fatal}", given.function.__name__), given.function.__name__
    )
    (fault,) = replace(given, function=function).judge("sm_90").faults
    assert fault == "does not compile: Triton crashes (SIGABRT)"
