"""Loads FILE:NAME of the command line as a compiled model."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import pathlib
import sys
import traceback
from collections.abc import Iterator
from typing import Any

from torch import nn

from graphnn.cli.arguments import UsageError
from graphnn.errors import GraphnnError
from graphnn.frontend.graph import Graph
from graphnn.ir.source_location import is_users
from graphnn.runtime.model import Compiled, compile, network_of


def load(spec: str, backend: str | None = None) -> Compiled:
    """The compiled model of FILE:NAME, for a backend; by default its own, or "auto".

    Raises UsageError if there is no such file or name, or if it is no network.
    """
    thing, name = found(spec)
    return _compiled(thing, name, backend)


def found(spec: str) -> tuple[Any, str]:
    """The object called NAME in FILE, and NAME. Runs the file as a module."""
    module, name = _module(spec)
    if not hasattr(module, name):
        raise UsageError(f"'{spec.rpartition(':')[0]}' has no '{name}'")
    return getattr(module, name), name


def _module(spec: str) -> tuple[Any, str]:
    file, colon, name = spec.rpartition(":")
    path = pathlib.Path(file)
    if not colon or not name.isidentifier():
        raise UsageError(f"'{spec}' is not of the form FILE:NAME")
    if not path.is_file():
        raise UsageError(f"there is no file '{file}'")
    if path.stem in sys.modules and getattr(sys.modules[path.stem], "__file__", "") == str(path):
        return sys.modules[path.stem], name
    spec_ = importlib.util.spec_from_file_location(path.stem, path)
    if spec_ is None or spec_.loader is None:
        raise UsageError(f"'{file}' is not a Python file")
    module = importlib.util.module_from_spec(spec_)
    sys.modules[path.stem] = module
    sys.path.insert(0, str(path.parent))
    try:
        with users_code(f"'{file}' cannot be run"):
            spec_.loader.exec_module(module)
    except UsageError:
        del sys.modules[path.stem]
        raise
    return module, name


@contextlib.contextmanager
def users_code(what: str) -> Iterator[None]:
    """Run the user's code in the block. Raises UsageError with a traceback of the user's lines."""
    try:
        yield
    except (GraphnnError, UsageError):
        raise
    except Exception as error:
        report = traceback.TracebackException.from_exception(error)
        _only_users(report)
        raise UsageError(f"{what}:\n{''.join(report.format()).rstrip()}") from None


def _only_users(report: traceback.TracebackException | None) -> None:
    """Remove the frames of graphnn, torch and the import system, also from causes and contexts."""
    if report is not None:
        users = [frame for frame in report.stack if is_users(frame.filename)]
        report.stack = traceback.StackSummary.from_list(users)
        _only_users(report.__cause__)
        _only_users(report.__context__)


def _compiled(thing: Any, name: str, backend: str | None) -> Compiled:
    if callable(thing) and not isinstance(thing, nn.Module):
        _without_arguments(thing, name)
        with users_code(f"'{name}' cannot be made"):
            thing = thing()
    if isinstance(thing, Compiled):
        return thing if backend is None else compile(network_of(thing).source, backend)
    if isinstance(thing, (nn.Module, Graph)):
        with users_code(f"'{name}' cannot be compiled"):
            return compile(thing, backend or "auto")
    raise UsageError(f"'{name}' is a {type(thing).__name__}, not a graph, module or model")


def _without_arguments(thing: Any, name: str) -> None:
    """Raise UsageError if a class or function needs arguments."""
    try:
        inspect.signature(thing).bind()
    except TypeError as error:
        raise UsageError(
            f"'{name}' cannot be made without arguments: {error}; "
            f"write `model = {name}(…)` in the file and name that"
        ) from None
    except ValueError:
        return  # it has no signature to check
