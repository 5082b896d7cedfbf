"""torch's setting for float32 products is read by either of its APIs, and never raises."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import graphnn as gn
from graphnn.kernels import precision
from graphnn.kernels.precision import matmul_precision
from tests.kernels.emitted import Over

LEGACY = "torch.get_float32_matmul_precision"
# statements that set the precision, what applies afterwards, and whether the legacy getter raises
SETTINGS = [
    ("", "ieee", False),
    ("set_float32_matmul_precision('high')", "tf32", False),
    ("set_float32_matmul_precision('medium')", "tf32", False),
    ("set_float32_matmul_precision('highest')", "ieee", False),
    ("backends.cuda.matmul.allow_tf32 = True", "tf32", False),
    ("backends.cuda.matmul.allow_tf32 = False", "ieee", False),
    ("backends.cuda.matmul.fp32_precision = 'tf32'", "tf32", True),
    ("backends.cuda.matmul.fp32_precision = 'ieee'", "ieee", False),
    ("backends.cuda.matmul.fp32_precision = 'none'", "ieee", False),
    ("backends.fp32_precision = 'tf32'", "tf32", True),
    ("backends.fp32_precision = 'ieee'", "ieee", False),
    ("backends.cudnn.conv.fp32_precision = 'ieee'", "ieee", False),
    ("backends.mkldnn.matmul.fp32_precision = 'bf16'", "ieee", True),
    (
        "backends.fp32_precision = 'tf32'; torch.backends.cuda.matmul.fp32_precision = 'ieee'",
        "ieee",
        True,
    ),
    (
        "set_float32_matmul_precision('high'); torch.backends.cuda.matmul.fp32_precision = 'ieee'",
        "ieee",
        False,
    ),
    (
        "backends.cuda.matmul.fp32_precision = 'tf32'; torch.set_float32_matmul_precision('high')",
        "tf32",
        False,
    ),
    (
        "backends.cuda.matmul.fp32_precision = 'tf32';"
        " torch.set_float32_matmul_precision('highest')",
        "ieee",
        False,
    ),
]


# sets each in a process of its own, as a setting cannot be taken back to what it was at first
SCRIPT = """
import os, sys, warnings
import torch
from graphnn.kernels.precision import matmul_precision

warnings.simplefilter("ignore")
for setting in sys.argv[1:]:
    if not (child := os.fork()):
        exec(f"torch.{setting}" if setting else "")
        try:
            torch.get_float32_matmul_precision()
            raises = False
        except RuntimeError:
            raises = True
        print(matmul_precision(), raises, flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


@pytest.mark.proof
def test_every_setting_of_both_apis_is_read() -> None:
    settings = [setting for setting, _, _ in SETTINGS]
    command = [sys.executable, "-c", SCRIPT, *settings]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = dict(zip(settings, done.stdout.splitlines(), strict=True))
    assert found == {setting: f"{wanted} {raises}" for setting, wanted, raises in SETTINGS}


@pytest.fixture
def mixed() -> Iterator[None]:
    """The new API has allowed TF32, so that the legacy getter raises."""
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    with pytest.raises(RuntimeError, match="mix of the legacy and new APIs"):
        torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision("highest")
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.usefixtures("mixed")
def test_models_run_while_the_legacy_getter_raises() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        model = gn.compile(Over(gn.nn.RNN(4, 4), 4).to(dtype), backend="interpret")
        assert model(x=torch.zeros(1, 2, 4, dtype=dtype)).shape == (1, 2, 4)
        assert ("one product of TF32" in model.explain()) == (dtype == torch.float32)


def test_a_torch_without_the_new_getter_is_asked_by_the_legacy_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Old:
        """The private module of a torch before 2.9."""

    monkeypatch.setattr(precision.torch, "_C", Old())
    monkeypatch.setattr(LEGACY, lambda: "high")
    assert matmul_precision() == "tf32"
    monkeypatch.setattr(LEGACY, lambda: "highest")
    assert matmul_precision() == "ieee"

    def raised() -> Any:
        raise RuntimeError("mix of the legacy and new APIs")

    monkeypatch.setattr(LEGACY, raised)
    assert matmul_precision() == "ieee"
