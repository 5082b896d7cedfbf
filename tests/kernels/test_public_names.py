"""The short public names of `graphnn.kernels`."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from graphnn import kernels
from graphnn.kernels.codegen import persistent
from graphnn.kernels.feasibility import aot


def test_every_public_name_is_found() -> None:
    """Each name of `__all__` is an attribute and is listed by `dir`."""
    for name in kernels.__all__:
        assert getattr(kernels, name) is not None
        assert name in dir(kernels)


def test_short_names_are_the_same_objects() -> None:
    """A short name is the object that its own module defines."""
    assert kernels.emit is persistent.emit
    assert kernels.aot.Case is aot.KernelCase


def test_short_modules_can_be_imported() -> None:
    """`import graphnn.kernels.aot` and `graphnn.kernels.simulate` work as statements."""
    for name in ("aot", "simulate"):
        assert importlib.import_module(f"graphnn.kernels.{name}") is getattr(kernels, name)


def test_an_unknown_name_is_an_attribute_error() -> None:
    """A misspelt name is reported as Python reports it."""
    with pytest.raises(AttributeError, match=r"graphnn.kernels.*has no attribute 'emits'"):
        kernels.emits  # noqa: B018


def test_importing_the_package_loads_no_kernel_code() -> None:
    """`import graphnn.kernels` loads neither Triton nor the emitters."""
    code = "import sys, graphnn.kernels; print([*sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split("'"))
    assert "triton" not in loaded
    for name in ("codegen.persistent", "runtime.launch", "simulate", "feasibility.aot"):
        assert f"graphnn.kernels.{name}" not in loaded
