"""What FILE:NAME on the command line means; and bad input, said in one line."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import inspect
import pathlib
import sys
import traceback
from collections.abc import Iterator
from typing import Any

from torch import nn

from graphnn.errors import GraphnnError
from graphnn.frontend.graph import Graph
from graphnn.ir.source_location import is_users
from graphnn.runtime.model import Compiled, compile, network_of


class Refused(Exception):
    """Bad input on the command line: one line says what."""


def load(spec: str, backend: str | None = None) -> Compiled:
    """The compiled model that FILE:NAME means, for a backend (its own, or "auto")."""
    thing, name = found(spec)
    return _compiled(thing, name, backend)


def found(spec: str) -> tuple[Any, str]:
    """What lies under NAME in FILE, which is run for it; and NAME."""
    module, name = _module(spec)
    if not hasattr(module, name):
        raise Refused(f"'{spec.rpartition(':')[0]}' has no '{name}'")
    return getattr(module, name), name


def _module(spec: str) -> tuple[Any, str]:
    file, colon, name = spec.rpartition(":")
    path = pathlib.Path(file)
    if not colon or not name.isidentifier():
        raise Refused(f"'{spec}' is not of the form FILE:NAME")
    if not path.is_file():
        raise Refused(f"there is no file '{file}'")
    if path.stem in sys.modules and getattr(sys.modules[path.stem], "__file__", "") == str(path):
        return sys.modules[path.stem], name
    spec_ = importlib.util.spec_from_file_location(path.stem, path)
    if spec_ is None or spec_.loader is None:
        raise Refused(f"'{file}' is not a Python file")
    module = importlib.util.module_from_spec(spec_)
    sys.modules[path.stem] = module
    sys.path.insert(0, str(path.parent))
    try:
        with users_code(f"'{file}' cannot be run"):
            spec_.loader.exec_module(module)
    except Refused:
        del sys.modules[path.stem]
        raise
    return module, name


@contextlib.contextmanager
def users_code(what: str) -> Iterator[None]:
    """Run code of the user's: what it raises is told by the user's own lines. Raises Refused."""
    try:
        yield
    except (GraphnnError, Refused):
        raise
    except Exception as error:
        told = traceback.TracebackException.from_exception(error)
        _only_users(told)
        raise Refused(f"{what}:\n{''.join(told.format()).rstrip()}") from None


def _only_users(told: traceback.TracebackException | None) -> None:
    """Leave out the frames of graphnn, of torch and of the import, here and in what led to it."""
    if told is not None:
        own = [frame for frame in told.stack if is_users(frame.filename)]
        told.stack = traceback.StackSummary.from_list(own)
        _only_users(told.__cause__)
        _only_users(told.__context__)


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
    raise Refused(f"'{name}' is a {type(thing).__name__}, no graph, module or model")


def _without_arguments(thing: Any, name: str) -> None:
    """Refuse a class or function that wants arguments."""
    try:
        inspect.signature(thing).bind()
    except TypeError as error:
        raise Refused(
            f"'{name}' cannot be made without arguments: {error}; "
            f"write `model = {name}(…)` in the file and name that"
        ) from None
    except ValueError:
        return  # one that says no signature


def positive(text: str) -> int:
    """A whole number of at least one."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of 1 or more")
    return int(text)


def size(text: str) -> tuple[str, int]:
    """The length of an axis: AXIS=N."""
    axis, equals, number = text.partition("=")
    if not equals or not axis:
        raise argparse.ArgumentTypeError(f"'{text}' is not of the form AXIS=N")
    return axis, positive(number)


def steps(text: str) -> int | dict[str, int]:
    """A number of steps, N, or of several axes: AXIS=N,AXIS=N."""
    return dict(size(part) for part in text.split(",")) if "=" in text else positive(text)


def seconds(text: str) -> float:
    """A number of seconds above zero."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not value > 0:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of seconds above 0")
    return value


def add(
    commands: Any, name: str, text: str, examples: str, under: str = ""
) -> argparse.ArgumentParser:
    """A command, or one `under` another, whose help ends with the examples that show it."""
    shown = [x for x in examples.splitlines() if f"graphnn {under} {name}".replace("  ", " ") in x]
    epilog = "\n".join(["examples:", *shown]) if shown else None
    plain = argparse.RawDescriptionHelpFormatter
    made = commands.add_parser(
        name, help=text, description=text, epilog=epilog, formatter_class=plain
    )
    return made  # type: ignore[no-any-return]
