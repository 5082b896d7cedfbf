"""Checks the results of whole models: outputs, final states, gradients."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import nn

from graphnn.backends.random import by_counter
from graphnn.frontend.graph import Graph
from graphnn.runtime.model import Compiled, compile
from graphnn.tools.verification.errors import ROUNDING, rounded, tensor_errors
from graphnn.tools.verification.launches import ROUNDED
from graphnn.tools.verification.rows import Fault, ResultRow

Tensor = torch.Tensor
Results = dict[str, Tensor]


@dataclass(frozen=True)
class Call:
    """The arguments of a call. `title` names it in tables; `backward` computes gradients, too."""

    title: str
    inputs: Mapping[str, Tensor]
    lengths: Mapping[str, Tensor]
    backward: bool = True
    seed: int = 0

    def on(self, device: str | torch.device, dtype: torch.dtype) -> Call:
        """Return the same call on a device, with floating inputs of a dtype."""
        inputs = {k: _cast(x.detach().to(device), dtype) for k, x in self.inputs.items()}
        lengths = {k: torch.as_tensor(n).to(device) for k, n in self.lengths.items()}
        return replace(self, inputs=inputs, lengths=lengths)


def _cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.to(dtype) if x.is_floating_point() else x


def results(model: Compiled, call: Call) -> Results:
    """Return all results of a call by name, on the CPU.

    Gradients are those of a sum of all outputs and final states with fixed random factors. Noise
    is drawn as kernels draw it, so that every backend sees the same.
    """
    inputs = {k: x.clone().requires_grad_(_differs(x, call)) for k, x in call.inputs.items()}
    torch.manual_seed(call.seed)
    with torch.set_grad_enabled(call.backward), by_counter():
        outputs, finals = model(**inputs, lengths=call.lengths or None, return_state=True)
        outputs = outputs if isinstance(outputs, dict) else {"output": outputs}
        values = {**outputs, **{f"final {k}": v for k, v in finals.items()}}
        found = {k: v.detach().cpu() for k, v in values.items()}
        if call.backward:
            sources = {**inputs, **dict(model.named_parameters())}
            found |= _gradients(values, {k: v for k, v in sources.items() if v.requires_grad})
    return found


def _differs(x: Tensor, call: Call) -> bool:
    return call.backward and x.is_floating_point()


def _gradients(values: Results, sources: Results) -> Results:
    """Return the gradient of each source; it is zero if the values do not depend on it."""
    terms = [
        (v.double() * _factors(v, k)).sum()
        for k, v in enumerate(values.values())
        if v.is_floating_point() and v.requires_grad
    ]
    if not terms or not sources:
        return {}
    grads = torch.autograd.grad(torch.stack(terms).sum(), list(sources.values()), allow_unused=True)
    return {
        f"gradient of {k}": torch.zeros_like(x).cpu() if g is None else g.cpu()
        for (k, x), g in zip(sources.items(), grads)
    }


def _factors(like: Tensor, seed: int) -> Tensor:
    """Return fixed random numbers in the shape of a tensor, rounded to bfloat16 for any dtype."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(like.shape, generator=generator, dtype=torch.float64)
    return drawn.to(torch.bfloat16).to(like.device, torch.float64)


class Definition:
    """A network on the backends that results are compared with.

    `precision` is a key of `ROUNDING`: that of the dtype, or "tf32".
    """

    def __init__(self, source: nn.Module | Graph, dtype: torch.dtype, device: str, precision: str):
        self.source, self.dtype, self.device = source, dtype, device
        self.precision = precision

    def exact(self, call: Call) -> Results:
        """Return the results of backend "reference" in float64, for the rounded weights."""
        return results(self._reference(), call.on("cpu", torch.float64))

    def baseline(self, call: Call) -> Results:
        """Return the results of backend "torch" in the model's dtype."""
        model = compile(copy.deepcopy(self.source), "torch").to(self.device, self.dtype)
        return results(model, call.on(self.device, self.dtype))

    def exact_if_rounded(self, call: Call) -> list[Results]:
        """Return the exact results if weights and inputs differ by one rounding, for few draws."""
        found, generator = [], torch.Generator().manual_seed(0)
        unit = ROUNDING[self.precision]
        for _ in range(ROUNDED):
            model, near = self._reference(), call.on("cpu", torch.float64)
            with torch.no_grad():
                for p in model.parameters():
                    p.copy_(rounded(p, unit, generator))
            inputs = {k: rounded(x, unit, generator) for k, x in near.inputs.items()}
            found.append(results(model, replace(near, inputs=inputs)))
        return found

    def _reference(self) -> Compiled:
        model = compile(copy.deepcopy(self.source), "reference").to("cpu", self.dtype)
        return model.double()


def check_results(definition: Definition, call: Call, got: Results) -> list[ResultRow]:
    """Return a row for each result of a call."""
    exact, baseline = definition.exact(call), definition.baseline(call)
    names = [k for k in got if k in exact and k in baseline]
    if missing := exact.keys() ^ got.keys():
        raise AssertionError(f"the backends return different results: {sorted(missing)}")

    def rounded_inputs() -> list[list[Tensor]]:
        changed = definition.exact_if_rounded(call)
        return [[each[k] for k in names] for each in changed]

    ours, rough, right = ([each[k] for k in names] for each in (got, baseline, exact))
    errors = tensor_errors(names, ours, rough, right, definition.precision, rounded_inputs)
    faults = [[Fault(f"result{call.title}", e.fault, e.name)] if e.fault else [] for e in errors]
    return [ResultRow(call.title, e, f) for e, f in zip(errors, faults)]
