"""The cells of the library in plain torch, step by step, written independently of the library.

Each function takes the parameters of the cell by name, x(t) of shape (batch, input) and the
previous states. It returns the next states; "h" is the output.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

P = dict[str, Tensor]
Step = Callable[..., dict[str, Tensor]]


def normalised(v: Tensor, gain: Tensor) -> Tensor:
    centred = v - v.mean(1, keepdim=True)
    return gain * centred / (centred.pow(2).mean(1, keepdim=True) + 1e-5).sqrt()


def lstm(p: P, x: Tensor, h: Tensor, c: Tensor) -> dict[str, Tensor]:
    """An LSTM step, with peepholes and a projection if there are weights for them."""
    a = x @ p["weight_ih"].T + p["bias_ih"] + h @ p["weight_hh"].T + p["bias_hh"]
    return _from_gates(p, a, c)


def _from_gates(p: P, a: Tensor, c: Tensor) -> dict[str, Tensor]:
    n = c.shape[1]
    i, f, g, o = a[:, :n], a[:, n : 2 * n], a[:, 2 * n : 3 * n], a[:, 3 * n :]
    if "weight_ci" in p:
        i, f = i + c * p["weight_ci"], f + c * p["weight_cf"]
    c = c * f.sigmoid() + i.sigmoid() * g.tanh()
    if "weight_co" in p:
        o = o + c * p["weight_co"]
    h = o.sigmoid() * c.tanh()
    return {"h": h @ p["weight_hr"].T if "weight_hr" in p else h, "c": c}


def coupled_lstm(p: P, x: Tensor, h: Tensor, c: Tensor) -> dict[str, Tensor]:
    a = x @ p["weight_ih"].T + p["bias_ih"] + h @ p["weight_hh"].T + p["bias_hh"]
    f, g, o = a.tensor_split(3, 1)
    f = f.sigmoid()
    c = f * c + (1 - f) * g.tanh()
    return {"h": o.sigmoid() * c.tanh(), "c": c}


def layer_norm_lstm(p: P, x: Tensor, h: Tensor, c: Tensor) -> dict[str, Tensor]:
    a = normalised(x @ p["weight_ih"].T, p["norm_ih.0.weight"]) + p["bias_ih"] + p["bias_hh"]
    i, f, g, o = (a + normalised(h @ p["weight_hh"].T, p["norm_hh.0.weight"])).tensor_split(4, 1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    norm_c = normalised(c, p["norm_c.weight"]) + p["norm_c.bias"]
    return {"h": o.sigmoid() * norm_c.tanh(), "c": c}


def gru_before(p: P, x: Tensor, h: Tensor) -> dict[str, Tensor]:
    w_r, w_z, w_n = p["weight_ih"].tensor_split(3)
    u_r, u_z, u_n = p["weight_hh"].tensor_split(3)
    b_r, b_z, b_n = (p["bias_ih"] + p["bias_hh"]).tensor_split(3)
    r = (x @ w_r.T + h @ u_r.T + b_r).sigmoid()
    z = (x @ w_z.T + h @ u_z.T + b_z).sigmoid()
    n = (x @ w_n.T + (r * h) @ u_n.T + b_n).tanh()
    return {"h": z * h + (1 - z) * n}


def layer_norm_gru(p: P, x: Tensor, h: Tensor, after: bool = True) -> dict[str, Tensor]:
    n = h.shape[1]
    w, u, b, c = p["weight_ih"], p["weight_hh"], p["bias_ih"], p["bias_hh"]
    gates = normalised(x @ w[: 2 * n].T, p["norm_ih.0.weight"]) + b[: 2 * n]
    gates = gates + normalised(h @ u[: 2 * n].T, p["norm_hh.0.weight"]) + c[: 2 * n]
    r, z = gates.sigmoid().tensor_split(2, 1)
    fresh = normalised(x @ w[2 * n :].T, p["norm_ih.1.weight"]) + b[2 * n :]
    seen = h if after else r * h
    old = normalised(seen @ u[2 * n :].T, p["norm_hh.1.weight"]) + c[2 * n :]
    new = (fresh + (r * old if after else old)).tanh()
    return {"h": z * h + (1 - z) * new}


def multiplicative_rnn(p: P, x: Tensor, h: Tensor) -> dict[str, Tensor]:
    # the map of h is one matrix per example, U diag(A x) B
    factors = torch.diag_embed(x @ p["modulated.from_input.weight"].T)
    matrix = p["weight_hh"] @ factors @ p["modulated.from_past.weight"]
    recurrent = (matrix @ h[:, :, None])[:, :, 0]
    return {"h": torch.tanh(x @ p["weight_ih"].T + p["bias_ih"] + recurrent + p["bias_hh"])}


def multiplicative_lstm(p: P, x: Tensor, h: Tensor, c: Tensor) -> dict[str, Tensor]:
    m = (x @ p["modulated.from_input.weight"].T) * (h @ p["modulated.from_past.weight"].T)
    return lstm(p, x, m, c)


def hyper_lstm(
    p: P, x: Tensor, h: Tensor, c: Tensor, hyper_h: Tensor, hyper_c: Tensor
) -> dict[str, Tensor]:
    small_weights = {k.removeprefix("small."): v for k, v in p.items() if k.startswith("small.")}
    small = lstm(small_weights, torch.cat([h, x], 1), hyper_h, hyper_c)
    d = {name: _scales(p, name, small["h"]) for name in ("scale_h", "scale_x", "shift")}
    gates = [
        d["scale_h"][k] * (h @ u.T) + d["scale_x"][k] * (x @ w.T) + d["shift"][k] + b
        for k, (u, w, b) in enumerate(
            zip(p["weight_hh"].chunk(4), p["weight_ih"].chunk(4), p["offset"].chunk(4))
        )
    ]
    after = _from_gates({}, torch.cat(gates, 1), c)
    return {**after, "hyper_h": small["h"], "hyper_c": small["c"]}


def _scales(p: P, name: str, s: Tensor) -> list[Tensor]:
    z = s @ p[f"{name}.embed.weight"].T
    if f"{name}.embed.bias" in p:
        z = z + p[f"{name}.embed.bias"]
    return [part @ d.T for part, d in zip(z.chunk(4, 1), p[f"{name}.weight"])]


def min_gru(p: P, x: Tensor, h: Tensor) -> dict[str, Tensor]:
    z = (x @ p["gate.weight"].T + p["gate.bias"]).sigmoid()
    return {"h": h - z * h + z * (x @ p["candidate.weight"].T + p["candidate.bias"])}


def sru(p: P, x: Tensor, c: Tensor, alpha: float = 1.0) -> dict[str, Tensor]:
    f = x @ p["forget.weight"].T + p["forget.bias"]
    r = x @ p["highway.weight"].T + p["highway.bias"]
    if "weight_cf" in p:
        f, r = f + p["weight_cf"] * c, r + p["weight_cr"] * c
    c = f.sigmoid() * c + (1 - f.sigmoid()) * (x @ p["candidate.weight"].T)
    skip = x @ p["skip.weight"].T if "skip.weight" in p else x
    return {"c": c, "h": r.sigmoid() * c + (1 - r.sigmoid()) * alpha * skip}


def unrolled(step: Step, cell: Any, x: Tensor) -> dict[str, Tensor]:
    """Returns the outputs `y` and all states of a cell over x (batch, time, input), from zeros."""
    parameters = dict(cell.named_parameters())
    states = {name: x.new_zeros(len(x), size) for name, size in cell.sizes.items()}
    rows = []
    for t in range(x.shape[1]):
        after = step(parameters, x[:, t], **states)
        states = {name: after[name] for name in states}
        rows.append(after)
    whole = {name: torch.stack([row[name] for row in rows], 1) for name in rows[0]}
    return {"y": whole["h"], **whole}
