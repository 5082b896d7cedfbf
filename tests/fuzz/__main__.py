"""`python -m tests.fuzz --count N --backend B --seed S`: many random networks, and what they find.

The networks are those of the seeds S, S + 1 …, so that a run can be split and repeated. Of failures
that look alike the first is shrunk and printed, as a recipe to paste into a test.
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
parser.add_argument("--most", type=int, default=5, help="steps in a section, at most")
parser.add_argument("--attempts", type=int, default=500, help="of shrinking a failure")
parser.add_argument("--names", action="store_true", help="odd names, too")
options = parser.parse_args()
torch.set_num_threads(1)
warnings.simplefilter("ignore")
seeds = range(options.seed, options.seed + options.count)
say = functools.partial(print, flush=True)
found = run(seeds, options.backend, options.most, options.attempts, say, options.names)
for name, count in found.most_common():
    print(f"{count:6} {name}")
