"""Any string can be a name: it does not change the results, and no part of it becomes code."""

from __future__ import annotations

import ast
import builtins
import keyword
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import graphnn as gn
from graphnn.backends.torch.codegen import scope
from graphnn.kernels.attention import builder as attention_builder
from graphnn.kernels.codegen import loop_builder as builder
from graphnn.kernels.cooperative.codegen import builder as cooperative_builder
from graphnn.kernels.ir import symbols
from graphnn.pictures.picture import encode
from graphnn.pictures.plots import gradient_flow
from tests.backends.triton.cells import CELLS, Sizes, inputs, ragged, run, skipped
from tests.backends.triton.cells import network as cell
from tests.backends.triton.places import INTERPRET, ORDER

WIDTH, STEPS, PLACES = 8, 3, 5
# inputs, states and outputs of a network, its axes, and the keys of its modules
VALUES, AXES, KEYS = ("x", "u", "h", "k", "y", "z"), ("a", "b"), ("p", "q")
PLAIN = {role: role for role in (*VALUES, *AXES, *KEYS, "Net")}
STRATEGIES: dict[str, dict[str, Any]] = {
    "torch": {"backend": "torch"},
    "resident": {"backend": "interpret"},
    "cooperative": {"backend": "interpret", "skip": ("resident", "fit")},
    "stepwise": {"backend": "interpret", "skip": ("resident", "cooperative")},
}
KINDS = ("after", "inside", "beside", "best", "hops", "ragged")
FLAG = "graphnn_names_test_flag"
PAYLOAD = f"; import builtins; builtins.{FLAG} = True; "
ATTACKS = [
    f'"""{PAYLOAD}"""',
    f"'''{PAYLOAD}'''",
    f"\n{PAYLOAD}\n",
    f"\r{PAYLOAD}\r",
    f"\f\n    {PAYLOAD} #",
    f"'])\n{PAYLOAD}",
    f'"\\"""\n{PAYLOAD}',
    f"\\\n\u2028{PAYLOAD}",
    f"x = 0{PAYLOAD}",
]
NASTY = [
    *keyword.kwlist,
    *keyword.softkwlist,
    *(
        "type",
        "float",
        "range",
        "zip",
        "list",
        "int",
        "len",
        "print",
        "reversed",
        "abs",
        "__import__",
    ),
    *('"""', "'''", '"', "'", "\\", "\\n", "a\nb", "a\r\nb", "{0}", "{", "}}", "%s", "%(x)s", "#"),
    *("a  # b", "  # ", "...", " ", "-", "()", "1", "3d", "é", "α", "名前", "x²", "ﬁ", "fi", "ª"),
    *("\x00", "\x1b[31m", "\u2028", "\u2029", "\x85", "\ud800", "\u0301", "x·", "℘", "౸", "😀"),
    *("[red]x[/red]", "$\\frac{$", "<b>&amp;</b>", "`", " @triton.jit", "def main(", "n" * 300),
    *("import triton.language as tl", "opaque", "matmul(", "cols_99999", "loop_0", "attend_0"),
    *("mask", "other", "cg", "inf", "nan", "ALL", "keep_dims", "dtype", "axis", "num_stages"),
    *("h_out", "h_ptr", "h_next", "h_t", "h_all", "d_h", "x_ptr", "x_out", "n_a", "n_b", "n_batch"),
    *("n_rows", "k_out", "x_seed", "peak", "delta", "best", "places", "total", "soft", "arrows"),
    *ATTACKS,
]
TWINS = [("src-1", "src_1"), ("ﬁ", "fi"), ("a b", "a-b"), ("+", "-"), ("é", "e\u0301")]
# names that generated code derives from others
MADE = [
    {"x": "h_out", "u": "h_ptr", "k": "h_next"},
    {"x": "x", "u": "x_ptr", "h": "x_t", "k": "x_out", "a": "x", "b": "u"},
    {"x": "tanh", "u": "softmax", "h": "soft", "k": "total", "a": "rows", "b": "cols"},
    {"x": "peak", "u": "places", "h": "best", "k": "k_all", "a": "arrows", "b": "a, 2"},
]
# arguments of a call, which cannot name a value; and the axis of every network
CALL = {"lengths", "state", "return_state", "record", "self", "batch"}


