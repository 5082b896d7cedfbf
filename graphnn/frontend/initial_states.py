"""The initial values of `g.state`, checked."""

from __future__ import annotations

from typing import Any

import torch

from graphnn.errors import AxisError, DtypeError, ShapeError, UnsupportedError
from graphnn.frontend.value import Value
from graphnn.ir.dtypes import number_of, whole
from graphnn.ir.graph import BATCH
from graphnn.ir.source_location import user_site
from graphnn.tracing.effects import random
from graphnn.tracing.effects.symbolic import GraphLike


def initial_values(
    graph: GraphLike,
    name: str,
    init: Any,
    shape: tuple[int, ...],
    axes: frozenset[str],
    delay: int,
    dtype: torch.dtype,
) -> list[Value]:
    """The initial values of a state's delay slots: one for all slots, or one per slot.

    Raises ShapeError, AxisError, DtypeError or UnsupportedError if they do not match the state.
    """
    given = list(init) if isinstance(init, (list, tuple)) else [init]
    if len(given) not in (1, abs(delay)):
        raise ShapeError(
            f"state '{name}' has {abs(delay)} delay slots",
            node=name,
            site=user_site(),
            got=f"{len(given)} initial values",
            wanted=f"one for all slots, or a list of {abs(delay)}",
            fix="give one per slot, the one read first in front",
        )
    return [_cast(graph, name, _initial(graph, name, v, shape, axes), dtype) for v in given]


def _initial(
    graph: GraphLike, name: str, init: Any, shape: tuple[int, ...], axes: frozenset[str]
) -> Value:
    """The value of one `init`."""
    if isinstance(init, str):
        if init != "normal":
            raise UnsupportedError(
                f"state '{name}' has the unknown initial value {init!r}",
                node=name,
                site=user_site(),
                got=repr(init),
                wanted="None, a number, a tensor, a parameter, a value, or 'normal'",
                fix="for a learned initial value, give init=g.parameter(...)",
            )
        return graph.random("normal", shape, axes)
    value = graph.value(0.0 if init is None else init)
    random.bind(graph, [value.id], axes)
    if extra := value.node.axes - axes:
        raise AxisError(
            f"the initial value of state '{name}' varies over axes that the state does not have",
            node=name,
            site=user_site(),
            got=f"axes {sorted(extra)} of {value.label}",
            wanted=f"axes among {sorted(axes - {BATCH})}",
            fix="declare the state with along=…, or reduce the value over these axes first",
        )
    if value.node.shape not in ((), shape):
        raise ShapeError(
            f"the shape of the initial value of state '{name}' is not that of the state",
            node=name,
            site=user_site(),
            got=tuple(value.shape),
            wanted=f"{shape} or a number",
            fix="give the shape of one example at one position, without the batch",
        )
    return value


def _cast(graph: GraphLike, name: str, value: Value, dtype: torch.dtype) -> Value:
    """An initial value in the state's dtype; a Python number adopts that by itself."""
    number = value.node.attrs["value"] if value.node.op == "const" else None
    if number is None and torch.can_cast(value.dtype, dtype):
        return value.to(dtype)  # type: ignore[return-value]
    if number is not None and (whole(number) or torch.can_cast(value.dtype, dtype)):
        kind = number_of(dtype)
        return value if type(number) is kind else graph.value(kind(number))
    raise DtypeError(
        f"the initial value of state '{name}' cannot be {value.dtype}",
        node=name,
        site=user_site(),
        got=f"{value.label} of {value.dtype}" if number is None else number,
        wanted=f"a value that can be cast to {dtype}",
        fix=f"declare g.state('{name}', …, dtype={value.dtype}), or cast the value",
    )
