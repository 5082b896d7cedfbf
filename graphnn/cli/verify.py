"""`graphnn verify`: check the compiled kernels of a network, or of the whole library."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from graphnn.cli.arguments import UsageError, add, positive
from graphnn.errors import GraphnnError

if TYPE_CHECKING:
    from graphnn.tools.verification.library import Case

TARGETS = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90")
DTYPES = ("bf16", "fp16", "fp32")


def add_all(commands: Any, examples: str) -> None:
    """The grammar of `graphnn verify`."""
    text = "run every compiled kernel, on a GPU or as PTX on the CPU, and check its results"
    command = add(commands, "verify", text, examples)
    text = "a graph, module or model in a file, or the name of a network of the library"
    which = command.add_mutually_exclusive_group(required=True)
    which.add_argument("what", metavar="FILE:NAME", nargs="?", help=text)
    text = "all networks of the library, each in a process of its own"
    which.add_argument("--library", action="store_true", help=text)
    text = "execute PTX for this GPU, although it is absent (default: the GPU at hand, or sm_90)"
    command.add_argument("--target", action="extend", nargs="+", choices=TARGETS, help=text)
    text = "dtype of parameters and inputs (default: that of the model; library: bf16)"
    command.add_argument("--dtype", action="extend", nargs="+", choices=DTYPES, help=text)
    command.add_argument("--batch", type=positive, metavar="N", help="examples per call (17)")
    text = "positions of every axis (3, 5, 7 …)"
    command.add_argument("--length", type=positive, metavar="N", help=text)
    text = "run every launch among which the autotuner chooses"
    command.add_argument("--every-launch", action="store_true", help=text)
    text = "write results to a file after each network; a run that was interrupted goes on from it"
    command.add_argument("--json", metavar="FILE", help=text)
    command.set_defaults(run=_verify)


def _verify(args: argparse.Namespace) -> int:
    from graphnn.tools.resources import LIBRARY

    if args.library or args.what in LIBRARY:
        return _library(args, list(LIBRARY) if args.library else [args.what])
    return _file(args)


def _file(args: argparse.Namespace) -> int:
    """Verify a network of the user, here: its faults are printed with all tables."""
    from graphnn.cli.load import load
    from graphnn.tools.verification.examples import given_sizes
    from graphnn.tools.verification.library import Saved
    from graphnn.tools.verification.verify import verify

    try:
        model = load(args.what)
        sizes = given_sizes(model, args.batch, args.length)
        saved, ok = _saved(Saved, args.json), True
        for target in args.target or [None]:
            for dtype in args.dtype or [None]:
                found = verify(
                    model, target=target, dtype=dtype, every_launch=args.every_launch, sizes=sizes
                )
                print(f"{found}\n")
                saved.add(f"{args.what}, {found.dtype}, {found.executor}", found.record())
                ok &= found.ok
    except GraphnnError as error:
        raise UsageError(str(error)) from None
    return int(not ok)


def _library(args: argparse.Namespace, networks: list[str]) -> int:
    """Verify networks of the library: a line for each, and the faults at the end."""
    import torch

    from graphnn.tools.verification import library

    default = [None] if torch.cuda.is_available() else ["sm_90"]
    sizes = {"batch": args.batch, "length": args.length}
    rest = {
        "every_launch": args.every_launch,
        "sizes": tuple((k, n) for k, n in sizes.items() if n),
    }
    wanted = library.cases(networks, args.target or default, args.dtype or ["bf16"], **rest)
    saved = _saved(library.Saved, args.json)
    done: list[Mapping[str, Any]] = []

    def told(case: Case, record: Mapping[str, Any]) -> None:
        done.append(record)
        print(f"[{len(done)}/{len(wanted)}] {case.key}: {library.line(record)}", flush=True)

    library.run(wanted, saved, told)
    for record in done:
        if len(done) == 1 or not record["ok"]:
            print(record.get("text") or f"{record['failure']}\n{record['printed']}")
    if any("failure" in x for x in done):
        return 2
    return int(not all(x["ok"] for x in done))


def _saved(kind: Any, path: str | None) -> Any:
    """A file of results. Raises UsageError if it cannot be read or written."""
    try:
        saved = kind(path)
        saved.write()
        return saved
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise UsageError(f"cannot use '{path}' for results: {error}") from None