def network(names: Mapping[str, str], kind: str) -> nn.Module:
    """A loop over one axis, or two parallel loops (`beside`), and attention over another axis.

    The attention is in the steps (`inside`), after them, over the `best` two scores, or applied
    twice (`hops`)."""

    def build(self: Any) -> None:
        nn.Module.__init__(self)
        torch.manual_seed(0)
        maps = (nn.Linear(2 * WIDTH, 2 * WIDTH), nn.Linear(WIDTH, WIDTH))
        self.maps = nn.ModuleDict(dict(zip((names["p"], names["q"]), maps, strict=True)))
        self.double()

    def graph(self: Any, g: gn.Graph) -> None:
        a, b, turn = names["a"], names["b"], -1 if kind == "beside" else 1
        x, u = g.input(names["x"], (WIDTH,), over=a), g.input(names["u"], (WIDTH,), over=b)
        h = g.state(names["h"], (WIDTH,), over=a)
        k = g.state(names["k"], (WIDTH,), over=a, delay=turn)
        first, second = self.maps[names["p"]], self.maps[names["q"]]

        def read(query: gn.Value) -> gn.Value:
            score = (second(query) * u).sum(-1)
            if kind == "best":
                score = torch.where(gn.top(score, 2, b), score, float("-inf"))
            return gn.sum(gn.softmax(score, over=b).unsqueeze(-1) * u, over=b)

        both = torch.tanh(first(torch.cat([x + read(h) if kind == "inside" else x, h])))
        h.next = both[:WIDTH]
        k.next = torch.tanh(second(k) + x) if kind == "beside" else both[WIDTH:] * k + h
        asked = gn.sum(h.next, over=a) if kind == "hops" else h.next
        y = read(read(asked) + asked) if kind == "hops" else read(asked)
        g.output(names["y"], y * gn.length(b))
        g.output(names["z"], k.next * gn.length(a))

    return type(names["Net"], (nn.Module,), {"__init__": build, "graph": graph})()  # type: ignore[no-any-return]


def eager(net: Any, x: Tensor, u: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """The same network in plain torch."""
    first, second = net.maps.values()
    h = k = x.new_zeros(len(x), WIDTH)
    hs, ks = [], []

    def read(query: Tensor) -> Tensor:
        score = (second(query).unsqueeze(1) * u).sum(-1)
        if kind == "best":
            score = score.masked_fill(score < score.topk(2, 1).values[:, -1:], float("-inf"))
        return (torch.softmax(score, 1).unsqueeze(-1) * u).sum(1)

    for t in range(x.shape[1]):
        both = torch.tanh(first(torch.cat([x[:, t] + (read(h) if kind == "inside" else 0), h], -1)))
        h, k = both[:, :WIDTH], both[:, WIDTH:] * k + h
        hs.append(h)
        ks.append(k)
    if kind == "beside":
        k = x.new_zeros(len(x), WIDTH)
        for t in reversed(range(x.shape[1])):
            ks[t] = k = torch.tanh(second(k) + x[:, t])
    asked = torch.stack(hs).sum(0)
    y = read(read(asked) + asked) if kind == "hops" else torch.stack([read(h) for h in hs], 1)
    return y * u.shape[1], torch.stack(ks, 1) * x.shape[1]


def leaves() -> tuple[Tensor, Tensor]:
    made = torch.Generator().manual_seed(1)
    sizes = (2, STEPS, WIDTH), (2, PLACES, WIDTH)
    x, u = (torch.randn(*s, dtype=torch.float64, generator=made) for s in sizes)
    return x.requires_grad_(), u.requires_grad_()


def results(outs: Sequence[Tensor], x: Tensor, u: Tensor, net: nn.Module) -> list[Tensor]:
    """Outputs, and the gradients of all inputs and parameters."""
    total = sum((y * torch.arange(y.numel()).reshape(y.shape).cos()).sum() for y in outs)
    grads = torch.autograd.grad(total, [x, u, *net.parameters()])  # type: ignore[arg-type]
    return [*(y.detach() for y in outs), *grads]


def computed(names: Mapping[str, str], kind: str, strategy: str) -> tuple[list[Tensor], str]:
    """The results of a network with certain names, and its source."""
    net, (x, u) = network(names, kind), leaves()
    model = gn.compile(net, **STRATEGIES[strategy])
    more = {"lengths": {names["a"]: torch.tensor([STEPS, 1])}} if kind == "ragged" else {}
    made = model(**{names["x"]: x, names["u"]: u}, **more)
    found = results([made[names["y"]], made[names["z"]]], x, u, net)
    model.explain()
    return found, model.source()


_KNOWN: dict[tuple[str, str], tuple[list[Tensor], str]] = {}


def plainly(kind: str, strategy: str) -> tuple[list[Tensor], str]:
    """The same with plain names, checked against plain torch."""
    if (kind, strategy) not in _KNOWN:
        found, source = computed(PLAIN, kind, strategy)
        net, (x, u) = network(PLAIN, kind), leaves()
        if kind != "ragged":  # what lies beyond an example's end is proved elsewhere
            wanted = results(eager(net, x, u, kind), x, u, net)
            torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
        _KNOWN[kind, strategy] = found, source
    return _KNOWN[kind, strategy]


def judged(names: Mapping[str, str], kind: str, strategy: str) -> None:
    wanted, _ = plainly(kind, strategy)
    found, _ = computed({**PLAIN, **names}, kind, strategy)
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True)), names
    assert not hasattr(builtins, FLAG), names


