"""`gn.compare`: checks and times a user's implementations of one function."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from graphnn.errors import TimingError
from graphnn.planner.core.cost import Device
from graphnn.planner.core.work import of_graph
from graphnn.runtime.call import read
from graphnn.runtime.limits import measured
from graphnn.runtime.model import Compiled, network_of
from graphnn.timing import results
from graphnn.timing.clock import Run, Timer, timer_for
from graphnn.timing.contender_weights import weights
from graphnn.timing.contest import BOTH, FORWARD, Contest
from graphnn.timing.provenance import about
from graphnn.timing.suite import Prepared, SuitePlan, run
from graphnn.timing.table import notes, printed, table

Tensor = torch.Tensor
Inputs = Mapping[str, Tensor] | Sequence[Tensor]


@dataclass(frozen=True, repr=False)
class Comparison:
    """Timings of contenders. Printed, it is a table; `found` has the figures as JSON data."""

    found: results.Found

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"

    def __str__(self) -> str:
        return printed(table(self.found)) + "\n".join(notes(self.found))

    def median(self, contender: str, what: str = FORWARD) -> float:
        """The median of a contender in ms. Raises TimingError if it was not timed."""
        for row in self.found["rows"]:
            if row["pass"] == what and contender in row["contenders"]:
                return float(row["contenders"][contender]["median"])
        reasons = {k: v for r in self.found["rows"] for k, v in r["failed"].items()}
        timed = list(dict.fromkeys(n for r in self.found["rows"] for n in r["contenders"]))
        raise TimingError(
            f"'{contender}' was not timed, {what}",
            got=reasons.get(contender),
            wanted=f"one of {timed}",
        )

    def save(self, path: Any) -> None:
        """Write a file of results for `graphnn bench compare`, `table` and `plot`."""
        results.save(self.found, path)


@dataclass(frozen=True)
class _Case:
    name: str
    dtype: str

    def record(self) -> dict[str, Any]:
        return {"network": self.name, "sizes": {}, "dtype": self.dtype}


def compare(
    contenders: Mapping[str, Callable[..., Any]],
    inputs: Inputs,
    *,
    name: str = "compare",
    rounds: int = 15,
    seconds: float = 2.0,
    slow: Sequence[str] = (),
    patience: float = 60.0,
    limits: Device | None = None,
    timer: Timer | None = None,
) -> Comparison:
    """Time callables on the same inputs, forward, and with backward if gradients are required.

    `inputs` are given by name (a mapping) or in order. The results of the first contender are
    correct by definition. A contender whose results, or gradients of inputs, differ by more than
    its dtype allows is reported and not timed. All are differentiated by the same leaves: inputs
    that require gradients, the parameters of all modules, and those that functions refer to in
    their closures and globals. Rounds are interleaved: as many as fit in `seconds` per pass, at
    most `rounds`. Contenders in `slow` compile at their first call, within `patience` seconds.
    `limits` are the device's constants, measured if they are not given. Raises TimingError if there
    is nothing to compare, or if `slow` names no contender.

        net, x = gn.nn.LSTM(16, 16), torch.randn(8, 20, 16)
        compiled = {"torch": gn.compile(net, "torch"), "unplanned": gn.compile(net, "reference")}
        print(gn.compare(compiled, [x], seconds=0.1))
    """
    if not contenders:
        raise TimingError("there is nothing to compare", got="no contenders", wanted="one or more")
    if unknown := set(slow) - set(contenders):
        raise TimingError(f"`slow` names no contender: {sorted(unknown)}", got=list(slow))
    tensors = list(inputs.values() if isinstance(inputs, Mapping) else inputs)
    kind = next((t.device.type for t in tensors if isinstance(t, Tensor)), "cpu")
    dtype = _dtype(tensors)
    shared = weights(contenders.values())
    contest = Contest(
        name,
        {k: _called(f, inputs) for k, f in contenders.items()},
        wanted=[t for t in tensors if isinstance(t, Tensor) and t.requires_grad],
        extra_leaves=dict.fromkeys(contenders, shared) if shared else {},
        dtype=str(dtype).removeprefix("torch."),
        slow=frozenset(slow),
        patience=patience,
    )
    limits = limits or measured(kind, dtype)
    found = results.empty({**about(kind, contest.dtype), "lead": next(iter(contenders))})
    found["limits"] = limits.record()
    made = Prepared(contest, _work(contenders, inputs))
    plan = SuitePlan(rounds, seconds, 1)
    case = _Case(name, contest.dtype)
    run([case], lambda _: made, found, limits, timer or timer_for(kind), plan, kind)
    return Comparison(found)


def _called(function: Callable[..., Any], inputs: Inputs) -> Run:
    if isinstance(inputs, Mapping):
        return lambda: function(**inputs)
    return lambda: function(*inputs)


def _dtype(tensors: Sequence[Any]) -> torch.dtype:
    """The dtype of the first floating input."""
    floating = (t.dtype for t in tensors if isinstance(t, Tensor) and t.is_floating_point())
    return next(floating, torch.float32)


def _work(contenders: Mapping[str, Callable[..., Any]], inputs: Inputs) -> dict[str, Any]:
    """The least work of each pass, if one of the contenders is a compiled model."""
    model = next((f for f in contenders.values() if isinstance(f, Compiled)), None)
    if model is None:
        return {}
    named = inputs if isinstance(inputs, Mapping) else read.named(model.ir, inputs, {})
    sizes = read.read(model.ir, named, None, None, network_of(model).device).sizes
    return {what: of_graph(model.plan.ir, sizes, what == BOTH) for what in (FORWARD, BOTH)}
