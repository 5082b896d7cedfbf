"""Where kernels run, as a parameter: interpreted on the CPU, or, marked `gpu`, compiled for a GPU.

No GPU has run these suites yet: `pytest -m gpu` collects them, with backend "triton".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch

import graphnn as gn
from graphnn.backends.triton.loops.report import LoopStrategy
from graphnn.backends.triton.strategy import KernelLowering


@dataclass(frozen=True)
class Place:
    """A backend and the device of its tensors."""

    backend: str
    device: str

    def skip(self, strategy: str) -> tuple[str, ...]:
        """The passes to skip so that loops run in a strategy wherever they can.

        Interpreted, whether a kernel fits a GPU is not asked; on a GPU it has to be.
        """
        others = ORDER[: ORDER.index(strategy)]
        return (*others, *(("fit",) if self.backend == "interpret" else ()))

    def carries(self, strategy: str, dtype: torch.dtype) -> str:
        """The strategy that becomes of the wanted one: no GPU has float64 products of tiles."""
        return "stepwise" if self.device == "cuda" and dtype == torch.float64 else strategy


INTERPRET = Place("interpret", "cpu")
GPU = Place("triton", "cuda")
# in the order in which they are tried
ORDER = ("resident", "cooperative", "stepwise")
STRATEGIES = ("resident", "stepwise")
everywhere = pytest.mark.parametrize(
    "place", [pytest.param(INTERPRET, id="cpu"), pytest.param(GPU, id="gpu", marks=pytest.mark.gpu)]
)
both = pytest.mark.parametrize("strategy", STRATEGIES)


def lowerings(model: gn.Compiled) -> Iterator[KernelLowering]:
    """What made kernels of each loop of the programs that a model has run."""
    for program in model.programs:
        for loop in program.loops:
            yield loop.lowering


def choices(model: gn.Compiled) -> list[LoopStrategy]:
    """How each loop is run, forward and backward, and why."""
    found = {id(w): w for w in lowerings(model)}
    return [choice for w in found.values() for choice in w.choices.values()]


def strategies(model: gn.Compiled) -> set[str]:
    """The strategies of a model's loops."""
    return {choice.strategy for choice in choices(model)}