def identifiers(source: str) -> set[str]:
    """The names of variables, arguments and functions in source."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, (ast.arg, ast.keyword)):
            found.add(node.arg or "")
        elif isinstance(node, (ast.FunctionDef, ast.alias)):
            found.add(node.name)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
    return found - {""}


def allowed(key: str) -> bool:
    """Whether torch accepts the name of a module."""
    taken = hasattr(nn.ModuleDict(), key) if "\ud800" not in key else True
    return key != "" and "." not in key and not taken


def spread(words: Sequence[str]) -> Iterator[dict[str, str]]:
    """The words as names of networks: of values from the front, of axes from the end."""
    for start in range(0, len(words), len(VALUES)):
        names = dict(zip(VALUES, words[start : start + len(VALUES)]))
        here = list(names.values())
        names |= dict(zip(AXES, [w for w in here[::-1] if w != "batch"]))
        names |= dict(zip(KEYS, [w for w in here[1:] if allowed(w)]))
        if "\x00" not in here[0] and "\ud800" not in here[0]:  # what Python lets a class be called
            names["Net"] = here[0]
        yield {role: names.get(role, role + "_") for role in PLAIN}


def words(kind: str, strategy: str) -> list[str]:
    """Every name in generated code."""
    return sorted(identifiers(plainly(kind, strategy)[1]) - CALL)


CASES = [(kind, strategy) for strategy in STRATEGIES for kind in KINDS]
QUICK = [("inside", "cooperative"), ("beside", "cooperative"), ("after", "resident")]
QUICK += [("best", "torch"), ("hops", "resident")]


@pytest.mark.slow
@pytest.mark.parametrize("kind, strategy", CASES)
def test_every_name_in_generated_code_may_be_a_users(kind: str, strategy: str) -> None:
    for names in spread(words(kind, strategy)):
        judged(names, kind, strategy)


@pytest.mark.parametrize("kind, strategy", QUICK)
def test_names_in_generated_code_may_be_a_users(kind: str, strategy: str) -> None:
    drawn = random.Random(0).sample(words(kind, strategy), 3 * len(VALUES))
    for names in spread(drawn):
        judged(names, kind, strategy)


def test_names_of_every_kind() -> None:
    for names in spread(NASTY):
        judged(names, "after", "torch")


@pytest.mark.slow
@pytest.mark.parametrize("kind, strategy", CASES)
def test_names_of_every_kind_in_kernels(kind: str, strategy: str) -> None:
    for names in spread(NASTY):
        judged(names, kind, strategy)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_no_name_is_run(strategy: str) -> None:
    one = random.Random(1).sample(ATTACKS, len(VALUES))
    for names in spread(one):
        judged(names, "inside", strategy)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_axes_that_clean_to_one_word(strategy: str) -> None:
    for first, second in TWINS:
        judged({"a": first, "b": second}, "after", strategy)


def given_names(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The names that name tables hand out from now on."""
    found: set[str] = set()
    fresh = symbols.NameTable.fresh

    def recorded(self: symbols.NameTable, wanted: str) -> str:
        name = fresh(self, wanted)
        found.add(name)
        return name

    monkeypatch.setattr(symbols.NameTable, "fresh", recorded)
    return found


def reserved(function: ast.FunctionDef) -> tuple[frozenset[str], frozenset[str]]:
    """The names and prefixes that the emitter of a function reserves."""
    arguments = {a.arg for a in function.args.args}
    if not function.decorator_list:
        return scope.RESERVED, frozenset()
    if "COLS" in arguments:
        kept = attention_builder.AttentionBuilder
        return kept.reserved, kept.families
    kept = (
        cooperative_builder.CooperativeBuilder
        if "PATIENCE" in arguments
        else builder.PersistentBuilder
    )
    return kept.reserved, kept.families


