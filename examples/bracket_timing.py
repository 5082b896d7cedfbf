"""The bracket checkers timed: graphnn's plan, torch.nn's module, and the loop one would write."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from rich.table import Table
from torch import Tensor, nn

import graphnn as gn
from graphnn.examples.c_source import VOCABULARY

Run = Callable[[Tensor], Tensor]


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
    """x (batch, time, embedded) to the last h (batch, hidden); `net` holds nn.LSTM's weights."""
    into, round_again = _weights(net)
    h = c = x.new_zeros(len(x), net.hidden_size)
    for now in x.unbind(1):
        i, f, g, o = (into(now) + round_again(h)).chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
    return h


def gru_loop(net: Any, x: Tensor) -> Tensor:
    """x (batch, time, embedded) to the last h (batch, hidden): the reset before the product."""
    into, round_again = _weights(net)
    h = x.new_zeros(len(x), net.hidden_size)
    u_r, u_z, u_n = net.weight_hh_l0.chunk(3)
    b_r, b_z, b_n = net.bias_hh_l0.chunk(3)
    for now in x.unbind(1):
        r, z, n = into(now).chunk(3, 1)
        r, z = torch.sigmoid(r + F.linear(h, u_r, b_r)), torch.sigmoid(z + F.linear(h, u_z, b_z))
        h = z * h + (1 - z) * torch.tanh(n + F.linear(r * h, u_n, b_n))
    return h
