"""Where generated source and tuned choices live: `$XDG_CACHE_HOME/graphnn`, in private files.

What is run is the text given, never the text found; a file that differs from it is written anew.
The folder that XDG_CACHE_HOME names is trusted; what lies in `graphnn` under it is not.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import linecache
import logging
import os
import re
import shutil
import stat
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

_LOG = logging.getLogger(__name__)
_LOCK = threading.RLock()
_MODULES: weakref.WeakValueDictionary[str, ModuleType] = weakref.WeakValueDictionary()
_KINDS = "kernels", "tuned"
_TEMPORARY: list[Path] = []
# called with the name and the text of each source that is loaded
watchers: list[Callable[[str, str], None]] = []


def load(source: str, name: str) -> ModuleType:
    """The module of `source`, readable at `kernels/<name>_<hash>.py`, and run once while it lives.

    It lives as long as a caller holds it. `name` is a label: the same source under a second name is
    the same module.
    """
    digest = hashlib.sha256(source.encode()).hexdigest()
    with _LOCK:
        module = _MODULES.get(digest)
        if module is None:
            stem = f"{_plain(name)}_{digest[:16]}"
            path = _keep("kernels", f"{stem}.py", source.encode())
            module = _MODULES[digest] = _run(source, stem, str(path))
            for watcher in watchers:
                watcher(name, source)
        return module


def recall(key: Mapping[str, Any]) -> dict[str, Any] | None:
    """The choice remembered for `key`, if there is a sound one."""
    wanted = _canonical(key)
    for place in (_home(), *_TEMPORARY):
        try:
            entry = json.loads(_read(_private(place, "tuned") / _entry(wanted)) or b"")
            if _canonical(entry["key"]) == wanted and isinstance(entry["choice"], dict):
                return dict(entry["choice"])
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            continue
    return None


def remember(key: Mapping[str, Any], choice: Mapping[str, Any]) -> None:
    """Keep `choice` for `key`; both of JSON's types, `key` with all that the choice hangs on."""
    text = json.dumps({"key": dict(key), "choice": dict(choice)}, sort_keys=True, indent=1)
    _keep("tuned", _entry(_canonical(key)), text.encode())


def folder() -> Path:
    """The folder in use: the user's, or the temporary one where that cannot be used."""
    try:
        for kind in _KINDS:
            _private(_home(), kind)
    except OSError as error:
        return _temporary(error)
    return _home()


def clear() -> None:
    """Delete all that is kept on disk; modules that are loaded stay."""
    for place in (_home(), *_TEMPORARY):
        for kind in _KINDS:
            try:
                shutil.rmtree(_private(place, kind))
            except OSError as error:
                _LOG.warning("graphnn's cache was not cleared: %s", error)


def _run(source: str, stem: str, path: str) -> ModuleType:
    """Execute `source` as a module whose text `inspect`, and so Triton, finds."""
    module = ModuleType(f"{__package__}.generated.{stem}")
    module.__file__ = path
    # without a time of modification the entry is never checked against the disk: Triton compiles
    # the text that linecache gives it, and that is to be the text executed here
    linecache.cache[path] = len(source), None, source.splitlines(keepends=True), path
    weakref.finalize(module, _forget, path, module.__name__).atexit = False
    exec(compile(source, path, "exec", dont_inherit=True), vars(module))
    return module


def _forget(path: str, name: str) -> None:
    """Let go of what is kept of a module elsewhere: its text, and Triton's list of functions."""
    linecache.cache.pop(path, None)
    functions = getattr(sys.modules.get("triton.runtime.jit"), "_triton_jit_function_registry", {})
    for key in [k for k in functions if k.startswith(f"{name}:")]:
        del functions[key]


def _keep(kind: str, name: str, content: bytes) -> Path:
    """The file with this content: in the user's cache, or a temporary one, or only a name."""
    try:
        return _written(_private(_home(), kind) / name, content)
    except OSError as error:
        try:
            return _written(_private(_temporary(error), kind) / name, content)
        except OSError:  # no disk at all: linecache has the source
            return _home() / kind / name


def _written(path: Path, content: bytes) -> Path:
    """`path` with this content, put there whole: others see the old file or the new one."""
    if _read(path) == content:
        return path
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=".part_")  # 0600, never an old file
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(part, path)  # replaces a symlink, does not follow it
    except BaseException:
        os.unlink(part)
        raise
    return path


def _read(path: Path) -> bytes | None:
    """The content of a regular file that only this user can have written."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    with os.fdopen(handle, "rb") as file:
        state = os.fstat(handle)
        return file.read() if stat.S_ISREG(state.st_mode) and _ours(state) else None


def _private(place: Path, kind: str) -> Path:
    """The folder `place/kind`, made if need be; an OSError if others could write in it."""
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in (place, place / kind):
        path.mkdir(mode=0o700, exist_ok=True)
        state = path.lstat()
        if not stat.S_ISDIR(state.st_mode) or not _ours(state):
            raise PermissionError(f"{path} is a link, another user's, or writable by others")
    return place / kind


def _ours(state: os.stat_result) -> bool:
    return state.st_uid == os.geteuid() and not state.st_mode & 0o022


def _home() -> Path:
    given = os.environ.get("XDG_CACHE_HOME", "")
    # the standard says to ignore a relative path
    base = Path(given) if os.path.isabs(given) else Path(os.path.expanduser("~/.cache"))
    return base / "graphnn"


def _temporary(error: OSError) -> Path:
    """A folder of this process alone, deleted when it ends; says why, once."""
    with _LOCK:
        if not _TEMPORARY:
            place = tempfile.mkdtemp(prefix="graphnn-")
            atexit.register(_remove, place, os.getpid())
            _TEMPORARY.append(Path(place))
            _LOG.warning("graphnn's cache is not kept: %s; it is in %s for now", error, place)
        return _TEMPORARY[0]


def _remove(place: str, process: int) -> None:
    if os.getpid() == process:  # a fork that ends leaves its parent's folder
        shutil.rmtree(place, ignore_errors=True)


def _plain(name: str) -> str:
    return re.sub(r"\W", "_", name, flags=re.ASCII)[:64]


def _canonical(key: Mapping[str, Any]) -> str:
    return json.dumps(dict(key), sort_keys=True)


def _entry(canonical: str) -> str:
    return f"{hashlib.sha256(canonical.encode()).hexdigest()[:32]}.json"
