"""A wheel contains every package and data file, the licence and py.typed, and nothing else."""

import pathlib
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parent.parent.parent
SOURCES = {"graphnn": "graphnn", "kernels": "graphnn/kernels", "bench": "graphnn/bench"}
SOURCES["examples"] = "graphnn/examples"
# Pages, measurements and pictures are documentation; no code opens them.
NOT_INSTALLED = (".md", "/results/", "examples/pictures/", ".pyc", "graphnn/LICENSE")
BUILD = "import sys; from setuptools import build_meta as b; print(b.build_{}(sys.argv[1]))"


def build(kind, folder):
    """Builds a wheel or an sdist from a copy of the checkout, offline, and returns its path."""
    copy = folder / "checkout"
    skipped = shutil.ignore_patterns(".*", "tests", "build", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, copy, ignore=skipped)
    # a folder that must not become a package
    (copy / "kernels" / "__pycache__").mkdir()
    (copy / "kernels" / "__pycache__" / "old.cpython-311.pyc").touch()
    command = [sys.executable, "-c", BUILD.format(kind), str(folder)]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return folder / done.stdout.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """Returns the paths in the wheel."""
    with zipfile.ZipFile(build("wheel", tmp_path_factory.mktemp("wheel"))) as wheel:
        return set(wheel.namelist())


def installed(folder, inside):
    """Yields the expected paths in the wheel for the files of a source folder."""
    for path in (ROOT / folder).rglob("*"):
        text = path.relative_to(ROOT).as_posix()
        if path.is_file() and not any(part in text for part in NOT_INSTALLED):
            yield inside + text.removeprefix(folder)


def test_the_wheel_contains_exactly_the_modules_and_data_files(names):
    wanted = {path for pair in SOURCES.items() for path in installed(*pair)}
    assert len(wanted) > 250
    assert {name for name in names if ".dist-info/" not in name} == wanted


def test_the_wheel_contains_the_typing_marker_the_licence_and_entry_points(names):
    assert "graphnn/py.typed" in names
    (info,) = {name.split("/")[0] for name in names if ".dist-info/" in name}
    assert f"{info}/licenses/graphnn/LICENSE" in names
    assert f"{info}/entry_points.txt" in names


def test_a_wheel_can_be_built_from_the_sdist(tmp_path):
    with tarfile.open(build("sdist", tmp_path)) as sdist:
        found = {name.partition("/")[2] for name in sdist.getnames()}
    wanted = {"README.md", "pyproject.toml", "graphnn/LICENSE", "graphnn/py.typed"}
    assert wanted | {"kernels/ir/program.py", "bench/cases.py", "examples/brackets.py"} <= found
