"""The command line: see `graphnn --help`. Commands import what they need when they run."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from graphnn import __version__
from graphnn.cli import bench, machine, networks, verify, warm
from graphnn.cli.arguments import UsageError
from graphnn.errors import GraphnnError, TimingError

EXAMPLES = """examples:
  graphnn demo                                           train four small networks, time them
  graphnn explain cells.py:MyNet                         what runs before, in and after each loop
  graphnn explain cells.py:MyNet --measure --size time=100      the time of each part, too
  graphnn explain cells.py:MyNet --after hoist           the graph after a pass of the planner
  graphnn source cells.py:model                          its generated code, forward and backward
  graphnn source cells.py:MyNet --backend interpret      its Triton kernels, too
  graphnn draw cells.py:MyNet -o net.svg                 its graph, with loops
  graphnn draw cells.py:MyNet -o net.png --unroll 3      three steps side by side
  graphnn draw cells.py:MyNet -o net.svg --unroll source=3,target=3      encoder and decoder
  graphnn draw cells.py:MyNet -o - --plan > plan.svg     what each kernel computes
  graphnn report cells.py:MyNet -o report.html           pictures, plan, kernels, times on a page
  graphnn resources cells.py:MyNet --target sm_80        registers and spills of its kernels
  graphnn verify cells.py:MyNet                          run its compiled kernels and check them
  graphnn verify cells.py:MyNet --target sm_80 sm_90 --dtype bf16 fp32      for two GPUs
  graphnn verify "LSTM 160" --every-launch               every launch of a network of the library
  graphnn verify --library --json verified.json          all of the library: hours on a CPU
  graphnn warm cells.py:MyNet --batch 64 --length 100    compile and tune its kernels now
  graphnn warm cells.py:MyNet --target sm_90             compile them for a GPU that is absent
  graphnn doctor                                         versions, GPU, cache: what will be used
  graphnn calibrate                                      measure this machine for the cost model
  graphnn bench --quick                                  time networks against other libraries
  graphnn bench --gpu                                    more of them on a GPU: ten minutes
  graphnn bench --only LSTM --save a.json --plots .      one network, with results and plots
  graphnn bench compare a.json b.json --check            ratios, and which exceed the noise
  graphnn bench table a.json                             results as a Markdown table
  graphnn bench plot a.json plots                        time against size, and the roofline

NAME is a graph, a module, a compiled model, or a class or function that makes one without
arguments. The file is run as Python: name only files you trust.
Exit codes: 0 for success; 1 for an invalid graph, a problem found, or a slowdown (--check);
2 for bad input, and if a verification could not run.
"""
__all__ = ["UsageError", "main", "parser"]


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
    commands.add_parser(
        "demo", help="train four small networks and time them: two minutes"
    ).set_defaults(run=_demo)
    networks.add_all(commands, EXAMPLES)
    verify.add_all(commands, EXAMPLES)
    warm.add_all(commands, EXAMPLES)
    bench.add_all(commands, EXAMPLES)
    machine.add_all(commands, EXAMPLES)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command. Returns the exit code: 0, 1 for an invalid graph, 2 for bad input."""
    args = parser().parse_args(argv)
    try:
        return args.run(args) or 0
    except UsageError as error:
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
