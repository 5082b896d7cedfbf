"""watch: what a drawing reads of its modules, so that a later call knows whether it still holds.

The rule: what `graph()` reads of a module (attributes, submodules, which parameters there are,
hooks, training flags, numbers of buffers, what its class defines) is compared at every call, and
the graph is drawn anew where it differs. Globals and closures are read once. What a drawing reads
and then changes itself is in `changed`.
"""

from __future__ import annotations

import functools
import operator
import threading
import types
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from graphnn.errors import UnsupportedError
from graphnn.ir.source_location import Site
from graphnn.tracing.effects.patches import Patch, attributes
from graphnn.tracing.effects.symbolic import is_value

# the attributes of a module, or of a class
Place = Mapping[str, Any]
_LOCAL = threading.local()
_ABSENT = object()
# dicts of a module that are read as a whole, where they are
WHOLE = frozenset(
    "_modules _forward_hooks _forward_pre_hooks _backward_hooks _backward_pre_hooks".split()
)
# dicts in which a module's `__getattr__` looks a name up
LOOKED = ("_parameters", "_buffers", "_modules")
NUMBERS = (bool, int, float, complex, str, bytes, type(None))
# where objects come from that say nothing of a graph, and lead to all of a program's
OPAQUE = frozenset(("logging", "threading"))
# how deep a value is compared, how many values in it, and the bytes of an array
DEEPEST, MOST, BYTES = 12, 2000, 1 << 20


class Watch:
    """The readings of one drawing. `holds()` says whether all would be read alike now."""

    def __init__(self, root: nn.Module):
        self.before = {id(m.__dict__): (m, dict(m.__dict__)) for m in root.modules()}
        self.classes = {id(c): dict(c.__dict__) for c in users_classes(root)}
        held = [m.__dict__[kind] for m in root.modules() for kind in ("_parameters", "_buffers")]
        self.registers = {id(d): (d, dict(d)) for d in held}
        self.read: dict[tuple[int, str], tuple[Place, str, Any]] = {}
        self.prints: dict[tuple[int, str], Any] = {}
        # attributes that were read, and hold something else since
        self.changed: list[tuple[str, Any]] = []
        self.checks: list[Callable[[], bool]] = []
        self.same: list[tuple[Place, str, Any]] = []
        self.empty: list[dict[Any, Any]] = []
        self.tensors: dict[int, tuple[torch.Tensor, int]] = {}

    def number(self, x: torch.Tensor) -> None:
        """Numbers of a tensor were read: a later change of it counts."""
        self.tensors[id(x)] = (x, x._version)

    def note(self, where: Place, name: str, value: Any, owner: Any = None) -> None:
        """`where[name]` was read as `value`; what the drawing had written before does not count."""
        key = (id(where if owner is None else owner), name)
        if key in self.read:
            return
        _, before = self.before.get(key[0], (None, {name: value}))
        if before.get(name, _ABSENT) is value:
            self.read[key] = (where, name, value)
            if not _simple(value):
                self.prints[key] = _printed(value)

    def inherited(self, module: nn.Module, held: dict[str, Any], name: str) -> None:
        """An attribute of a module's class was read: it is compared where it is defined, and
        nothing may come to stand before it."""
        classes = type(module).__mro__
        at = next((i for i, c in enumerate(classes) if name in c.__dict__), None)
        if at is None or (name != "forward" and _torchs(classes[at])):
            return
        self.note(held, name, _ABSENT)
        for c in classes[: at + 1]:
            # a drawing reads and writes `type(self).name` unseen: what it was before counts
            before = self.classes.get(id(c), c.__dict__)
            self.note(c.__dict__, name, before.get(name, _ABSENT), owner=c)

    def settle(self, root: nn.Module) -> None:
        """Make the checks of what was read, less what the drawing wrote itself."""
        self._nothing_carried()
        self.changed = [(k[1], r[2]) for k, r in self.read.items() if self._moved(k, *r)]
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
        self.classes.clear()
        self.read.clear()
        self.prints.clear()
        self.registers = {i: (d, {}) for i, (d, _) in self.registers.items()}

    def _moved(self, key: tuple[int, str], where: Place, name: str, value: Any) -> bool:
        """Whether what was read holds something else after the drawing."""
        classes = isinstance(where, types.MappingProxyType)
        if (key[0] not in self.before and not classes) or name in WHOLE:
            return False
        now = where.get(name, _ABSENT)
        if now is value:
            return key in self.prints and _printed(value) != self.prints[key]
        return not self._alike(where, now, value)

    def _nothing_carried(self) -> None:
        """Refuse what a drawing would carry from one call to the next in a module."""
        for where, name, value in self.read.values():
            now = where.get(name)
            if is_value(now) and not is_value(value) and value is not _ABSENT:
                assert isinstance(where, dict)
                where[name] = value
                _refuse_carried(name, now)
        for held, before in self.registers.values():
            for name in [n for n, x in held.items() if is_value(x)]:
                now, held[name] = held[name], before.get(name)
                _refuse_carried(name, now)

    def _written(self) -> set[tuple[int, str]]:
        """Attributes that the drawing set; tensors that it replaced by values are put back."""
        found = set()
        for module, before in self.before.values():
            now = module.__dict__
            for name in [n for n, v in now.items() if before.get(n, _ABSENT) is not v]:
                found.add((id(now), name))
                if is_value(now[name]) and isinstance(before.get(name), torch.Tensor):
                    now[name] = before[name]
        return found

    def _alike(self, where: Place, now: Any, value: Any) -> bool:
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


