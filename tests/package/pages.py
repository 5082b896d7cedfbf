"""Runs the code blocks of the Markdown pages and compares their output with the shown output.

The Python blocks of a page run in order in one namespace, each as its own file: `readme.py:3`
is the third line of a block. A `text` block shows the whole output of the Python block before it.
A Python block that starts with `# net.py` is saved under that name for the page's commands.

`python -m tests.package.pages --write` runs every page and rewrites the shown outputs.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass

ROOT = pathlib.Path(__file__).parent.parent.parent
PICTURES = ROOT / "examples" / "pictures"
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.S | re.M)
_SAVED = re.compile(r"# (\w+\.py)\n")
_DURATION = re.compile(r"planned in [\d.]+ ms")
# Commands that need minutes or whose output depends on the machine are parsed but not run.
_LONG = ("bench", "calibrate", "demo", "doctor", "report", "resources")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page: its language, its text and the position of the text in the page."""

    language: str
    text: str
    start: int
    end: int


def pages() -> list[pathlib.Path]:
    """Returns every Markdown file of the repository."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"]
    try:
        done = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):  # outside a git checkout
        return sorted(p for p in ROOT.rglob("*.md") if ".venv" not in p.parts)
    return sorted(ROOT / name for name in done.stdout.split())


def blocks(text: str) -> list[Block]:
    """Returns the fenced blocks of a page in order."""
    return [Block(m[1], m[2], m.start(2), m.end(2)) for m in _FENCE.finditer(text)]


def shown_outputs(text: str) -> list[tuple[Block, Block | None]]:
    """Returns each Python block with the `text` block directly after it, or None without one."""
    found = blocks(text)
    pairs = zip(found, [*found[1:], None])
    return [
        (block, after if after and after.language == "text" else None)
        for block, after in pairs
        if block.language == "python"
    ]


def run(page: pathlib.Path, folder: pathlib.Path) -> list[str]:
    """Runs the Python blocks and the quick `graphnn` commands of a page in `folder`.

    Returns the printed output of each Python block.
    """
    import torch

    text, namespace, printed = page.read_text(), {"__name__": "page"}, []
    torch.manual_seed(0)
    with _directory(folder):
        for number, block in enumerate(blocks(text)):
            if block.language == "python":
                saved = _SAVED.match(block.text)
                name = saved[1] if saved else f"{page.stem.lower()}.py"
                file = folder / ("" if saved else str(number)) / name
                file.parent.mkdir(exist_ok=True)
                file.write_text(block.text)
                with _captured() as out:
                    exec(compile(block.text, str(file), "exec"), namespace)
                printed.append(out.getvalue())
            elif block.language == "bash":
                for command in commands(block):
                    _run_command(command)
    return printed


@contextlib.contextmanager
def _directory(folder: pathlib.Path) -> Iterator[None]:
    """Changes the working directory inside its context."""
    before = pathlib.Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@contextlib.contextmanager
def _captured() -> Iterator[io.StringIO]:
    """Captures standard output inside its context."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        yield out


def commands(block: Block) -> list[list[str]]:
    """Returns the commands of a shell block, each as a list of words, without comments."""
    lines = block.text.replace("\\\n", " ").splitlines()
    parts = [part for line in lines for part in line.split(" && ")]
    return [words for part in parts if (words := shlex.split(part, comments=True))]


def _run_command(words: list[str]) -> None:
    """Checks a command of a page.

    `graphnn` commands are parsed, and run if they are quick. Modules and scripts must exist.
    """
    from graphnn import cli

    if words[0].endswith("graphnn"):
        parsed = cli.parser().parse_args(words[1:])
        if parsed.command not in _LONG:
            with _captured():
                assert cli.main(words[1:]) == 0, words
    elif words[:2] == ["python", "-m"]:
        assert importlib.util.find_spec(words[2]) is not None, words
    elif words[0] == ".ci/run":
        assert all(f"{part}()" in (ROOT / ".ci" / "run").read_text() for part in words[1:]), words
    else:
        assert words[0].rpartition("/")[2] in TOOLS, words


TOOLS = {"git", "mypy", "pip", "pre-commit", "pytest", "python3", "ruff"}


def comparable(text: str) -> str:
    """Returns output without the parts that differ between runs."""
    lines = _DURATION.sub("planned in 0 ms", text).strip().splitlines()
    return "\n".join(line.rstrip() for line in lines)


def with_outputs(text: str, printed: list[str]) -> str:
    """Returns the page with its shown outputs replaced by the printed ones."""
    for (_, shown), output in reversed(list(zip(shown_outputs(text), printed, strict=True))):
        if shown is not None and comparable(shown.text) != comparable(output):
            lines = [line.rstrip() for line in output.strip().splitlines()]
            text = text[: shown.start] + "\n".join(lines) + "\n" + text[shown.end :]
    return text


def labels(svg: str) -> list[str]:
    """Returns the texts of a picture in order."""
    return re.findall(r"<text[^>]*>(.*?)</text>", svg, flags=re.S)


def main(names: list[str]) -> None:
    """Rewrites the outputs and pictures of the named pages, or of all pages."""
    for page in pages():
        if names and str(page.relative_to(ROOT)) not in names:
            continue
        text = page.read_text()
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            _write(page, with_outputs(text, run(page, folder)))
            for picture in sorted(folder.glob("*.svg")):
                saved = PICTURES / picture.name
                drawn, shown = picture.read_text(), saved.read_text() if saved.exists() else ""
                if f"pictures/{saved.name})" in text and labels(drawn) != labels(shown):
                    _write(saved, drawn)


def _write(path: pathlib.Path, text: str) -> None:
    """Writes a file if its text changes and prints its name."""
    if not path.exists() or path.read_text() != text:
        path.write_text(text)
        print("rewritten:", path.relative_to(ROOT))


if __name__ == "__main__":
    if "--write" not in sys.argv:
        sys.exit("usage: python -m tests.package.pages --write [PAGE.md ...]")
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache  # without calibrated constants of this machine
        main([name for name in sys.argv[1:] if name != "--write"])
