"""Runs torch's operators on torch's own samples, in a graph and by torch itself.

Each operator is called in a graph, outside and inside a loop, on two examples with two different
positions each. The expected result is torch's result for each example and position separately.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from types import MethodDescriptorType, WrapperDescriptorType
from typing import Any

import torch
from torch import Tensor, nn
from torch.testing._internal.common_methods_invocations import op_db
from torch.utils._pytree import tree_flatten, tree_unflatten

import graphnn as gn
from graphnn.errors import GraphnnError
from graphnn.ops.torch.inference import RandomCalls

BATCH, TIME = 2, 2
DTYPES = {str(d)[6:]: d for d in (torch.float64, torch.float32, torch.bfloat16)}
DTYPES |= {str(d)[6:]: d for d in (torch.int64, torch.bool)}
PLACES = ("outside", "loop")
# tolerances, relative to the largest element
NEAR = {torch.float64: 1e-9, torch.float32: 2e-5, torch.bfloat16: 2e-2}
COARSE = (torch.float32, torch.bfloat16)
# these return uninitialised memory
UNWRITTEN = frozenset(
    "empty new_empty empty_like empty_strided new_empty_strided empty_permuted".split()
)
MEMORY, NOISE = "left out: it returns uninitialised memory", "left out: it draws random numbers"
OPERATORS = {
    f"{op.name}{'.' * bool(op.variant_test_name)}{op.variant_test_name}": op for op in op_db
}


@dataclass
class Outcome:
    """The outcome for an operator's samples: the number equal, refusals, and wrong results."""

    equal: int = 0
    refused: set[str] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)


@dataclass
class Sample:
    """One call of an operator: its arguments, and the values of the arguments that vary."""

    call: Any
    leaves: list[Any]
    spec: Any
    moving: dict[int, Tensor]

    def __call__(self, leaves: list[Any]) -> list[Any]:
        """Returns the results as a flat list."""
        args, kwargs = tree_unflatten(leaves, self.spec)
        return [x for x in tree_flatten(self.call(*args, **kwargs))[0] if x is not None]

    def main(self) -> int:
        """Returns the index of the argument to which a loop's state is added."""
        floats = [i for i, x in self.moving.items() if x.is_floating_point()]
        return (floats or list(self.moving))[0]


