"""The command line: `graphnn demo`, what a network becomes, and what it takes: `graphnn --help`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from graphnn import __version__
from graphnn.cli import bench, machine, networks
from graphnn.cli.load import Refused, load
from graphnn.errors import GraphnnError, TimingError

EXAMPLES = """examples:
  graphnn demo                        train four networks on C source, explain and time them
  graphnn explain cells.py:MyNet      what runs before, in and after each loop of MyNet()
  graphnn explain cells.py:MyNet --measure --size time=100    and what each part takes
  graphnn explain cells.py:MyNet --after hoist           the graph after that pass
  graphnn source cells.py:model       the code generated for it, forward and backward
  graphnn source cells.py:MyNet --backend interpret      its Triton kernels too
  graphnn draw cells.py:MyNet -o net.svg                 its graph, loops as loops
  graphnn draw cells.py:MyNet -o net.png --unroll 3      the same, three steps side by side
  graphnn draw cells.py:MyNet -o net.svg --unroll source=3,target=3      encoder and decoder
  graphnn draw cells.py:MyNet -o - --plan > plan.svg     what each kernel covers
  graphnn report cells.py:MyNet -o report.html           pictures, plan, kernels, times: one page
  graphnn resources cells.py:MyNet --target sm_80        what its kernels would take of a GPU
  graphnn doctor                      versions, GPU, cache: what will be used, and why
  graphnn calibrate                   measure this machine for the cost model
  graphnn bench --quick               LSTM, GRUs, a cell, attention, lookup beside their peers
  graphnn bench --gpu                 the same and more on a GPU: ten minutes, JSON and plots
  graphnn bench --only LSTM --save a.json --plots .      one network, with results and plots
  graphnn bench compare a.json b.json --check            ratios, and which exceed the noise
  graphnn bench table a.json          the lines of a README's table
  graphnn bench plot a.json plots     time against sizes and the roofline, as PNG

NAME is a graph, a module, a compiled model, or a class or function that makes one without
arguments. The file is run as Python: name only files you trust.
Exit codes: 0; 1 for a refused graph, a fault or a slowdown that was looked for; 2 for bad input.
"""
__all__ = ["Refused", "load", "main", "parser"]


def _demo(args: argparse.Namespace) -> None:
    from graphnn.examples import brackets

    brackets.demo()


def parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    top = argparse.ArgumentParser(
        prog="graphnn",
        description="Neural architectures as graphs with loops, planned and compiled.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"graphnn {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="command")
    commands.add_parser("demo", help="the main job, small: two minutes on two cores").set_defaults(
        run=_demo
    )
    networks.add_all(commands, EXAMPLES)
    bench.add_all(commands, EXAMPLES)
    machine.add_all(commands, EXAMPLES)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, 1 for a refused graph, 2 for bad input."""
    args = parser().parse_args(argv)
    try:
        return args.run(args) or 0
    except Refused as error:
        print(f"graphnn: {error}", file=sys.stderr)
        return 2
    except TimingError as error:
        parts = [error.problem, error.got, f"wanted {error.wanted}" if error.wanted else None]
        parts.append(error.fix)
        print(f"graphnn: {'; '.join(str(p) for p in parts if p)}", file=sys.stderr)
        return 2
    except GraphnnError as error:
        print(f"graphnn: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("graphnn: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
    return 0
