"""Plots of results: time against each size for every contender, and the roofline."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator
from typing import Any

import torch

from graphnn.errors import TimingError
from graphnn.pictures.plots import Plot, _figure
from graphnn.planner.core.cost import Device, peak_rate
from graphnn.timing.results import Found
from graphnn.timing.suite import OURS
from graphnn.timing.table import contenders, head

COLORS = {
    OURS: "#c0392b",
    "torch.nn": "#2c6fbb",
    "eager": "#7f8c8d",
    "torch.compile": "#27864b",
}
OTHERS = ("#8e44ad", "#d68910", "#117a8b", "#a04000", "#5d6d7e")
MARKS = "os^Dv<>Pp*hX"
NAMES = {
    "T": "length T",
    "B": "batch B",
    "H": "width H",
    "S": "source or slots S",
    "Q": "queries Q",
}

Series = dict[str, list[tuple[int, dict[str, Any]]]]


def sweeps(found: Found) -> Iterator[tuple[str, str, str, str, Series]]:
    """The series in which one size varies and the others stay fixed.

    Yields network, pass, the letter of the size, the network alone, and the points (size, standing)
    of each contender.
    """
    rows = [r for r in found["rows"] if r["pass"] in ("forward", "forward and backward")]
    groups: dict[Any, list[dict[str, Any]]] = {}
    for row in rows:
        case = row["case"]
        for letter in case["sizes"]:
            rest = tuple((k, v) for k, v in case["sizes"].items() if k != letter)
            key = (case["network"], case["dtype"], row["pass"], letter, rest)
            groups.setdefault(key, []).append(row)
    for (network, dtype, what, letter, rest), members in groups.items():
        if len({r["case"]["sizes"][letter] for r in members}) < 3:
            continue
        ordered = sorted(members, key=lambda r: r["case"]["sizes"][letter])
        series: Series = {name: [] for name in contenders(ordered)}
        for row in ordered:
            for name, standing in row["contenders"].items():
                series[name].append((row["case"]["sizes"][letter], standing))
        fixed = " ".join(f"{k}{v}" for k, v in rest)
        yield f"{network}, {fixed}, {dtype}", what, letter, network, series


def color(name: str) -> str:
    """The color of a contender, the same in every plot."""
    return COLORS.get(name) or OTHERS[sum(map(ord, name)) % len(OTHERS)]


def against_sizes(found: Found) -> Plot | None:
    """Plot time against each varied size, with one line per contender and quartiles as bars.

    The upper row shows forward, the lower row forward and backward. Returns None if no size has
    three values.
    """
    panels = list(sweeps(found))
    if not panels:
        return None
    places: dict[tuple[str, str], None] = {(name, letter): None for name, _, letter, _, _ in panels}
    passes = list(dict.fromkeys(what for _, what, _, _, _ in panels))
    figure, grid = _grid(len(passes), len(places))
    order = list(places)
    for name, what, letter, _, series in panels:
        ax = grid[passes.index(what)][order.index((name, letter))]
        _lines(ax, series)
        ax.set_title(f"{name}\n{what}", fontsize=9)
        ax.set_xlabel(NAMES.get(letter, letter))
        ax.set_ylabel("ms")
    handles: dict[str, Any] = {}
    for ax in figure.axes:
        for handle, text in zip(*ax.get_legend_handles_labels()):
            handles.setdefault(text, handle)
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=6)
    figure.suptitle(head(found["about"]), fontsize=9)
    return Plot(figure)


def _grid(rows: int, columns: int) -> tuple[Any, Any]:
    figure, _ = _figure(3.3, 3.0 * rows + 0.8, columns)
    figure.clear()
    figure.set_size_inches(3.3 * columns + 0.6, 2.7 * rows + 1.0)
    return figure, figure.subplots(rows, columns, squeeze=False)


def _lines(ax: Any, series: Series) -> None:
    ticks: list[int] = []
    for name, points in series.items():
        if not points:
            continue
        xs = [x for x, _ in points]
        ys = [s["median"] for _, s in points]
        below = [s["median"] - s["low"] for _, s in points]
        above = [s["high"] - s["median"] for _, s in points]
        ax.errorbar(
            xs,
            ys,
            yerr=[below, above],
            label=name,
            color=color(name),
            marker="o",
            markersize=4,
            capsize=2,
        )
        ticks += xs
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.set_xticks(sorted(set(ticks)), [str(x) for x in sorted(set(ticks))])
    ax.minorticks_off()
    _plain_ticks(ax)
    ax.grid(True, alpha=0.3)


def _plain_ticks(ax: Any) -> None:
    """Label the axis in milliseconds at 1, 2 and 5, with at least two labels."""
    from matplotlib.ticker import LogLocator, NullLocator

    low, high = ax.get_ylim()
    if high / low < 6:
        middle = (low * high) ** 0.5
        ax.set_ylim(middle / 2.5, middle * 2.5)
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=12))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")


def roofline(found: Found) -> Plot:
    """Plot operations per second against operations per byte, under the measured limits.

    Each case and pass gives one point for graphnn and one for the fastest other contender. Raises
    TimingError if the results lack the limits or the operations of their cases.
    """
    rows = [r for r in found["rows"] if r.get("flops") and OURS in r["contenders"]]
    if not rows or not found.get("limits"):
        raise TimingError(
            "there is no roofline to draw",
            got="results without limits or without the operations of their cases",
            wanted="results of `graphnn bench`, which measures both",
        )
    device = Device.of(found["limits"])
    figure, (ax,) = _figure(7.4, 4.8, 1)
    dtypes = list(dict.fromkeys(r["case"]["dtype"] for r in rows))
    ax.set_xscale("log")
    ax.set_yscale("log")
    points = _points(ax, rows)
    _roofs(ax, device, dtypes, points)
    ax.set_xlabel("matmul operations per byte moved")
    ax.set_ylabel("operations per second")
    ax.grid(True, which="major", alpha=0.3)
    ax.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    ax.set_title(head(found["about"]), fontsize=8)
    return Plot(figure)


def _points(ax: Any, rows: list[dict[str, Any]]) -> list[float]:
    """Draw one mark per network: filled for forward, hollow with backward, grey for the peer."""
    marks: dict[str, str] = {}
    intensities = []
    for row in rows:
        network = row["case"]["network"]
        new = network not in marks
        mark = marks.setdefault(network, MARKS[len(marks) % len(MARKS)])
        x = row["flops"] / row["bytes"]
        intensities.append(x)
        others = [s["flops_a_second"] for n, s in row["contenders"].items() if n != OURS]
        hollow = row["pass"] != "forward"
        style = {"linestyle": "", "marker": mark, "markersize": 6}
        if others:
            face = "none" if hollow else "#aab2bd"
            ax.plot([x], [max(others)], color="#aab2bd", markerfacecolor=face, **style)
        face = "none" if hollow else COLORS[OURS]
        mine = row["contenders"][OURS]["flops_a_second"]
        named = {"label": network} if new and not hollow else {}
        ax.plot([x], [mine], color=COLORS[OURS], markerfacecolor=face, **style, **named)
    ax.plot([], [], "s", color="#aab2bd", label="fastest other")
    ax.plot([], [], "o", color=COLORS[OURS], markerfacecolor="none", label="with backward")
    return intensities


def _roofs(ax: Any, device: Device, dtypes: list[str], xs: list[float]) -> None:
    """Draw the slopes of memory and caches, and the flat roofs of matmuls."""
    low, high = min(xs) / 3, max(xs) * 3
    roofs = {d: peak_rate(device, getattr(torch, d)) for d in dtypes}
    best, memory = max(roofs.values()), device.copies[-1][1]
    for (size, rate), dashes in zip(device.copies[:-1], (":", "--", "-.")):
        ends = [low, max(low, min(high, best / rate))]
        label = f"cache, {size / 2**20:.3g} MB: {rate / 1e9:.3g} GB/s"
        style = {"color": "#85929e", "linewidth": 1.0, "linestyle": dashes}
        ax.plot(ends, [x * rate for x in ends], label=label, **style)
    for dtype, roof in roofs.items():
        line = [low, *([roof / memory] if low < roof / memory < high else []), high]
        named = {"label": f"memory: {memory / 1e9:.3g} GB/s"} if roof == best else {}
        ax.plot(
            line, [min(roof, x * memory) for x in line], color="#34495e", linewidth=1.4, **named
        )
        place = (high, min(roof, high * memory))
        text = f"{dtype} matmuls, {roof / 1e9:.0f} GFLOP/s"
        offset = {"textcoords": "offset points", "xytext": (-4, 4)}
        ax.annotate(text, place, ha="right", fontsize=7, **offset)
    ax.set_ylim(top=best * 2.5)


def save_all(found: Found, folder: str | os.PathLike[str], stem: str) -> list[pathlib.Path]:
    """Write the available plots as PNG files into a folder. Returns the paths."""
    place = pathlib.Path(folder)
    made = {"sizes": against_sizes(found), "roofline": roofline(found)}
    written = []
    for kind, plot in made.items():
        if plot is not None:
            path = place / f"{stem}_{kind}.png"
            plot.save(path)
            written.append(path)
    return written
