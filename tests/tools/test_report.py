"""The HTML report and the plots: contents, self-containedness, and invalid arguments."""

import pathlib
import re
import struct
from html.parser import HTMLParser

import pytest
import torch
from torch import nn

import graphnn as gn
from graphnn.bench import plots
from graphnn.cli import main
from graphnn.errors import TimingError
from graphnn.inspection.marks import Clock
from graphnn.planner.core.device_constants import CPU
from graphnn.timing import results
from graphnn.tools.report import report
from tests.timing import fake_results

NET = """
import torch
from torch import nn


class Cell(nn.Module):
    def __init__(self):
        super().__init__()
        self.rec = nn.Linear(8, 5)

    def graph(self, g):
        x, z = g.input("x", (3,), over="time"), g.state("z", (5,))
        z.next = torch.tanh(self.rec(torch.cat([x, z])))
        g.output("y", z.next)
"""


class Tags(HTMLParser):
    """Collects the ids, links and headings of a page; checks that its elements are balanced."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.sources, self.heads = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.ids += [given["id"]] if "id" in given else []
        self.sources += [given[k] for k in ("src", "href") if k in given]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] == ["h2"]:
            self.heads.append(data)


class Attend(nn.Module):
    """A network without states, with an integer input."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(7, 4)

    def graph(self, g):
        h = self.words(g.input("t", (), over="time", dtype=torch.int64))
        g.output("y", gn.sum(gn.softmax(h, over="time") * h, over="time"))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a_net_of_mine.py"
    path.write_text(NET)
    return path


def test_a_report_has_all_five_sections_and_no_external_resources(file, tmp_path, capsys):
    pytest.importorskip("triton", reason="Triton is not installed")
    out = tmp_path / "report.html"
    given = ["report", f"{file}:Cell", "-o", str(out), "--size", "time=4", "--rounds", "1"]
    assert main(given) == 0
    assert capsys.readouterr().out.startswith(f"{out}: ")
    text = out.read_text()
    tags = Tags(text)
    assert tags.ids == ["network", "plan", "times", "gradients", "code"]
    assert tags.heads[:2] == ["Network", "Plan"] and len(tags.heads) == 5
    assert all(s.startswith(("data:image/svg+xml;base64,", "#")) for s in tags.sources)
    assert sum(s.startswith("data:") for s in tags.sources) == 4
    assert "x (4, 4, 3)" in text and "loop z" in text and "backward of loop z" in text
    # the kernel, with the user's source line in a comment
    plain = re.sub(r"<[^>]+>", "", text)
    assert "tl.load" in plain and "# a_net_of_mine.py:" in plain


def test_a_report_of_a_network_without_states():
    pytest.importorskip("triton", reason="Triton is not installed")

    class Still(Clock):
        def now(self):
            return 0.0

    text = report(gn.compile(Attend()), rounds=1, limits=CPU, clock=Still())
    Tags(text)
    assert "The network has no state." in text
    assert "No loop of this network becomes a Triton kernel." in text


def test_a_report_on_the_reference_backend_says_why_it_has_no_times(file):
    from graphnn.cli.load import load

    text = report(load(f"{file}:Cell", "reference"), {"time": 3}, rounds=1)
    assert "not timed: the reference backend has no parts to time" in text


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--size", "time"], "AXIS=N"),
        (["--size", "time=0"], "not a number of 1 or more"),
        (["--rounds", "x"], "not a number"),
    ],
)
def test_bad_options_are_refused(file, tmp_path, capsys, given, message):
    with pytest.raises(SystemExit) as stop:
        main(["report", f"{file}:Cell", "-o", str(tmp_path / "a.html"), *given])
    assert stop.value.code == 2 and message in capsys.readouterr().err


def test_an_unknown_axis_and_a_missing_folder_are_refused(file, tmp_path, capsys):
    assert main(["report", f"{file}:Cell", "-o", "-", "--size", "tim=3"]) == 1
    assert "no axis of free length called 'tim'" in capsys.readouterr().err
    assert main(["report", f"{file}:Cell", "-o", str(tmp_path / "no" / "a.html")]) == 2
    assert "there is no folder" in capsys.readouterr().err


def test_a_report_is_written_to_stdout(file, capsys):
    assert main(["report", f"{file}:Cell", "-o", "-", "--rounds", "1"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("<!doctype html>") and out.rstrip().endswith("</html>")


def test_explain_measures_only_with_its_option(file, capsys):
    assert main(["explain", f"{file}:Cell", "--measure", "--size", "time=3"]) == 0
    out = capsys.readouterr().out
    assert "measured, next to what the cost model expects:" in out and "loop z" in out
    assert main(["explain", f"{file}:Cell"]) == 0
    assert "measured" not in capsys.readouterr().out


def test_time_is_plotted_against_each_size_with_at_least_three_values():
    panels = list(plots.sweeps(fake_results.run()))
    assert [(p[1], p[2]) for p in panels] == [("forward", "H"), ("forward and backward", "H")]
    series = panels[0][-1]
    assert list(series) == ["graphnn", "torch.nn", "eager"]
    assert [x for x, _ in series["graphnn"]] == [16, 32, 64, 128]
    figure = plots.against_sizes(fake_results.run()).figure
    assert len(figure.axes) == 2 and figure.axes[0].get_xlabel() == "width H"
    lines = [x.get_label() for x in figure.axes[0].containers]
    assert lines == ["graphnn", "torch.nn", "eager"]


def test_the_roofline_shows_every_case_within_its_limits():
    found = fake_results.run()
    (ax,) = plots.roofline(found).figure.axes
    points = [x for x in ax.lines if x.get_marker() in plots.MARKS and len(x.get_xdata())]
    mine = [p for p in points if p.get_color() == plots.COLORS["graphnn"]]
    assert len(mine) == 8
    assert mine[0].get_xdata()[0] == pytest.approx(10.0)
    assert mine[0].get_ydata()[0] == pytest.approx(1e9)
    low, high = ax.get_ylim()
    assert all(low < y < high for p in points for y in p.get_ydata())
    # the axis range fits the points and the roofs
    assert low > min(y for p in points for y in p.get_ydata()) / 10 and high < 10 * 371e9
    assert any("float32 matmuls, 371 GFLOP/s" in t.get_text() for t in ax.texts)


def test_a_roofline_without_limits_is_refused():
    with pytest.raises(TimingError, match="no roofline"):
        plots.roofline(
            fake_results.results([fake_results.row(contenders={"graphnn": 1.0})], limits=False)
        )


def test_bench_plot_writes_png_files(tmp_path, capsys):
    path = tmp_path / "run.json"
    results.save(fake_results.run(), path)
    assert main(["bench", "plot", str(path), str(tmp_path)]) == 0
    printed = capsys.readouterr().out.split()
    assert printed == [str(tmp_path / f"run_{kind}.png") for kind in ("sizes", "roofline")]
    for name in printed:
        data = pathlib.Path(name).read_bytes()
        assert data[:8] == b"\x89PNG\r\n\x1a\n" and min(struct.unpack(">II", data[16:24])) > 300
    assert main(["bench", "plot", str(path), str(tmp_path / "no")]) == 2


COMMANDS = ["bench", "doctor", "calibrate", "report", "bench compare", "bench table", "bench plot"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command_has_examples(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*command.split(), "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "examples:" in text and f"graphnn {command}" in text.split("examples:")[1]
