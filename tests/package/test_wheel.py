"""A wheel has every package and data file, the licence and the typing marker, and nothing else."""

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
# Pages, measurements and pictures are for readers of the repository. No code opens them.
NOT_INSTALLED = (".md", "/results/", "examples/pictures/", ".pyc", "graphnn/LICENSE")
BUILD = "import sys; from setuptools import build_meta as b; print(b.build_{}(sys.argv[1]))"


def build(kind, folder):
    """Build a wheel or an sdist of a copy of the checkout, offline. Returns its path."""
    copy = folder / "checkout"
    skipped = shutil.ignore_patterns(".*", "tests", "build", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, copy, ignore=skipped)
    # folders that must not become packages
    (copy / "kernels" / "__pycache__").mkdir()
    (copy / "kernels" / "__pycache__" / "old.cpython-311.pyc").touch()
    command = [sys.executable, "-c", BUILD.format(kind), str(folder)]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return folder / done.stdout.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """The paths in the wheel."""
    with zipfile.ZipFile(build("wheel", tmp_path_factory.mktemp("wheel"))) as wheel:
        return set(wheel.namelist())


def installed(folder, inside):
    """The paths that the files of a source folder should have in the wheel."""
    for path in (ROOT / folder).rglob("*"):
        text = path.relative_to(ROOT).as_posix()
        if path.is_file() and not any(part in text for part in NOT_INSTALLED):
            yield inside + text.removeprefix(folder)


def test_the_wheel_has_every_module_and_data_file_and_nothing_else(names):
    wanted = {path for pair in SOURCES.items() for path in installed(*pair)}
    assert len(wanted) > 250
    assert {name for name in names if ".dist-info/" not in name} == wanted


def test_the_wheel_has_the_typing_marker_the_licence_and_the_command(names):
    assert "graphnn/py.typed" in names
    (info,) = {name.split("/")[0] for name in names if ".dist-info/" in name}
    assert f"{info}/licenses/graphnn/LICENSE" in names
    assert f"{info}/entry_points.txt" in names


def test_a_wheel_can_be_built_from_the_sdist(tmp_path):
    with tarfile.open(build("sdist", tmp_path)) as sdist:
        found = {name.partition("/")[2] for name in sdist.getnames()}
    wanted = {"README.md", "pyproject.toml", "graphnn/LICENSE", "graphnn/py.typed"}
    assert wanted | {"kernels/ir/program.py", "bench/cases.py", "examples/brackets.py"} <= found
