"""Decoders and sequence-to-sequence networks against eager loops and the reference backend."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import graphnn as gn
from graphnn.errors import UnsupportedError
from tests.nn.common import close, compare_backends, doubles, randomised, run

INPUT, HIDDEN, SOURCE = 3, 5, 4
LENGTHS = {"source": torch.tensor([4, 1, 3]), "target": torch.tensor([3, 2, 1])}


class Decoder(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.decoder = gn.nn.AttentionDecoder(INPUT, HIDDEN, SOURCE, **options)

    def graph(self, g: gn.Graph) -> None:
        x = g.input("x", (INPUT,), over="target")
        source = g.input("source", (SOURCE,), over="source")
        init = {"h": g.input("h", (HIDDEN,))}
        y, states = self.decoder(x, source, init=init, with_states=True)
        g.output("y", y)
        g.output("weights", states["weights"])


def eager(net: Decoder, x: Tensor, source: Tensor, h: Tensor) -> dict[str, Tensor]:
    """The decoder as an eager loop over the target."""
    d = net.decoder
    c = torch.zeros_like(h)
    found: dict[str, list[Tensor]] = {"y": [], "weights": []}
    for t in range(x.shape[1]):
        if isinstance(d.attention, nn.Linear):
            score = torch.einsum("bk,bjk->bj", d.attention(h), source)
        else:
            a = d.attention
            score = torch.tanh(a.query(h)[:, None] + a.key(source)) @ a.weight
        weights = score.softmax(-1)
        context = torch.einsum("bj,bjk->bk", weights, source)
        seen, p = torch.cat([x[:, t], context], -1), d.cell
        if isinstance(p, gn.nn.LSTMCell):
            gates = F.linear(seen, p.weight_ih, p.bias_ih) + F.linear(h, p.weight_hh, p.bias_hh)
            i, f, g, o = gates.chunk(4, -1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        else:
            into = F.linear(seen, p.weight_ih, p.bias_ih).chunk(3, -1)
            gates, rows = (into[0], into[1]), p.weight_hh.split(HIDDEN)
            bias = p.bias_hh.split(HIDDEN)
            r, z = (torch.sigmoid(v + F.linear(h, w, b)) for v, w, b in zip(gates, rows, bias))
            h = (1 - z) * torch.tanh(into[2] + F.linear(r * h, rows[2], bias[2])) + z * h
        found["y"].append(torch.cat([h, context], -1))
        found["weights"].append(weights)
    return {k: torch.stack(v, 1) for k, v in found.items()}


@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize("score", ["additive", "dot"])
def test_a_decoder_equals_the_eager_loop(score: str, cell: str) -> None:
    net = randomised(Decoder(score=score, cell=cell, attention_size=6))
    inputs = {"x": doubles(3, 3, INPUT), "source": doubles(3, 4, SOURCE), "h": doubles(3, HIDDEN)}
    model, variables = gn.compile(net), {**inputs, **dict(net.named_parameters())}
    got = run(lambda: model(**inputs), variables)
    ir = gn.compile(net).ir  # the weights have their axes in the order of the graph
    assert [a for a in ir.axes if a != "batch"][:2] == ["target", "source"]
    close(got, run(lambda: eager(net, **inputs), variables), 1e-10)


@pytest.mark.parametrize("score", ["additive", "dot"])
def test_a_ragged_decoder_equals_the_reference(score: str) -> None:
    net = randomised(Decoder(score=score))
    x, source = doubles(3, 3, INPUT), doubles(3, 4, SOURCE)
    compare_backends(net, LENGTHS, x=x, source=source, h=doubles(3, HIDDEN))


NETS: dict[str, dict[str, Any]] = {
    "plain": {"num_layers": 2, "reverse": True},
    "both_ways": {"bidirectional": True, "cell": "gru", "num_layers": 2},
    "additive": {"attention": "additive", "bidirectional": True, "num_layers": 3},
    "dot": {"attention": "dot"},
}


def words(*shape: int, count: int) -> Tensor:
    return torch.randint(count, shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "ragged"])
@pytest.mark.parametrize("name", NETS)
def test_seq2seq_equals_the_reference(name: str, lengths: Any) -> None:
    net = randomised(gn.nn.Seq2Seq(7, 6, 3, 4, **NETS[name]))
    compare_backends(net, lengths, source=words(3, 4, count=7), target=words(3, 3, count=6))


def test_without_attention_it_equals_two_torch_lstms() -> None:
    net = randomised(gn.nn.Seq2Seq(7, 6, 3, 4, num_layers=2, reverse=True))
    encoder, decoder = net.encoder.to_torch(), net.decoder.to_torch()
    source, target = words(2, 5, count=7), words(2, 3, count=6)
    _, state = encoder(net.source_words(source).flip(1))
    expected = net.out(decoder(net.target_words(target), state)[0])
    got = gn.compile(net)(source=source, target=target)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


def test_a_ragged_source_is_reversed_within_its_length() -> None:
    model = gn.compile(randomised(gn.nn.Seq2Seq(7, 6, 3, 4, reverse=True)))
    source, target = words(3, 4, count=7), words(3, 2, count=6)
    batched = model(source=source, target=target, lengths={"source": LENGTHS["source"]})
    for k, n in enumerate(LENGTHS["source"]):
        single = model(source=source[k : k + 1, :n], target=target[k : k + 1])
        torch.testing.assert_close(single[0], batched[k], rtol=1e-10, atol=1e-10)


def test_unknown_options_are_errors_with_the_valid_ones() -> None:
    with pytest.raises(UnsupportedError, match=r"(?s)Seq2Seq has no attention 'cosine'.*'dot'"):
        gn.nn.Seq2Seq(7, 6, 3, 4, attention="cosine")
    with pytest.raises(UnsupportedError, match="AttentionDecoder has no cell 'elman'"):
        gn.nn.AttentionDecoder(3, 4, 5, cell="elman")


def test_attention_weights_on_request() -> None:
    net = randomised(gn.nn.Seq2Seq(9, 8, 3, 4, attention="additive", with_weights=True)).eval()
    source, target = torch.randint(9, (2, 5)), torch.randint(8, (2, 3))
    found = compare_backends(net, source=source, target=target)
    words = F.embedding(source, net.source_words.weight)
    encoder, decoder = net.encoder.to_torch(), net.attention
    outputs, (h, c) = encoder(words)
    h, c, rows = h[0], c[0], []
    for word in F.embedding(target, net.target_words.weight).unbind(1):
        score = (
            torch.tanh(decoder.attention.query(h)[:, None] + decoder.attention.key(outputs))
            @ decoder.attention.weight
        )
        rows.append(torch.softmax(score, 1))
        context = torch.einsum("bs,bsd->bd", rows[-1], outputs)
        cell = decoder.cell
        gates = F.linear(torch.cat([word, context], -1), cell.weight_ih, cell.bias_ih)
        i, f, g, o = (gates + F.linear(h, cell.weight_hh, cell.bias_hh)).chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
    torch.testing.assert_close(found["weights"], torch.stack(rows, 2), rtol=1e-10, atol=1e-12)


def test_weights_without_attention_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="no attention None"):
        gn.nn.Seq2Seq(9, 8, 3, 4, with_weights=True)
