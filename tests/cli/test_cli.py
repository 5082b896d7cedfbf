"""The command line on files that are wrong, and on modules of the library."""

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
def test_a_broken_file_shows_the_lines_of_its_own(what, tmp_path, capsys):
    code, said, line = BROKEN[what]
    file = tmp_path / "broken.py"
    file.write_text(code)
    assert main(["explain", f"{file}:net"]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"graphnn: '{file}' cannot be run:")
    assert said in told and f"line {line}" in told
    assert "importlib" not in told and "cli/load.py" not in told


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Wrong", ["'Wrong' cannot be compiled", "nets.py", "line 9", "KeyError"]),
        ("torch_fails", ["'torch_fails' cannot be made", "line 13", "RuntimeError"]),
        ("wants", ["without arguments", "'size'", "write `model = wants(…)`"]),
        ("torch", ["'torch' is a module, not a graph"]),
        ("none", ["has no 'none'"]),
    ],
)
def test_what_cannot_be_made_is_told_by_the_users_lines(name, said, tmp_path, capsys):
    file = tmp_path / "nets.py"
    file.write_text(NETS)
    assert main(["explain", f"{file}:{name}"]) == 2
    told = capsys.readouterr().err
    assert all(part in told for part in said), told
    assert "graphnn/model.py" not in told and "torch/nn" not in told


def test_a_library_module_in_a_file_is_drawn_and_explained(tmp_path, capsys):
    file, picture = tmp_path / "nets.py", tmp_path / "lstm.svg"
    file.write_text(NETS)
    assert main(["explain", f"{file}:lstm"]) == 0
    assert "lstm.h" in capsys.readouterr().out
    assert main(["draw", f"{file}:lstm", "-o", str(picture)]) == 0
    assert "<svg" in picture.read_text()


def test_the_version(capsys):
    with pytest.raises(SystemExit) as done:
        main(["--version"])
    assert done.value.code == 0
    assert capsys.readouterr().out == f"graphnn {graphnn.__version__}\n"
