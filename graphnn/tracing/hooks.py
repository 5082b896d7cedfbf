"""hooks: of a module's forward hooks, those that compute are drawn; those that look are refused.

A hook that returns nothing would see symbolic values once, at the drawing, and no call after it.
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
def drawn(root: nn.Module) -> Iterator[None]:
    """While a graph is drawn, hooks that look say so."""
    names = {id(m): path or type(m).__name__ for path, m in root.named_modules()}
    before = []
    for module in root.modules():
        held = module.__dict__
        if module is root and any(held[kind] for kind in (*FORWARD, *BACKWARD)):
            _refuse(names[id(module)], "is never called: the compiled model is", "model")
        if any(held[kind] for kind in BACKWARD):
            _refuse(names[id(module)], "has a backward hook, which no graph calls", "its output")
        for kind in FORWARD:
            before.append((held[kind], dict(held[kind])))
            for i, hook in list(held[kind].items()):
                if isinstance(hook, SpectralNorm) and module.training:
                    _refuse_spectral(names[id(module)])
                held[kind][i] = _asked(hook, names[id(module)])
    try:
        yield
    finally:
        for hooks, was in before:
            hooks.update(was)


def _asked(hook: Any, name: str) -> Any:
    """A hook that must compute something, but for those with which torch computes weights."""
    if type(hook).__module__.startswith("torch.nn.utils"):
        return hook

    def call(*args: Any, **kwargs: Any) -> Any:
        result = hook(*args, **kwargs)
        if result is None:
            _refuse(name, f"has a hook that only looks ({_called(hook)})", "what it looks at")
        return result

    return call


def _refuse_spectral(name: str) -> None:
    raise UnsupportedError(
        f"module '{name}' has torch's older spectral_norm, which changes its buffers at every call",
        node=name,
        site=user_site(),
        got="torch.nn.utils.spectral_norm, in training",
        wanted="a parametrization, which is computed once a call",
        fix="use torch.nn.utils.parametrizations.spectral_norm",
    )


def _called(hook: Any) -> str:
    return getattr(hook, "__qualname__", type(hook).__name__)


def _refuse(name: str, what: str, seen: str) -> None:
    raise UnsupportedError(
        f"module '{name}' {what}",
        node=name,
        site=user_site(),
        got="a hook, which would run once, on symbolic values, while the graph is drawn",
        wanted="no hook within a graph, or a forward hook that returns a value",
        fix="g.output(…) what it looks at, or model(…, record=[…]) for states"
        if seen != "model"
        else "register the hook on what gn.compile returns",
    )
