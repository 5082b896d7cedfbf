"""Options of attention: the backends agree in outputs and gradients, and each option works."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import graphnn as gn
from tests.nn.common import LENGTHS, OverTime, close, compare_backends, doubles, randomised

WIDTH = 8
MHA, Block = gn.nn.MultiHeadAttention, gn.nn.TransformerBlock
MODULES: dict[str, Callable[[], nn.Module]] = {
    "heads": lambda: MHA(WIDTH, 2),
    "grouped": lambda: MHA(WIDTH, 4, kv_heads=2),
    "one_key_head": lambda: MHA(WIDTH, 4, kv_heads=1, bias=False),
    "rotary": lambda: MHA(WIDTH, 2, positions=gn.nn.RotaryPositions(4)),
    "rotary_grouped": lambda: MHA(WIDTH, 4, kv_heads=2, positions=gn.nn.RotaryPositions(2)),
    "relative": lambda: MHA(WIDTH, 2, positions=gn.nn.RelativePositions(2, 1)),
    "relative_one_head": lambda: MHA(WIDTH, 1, positions=gn.nn.RelativePositions(1, 2)),
    "relative_grouped": lambda: MHA(WIDTH, 4, kv_heads=2, positions=gn.nn.RelativePositions(4, 2)),
    "dropout": lambda: MHA(WIDTH, 2, dropout=0.3),
    "block_causal": lambda: Block(WIDTH, 2, causal=True, dropout=0.2),
    "block_window": lambda: Block(WIDTH, 2, causal=True, norm_first=True, window=2),
    "sinusoidal": lambda: Positioned(),
    "learned": lambda: gn.nn.LearnedPositions(6, WIDTH),
}


@pytest.mark.parametrize("lengths", [None, LENGTHS, {"time": torch.tensor([0, 4, 1])}])
@pytest.mark.parametrize("name", MODULES)
def test_backends_agree(name: str, lengths: Any) -> None:
    torch.manual_seed(0)
    net = OverTime(randomised(MODULES[name]()), WIDTH)
    compare_backends(net, lengths, seed=2, x=doubles(3, 4, WIDTH))


@pytest.mark.parametrize("batch, time", [(1, 1), (0, 3)])
def test_one_position_or_an_empty_batch(batch: int, time: int) -> None:
    compare_backends(
        OverTime(randomised(Block(WIDTH, 2, causal=True)), WIDTH), x=doubles(batch, time, WIDTH)
    )


def test_grouped_queries_equal_repeated_keys() -> None:
    """Two groups of two queries equal four heads whose keys and values are repeated."""
    grouped = randomised(MHA(WIDTH, 4, kv_heads=2))
    full = MHA(WIDTH, 4).double()
    q, k, v = grouped.in_proj_weight.split(grouped.sizes)
    bias = grouped.in_proj_bias.split(grouped.sizes)

    def twice(rows: Tensor) -> Tensor:
        return rows.unflatten(0, (2, 2)).repeat_interleave(2, 0).flatten(0, 1)

    with torch.no_grad():
        full.in_proj_weight.copy_(torch.cat([q, twice(k), twice(v)]))
        full.in_proj_bias.copy_(torch.cat([bias[0], twice(bias[1]), twice(bias[2])]))
    full.out_proj.load_state_dict(grouped.out_proj.state_dict())
    x = doubles(2, 5, WIDTH)
    a, b = (gn.compile(OverTime(m, WIDTH))(x=x) for m in (grouped, full))
    close({"y": a}, {"y": b}, 1e-12)


class Scores(nn.Module):
    """The scores of rotary queries and keys."""

    def __init__(self) -> None:
        super().__init__()
        self.turn = gn.nn.RotaryPositions(WIDTH)
        self.map = nn.Linear(WIDTH, WIDTH)

    def graph(self, g: gn.Graph) -> None:
        q, k = g.input("q", (WIDTH,), over="time"), g.input("k", (WIDTH,), over="time")
        key = gn.rename(self.turn(k), time="key")
        g.output("score", gn.dot(self.turn(self.map(q)), key))


def test_rotary_scores_depend_only_on_distance() -> None:
    q, k = (doubles(1, 1, WIDTH, seed=s).expand(1, 6, WIDTH) for s in (0, 1))
    score = gn.compile(Scores().double())(q=q, k=k)[0]
    for distance in range(-5, 6):
        line = score.diagonal(distance)
        torch.testing.assert_close(line, line[:1].expand_as(line), rtol=1e-12, atol=1e-12)
    assert score.diagonal(0)[0] != score.diagonal(1)[0]


class Positioned(nn.Module):
    """A linear map with sinusoidal positions."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(WIDTH, WIDTH, False)
        self.positions = gn.nn.SinusoidalPositions(WIDTH)

    def forward(self, x: Any) -> Any:
        return self.positions(self.map(x))


