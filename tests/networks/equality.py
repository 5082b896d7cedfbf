"""Comparison of backends: outputs, final states and gradients, for fixed random tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

import graphnn as gn


def numbers(like: Tensor, seed: int) -> Tensor:
    """Fixed random numbers in the shape of a tensor."""
    made = torch.Generator().manual_seed(seed)
    return torch.randn(like.shape, generator=made, dtype=torch.float64).to(like.device)


def results(
    model: nn.Module,
    inputs: dict[str, Tensor],
    lengths: dict[str, Tensor],
    state: dict[str, Tensor] | None = None,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """All results of a call, by name: outputs, final states, and all gradients."""
    outputs, finals = model(**inputs, lengths=lengths, state=state, return_state=True)
    outputs = outputs if isinstance(outputs, dict) else {"y": outputs}
    values = {**outputs, **{f"final {k}": v for k, v in finals.items()}}
    floats = [v for v in values.values() if v.is_floating_point()]
    loss = torch.stack([(v * numbers(v, k)).sum() for k, v in enumerate(floats)]).sum()
    sources = {**inputs, **(state or {}), **dict(model.named_parameters())}
    sources = {k: v for k, v in sources.items() if v.requires_grad}
    for name, source in sources.items():
        values[f"gradient of {name}"] = torch.zeros_like(source)
    if loss.requires_grad:
        grads = torch.autograd.grad(loss, list(sources.values()), allow_unused=True)
        for name, g in zip(sources, grads, strict=True):
            if g is not None:
                values[f"gradient of {name}"] = g
    return {k: v.detach() for k, v in values.items()}, finals


def given_state(finals: dict[str, Tensor]) -> dict[str, Tensor]:
    """Other values in the shape of final states, as the initial state of a call."""
    return {
        k: v if k.startswith("@") else (numbers(v, 5) * 0.5).requires_grad_()
        for k, v in finals.items()
    }


def assert_same(wanted: dict[str, Tensor], got: dict[str, Tensor], tolerance: float) -> None:
    """Names, shapes and dtypes are equal; values differ by at most tolerance × max(1, largest)."""
    assert wanted.keys() == got.keys()
    wrong = [t for n in wanted if (t := _difference(n, wanted[n], got[n], tolerance))]
    assert not wrong, "\n" + "\n".join(wrong)


def _difference(name: str, wanted: Tensor, got: Tensor, tolerance: float) -> str:
    if wanted.shape != got.shape or wanted.dtype != got.dtype:
        return f"{name}: {tuple(got.shape)} {got.dtype}, not {tuple(wanted.shape)} {wanted.dtype}"
    if not wanted.numel() or torch.equal(wanted, got):
        return ""
    scale = max(1.0, float(wanted.double().abs().max()))
    error = float((wanted.double() - got.double()).abs().max()) / scale
    return "" if error <= tolerance else f"{name}: off by {error:.3g}"


def compare(
    module: Callable[[], nn.Module] | nn.Module,
    inputs: dict[str, Tensor],
    lengths: dict[str, Tensor] | None = None,
    given: bool = False,
    skips: Sequence[Sequence[str]] = ((),),
    tolerance: float = 1e-12,
    backend: str = "torch",
) -> list[gn.Compiled]:
    """Compare a backend, with each set of skipped passes, with "reference"; returns its models."""
    net = module if isinstance(module, nn.Module) else module()
    reference = gn.compile(net, backend="reference")
    wanted, finals = results(reference, inputs, lengths or {})
    state = given_state(finals) if given else None
    resumed = results(reference, inputs, lengths or {}, state)[0] if given else {}
    models = [gn.compile(net, backend=backend, skip=skip) for skip in skips]
    for model in models:
        assert_same(wanted, results(model, inputs, lengths or {})[0], tolerance)
        if given:
            assert_same(resumed, results(model, inputs, lengths or {}, state)[0], tolerance)
    return models
