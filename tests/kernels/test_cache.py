"""The cache of sources and choices: what it runs, what it rejects, which failures it survives."""

import inspect
import json
import logging
import os
import stat
import subprocess
import sys
import threading
import weakref

import pytest
import triton

from graphnn.kernels import cache


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(cache, "_MODULES", weakref.WeakValueDictionary())
    monkeypatch.setattr(cache, "_TEMPORARY", [])
    return tmp_path / "home"


def written(home, kind="kernels"):
    return sorted((home / "graphnn" / kind).iterdir())


def mode(path):
    return stat.S_IMODE(path.lstat().st_mode)


def again(source):
    """Load a source as a new process would."""
    cache._MODULES.clear()
    return cache.load_module(source, "m")


def test_source_is_a_readable_private_file_and_runs_once(home):
    source = "runs = []\nruns.append(1)\ndef f():\n    return 7\n"
    module = cache.load_module(source, "my kernel/../x")
    assert cache.load_module(source, "other") is module and module.runs == [1] and module.f() == 7
    (path,) = written(home)
    assert path.read_text() == source and path.name.startswith("my_kernel____x_")
    assert module.__file__ == str(path)
    assert (mode(path), mode(path.parent), mode(path.parent.parent)) == (0o600, 0o700, 0o700)
    assert inspect.getsource(module.f) == "def f():\n    return 7\n"


def test_private_whatever_the_umask(home):
    before = os.umask(0)
    try:
        cache.load_module("x = 1", "m")
    finally:
        os.umask(before)
    (path,) = written(home)
    assert (mode(path), mode(path.parent), mode(path.parent.parent)) == (0o600, 0o700, 0o700)


def test_triton_finds_the_source_that_ran_even_when_the_file_changes():
    source = "import triton\n\n@triton.jit\ndef kernel(x):\n    pass\n"
    module = cache.load_module(source, "m")
    with open(module.__file__, "w") as file:
        file.write("import triton\n\n@triton.jit\ndef kernel(x):\n    evil\n")
    again(source)
    assert isinstance(module.kernel, triton.runtime.jit.JITFunction)
    assert "evil" not in inspect.getsource(module.kernel.fn)
    assert "evil" not in module.kernel.src


@pytest.mark.parametrize("content", [b"", b"raise SystemExit", b"\xff\x00"])
def test_a_corrupt_file_is_rebuilt_and_never_run(home, content):
    cache.load_module("x = 1", "m")
    (path,) = written(home)
    path.write_bytes(content)
    assert again("x = 1").x == 1 and path.read_text() == "x = 1"


def test_a_source_that_fails_is_not_remembered():
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            cache.load_module("1 / 0", "m")


def test_a_symlink_is_replaced_not_followed(home, tmp_path):
    cache.load_module("x = 1", "m")
    (path,) = written(home)
    other = tmp_path / "other"
    other.write_text("theirs")
    path.unlink()
    path.symlink_to(other)
    assert again("x = 1").x == 1
    assert other.read_text() == "theirs" and not path.is_symlink()


def test_a_file_that_others_may_write_is_replaced(home):
    cache.load_module("x = 1", "m")
    (path,) = written(home)
    path.chmod(0o666)
    again("x = 1")
    assert mode(path) == 0o600


def refuse(home, tmp_path, how):
    folder = home / "graphnn" / "kernels"
    if how == "link":
        (tmp_path / "elsewhere").mkdir()
        folder.parent.mkdir(parents=True, mode=0o700)
        folder.symlink_to(tmp_path / "elsewhere")
    elif how == "open":
        folder.mkdir(parents=True)
        folder.chmod(0o777)
    elif how == "file":
        home.write_text("not a folder")
    else:
        home.mkdir(mode=0o500)


