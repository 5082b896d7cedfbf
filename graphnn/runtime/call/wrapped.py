"""Calls that torch wraps: in processes that share the weights, and in transforms it compiles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import distributed, nn

from graphnn.backends.torch_compile import uncompiled
from graphnn.errors import TransformError


def check_whole(owner: nn.Module) -> None:
    """Refuse parameters of which each process has a part."""
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
    """A call that torch.compile leaves as it stands: one within a transform of torch.func, of which
    operators know nothing."""
    return call(*args)
