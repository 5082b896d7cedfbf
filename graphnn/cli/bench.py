"""`graphnn bench`: time networks; compare, tabulate and plot the results."""

from __future__ import annotations

import argparse
import json
import pathlib
from typing import Any

from graphnn.cli.arguments import UsageError, add, positive, seconds
from graphnn.errors import GraphnnError, PictureError

BACKENDS = ("auto", "torch", "triton", "interpret")
SUITES = ("tiny", "quick", "cpu", "gpu", "every")
VIEWS = ("compare", "table", "plot")


def add_all(commands: Any, examples: str) -> None:
    """The grammar of `graphnn bench`."""
    text = "time graphnn against other implementations; compare, tabulate and plot results"
    top = add(commands, "bench", text, examples)
    which = top.add_mutually_exclusive_group()
    which.add_argument("--suite", choices=SUITES, help="which cases (default: quick)")
    which.add_argument("--quick", action="store_true", help="only the main cases: two minutes")
    which.add_argument(
        "--gpu", action="store_true", help="all cases on a GPU, with files and plots: ten minutes"
    )
    top.add_argument(
        "--only", action="append", metavar="NETWORK", help="only this network; may be repeated"
    )
    top.add_argument(
        "--backend", choices=BACKENDS, default=None, help="backend of graphnn (default: auto)"
    )
    top.add_argument("--save", metavar="FILE.json", help="write results to a file after each case")
    top.add_argument("--plots", metavar="FOLDER", help="write PNG plots to a folder")
    top.add_argument("--json", action="store_true", help="print JSON instead of a table")
    top.add_argument("--rounds", type=positive, help="most rounds per sweep")
    top.add_argument(
        "--budget", type=seconds, metavar="S", help="start no case after this many seconds"
    )
    top.add_argument(
        "--patience", type=seconds, metavar="S", help="most seconds for a contender to compile"
    )
    top.add_argument("--threads", type=positive, help="threads of torch on a CPU")
    top.set_defaults(run=_bench)
    views = top.add_subparsers(dest="view", metavar=f"{{{','.join(VIEWS)}}}")
    _add_views(views, examples)


def _add_views(views: Any, examples: str) -> None:
    two = add(
        views,
        "compare",
        "compare two files of results and mark differences beyond the noise",
        examples,
        "bench",
    )
    two.add_argument("first", metavar="A.json")
    two.add_argument("second", metavar="B.json")
    two.add_argument("--json", action="store_true", help="print JSON instead of a table")
    two.add_argument("--check", action="store_true", help="exit with 1 if graphnn became slower")
    two.set_defaults(run=_compare)
    one = add(views, "table", "print results as a Markdown table", examples, "bench")
    one.add_argument("file", metavar="FILE.json")
    one.add_argument(
        "--full", action="store_true", help="print the full table of the bench instead"
    )
    one.set_defaults(run=_table)
    plot = add(views, "plot", "plot time against size, and the roofline, as PNG", examples, "bench")
    plot.add_argument("file", metavar="FILE.json")
    plot.add_argument("folder", metavar="FOLDER")
    plot.set_defaults(run=_plot)


def _bench(args: argparse.Namespace) -> None:
    import torch

    from graphnn.bench.suite import run_suite, select

    if args.threads:
        torch.set_num_threads(args.threads)
    name = "gpu" if args.gpu else args.suite or "quick"
    suite = select(name, args.only or ())
    save, plots = args.save, args.plots
    if args.gpu:  # one command that writes everything
        save, plots = save or "graphnn-gpu.json", plots or "."
    if plots is not None and not pathlib.Path(plots).is_dir():
        raise UsageError(f"there is no folder '{plots}'")
    backend = args.backend or ("triton" if args.gpu else "auto")
    how = {"rounds": args.rounds, "budget": args.budget, "patience": args.patience}
    found = run_suite(suite, backend, save, **how)
    _print(found, args.json)
    if plots is not None:
        _save_plots(found, plots, pathlib.Path(save).stem if save else f"graphnn-{name}", args.json)


def _print(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(found, indent=1))
        return
    from graphnn.timing.table import show

    show(found)


def _save_plots(found: dict[str, Any], folder: str, stem: str, quiet: bool = False) -> None:
    from graphnn.bench.plots import save_all

    try:
        written = save_all(found, folder, stem)
    except OSError as error:
        raise UsageError(f"cannot write into '{folder}': {error.strerror}") from None
    except PictureError as error:
        raise UsageError(str(error).splitlines()[0]) from None
    if not quiet:
        for path in written:
            print(path)


def _compare(args: argparse.Namespace) -> int:
    from graphnn.bench import versus
    from graphnn.timing.results import load

    first, second = _read(load, args.first), _read(load, args.second)
    found = versus.versus(first, second)
    if not found.changes:
        raise UsageError(f"'{args.first}' and '{args.second}' have no case in common")
    if args.json:
        print(json.dumps(found.record(), indent=1))
    else:
        versus.show(found, first, second)
    return int(args.check and bool(found.slower))


def _table(args: argparse.Namespace) -> None:
    from graphnn.timing import table
    from graphnn.timing.results import load

    found = _read(load, args.file)
    if args.full:
        table.show(found)
    else:
        print(table.markdown(found))


def _plot(args: argparse.Namespace) -> None:
    from graphnn.timing.results import load

    if not pathlib.Path(args.folder).is_dir():
        raise UsageError(f"there is no folder '{args.folder}'")
    _save_plots(_read(load, args.file), args.folder, pathlib.Path(args.file).stem)


def _read(load: Any, path: str) -> Any:
    """The results in a file. Raises UsageError, in one line, if it has none."""
    try:
        return load(path)
    except GraphnnError as error:
        raise UsageError(f"{error.problem}: {error.got}") from None
