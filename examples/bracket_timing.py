"""The bracket checkers timed: graphnn's plan, torch.nn's module, and the loop one would write."""

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
RIVALS = ("graphnn", "torch.nn", "eager loop")


def elman_loop(net: Any, x: Tensor) -> Tensor:
    """x (batch, time, embedded) to the last z (batch, hidden), as the graph in brackets.py."""
    z = x.new_zeros(len(x), net.step.out_features)
    for now in x.unbind(1):
        z = torch.tanh(net.step(torch.cat([now, z], 1)))
    return z


def turtles_loop(net: Any, x: Tensor) -> Tensor:
    """x (batch, time, embedded) to the last reading, as the graph in brackets.py."""
    mode = x.new_zeros(len(x), net.sizes[0])
    heading = east = north = low = x.new_zeros(len(x), net.sizes[2])
    for now in x.unbind(1):
        view = torch.cat([mode, heading.cos(), heading.sin(), east.tanh(), north.tanh()], 1)
        update, content, awake = net.steer(torch.cat([now, view], 1)).split(net.sizes, 1)
        mode = mode + torch.sigmoid(update) * (torch.tanh(content) - mode)
        turn, stride = torch.sigmoid(awake) * net.turn(now), torch.sigmoid(awake) * net.stride(now)
        course = heading + turn / 2
        east = east + stride * torch.cos(course)
        north = north + stride * torch.sin(course)
        heading = heading + turn
        low = torch.minimum(low, heading)
    away = [heading.cos(), east.tanh() ** 2, north.tanh() ** 2, low.tanh()]
    return torch.cat([mode, *away], 1)


def lstm_loop(net: Any, x: Tensor) -> Tensor:
    """x (batch, time, embedded) to the last h (batch, hidden), with nn.LSTM's weights."""
    h = c = x.new_zeros(len(x), net.hidden_size)
    for now in x.unbind(1):
        gates = F.linear(now, net.weight_ih_l0, net.bias_ih_l0)
        gates = gates + F.linear(h, net.weight_hh_l0, net.bias_hh_l0)
        i, f, g, o = gates.chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
    return h


def gru_loop(net: Any, x: Tensor) -> Tensor:
    """x (batch, time, embedded) to the last h (batch, hidden), the reset before the product.

    The weights are laid out as nn.GRU's, whose own reset comes after the product.
    """
    h, n = x.new_zeros(len(x), net.hidden_size), 2 * net.hidden_size
    u, b = net.weight_hh_l0, net.bias_hh_l0
    for now in x.unbind(1):
        reset, update, new = F.linear(now, net.weight_ih_l0, net.bias_ih_l0).chunk(3, 1)
        r, z = F.linear(h, u[:n], b[:n]).chunk(2, 1)
        r, z = torch.sigmoid(reset + r), torch.sigmoid(update + z)
        h = z * h + (1 - z) * torch.tanh(new + F.linear(r * h, u[n:], b[n:]))
    return h


def timing_table(
    checkers: Mapping[str, Any], hidden: int, batch: int = 32, steps: int = 100
) -> Table:
    """Forward and backward of each checker of brackets.py, in milliseconds, beside its rivals."""
    table = Table(title=f"Forward and backward, ms ({batch} texts of {steps} characters)")
    for column in ("network", "graphnn", "torch.nn", "eager loop", "loop / graphnn"):
        table.add_column(column, justify="left" if column == "network" else "right")
    char = torch.randint(1, VOCABULARY, (batch, steps))
    for name, checker in checkers.items():
        mine: Run = partial(_call, gn.compile(checker.train()))
        runs = {"graphnn": mine, **_rivals(name, checker, hidden)}
        spent = _medians({rival: partial(_step, run, char) for rival, run in runs.items()})
        shown = [f"{1000 * spent[rival]:.1f}" if rival in spent else "-" for rival in RIVALS]
        table.add_row(name, *shown, f"{spent['eager loop'] / spent['graphnn']:.1f}x")
    return table


def _rivals(name: str, checker: Any, hidden: int) -> dict[str, Run]:
    """The same network by other means; torch.nn has no reset-before GRU and no turtles."""
    embedded = checker.embed.embedding_dim

    def loop(net: Any, unrolled: Callable[[Any, Tensor], Tensor]) -> Run:
        return lambda char: checker.judge(unrolled(net, checker.embed(char)))

    def module(net: nn.RNNBase) -> Run:
        return lambda char: checker.judge(net(checker.embed(char))[0][:, -1])

    if name == "turtles":
        return {"eager loop": loop(checker, turtles_loop)}
    if name == "Elman":
        rnn = nn.RNN(embedded, hidden, batch_first=True)
        return {"torch.nn": module(rnn), "eager loop": loop(checker, elman_loop)}
    if name == "GRU":
        return {"eager loop": loop(nn.GRU(embedded, hidden), gru_loop)}
    lstm = nn.LSTM(embedded, hidden, batch_first=True)
    return {"torch.nn": module(lstm), "eager loop": loop(lstm, lstm_loop)}


def _call(model: gn.Compiled, char: Tensor) -> Tensor:
    answers: Tensor = model(char=char)
    return answers


def _step(run: Run, char: Tensor) -> None:
    run(char).sum().backward()


def _medians(runs: Mapping[str, Callable[[], None]], rounds: int = 7) -> dict[str, float]:
    """Median seconds of each, in turns, so that a busy moment falls on all alike."""
    spent: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 2):
        for name, run in runs.items():
            begin = time.perf_counter()
            run()
            if turn >= 2:
                spent[name].append(time.perf_counter() - begin)
    return {name: statistics.median(seconds) for name, seconds in spent.items()}
