"""Gradient flow: the norm of a loss's gradient at each state and each step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from graphnn.ir.graph import BATCH
from graphnn.runtime.call import read
from graphnn.runtime.model import Compiled, network_of

Tensor = torch.Tensor


def gradient_flow(
    model: Compiled,
    loss: Callable[[Any], Tensor],
    inputs: Mapping[str, Tensor],
    lengths: Mapping[str, Any] | None = None,
    states: bool | Sequence[str] = True,
) -> dict[str, Tensor]:
    """Norms ‖∂L/∂z(t)‖ over the batch, for each state z and each position t of its axis.

    `loss` maps the outputs of the model to a scalar L. The gradient at t is the total derivative:
    it includes the effect of z(t) on later positions through the loop. Vanishing and exploding
    gradients show as a slope (Pascanu, Mikolov and Bengio 2013, eq. 3). `states` names the states,
    by default all. Returns (positions,) float64 tensors by state name; for states of inner loops
    the norm is taken over the outer positions too. Raises StateError for an unknown state,
    CallError if an input does not fit.

        flow = gn.gradient_flow(model, lambda y: y[:, -1].square().sum(), {"x": x})
        flow["h"]                                         # (positions,) float64
    """
    ir, network = model.ir, network_of(model)
    names = read.states(ir, states)
    call = read.read(ir, inputs, lengths, None, network.device)
    delays = {n.attrs["key"]: n for n in ir if n.op == "delay" and n.attrs["key"] in names}
    probes = {}
    # states closed by the same value have the same gradient, which is computed once
    first: dict[int, str] = {}
    for name, node in delays.items():
        if node.dtype.is_floating_point and first.setdefault(ir.closings[node.id], name) == name:
            axes = [a for a in ir.layout(node.axes) if a != BATCH]
            shape = (call.sizes[BATCH], *(call.sizes[a] for a in axes), *node.shape)
            probe = torch.zeros(shape, dtype=node.dtype, device=call.device, requires_grad=True)
            probes[name] = (probe, 1 + axes.index(node.attrs["axis"]))
            call.inputs[f"state probe {name}"] = probe
    with torch.enable_grad():
        outputs, _, _ = network.run(call, probed=frozenset(probes))
        value = loss(next(iter(outputs.values())) if len(outputs) == 1 else outputs)
        grads = torch.autograd.grad(value, [p for p, _ in probes.values()], allow_unused=True)
    norms = {
        name: _norms(probe if g is None else g, dim, g is None)
        for (name, (probe, dim)), g in zip(probes.items(), grads, strict=True)
    }
    shared = {
        name: first[ir.closings[n.id]] for name, n in delays.items() if ir.closings[n.id] in first
    }
    return {name: norms[source] for name, source in shared.items()}


def _norms(g: Tensor, dim: int, absent: bool) -> Tensor:
    rows = g.detach().movedim(dim, 0).flatten(1)
    # in float64: float32 squares underflow below 1e-22, float32 gradients below 1e-38
    wide = torch.promote_types(rows.dtype, torch.float64)
    norms = torch.linalg.vector_norm(rows, dim=1, dtype=wide)
    return torch.zeros_like(norms) if absent else norms