def _refuse_carried(name: str, value: Any) -> None:
    raise UnsupportedError(
        f"a module cannot carry '{name}' from call to call in a graph",
        node=name,
        site=value.node.site,
        got=f"self.{name} = {value!r}, which graph() reads, or which is a buffer",
        wanted="what changes from position to position as a state, and from call to call as one",
        fix=f"z = g.state('{name}', …), z.next = …; model(…, return_state=True), then state=",
    )


def refuse_changed(name: str, value: Any, site: Site | None) -> None:
    """Refuse an attribute that the drawing reads and changes, so that each would differ."""
    raise UnsupportedError(
        f"a module cannot carry '{name}' from call to call in a graph",
        node=name,
        site=site,
        got=f"self.{name}, which graph() reads (at first as {value!r}) and changes: "
        "another graph is drawn of it",
        wanted="what changes from position to position as a state, and what changes from call to "
        "call set outside of graph()",
        fix=f"z = g.state('{name}', …), z.next = …; or a buffer '{name}', set before each call",
    )


def _torchs(owner: type) -> bool:
    """Whether a class is torch's, or Python's own, which nobody changes."""
    return owner.__module__.partition(".")[0] in ("torch", "builtins")


def users_classes(root: nn.Module) -> set[type]:
    """The classes of modules, and those they are of, that are not torch's."""
    return {c for m in root.modules() for c in type(m).__mro__ if not _torchs(c)}


def _simple(value: Any) -> bool:
    """Whether a value is compared as it is: numbers by what they say, all else by identity."""
    plain = (nn.Module, torch.Tensor, torch.dtype)
    if isinstance(value, tuple):
        return all(isinstance(v, NUMBERS) for v in value)
    if isinstance(value, type):
        return _torchs(value)
    described = hasattr(type(value), "__get__") and not isinstance(value, functools.partial)
    return described or isinstance(value, (*NUMBERS, *plain)) or value is _ABSENT


def _unlike(where: Place, name: str, value: Any) -> Callable[[], bool]:
    """The check of a container or an object: what it holds."""
    if isinstance(value, dict) and all(_simple(v) for v in value.values()):
        known: dict[Any, Any] = value
        keys, held = list(known), list(known.values())
        return lambda: (
            where.get(name) is known
            and list(known) == keys
            and all(map(operator.is_, known.values(), held))
        )
    print_ = _printed(value)
    return lambda: where.get(name) is value and _printed(value) == print_


def _printed(value: Any) -> Any:
    return _print(value, DEEPEST, [MOST], set())


def _print(value: Any, depth: int, left: list[int], seen: set[int]) -> Any:
    """What can change within a value without its becoming another."""
    left[0] -= 1
    if isinstance(value, NUMBERS):
        return (type(value).__name__, value)
    if depth == 0 or left[0] < 0 or _simple(value) or is_value(value):
        return id(value)
    if isinstance(value, dict):
        items = list(value.items())
        keys = tuple(k if isinstance(k, NUMBERS) else id(k) for k, _ in items)
        return keys, tuple(_print(v, depth - 1, left, seen) for _, v in items)
    if isinstance(value, (list, tuple, deque)):
        return tuple(_print(v, depth - 1, left, seen) for v in value)
    if isinstance(value, (set, frozenset)):
        return frozenset(_print(v, depth - 1, left, seen) for v in value)
    if type(value).__module__ == "numpy" and hasattr(value, "tobytes"):
        return _array(value)
    if isinstance(value, types.ModuleType) or type(value).__module__ in OPAQUE:
        return id(value)
    if id(value) in seen or depth == 1:
        return id(value)
    seen.add(id(value))
    # parts are made to be looked at: what is left of them says nothing by its identity
    return (
        id(value),
        *(_print(p, depth - 1, left, seen) for p in _parts(value) if left[0] > 0),
    )


def _array(value: Any) -> Any:
    """What an array of numpy says."""
    said = value.tobytes() if value.nbytes <= BYTES else id(value)
    return (str(value.dtype), value.shape, said)


def _parts(value: Any) -> Iterator[Any]:
    """What an object holds, in itself and in its class; what a class holds, and those it is of."""
    if isinstance(value, type):
        for c in value.__mro__:
            if not _torchs(c):
                yield {k: v for k, v in vars(c).items() if not k.startswith("__")}
        return
    if isinstance(value, functools.partial):
        yield (value.func, value.args, value.keywords)
    yield getattr(value, "__dict__", {})
    for c in type(value).__mro__:
        slots = c.__dict__.get("__slots__", ())
        yield [getattr(value, n, None) for n in ((slots,) if isinstance(slots, str) else slots)]
    yield type(value)


def _version(x: torch.Tensor, version: int, place: tuple[Place, str] | None) -> Callable[[], bool]:
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
        else:
            watch.inherited(self, held, name)
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