def samples(name: str, dtype: torch.dtype, most: int) -> Iterator[Sample]:
    """Yields at most `most` evenly spaced samples of an operator."""
    op = OPERATORS[name]
    grad = dtype.is_floating_point and op.supports_autograd
    given = list(op.sample_inputs("cpu", dtype, requires_grad=grad))
    for k, s in enumerate(given[:: max(1, -(-len(given) // most))]):
        leaves, spec = tree_flatten(((s.input, *s.args), s.kwargs))
        leaves = [x.detach() if isinstance(x, Tensor) else x for x in leaves]
        tensors = [i for i, x in enumerate(leaves) if isinstance(x, Tensor)]
        if not tensors or any(_unsupported(leaves[i]) for i in tensors):
            continue
        floats = [i for i in tensors if leaves[i].is_floating_point()]
        chosen = tensors if k % 2 else (floats or tensors)[:1]
        moving = {i: _varied(leaves[i], i == (floats or tensors)[0]) for i in chosen}
        yield Sample(_bound(op.op), leaves, spec, moving)


def _unsupported(x: Tensor) -> bool:
    """Whether a tensor is not dense or has a dtype that torch does not compute with."""
    return x.layout != torch.strided or (x.is_floating_point() and x.element_size() == 1)


def _bound(function: Any) -> Any:
    """Wraps a tensor method so that it can also be called on graph values."""
    if not isinstance(function, (MethodDescriptorType, WrapperDescriptorType)):
        return function
    return lambda x, *rest, **named: getattr(x, function.__name__)(*rest, **named)


def _varied(x: Tensor, main: bool) -> Tensor:
    """Stacks variations of a tensor, one for each example and position.

    Floating-point tensors are scaled; others are rolled if `main` and repeated otherwise.
    """
    if x.is_floating_point() or x.is_complex():
        rows = [x * (1 - k / 8) for k in range(BATCH * TIME)]
    else:
        rows = [x.flatten().roll(k * main).reshape(x.shape) for k in range(BATCH * TIME)]
    return torch.stack(rows).reshape(BATCH, TIME, *x.shape)


class Net(nn.Module):
    """The graph of one call; in a loop, a state that is always zero is added to its operand."""

    def __init__(self, sample: Sample, dtype: torch.dtype, place: str):
        super().__init__()
        kind = dtype if dtype.is_floating_point else torch.float32
        self.kind = nn.Parameter(torch.zeros((), dtype=kind))
        self.sample, self.place, self.varies = sample, place, [True]

    def graph(self, g: gn.Graph) -> None:
        s = self.sample
        leaves = list(s.leaves)
        for i, x in s.moving.items():
            leaves[i] = g.input(f"x{i}", tuple(x.shape[2:]), over="time", dtype=x.dtype)
        if self.place == "loop":
            x = leaves[s.main()]
            h = g.state("h", (), dtype=x.dtype)
            leaves[s.main()] = x ^ h if x.dtype == torch.bool else x + h
        results = [g.value(y) for y in s(leaves)]
        self.varies = ["time" in y.axes for y in results]
        if self.place == "loop":
            nans = sum((y != y).sum() for y in results)
            h.next = (nans * 0).to(h.dtype)
        for k, y in enumerate(results):
            g.output(f"y{k}", y)


def weight(k: int, y: Tensor) -> Tensor:
    """Returns the weights of result `k` in the loss whose gradients are compared; all differ."""
    return torch.linspace(-1, 2, y.numel(), dtype=torch.float64).sin().add(k).reshape(y.shape)


def loss_gradients(outs: list[Tensor], inputs: list[Tensor]) -> list[Tensor]:
    """Returns the gradients of a weighted sum of results, with zeros for missing ones."""
    terms = [(weight(k, y).to(y.dtype) * y).sum() for k, y in enumerate(outs) if y.requires_grad]
    found = torch.autograd.grad(sum(terms), inputs, allow_unused=True)
    return [torch.zeros_like(x) if d is None else d for d, x in zip(found, inputs)]


def leaf_copies(sample: Sample, grad: bool) -> dict[int, Tensor]:
    return {
        i: x.clone().requires_grad_(grad and x.is_floating_point())
        for i, x in sample.moving.items()
    }


def by_torch(sample: Sample, grad: bool) -> tuple[list[Tensor], list[Tensor] | None]:
    """Returns torch's results and gradients, computed for each example and position separately."""
    inputs = leaf_copies(sample, grad)
    rows = []
    for b in range(BATCH):
        for t in range(TIME):
            leaves = list(sample.leaves)
            for i, x in inputs.items():
                leaves[i] = x[b, t].clone()
            rows.append([_dense(y) for y in sample(leaves)])
    outs = [torch.stack(ys).reshape(BATCH, TIME, *ys[0].shape) for ys in zip(*rows)]
    return outs, _gradients(outs, inputs)


def _dense(y: Any) -> Tensor:
    y = torch.as_tensor(y)
    return y if y.layout == torch.strided else y.to_dense()


def by_graph(
    sample: Sample, dtype: torch.dtype, place: str, grad: bool
) -> tuple[list[Tensor], list[Tensor] | None]:
    """Returns the results and gradients of the compiled graph."""
    inputs = leaf_copies(sample, grad)
    net = Net(sample, dtype, place)
    model = gn.compile(net, backend="torch")
    found = model(**{f"x{i}": x for i, x in inputs.items()})
    outs = list(found.values()) if isinstance(found, dict) else [found]
    # a result that does not vary over time has no time axis
    outs = [y if v else y[:, None].expand(-1, TIME, *y.shape[1:]) for y, v in zip(outs, net.varies)]
    return outs, _gradients(outs, inputs)


def _gradients(outs: list[Tensor], inputs: dict[int, Tensor]) -> list[Tensor] | None:
    wanted = [x for x in inputs.values() if x.requires_grad]
    return loss_gradients(outs, wanted) if wanted and any(y.requires_grad for y in outs) else None


def difference(ours: Tensor, theirs: Tensor, dtype: torch.dtype) -> str:
    """Describes how two results differ; empty if they are equal within tolerance."""
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        return f"{tuple(ours.shape)} {ours.dtype} for {tuple(theirs.shape)} {theirs.dtype}"
    if not ours.dtype.is_floating_point and not ours.dtype.is_complex:
        return "" if torch.equal(ours, theirs) else f"{ours.tolist()} for {theirs.tolist()}"[:200]
    finite = theirs.abs()[theirs.isfinite()]
    size = 1 + float(finite.max()) if finite.numel() else 1.0
    near = NEAR.get(dtype, NEAR[torch.float32])
    same = torch.isclose(ours, theirs, rtol=near, atol=near * size, equal_nan=True)
    if same.all():
        return ""
    return f"{ours[~same][:3].tolist()} for {theirs[~same][:3].tolist()}"


def examine(name: str, dtype: torch.dtype, place: str, most: int) -> Outcome:
    """Compares the samples of an operator in a graph with torch."""
    found = Outcome()
    if OPERATORS[name].name.split(".")[-1] in UNWRITTEN:
        return Outcome(refused={MEMORY})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for k, sample in enumerate(samples(name, dtype, most)):
            try:
                with RandomCalls() as drawn:
                    theirs = by_torch(sample, dtype.is_floating_point)
            except Exception:
                continue  # torch itself refuses the sample
            if drawn.found:
                found.refused.add(NOISE)
                continue
            _examine_sample(found, f"sample {k}", sample, dtype, place, theirs)
    return found


def _examine_sample(
    found: Outcome, where: str, sample: Sample, dtype: Any, place: str, theirs: Any
) -> None:
    try:
        ours = by_graph(sample, dtype, place, dtype.is_floating_point)
    except GraphnnError as error:
        found.refused.add(message_start(error))
        return
    except Exception as error:
        found.wrong.append(f"{where}: {type(error).__name__}: {str(error)[:300]}")
        return
    if len(ours[0]) != len(theirs[0]):
        found.wrong.append(f"{where}: {len(ours[0])} results for {len(theirs[0])}")
        return
    pairs = [*zip(ours[0], theirs[0])]
    # a missing gradient counts as zeros
    zeros = [torch.zeros_like(x) for x in ours[1] or theirs[1] or ()]
    pairs += zip(ours[1] or zeros, theirs[1] or zeros)
    differences = [
        f"{j}: {text}" for j, (a, b) in enumerate(pairs) if (text := difference(a, b, dtype))
    ]
    if differences and dtype in COARSE and _as_precise(sample, pairs):
        differences = []
    found.wrong += [f"{where}: {text}" for text in differences]
    found.equal += not differences


def _as_precise(sample: Sample, pairs: list[tuple[Tensor, Tensor]]) -> bool:
    """Whether the errors against float64 are at most twice those of torch."""
    wide = replace(
        sample,
        leaves=[_wide(x) for x in sample.leaves],
        moving={i: _wide(x) for i, x in sample.moving.items()},
    )
    outs, grads = by_torch(wide, True)
    exact = [*outs, *(grads or [torch.zeros_like(_wide(a)) for a, _ in pairs[len(outs) :]])]
    for (a, b), x in zip(pairs, exact, strict=True):
        off = [float((y.double() - x).abs().nan_to_num(0).max()) for y in (a, b)]
        if a.dtype != b.dtype or off[0] > 2 * off[1] + NEAR[torch.float32]:
            return False
    return True


def _wide(x: Any) -> Any:
    return x.double() if isinstance(x, Tensor) and x.is_floating_point() else x


def message_start(error: GraphnnError) -> str:
    """Returns the start of an error's message, with numbers replaced by N."""
    text = error.problem.splitlines()[0]
    return f"{type(error).__name__}: {re.sub(r'[0-9]+', 'N', text)[:90]}"
