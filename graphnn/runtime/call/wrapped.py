"""Wrappers and tracers of torch around a call: those that cannot work with compiled models."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NoReturn

import torch
from torch import distributed, nn

from graphnn.backends.torch_compile import uncompiled
from graphnn.errors import TransformError, UnsupportedError
from graphnn.ir.source_location import user_site


def check_whole(owner: nn.Module) -> None:
    """Raise TransformError if a process holds only a part of each parameter."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return
    if any(hasattr(p, "device_mesh") for p in owner.parameters()):
        raise TransformError(
            "a call finds weights of which every process has a part",
            got="a DTensor: a module inside the model was sharded by itself",
            wanted="whole weights: those of a sharded module come together when it is called",
            fix="fully_shard(model) alone: its modules are not called one by one",
        )


@uncompiled
def not_compiled(call: Callable[..., Any], *args: Any) -> Any:
    """Make a call that torch.compile does not trace: one inside a transform of torch.func, which
    custom operators do not know."""
    return call(*args)


def check_untraced(args: Iterable[Any], inputs: dict[str, Any]) -> None:
    """Raise UnsupportedError under torch.jit.trace and torch.fx.symbolic_trace."""
    if torch.jit._trace.is_tracing():
        unsupported("torch.jit.trace", "use torch.export.export(model, (), {'x': x})")
    if _proxies((args, inputs)) or _proxies(args) or _proxies(inputs.values()):
        unsupported("torch.fx.symbolic_trace", "make the model a leaf: Tracer.is_leaf_module")


def _proxies(values: Iterable[Any]) -> bool:
    """Whether some values are proxies of torch.fx; it passes one for all positional arguments."""
    return any(isinstance(x, torch.fx.Proxy) for x in values)


def unsupported(wrapper: str, fix: str) -> NoReturn:
    """Raise UnsupportedError for a wrapper that cannot work with a compiled model."""
    raise UnsupportedError(
        f"{wrapper} cannot take a compiled model",
        site=user_site(),
        got=wrapper,
        wanted="the model itself, torch.compile, torch.export or DistributedDataParallel",
        fix=fix,
    )
