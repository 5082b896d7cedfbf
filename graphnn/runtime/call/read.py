"""The arguments of a call, checked against the inputs, axes and states that the graph declares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from graphnn.errors import (
    InputDeviceError,
    InputDtypeError,
    InputShapeError,
    LengthsError,
    MissingInputError,
    StateError,
    UnknownInputError,
)
from graphnn.ir.graph import BATCH, IR, Node
from graphnn.runtime.call.inputs import (
    check_dense,
    check_materialized,
    is_tensor,
    lengths_of,
    tensor_of,
)
from graphnn.runtime.call.lengths import checked

Tensor = torch.Tensor


@dataclass
class Call:
    """The checked tensors of one call, by name, and the lengths of its axes in `sizes`."""

    inputs: dict[str, Tensor]
    sizes: dict[str, int]
    lengths: dict[str, Tensor]
    state: dict[str, Tensor]
    device: torch.device


def declared(ir: IR) -> dict[str, Node]:
    """The input nodes of a graph by name, in the order of their declaration."""
    return {n.attrs["key"]: n for n in ir if n.op == "input"}


def named(ir: IR, args: Sequence[Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """All inputs by name; positional ones follow the order of their declaration.

    Raises UnknownInputError for too many of them, and for an input that is given twice.
    """
    names = list(declared(ir))
    if len(args) > len(names):
        raise UnknownInputError(
            f"'{ir.name}' takes no more than {len(names)} positional input(s)",
            got=f"{len(args)} positional arguments",
            wanted=f"inputs {names}",
            fix="give each input by name",
        )
    for name in names[: len(args)]:
        if name in inputs:
            raise UnknownInputError(
                f"input '{name}' was given twice",
                got="a positional and a keyword argument",
                wanted="each input once",
                fix=f"drop one, or give all by name: model({name}=...)",
            )
    return {**dict(zip(names, args)), **inputs}


def states(ir: IR, names: bool | Sequence[str]) -> frozenset[str]:
    """The names of the states in a list, or of all states if it is True.

    Raises StateError for a name that no state has.
    """
    known = [n.attrs["key"] for n in ir if n.op == "delay"]
    names = [names] if isinstance(names, str) else names
    if isinstance(names, bool):
        return frozenset(known) if names else frozenset()
    if unknown := set(names) - set(known):
        raise StateError(
            f"'{ir.name}' has no state {sorted(unknown)}",
            got=list(names),
            wanted=f"states among {known}",
            fix="check the spelling against g.state(...); g.output(...) gives other values out",
        )
    return frozenset(names)


def read(
    ir: IR,
    inputs: Mapping[str, Any],
    lengths: Mapping[str, Any] | None,
    state: Mapping[str, Tensor] | None,
    device: torch.device | None,
) -> Call:
    """The checked call. Raises a CallError that names the argument which does not fit."""
    check_materialized(device)
    wanted = declared(ir)
    check_known(ir, inputs, list(wanted))
    for name, node in wanted.items():
        if inputs.get(name) is None:
            raise MissingInputError(
                f"input '{name}' was not given",
                node=name,
                site=node.site,
                got=f"inputs {list(inputs)}",
                wanted=f"{name}: a tensor {_signature(ir, node)}",
                fix=f"call model({name}=...)",
            )
    sizes = {name: axis.length for name, axis in ir.axes.items() if axis.length is not None}
    for name, node in wanted.items():
        device = _input(ir, node, inputs[name], sizes, device)
    if BATCH not in sizes:
        sizes[BATCH] = 1
    for axis in ir.axes.values():
        if axis.copy_of:
            sizes[axis.name] = sizes[axis.copy_of]
    device = device or torch.device("cpu")
    if lengths is not None and not isinstance(lengths, Mapping):
        raise LengthsError(
            "`lengths` does not name an axis",
            got=type(lengths).__name__,
            wanted="a dict from the name of an axis to one number per example",
            fix="lengths={'time': torch.tensor([...])}",
        )
    ragged = {a: _lengths(ir, a, n, sizes, device) for a, n in (lengths or {}).items()}
    return Call(
        {k: inputs[k] for k in wanted}, sizes, ragged, _state(ir, state, sizes, device), device
    )


def check_known(ir: IR, inputs: Mapping[str, Any], wanted: list[str]) -> None:
    """Raise UnknownInputError if an input is not among those wanted."""
    for name in inputs:
        if name not in wanted:
            raise UnknownInputError(
                f"'{ir.name}' has no input '{name}'",
                got=name,
                wanted=f"inputs {wanted}",
                fix="check the spelling against g.input(...)",
            )


def _signature(ir: IR, node: Node) -> str:
    shape = ", ".join(["batch", *node.attrs["over"], *map(str, node.shape)])
    return f"({shape}) of {node.dtype}"


def _input(
    ir: IR, node: Node, tensor: Any, sizes: dict[str, int], device: torch.device | None
) -> torch.device:
    """Check one input, and add the lengths of its axes to `sizes`. Returns its device."""
    name = node.attrs["key"]
    if not is_tensor(tensor):
        raise InputShapeError(
            f"input '{name}' is not a tensor",
            node=name,
            site=node.site,
            got=type(tensor).__name__,
            wanted=_signature(ir, node),
            fix=tensor_of(tensor, name, (*node.attrs["over"], "time")[0], node.dtype),
        )
    check_dense(tensor, name, (*node.attrs["over"], "time")[0], node=name, site=node.site)
    _check_shape(ir, node, tensor)
    for axis, size in zip((BATCH, *node.attrs["over"]), tensor.shape, strict=False):
        _check_length(node, tensor, axis, size, sizes)
    if tensor.dtype != node.dtype and not _autocast_reads(tensor, node):
        raise InputDtypeError(
            f"input '{name}' has the wrong dtype",
            node=name,
            site=node.site,
            got=tensor.dtype,
            wanted=node.dtype,
            fix=f"{name}.to({node.dtype}), or move the model: model.to({tensor.dtype})"
            if node.dtype.is_floating_point and tensor.dtype.is_floating_point
            else f"{name}.to({node.dtype})",
        )
    _check_device(node, tensor, device)
    return tensor.device


def _check_shape(ir: IR, node: Node, tensor: Tensor) -> None:
    """Raise InputShapeError unless a tensor has the axes and the shape of its input."""
    shape, axes = tuple(tensor.shape), 1 + len(node.attrs["over"])
    if len(shape) != axes + len(node.shape) or shape[axes:] != node.shape:
        raise InputShapeError(
            f"input '{node.attrs['key']}' has the wrong shape",
            node=node.attrs["key"],
            site=node.site,
            got=shape,
            wanted=_signature(ir, node),
            fix="the batch comes first, then the named axes, then the declared shape",
        )


def _check_length(node: Node, tensor: Tensor, axis: str, size: int, sizes: dict[str, int]) -> None:
    """Raise InputShapeError if the length of an axis differs from other inputs, or is zero."""
    name, shape = node.attrs["key"], tuple(tensor.shape)
    if sizes.setdefault(axis, size) != size:
        raise InputShapeError(
            f"input '{name}' disagrees about the length of '{axis}'",
            node=name,
            site=node.site,
            got=f"{axis} = {size} in {shape}",
            wanted=f"{axis} = {sizes[axis]}, as declared or as in other inputs",
            fix="give tensors of equal batch and axes; pad them, with lengths={...}",
        )
    if size == 0 and axis != BATCH:
        raise InputShapeError(
            f"axis '{axis}' of input '{name}' is empty",
            node=name,
            site=node.site,
            got=shape,
            wanted=f"{axis} of 1 or more",
            fix="pad to one position, and give lengths={...}",
        )


def _check_device(node: Node, tensor: Tensor, device: torch.device | None) -> None:
    """Raise InputDeviceError if a tensor is on another device than the model."""
    name = node.attrs["key"]
    if device is not None and tensor.device != device:
        raise InputDeviceError(
            f"input '{name}' is on another device than the model",
            node=name,
            site=node.site,
            got=tensor.device,
            wanted=device,
            fix=f"{name}.to('{device}'), or model.to('{tensor.device}')"
            if tensor.device.type != "meta"
            else "give a tensor that has elements",
        )


def _autocast_reads(tensor: Tensor, node: Node) -> bool:
    """Whether autocast explains the dtype: an earlier layer may return its lower precision."""
    return (
        node.dtype.is_floating_point
        and tensor.dtype.is_floating_point
        and torch.is_autocast_enabled(tensor.device.type)
    )


def _lengths(ir: IR, axis: str, given: Any, sizes: dict[str, int], device: torch.device) -> Tensor:
    brought = {a for n in declared(ir).values() for a in n.attrs["over"]}
    if axis not in brought:
        raise LengthsError(
            f"lengths are given for '{axis}', an axis of no input",
            got=axis,
            wanted=f"axes among {sorted(brought)}",
            fix="check the spelling against g.input(..., over=...)",
        )
    n, batch = lengths_of(given, axis), sizes[BATCH]
    if n.dtype not in (torch.int64, torch.int32) or tuple(n.shape) != (batch,):
        raise LengthsError(
            f"lengths of '{axis}' have the wrong shape or dtype",
            got=f"{tuple(n.shape)} of {n.dtype}",
            wanted=f"({batch},) of torch.int64, one number per example",
            fix="lengths={'" + axis + "': torch.tensor([...])}",
        )
    return checked(n, sizes[axis], ir.name, axis, device)


def _state(ir: IR, state: Any, sizes: dict[str, int], device: torch.device) -> dict[str, Tensor]:
    """The checked initial states. Names with "@" are positions and lengths of a stream."""
    state = {} if state is None else state
    if not isinstance(state, Mapping):
        raise StateError(
            "`state` does not name a state",
            got=type(state).__name__,
            wanted="a dict from the names of states to tensors",
            fix="pass what return_state=True or initial_state() returned",
        )
    delays = {n.attrs["key"]: n for n in ir if n.op == "delay" and n.attrs["key"]}
    for name, tensor in state.items():
        if name.startswith("@") and name not in delays:
            continue
        if name not in delays:
            raise StateError(
                f"'{ir.name}' has no state '{name}'",
                got=name,
                wanted=f"states among {list(delays)}",
                fix="pass what return_state=True or initial_state() returned",
            )
        _check_state(ir, delays[name], tensor, sizes, device)
    return dict(state)


def _check_state(
    ir: IR, node: Node, tensor: Any, sizes: dict[str, int], device: torch.device
) -> None:
    """Raise StateError if a state has the wrong type, shape, dtype or device."""
    name = node.attrs["key"]
    shape = state_shape(ir, node, sizes)
    if not isinstance(tensor, Tensor):
        raise StateError(
            f"state '{name}' is not a tensor",
            node=name,
            site=node.site,
            got=type(tensor).__name__,
            wanted=f"{shape} of {node.dtype}",
            fix="wrap it with torch.as_tensor(...), or give the start as g.state(…, init=…)",
        )
    if tuple(tensor.shape) != shape:
        raise StateError(
            f"state '{name}' has the wrong shape",
            node=name,
            site=node.site,
            got=tuple(tensor.shape),
            wanted=shape,
            fix="shape is (batch, *axes, [delay slots,] *shape)",
        )
    fits = tensor.dtype == node.dtype or _autocast_reads(tensor, node)
    if not fits or tensor.device != device:
        raise StateError(
            f"state '{name}' has the wrong {'device' if fits else 'dtype'}",
            node=name,
            site=node.site,
            got=tensor.device if fits else tensor.dtype,
            wanted=device if fits else node.dtype,
            fix=f"state['{name}'].to({repr(str(device)) if fits else node.dtype})",
        )


def state_shape(ir: IR, node: Node, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """The shape of a delay's carried value: (batch, *axes, [slots,] *shape)."""
    axis, steps = node.attrs["axis"], abs(node.attrs["steps"])
    axes = [a for a in ir.layout(node.axes) if a not in (BATCH, axis)]
    slots = [steps] if steps > 1 else []
    return (sizes[BATCH], *(sizes[a] for a in axes), *slots, *node.shape)
