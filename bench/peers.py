"""Who else computes a network, beside torch's layers and the eager loop: where it is installed.

Those of other libraries are written after their documentation. Where a library is not installed it
is listed as absent, where it computes something else as wrong. None has been run by us.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Peer = Callable[..., Tensor]


@dataclass(frozen=True)
class Library:
    """A library's contender: the package it needs, the networks it can do, how it is made.

    `make(net)` gives a function of the network's inputs, on its own parameters. `halves`: it takes
    half precision alone.
    """

    name: str
    package: str
    networks: tuple[str, ...]
    make: Callable[[Any], Peer]
    halves: bool = False


def flashrnn(kind: str) -> Callable[[Any], Peer]:
    """FlashRNN's fused kernels (Pöppel et al. 2024): (batch, time, gates, heads, width)."""

    def make(net: Any) -> Peer:
        from flashrnn import flashrnn as run

        w, u, b, c = (net.get_parameter(f"{x}_l0") for x in LAYER)
        width = u.shape[1]
        gates = u.shape[0] // width

        def call(x: Tensor) -> Tensor:
            wx = nn.functional.linear(x.transpose(0, 1), w)
            wx = wx.reshape(*wx.shape[:2], gates, 1, width)
            r = u.reshape(gates, 1, width, width)
            bias = (b + c).reshape(gates, 1, width)
            kept, _ = run(wx, r, bias, function=kind, backend="cuda_fused", dtype=_name(x))
            return kept[0, :, :, 0].transpose(0, 1)  # type: ignore[no-any-return]

        return call

    return make


def haste(net: Any) -> Peer:
    """The LSTM of haste: gates in the order i, g, f, o, float32 on CUDA."""
    import haste_pytorch

    w, u, b, c = (net.get_parameter(f"{x}_l0") for x in LAYER)
    layer = haste_pytorch.LSTM(w.shape[1], u.shape[1])

    def call(x: Tensor) -> Tensor:
        kernel, recurrent, bias = (_turned(t) for t in (w, u, b + c))
        given = {"kernel": kernel.T, "recurrent_kernel": recurrent.T, "bias": bias}
        return torch.func.functional_call(layer, given, (x,))[0]  # type: ignore[no-any-return]

    return call


def _turned(gates: Tensor) -> Tensor:
    """torch's order of gates i, f, g, o as i, g, f, o."""
    i, f, g, o = gates.chunk(4)
    return torch.cat([i, g, f, o])


def hgrn(net: Any) -> Peer:
    """MinGRU by flash-linear-attention: its scan h = exp(g) h' + x, in (batch, time, width)."""
    from fla.ops.hgrn import fused_recurrent_hgrn

    def call(x: Tensor) -> Tensor:
        x = x.transpose(0, 1)
        logit = net.gate(x)
        inputs = torch.sigmoid(logit) * net.candidate(x)
        kept, _ = fused_recurrent_hgrn(inputs, nn.functional.logsigmoid(-logit))
        return kept.transpose(0, 1)  # type: ignore[no-any-return]

    return call


def flash_attention(net: Any) -> Peer:
    """FlashAttention's own kernel, one head."""
    from flash_attn import flash_attn_func

    def call(q: Tensor, h: Tensor) -> Tensor:
        kv = h[:, :, None]
        return flash_attn_func(q[:, :, None], kv, kv)[:, :, 0]  # type: ignore[no-any-return]

    return call


LAYER = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
LIBRARIES = (
    Library("FlashRNN", "flashrnn", ("LSTM",), flashrnn("lstm")),
    Library("FlashRNN", "flashrnn", ("RNN",), flashrnn("elman")),
    Library("haste", "haste_pytorch", ("LSTM",), haste),
    Library("flash-linear-attention", "fla", ("MinGRU",), hgrn),
    Library("FlashAttention", "flash_attn", ("dot attention",), flash_attention, halves=True),
)


def _name(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")


def missing(library: Library, device: str, dtype: str) -> str | None:
    """Why a library's contender is absent; None where it can be tried."""
    if importlib.util.find_spec(library.package) is None:
        return "not installed"
    if device != "cuda":
        return "runs on a GPU only"
    if library.halves and dtype not in ("float16", "bfloat16"):
        return "takes half precision only"
    return None


def others(
    net: Any, network: str, device: str, dtype: str
) -> tuple[dict[str, Peer], dict[str, str]]:
    """The libraries' contenders for a network, and those absent with the reason."""
    there: dict[str, Peer] = {}
    absent: dict[str, str] = {}
    for library in LIBRARIES:
        if network in library.networks:
            reason = missing(library, device, dtype)
            if reason is None:
                try:
                    there[library.name] = library.make(net)
                except Exception as problem:  # it is installed and does not load
                    reason = f"{type(problem).__name__}: {problem}"[:200]
            if reason is not None:
                absent[library.name] = reason
    return there, absent
