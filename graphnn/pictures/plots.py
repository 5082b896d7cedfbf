"""Plots of what runs through a network: attention, alignments, the flow of gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from graphnn.errors import PictureError
from graphnn.kernels.ir.symbols import visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CELL = 0.32
LABELS = 60


class Plot:
    """A matplotlib figure.

    `save` writes a file; a notebook shows it as SVG.

        gn.pictures.attention_map(torch.eye(3)).save("weights.png")
    """

    def __init__(self, figure: Figure):
        self.figure = figure

    def save(self, path: Any, dpi: float = 144) -> None:
        """Write an SVG, PNG or PDF file; the suffix gives the format.

        Raises PictureError if the suffix is another one.
        """
        from graphnn.pictures.picture import save_figure

        save_figure(self.figure, path, dpi)

    def _repr_svg_(self) -> str:
        from graphnn.pictures.picture import encode

        return encode(self.figure, "svg").decode()


def attention_map(
    weights: torch.Tensor,
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    title: str = "",
) -> Plot:
    """Attention weights as a heat map: large weights are dark.

    `weights` has shape (queries, keys), or (heads, queries, keys) for one map per head. `rows` and
    `columns` name the queries and the keys. Raises PictureError if the shape has another number of
    dimensions, or if the number of names does not match it.

        weights = torch.softmax(torch.randn(3, 5), dim=1)
        gn.pictures.attention_map(weights, rows=["a", "b", "c"]).save("weights.svg")
    """
    shown = _matrix(weights, "weights", (2, 3))
    maps = shown if shown.ndim == 3 else shown[None]
    _count("rows", rows, maps.shape[1])
    _count("columns", columns, maps.shape[2])
    width = max(2.0, min(12.0, CELL * maps.shape[2])) + 1.2
    height = max(1.6, min(12.0, CELL * maps.shape[1])) + 1.2
    figure, axes = _figure(width, height, len(maps))
    top = float(maps.max()) if maps.numel() else 1.0
    for n, (ax, one) in enumerate(zip(axes, maps)):
        image = ax.imshow(one.numpy(), cmap="Blues", vmin=0.0, vmax=top, aspect="auto")
        _ticks(ax, rows, columns)
        ax.set_title(f"head {n + 1}" if len(maps) > 1 else title)
    if len(maps) > 1:
        figure.suptitle(title)
    figure.colorbar(image, ax=axes, label="weight", shrink=0.8)
    return Plot(figure)


def alignment(
    weights: torch.Tensor,
    source: Sequence[str],
    target: Sequence[str],
    title: str = "",
    axes: tuple[str, str] = ("target", "source"),
) -> Plot:
    """An alignment: the attention of each target word over the source words.

    `weights` has two dimensions, named by `axes`. Outputs have their axes in the order in which the
    graph names them; `gn.nn.Seq2Seq` gives ("source", "target"). A dot marks the largest weight of
    each target word. If sequences are padded, weights beyond the given words are left out. Raises
    PictureError if there are fewer weights than words, or if the weights sum to one along the
    target instead of the source.

        weights = torch.softmax(torch.randn(2, 3), dim=1)
        gn.pictures.alignment(weights, ["the", "cat", "."], ["le", "chat"]).save("cat.svg")
    """
    shown = _matrix(weights, "weights", (2,))
    if set(axes) != {"target", "source"}:
        raise PictureError(
            "the weights of an alignment have two axes",
            got=f"axes={axes!r}",
            wanted='("target", "source") or ("source", "target")',
            fix="name the dimensions in their order",
        )
    shown = shown if tuple(axes) == ("target", "source") else shown.T
    for name, words, have in (("target", target, 0), ("source", source, 1)):
        if len(words) > shown.shape[have]:
            raise PictureError(
                f"more {name} words than weights",
                got=f"{len(words)} words, weights of shape {tuple(shown.shape)}",
                wanted=f"weights of shape {tuple(axes)}, at least as many as words",
                fix='axes=("source", "target") or axes=("target", "source"), as they are',
            )
    if not _is_one(shown.sum(1)[: len(target)]) and _is_one(shown.sum(0)[: len(source)]):
        raise PictureError(
            "these weights sum to one along the target, not along the source",
            got=f"weights of shape {tuple(torch.as_tensor(weights).shape)} as {tuple(axes)}",
            wanted="weights that each word of the target spreads over the source",
            fix=f"axes={tuple(reversed(axes))!r}",
        )
    shown = shown[: len(target), : len(source)]
    plot = attention_map(shown, target, source, title)
    ax = plot.figure.axes[0]
    ax.set_xlabel("source")
    ax.set_ylabel("target")
    best = shown.argmax(1)
    ax.plot(best.numpy(), range(len(target)), "o", color="#c0392b", markersize=4)
    ax.set_xlim(-0.5, len(source) - 0.5)
    ax.set_ylim(len(target) - 0.5, -0.5)
    return plot


def gradient_flow(
    flow: Mapping[str, torch.Tensor | Mapping[str, torch.Tensor]], title: str = ""
) -> Plot:
    """The norm of the gradient of a loss at each state and step, ‖∂L/∂z(t)‖, on a log scale.

    `flow` is the result of `graphnn.gradient_flow`: norms of shape (positions,) by state; or
    several such results by network. Towards earlier steps, a falling line shows a vanishing
    gradient, a rising line an exploding one. Raises PictureError if there is nothing to plot.

        gn.pictures.gradient_flow({"h": torch.logspace(-6, 0, 20)}).save("flow.svg")
    """
    lines: dict[str, torch.Tensor] = {}
    for name, value in flow.items():
        if isinstance(value, Mapping):
            lines.update({f"{name} {state}": norms for state, norms in value.items()})
        else:
            lines[name] = value
    if not lines:
        raise PictureError(
            "there is no flow to plot",
            got="no states",
            wanted="norms by state, as graphnn.gradient_flow returns them",
            fix="give the network a state, or leave `states` at True",
        )
    figure, (ax,) = _figure(6.4, 3.8, 1)
    for name, norms in lines.items():
        row = _matrix(norms, name, (1,))
        # a log scale cannot show zero: a gap in the line means that no gradient arrives
        row = torch.where(row > 0, row, torch.nan)
        # matplotlib leaves labels that begin with "_" out of the legend
        label = visible(f" {name}" if name.startswith("_") else name)
        marker = "." if len(row) < 40 else ""
        ax.plot(range(1, len(row) + 1), row.numpy(), label=label, marker=marker)
    ax.set_yscale("log")
    ax.set_xlabel("step t")
    ax.set_ylabel("‖∂L/∂z(t)‖")
    ax.set_title(title)
    ax.grid(True, alpha=0.3)
    legend = ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))  # next to the lines
    for text in legend.get_texts():
        text.set_parse_math(False)
    return Plot(figure)


def _is_one(sums: torch.Tensor) -> bool:
    return bool(((sums - 1).abs() < 1e-2).all())


def _matrix(value: Any, name: str, dims: tuple[int, ...]) -> torch.Tensor:
    """A detached float64 tensor on the CPU."""
    found = torch.as_tensor(value).detach().to("cpu", torch.float64)
    if found.ndim not in dims or not found.numel():
        raise PictureError(
            f"'{name}' has a shape that cannot be plotted",
            got=f"shape {tuple(found.shape)}",
            wanted=f"{' or '.join(map(str, dims))} dimensions, none of them empty",
            fix="take one example of a batch: weights[0]",
        )
    return found


def _count(name: str, given: Sequence[str] | None, wanted: int) -> None:
    if given is not None and len(given) != wanted:
        raise PictureError(
            f"'{name}' does not name the weights' {name}",
            got=f"{len(given)} names",
            wanted=f"{wanted}, one each",
            fix="weights are (queries, keys): rows name queries, columns keys",
        )


def _figure(width: float, height: float, count: int) -> tuple[Any, list[Any]]:
    from graphnn.pictures.picture import engines

    engines()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * count, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(1, count, squeeze=False)[0])


def _ticks(ax: Any, rows: Sequence[str] | None, columns: Sequence[str] | None) -> None:
    """Put names at the sides, unless there are too many to read."""
    # a dollar sign in a word does not begin a formula
    if rows is not None and len(rows) <= LABELS:
        ax.set_yticks(range(len(rows)), rows, parse_math=False)
    if columns is not None and len(columns) <= LABELS:
        turned = {"rotation": 60, "ha": "right", "rotation_mode": "anchor"}
        ax.set_xticks(range(len(columns)), columns, parse_math=False, **turned)
