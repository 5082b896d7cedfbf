"""Any string names anything: what is computed is the same, and nothing of a name becomes code."""

from __future__ import annotations

import ast
import builtins
import keyword
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import graphnn as gn
from graphnn.backends.torch import scope
from graphnn.errors import GraphnnError
from graphnn.kernels import page, sheet, symbols, tilesheet

WIDTH, STEPS, PLACES = 8, 3, 5
# inputs, states and outputs of a network, its axes, and the keys of its modules
VALUES, AXES, KEYS = ("x", "u", "h", "k", "y", "z"), ("a", "b"), ("p", "q")
PLAIN = {role: role for role in (*VALUES, *AXES, *KEYS, "Net")}
REGIMES: dict[str, dict[str, Any]] = {
    "torch": {"backend": "torch"},
    "resident": {"backend": "interpret"},
    "cooperative": {"backend": "interpret", "skip": ("resident", "fit")},
    "stepwise": {"backend": "interpret", "skip": ("resident", "cooperative")},
}
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
    *("type", "float", "range", "zip", "list", "int", "len", "print", "reversed", "abs", "__import__"),
    *('"""', "'''", '"', "'", "\\", "\\n", "a\nb", "a\r\nb", "{0}", "{", "}}", "%s", "%(x)s", "#"),
    *("a  # b", "  # ", "...", " ", "-", "()", "1", "3d", "é", "α", "名前", "x²", "ﬁ", "fi", "ª"),
    *("\x00", "\x1b[31m", "\u2028", "\u2029", "\x85", "\ud800", "\u0301", "x·", "℘", "౸", "😀"),
    *("[red]x[/red]", "$\\frac{$", "<b>&amp;</b>", "`", "@triton.jit", "def main(", "n" * 300),
    *("import triton.language as tl", "opaque", "product(", "cols_99999", "loop_0", "attend_0"),
    *("mask", "other", "cg", "inf", "nan", "ALL", "keep_dims", "dtype", "axis", "num_stages"),
    *("h_out", "h_ptr", "h_next", "h_t", "h_all", "d_h", "x_ptr", "x_out", "n_a", "n_b", "n_batch"),
    *("n_rows", "k_out", "x_seed", "peak", "delta", "best", "places", "total", "soft", "arrows"),
    *ATTACKS,
]
TWINS = [("src-1", "src_1"), ("ﬁ", "fi"), ("a b", "a-b"), ("t.1", "t 1"), ("", "-"), ("é", "e\u0301")]


def network(names: Mapping[str, str], inside: bool) -> nn.Module:
    """A loop over one axis that attends to another, in its steps if `inside`, else after them."""

    def build(self: Any) -> None:
        nn.Module.__init__(self)
        torch.manual_seed(0)
        maps = (nn.Linear(2 * WIDTH, 2 * WIDTH), nn.Linear(WIDTH, WIDTH))
        self.maps = nn.ModuleDict(dict(zip((names["p"], names["q"]), maps, strict=True)))
        self.double()

    def graph(self: Any, g: gn.Graph) -> None:
        x = g.input(names["x"], (WIDTH,), over=names["a"])
        u = g.input(names["u"], (WIDTH,), over=names["b"])
        h, k = (g.state(names[s], (WIDTH,), over=names["a"]) for s in "hk")

        def read(query: gn.Value) -> gn.Value:
            weights = gn.softmax((self.maps[names["q"]](query) * u).sum(-1), over=names["b"])
            return gn.sum(weights.unsqueeze(-1) * u, over=names["b"])

        both = torch.tanh(self.maps[names["p"]](torch.cat([x + read(h) if inside else x, h])))
        h.next, k.next = both[:WIDTH], both[WIDTH:] * k + h
        y = h.next if inside else read(h.next)
        g.output(names["y"], y * gn.length(names["b"]))
        g.output(names["z"], k.next * gn.length(names["a"]))

    return type(names["Net"], (nn.Module,), {"__init__": build, "graph": graph})()  # type: ignore[no-any-return]


def eager(net: Any, x: Tensor, u: Tensor, inside: bool) -> tuple[Tensor, Tensor]:
    """The same by plain torch."""
    first, second = net.maps.values()
    h = k = torch.zeros(len(x), WIDTH, dtype=torch.float64)
    ys, zs = [], []

    def read(query: Tensor) -> Tensor:
        weights = torch.softmax((second(query).unsqueeze(1) * u).sum(-1), 1)
        return (weights.unsqueeze(-1) * u).sum(1)

    for t in range(x.shape[1]):
        both = torch.tanh(first(torch.cat([x[:, t] + (read(h) if inside else 0), h], -1)))
        h, k = both[:, :WIDTH], both[:, WIDTH:] * k + h
        ys.append((h if inside else read(h)) * u.shape[1])
        zs.append(k * x.shape[1])
    return torch.stack(ys, 1), torch.stack(zs, 1)


def leaves() -> tuple[Tensor, Tensor]:
    made = torch.Generator().manual_seed(1)
    sizes = (2, STEPS, WIDTH), (2, PLACES, WIDTH)
    x, u = (torch.randn(*s, dtype=torch.float64, generator=made) for s in sizes)
    return x.requires_grad_(), u.requires_grad_()


