"""Runs the code blocks of the Markdown pages, and compares what they print with what is shown.

A page's Python blocks run in order, in one namespace, each as a file of its own: `readme.py:3` is
the third line of its block. A `text` block shows the whole output of the Python block before it.
A Python block that begins with `# net.py` has that name, and is there for the page's commands.

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
# Commands that take minutes, or whose output is about the machine: they are parsed, not run.
_LONG = ("bench", "calibrate", "demo", "doctor", "report", "resources")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page: its language, its text and the position of the text in the page."""

    language: str
    text: str
    start: int
    end: int


def pages() -> list[pathlib.Path]:
    """Every Markdown file of the repository."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"]
    try:
        done = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):  # an unpacked archive
        return sorted(p for p in ROOT.rglob("*.md") if ".venv" not in p.parts)
    return sorted(ROOT / name for name in done.stdout.split())


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    return [Block(m[1], m[2], m.start(2), m.end(2)) for m in _FENCE.finditer(text)]


def shown_outputs(text: str) -> list[tuple[Block, Block | None]]:
    """Each Python block with the `text` block that directly follows it, if there is one."""
    found = blocks(text)
    pairs = zip(found, [*found[1:], None])
    return [
        (block, after if after and after.language == "text" else None)
        for block, after in pairs
        if block.language == "python"
    ]


def run(page: pathlib.Path, folder: pathlib.Path) -> list[str]:
    """Run the Python blocks of a page and the quick `graphnn` commands. Returns what each Python
    block printed. The working directory is `folder` meanwhile."""
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
    """Another working directory."""
    before = pathlib.Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@contextlib.contextmanager
def _captured() -> Iterator[io.StringIO]:
    """What is printed meanwhile."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        yield out


def commands(block: Block) -> list[list[str]]:
    """The commands of a shell block, as words; comments are left out."""
    lines = block.text.replace("\\\n", " ").splitlines()
    parts = [part for line in lines for part in line.split(" && ")]
    return [words for part in parts if (words := shlex.split(part, comments=True))]


def _run_command(words: list[str]) -> None:
    """Check a command of a page: `graphnn` commands are parsed, and run if they are quick; modules
    and scripts must exist."""
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
    """Output without what differs from run to run."""
    lines = _DURATION.sub("planned in 0 ms", text).strip().splitlines()
    return "\n".join(line.rstrip() for line in lines)


def with_outputs(text: str, printed: list[str]) -> str:
    """A page whose shown outputs are what its blocks printed."""
    for (_, shown), output in reversed(list(zip(shown_outputs(text), printed, strict=True))):
        if shown is not None and comparable(shown.text) != comparable(output):
            lines = [line.rstrip() for line in output.strip().splitlines()]
            text = text[: shown.start] + "\n".join(lines) + "\n" + text[shown.end :]
    return text


def labels(svg: str) -> list[str]:
    """The texts of a picture, in order."""
    return re.findall(r"<text[^>]*>(.*?)</text>", svg, flags=re.S)


def main(names: list[str]) -> None:
    """Rewrite the outputs and pictures that the pages show, or those named."""
    for page in pages():
        if names and str(page.relative_to(ROOT)) not in names:
            continue
        text = page.read_text()
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            _write(page, with_outputs(text, run(page, folder)))
            for picture in sorted(folder.glob("*.svg")):
                kept = PICTURES / picture.name
                drawn, shown = picture.read_text(), kept.read_text() if kept.exists() else ""
                if f"pictures/{kept.name})" in text and labels(drawn) != labels(shown):
                    _write(kept, drawn)


def _write(path: pathlib.Path, text: str) -> None:
    """Write a file if its text changes, and say so."""
    if not path.exists() or path.read_text() != text:
        path.write_text(text)
        print("rewritten:", path.relative_to(ROOT))


if __name__ == "__main__":
    if "--write" not in sys.argv:
        sys.exit("usage: python -m tests.package.pages --write [PAGE.md ...]")
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache  # no constants calibrated for this machine
        main([name for name in sys.argv[1:] if name != "--write"])
