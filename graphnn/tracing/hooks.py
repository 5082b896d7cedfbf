"""Forward hooks: those that return a value are traced, those that return None are refused.

A hook that returns None would run once, on symbolic values, during the trace, and at no call.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.utils.spectral_norm import SpectralNorm

from graphnn.errors import UnsupportedError
from graphnn.ir.source_location import user_site

BACKWARD = ("_backward_hooks", "_backward_pre_hooks")
FORWARD = ("_forward_hooks", "_forward_pre_hooks")


@contextmanager
def checked(root: nn.Module) -> Iterator[None]:
    """While a module is traced, its hooks raise UnsupportedError if they cannot be in a graph."""
    names = {id(m): path or type(m).__name__ for path, m in root.named_modules()}
    before = []
    for module in root.modules():
        namespace = module.__dict__
        if module is root and any(namespace[kind] for kind in (*FORWARD, *BACKWARD)):
            _refuse(names[id(module)], "has a hook but is never called: the model is", "model")
        if any(namespace[kind] for kind in BACKWARD):
            _refuse(names[id(module)], "has a backward hook, which no graph calls", "its output")
        for kind in FORWARD:
            before.append((namespace[kind], dict(namespace[kind])))
            for i, hook in list(namespace[kind].items()):
                if isinstance(hook, SpectralNorm) and module.training:
                    _refuse_spectral(names[id(module)])
                namespace[kind][i] = _checked(hook, names[id(module)])
    try:
        yield
    finally:
        for hooks, was in before:
            hooks.update(was)


def _checked(hook: Any, name: str) -> Any:
    """The hook, which must return a value unless it is one of torch's that compute weights."""
    if type(hook).__module__.startswith("torch.nn.utils"):
        return hook

    def call(*args: Any, **kwargs: Any) -> Any:
        result = hook(*args, **kwargs)
        if result is None:
            _refuse(name, f"has a hook that returns None ({_name(hook)})", "value")
        return result

    return call


def _refuse_spectral(name: str) -> None:
    raise UnsupportedError(
        f"module '{name}' has torch's older spectral_norm, which changes its buffers at each call",
        node=name,
        site=user_site(),
        got="torch.nn.utils.spectral_norm, in training",
        wanted="a parametrization, which is computed once per call",
        fix="use torch.nn.utils.parametrizations.spectral_norm",
    )


def _name(hook: Any) -> str:
    return getattr(hook, "__qualname__", type(hook).__name__)


def _refuse(name: str, what: str, of: str) -> None:
    raise UnsupportedError(
        f"module '{name}' {what}",
        node=name,
        site=user_site(),
        got="a hook, which would run once, on symbolic values, during the trace",
        wanted="no hook within a graph, or a forward hook that returns a value",
        fix="declare what it reads by g.output(…), or call model(…, record=[…]) for states"
        if of != "model"
        else "register the hook on what gn.compile returns",
    )
