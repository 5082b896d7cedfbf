"""Names that Python takes, each once, and users' text that stays text."""

import ast

import pytest

from graphnn.kernels.ir.symbols import NameTable, entry, quoted, remark, visible

TEXTS = [
    '"""',
    "'''",
    "\\",
    "a\nb",
    "\r",
    "\u2028",
    "\x00",
    "\ud800",
    '"\\"""\n',
    "a  # b",
    "é",
    "{0}",
]


def test_names_are_used_once_and_python_takes_them() -> None:
    names = NameTable(("tl", "rows"))
    assert [names.fresh(n) for n in ("a", "a", "a_2", "tl", "rows")] == [
        "a", "a_2", "a_2_2", "tl_2", "rows_2",
    ]  # fmt: skip
    assert [names.fresh(n) for n in ("l0.weight", "3d", "lambda", "match", "", "...")] == [
        "l0_weight", "v_3d", "v_lambda", "v_match", "v", "v_2",
    ]  # fmt: skip


@pytest.mark.parametrize("one, other", [("ﬁ", "fi"), ("x²", "x2"), ("é", "e\u0301"), ("ª", "a")])
def test_names_that_python_reads_as_one_are_two(one: str, other: str) -> None:
    names = NameTable()
    code = f"{names.fresh(one)} = 1\n{names.fresh(other)} = 2"
    found: dict[str, int] = {}
    exec(code, {}, found)
    assert list(found.values()) == [1, 2]


def test_a_family_is_the_emitters() -> None:
    names = NameTable((), ("cols",))
    assert [names.fresh(n) for n in ("cols_16", "cols", "cols", "cols_x")] == [
        "v_cols_16", "v_cols", "v_cols_2", "cols_x",
    ]  # fmt: skip


def test_each_axis_has_its_own_length() -> None:
    names = NameTable()
    assert names.fresh("n_time") == "n_time"
    axes = ["time", "src-1", "src_1", "time"]
    assert names.lengths(axes) == ["n_time_2", "n_src_1", "n_src_1_2", "n_time_2"]


@pytest.mark.parametrize("text", TEXTS)
def test_text_stays_text(text: str) -> None:
    code = f'"""{remark(text)}"""\nx = {quoted(text)}  # {remark(text)}\n'
    shown, given = ast.parse(code).body
    assert isinstance(shown, ast.Expr) and isinstance(given, ast.Assign)
    assert ast.literal_eval(given.value) == text
    assert code.count("\n") == 2 and "#" not in quoted(text)
    assert visible(text).isprintable()


def test_ordinary_text_is_unchanged() -> None:
    text = "torch's LSTM over time, net.py:12"
    assert remark(text) == visible(text) == text and quoted("time") == "'time'"


def test_functions_are_named_in_ascii() -> None:
    assert [entry(n, ("main",)) for n in ("Größe", "名前", "main", "def")] == [
        "Groe", "v", "main_2", "v_def",
    ]  # fmt: skip
