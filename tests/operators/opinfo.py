"""Torch's operators as nodes of a graph, compared with torch on torch's samples.

An operator is called in a graph, outside and inside a loop, on two examples at two different
positions. The expected result is that of torch for each example and position separately.
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
# how far numbers may be off, of the largest of them
NEAR = {torch.float64: 1e-9, torch.float32: 2e-5, torch.bfloat16: 2e-2}
COARSE = (torch.float32, torch.bfloat16)
# the results of these are uninitialised memory
UNWRITTEN = frozenset(
    "empty new_empty empty_like empty_strided new_empty_strided empty_permuted".split()
)
MEMORY, NOISE = "left out: memory is as it was", "left out: it draws random numbers"
OPERATORS = {
    f"{op.name}{'.' * bool(op.variant_test_name)}{op.variant_test_name}": op for op in op_db
}


@dataclass
class Found:
    """What became of an operator's samples: how many are equal, the refusals' first words, and
    whatever is neither."""

    equal: int = 0
    refused: set[str] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)


@dataclass
class Sample:
    """One call of an operator: its arguments, those that vary, and the numbers that these take."""

    call: Any
    leaves: list[Any]
    spec: Any
    moving: dict[int, Tensor]

    def __call__(self, leaves: list[Any]) -> list[Any]:
        """The results, flat."""
        args, kwargs = tree_unflatten(leaves, self.spec)
        return [x for x in tree_flatten(self.call(*args, **kwargs))[0] if x is not None]

    def main(self) -> int:
        """The argument that a loop's state is added to."""
        floats = [i for i, x in self.moving.items() if x.is_floating_point()]
        return (floats or list(self.moving))[0]