def unexplained(source: str, given: set[str]) -> set[str]:
    """The variables of generated code that no name table made and no emitter reserved."""
    found: set[str] = set()
    functions = [f for f in ast.parse(source).body if isinstance(f, ast.FunctionDef)]
    for function in functions:
        names, families = reserved(function)
        nodes = list(ast.walk(function))
        used = {n.id for n in nodes if isinstance(n, ast.Name)}
        used |= {n.arg for n in nodes if isinstance(n, ast.arg)}
        used -= given | names | {f.name for f in functions}
        paired = {f"{tag}_{name}" for tag in "ab" for name in given}
        found |= {n for n in used - paired if n.rstrip("0123456789").rstrip("_") not in families}
    return found


@pytest.mark.parametrize("kind, strategy", CASES)
def test_emitters_reserve_the_names_that_they_write(
    kind: str, strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = given_names(monkeypatch)
    _, source = computed({role: f"my_{role}" for role in PLAIN}, kind, strategy)
    assert not unexplained(source, given)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ORDER)
@pytest.mark.parametrize("name", CELLS)
def test_emitters_of_cells_reserve_the_names_that_they_write(
    name: str, strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, sizes = given_names(monkeypatch), Sizes(3, 2, 17)
    net, skip = cell(name, sizes.hidden), skipped(name, INTERPRET, strategy)
    for lengths in ({}, ragged(sizes, "cpu")):
        _, model = run(net, INTERPRET, skip, inputs(net, sizes, torch.float64, "cpu"), lengths)
        assert not unexplained(model.source(), given)


@pytest.mark.parametrize("kind, strategy", QUICK)
@pytest.mark.parametrize("names", MADE)
def test_names_made_of_another(names: dict[str, str], kind: str, strategy: str) -> None:
    judged(names, kind, strategy)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("attack", ATTACKS)
def test_the_name_of_a_users_file_is_not_run(attack: str, strategy: str) -> None:
    drawing = (
        "def draw(g, gn, torch):\n"
        "    x, h = g.input('x', (8,), over='time'), g.state('h', (8,))\n"
        "    w = g.input('w', (8, 8))\n"
        "    h.next = torch.tanh(w @ h + x)\n"
        "    g.output('y', h.next)\n"
    )
    here: dict[str, Any] = {}
    exec(compile(drawing, attack.replace("\x00", "0").replace("/", "_"), "exec"), here)
    g = gn.Graph(attack)
    here["draw"](g, gn, torch)
    model = gn.compile(g, **STRATEGIES[strategy])
    x, w = torch.randn(2, STEPS, WIDTH), torch.randn(2, WIDTH, WIDTH)
    h, steps = torch.zeros(2, WIDTH), []
    for t in range(STEPS):
        h = torch.tanh((w @ h.unsqueeze(-1)).squeeze(-1) + x[:, t])
        steps.append(h)
    torch.testing.assert_close(model(x=x, w=w), torch.stack(steps, 1))
    assert "graphnn_names_test_flag" in model.source()
    assert not hasattr(builtins, FLAG)


LETTERS = st.text(st.characters(), min_size=1, max_size=6)
WORDS = st.one_of(st.sampled_from(NASTY), LETTERS).filter(lambda name: name not in CALL)
NAMES = st.lists(WORDS, min_size=6, max_size=6, unique=True)


@settings(max_examples=5)
@given(NAMES)
def test_any_strings(found: list[str]) -> None:
    (names,) = spread(found)
    judged(names, "after", "torch")


@pytest.mark.slow
@settings(max_examples=40)
@given(NAMES, st.sampled_from(CASES))
def test_any_strings_in_kernels(found: list[str], case: tuple[str, str]) -> None:
    (names,) = spread(found)
    judged(names, *case)


def test_pictures_and_tables_show_any_name() -> None:
    words = ["$\\frac{$", "[/red]", "<b>&amp;", "a\nb\x00", "_k", "\ud800\x1b[31m"]
    (names,) = spread(words)
    net, (x, u) = network(names, "after"), leaves()
    model = gn.compile(net, backend="torch")
    given = {names["x"]: x, names["u"]: u}
    with warnings.catch_warnings():  # of letters that the font lacks
        warnings.simplefilter("ignore")
        for picture in (model.draw(), model.draw(plan=True), model.draw(unroll=2)):
            shown = ElementTree.fromstring(picture.svg())
            text = "".join(shown.itertext())
            assert "$\\frac{$" in text and "<b>&amp;" in text
    flow = {name: torch.ones(3) for name in words}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plot = gradient_flow(flow)
        ElementTree.fromstring(encode(plot.figure, "svg"))
    table = str(model.profile(**given))
    assert "[/red]" in model.explain() and "\x1b" not in table + model.explain()
