"""Attention and transformer blocks equal those of torch with the same weights to 1e-10."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphnn as gn
from tests.nn.common import close, doubles, randomised, run

WIDTH = 8
CASES = {
    "even": (3, 7, None),
    "ragged": (4, 6, [6, 1, 4, 3]),
    "batch_of_one": (1, 5, None),
    "length_of_one": (3, 1, None),
    "long": (2, 63, [63, 17]),
}
case = pytest.mark.parametrize("case", CASES)


class Self(nn.Module):
    """Self-attention over time."""

    def __init__(self, module: nn.Module, causal: bool = False, weights: bool = False):
        super().__init__()
        self.module, self.causal, self.weights = module, causal, weights

    def graph(self, g: gn.Graph) -> None:
        x = g.input("x", (WIDTH,), over="time")
        more: Any = {"causal": self.causal} if isinstance(self.module, MHA) else {}
        if self.weights:
            y, weights = self.module(x, with_weights=True, **more)
            g.output("weights", weights)
        else:
            y = self.module(x, **more)
        g.output("y", y)


class Cross(nn.Module):
    """Attention from one sequence to another, with keys and values of any width."""

    def __init__(self, module: nn.Module, key: int = WIDTH, value: int | None = None):
        super().__init__()
        self.module, self.key, self.value = module, key, value

    def graph(self, g: gn.Graph) -> None:
        x = g.input("x", (WIDTH,), over="target")
        keys = g.input("keys", (self.key,), over="source")
        rest = [g.input("values", (self.value,), over="source")] if self.value else []
        g.output("y", self.module(x, keys, *rest))


MHA = gn.nn.MultiHeadAttention


def padding(lengths: list[int] | None, time: int) -> Tensor | None:
    """Returns a mask that is True at padding, as torch expects it."""
    return None if lengths is None else torch.arange(time) >= torch.tensor(lengths)[:, None]


def zero_padding(y: Tensor, lengths: list[int] | None) -> Tensor:
    """Returns `y` with zeros beyond each length."""
    padded = padding(lengths, y.shape[1])
    return y if padded is None else y.masked_fill(padded[..., None], 0)


def compare_with_torch(
    net: nn.Module, inputs: dict[str, Tensor], lengths: Any, theirs: Any, expected: Any
) -> Any:
    """Asserts that outputs and all gradients equal those of the torch module. Returns ours."""
    ragged = {axis: torch.tensor(n) for axis, n in (lengths or {}).items() if n is not None}
    names = list(dict(theirs.named_parameters()))
    parameters = _select(dict(net.module.named_parameters()), names)
    ours = run(lambda: gn.compile(net)(lengths=ragged or None, **inputs), inputs | parameters)
    right = run(lambda: {"y": expected()}, inputs | dict(theirs.named_parameters()))
    close({k: ours[k] for k in right}, right, 1e-10)
    return ours


def _select(parameters: dict[str, Tensor], names: list[str]) -> dict[str, Tensor]:
    assert set(parameters) == set(names)
    return {name: parameters[name] for name in names}


@case
@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
@pytest.mark.parametrize("heads, bias", [(1, True), (2, True), (4, False)])
def test_self_attention(case: str, causal: bool, heads: int, bias: bool) -> None:
    batch, time, lengths = CASES[case]
    theirs = randomised(nn.MultiheadAttention(WIDTH, heads, bias=bias, batch_first=True))
    x = doubles(batch, time, WIDTH)
    future = torch.ones(time, time).triu(1).bool() if causal else None

    def expected() -> Tensor:
        padded = padding(lengths, time)
        y, _ = theirs(x, x, x, key_padding_mask=padded, attn_mask=future, need_weights=False)
        return zero_padding(y, lengths)

    net = Self(MHA.from_torch(theirs), causal)
    compare_with_torch(net, {"x": x}, {"time": lengths}, theirs, expected)


def test_weights_on_request() -> None:
    theirs = randomised(nn.MultiheadAttention(WIDTH, 2, batch_first=True))
    x, lengths = doubles(3, 5, WIDTH), torch.tensor([5, 2, 3])
    net = Self(MHA.from_torch(theirs), weights=True)
    found = gn.compile(net)(x=x, lengths={"time": lengths})
    padded = padding([5, 2, 3], 5)
    _, weights = theirs(x, x, x, key_padding_mask=padded, average_attn_weights=False)
    expected = zero_padding(weights.permute(0, 2, 3, 1).flatten(2), [5, 2, 3]).unflatten(2, (5, 2))
    close({"w": found["weights"]}, {"w": expected}, 1e-10)


@pytest.mark.parametrize(
    "key, value", [(WIDTH, None), (5, 3)], ids=["one_width", "different_widths"]
)
@pytest.mark.parametrize("lengths", [None, [4, 1, 2]], ids=["even", "ragged"])
def test_cross_attention(key: int, value: int | None, lengths: list[int] | None) -> None:
    theirs = randomised(
        nn.MultiheadAttention(WIDTH, 2, kdim=key, vdim=value or key, batch_first=True)
    )
    inputs = {"x": doubles(3, 5, WIDTH), "keys": doubles(3, 4, key, seed=1)}
    if value:
        inputs["values"] = doubles(3, 4, value, seed=2)
    tensors = list(inputs.values())

    def expected() -> Tensor:
        keys, values = tensors[1], tensors[-1]
        return theirs(tensors[0], keys, values, key_padding_mask=padding(lengths, 4))[0]

    net = Cross(MHA.from_torch(theirs), key, value)
    compare_with_torch(net, inputs, {"source": lengths}, theirs, expected)


@case
@pytest.mark.parametrize("norm_first", [False, True], ids=["post", "pre"])
@pytest.mark.parametrize("activation, bias", [("relu", True), ("gelu", False)])
def test_encoder_layer(case: str, norm_first: bool, activation: str, bias: bool) -> None:
    batch, time, lengths = CASES[case]
    theirs = randomised(
        nn.TransformerEncoderLayer(
            WIDTH, 2, 12, 0.0, activation, norm_first=norm_first, bias=bias, batch_first=True
        )
    )
    x = doubles(batch, time, WIDTH)

    def expected() -> Tensor:
        return zero_padding(theirs(x, src_key_padding_mask=padding(lengths, time)), lengths)

    net = Self(gn.nn.TransformerBlock.from_torch(theirs))
    compare_with_torch(net, {"x": x}, {"time": lengths}, theirs, expected)


@pytest.mark.parametrize("norm_first", [False, True], ids=["post", "pre"])
@pytest.mark.parametrize("ragged", [False, True], ids=["even", "ragged"])
def test_decoder_layer(norm_first: bool, ragged: bool) -> None:
    source, target = ([4, 1, 2], [5, 2, 3]) if ragged else (None, None)
    theirs = randomised(
        nn.TransformerDecoderLayer(WIDTH, 2, 12, 0.0, norm_first=norm_first, batch_first=True)
    )
    inputs = {"x": doubles(3, 5, WIDTH), "keys": doubles(3, 4, WIDTH, seed=1)}
    future = torch.ones(5, 5).triu(1).bool()

    def expected() -> Tensor:
        y = theirs(
            *inputs.values(),
            tgt_mask=future,
            tgt_key_padding_mask=padding(target, 5),
            memory_key_padding_mask=padding(source, 4),
        )
        return zero_padding(y, target)

    net = Cross(gn.nn.TransformerBlock.from_torch(theirs, causal=True))
    compare_with_torch(net, inputs, {"source": source, "target": target}, theirs, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_round_trip(dtype: torch.dtype) -> None:
    ours = [
        MHA(WIDTH, 2, key_size=5, value_size=3),
        gn.nn.TransformerBlock(WIDTH, 2, norm_first=True, activation="gelu"),
        gn.nn.TransformerBlock(WIDTH, 4, 10, cross=True, bias=False, eps=1e-3),
    ]
    for module in ours:
        module = module.to(dtype)
        back = type(module).from_torch(module.to_torch())  # type: ignore[attr-defined]
        assert {k: v.tolist() for k, v in back.state_dict().items()} == {
            k: v.tolist() for k, v in module.state_dict().items()
        }


def test_options_that_torch_lacks_are_errors() -> None:
    for module in (
        MHA(WIDTH, 4, kv_heads=2),
        MHA(WIDTH, 2, positions=gn.nn.RotaryPositions(4)),
        gn.nn.TransformerBlock(WIDTH, 4, kv_heads=1),
    ):
        with pytest.raises(gn.errors.UnsupportedError, match="cannot compute"):
            module.to_torch()
    with pytest.raises(gn.errors.UnsupportedError, match="are not supported"):
        MHA.from_torch(nn.MultiheadAttention(WIDTH, 2, add_zero_attn=True))
