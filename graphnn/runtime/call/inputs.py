"""Arguments that are no plain dense tensors: errors that say how to convert them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import PackedSequence

from graphnn.errors import InputDeviceError, InputLayoutError, LengthsError
from graphnn.frontend.value import Value

Tensor = torch.Tensor
PAD = "torch.nn.utils.rnn.pad_sequence({0}, batch_first=True), with lengths={{{1!r}: …}}"

# tests for things that are not tensors, and how to make a tensor of each: {0} is the input's name,
# {1} its first axis, {2} its dtype
TENSOR_OF: tuple[tuple[Callable[[Any], bool], str], ...] = (
    (
        lambda x: isinstance(x, PackedSequence),
        "{0}, n = torch.nn.utils.rnn.pad_packed_sequence({0}, batch_first=True), then "
        "lengths={{{1!r}: n}}",
    ),
    (
        lambda x: isinstance(x, (list, tuple)) and any(isinstance(v, Tensor) for v in x),
        PAD,
    ),
    (lambda x: isinstance(x, np.ndarray), "torch.from_numpy({0}).to({2})"),
    (
        lambda x: isinstance(x, Value),
        "call a compiled model on tensors; in a graph, call modules whose forward takes values",
    ),
    (lambda x: True, "wrap it with torch.as_tensor(...)"),
)
# tests for tensors that are not stored as one dense block, their kind, and how to convert them
DENSE_OF: tuple[tuple[Callable[[Tensor], bool], str, str], ...] = (
    (
        lambda x: x.is_nested,
        "nested",
        "torch.nested.to_padded_tensor({0}, 0.0), with lengths={{{1!r}: …}}",
    ),
    (lambda x: x.is_quantized, "quantized", "{0}.dequantize()"),
    (lambda x: x.layout != torch.strided, "sparse", "{0}.to_dense()"),
)


def is_tensor(thing: Any) -> bool:
    """Whether an input is a tensor with elements, and no `Value` of a graph."""
    return isinstance(thing, Tensor) and not isinstance(thing, Value)


def tensor_of(thing: Any, name: str, axis: str, dtype: torch.dtype) -> str:
    """How to make a tensor of the argument that was given."""
    return next(fix for is_such, fix in TENSOR_OF if is_such(thing)).format(name, axis, dtype)


def check_dense(tensor: Tensor, name: str, axis: str, **where: Any) -> None:
    """Raise InputLayoutError if a tensor is not dense."""
    for is_such, kind, fix in DENSE_OF:
        if is_such(tensor):
            raise InputLayoutError(
                f"input '{name}' is {kind}",
                **where,
                got=f"a {kind} tensor ({tensor.layout})",
                wanted="a dense tensor, padded if examples differ in length",
                fix=fix.format(name, axis),
            )


def check_materialized(device: torch.device | None) -> None:
    """Raise InputDeviceError if the parameters are on the meta device."""
    if device is not None and device.type == "meta":
        raise InputDeviceError(
            "the model is on the meta device: its parameters have shapes but no elements",
            got="parameters on meta",
            wanted="parameters on a device that computes",
            fix="model.to_empty(device='cpu'), then load_state_dict; or make it without meta",
        )


def lengths_of(given: Any, axis: str) -> Tensor:
    """Lengths as a tensor, where they are. Raises LengthsError if they cannot be read."""
    try:
        lengths = torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError, NotImplementedError) as error:
        raise _unreadable(given, axis, str(error).splitlines()[0]) from None
    if lengths.is_meta:
        raise _unreadable(given, axis, "a tensor on the meta device has no numbers")
    return lengths


def _unreadable(given: Any, axis: str, why: str) -> LengthsError:
    return LengthsError(
        f"lengths of '{axis}' cannot be read",
        got=f"{type(given).__name__}: {why}",
        wanted="one whole number per example",
        fix="lengths={'" + axis + "': torch.tensor([...])}",
    )
