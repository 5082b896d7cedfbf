"""Pictures in files and notebooks: names in SVG, the size of PNG, and errors."""

import re
import struct
import sys
import xml.etree.ElementTree as ET

import pytest

import graphnn as gn
from graphnn.cli import main
from graphnn.errors import AxisError, PictureError
from graphnn.pictures import draw
from tests.pictures.networks import Elman

FILE = __file__.replace("test_draw.py", "networks.py")


def words(svg):
    return {
        "".join(x.itertext()).strip() for x in ET.fromstring(svg).iter() if x.tag.endswith("text")
    }


def png_size(data):
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", data[16:24])


def test_svg_has_the_names_as_text(tmp_path):
    draw(Elman(), tmp_path / "net.svg")
    found = words((tmp_path / "net.svg").read_text())
    assert {"x", "enc", "rec", "dec", "y", "z(t−1)", "z⁻¹", "Linear(28, 64)"} <= found


def test_png_has_the_size_of_the_layout(tmp_path):
    picture = gn.compile(Elman()).draw(tmp_path / "net.png")
    wide, high = png_size((tmp_path / "net.png").read_bytes())
    layout = picture.layout
    assert wide == pytest.approx((layout.right - layout.left) * 2, abs=2)
    assert high == pytest.approx(layout.bottom * 2, abs=2)


def test_pdf_can_be_written(tmp_path):
    draw(Elman(), tmp_path / "net.pdf")
    assert (tmp_path / "net.pdf").read_bytes().startswith(b"%PDF")


def test_notebook_output():
    g = gn.Graph("tiny")
    g.output("y", g.input("x", (3,)) * 2)
    picture = g.draw()
    assert "<svg" in picture._repr_html_() and {"x", "y"} <= words(picture.svg())
    assert repr(picture) == "Picture of tiny: 3 boxes, 2 edges"


def test_no_file_is_written_without_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    draw(Elman(), unroll=2).svg()
    assert not list(tmp_path.iterdir())


def test_an_unknown_format_is_an_error(tmp_path):
    with pytest.raises(PictureError, match=r"net\.gif(.|\n)*\.svg, \.png, \.pdf"):
        draw(Elman(), tmp_path / "net.gif")


@pytest.mark.parametrize("unroll", [0, -1, 1.5, True, {"depth": 2}, {"time": 1, "x": 2}])
def test_invalid_unrolling_is_an_error(unroll):
    with pytest.raises(AxisError, match=r"among \['time'\]"):
        draw(Elman(), unroll=unroll)


def test_an_unrolled_plan_is_an_error():
    with pytest.raises(PictureError, match="a plan is not unrolled"):
        draw(Elman(), unroll=2, plan=True)


def test_an_ir_and_a_plan_can_be_drawn():
    model = gn.compile(Elman(), backend="torch")
    assert {"x", "y", "z"} <= {b.title for b in draw(model.ir).scene.boxes.values()}
    assert [b.kind for b in draw(model.plan).scene.bands] == ["whole", "loop", "whole"]


def test_other_objects_are_errors():
    with pytest.raises(PictureError, match="int cannot be drawn"):
        draw(3)
    with pytest.raises(PictureError, match="an IR has no plan to draw"):
        draw(gn.compile(Elman()).ir, plan=True)


@pytest.mark.parametrize("missing", ["igraph", "matplotlib.figure"])
def test_a_missing_library_is_an_error_with_the_extra(monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(PictureError, match=re.escape("pip install 'graphnn[plot]'")):
        draw(Elman())


def test_the_command_writes_files(tmp_path, capsys):
    for name, more in (("a.svg", []), ("b.png", ["--unroll", "3"]), ("c.svg", ["--plan"])):
        path = tmp_path / name
        assert main(["draw", f"{FILE}:Elman", "-o", str(path), *more]) == 0
        assert path.stat().st_size > 1000
        assert capsys.readouterr().out.startswith(f"{path}: ")


def test_the_command_unrolls_several_axes(tmp_path):
    path = tmp_path / "net.svg"
    more = ["--unroll", "source=2,target=3"]
    assert main(["draw", f"{FILE}:Translate", "-o", str(path), *more]) == 0
    assert {"source 2", "target 3"} <= set(words(path.read_text()))


def test_the_command_prints_svg_into_a_pipe(capsys):
    assert main(["draw", f"{FILE}:Elman", "-o", "-"]) == 0
    assert "enc" in words(capsys.readouterr().out)


@pytest.mark.parametrize(
    "arguments",
    [
        [f"{FILE}:Elman", "-o", "net.gif"],
        [f"{FILE}:Nobody", "-o", "net.svg"],
        ["nowhere.py:Elman", "-o", "net.svg"],
        [f"{FILE}:Elman", "-o", "no/such/folder/net.svg"],
    ],
)
def test_invalid_input_is_an_error_of_one_line(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["draw", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("graphnn: ") and printed.err.count("\n") == 1
    assert not printed.out


@pytest.mark.parametrize(
    "more",
    [
        ["--unroll", "a=0"],
        ["--unroll", "a=1,b"],
        ["--unroll", "0"],
        ["--unroll", "x"],
        ["--unroll", "2", "--plan"],
    ],
)
def test_invalid_options_exit_with_code_two(more, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["draw", f"{FILE}:Elman", "-o", "net.svg", *more])
    assert stopped.value.code == 2


def test_a_network_that_cannot_be_unrolled_exits_with_code_one(tmp_path, capsys):
    path = str(tmp_path / "net.svg")
    assert main(["draw", f"{FILE}:Siamese", "-o", path, "--unroll", "2"]) == 1
    assert "cannot be drawn unrolled" in capsys.readouterr().err
