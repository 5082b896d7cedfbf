"""watch: what a drawing reads of its modules, so that a later call knows whether it still holds.

The rule: what `graph()` reads of a module (attributes, submodules, which parameters there are,
hooks, training flags, numbers of buffers) is compared at every call, and the graph is drawn anew
where it differs. Globals and closures are read once.
"""

from __future__ import annotations

import operator
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from graphnn.errors import UnsupportedError
from graphnn.tracing.patches import Patch, attributes

_LOCAL = threading.local()
_ABSENT = object()
# dicts of a module that are read as a whole, where they are
WHOLE = frozenset(
    "_modules _forward_hooks _forward_pre_hooks _backward_hooks _backward_pre_hooks".split()
)
# dicts in which a module's `__getattr__` looks a name up
LOOKED = ("_parameters", "_buffers", "_modules")
NUMBERS = (bool, int, float, complex, str, bytes, type(None))
DEEPEST, MOST = 3, 64


class Watch:
    """The readings of one drawing. `holds()` says whether all would be read alike now."""

    def __init__(self, root: nn.Module):
        self.before = [(m, dict(m.__dict__)) for m in root.modules()]
        held = [m.__dict__[kind] for m in root.modules() for kind in ("_parameters", "_buffers")]
        self.registers = {id(d): (d, dict(d)) for d in held}
        self.read: dict[tuple[int, str], tuple[dict[str, Any], str, Any]] = {}
        self.checks: list[Callable[[], bool]] = []
        self.same: list[tuple[dict[str, Any], str, Any]] = []
        self.empty: list[dict[Any, Any]] = []
        self.tensors: dict[int, tuple[torch.Tensor, int]] = {}

    def number(self, x: torch.Tensor) -> None:
        """Numbers of a tensor were read: a later change of it counts."""
        self.tensors[id(x)] = (x, x._version)

    def note(self, where: dict[str, Any], name: str, value: Any) -> None:
        """`where[name]` was read as `value`."""
        self.read.setdefault((id(where), name), (where, name, value))

    def settle(self, root: nn.Module) -> None:
        """Make the checks of what was read, less what the drawing wrote itself."""
        self._nothing_carried()
        written = self._written()
        for (i, name), (where, _, value) in self.read.items():
            if (i, name) in written or where.get(name, _ABSENT) is not value:
                continue
            if name in WHOLE and value == {}:
                self.empty.append(value)
            elif _simple(value):
                self.same.append((where, name, value))
            else:
                self.checks.append(_unlike(where, name, value))
        self.checks += _ties(root)
        places = {id(value): (where, name) for where, name, value in self.read.values()}
        self.checks += [_version(x, v, places.get(i)) for i, (x, v) in self.tensors.items()]
        self.before.clear()
        self.read.clear()
        self.registers = {i: (d, {}) for i, (d, _) in self.registers.items()}

    def _nothing_carried(self) -> None:
        """Refuse what a drawing would carry from one call to the next in a module."""
        for where, name, value in self.read.values():
            now = where.get(name)
            if _symbolic(now) and not _symbolic(value):
                where[name] = value
                _refuse_carried(name, now)
        for held, before in self.registers.values():
            for name in [n for n, x in held.items() if _symbolic(x)]:
                now, held[name] = held[name], before.get(name)
                _refuse_carried(name, now)

    def _written(self) -> set[tuple[int, str]]:
        """Attributes that the drawing set; tensors that it replaced by values are put back."""
        found = set()
        for module, before in self.before:
            now = module.__dict__
            for name in [n for n, v in now.items() if before.get(n, _ABSENT) is not v]:
                found.add((id(now), name))
                if _symbolic(now[name]) and isinstance(before.get(name), torch.Tensor):
                    now[name] = before[name]
        return found

    def _alike(self, where: dict[str, Any], now: Any, value: Any) -> bool:
        """Whether a graph is drawn the same of another value: an equal number, or a parameter or
        buffer of the same form."""
        if id(where) in self.registers and isinstance(now, torch.Tensor) and value is not None:
            return now.shape == value.shape and now.dtype == value.dtype
        return type(now) is type(value) and isinstance(value, NUMBERS) and now == value

    def holds(self) -> bool:
        """Whether the graph would be drawn the same now."""
        if any(self.empty):
            return False
        for where, name, value in self.same:
            now = where.get(name, _ABSENT)
            if now is not value and not self._alike(where, now, value):
                return False
        return all(check() for check in self.checks)


def _symbolic(x: Any) -> bool:
    return getattr(type(x), "is_graph_value", False)


def _refuse_carried(name: str, value: Any) -> None:
    raise UnsupportedError(
        f"a module cannot carry '{name}' from call to call in a graph",
        node=name,
        site=value.node.site,
        got=f"self.{name} = {value!r}, which graph() reads, or which is a buffer",
        wanted="what changes from position to position as a state, and from call to call as one",
        fix=f"z = g.state('{name}', …), z.next = …; model(…, return_state=True), then state=",
    )


