"""`graphnn warm`: what is compiled for an absent GPU, and what Triton has in its cache then."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import nn

import graphnn as gn
from graphnn.cli import main
from graphnn.errors import BackendError
from graphnn.kernels.executors.compiled import compiled
from graphnn.kernels.executors.executor import KernelLaunch
from graphnn.tools.verification import warm as module
from graphnn.tools.verification.warm import warm


class Net(nn.Module):
    """A recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = gn.nn.RNN(4, 16)

    def graph(self, g: gn.Graph) -> None:
        g.output("y", self.layer(g.input("x", (4,), over="time")))


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[KernelLaunch]:
    """The launches that are compiled; a fake compiler fails on kernels of inference."""
    found: list[KernelLaunch] = []

    def compile_all(given: list[KernelLaunch], target: str) -> list[str]:
        found.extend(given)
        assert target == "sm_90"
        return ["" if "_saving" in x.function.__name__ else "no" for x in given]

    monkeypatch.setattr(module, "compile_all", compile_all)
    return found


@pytest.mark.proof
def test_every_candidate_of_training_and_inference_is_compiled_once(
    launches: list[KernelLaunch],
) -> None:
    found = warm(Net(), target="sm_90")
    kinds = {"saving", "backward"}
    names = [x.function.__name__ for x in launches]
    assert {n.rsplit("_", 1)[-1] for n in names} >= kinds
    keys = [(x.function, str(x.constants), str(x.options)) for x in launches]
    assert len(set(keys)) == len(keys) == len(found.kernels)
    assert {x.constants["ROWS"] for x in launches} == {16, 32}
    assert {name for name, why in found.failed} == {n for n in names if "_saving" not in n}
    assert f"of {len(names)} kernels for sm_90 in" in str(found) and ": no" in str(found)


def test_without_a_gpu_a_target_is_needed() -> None:
    with pytest.raises(BackendError, match="no GPU to compile and tune kernels on"):
        warm(Net())


def test_the_command_returns_whether_all_kernels_compile(
    launches: list[KernelLaunch], tmp_path: Path, capsys: Any
) -> None:
    net = tmp_path / "net.py"
    net.write_text(
        "import graphnn as gn\n"
        "def net():\n"
        "    g = gn.Graph('net')\n"
        "    g.output('y', g.input('x', (4,), over='time') * 2)\n"
        "    return g\n"
    )
    assert main(["warm", f"{net}:net", "--target", "sm_90"]) == 0
    assert "0 of 0 kernels for sm_90" in capsys.readouterr().out
    assert main(["warm", f"{net}:net"]) == 2


@pytest.mark.proof
def test_a_later_compilation_finds_the_kernels_in_tritons_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kept: list[KernelLaunch] = []
    real = module.compile_all

    def compile_all(given: list[KernelLaunch], target: str) -> list[str]:
        kept.extend(given[:1])
        return real(given[:1], target)

    monkeypatch.setattr(module, "compile_all", compile_all)
    assert not warm(Net(), target="sm_90").failed
    files = set(tmp_path.rglob("*.cubin"))
    assert files
    kept[0].function.device_caches.clear()
    kernel, _ = compiled(kept[0], "sm_90", assemble=True)
    assert kernel.asm["cubin"] and set(tmp_path.rglob("*.cubin")) == files
