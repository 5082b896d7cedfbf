"""`python -m tests.fuzz --count N --backend B --seed S`: check many random networks.

The networks have the seeds S, S + 1 …, so that a run can be split and repeated. Of each kind of
failure, the first is shrunk and printed as a recipe for a test.
"""

from __future__ import annotations

import argparse
import functools
import warnings

import torch

from tests.fuzz.run import run

parser = argparse.ArgumentParser("tests.fuzz", description=__doc__)
parser.add_argument("--count", type=int, default=100)
parser.add_argument("--backend", default="torch")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--most", type=int, default=5, help="maximum number of steps in a section")
parser.add_argument(
    "--attempts", type=int, default=500, help="maximum number of attempts to shrink a failure"
)
parser.add_argument("--names", action="store_true", help="use unusual names")
options = parser.parse_args()
torch.set_num_threads(1)
warnings.simplefilter("ignore")
seeds = range(options.seed, options.seed + options.count)
say = functools.partial(print, flush=True)
found = run(seeds, options.backend, options.most, options.attempts, say, options.names)
for name, count in found.most_common():
    print(f"{count:6} {name}")
