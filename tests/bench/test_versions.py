"""The checks of versions: results, the file, the table; and the committed file and its page."""

import json
import pathlib
import re
from dataclasses import replace

import pytest

from graphnn.backends.requirements import TESTED_TRITON
from graphnn.bench.versions import __main__ as command
from graphnn.bench.versions import checks, table
from graphnn.bench.versions.checks import CHECKS, Result
from graphnn.kernels.feasibility.aot import Resources, VerdictRow

ROOT = pathlib.Path(__file__).parents[2]
COMMITTED = table.load(ROOT / "bench" / "results" / "versions.json")
SIZES = {"threads": 256, "registers": 90, "stack": 0, "spills": 0, "shared": 2048}
COUNTS = {"tensor_memory": 0, "matmuls": {}, "loads_before": 0, "loads_inside": 0}
INSIDE = {"loaded_inside": (), "staged_inside": (), "copies_inside": 0, "conversions_inside": 0}
GOOD = Resources("sm_90", **SIZES, **COUNTS, **INSIDE)


def row(**changes):
    versions = {"python": "3.12.1", "torch": "2.12.1+cu130", "triton": "3.7.1"}
    return {**versions, "date": "2026-11-30", "commit": "", "checks": {}, **changes}


def check(passed=True, text="yes", **more):
    return {"passed": passed, "text": text, **more}


def test_a_kernel_that_does_not_compile_fails_a_check_and_a_spill_does_not():
    spilling = VerdictRow("a", "sm_90", replace(GOOD, stack=8, spills=2), "", ("spills",))
    found = checks.judged([("bf16", VerdictRow("b", "sm_90", GOOD, "", ())), ("bf16", spilling)])
    assert found.passed and found.text == "2 of 2, 1 spill"
    assert found.kernels[1] == ["a", "bf16", "sm_90", 90, 8, 2048, ""]
    broken = VerdictRow("c", "sm_90", None, "", ("does not compile: why",))
    found = checks.judged([("bf16", broken)])
    assert found.passed is False and found.text == "0 of 1"
    assert found.kernels == [["c", "bf16", "sm_90", None, None, None, "does not compile: why"]]


@pytest.mark.parametrize(
    "body, text",
    [
        ("raise ValueError('no such thing')", "ValueError: no such thing"),
        ("import os; os.abort()", "crashes (SIGABRT)"),
        ("import time; time.sleep(60)", "no result after 1 s"),
    ],
)
def test_a_check_that_raises_crashes_or_hangs_is_a_failure(monkeypatch, body, text):
    monkeypatch.setattr(command, "TIMEOUT", 1)
    monkeypatch.setattr(command, "COMMAND", ["-c", body])
    found = command.in_process("import")
    assert found.passed is False and found.text == text


def test_a_row_is_added_or_replaces_the_checks_of_the_same_versions(monkeypatch, tmp_path):
    results = {"import": Result(True, "yes"), "backends": Result(False, "torch differs")}
    monkeypatch.setattr(command, "in_process", results.__getitem__)
    monkeypatch.setattr(command, "environment", lambda: row())
    file = tmp_path / "new" / "versions.json"
    assert command.main(["run", str(file), "--only", "import"]) == 0
    assert command.main(["run", str(file), "--only", "backends"]) == 1
    (found,) = table.load(file)
    assert found["checks"] == {"import": check(), "backends": check(False, "torch differs")}
    table.save(file, table.merged(table.load(file), row(triton="3.8.0", checks={"demo": check()})))
    assert [x["triton"] for x in table.load(file)] == ["3.7.1", "3.8.0"]


