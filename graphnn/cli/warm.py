"""`graphnn warm`: compile and tune the kernels of a network before it is used."""

from __future__ import annotations

import argparse
from typing import Any

from graphnn.cli.arguments import UsageError, add, positive
from graphnn.cli.verify import DTYPES, TARGETS
from graphnn.errors import GraphnnError


def add_all(commands: Any, examples: str) -> None:
    """The grammar of `graphnn warm`."""
    text = "compile and tune the kernels of a network, so that its first call is fast"
    command = add(commands, "warm", text, examples)
    text = "a graph, module or model in a file"
    command.add_argument("what", metavar="FILE:NAME", help=text)
    text = "compile for this GPU, although it is absent; tune nothing (default: the GPU at hand)"
    command.add_argument("--target", choices=TARGETS, help=text)
    text = "dtype of parameters and inputs (default: that of the model)"
    command.add_argument("--dtype", choices=DTYPES, help=text)
    command.add_argument("--batch", type=positive, metavar="N", help="examples per call (17)")
    text = "positions of every axis (3, 5, 7 …)"
    command.add_argument("--length", type=positive, metavar="N", help=text)
    command.set_defaults(run=_warm)


def _warm(args: argparse.Namespace) -> int:
    from graphnn.cli.load import load
    from graphnn.tools.verification.examples import given_sizes
    from graphnn.tools.verification.verify import DTYPES as BY_NAME
    from graphnn.tools.verification.warm import warm

    try:
        model = load(args.what)
        sizes = given_sizes(model, args.batch, args.length)
        dtype = BY_NAME[args.dtype] if args.dtype else None
        found = warm(model, target=args.target, dtype=dtype, sizes=sizes)
    except GraphnnError as error:
        raise UsageError(str(error)) from None
    print(found)
    return int(bool(found.failed))