def test_sinusoids_follow_the_formula() -> None:
    net = OverTime(Positioned(), WIDTH)
    y = gn.compile(net.double())(x=torch.zeros(1, 9, WIDTH, dtype=torch.float64))[0]
    for t, i in ((0, 0), (3, 1), (8, 3)):
        angle = t / 10_000 ** (2 * i / WIDTH)
        torch.testing.assert_close(y[t, 2 * i].item(), math.sin(angle), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(y[t, 2 * i + 1].item(), math.cos(angle), rtol=1e-12, atol=1e-12)


def test_a_window_has_the_given_number_of_positions() -> None:
    net = OverTime(randomised(Block(WIDTH, 2, causal=True, window=3)), WIDTH)
    x = doubles(1, 8, WIDTH)
    y = gn.compile(net)(x=x)
    (seen,) = torch.autograd.grad(y[0, 5].sum(), x)
    assert seen[0].abs().sum(-1).gt(0).tolist() == [False] * 3 + [True] * 3 + [False] * 2


class Masked(nn.Module):
    """Attention with a mask as an input."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options, self.map = options, nn.Linear(WIDTH, WIDTH)

    def graph(self, g: gn.Graph) -> None:
        q, k = g.input("q", (WIDTH,), over="time"), g.input("k", (WIDTH,), over="source")
        mask = g.input("mask", over=("time", "source"), dtype=torch.bool)
        y, weights = gn.attend(
            self.map(q), k, over="source", mask=mask, with_weights=True, **self.options
        )
        g.output("y", y)
        g.output("weights", weights)


@pytest.mark.parametrize("ragged", [False, True], ids=["even", "ragged"])
@pytest.mark.parametrize("backend", ["torch", "reference", "interpret"])
def test_fully_masked_rows_give_zeros(backend: str, ragged: bool) -> None:
    mask = torch.rand(3, 5, 4, generator=torch.Generator().manual_seed(0)) > 0.5
    mask[0] = mask[1, 2] = False
    lengths = {"source": torch.tensor([4, 2, 0])} if ragged else None
    q, k = doubles(3, 5, WIDTH), doubles(3, 4, WIDTH, seed=1)
    net = Masked(heads=2).double()
    found = gn.compile(net, backend=backend)(q=q, k=k, mask=mask, lengths=lengths)
    allowed = mask
    if lengths:
        allowed = mask & (torch.arange(4) < lengths["source"][:, None])[:, None]
    empty = ~allowed.any(-1)
    assert empty[0].all() and not found["y"][empty].any() and not found["weights"][empty].any()
    grads = torch.autograd.grad(found["y"].square().sum(), (q, k))
    assert all(torch.isfinite(d).all() for d in grads)
    split = [v.unflatten(-1, (2, -1)).transpose(1, 2) for v in (net.map(q), k, k)]
    y = F.scaled_dot_product_attention(*split, attn_mask=allowed[:, None])
    full = y.transpose(1, 2).flatten(2)
    close({"y": found["y"][~empty]}, {"y": full[~empty]}, 1e-12)


class AttentiveDecoder(nn.Module):
    """A decoder whose attention may depend on its previous weights."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.attention, self.cell = attention, nn.GRUCell(WIDTH + 5, 5)

    def graph(self, g: gn.Graph) -> None:
        x = g.input("x", (5,), over="target")
        h = g.input("h", (WIDTH,), over="source")
        s = g.state("s", (5,), over="target")
        context, weights = self.attention(s, h, with_weights=True)
        s.next = self.cell(torch.cat([x, context]), s)
        g.output("s", s.next)
        g.output("weights", weights)


@pytest.mark.parametrize("make", [gn.nn.AdditiveAttention, gn.nn.LocationAttention])
@pytest.mark.parametrize(
    "lengths", [None, {"source": torch.tensor([4, 1, 3]), "target": torch.tensor([1, 3, 2])}]
)
def test_attention_in_a_decoder(make: Any, lengths: Any) -> None:
    net = randomised(AttentiveDecoder(make(5, WIDTH, 6)))
    found = compare_backends(net, lengths, h=doubles(3, 4, WIDTH), x=doubles(3, 3, 5, seed=1))
    total = found["weights"].sum(-1)
    if lengths is None:
        torch.testing.assert_close(total, torch.ones_like(total))


def test_location_attention_equals_its_equation() -> None:
    attention = randomised(gn.nn.LocationAttention(5, WIDTH, 6, reach=1))
    net = randomised(AttentiveDecoder(attention), seed=1)
    h, x = doubles(2, 4, WIDTH), doubles(2, 3, 5, seed=1)
    found = gn.compile(net)(h=h, x=x)
    s, covered = torch.zeros(2, 5, dtype=torch.float64), torch.zeros(2, 4, dtype=torch.float64)
    for t in range(3):
        sides = torch.stack([F.pad(covered, (1, 1))[:, k : k + 4] for k in range(3)], -1)
        inner = attention.query(s)[:, None] + attention.key(h) + attention.location(sides)
        weights = torch.softmax(torch.tanh(inner) @ attention.weight, -1)
        covered = covered + weights
        s = net.cell(torch.cat([x[:, t], (weights[..., None] * h).sum(1)], -1), s)
        close({"w": found["weights"][:, t], "s": found["s"][:, t]}, {"w": weights, "s": s}, 1e-12)


ERRORS: dict[str, tuple[Any, Any, str]] = {
    "heads": (lambda: MHA(8, 3), gn.errors.ShapeError, "width=8, heads=3"),
    "groups": (lambda: MHA(8, 4, kv_heads=3), gn.errors.ShapeError, "kv_heads=3"),
    "odd": (lambda: gn.nn.RotaryPositions(3), gn.errors.ShapeError, "width 3"),
    "memory": (
        lambda: gn.compile(OverTime(Block(WIDTH, 2, cross=True), WIDTH)),
        gn.errors.UnsupportedError,
        "cross=True, no memory",
    ),
    "attend": (
        lambda: gn.compile(Masked(heads=3)),
        gn.errors.ShapeError,
        "the query cannot be split into 3 heads",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name: str) -> None:
    make, kind, text = ERRORS[name]
    with pytest.raises(kind, match=text):
        make()


def test_positions_require_self_attention() -> None:
    class Cross(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = MHA(WIDTH, 2, positions=gn.nn.RotaryPositions(4))

        def graph(self, g: gn.Graph) -> None:
            x = g.input("x", (WIDTH,), over="target")
            g.output("y", self.attention(x, g.input("h", (WIDTH,), over="source")))

    with pytest.raises(gn.errors.AxisError, match="queries that vary over"):
        gn.compile(Cross())
