"""What graphnn says about the installed Triton: missing, not tested, or nothing."""

import pytest
import triton

from graphnn.backends import requirements
from graphnn.planner.loops.choose import Target
from graphnn.runtime.call.options import checked
from graphnn.tools import doctor


@pytest.fixture(autouse=True)
def not_yet_warned():
    requirements.warn_if_untested.cache_clear()
    requirements.warn_if_missing.cache_clear()


@pytest.fixture
def no_triton(monkeypatch):
    monkeypatch.setattr(requirements, "has_triton", lambda: False)
    monkeypatch.setattr("graphnn.runtime.call.options.has_triton", lambda: False)


def options(backend):
    return checked(backend, (), None, None, True)


@pytest.mark.parametrize(
    "version, tested", [("3.7.1", True), ("3.5.0+git1", True), ("3.4.0", False)]
)
def test_another_patch_of_a_tested_version_is_tested(version, tested):
    assert requirements.is_tested(version) == tested


def test_an_untested_triton_is_warned_of_once_and_only_if_kernels_are_used(monkeypatch):
    monkeypatch.setattr(triton, "__version__", "3.99.0")
    assert options("torch").lowering(Target("cpu")) is None
    with pytest.warns(UserWarning, match=r"not checked with Triton 3.99.0, but with 3.5, "):
        assert options("interpret").lowering(Target("cpu")) is not None
    assert options("interpret").lowering(Target("cpu")) is not None


def test_doctor_names_a_triton_that_was_not_tested(monkeypatch):
    monkeypatch.setattr(doctor, "triton_version", lambda: "3.99.0")
    (found,) = (f for f in doctor.examine() if f.topic == "triton")
    assert not found.sound and found.text.startswith("3.99.0, with which kernels were not checked")


def test_auto_takes_torch_on_a_gpu_without_triton_and_warns_once(no_triton):
    auto, gpu = options("auto"), Target("cuda")
    assert auto.backend_for(gpu) == "torch" and not auto.kernels(gpu)
    with pytest.warns(UserWarning, match="Triton is not installed"):
        assert auto.lowering(gpu) is None
    assert auto.lowering(gpu) is None
    assert auto.lowering(Target("cpu")) is None
