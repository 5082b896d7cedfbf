"""The modules that register sources of scenes: they lie above pictures, which imports none."""

from __future__ import annotations

import importlib

_MODULES: list[str] = []


def register_in(module: str) -> None:
    """Name a module that registers sources with `graphnn.pictures.drawing.scene_of`."""
    _MODULES.append(module)


def import_registered() -> None:
    """Import the named modules, once."""
    while _MODULES:
        importlib.import_module(_MODULES.pop())
