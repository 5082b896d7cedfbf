"""Functions without a row, called: what they raise as an error of ours, and what none gives."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from graphnn.errors import FunctionError, GraphnnError
from graphnn.ir.graph import Node
from graphnn.ops.registry import OPS

Tensor = torch.Tensor


def opaque_run(node: Node) -> Callable[..., Any]:
    """What an opaque node calls, or the derivative of that."""
    keys = ("function", "arrange", "used", "wanted")
    attrs = {k: node.attrs[k] for k in keys if k in node.attrs}
    run = OPS[node.op].run
    assert run is not None
    return functools.partial(run, **attrs)


class Called:
    """The function of a node, of one example at one position."""

    def __init__(self, node: Node, run: Callable[..., Any]):
        self.node, self.run = node, run
        # torch.vmap knows no other attention of torch's than the written one
        self.attends = "attention" in node.attrs["called"]

    def __call__(self, *tensors: Tensor) -> Any:
        with sdpa_kernel(SDPBackend.MATH) if self.attends else contextlib.nullcontext():
            return self.run(*tensors)

    def all(self, run: Callable[[], Any]) -> list[Tensor]:
        """What `run` gives. Raises FunctionError, which names the user's line, where it fails."""
        try:
            return list(run())
        except (GraphnnError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> FunctionError:
        name = self.node.attrs["called"]
        derived = "the derivative of " if self.node.op == "vjp" else ""
        words = (str(error).strip() or type(error).__name__).splitlines()[0]
        return FunctionError(
            f"{derived}'{name}' failed: {words}",
            node=self.node.label,
            site=self.node.site,
            got=type(error).__name__,
            wanted="a function that torch.vmap can call with what it is given",
            fix="see what it is given by declaring that an output; functions that look at numbers, "
            "or that torch.vmap does not know, are for outside the graph",
        )


def none_of(one: Callable[..., Any], operands: Sequence[Any]) -> Callable[..., Any]:
    """What `one` gives for a batch of none, which vmap refuses: shapes as torch knows them."""

    def run(*rows: Tensor) -> Any:
        tensors = [v for v in operands if isinstance(v, Tensor) and v.is_floating_point()]
        tie = sum((v.sum() * 0 for v in tensors), torch.zeros((), device=rows[0].device))
        sample = one(*[torch.zeros_like(r.new_empty(r.shape[1:])) for r in rows])
        parts = sample if isinstance(sample, (list, tuple)) else [sample]
        made = [r.new_zeros(0, *r.shape) for r in parts]
        made = [r + tie.to(r.dtype) if r.is_floating_point() else r for r in made]
        return made if isinstance(sample, (list, tuple)) else made[0]

    return run
