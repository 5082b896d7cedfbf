"""The README is true: its code runs, what it prints is what it shows, its test command is CI's."""

import contextlib
import io
import pathlib
import re

import pytest

from graphnn.timing.results import load
from graphnn.timing.table import markdown

ROOT = pathlib.Path(__file__).parent.parent.parent
TEXT = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.S)


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """What the code blocks print, run in order as one file."""
    file = tmp_path_factory.mktemp("readme") / "readme.py"
    file.write_text("\n\n".join(blocks("python")))
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(file.read_text(), str(file), "exec"), {"__name__": "readme"})
    return out.getvalue()


def test_the_code_runs_and_prints_what_is_shown(printed):
    # lines of the user's file, and times, differ from run to run
    def plain(text):
        text = re.sub(r"readme\.py:\d+", "readme.py", text)
        return re.sub(r"planned in [\d.]+ ms", "planned in 0 ms", text)

    for shown in blocks("text"):
        for line in shown.strip().splitlines():
            assert plain(line) in plain(printed)


def test_ci_runs_the_test_command():
    commands = next(b for b in blocks("bash") if "pytest" in b).strip().split(" && ")
    script = (ROOT / ".ci" / "run").read_text().splitlines()
    assert [c for c in commands if c not in script] == []


def test_the_table_of_timings_is_that_of_the_file():
    found = load(ROOT / "bench" / "results" / "cpu.json")
    assert markdown(found) in TEXT
