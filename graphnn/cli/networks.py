"""The commands about a network: explain, source, draw, resources, report."""

from __future__ import annotations

import argparse
import pathlib
from typing import TYPE_CHECKING, Any

from graphnn.cli.arguments import UsageError, add, positive, size, steps
from graphnn.errors import PictureError
from graphnn.runtime.backends import BACKENDS, FLOAT32

if TYPE_CHECKING:
    from graphnn.runtime.model import Compiled

TARGETS = tuple(f"sm_{capability}" for capability in (75, 80, 86, 87, 89, 90, 100, 103, 120, 121))


def add_all(commands: Any, examples: str) -> None:
    """The grammar of these commands."""
    command = _add(commands, "explain", "explain how a network runs, and why", examples)
    what = command.add_mutually_exclusive_group()
    text = "also time each part on random inputs, next to the cost model's expectation"
    what.add_argument("--measure", action="store_true", help=text)
    text = "print the graph after a pass instead, such as hoist or 'loop h: extract'"
    what.add_argument("--after", metavar="PASS", help=text)
    _add_size(command)
    command.set_defaults(run=_explain)
    command = _add(commands, "source", "print the code generated for a network", examples)
    command.set_defaults(run=_source)
    _add_draw(commands, examples)
    _add_report(commands, examples)
    _add_resources(commands, examples)


def _add(commands: Any, name: str, text: str, examples: str) -> argparse.ArgumentParser:
    """Add a command that takes a network and a backend."""
    command = add(commands, name, text, examples)
    command.add_argument("what", metavar="FILE:NAME", help="a graph, module or model in a file")
    text = "backend of gn.compile (default: auto)"
    command.add_argument("--backend", choices=BACKENDS, help=text)
    return command


def _add_size(command: argparse.ArgumentParser) -> None:
    text = "length of an axis of the random inputs, or batch=N; may be repeated"
    command.add_argument("--size", action="append", type=size, metavar="AXIS=N", help=text)


def _add_report(commands: Any, examples: str) -> None:
    text = "write one HTML page: pictures, plan, kernels, timings, gradient flow"
    command = _add(commands, "report", text, examples)
    text = "an .html file; - prints the page"
    command.add_argument("-o", "--output", required=True, metavar="PATH", help=text)
    _add_size(command)
    command.add_argument("--rounds", type=positive, default=15, help="rounds of timing (15)")
    command.set_defaults(run=_report)


def _add_draw(commands: Any, examples: str) -> None:
    text = "draw a network: its graph, its unrolled graph, or its plan"
    command = _add(commands, "draw", text, examples)
    text = "an .svg, .png or .pdf file; - prints SVG"
    command.add_argument("-o", "--output", required=True, metavar="PATH", help=text)
    how = command.add_mutually_exclusive_group()
    text = "draw N steps side by side, or AXIS=N,AXIS=N"
    how.add_argument("--unroll", type=steps, metavar="N", help=text)
    text = "draw what runs before, in and after each loop"
    how.add_argument("--plan", action="store_true", help=text)
    text = "dots per inch of a PNG file (144)"
    command.add_argument("--dpi", type=positive, default=144, help=text)
    command.set_defaults(run=_draw)


def _add_resources(commands: Any, examples: str) -> None:
    text = "show registers, shared memory and spills of kernels; needs no GPU"
    command = add(commands, "resources", text, examples)
    text = "a graph, module or model in a file (default: the library's)"
    command.add_argument("what", metavar="FILE:NAME", nargs="?", help=text)
    text = "GPU architecture (sm_90); may be repeated"
    command.add_argument("--target", action="append", choices=TARGETS, help=text)
    text = "dtype of values (bf16)"
    command.add_argument("--dtype", default="bf16", choices=("bf16", "fp16", "fp32"), help=text)
    text = "how kernels multiply fp32 (tf32x3)"
    command.add_argument("--float32", default="tf32x3", choices=FLOAT32, help=text)
    command.add_argument("--json", action="store_true", help="print JSON instead of a table")
    command.set_defaults(run=_resources)


def _load(args: argparse.Namespace) -> Compiled:
    from graphnn.cli.load import load  # imports torch

    return load(args.what, args.backend)


def _explain(args: argparse.Namespace) -> None:
    model = _load(args)
    if args.after is not None:
        print(_graph_after(model, args.after))
    elif args.measure:
        from graphnn.tools.example_inputs import random_inputs

        print(model.explain(measure=random_inputs(model, dict(args.size or []))))
    else:
        print(model.explain())


def _graph_after(model: Compiled, name: str) -> str:
    """The graph after each run of a pass. Raises UsageError for a pass that does not run."""
    from graphnn.inspection.passes import graphs_after, names

    passes = model.passes()
    if found := graphs_after(passes, name):
        return found
    raise UsageError(
        f"no pass '{name}' runs for this network; these do: {', '.join(names(passes))}"
    )


def _source(args: argparse.Namespace) -> None:
    print(_load(args).source())


def _draw(args: argparse.Namespace) -> None:
    from graphnn.pictures import draw
    from graphnn.pictures.picture import format_of

    if args.output != "-":
        try:
            format_of(args.output)
        except PictureError as error:
            raise UsageError(f"{error.problem}: '{args.output}'; wanted {error.wanted}") from None
    picture = draw(_load(args), unroll=args.unroll, plan=args.plan)
    if args.output == "-":
        print(picture.svg())
        return
    try:
        picture.save(args.output, args.dpi)
    except OSError as error:
        raise UsageError(f"cannot write '{args.output}': {error.strerror}") from None
    print(f"{args.output}: {len(picture.scene.boxes)} boxes, {len(picture.scene.edges)} edges")


def _report(args: argparse.Namespace) -> None:
    from graphnn.tools.report import report

    path = pathlib.Path(args.output)
    if args.output != "-" and not path.absolute().parent.is_dir():
        raise UsageError(f"cannot write '{path}': there is no folder '{path.absolute().parent}'")
    made = report(_load(args), dict(args.size or []), rounds=args.rounds)
    if args.output == "-":
        print(made)
        return
    try:
        path.write_text(made)
    except OSError as error:
        raise UsageError(f"cannot write '{path}': {error.strerror}") from None
    print(f"{path}: {len(made.encode()) / 1024:.0f} KiB")


def _resources(args: argparse.Namespace) -> int:
    from graphnn.cli.load import load
    from graphnn.tools import resources

    models = {args.what.rpartition(":")[2]: load(args.what)} if args.what else None
    targets = args.target or ["sm_90"]
    return resources.show(models, args.dtype, targets, args.json, args.float32)
