"""Errors of torch functions that graphs do not support."""

from __future__ import annotations

from graphnn.errors import UnsupportedError
from graphnn.ir.source_location import user_site


def refuse_random(name: str, node: str = "") -> None:
    """Raise UnsupportedError for a random function that a graph cannot draw again."""
    raise UnsupportedError(
        f"'{name}' draws random numbers in a way that a graph cannot draw again",
        node=node,
        site=user_site(),
        got=name,
        wanted="normal, uniform, exponential, Bernoulli, categorical or dropout noise",
        fix="make it of torch.rand or torch.randn, or draw it outside and give it as an input",
    )


def refuse_mixing(name: str) -> None:
    """Raise UnsupportedError for an operation that mixes the examples of a batch."""
    raise UnsupportedError(
        f"{name} mixes the examples of a batch, and a graph says one example",
        site=user_site(),
        got=name,
        wanted="an operation on one example",
        fix="use nn.LayerNorm or nn.RMSNorm",
    )
