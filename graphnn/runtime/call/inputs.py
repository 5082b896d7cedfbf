"""given: what is called with instead of a plain dense tensor, and what to make of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NoReturn

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from graphnn.errors import InputDeviceError, InputLayoutError, LengthsError, UnsupportedError
from graphnn.frontend.value import Value
from graphnn.ir.source_location import user_site

Tensor = torch.Tensor
PAD = "torch.nn.utils.rnn.pad_sequence({0}, batch_first=True), with lengths={{{1!r}: …}}"

# what is no tensor, and how a tensor is made of it: {0} is the input's name, {1} its first axis
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
# tensors that are not stored as one block of numbers
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
    """Whether an input is a tensor: a value passes for one in a graph, but has no numbers."""
    return isinstance(thing, Tensor) and not isinstance(thing, Value)


def tensor_of(thing: Any, name: str, axis: str, dtype: torch.dtype) -> str:
    """How to make a tensor of what was given as an input."""
    return next(fix for is_such, fix in TENSOR_OF if is_such(thing)).format(name, axis, dtype)


def dense(tensor: Tensor, name: str, axis: str, **where: Any) -> None:
    """Refuse a tensor that is not dense. Raises InputLayoutError."""
    for is_such, kind, fix in DENSE_OF:
        if is_such(tensor):
            raise InputLayoutError(
                f"input '{name}' is {kind}",
                **where,
                got=f"a {kind} tensor ({tensor.layout})",
                wanted="a dense tensor, padded where examples differ in length",
                fix=fix.format(name, axis),
            )


def numbered(device: torch.device | None) -> None:
    """Refuse a model whose parameters have no numbers. Raises InputDeviceError."""
    if device is not None and device.type == "meta":
        raise InputDeviceError(
            "the model is on the meta device: its parameters have shapes and no numbers",
            got="parameters on meta",
            wanted="parameters on a device that computes",
            fix="model.to_empty(device='cpu'), then load_state_dict; or make it without meta",
        )


class Refusing(nn.Module):
    """What of torch's wrappers cannot hold a compiled model, said when they try."""

    def __prepare_scriptable__(self) -> NoReturn:
        _refused("torch.jit.script", "use torch.export.export(model, (), {'x': x})")

    def _replicate_for_data_parallel(self) -> NoReturn:
        _refused("DataParallel", "use DistributedDataParallel, one process a device")

    def _untraced(self, args: Any, inputs: Any) -> None:
        """Refuse tracers that record what is called, before they fail on what they meet."""
        if torch.jit._trace.is_tracing():
            _refused("torch.jit.trace", "use torch.export.export(model, (), {'x': x})")
        if _proxies((args, inputs)) or _proxies(args) or _proxies(inputs.values()):
            _refused("torch.fx.symbolic_trace", "make the model a leaf: Tracer.is_leaf_module")


def _proxies(values: Iterable[Any]) -> bool:
    """Whether some are torch.fx's, which has one for all positional arguments."""
    return any(isinstance(x, torch.fx.Proxy) for x in values)


def _refused(what: str, fix: str) -> NoReturn:
    raise UnsupportedError(
        f"{what} cannot take a compiled model",
        site=user_site(),
        got=what,
        wanted="the model itself, torch.compile, torch.export or DistributedDataParallel",
        fix=fix,
    )


def lengths_of(given: Any, axis: str, device: torch.device) -> Tensor:
    """Lengths as a tensor where the model is. Raises LengthsError."""
    try:
        return torch.as_tensor(given, device=device)
    except (TypeError, ValueError, RuntimeError, NotImplementedError) as error:
        raise LengthsError(
            f"lengths of '{axis}' cannot be read",
            got=f"{type(given).__name__}: {str(error).splitlines()[0]}",
            wanted="one whole number an example",
            fix="lengths={'" + axis + "': torch.tensor([...])}",
        ) from None
