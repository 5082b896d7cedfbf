"""Guards: what a trace reads of its modules, so that later calls know whether it is still valid.

All that `graph(self, g)` reads of a module is compared at every call: attributes, submodules, the
set of parameters, hooks, training flags, elements of buffers, and attributes of the class. If
anything differs, the module is traced again. Globals and closures are read once. Attributes that a
trace reads and then changes itself are in `Guards.changed`.
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

# the attributes of a module or of a class
Place = Mapping[str, Any]
_LOCAL = threading.local()
_ABSENT = object()
# dicts of a module that are compared as a whole
READ_WHOLE = frozenset(
    "_modules _forward_hooks _forward_pre_hooks _backward_hooks _backward_pre_hooks".split()
)
# dicts in which `nn.Module.__getattr__` looks up a name
LOOKED_UP = ("_parameters", "_buffers", "_modules")
PLAIN_TYPES = (bool, int, float, complex, str, bytes, type(None))
# modules whose objects do not affect a graph, but refer to everything in a program
OPAQUE_MODULES = frozenset(("logging", "threading"))
# limits of a comparison: the depth, the number of values, and the bytes of an array
MAX_DEPTH, MAX_VALUES, MAX_BYTES = 12, 2000, 1 << 20


class Guards:
    """What one trace has read. `holds()` is true if it would read the same now."""

    def __init__(self, root: nn.Module):
        self.before = {id(m.__dict__): (m, dict(m.__dict__)) for m in root.modules()}
        self.classes = {id(c): dict(c.__dict__) for c in user_classes(root)}
        dicts = [m.__dict__[kind] for m in root.modules() for kind in ("_parameters", "_buffers")]
        self.registered = {id(d): (d, dict(d)) for d in dicts}
        self.reads: dict[tuple[int, str], tuple[Place, str, Any]] = {}
        self.fingerprints: dict[tuple[int, str], Any] = {}
        # attributes that were read, and changed later in the trace
        self.changed: list[tuple[str, Any]] = []
        self.checks: list[Callable[[], bool]] = []
        self.identical: list[tuple[Place, str, Any]] = []
        self.empty_dicts: list[dict[Any, Any]] = []
        self.tensors: dict[int, tuple[torch.Tensor, int]] = {}

    def note_elements(self, x: torch.Tensor) -> None:
        """Note that elements of a tensor were read: if they change, the trace is invalid."""
        self.tensors[id(x)] = (x, x._version)

    def note(self, place: Place, name: str, value: Any, owner: Any = None) -> None:
        """Note that `place[name]` was read as `value`, unless the trace had written it before."""
        key = (id(place if owner is None else owner), name)
        if key in self.reads:
            return
        _, before = self.before.get(key[0], (None, {name: value}))
        if before.get(name, _ABSENT) is value:
            self.reads[key] = (place, name, value)
            if not _is_atomic(value):
                self.fingerprints[key] = _fingerprint(value)

    def note_inherited(self, module: nn.Module, namespace: dict[str, Any], name: str) -> None:
        """Note that an attribute of a module's class was read.

        It is compared in the class that defines it, and nothing may shadow it later.
        """
        classes = type(module).__mro__
        at = next((i for i, c in enumerate(classes) if name in c.__dict__), None)
        if at is None or (name != "forward" and _is_library_class(classes[at])):
            return
        self.note(namespace, name, _ABSENT)
        for c in classes[: at + 1]:
            # a trace reads and writes `type(self).name` unseen: the value before it counts
            before = self.classes.get(id(c), c.__dict__)
            self.note(c.__dict__, name, before.get(name, _ABSENT), owner=c)

    def finish(self, root: nn.Module) -> None:
        """Make the checks of all that was read, except for what the trace wrote itself."""
        self._check_no_value_stored()
        self.changed = [(k[1], r[2]) for k, r in self.reads.items() if self._has_changed(k, *r)]
        written = self._restore_written()
        for (i, name), (place, _, value) in self.reads.items():
            if (i, name) in written or place.get(name, _ABSENT) is not value:
                continue
            if name in READ_WHOLE and value == {}:
                self.empty_dicts.append(value)
            elif _is_atomic(value):
                self.identical.append((place, name, value))
            else:
                self.checks.append(_deep_check(place, name, value))
        self.checks += _ties(root)
        places = {id(value): (place, name) for place, name, value in self.reads.values()}
        self.checks += [_version(x, v, places.get(i)) for i, (x, v) in self.tensors.items()]
        self.before.clear()
        self.classes.clear()
        self.reads.clear()
        self.fingerprints.clear()
        self.registered = {i: (d, {}) for i, (d, _) in self.registered.items()}

    def _has_changed(self, key: tuple[int, str], place: Place, name: str, value: Any) -> bool:
        """Whether an attribute that was read has changed after the trace."""
        classes = isinstance(place, types.MappingProxyType)
        if (key[0] not in self.before and not classes) or name in READ_WHOLE:
            return False
        now = place.get(name, _ABSENT)
        if now is value:
            return key in self.fingerprints and _fingerprint(value) != self.fingerprints[key]
        return not self._equivalent(place, now, value)

    def _check_no_value_stored(self) -> None:
        """Raise UnsupportedError if the trace stored a value in an attribute that it reads."""
        for place, name, value in self.reads.values():
            now = place.get(name)
            if is_value(now) and not is_value(value) and value is not _ABSENT:
                assert isinstance(place, dict)
                place[name] = value
                _refuse_stored(name, now)
        for namespace, before in self.registered.values():
            for name in [n for n, x in namespace.items() if is_value(x)]:
                now, namespace[name] = namespace[name], before.get(name)
                _refuse_stored(name, now)

    def _restore_written(self) -> set[tuple[int, str]]:
        """The attributes that the trace set; tensors that it replaced by values are restored."""
        found = set()
        for module, before in self.before.values():
            now = module.__dict__
            for name in [n for n, v in now.items() if before.get(n, _ABSENT) is not v]:
                found.add((id(now), name))
                if is_value(now[name]) and isinstance(before.get(name), torch.Tensor):
                    now[name] = before[name]
        return found

    def _equivalent(self, place: Place, now: Any, value: Any) -> bool:
        """Whether another value gives the same graph.

        It does if it is an equal number, or a parameter or buffer of the same shape and dtype.
        """
        if id(place) in self.registered and isinstance(now, torch.Tensor) and value is not None:
            return now.shape == value.shape and now.dtype == value.dtype
        return type(now) is type(value) and isinstance(value, PLAIN_TYPES) and now == value

    def holds(self) -> bool:
        """Whether a trace would give the same graph now."""
        if any(self.empty_dicts):
            return False
        for place, name, value in self.identical:
            now = place.get(name, _ABSENT)
            if now is not value and not self._equivalent(place, now, value):
                return False
        return all(check() for check in self.checks)


def _refuse_stored(name: str, value: Any) -> None:
    raise UnsupportedError(
        f"a module cannot store the value '{name}' from call to call",
        node=name,
        site=value.node.site,
        got=f"self.{name} = {value!r}, an attribute that graph() reads, or a buffer",
        wanted="a state for what changes from position to position or from call to call",
        fix=f"write z = g.state('{name}', …), z.next = …; then call model(…, "
        "return_state=True), and pass the result to the next call as state=",
    )


def refuse_changed(name: str, value: Any, site: Site | None) -> None:
    """Raise UnsupportedError: a trace reads and changes an attribute, so traces would differ."""
    raise UnsupportedError(
        f"a module cannot change '{name}' from call to call in graph()",
        node=name,
        site=site,
        got=f"self.{name}, which graph() reads (first as {value!r}) and changes, so that the next "
        "trace gives another graph",
        wanted="a state for what changes from position to position; attributes set outside of "
        "graph() for what changes from call to call",
        fix=f"write z = g.state('{name}', …), z.next = …; or set a buffer before each call",
    )


def _is_library_class(owner: type) -> bool:
    """Whether a class is part of torch or Python, whose attributes do not change."""
    return owner.__module__.partition(".")[0] in ("torch", "builtins")


def user_classes(root: nn.Module) -> set[type]:
    """The classes of modules and their base classes, except those of torch and Python."""
    return {c for m in root.modules() for c in type(m).__mro__ if not _is_library_class(c)}


def _is_atomic(value: Any) -> bool:
    """Whether only the value itself is compared: numbers by value, all else by identity."""
    plain = (nn.Module, torch.Tensor, torch.dtype)
    if isinstance(value, tuple):
        return all(isinstance(v, PLAIN_TYPES) for v in value)
    if isinstance(value, type):
        return _is_library_class(value)
    described = hasattr(type(value), "__get__") and not isinstance(value, functools.partial)
    return described or isinstance(value, (*PLAIN_TYPES, *plain)) or value is _ABSENT


def _deep_check(place: Place, name: str, value: Any) -> Callable[[], bool]:
    """The check of a container or an object and of its contents."""
    if isinstance(value, dict) and all(_is_atomic(v) for v in value.values()):
        known: dict[Any, Any] = value
        keys, namespace = list(known), list(known.values())
        return lambda: (
            place.get(name) is known
            and list(known) == keys
            and all(map(operator.is_, known.values(), namespace))
        )
    fingerprint = _fingerprint(value)
    return lambda: place.get(name) is value and _fingerprint(value) == fingerprint


def _fingerprint(value: Any) -> Any:
    """All that can change within a value while its identity stays."""
    return _print(value, MAX_DEPTH, [MAX_VALUES], set())


def _print(value: Any, depth: int, left: list[int], seen: set[int]) -> Any:
    """The fingerprint of a part; `depth` and `left` limit how much is compared."""
    left[0] -= 1
    if isinstance(value, PLAIN_TYPES):
        return (type(value).__name__, value)
    if depth == 0 or left[0] < 0 or _is_atomic(value) or is_value(value):
        return id(value)
    if isinstance(value, dict):
        items = list(value.items())
        keys = tuple(k if isinstance(k, PLAIN_TYPES) else id(k) for k, _ in items)
        return keys, tuple(_print(v, depth - 1, left, seen) for _, v in items)
    if isinstance(value, (list, tuple, deque)):
        return tuple(_print(v, depth - 1, left, seen) for v in value)
    if isinstance(value, (set, frozenset)):
        return frozenset(_print(v, depth - 1, left, seen) for v in value)
    if type(value).__module__ == "numpy" and hasattr(value, "tobytes"):
        return _array(value)
    if isinstance(value, types.ModuleType) or type(value).__module__ in OPAQUE_MODULES:
        return id(value)
    if id(value) in seen or depth == 1:
        return id(value)
    seen.add(id(value))
    # the containers of parts are temporary: their identity means nothing
    return (
        id(value),
        *(_print(p, depth - 1, left, seen) for p in _parts(value) if left[0] > 0),
    )


def _array(value: Any) -> Any:
    """The fingerprint of a NumPy array."""
    elements = value.tobytes() if value.nbytes <= MAX_BYTES else id(value)
    return (str(value.dtype), value.shape, elements)


def _parts(value: Any) -> Iterator[Any]:
    """The attributes of an object and its class, or of a class and its base classes."""
    if isinstance(value, type):
        for c in value.__mro__:
            if not _is_library_class(c):
                yield {k: v for k, v in vars(c).items() if not k.startswith("__")}
        return
    if isinstance(value, functools.partial):
        yield (value.func, value.args, value.keywords)
    yield getattr(value, "__dict__", {})
    for c in type(value).__mro__:
        slots = c.__dict__.get("__slots__", ())
        yield [getattr(value, n, None) for n in ((slots,) if isinstance(slots, str) else slots)]
    yield type(value)


def _version(x: torch.Tensor, version: int, found: tuple[Place, str] | None) -> Callable[[], bool]:
    """The check of a tensor whose elements were read: it is in its place and unchanged."""
    place, name = found or ({"": x}, "")
    return lambda: place.get(name) is x and x._version == version


def _ties(root: nn.Module) -> list[Callable[[], bool]]:
    """The checks that tensors registered under several names, traced as one, are still one."""
    first: dict[int, tuple[dict[str, Any], str]] = {}
    checks = []
    for module in root.modules():
        for kind in ("_parameters", "_buffers"):
            place = module.__dict__[kind]
            for name, x in place.items():
                if x is None:
                    continue
                if id(x) in first:
                    checks.append(_tied(*first[id(x)], place, name))
                else:
                    first[id(x)] = (place, name)
    return checks


def _tied(a: dict[str, Any], x: str, b: dict[str, Any], y: str) -> Callable[[], bool]:
    return lambda: a.get(x) is b.get(y)


# --- reads of modules


def _getattribute(self: nn.Module, name: str) -> Any:
    value = object.__getattribute__(self, name)
    guards = getattr(_LOCAL, "guards", None)
    if guards is not None and not name.startswith("__"):
        namespace = object.__getattribute__(self, "__dict__")
        if name in namespace:
            if name in READ_WHOLE:
                _whole(guards, namespace, name)
            elif name not in ("_parameters", "_buffers"):
                guards.note(namespace, name, value)
        else:
            guards.note_inherited(self, namespace, name)
    return value


def _whole(guards: Guards, namespace: dict[str, Any], name: str) -> None:
    """Note a dict that is compared as a whole, even if its name is bound to another one later."""
    guards.reads.setdefault((id(namespace), name), (namespace, name, namespace[name]))


_PLAIN = nn.Module.__getattr__


def _getattr(self: nn.Module, name: str) -> Any:
    guards = getattr(_LOCAL, "guards", None)
    if guards is not None:
        namespace = object.__getattribute__(self, "__dict__")
        for place in (namespace.get(kind, {}) for kind in LOOKED_UP):
            if name in place:
                guards.note(place, name, place[name])
                return place[name]
    return _PLAIN(self, name)


_READS = Patch(attributes(nn.Module, __getattribute__=_getattribute, __getattr__=_getattr))


@contextmanager
def unguarded() -> Iterator[None]:
    """Within this context, reads of modules are those of the library, and are not noted."""
    before = getattr(_LOCAL, "guards", None)
    _LOCAL.guards = None
    try:
        yield
    finally:
        _LOCAL.guards = before


@contextmanager
def guarding(root: nn.Module) -> Iterator[Guards]:
    """Note all reads of modules in this thread, and make guards of them."""
    guards, before = Guards(root), getattr(_LOCAL, "guards", None)
    _LOCAL.guards = guards
    try:
        with _READS.applied():
            yield guards
    finally:
        _LOCAL.guards = before
    guards.finish(root)
