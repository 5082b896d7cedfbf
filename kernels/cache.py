"""The disk cache: sources, tuned choices, verdicts on kernels, in `$XDG_CACHE_HOME/graphnn`.

Files are private.

The text given is run, never the text found in a file; a file that differs from it is overwritten.
The folder that XDG_CACHE_HOME names is trusted, but the contents of `graphnn` in it are not.
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
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

_LOG = logging.getLogger(__name__)
_LOCK = threading.RLock()
_MODULES: weakref.WeakValueDictionary[str, ModuleType] = weakref.WeakValueDictionary()
_KINDS = "kernels", "tuned", "trust"
_TEMPORARY: list[Path] = []
# called with the name and the text of each source that is loaded
watchers: list[Callable[[str, str], None]] = []


def load_module(source: str, name: str) -> ModuleType:
    """Return the module of `source`, which is also readable at `kernels/<name>_<hash>.py`.

    The source is run once, and the module lives as long as a caller holds it. `name` is a label:
    the same source under another name is the same module.
    """
    digest = hashlib.sha256(source.encode()).hexdigest()
    with _LOCK:
        module = _MODULES.get(digest)
        if module is None:
            stem = f"{_plain(name)}_{digest[:16]}"
            path = _save("kernels", f"{stem}.py", source.encode())
            module = _MODULES[digest] = _run(source, stem, str(path))
            for watcher in watchers:
                watcher(name, source)
        return module


def recall(key: Mapping[str, Any], kind: str = "tuned") -> dict[str, Any] | None:
    """Return the choice remembered for `key`, or None if there is no valid one."""
    wanted = _canonical(key)
    for folder in (_home(), *_TEMPORARY):
        try:
            entry = json.loads(_read(_private(folder, kind) / _entry_name(wanted)) or b"")
            if _canonical(entry["key"]) == wanted and isinstance(entry["choice"], dict):
                return dict(entry["choice"])
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            continue
    return None


def remember(key: Mapping[str, Any], choice: Mapping[str, Any], kind: str = "tuned") -> None:
    """Remember `choice` for `key` in the folder `kind`. Both consist of JSON types.

    `key` must contain everything that the choice depends on.
    """
    text = json.dumps({"key": dict(key), "choice": dict(choice)}, sort_keys=True, indent=1)
    _save(kind, _entry_name(_canonical(key)), text.encode())


def entries(kind: str) -> Iterator[tuple[Path, dict[str, Any], dict[str, Any]]]:
    """Yield the file, the key and the choice of everything remembered in the folder `kind`."""
    for folder in (_home(), *_TEMPORARY):
        if not (folder / kind).is_dir():
            continue
        for path in sorted(_private(folder, kind).glob("*.json")):
            try:
                entry = json.loads(_read(path) or b"")
                yield path, dict(entry["key"]), dict(entry["choice"])
            except (OSError, ValueError, TypeError, KeyError, RecursionError):
                continue


def folder() -> Path:
    """Return the folder in use: the user's, or a temporary one if that cannot be used."""
    try:
        for kind in _KINDS:
            _private(_home(), kind)
    except OSError as error:
        return _temporary(error)
    return _home()


def clear() -> None:
    """Delete everything on disk; loaded modules stay."""
    for folder in (_home(), *_TEMPORARY):
        for kind in _KINDS:
            try:
                shutil.rmtree(_private(folder, kind))
            except OSError as error:
                _LOG.warning("graphnn's cache was not cleared: %s", error)


def _run(source: str, stem: str, path: str) -> ModuleType:
    """Execute `source` as a module whose text `inspect`, and therefore Triton, can find."""
    module = ModuleType(f"{__package__}.generated.{stem}")
    module.__file__ = path
    # Without a modification time the entry is never compared with the disk. Triton compiles the
    # text that linecache returns, which must be the text executed here.
    linecache.cache[path] = len(source), None, source.splitlines(keepends=True), path
    weakref.finalize(module, _forget, path, module.__name__).atexit = False
    exec(compile(source, path, "exec", dont_inherit=True), vars(module))
    return module


def _forget(path: str, name: str) -> None:
    """Drop other references to a module: its text, and Triton's registry of functions."""
    linecache.cache.pop(path, None)
    functions = getattr(sys.modules.get("triton.runtime.jit"), "_triton_jit_function_registry", {})
    for key in [k for k in functions if k.startswith(f"{name}:")]:
        del functions[key]


def _save(kind: str, name: str, content: bytes) -> Path:
    """Save a file in the user's cache, or a temporary one; return its path in any case."""
    try:
        return _write(_private(_home(), kind) / name, content)
    except OSError as error:
        try:
            return _write(_private(_temporary(error), kind) / name, content)
        except OSError:  # without any disk, linecache still has the source
            return _home() / kind / name


def _write(path: Path, content: bytes) -> Path:
    """Write a file atomically: other processes see the old content or the new one."""
    if _read(path) == content:
        return path
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=".part_")  # mode 0600, always new
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(part, path)  # replaces a symlink instead of following it
    except BaseException:
        os.unlink(part)
        raise
    return path


def _read(path: Path) -> bytes | None:
    """Return the content of a regular file that only this user can have written, or None."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    with os.fdopen(handle, "rb") as file:
        state = os.fstat(handle)
        return file.read() if stat.S_ISREG(state.st_mode) and _is_ours(state) else None


def _private(parent: Path, kind: str) -> Path:
    """Return the folder `parent/kind`, created if needed. Raises OSError if others can write it."""
    parent.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in (parent, parent / kind):
        path.mkdir(mode=0o700, exist_ok=True)
        state = path.lstat()
        if not stat.S_ISDIR(state.st_mode) or not _is_ours(state):
            raise PermissionError(f"{path} is a link, another user's, or writable by others")
    return parent / kind


def _is_ours(state: os.stat_result) -> bool:
    return state.st_uid == os.geteuid() and not state.st_mode & 0o022


def _home() -> Path:
    given = os.environ.get("XDG_CACHE_HOME", "")
    # the standard says to ignore a relative path
    base = Path(given) if os.path.isabs(given) else Path(os.path.expanduser("~/.cache"))
    return base / "graphnn"


def _temporary(error: OSError) -> Path:
    """Return a folder that is deleted when this process ends; logs the reason once."""
    with _LOCK:
        if not _TEMPORARY:
            path = tempfile.mkdtemp(prefix="graphnn-")
            atexit.register(_remove, path, os.getpid())
            _TEMPORARY.append(Path(path))
            _LOG.warning("graphnn's cache is not kept: %s; it is in %s for now", error, path)
        return _TEMPORARY[0]


def _remove(path: str, process: int) -> None:
    if os.getpid() == process:  # a fork must not delete its parent's folder
        shutil.rmtree(path, ignore_errors=True)


def _plain(name: str) -> str:
    return re.sub(r"\W", "_", name, flags=re.ASCII)[:64]


def _canonical(key: Mapping[str, Any]) -> str:
    return json.dumps(dict(key), sort_keys=True)


def _entry_name(canonical: str) -> str:
    return f"{hashlib.sha256(canonical.encode()).hexdigest()[:32]}.json"
