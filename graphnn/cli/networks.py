"""The commands that look at a network: explain, source, draw, resources, report."""

from __future__ import annotations

import argparse
import pathlib
from typing import Any

from graphnn.cli.load import Refused, add, load, positive, size, steps
from graphnn.errors import PictureError
from graphnn.planner.pipeline import PASSES
from graphnn.runtime.call.options import BACKENDS
from graphnn.runtime.model import Compiled

TARGETS = ("sm_80", "sm_90", "sm_100")
FLOAT32 = ("ieee", "tf32x3", "tf32")


def add_all(commands: Any, examples: str) -> None:
    """The grammar of these commands."""
    for name, run, text in (
        ("explain", _explain, "say how a network is run, and why"),
        ("source", _source, "print the code generated for a network"),
    ):
        command = add(commands, name, text, examples)
        command.add_argument("what", metavar="FILE:NAME")
        command.add_argument("--backend", choices=BACKENDS, help="as gn.compile takes it")
        command.set_defaults(run=run)
        if name == "explain":
            text = "time each part on made-up inputs, beside what the cost model expects"
            command.add_argument("--measure", action="store_true", help=text)
            text = "print the graph after a pass instead, such as hoist or 'loop h: extract'"
            command.add_argument("--after", metavar="PASS", help=text)
            _add_size(command)
    _add_draw(commands, examples)
    _add_report(commands, examples)
    text = "registers, shared memory and spills of kernels, with no GPU needed"
    command = add(commands, "resources", text, examples)
    command.add_argument("what", metavar="FILE:NAME", nargs="?", help="default: the library")
    command.add_argument("--target", action="append", choices=TARGETS, help="may be repeated")
    command.add_argument("--dtype", default="bf16", choices=("bf16", "fp16", "fp32"))
    text = "how fp32 is multiplied (tf32x3)"
    command.add_argument("--float32", default="tf32x3", choices=FLOAT32, help=text)
    command.add_argument("--json", action="store_true", help="rows as JSON instead of a table")
    command.set_defaults(run=_resources)


def _add_size(command: argparse.ArgumentParser) -> None:
    text = "length of an axis of the made-up inputs, or batch=N; may be repeated"
    command.add_argument("--size", action="append", type=size, metavar="AXIS=N", help=text)


def _add_report(commands: Any, examples: str) -> None:
    text = "one page of a network: pictures, plan, kernels, timings, gradient flow"
    command = add(commands, "report", text, examples)
    command.add_argument("what", metavar="FILE:NAME", help="a graph, module or model in a file")
    command.add_argument("-o", "--output", required=True, metavar="PATH", help=".html; - prints it")
    _add_size(command)
    command.add_argument("--backend", choices=BACKENDS, help="as gn.compile takes it")
    command.add_argument("--rounds", type=positive, default=15, help="of timing (15)")
    command.set_defaults(run=_report)


def _add_draw(commands: Any, examples: str) -> None:
    command = add(commands, "draw", "draw a network: its graph, unrolled, or its plan", examples)
    command.add_argument("what", metavar="FILE:NAME", help="a graph, module or model in a file")
    command.add_argument(
        "-o", "--output", required=True, metavar="PATH", help=".svg, .png or .pdf; - prints SVG"
    )
    how = command.add_mutually_exclusive_group()
    text = "N steps side by side, or AXIS=N,AXIS=N"
    how.add_argument("--unroll", type=steps, metavar="N", help=text)
    how.add_argument("--plan", action="store_true", help="before, in and after each loop")
    command.add_argument("--backend", choices=BACKENDS, help="whose plan, as gn.compile takes it")
    command.add_argument("--dpi", type=positive, default=144, help="of PNG files (144)")
    command.set_defaults(run=_draw)


def _explain(args: argparse.Namespace) -> None:
    model = load(args.what, args.backend)
    if args.after is not None:
        print(_after(model, args.after))
        return
    if not args.measure:
        print(model.explain())
        return
    from graphnn.tools.example_inputs import made_up

    print(model.explain(measure=made_up(model, dict(args.size or []))))


def _after(model: Compiled, wanted: str) -> str:
    """The graph after each pass of this name, or with this word of `skip`. Raises Refused."""
    found = model.passes()
    named = {p.skip: p.name for p in PASSES}.get(wanted, wanted)
    shown = [(name, ir) for name, ir in found if named in (name, name.rpartition(": ")[2])]
    if not shown:
        names = ", ".join(dict.fromkeys(name for name, _ in found))
        raise Refused(f"no pass '{wanted}' runs for this network; these do: {names}")
    return "\n\n".join(f"after {name}: {ir}" for name, ir in shown)


def _source(args: argparse.Namespace) -> None:
    print(load(args.what, args.backend).source())


def _draw(args: argparse.Namespace) -> None:
    from graphnn.pictures import draw
    from graphnn.pictures.picture import format_of

    if args.output != "-":
        try:
            format_of(args.output)
        except PictureError as error:
            raise Refused(f"{error.problem}: '{args.output}'; wanted {error.wanted}") from None
    picture = draw(load(args.what, args.backend), unroll=args.unroll, plan=args.plan)
    if args.output == "-":
        print(picture.svg())
        return
    try:
        picture.save(args.output, args.dpi)
    except OSError as error:
        raise Refused(f"cannot write '{args.output}': {error.strerror}") from None
    print(f"{args.output}: {len(picture.scene.boxes)} boxes, {len(picture.scene.edges)} edges")


def _report(args: argparse.Namespace) -> None:
    from graphnn.tools.report import report

    path = pathlib.Path(args.output)
    if args.output != "-" and not path.absolute().parent.is_dir():
        raise Refused(f"cannot write '{path}': there is no folder '{path.absolute().parent}'")
    made = report(load(args.what, args.backend), dict(args.size or []), rounds=args.rounds)
    if args.output == "-":
        print(made)
        return
    try:
        path.write_text(made)
    except OSError as error:
        raise Refused(f"cannot write '{path}': {error.strerror}") from None
    print(f"{path}: {len(made.encode()) / 1024:.0f} KiB")


def _resources(args: argparse.Namespace) -> int:
    from graphnn.tools import resources

    models = {args.what.rpartition(":")[2]: load(args.what)} if args.what else None
    targets = args.target or ["sm_90"]
    return resources.show(models, args.dtype, targets, args.json, args.float32)