def results(outs: Sequence[Tensor], x: Tensor, u: Tensor, net: nn.Module) -> list[Tensor]:
    """Outputs, and the gradients of all that they are made of."""
    total = sum((y * torch.arange(y.numel()).reshape(y.shape).cos()).sum() for y in outs)
    grads = torch.autograd.grad(total, [x, u, *net.parameters()])  # type: ignore[arg-type]
    return [*(y.detach() for y in outs), *grads]


def computed(names: Mapping[str, str], inside: bool, regime: str) -> tuple[list[Tensor], str]:
    """What a network computes under its names, and its source."""
    net, (x, u) = network(names, inside), leaves()
    model = gn.compile(net, **REGIMES[regime])
    made = model(**{names["x"]: x, names["u"]: u})
    found = results([made[names["y"]], made[names["z"]]], x, u, net)
    model.explain()
    return found, model.source()


_KNOWN: dict[tuple[bool, str], tuple[list[Tensor], str]] = {}


def plainly(inside: bool, regime: str) -> tuple[list[Tensor], str]:
    """The same under plain names, which plain torch has judged."""
    if (inside, regime) not in _KNOWN:
        found, source = computed(PLAIN, inside, regime)
        net, (x, u) = network(PLAIN, inside), leaves()
        for mine, theirs in zip(
            found, results(eager(net, x, u, inside), x, u, net), strict=True
        ):
            torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)
        _KNOWN[inside, regime] = found, source
    return _KNOWN[inside, regime]


def judged(names: Mapping[str, str], inside: bool, regime: str) -> None:
    wanted, _ = plainly(inside, regime)
    found, _ = computed({**PLAIN, **names}, inside, regime)
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
    """Whether torch lets a module be called so."""
    taken = hasattr(nn.ModuleDict(), key) if "\ud800" not in key else True
    return key != "" and "." not in key and not taken


def spread(words: Sequence[str]) -> Iterator[dict[str, str]]:
    """The words as names of one network after another: of values, and from the end of axes."""
    for start in range(0, len(words), len(VALUES)):
        names = dict(zip(VALUES, words[start : start + len(VALUES)]))
        here = list(names.values())
        names |= dict(zip(AXES, [w for w in here[::-1] if w != "batch"]))
        names |= dict(zip(KEYS, [w for w in here[1:] if allowed(w)]))
        if "\x00" not in here[0] and "\ud800" not in here[0]:  # what Python lets a class be called
            names["Net"] = here[0]
        yield {role: names.get(role, role + "_") for role in PLAIN}


def words(inside: bool, regime: str) -> list[str]:
    """Every name in generated code."""
    call = {"lengths", "state", "return_state", "record", "self", "batch"}
    return sorted(identifiers(plainly(inside, regime)[1]) - call)


CASES = [(inside, regime) for regime in REGIMES for inside in (False, True)]
QUICK = [(False, "torch"), (True, "cooperative"), (False, "resident")]


@pytest.mark.slow
@pytest.mark.parametrize("inside, regime", CASES)
def test_every_name_in_generated_code_may_be_a_users(inside: bool, regime: str) -> None:
    for names in spread(words(inside, regime)):
        judged(names, inside, regime)


@pytest.mark.parametrize("inside, regime", QUICK)
def test_names_in_generated_code_may_be_a_users(inside: bool, regime: str) -> None:
    drawn = random.Random(0).sample(words(inside, regime), 3 * len(VALUES))
    for names in spread(drawn):
        judged(names, inside, regime)


def test_names_of_every_kind() -> None:
    for names in spread(NASTY):
        judged(names, False, "torch")


@pytest.mark.slow
@pytest.mark.parametrize("inside, regime", CASES)
def test_names_of_every_kind_in_kernels(inside: bool, regime: str) -> None:
    for names in spread(NASTY):
        judged(names, inside, regime)


@pytest.mark.parametrize("regime", REGIMES)
def test_no_name_is_run(regime: str) -> None:
    one = random.Random(1).sample(ATTACKS, len(VALUES))
    for names in spread(one):
        judged(names, True, regime)


@pytest.mark.parametrize("regime", REGIMES)
def test_two_axes_that_clean_to_one_word(regime: str) -> None:
    for first, second in TWINS:
        judged({"a": first or "_", "b": second}, False, regime)


LETTERS = st.text(st.characters(), min_size=1, max_size=6)
NAMES = st.lists(
    st.one_of(st.sampled_from(NASTY), LETTERS), min_size=6, max_size=6, unique=True
).filter(lambda found: not set(found) & {"lengths", "state", "return_state", "record", "self", "batch"})


@settings(max_examples=5)
@given(NAMES)
def test_any_strings(found: list[str]) -> None:
    (names,) = spread(found)
    judged(names, False, "torch")


@pytest.mark.slow
@settings(max_examples=40)
@given(NAMES, st.sampled_from(CASES))
def test_any_strings_in_kernels(found: list[str], case: tuple[bool, str]) -> None:
    (names,) = spread(found)
    judged(names, *case)
