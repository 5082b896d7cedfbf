"""The first contact: jobs that end badly are recorded, and the next one runs."""

from __future__ import annotations

import importlib
import json
import re

import pytest

from graphnn.bench.contact import __main__ as command
from graphnn.bench.contact import barriers, contact
from graphnn.bench.contact.contact import Contact, grouped, line, summary
from graphnn.bench.contact.jobs import TITLES, Job, jobs
from graphnn.bench.contact.place import Place
from graphnn.tools.child import Outcome

PLACE = Place("ptx", "sm_90")
GPU = Place("triton")
# how a job's process may end
ENDS = {
    "well": Outcome("done", 1.0, {"error": 1e-7}),
    "skips": Outcome("done", 1.0, {"skipped": "there is one device"}),
    "raises": Outcome("raised", 1.0, text="AssertionError: wrong", printed="Traceback"),
    "crashes": Outcome("crashed", 1.0, text="ended by SIGSEGV"),
    "hangs": Outcome("hung", 60.0, text="it did not end within 60 seconds"),
}


def performed(monkeypatch, wanted, place=PLACE, path=None, **options):
    """A run in which each job ends as its name says, and the lines that it prints."""

    def in_child(module, name, arguments, limit, environment):
        limits.append((arguments["function"], limit))
        environments.append(environment)
        return ENDS[arguments["function"]]

    limits, environments, lines = [], [], []
    monkeypatch.setattr(contact, "in_child", in_child)
    monkeypatch.setattr(contact, "about", lambda device: {"device": device})
    run = Contact(place, path, lambda job, record: lines.append(line(job, record)), **options)
    found = run.run(wanted)
    return found, lines, limits, environments


def test_each_end_is_recorded_and_the_next_job_runs(monkeypatch, tmp_path):
    path = tmp_path / "contact.json"
    wanted = [Job(3, name, name) for name in ENDS]
    found, lines, _, _ = performed(monkeypatch, wanted, path=str(path))
    kinds = {k: r["kind"] for k, r in found["jobs"].items()}
    assert list(kinds.values()) == ["done", "skipped", "raised", "crashed", "hung"]
    assert json.loads(path.read_text()) == found
    assert found["jobs"]["3: raises"]["printed"] == "Traceback"
    assert lines[2].endswith("raised  raises: AssertionError: wrong")
    assert summary(found) == [
        f"3  {TITLES[3]}: 1 done, 1 skipped, 1 raised, 1 crashed, 1 hung",
    ]


def test_the_file_is_written_after_each_job(monkeypatch, tmp_path):
    path, counts = tmp_path / "contact.json", []
    monkeypatch.setattr(contact, "in_child", lambda *given: ENDS["well"])

    def told(job, record):
        counts.append(len(json.loads(path.read_text())["jobs"]))

    Contact(PLACE, str(path), told).run([Job(1, str(k), "well") for k in range(3)])
    assert counts == [1, 2, 3]


def test_jobs_that_need_a_gpu_are_skipped_without_one(monkeypatch):
    found, _, limits, _ = performed(monkeypatch, [Job(5, "x", "well", gpu=True)])
    assert found["jobs"]["5: x"] == {"kind": "skipped", "text": "needs a GPU"} and not limits


def test_jobs_have_their_limits_on_a_gpu_and_the_time_that_is_left(monkeypatch):
    wanted = [Job(3, "x", "well", limit=60)]
    ((_, limit),) = performed(monkeypatch, wanted, GPU)[2]
    assert limit == 60
    ((_, limit),) = performed(monkeypatch, wanted, GPU, budget=5)[2]
    assert limit <= 5
    found, _, limits, _ = performed(monkeypatch, wanted, budget=-1)
    assert not limits and "were over" in found["jobs"]["3: x"]["text"]


def test_caches_are_those_of_the_run_and_may_be_a_jobs_own(monkeypatch):
    own = {"XDG_CACHE_HOME": "tuned 1"}
    wanted = [Job(3, "a", "well"), Job(8, "b", "well", environment=own)]
    shared, single = performed(monkeypatch, wanted)[3]
    assert shared["TRITON_CACHE_DIR"] == single["TRITON_CACHE_DIR"]
    assert shared["XDG_CACHE_HOME"] != single["XDG_CACHE_HOME"]
    assert single["XDG_CACHE_HOME"].endswith("tuned 1")


def test_timed_jobs_run_alone():
    wanted = [Job(3, "a", ""), Job(3, "b", ""), Job(7, "c", "", timed=True), Job(7, "d", "")]
    assert [[j.name for j in group] for group in grouped(wanted)] == [["a", "b"], ["c"], ["d"]]


def test_every_function_of_a_job_exists_and_names_are_unique():
    names = [f"{j.item}: {j.name}" for j in jobs()]
    assert len(names) == len(set(names))
    for job in jobs():
        module, _, name = job.function.rpartition(".")
        function = getattr(importlib.import_module(f"graphnn.bench.contact.{module}"), name)
        wanted = set(function.__code__.co_varnames[: function.__code__.co_argcount])
        assert {"place", *job.arguments} <= wanted
    assert {j.item for j in jobs()} == set(range(len(TITLES)))


def test_blocks_count_as_python_does(monkeypatch):
    class Interpreted(Place):
        @property
        def executor(self):
            from graphnn.kernels.executors.named import INTERPRETER

            return INTERPRETER

    place = Interpreted("ptx", "sm_90")
    counting = barriers.Counting(place, 3, 4)
    counting.run()
    assert counting.check()["sums"] == "exact"
    counting.out[1] += 1
    with pytest.raises(AssertionError, match="1 of 3 sums are wrong"):
        counting.check()


def test_without_a_gpu_the_command_says_so(capsys):
    assert command.main([]) == 2
    assert "--backend ptx" in capsys.readouterr().err


@pytest.mark.ptx
def test_the_command_runs_a_job_in_a_process(tmp_path, capsys):
    path = tmp_path / "contact.json"
    given = ["--backend", "ptx", "--item", "0", "--json", str(path)]
    assert command.main(given) == 0
    (found,) = json.loads(path.read_text())["jobs"].values()
    assert found["kind"] == "done" and found["value"]["doctor"]
    assert re.search(r"right +versions, device, environment", capsys.readouterr().out)


@pytest.mark.ptx
def test_blocks_count_together_as_compiled():
    assert barriers.count_together(PLACE)["sums"] == "exact"
