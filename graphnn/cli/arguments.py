"""The grammar that commands share: types of arguments, help with examples, and bad usage.

It imports nothing heavy, so that `graphnn --help` does not import torch.
"""

from __future__ import annotations

import argparse
from typing import Any


class UsageError(Exception):
    """Bad input on the command line, with a message of one line."""


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
    """Add a command, or one `under` another, whose help ends with the examples that use it."""
    shown = [x for x in examples.splitlines() if f"graphnn {under} {name}".replace("  ", " ") in x]
    epilog = "\n".join(["examples:", *shown]) if shown else None
    layout = argparse.RawDescriptionHelpFormatter
    command = commands.add_parser(
        name, help=text, description=text, epilog=epilog, formatter_class=layout
    )
    return command  # type: ignore[no-any-return]
