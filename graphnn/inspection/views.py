"""What a compiled model tells of itself: its code, its picture, where its time goes, and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from graphnn.inspection import explain
from graphnn.pictures import draw
from graphnn.planner.loops.choose import Target
from graphnn.planner.pipeline import Variant


class Telling(nn.Module):
    """`source`, `draw`, `profile` and `explain`, for a class that plans and writes programs."""

    backend: str
    _here: Any
    _kernels: Any
    _planned: Any
    _program: Any

    def source(self) -> str:
        """The code generated for a call without lengths."""
        return self._program(Variant(target=self._here())).sources()

    def draw(self, path: Any = None, unroll: Any = None, plan: bool = False) -> Any:
        """A picture of the network: see `graphnn.pictures.draw`. Saved where `path` is given."""
        return draw(self, path, unroll, plan)

    def profile(self, *, lengths: Any = None, backward: Any = None, **inputs: Tensor) -> Any:
        """Where the time of a call on these inputs goes: see `graphnn.inspection.profile`."""
        from graphnn.inspection.profile import profile

        model: Any = self
        return profile(model, inputs, lengths, backward)

    def explain(self, measure: Mapping[str, Tensor] | None = None, **variant: Any) -> str:
        """What runs before, in and after each loop, how, and why.

        `lengths=("time",)` explains a call that gives lengths for these axes, `device="cuda"` one
        there, whether or not there is a GPU; `measure` are inputs to time it on: what was measured
        then stands beside what the cost model expected.
        """
        if measure is not None:
            from graphnn.inspection.profile import profile

            model: Any = self
            measured = f"measured, beside what the cost model expects:\n{profile(model, measure)}"
            return f"{self.explain(**variant)}\n{measured}"
        ragged = frozenset(variant.pop("lengths", ()))
        device = variant.pop("device", None)
        here = self._here() if device is None else Target(device)
        wanted = Variant(ragged, **{"target": here, **variant})
        planned = self._planned(wanted)
        program = None if self.backend == "reference" else self._program(wanted)
        backend = self.backend
        if backend == "auto":
            backend = "triton" if self._kernels(wanted.target) else "torch"
        return explain.explain(planned, program, backend)
