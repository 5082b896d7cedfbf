"""Every network of the catalogue as compiled: for two GPUs, in two dtypes, with each strategy.

`COMPILED_RESULTS=FILE pytest -m ptx tests/compiled` writes a line of JSON per case: what it
launched, its faults, and its seconds of CPU time. `-m "ptx and sample"` runs one case per network
that is not slow.
"""

from __future__ import annotations

import json
import os
from itertools import cycle, product

import pytest
import torch

import graphnn as gn
from tests.compiled.catalogue import CATALOGUE, EVERY_LAUNCH, WITHOUT_KERNELS

TARGETS, DTYPES = ("sm_80", "sm_90"), ("bf16", "fp32")
STRATEGIES = {
    "chosen": (),
    "cooperative": ("resident",),
    "stepwise": ("resident", "cooperative"),
}


def cases():
    """Yield all cases. One per network that is not slow is sampled, each with the next kind."""
    turns = cycle(product(TARGETS, DTYPES, STRATEGIES))
    for name, entry in CATALOGUE.items():
        ways = list(STRATEGIES) if entry.loops else ["chosen"]
        turn = next(turns)
        sampled = turn if entry.loops else (*turn[:2], "chosen")
        for case in product(TARGETS, DTYPES, ways):
            sample = [pytest.mark.sample] if case == sampled and not entry.slow else []
            yield pytest.param(name, *case, id=", ".join([name, *case]), marks=sample)


def verified(name, target, dtype, strategy, **options):
    """Verify a network of the catalogue with fixed weights."""
    torch.manual_seed(0)
    entry, start = CATALOGUE[name], cpu_seconds()
    model = gn.compile(entry.build(), skip=STRATEGIES[strategy])
    sizes = dict(entry.sizes)
    found = gn.verify(model, target=target, dtype=dtype, sizes=sizes, **options)
    record([name, target, dtype, strategy, *options], found, cpu_seconds() - start)
    found.raise_for_faults()
    assert found.results and (found.launches or name in WITHOUT_KERNELS)


def cpu_seconds():
    """Seconds of CPU time of this process and its children, which assemble kernels."""
    return sum(os.times()[:4])


def record(case, found, seconds):
    """Append a case as a line of JSON to the file that an environment variable names."""
    if path := os.environ.get("COMPILED_RESULTS"):
        line = {
            "case": case,
            "seconds": round(seconds, 1),
            "launches": sum(row.runs for row in found.launches),
            "statements": sum(row.statements for row in found.launches),
            "kernels": sorted({row.kernel.split(",")[0] for row in found.launches}),
            "results": len(found.results),
            "faults": [str(fault) for fault in found.all_faults()],
        }
        with open(path, "a") as file:
            file.write(json.dumps(line) + "\n")


@pytest.mark.ptx
@pytest.mark.parametrize("name, target, dtype, strategy", list(cases()))
def test_compiled_kernels_are_right(name, target, dtype, strategy):
    verified(name, target, dtype, strategy)


@pytest.mark.ptx
@pytest.mark.parametrize("name", EVERY_LAUNCH)
@pytest.mark.parametrize("target, dtype", list(product(TARGETS, DTYPES)))
def test_every_launch_is_right(name, target, dtype):
    """All launches among which the autotuner chooses are right."""
    verified(name, target, dtype, "chosen", every_launch=True)
