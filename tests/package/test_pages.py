"""The pages are correct: code runs, shown output is complete, and links and files exist."""

import functools
import itertools
import re

import pytest

from graphnn.timing.results import load
from graphnn.timing.table import markdown
from tests.package.pages import (
    ROOT,
    blocks,
    comparable,
    labels,
    pages,
    run,
    shown_outputs,
)
from tests.package.test_arrows import ORDER

PAGES = {str(page.relative_to(ROOT)): page for page in pages()}
README = (ROOT / "README.md").read_text()
ARCHITECTURE = (ROOT / "graphnn" / "ARCHITECTURE.md").read_text()
LANGUAGES = {"python", "text", "bash", ""}


PICTURES = sorted(path.name for path in (ROOT / "examples" / "pictures").iterdir())


@pytest.fixture(scope="module")
def run_page(tmp_path_factory):
    """Returns a function that runs a page once: its printed outputs and its output folder.

    The cache is empty because constants calibrated for this machine change what `explain` shows.
    """

    @functools.cache
    def run_once(name):
        folder = tmp_path_factory.mktemp("page")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
            return run(PAGES[name], folder), folder

    return run_once


@pytest.mark.parametrize("name", PAGES)
def test_the_code_runs_and_prints_the_shown_output(name, run_page):
    printed, _ = run_page(name)
    for (_, text), output in zip(shown_outputs(PAGES[name].read_text()), printed, strict=True):
        if text is not None:
            assert comparable(output) == comparable(text.text)


@pytest.mark.parametrize("name", PAGES)
def test_each_shown_output_follows_the_code_that_prints_it(name):
    text = PAGES[name].read_text()
    languages = [block.language for block in blocks(text)]
    outputs = [shown for _, shown in shown_outputs(text) if shown]
    assert languages.count("text") == len(outputs)
    assert set(languages) <= LANGUAGES


@pytest.mark.parametrize("name", PAGES)
def test_links_have_existing_targets(name):
    page = PAGES[name]
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not target.startswith("http"):
            path, _, heading = target.partition("#")
            linked = (page.parent / path).resolve() if path else page
            assert linked.exists(), target
            assert not heading or heading in anchors(linked.read_text()), target


def anchors(text):
    """Returns the link anchors of the headings."""
    headings = re.findall(r"^#+ (.*)$", text, flags=re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("name", PAGES)
def test_paths_in_backticks_exist(name):
    """A path is relative to the root of the repository or to the page."""
    for path in re.findall(r"`([\w.]+/[\w./]*)`", PAGES[name].read_text()):
        if not path.startswith(("build/", "dist/")):
            homes = (ROOT, PAGES[name].parent)
            assert any((home / path).exists() for home in homes), path


def test_the_readme_has_at_most_12000_characters():
    assert len(README) <= 12_000


@pytest.mark.parametrize("picture", PICTURES)
def test_each_picture_equals_the_one_its_page_draws(picture, run_page):
    (name,) = (n for n, page in PAGES.items() if f"pictures/{picture})" in page.read_text())
    _, folder = run_page(name)
    shown = labels((ROOT / "examples" / "pictures" / picture).read_text())
    assert len(shown) > 10
    assert labels((folder / picture).read_text()) == shown


def test_ci_runs_the_commands_of_the_readme():
    block = next(b for b in blocks(README) if "pytest" in b.text)
    script = (ROOT / ".ci" / "run").read_text().replace("${TORCH:-2.13.0}", "2.13.0")
    found = [script.index(f"    {part}\n") for part in block.text.strip().split(" && ")]
    assert found == sorted(found)
    assert "set -- setup lint types tests proofs compiled\n" in script


def test_the_timings_table_equals_the_results_file():
    found = load(ROOT / "bench" / "results" / "cpu.json")
    assert markdown(found) in (ROOT / "bench" / "README.md").read_text()


def tree():
    """Yields the folders in the tree of the architecture page, from its indentation."""
    lines = next(b.text for b in blocks(ARCHITECTURE) if b.text.startswith("graphnn/")).splitlines()
    path = []
    for line in lines:
        depth, name = (len(line) - len(line.lstrip())) // 2, line.split()[0]
        path = [*path[:depth], name.rstrip("/")]
        yield "/".join(path)


def test_the_architecture_page_lists_each_code_folder_once():
    folders = {
        str(file.parent.relative_to(ROOT))
        for top in ("graphnn", "kernels", "bench", "examples", "tests")
        for file in (ROOT / top).rglob("*.py")
    }
    assert sorted(tree()) == sorted(folders | {"tests"})


def test_the_architecture_page_shows_the_import_order():
    shown = next(b.text for b in blocks(ARCHITECTURE) if b.text.startswith("cli/"))
    groups = [re.findall(r"[\w/]+", line) for line in reversed(shown.splitlines())]
    found = [[ORDER.index(module(name)) for name in group] for group in groups]
    assert all(max(one) < min(other) for one, other in itertools.pairwise(found))
    tops = {module(name).split(".")[1] for group in groups for name in group}
    assert tops == {name.split(".")[1] for name in ORDER if "." in name} - {"__main__"}


def module(folder):
    """Returns the first entry of the import order that belongs to a folder of the page."""
    name = "graphnn." + folder.rstrip("/").replace("/", ".")
    return name if name in ORDER else next(n for n in ORDER if n.startswith(name + "."))


def test_modules_in_the_table_of_old_names_exist():
    rows = re.findall(r"^\| `([\w/]+)/` \| (.*\(.*) \|$", ARCHITECTURE, flags=re.M)
    found = [(folder, n) for folder, names in rows for n in re.findall(r"(\w+) \(", names)]
    assert len(found) > 150
    for folder, name in found:
        assert (ROOT / folder / f"{name}.py").exists(), (folder, name)
