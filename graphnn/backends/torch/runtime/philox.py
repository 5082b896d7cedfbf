"""Counter-based random numbers by torch operations: the same that kernels draw.

Philox-4x32 with ten rounds (Salmon et al. 2011), as in `triton.language.rand`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

Tensor = torch.Tensor
ROUNDS = 10
LOW = 0xFFFFFFFF
ADDED = (0x9E3779B9, 0xBB67AE85)
TIMES = (0xD2511F53, 0xCD9E8D57)
# numbers drawn at a time: intermediate results stay in the processor's cache
PIECE = 2**15


def dropout(seed: Tensor, p: float, at: Tensor, dtype: torch.dtype) -> Tensor:
    """0 with probability p, else 1 / (1 - p).

    `seed` is (1,) int64 and `at`, int64, are positions in the tensor. The values are computed in
    float32, as in kernels, and then cast to `dtype`.
    """
    scale = 1 / (1 - p) if p < 1 else 0.0
    kept = _in_pieces(at, lambda x: _uniform(_bits(seed, x)[0]) >= p)
    return (kept.to(torch.float32) * scale).to(dtype)


def uniform(seed: Tensor, at: Tensor, dtype: torch.dtype) -> Tensor:
    """U[0, 1), computed in float32 as in kernels; `seed` and `at` as of `dropout`."""
    return _in_pieces(at, lambda x: _uniform(_bits(seed, x)[0])).to(dtype)


def normal(seed: Tensor, at: Tensor, dtype: torch.dtype) -> Tensor:
    """N(0, 1) from two uniform numbers (Box and Muller 1958), as in `triton.language.randn`."""
    return _in_pieces(at, lambda x: _normal(*_bits(seed, x)[:2])).to(dtype)


def drawn(seed: Tensor, law: str, p: float, at: Tensor, dtype: torch.dtype) -> Tensor:
    """Numbers of a law: "dropout", "uniform" or "normal"."""
    if law == "dropout":
        return dropout(seed, p, at, dtype)
    return {"uniform": uniform, "normal": normal}[law](seed, at, dtype)


def _in_pieces(at: Tensor, draw: Callable[[Tensor], Tensor]) -> Tensor:
    """What `draw` returns for all positions; those of a piece at a time."""
    pieces = [draw(x) for x in at.reshape(-1).split(PIECE)]
    return torch.cat(pieces).reshape(at.shape)


def block_positions(spans: Sequence[tuple[int, int, int]], device: torch.device) -> Tensor:
    """The flat positions of a block in a tensor; `spans` are (start, stop, size of the whole)."""
    at = torch.zeros([1] * len(spans), dtype=torch.int64, device=device)
    for d, (start, stop, size) in enumerate(spans):
        line = torch.arange(start, stop, device=device)
        at = at * size + line.reshape([-1 if i == d else 1 for i in range(len(spans))])
    return at


def _bits(seed: Tensor, at: Tensor) -> list[Tensor]:
    """The four numbers of 32 bits at each position."""
    c = [at & LOW, (at >> 32) & LOW, torch.zeros_like(at), torch.zeros_like(at)]
    keys = [seed & LOW, (seed >> 32) & LOW]
    for _ in range(ROUNDS):
        # an int64 product of two 32-bit numbers has the right 64 bits, whatever its sign
        first, second = c[0] * TIMES[0], c[2] * TIMES[1]
        c = [
            ((second >> 32) & LOW) ^ c[1] ^ keys[0],
            second & LOW,
            ((first >> 32) & LOW) ^ c[3] ^ keys[1],
            first & LOW,
        ]
        keys = [(k + add) & LOW for k, add in zip(keys, ADDED, strict=True)]
    return c


def _uniform(x: Tensor) -> Tensor:
    """U[0, 1) in float32 from 32 bits."""
    x = torch.where(x > 0x7FFFFFFF, LOW - x, x)
    return x.to(torch.float32) * 4.6566127342e-10


def _normal(first: Tensor, second: Tensor) -> Tensor:
    """N(0, 1) in float32 from twice 32 bits."""
    radius = torch.sqrt(-2.0 * torch.log(_uniform(first).clamp(min=1e-7)))
    return radius * torch.cos(6.283185307179586 * _uniform(second))