def samples(name: str, dtype: torch.dtype, most: int) -> Iterator[Sample]:
    """Returns at most that many of the samples of an operator, spread over all of them."""
    op = OPERATORS[name]
    grad = dtype.is_floating_point and op.supports_autograd
    given = list(op.sample_inputs("cpu", dtype, requires_grad=grad))
    for k, s in enumerate(given[:: max(1, -(-len(given) // most))]):
        leaves, spec = tree_flatten(((s.input, *s.args), s.kwargs))
        leaves = [x.detach() if isinstance(x, Tensor) else x for x in leaves]
        tensors = [i for i, x in enumerate(leaves) if isinstance(x, Tensor)]
        if not tensors or any(_odd(leaves[i]) for i in tensors):
            continue
        floats = [i for i in tensors if leaves[i].is_floating_point()]
        chosen = tensors if k % 2 else (floats or tensors)[:1]
        moving = {i: _varied(leaves[i], i == (floats or tensors)[0]) for i in chosen}
        yield Sample(_bound(op.op), leaves, spec, moving)


def _odd(x: Tensor) -> bool:
    """What is neither dense nor of a dtype that torch computes with."""
    return x.layout != torch.strided or (x.is_floating_point() and x.element_size() == 1)


def _bound(function: Any) -> Any:
    """A method as one calls it: Python lets those of tensors be called of tensors alone."""
    if not isinstance(function, (MethodDescriptorType, WrapperDescriptorType)):
        return function
    return lambda x, *rest, **named: getattr(x, function.__name__)(*rest, **named)


def _varied(x: Tensor, main: bool) -> Tensor:
    """Examples and positions that differ; indices and the like are the same for all."""
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
        made = [g.value(y) for y in s(leaves)]
        self.varies = ["time" in y.axes for y in made]
        if self.place == "loop":
            unlike = sum((y != y).sum() for y in made)
            h.next = (unlike * 0).to(h.dtype)
        for k, y in enumerate(made):
            g.output(f"y{k}", y)


def weight(k: int, y: Tensor) -> Tensor:
    """What the result `k` is weighed by where gradients are compared: different all over."""
    return torch.linspace(-1, 2, y.numel(), dtype=torch.float64).sin().add(k).reshape(y.shape)


def pulled(outs: list[Tensor], inputs: list[Tensor]) -> list[Tensor]:
    """The gradients of a weighed sum of results, zero where there is none."""
    flows = [(weight(k, y).to(y.dtype) * y).sum() for k, y in enumerate(outs) if y.requires_grad]
    found = torch.autograd.grad(sum(flows), inputs, allow_unused=True)
    return [torch.zeros_like(x) if d is None else d for d, x in zip(found, inputs)]


def moved(sample: Sample, grad: bool) -> dict[int, Tensor]:
    return {
        i: x.clone().requires_grad_(grad and x.is_floating_point())
        for i, x in sample.moving.items()
    }


def by_torch(sample: Sample, grad: bool) -> tuple[list[Tensor], list[Tensor] | None]:
    """Results and gradients, each example and position by itself."""
    inputs = moved(sample, grad)
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
    """Results and gradients of the compiled graph."""
    inputs = moved(sample, grad)
    net = Net(sample, dtype, place)
    model = gn.compile(net, backend="torch")
    made = model(**{f"x{i}": x for i, x in inputs.items()})
    outs = list(made.values()) if isinstance(made, dict) else [made]
    # a value that does not vary over time has no such axis
    outs = [y if v else y[:, None].expand(-1, TIME, *y.shape[1:]) for y, v in zip(outs, net.varies)]
    return outs, _gradients(outs, inputs)


def _gradients(outs: list[Tensor], inputs: dict[int, Tensor]) -> list[Tensor] | None:
    wanted = [x for x in inputs.values() if x.requires_grad]
    return pulled(outs, wanted) if wanted and any(y.requires_grad for y in outs) else None


def differs(ours: Tensor, theirs: Tensor, dtype: torch.dtype) -> str:
    """How two results differ; empty where they are the same."""
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


def examine(name: str, dtype: torch.dtype, place: str, most: int) -> Found:
    """An operator's samples, in a graph and by torch."""
    found = Found()
    if OPERATORS[name].name.split(".")[-1] in UNWRITTEN:
        return Found(refused={MEMORY})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for k, sample in enumerate(samples(name, dtype, most)):
            try:
                with RandomCalls() as drawn:
                    theirs = by_torch(sample, dtype.is_floating_point)
            except Exception:
                continue  # torch itself refuses it
            if drawn.found:
                found.refused.add(NOISE)
                continue
            _one(found, f"sample {k}", sample, dtype, place, theirs)
    return found


def _one(found: Found, where: str, sample: Sample, dtype: Any, place: str, theirs: Any) -> None:
    try:
        ours = by_graph(sample, dtype, place, dtype.is_floating_point)
    except GraphnnError as error:
        found.refused.add(words(error))
        return
    except Exception as error:
        found.wrong.append(f"{where}: {type(error).__name__}: {str(error)[:300]}")
        return
    if len(ours[0]) != len(theirs[0]):
        found.wrong.append(f"{where}: {len(ours[0])} results for {len(theirs[0])}")
        return
    pairs = [*zip(ours[0], theirs[0])]
    # no gradient is one of zeros
    some = ours[1] or theirs[1] or ()
    zeros = [torch.zeros_like(x) for x in some]
    pairs += zip(ours[1] or zeros, theirs[1] or zeros)
    said = [f"{j}: {text}" for j, (a, b) in enumerate(pairs) if (text := differs(a, b, dtype))]
    if said and dtype in COARSE and _as_precise(sample, pairs):
        said = []
    found.wrong += [f"{where}: {text}" for text in said]
    found.equal += not said


def _as_precise(sample: Sample, pairs: list[tuple[Tensor, Tensor]]) -> bool:
    """Whether results are off float64's by no more than twice what torch's own are."""
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


def words(error: GraphnnError) -> str:
    """The first words of a refusal, whatever its numbers."""
    text = error.problem.splitlines()[0]
    return f"{type(error).__name__}: {re.sub(r'[0-9]+', 'N', text)[:90]}"
