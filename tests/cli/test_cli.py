"""The command line with faulty files and with modules of the library."""

from __future__ import annotations

import pytest

import graphnn
from graphnn.cli import main

BROKEN = {
    "no module": ("import nothing_of_this_name\n", "nothing_of_this_name", 1),
    "no syntax": ("def f(:\n", "SyntaxError", 1),
    "a division": ("def f():\n    return 1 / 0\n\n\nf()\n", "ZeroDivisionError", 2),
}
NETS = """
import torch
from torch import nn
import graphnn as gn


class Wrong(nn.Module):
    def graph(self, g):
        raise KeyError("size")


def torch_fails():
    return nn.Linear(-1, 2)


def wants(size):
    return size


lstm = gn.nn.LSTM(3, 4)
"""


@pytest.mark.parametrize("what", BROKEN)
def test_an_error_in_a_file_shows_the_users_lines_only(what, tmp_path, capsys):
    code, expected, line = BROKEN[what]
    file = tmp_path / "broken.py"
    file.write_text(code)
    assert main(["explain", f"{file}:net"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"graphnn: '{file}' cannot be run:")
    assert expected in error and f"line {line}" in error
    assert "importlib" not in error and "cli/load.py" not in error


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Wrong", ["'Wrong' cannot be compiled", "nets.py", "line 9", "KeyError"]),
        ("torch_fails", ["'torch_fails' cannot be made", "line 13", "RuntimeError"]),
        ("wants", ["without arguments", "'size'", "write `model = wants(…)`"]),
        ("torch", ["'torch' is a module, not a graph"]),
        ("none", ["has no 'none'"]),
    ],
)
def test_a_model_that_cannot_be_made_raises_with_the_users_lines(name, expected, tmp_path, capsys):
    file = tmp_path / "nets.py"
    file.write_text(NETS)
    assert main(["explain", f"{file}:{name}"]) == 2
    error = capsys.readouterr().err
    assert all(part in error for part in expected), error
    assert not any(part in error for part in ("graphnn/runtime", "graphnn/frontend", "torch/nn"))


def test_a_library_module_in_a_file_is_drawn_and_explained(tmp_path, capsys):
    file, picture = tmp_path / "nets.py", tmp_path / "lstm.svg"
    file.write_text(NETS)
    assert main(["explain", f"{file}:lstm"]) == 0
    assert "lstm.h" in capsys.readouterr().out
    assert main(["draw", f"{file}:lstm", "-o", str(picture)]) == 0
    assert "<svg" in picture.read_text()


def test_version_prints_the_version(capsys):
    with pytest.raises(SystemExit) as done:
        main(["--version"])
    assert done.value.code == 0
    assert capsys.readouterr().out == f"graphnn {graphnn.__version__}\n"
