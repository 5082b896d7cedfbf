"""Pictures of networks: their graphs, unrolled, planned; and plots of what runs through them.

Names are imported when they are first used, so that `import graphnn` stays fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphnn.pictures.dot import to_dot, to_mermaid
    from graphnn.pictures.drawing import draw
    from graphnn.pictures.picture import Picture
    from graphnn.pictures.plots import Plot, alignment, attention_map, gradient_flow

_MODULE = {
    "Picture": "picture",
    "Plot": "plots",
    "alignment": "plots",
    "attention_map": "plots",
    "draw": "drawing",
    "gradient_flow": "plots",
    "to_dot": "dot",
    "to_mermaid": "dot",
}
__all__ = [
    "Picture",
    "Plot",
    "alignment",
    "attention_map",
    "draw",
    "gradient_flow",
    "to_dot",
    "to_mermaid",
]


def __getattr__(name: str) -> Any:
    """A public name, imported from where it is defined."""
    if name not in _MODULE:
        raise AttributeError(f"module 'graphnn.pictures' has no attribute '{name}'")
    value = getattr(importlib.import_module(f"graphnn.pictures.{_MODULE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