def _simple(value: Any) -> bool:
    """Whether a value is compared as it is: numbers by what they say, all else by identity."""
    plain = (nn.Module, torch.Tensor, types.FunctionType, types.MethodType, type, torch.dtype)
    if isinstance(value, tuple):
        return all(isinstance(v, NUMBERS) for v in value)
    return isinstance(value, (*NUMBERS, *plain)) or value is _ABSENT


def _unlike(where: dict[str, Any], name: str, value: Any) -> Callable[[], bool]:
    """The check of a container or an object: what it holds."""
    if isinstance(value, dict) and all(_simple(v) for v in value.values()):
        known: dict[Any, Any] = value
        keys, held = list(known), list(known.values())
        return lambda: (
            where.get(name) is known
            and list(known) == keys
            and all(map(operator.is_, known.values(), held))
        )
    print_ = _print(value, DEEPEST, [MOST])
    return lambda: where.get(name) is value and _print(value, DEEPEST, [MOST]) == print_


def _print(value: Any, depth: int, left: list[int]) -> Any:
    """What can change within a value without its becoming another."""
    left[0] -= 1
    if isinstance(value, NUMBERS):
        return (type(value).__name__, value)
    if depth == 0 or left[0] < 0 or _simple(value):
        return id(value)
    if isinstance(value, dict):
        items = list(value.items())
        keys = tuple(k if isinstance(k, NUMBERS) else id(k) for k, _ in items)
        return keys, tuple(_print(v, depth - 1, left) for _, v in items)
    if isinstance(value, (list, tuple)):
        return tuple(_print(v, depth - 1, left) for v in value)
    if isinstance(value, (set, frozenset)):
        return frozenset(id(v) for v in value)
    held = getattr(value, "__dict__", None)
    if isinstance(held, dict) and not isinstance(value, types.ModuleType):
        return (id(value), _print(held, depth - 1, left))
    return id(value)


def _version(
    x: torch.Tensor, version: int, place: tuple[dict[str, Any], str] | None
) -> Callable[[], bool]:
    """The check of a tensor whose numbers were read: the same, where it was, and unchanged."""
    where, name = place or ({"": x}, "")
    return lambda: where.get(name) is x and x._version == version


def _ties(root: nn.Module) -> list[Callable[[], bool]]:
    """Tensors registered under several names were drawn as one: they must stay one."""
    first: dict[int, tuple[dict[str, Any], str]] = {}
    checks = []
    for module in root.modules():
        for kind in ("_parameters", "_buffers"):
            where = module.__dict__[kind]
            for name, x in where.items():
                if x is None:
                    continue
                if id(x) in first:
                    checks.append(_tied(*first[id(x)], where, name))
                else:
                    first[id(x)] = (where, name)
    return checks


def _tied(a: dict[str, Any], x: str, b: dict[str, Any], y: str) -> Callable[[], bool]:
    return lambda: a.get(x) is b.get(y)


# --- reading


def _getattribute(self: nn.Module, name: str) -> Any:
    value = object.__getattribute__(self, name)
    watch = getattr(_LOCAL, "watch", None)
    if watch is not None and not name.startswith("__"):
        held = object.__getattribute__(self, "__dict__")
        if name in held:
            if name in WHOLE:
                _whole(watch, held, name)
            elif name not in ("_parameters", "_buffers"):
                watch.note(held, name, value)
    return value


def _whole(watch: Watch, held: dict[str, Any], name: str) -> None:
    """A dict read as a whole: what it holds, whatever it is called by then."""
    watch.read.setdefault((id(held), name), (held, name, held[name]))


_PLAIN = nn.Module.__getattr__


def _getattr(self: nn.Module, name: str) -> Any:
    watch = getattr(_LOCAL, "watch", None)
    if watch is not None:
        held = object.__getattribute__(self, "__dict__")
        for where in (held.get(kind, {}) for kind in LOOKED):
            if name in where:
                watch.note(where, name, where[name])
                return where[name]
    return _PLAIN(self, name)


_READING = Patch(attributes(nn.Module, __getattribute__=_getattribute, __getattr__=_getattr))


@contextmanager
def paused() -> Iterator[None]:
    """What the library itself reads of modules is not the drawing's."""
    before = getattr(_LOCAL, "watch", None)
    _LOCAL.watch = None
    try:
        yield
    finally:
        _LOCAL.watch = before


@contextmanager
def watching(root: nn.Module) -> Iterator[Watch]:
    """Note what is read of modules, here and in this thread."""
    watch, before = Watch(root), getattr(_LOCAL, "watch", None)
    _LOCAL.watch = watch
    try:
        with _READING.held():
            yield watch
    finally:
        _LOCAL.watch = before
    watch.settle(root)
