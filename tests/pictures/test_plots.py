"""Plots: values, labels, and errors."""

import math

import pytest
import torch

import graphnn as gn
from graphnn.errors import PictureError
from graphnn.pictures import alignment, attention_map, gradient_flow
from tests.pictures.networks import Elman


def labels(ticks):
    return [t.get_text() for t in ticks]


def test_an_attention_map_has_its_weights_and_names(tmp_path):
    weights = torch.softmax(torch.randn(2, 3), -1).requires_grad_()
    plot = attention_map(weights, ["q1", "q2"], ["a$", "b", "$c"], "heads")
    ax = plot.figure.axes[0]
    assert torch.equal(torch.tensor(ax.images[0].get_array().data), weights.detach().double())
    assert labels(ax.get_yticklabels()) == ["q1", "q2"]
    assert labels(ax.get_xticklabels()) == ["a$", "b", "$c"]
    plot.save(tmp_path / "map.svg")
    assert (tmp_path / "map.svg").stat().st_size > 1000
    assert "<svg" in plot._repr_svg_()


def test_each_head_has_its_own_map():
    plot = attention_map(torch.rand(4, 3, 5))
    assert [a.get_title() for a in plot.figure.axes[:4]] == [f"head {n}" for n in (1, 2, 3, 4)]


def test_an_alignment_omits_padding_and_marks_the_maximum():
    weights = torch.eye(5, 6).flip(0)
    plot = alignment(weights, ["le", "chat", "dort", "ici", "."], ["the", "cat", "sleeps"])
    ax = plot.figure.axes[0]
    assert ax.images[0].get_array().shape == (3, 5)
    assert list(ax.lines[0].get_xdata()) == [4, 3, 2]


def test_an_alignment_accepts_both_orders_of_axes():
    weights = torch.softmax(torch.randn(4, 4), -1)  # target and source have as many words
    words = ["a", "b", "c", "d"]
    shown = [
        torch.tensor(alignment(w, words, words, axes=axes).figure.axes[0].images[0].get_array())
        for w, axes in ((weights, ("target", "source")), (weights.T, ("source", "target")))
    ]
    assert torch.equal(*shown)
    for w, axes in ((weights.T, ("target", "source")), (weights, ("source", "target"))):
        with pytest.raises(PictureError, match=r"(?s)sum to one along the target.*fix:    axes="):
            alignment(w, words, words, axes=axes)
    with pytest.raises(PictureError, match="two axes"):
        alignment(weights, words, words, axes=("rows", "columns"))


def test_gradient_flow_plots_the_measured_norms():
    model = gn.compile(Elman())
    flow = gn.gradient_flow(model, lambda y: y[:, -1].sum(), {"x": torch.randn(2, 7, 28)})
    ax = gradient_flow(flow).figure.axes[0]
    assert ax.get_yscale() == "log"
    assert list(ax.lines[0].get_xdata()) == [1, 2, 3, 4, 5, 6, 7]
    assert list(ax.lines[0].get_ydata()) == pytest.approx(flow["z"].tolist())


def test_gradients_are_measured_where_their_squares_underflow():
    net, x = gn.nn.RNN(3, 8), torch.randn(2, 60, 3)
    with torch.no_grad():
        net.l0.weight_hh.mul_(0.05)
    model = gn.compile(net)
    found = gn.gradient_flow(model, lambda y: y[:, -1].sum(), {"x": x})["rnn.h"]
    cell, h, hs = net.l0, torch.zeros(2, 8), []
    for step in x.unbind(1):
        h = torch.tanh(_step(cell, step, h))
        h.retain_grad()
        hs.append(h)
    h.sum().backward()
    expected = torch.stack([h.grad.double().norm() for h in hs])
    small = (expected > 1e-34) & (expected < 1e-24)
    assert small.any()
    torch.testing.assert_close(found[small], expected[small], rtol=1e-3, atol=0)


def _step(cell, x, h):
    return x @ cell.weight_ih.T + cell.bias_ih + h @ cell.weight_hh.T + cell.bias_hh


def test_the_legend_is_next_to_the_plot():
    ax = gradient_flow({"z": torch.tensor([1.0, 2.0])}).figure.axes[0]
    ax.figure.canvas.draw()
    box = ax.get_legend().get_window_extent()
    assert box.x0 >= ax.get_window_extent().x1 and box.x1 <= ax.figure.bbox.x1


def test_several_networks_in_one_plot_and_zeros_as_gaps():
    flow = {"a": {"z": torch.tensor([0.0, 1.0])}, "b": {"h": torch.tensor([1.0, 2.0])}}
    ax = gradient_flow(flow).figure.axes[0]
    assert labels(ax.get_legend().get_texts()) == ["a z", "b h"]
    assert math.isnan(ax.lines[0].get_ydata()[0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: attention_map(torch.rand(2, 3), rows=["one"]), "'rows' does not name"),
        (lambda: attention_map(torch.rand(3)), "'weights' has a shape"),
        (lambda: attention_map(torch.rand(0, 3)), "'weights' has a shape"),
        (lambda: alignment(torch.rand(2, 3), list("abcd"), list("ab")), "more source words"),
        (lambda: gradient_flow({}), "no flow to plot"),
        (lambda: gradient_flow({"z": torch.rand(2, 3)}), "'z' has a shape"),
    ],
)
def test_invalid_values_are_errors(make, message):
    with pytest.raises(PictureError, match=message):
        make()
