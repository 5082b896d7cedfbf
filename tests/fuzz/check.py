"""Compare a program on a backend with the judge: outputs, final states, gradients."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

import graphnn as gn
from graphnn.errors import GraphnnError
from tests.fuzz.judge import judged
from tests.fuzz.program import ODD, SLOTS, Net
from tests.fuzz.recipe import Recipe
from tests.networks.equality import assert_same, numbers

Tensors = dict[str, Tensor]
# parts of the messages of errors that are right
REFUSED = (
    "cannot be changed in place here",
    "returns results of several dtypes",
    "wanted: operands of one dtype, as torch wants them",
    "for each example as torch does for one",
    "a function that torch.vmap can call",
    "delays of one sign in a loop",
)


class Unjudged(Exception):
    """A program that torch does not run, or whose results are not finite."""


def given(recipe: Recipe, net: Net) -> tuple[Tensors, Tensors, dict[str, int]]:
    """The inputs and lengths of a call, and the sizes of axes; the same for the same recipe."""
    seed = torch.Generator().manual_seed(7)
    names = ODD[recipe.names]
    sizes = {names.get(a, a): n for a, n in zip(("time", "source"), recipe.sizes)}
    inputs: Tensors = {}
    for k, (kind, shape, over) in enumerate(recipe.inputs):
        wide = [recipe.batch, *(sizes[names.get(a, a)] for a in over), *shape]
        x = torch.randn(wide, generator=seed, dtype=torch.float64)
        made = {"int": (x * 2).long().abs(), "bool": x > 0}.get(kind)
        inputs[f"{net.called('x')}{k}"] = (
            (x * 0.7).to(net.dtype).requires_grad_() if made is None else made
        )
    brought = [names.get(a, a) for a in recipe.ragged if names.get(a, a) in net.axes]
    lengths = {a: torch.randint(0, sizes[a] + 1, (recipe.batch,), generator=seed) for a in brought}
    return inputs, lengths, {**sizes, "slot": SLOTS}


def all_results(outputs: Tensors, finals: Tensors, leaves: Tensors) -> Tensors:
    """All results of a call by name, and all gradients; zeros if there is none."""
    values = {**outputs, **{f"final {k}": v for k, v in finals.items() if not k.startswith("@")}}
    moving = [(k, v) for k, v in values.items() if v.requires_grad]
    for name, leaf in leaves.items():
        values[f"gradient of {name}"] = torch.zeros_like(leaf)
    if moving and leaves:
        weights = {k: numbers(v, len(k) + ord(k[-1])).to(v.dtype) for k, v in moving}
        grads = torch.autograd.grad(
            [v for _, v in moving],
            list(leaves.values()),
            [weights[k] for k, _ in moving],
            allow_unused=True,
        )
        values |= {f"gradient of {k}": g for k, g in zip(leaves, grads) if g is not None}
    return {k: v.detach() for k, v in values.items()}


def called(model: Any, inputs: Tensors, lengths: Tensors, state: Tensors | None) -> Any:
    outputs, finals = model(**inputs, lengths=lengths, state=state, return_state=True)
    return outputs if isinstance(outputs, dict) else {"": outputs}, finals


def leaves_of(net: Net, inputs: Tensors, state: Tensors) -> Tensors:
    everything = {**inputs, **state, **dict(net.named_parameters())}
    return {k: v for k, v in everything.items() if v.requires_grad}


def wanted(net: Net, call: Any, state: Tensors, finals: list[str]) -> Tensors:
    """The results of a call by the judge."""
    inputs, lengths, sizes = call
    try:
        found = judged(net, inputs, sizes, lengths, state, finals)
        values = all_results(*found, leaves_of(net, inputs, state))
    except (RuntimeError, IndexError, ZeroDivisionError) as error:
        raise Unjudged(f"{type(error).__name__}: {error}") from error
    if not all(v.isfinite().all() for v in values.values()):
        raise Unjudged("not a number, or infinite")
    return values


def got(model: Any, net: Net, call: Any, state: Tensors | None) -> tuple[Tensors, Tensors]:
    inputs, lengths, _ = call
    outputs, finals = called(model, inputs, lengths, state)
    if "" in outputs:
        outputs = {f"{net.called('y')}0": outputs[""]}
    return all_results(outputs, finals, leaves_of(net, inputs, state or {})), finals


def other_state(finals: Tensors) -> Tensors:
    """Other values in the shape of final states, as the initial state of a call."""
    found = {}
    for k, v in finals.items():
        other = numbers(v, 5) * 0.5
        found[k] = other.to(v.dtype).requires_grad_() if v.is_floating_point() else v
    return found


def check(recipe: Recipe, backend: str = "torch") -> str:
    """Raise AssertionError if a backend differs from torch; returns the outcome."""
    net = Net(recipe)
    call = given(recipe, net)
    net.train(False)
    wanted(net, call, {}, [])
    try:
        model = gn.compile(net, backend=backend)
        return _compared(recipe, net, model, call)
    except GraphnnError as error:
        if not any(part in str(error) for part in REFUSED):
            raise
        return f"refused: {str(error).splitlines()[0]}"


def _compared(recipe: Recipe, net: Net, model: Any, call: Any) -> str:
    same = _equal if recipe.dtype == "float64" else _close_enough
    values, finals = got(model, net, call, None)
    same(net, call, {}, values, list(finals))
    if recipe.given:
        state = other_state(finals)
        values, _ = got(model, net, call, state)
        same(net, call, state, values, list(finals))
    if recipe.noise and recipe.dtype == "float64":
        net.train()
        _check_slope(net, model, call)
    return "equal"


def _equal(net: Net, call: Any, state: Tensors, values: Tensors, finals: list[str]) -> None:
    assert_same(wanted(net, call, state, finals), values, 1e-4 if net.narrow else 1e-9)


def _close_enough(net: Net, call: Any, state: Tensors, values: Tensors, finals: list[str]) -> None:
    """In a narrow dtype, the error is at most twice that of torch."""
    eager = wanted(net, call, state, finals)
    wide = copy.deepcopy(net).double()
    wide.dtype = torch.float64
    inputs, lengths, sizes = call
    exact = wanted(wide, (_as_double(inputs), lengths, sizes), _as_double(state), finals)
    wrong = []
    for name, want in exact.items():
        if (values[name].shape, values[name].dtype) != (eager[name].shape, eager[name].dtype):
            wrong.append(f"{name}: {values[name].shape} {values[name].dtype}")
        elif want.numel():
            unit = torch.finfo(net.dtype).eps * max(1.0, float(want.double().abs().max()))
            mine, theirs = (_largest_difference(v[name], want) for v in (values, eager))
            if not mine <= 2 * theirs + 2 * unit:
                wrong.append(f"{name}: off by {mine:.3g}, torch by {theirs:.3g}")
    assert not wrong, "\n" + "\n".join(wrong)


def _largest_difference(got: Tensor, want: Tensor) -> float:
    return float((got.double() - want.double()).abs().max())


def _as_double(tensors: Tensors) -> Tensors:
    return {
        k: v.detach().double().requires_grad_() if v.is_floating_point() else v
        for k, v in tensors.items()
    }


def _check_slope(net: Net, model: Any, call: Any) -> None:
    """The gradient agrees with a finite difference of calls with the same random numbers."""
    inputs, lengths, _ = call
    leaves = leaves_of(net, inputs, {})
    ways = {k: numbers(v, n) for n, (k, v) in enumerate(leaves.items())}

    def loss(step: float) -> Tensor:
        torch.manual_seed(3)
        with torch.no_grad():
            for k, v in leaves.items():
                v.add_(ways[k], alpha=step)
        outputs, _ = called(model, inputs, lengths, None)
        floats = [v for v in outputs.values() if v.requires_grad]
        parts = [(v * numbers(v, k)).sum() for k, v in enumerate(floats)]
        return torch.stack(parts).sum() if parts else torch.zeros(())

    total = loss(0)
    if not total.requires_grad:
        return
    grads = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    slope = sum(float((g * ways[k]).sum()) for k, g in zip(leaves, grads) if g is not None)
    step = 1e-6
    ahead, back = float(loss(step).detach()), float(loss(-2 * step).detach())
    loss(step)
    found = (ahead - back) / (2 * step)
    if not abs(found - slope) <= 1e-4 * max(1.0, abs(found)):
        raise AssertionError(f"a slope of {found:.9g}, and a gradient of {slope:.9g}")