@pytest.mark.parametrize("how", ["link", "open", "file", "readonly"])
def test_without_a_usable_home_it_works_and_warns_once(home, tmp_path, how, caplog):
    if how == "readonly" and os.geteuid() == 0:
        pytest.skip("root writes to read-only folders too: run as another user to prove this case")
    refuse(home, tmp_path, how)
    with caplog.at_level(logging.WARNING):
        first, second = cache.load_module("x = 1", "m"), cache.load_module("x = 2", "m")
        cache.remember({"k": 1}, {"c": 2})
    assert (first.x, second.x, cache.recall({"k": 1})) == (1, 2, {"c": 2})
    assert len(caplog.records) == 1 and "cache is not kept" in caplog.text
    assert str(home) not in first.__file__ and mode(cache.folder()) == 0o700
    assert not list(tmp_path.glob("elsewhere/*"))


def test_without_any_disk_it_still_runs(home, monkeypatch):
    def full(*args, **kwargs):
        raise OSError("no space left")

    monkeypatch.setattr(cache.tempfile, "mkstemp", full)
    monkeypatch.setattr(cache.tempfile, "mkdtemp", full)
    assert inspect.getsource(cache.load_module("def f(): pass\n", "m").f) == "def f(): pass\n"


def test_threads_get_one_module():
    found = []
    source = "import time\ntime.sleep(0.05)\n"
    threads = [
        threading.Thread(target=lambda: found.append(cache.load_module(source, "m"))) for _ in "ab"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] is found[1]


# imports this module alone: importing the package would take seconds
RACE = """
import sys
sys.path.insert(0, sys.argv[1])
import cache
sys.stdin.readline()
for i in range(200):
    assert cache.load_module(f"x = {i}", "m").x == i
    cache.remember({"k": i}, {"c": i})
    assert cache.recall({"k": i}) == {"c": i}
"""


def test_processes_that_race_on_an_empty_cache(home):
    start = [sys.executable, "-c", RACE, os.path.dirname(cache.__file__)]
    racers = [subprocess.Popen(start, stdin=subprocess.PIPE, text=True) for _ in "ab"]
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    for racer in racers:
        racer.communicate(timeout=60)
        assert racer.returncode == 0
    assert len(written(home)) == len(written(home, "tuned")) == 200


def test_choices_are_found_by_the_whole_key(home):
    key = {"kernel": "abc", "dtype": "float32", "shape": [1, 2]}
    assert cache.recall(key) is None
    cache.remember(key, {"warps": 4})
    assert cache.recall(dict(reversed(key.items()))) == {"warps": 4}
    assert cache.recall({**key, "dtype": "float16"}) is None
    cache.remember(key, {"warps": 8})
    assert cache.recall(key) == {"warps": 8}
    (path,) = written(home, "tuned")
    assert mode(path) == 0o600 and json.loads(path.read_text())["key"] == key


GARBAGE = [b"", b"{", b"\xff", b"[]", b"1", b'{"key": {"k": 1}}', b"[" * 100_000]
GARBAGE += [b'{"key": {"k": 2}, "choice": {}}', b'{"key": {"k": 1}, "choice": 3}']


@pytest.mark.parametrize("content", GARBAGE)
def test_a_garbage_choice_is_ignored_and_rebuilt(home, content):
    cache.remember({"k": 1}, {"c": 2})
    (path,) = written(home, "tuned")
    path.write_bytes(content)
    assert cache.recall({"k": 1}) is None
    cache.remember({"k": 1}, {"c": 2})
    assert cache.recall({"k": 1}) == {"c": 2}


def test_a_choice_that_others_may_have_written_is_ignored(home):
    cache.remember({"k": 1}, {"c": 2})
    (path,) = written(home, "tuned")
    path.chmod(0o620)
    assert cache.recall({"k": 1}) is None


def test_clear_deletes_both_kinds_and_nothing_else(home):
    module = cache.load_module("x = 1", "m")
    cache.remember({"k": 1}, {"c": 2})
    (cache.folder() / "mine").write_text("stays")
    cache.clear()
    assert os.listdir(cache.folder() / "kernels") == [] and cache.recall({"k": 1}) is None
    assert (cache.folder() / "mine").read_text() == "stays"
    assert cache.load_module("x = 1", "m") is module
