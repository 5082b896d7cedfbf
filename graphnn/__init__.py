"""graphnn: neural architectures as graphs of modules with loops closed through delays.

`import graphnn` imports nothing else, not even torch: public names are imported when they are first
used, all that models need at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from graphnn.pictures.sources import register_in

if TYPE_CHECKING:
    from graphnn import errors, nn, pictures
    from graphnn.frontend.attention import attend, lookup
    from graphnn.frontend.functions import (
        along,
        argmax,
        clip_gradient,
        cosine,
        delay,
        dot,
        entropy,
        first,
        index,
        last,
        length,
        logsumexp,
        max,
        mean,
        rename,
        reverse,
        roll,
        softmax,
        sum,
        top,
        until,
    )
    from graphnn.frontend.graph import Graph
    from graphnn.frontend.value import State, Value
    from graphnn.runtime.model import Compiled, compile
    from graphnn.tools.compare import compare
    from graphnn.tools.gradient_flow import gradient_flow
    from graphnn.tools.unroll import unroll
    from graphnn.tools.verification.verify import verify

__version__ = "0.1.0"

# Modules with public names that a user may first name while a graph is traced. They are imported
# together at the first use of one of them, so that no import happens under the patches of a trace.
_CORE = {
    "graphnn.frontend.attention": ("attend", "lookup"),
    "graphnn.frontend.functions": (
        *("along", "argmax", "clip_gradient", "cosine", "delay", "dot", "entropy", "first"),
        *("index", "last", "length", "logsumexp", "max", "mean", "rename", "reverse", "roll"),
        *("softmax", "sum", "top", "until"),
    ),
    "graphnn.frontend.graph": ("Graph",),
    "graphnn.frontend.value": ("State", "Value"),
    "graphnn.runtime.model": ("Compiled", "compile"),
    "graphnn.errors": (),
    "graphnn.nn": (),
}
# modules that are imported when one of their names is first used
_TOOLS = {
    "graphnn.pictures": (),
    "graphnn.tools.compare": ("compare",),
    "graphnn.tools.gradient_flow": ("gradient_flow",),
    "graphnn.tools.unroll": ("unroll",),
    "graphnn.tools.verification.verify": ("verify",),
}

__all__ = [
    "Compiled",
    "Graph",
    "State",
    "Value",
    "along",
    "argmax",
    "attend",
    "clip_gradient",
    "compare",
    "compile",
    "cosine",
    "delay",
    "dot",
    "entropy",
    "errors",
    "first",
    "gradient_flow",
    "index",
    "last",
    "length",
    "logsumexp",
    "lookup",
    "max",
    "mean",
    "nn",
    "pictures",
    "rename",
    "reverse",
    "roll",
    "softmax",
    "sum",
    "top",
    "unroll",
    "until",
    "verify",
]

# pictures of modules, graphs and compiled models; imported at the first drawing
register_in("graphnn.runtime.drawing")


def _import(modules: dict[str, tuple[str, ...]]) -> None:
    """Import modules and bind their public names here; a module without names is one itself."""
    for path, names in modules.items():
        module = importlib.import_module(path)
        globals().update({name: getattr(module, name) for name in names})


if not TYPE_CHECKING:  # type checkers see the imports above, and report names that do not exist

    def __getattr__(name: str) -> Any:
        if name in __all__:
            tools = {m: n for m, n in _TOOLS.items() if name in n or m == f"graphnn.{name}"}
            _import(tools or _CORE)
            return globals()[name]
        raise AttributeError(f"module 'graphnn' has no attribute '{name}'")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
