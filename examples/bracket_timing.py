"""Times the bracket checkers: compiled by graphnn, as torch.nn modules, and as eager loops."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

import graphnn as gn
from graphnn.examples.c_source import VOCABULARY

Run = Callable[[Tensor], Tensor]
CONTENDERS = ("graphnn", "torch.nn", "eager loop")


def elman_loop(net: Any, x: Tensor) -> Tensor:
    """Maps x (batch, time, embedded) to the last z (batch, hidden)."""
    z = x.new_zeros(len(x), net.step.out_features)
    for now in x.unbind(1):
        z = torch.tanh(net.step(torch.cat([now, z], 1)))
    return z


def turtles_loop(net: Any, x: Tensor) -> Tensor:
    """Maps x (batch, time, embedded) to the last reading (batch, reading)."""
    mode = x.new_zeros(len(x), net.mode)
    heading = east = north = low = x.new_zeros(len(x), net.turtles)
    for now in x.unbind(1):
        view = torch.cat([mode, heading.cos(), heading.sin(), east.tanh(), north.tanh()], 1)
        content, gates = net.steer(torch.cat([now, view], 1)).tensor_split([net.mode], 1)
        update, awake = torch.sigmoid(gates).tensor_split([net.mode], 1)
        mode = mode + update * (torch.tanh(content) - mode)
        half, stride = awake * (net.turn(now) / 2), awake * net.stride(now)
        course = heading + half
        east = east + stride * torch.cos(course)
        north = north + stride * torch.sin(course)
        heading = course + half
        low = torch.minimum(low, heading)
    away = [heading.cos(), east.tanh() ** 2, north.tanh() ** 2, low.tanh()]
    return torch.cat([mode, *away], 1)


def lstm_loop(net: Any, x: Tensor) -> Tensor:
    """Maps x (batch, time, embedded) to the last h (batch, hidden)."""
    cell = net.lstm.l0
    h = c = x.new_zeros(len(x), cell.hidden_size)
    for now in x.unbind(1):
        gates = F.linear(now, cell.weight_ih, cell.bias_ih)
        i, f, g, o = (gates + F.linear(h, cell.weight_hh, cell.bias_hh)).chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
    return h


def gru_loop(net: Any, x: Tensor) -> Tensor:
    """Maps x (batch, time, embedded) to the last h (batch, hidden). Resets before the matmul."""
    cell = net.gru.l0
    h, cut = x.new_zeros(len(x), cell.hidden_size), 2 * cell.hidden_size
    u, b = cell.weight_hh, cell.bias_hh
    for now in x.unbind(1):
        gates, new = F.linear(now, cell.weight_ih, cell.bias_ih).tensor_split([cut], 1)
        r, z = torch.sigmoid(gates + F.linear(h, u[:cut], b[:cut])).chunk(2, 1)
        h = z * h + (1 - z) * torch.tanh(new + F.linear(r * h, u[cut:], b[cut:]))
    return h


LOOPS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "Elman": elman_loop,
    "LSTM": lstm_loop,
    "GRU": gru_loop,
    "turtles": turtles_loop,
}


def eager(name: str, checker: Any, char: Tensor) -> Tensor:
    """Runs a checker step by step on texts of one length, char (batch, time). Returns (batch,)."""
    answers: Tensor = checker.judge(LOOPS[name](checker, checker.embed(char))).squeeze(-1)
    return answers


def library(name: str, checker: Any) -> Run | None:
    """Returns the checker with a torch.nn layer, or None if torch.nn has no such layer.

    torch.nn has neither turtles nor a GRU that resets before the matmul.
    """
    if name == "LSTM":
        net = checker.lstm.to_torch()
    elif name == "Elman":
        net = nn.RNN(checker.embed.embedding_dim, checker.step.out_features, batch_first=True)
    else:
        return None
    net.to(checker.judge.weight.device)
    return lambda char: checker.judge(net(checker.embed(char))[0][:, -1]).squeeze(-1)


def timing_table(checkers: Mapping[str, Any], batch: int = 32, steps: int = 100) -> Table:
    """Returns a table of the forward and backward time of each checker in brackets.py, in ms."""
    table = Table(title=f"Forward and backward, ms ({batch} texts of {steps} characters)")
    for column in ("network", *CONTENDERS, "eager loop / graphnn"):
        table.add_column(column, justify="left" if column == "network" else "right")
    for name, checker in checkers.items():
        char = torch.randint(1, VOCABULARY, (batch, steps), device=checker.judge.weight.device)
        runs = (_graphnn(checker), library(name, checker), partial(eager, name, checker))
        named = {contender: run for contender, run in zip(CONTENDERS, runs) if run is not None}
        seconds = _medians({key: partial(_step, run, char) for key, run in named.items()})
        cells = [f"{1000 * seconds[key]:.1f}" if key in seconds else "-" for key in CONTENDERS]
        table.add_row(name, *cells, f"{seconds['eager loop'] / seconds['graphnn']:.1f}x")
    return table


def _graphnn(checker: Any) -> Run:
    model = gn.compile(checker)
    return lambda char: model(char=char)


def _step(run: Run, char: Tensor) -> None:
    run(char).sum().backward()
    if char.is_cuda:
        torch.cuda.synchronize()


def _medians(runs: Mapping[str, Callable[[], None]], rounds: int = 7) -> dict[str, float]:
    """Returns the median seconds of each run.

    The runs take turns, so that a busy moment of the machine slows all of them.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 2):
        for name, run in runs.items():
            begin = time.perf_counter()
            run()
            if turn >= 2:
                times[name].append(time.perf_counter() - begin)
    return {name: statistics.median(seconds) for name, seconds in times.items()}
