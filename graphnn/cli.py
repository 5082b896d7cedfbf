"""The command line: `graphnn demo`, and what a network becomes: `graphnn explain FILE:NAME` …"""

from __future__ import annotations

import argparse
import importlib.util
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from torch import nn

from graphnn.errors import GraphnnError, PictureError
from graphnn.graph import Graph
from graphnn.model import BACKENDS, Compiled, compile

TARGETS = ("sm_80", "sm_90", "sm_100")
EXAMPLES = """examples:
  graphnn demo                        train four networks on C source, explain and time them
  graphnn explain cells.py:MyNet      what runs before, in and after each loop of MyNet()
  graphnn source cells.py:model       the code generated for it, forward and backward
  graphnn source cells.py:MyNet --backend interpret      its Triton kernels too
  graphnn draw cells.py:MyNet -o net.svg                 its graph, loops as loops
  graphnn draw cells.py:MyNet -o net.png --unroll 3      the same, three steps side by side
  graphnn draw cells.py:MyNet -o - --plan > plan.svg     what each kernel covers
  graphnn resources cells.py:MyNet --target sm_80        what its kernels would take of a GPU

NAME is a graph, a module, a compiled model, or a class or function that makes one without
arguments. The file is run as Python: name only files you trust.
"""


class Refused(Exception):
    """Bad input on the command line: one line says what."""


def load(spec: str, backend: str | None = None) -> Compiled:
    """The compiled model that FILE:NAME means, for a backend (its own, or "auto")."""
    file, colon, name = spec.rpartition(":")
    path = pathlib.Path(file)
    if not colon or not name.isidentifier():
        raise Refused(f"'{spec}' is not of the form FILE:NAME")
    if not path.is_file():
        raise Refused(f"there is no file '{file}'")
    found = importlib.util.spec_from_file_location(path.stem, path)
    if found is None or found.loader is None:
        raise Refused(f"'{file}' is not a Python file")
    module = importlib.util.module_from_spec(found)
    sys.modules[path.stem] = module
    sys.path.insert(0, str(path.parent))
    found.loader.exec_module(module)
    if not hasattr(module, name):
        raise Refused(f"'{file}' has no '{name}'")
    return _compiled(getattr(module, name), name, backend)


def _compiled(thing: Any, name: str, backend: str | None) -> Compiled:
    if callable(thing) and not isinstance(thing, nn.Module):
        try:
            thing = thing()
        except TypeError as error:
            raise Refused(f"'{name}' cannot be made without arguments: {error}") from None
    if isinstance(thing, Compiled):
        return thing if backend is None else compile(thing._source, backend)
    if isinstance(thing, (nn.Module, Graph)):
        return compile(thing, backend or "auto")
    raise Refused(f"'{name}' is a {type(thing).__name__}, no graph, module or model")


def _demo(args: argparse.Namespace) -> None:
    from graphnn.examples import brackets

    brackets.demo()


def _explain(args: argparse.Namespace) -> None:
    print(load(args.what, args.backend).explain())


def _source(args: argparse.Namespace) -> None:
    print(load(args.what, args.backend).source())


def _draw(args: argparse.Namespace) -> None:
    from graphnn.pictures.picture import draw, suffix

    if args.output != "-":
        try:
            suffix(args.output)
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


def _positive(text: str) -> int:
    """A number of steps or dots, at least one."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of 1 or more")
    return int(text)


def _resources(args: argparse.Namespace) -> int:
    from graphnn import resources

    models = {args.what.rpartition(":")[2]: load(args.what)} if args.what else None
    return resources.show(models, args.dtype, args.target or ["sm_90"], args.json)


def parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    top = argparse.ArgumentParser(
        prog="graphnn",
        description="Neural architectures as graphs with loops, planned and compiled.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="command")
    commands.add_parser("demo", help="the main job, small: two minutes on two cores").set_defaults(
        run=_demo
    )
    for name, run, text in (
        ("explain", _explain, "say how a network is run, and why"),
        ("source", _source, "print the code generated for a network"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("what", metavar="FILE:NAME")
        command.add_argument("--backend", choices=BACKENDS, help="as gn.compile takes it")
        command.set_defaults(run=run)
    _add_draw(commands)
    command = commands.add_parser(
        "resources", help="registers, shared memory and spills of kernels, with no GPU needed"
    )
    command.add_argument("what", metavar="FILE:NAME", nargs="?", help="default: the library")
    command.add_argument("--target", action="append", choices=TARGETS, help="may be repeated")
    command.add_argument("--dtype", default="bf16", choices=("bf16", "fp16", "fp32"))
    command.add_argument("--json", action="store_true", help="rows as JSON instead of a table")
    command.set_defaults(run=_resources)
    return top


def _add_draw(commands: Any) -> None:
    text = "draw a network: its graph, unrolled, or its plan"
    plain = argparse.RawDescriptionHelpFormatter
    examples = "\n".join(["examples:", *(x for x in EXAMPLES.splitlines() if " draw " in x)])
    command = commands.add_parser("draw", help=text, epilog=examples, formatter_class=plain)
    command.add_argument("what", metavar="FILE:NAME", help="a graph, module or model in a file")
    command.add_argument(
        "-o", "--output", required=True, metavar="PATH", help=".svg, .png or .pdf; - prints SVG"
    )
    how = command.add_mutually_exclusive_group()
    how.add_argument("--unroll", type=_positive, metavar="N", help="N steps side by side")
    how.add_argument("--plan", action="store_true", help="before, in and after each loop")
    command.add_argument("--backend", choices=BACKENDS, help="whose plan, as gn.compile takes it")
    command.add_argument("--dpi", type=_positive, default=144, help="of PNG files (144)")
    command.set_defaults(run=_draw)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, 1 for a refused graph, 2 for bad input."""
    args = parser().parse_args(argv)
    try:
        return args.run(args) or 0
    except Refused as error:
        print(f"graphnn: {error}", file=sys.stderr)
        return 2
    except GraphnnError as error:
        print(f"graphnn: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        sys.stderr.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
