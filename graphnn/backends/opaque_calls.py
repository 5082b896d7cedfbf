"""Calls of functions without a row in the operation table: their errors, and empty batches."""

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
    """The function that an opaque node calls, or its derivative."""
    keys = ("function", "arrange", "used", "wanted")
    attrs = {k: node.attrs[k] for k in keys if k in node.attrs}
    run = OPS[node.op].run
    assert run is not None
    return functools.partial(run, **attrs)


class OpaqueCall:
    """The function of a node, for one example at one position."""

    def __init__(self, node: Node, run: Callable[..., Any]):
        self.node, self.run = node, run
        # torch.vmap supports only the math implementation of torch's attention
        self.attends = "attention" in node.attrs["called"]

    def __call__(self, *tensors: Tensor) -> Any:
        with sdpa_kernel(SDPBackend.MATH) if self.attends else contextlib.nullcontext():
            return self.run(*tensors)

    def all(self, run: Callable[[], Any]) -> list[Tensor]:
        """The results of `run`. Raises FunctionError, which names the user's line, if it fails."""
        try:
            return list(run())
        except (GraphnnError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> FunctionError:
        name = self.node.attrs["called"]
        derived = "the derivative of " if self.node.op == "vjp" else ""
        message = (str(error).strip() or type(error).__name__).splitlines()[0]
        return FunctionError(
            f"{derived}'{name}' failed: {message}",
            node=self.node.label,
            site=self.node.site,
            got=type(error).__name__,
            wanted="a function that torch.vmap can call with these arguments",
            fix="declare its arguments as outputs to see them; functions that branch on values, or "
            "that torch.vmap does not support, belong outside the graph",
        )


def empty_batch(one: Callable[..., Any], operands: Sequence[Any]) -> Callable[..., Any]:
    """The results of `one` for an empty batch, which vmap rejects: shapes from a sample."""

    def run(*rows: Tensor) -> Any:
        tensors = [v for v in operands if isinstance(v, Tensor) and v.is_floating_point()]
        tie = sum((v.sum() * 0 for v in tensors), torch.zeros((), device=rows[0].device))
        sample = one(*[torch.zeros_like(r.new_empty(r.shape[1:])) for r in rows])
        parts = sample if isinstance(sample, (list, tuple)) else [sample]
        made = [r.new_zeros(0, *r.shape) for r in parts]
        made = [r + tie.to(r.dtype) if r.is_floating_point() else r for r in made]
        return made if isinstance(sample, (list, tuple)) else made[0]

    return run
