"""Contenders from other libraries, next to torch's layers and the eager loop.

They are written from the documentation of each library and have not been run yet. A library that
is not installed is listed as absent; one whose result differs is listed as wrong.
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
    """A contender of another library: its package, the networks it supports, and its constructor.

    `make(net)` returns a function of the network's inputs that uses the network's parameters. If
    `half_only`, it supports only half precision.
    """

    name: str
    package: str
    networks: tuple[str, ...]
    make: Callable[[Any], Peer]
    half_only: bool = False


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
        kernel, recurrent, bias = (_reordered(t) for t in (w, u, b + c))
        given = {"kernel": kernel.T, "recurrent_kernel": recurrent.T, "bias": bias}
        return torch.func.functional_call(layer, given, (x,))[0]  # type: ignore[no-any-return]

    return call


def _reordered(gates: Tensor) -> Tensor:
    """Reorder gates from torch's i, f, g, o to i, g, f, o."""
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
    Library("FlashAttention", "flash_attn", ("dot attention",), flash_attention, half_only=True),
)


def _name(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")


def missing(library: Library, device: str, dtype: str) -> str | None:
    """Why the contender of a library is absent, or None if it can be tried."""
    if importlib.util.find_spec(library.package) is None:
        return "not installed"
    if device != "cuda":
        return "runs on a GPU only"
    if library.half_only and dtype not in ("float16", "bfloat16"):
        return "supports half precision only"
    return None


def others(
    net: Any, network: str, device: str, dtype: str
) -> tuple[dict[str, Peer], dict[str, str]]:
    """The contenders for a network, and the absent ones with the reason."""
    there: dict[str, Peer] = {}
    absent: dict[str, str] = {}
    for library in LIBRARIES:
        if network in library.networks:
            reason = missing(library, device, dtype)
            if reason is None:
                try:
                    there[library.name] = library.make(net)
                except Exception as problem:  # the package is installed but fails to load
                    reason = f"{type(problem).__name__}: {problem}"[:200]
            if reason is not None:
                absent[library.name] = reason
    return there, absent