def test_the_table_has_a_line_for_each_row_and_says_what_fails():
    failing = {"backends": check(False, "torch differs"), "import": check(False, "error")}
    kernels = check(text="9 of 9", kernels=[])
    rows = [row(torch="2.13.0+cpu", triton="", checks=failing), row(checks={"kernels": kernels})]
    first, second = table.markdown(rows).splitlines()[2:]
    assert first == "| 3.12.1 | 2.12.1 cu130 | 3.7.1 | – | – | 9 of 9 | – |  |"
    wanted = "| 3.12.1 | 2.13.0 cpu | none | **fails**: torch differs | – | – | – | import fails |"
    assert second == wanted


def test_the_second_table_compares_kernels_between_tritons():
    def compiled(*rest):
        return {"kernels": check(kernels=[["LSTM 64, forward", "bf16", "sm_80", *rest]])}

    rows = [
        row(checks=compiled(90, 0, 2048, "")),
        row(triton="3.8.0", checks=compiled(255, 16, 4096, "")),
        row(triton="3.9.0", checks=compiled(None, None, None, "does not compile")),
        row(triton="", checks={"kernels": check(None, "no Triton")}),
    ]
    head, _, line = table.by_triton(rows).splitlines()[:3]
    assert head == "| kernel | GPU | 3.7.1 | 3.8.0 | 3.9.0 |"
    wanted = "| LSTM 64, forward, bf16 | sm_80 | 90 / 2 KB | 255 / 4 KB, spills 16 bytes | fails |"
    assert line == wanted


def test_a_saved_file_has_one_line_per_kernel(tmp_path):
    kernels = [["a", "bf16", "sm_80", 90, 0, 2048, ""], ["b", "bf16", "sm_80", 91, 0, 0, "x, [y]"]]
    given = [row(checks={"kernels": check(kernels=kernels)})]
    table.save(tmp_path / "a.json", given)
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text) == {"rows": given}
    assert '["a", "bf16", "sm_80", 90, 0, 2048, ""],\n' in text


def test_the_kernels_call_every_function_of_the_prelude():
    pytest.importorskip("triton", reason="Triton is not installed")
    from triton.runtime.jit import JITFunction

    from graphnn.kernels.codegen import prelude

    text = (ROOT / "bench" / "versions" / "prelude.py").read_text()
    names = [name for name, member in vars(prelude).items() if isinstance(member, JITFunction)]
    assert len(names) > 30
    assert [name for name in names if f"p.{name}(" not in text] == []


def test_the_sample_of_the_suite_exists():
    assert [x for x in checks.SAMPLE if not (ROOT / x).exists()] == []


def test_backends_that_differ_are_found(monkeypatch):
    monkeypatch.setattr(checks, "BACKENDS", ("reference", "torch"))
    assert checks.backends() == Result(True, "reference, torch")
    monkeypatch.setattr(checks, "TOLERANCE", 0.0)
    assert not checks.backends().passed


def test_pages_show_the_committed_results():
    page = (ROOT / "graphnn" / "LIMITS.md").read_text()
    assert table.markdown(COMMITTED) in page and table.by_triton(COMMITTED) in page


def test_no_committed_check_fails_and_each_row_has_the_main_ones():
    for found in COMMITTED:
        assert {"import", "commands", "backends"} <= set(found["checks"])
        assert [n for n, c in found["checks"].items() if c["passed"] is False] == []
        assert set(found["checks"]) <= set(CHECKS)


def test_the_committed_results_cover_what_the_package_declares():
    def minor(text):
        return ".".join(text.split(".")[:2])

    project = (ROOT / "pyproject.toml").read_text()
    torches = sorted({int(x["torch"].split(".")[1]) for x in COMMITTED})
    (bounds,) = re.findall(r"torch>=2\.(\d+),<2\.(\d+)", project)
    assert torches == list(range(*map(int, bounds)))
    declared = set(re.findall(r"Python :: (3\.\d+)", project))
    assert {minor(x["python"]) for x in COMMITTED} == declared
    compiled = {minor(x["triton"]) for x in COMMITTED if "kernels" in x["checks"] and x["triton"]}
    assert compiled == set(TESTED_TRITON)
    assert any(not x["triton"] for x in COMMITTED)
