"""Attention and lookup: each as a graph, and as torch code with the same weights."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import graphnn as gn


class Additive(nn.Module):
    """Additive attention (Bahdanau et al. 2015): v·tanh(W q + U h), softmax, Σ of h."""

    def __init__(self, size: int, slots: int):
        super().__init__()
        self.W, self.U = nn.Linear(size, size), nn.Linear(size, size, bias=False)
        self.v, self.size = nn.Linear(size, 1, bias=False), size

    def graph(self, g: gn.Graph) -> None:
        """Declare the graph."""
        q, h = g.input("q", (self.size,), over="target"), g.input("h", (self.size,), over="source")
        score = self.v(torch.tanh(self.W(q) + self.U(h)))
        g.output("y", gn.sum(gn.softmax(score, over="source") * h, over="source"))

    def eager(self, q: Tensor, h: Tensor) -> Tensor:
        """(batch, queries, width), (batch, sources, width) -> (batch, queries, width)."""
        score = self.v(torch.tanh(self.W(q)[:, :, None] + self.U(h)[:, None]))[..., 0]
        return torch.softmax(score, -1) @ h


class Dot(nn.Module):
    """Scaled dot-product attention of one head (Vaswani et al. 2017, eq. 1)."""

    def __init__(self, size: int, slots: int):
        super().__init__()
        self.size = size
        # the module has no parameters, so this buffer carries the dtype
        self.register_buffer("like", torch.zeros(()), persistent=False)

    def graph(self, g: gn.Graph) -> None:
        """Declare the graph."""
        q, h = (
            g.input(name, (self.size,), over=axis, dtype=self.like.dtype)
            for name, axis in (("q", "target"), ("h", "source"))
        )
        g.output("y", gn.attend(q, h, over="source"))

    def eager(self, q: Tensor, h: Tensor) -> Tensor:
        """(batch, queries, width), (batch, sources, width) -> (batch, queries, width)."""
        return torch.softmax(q @ h.mT / self.size**0.5, -1) @ h

    def sdpa(self, q: Tensor, h: Tensor) -> Tensor:
        """The same, by torch's own kernel."""
        return F.scaled_dot_product_attention(q[:, None], h[:, None], h[:, None])[:, 0]


class Lookup(nn.Module):
    """An associative memory: α = K x, c = softmax(α), s = Σ c_i v_i."""

    def __init__(self, size: int, slots: int):
        super().__init__()
        self.K, self.V = (nn.Parameter(torch.randn(slots, size) * 0.3) for _ in range(2))
        self.size, self.slots = size, slots

    def graph(self, g: gn.Graph) -> None:
        """Declare the graph."""
        x = g.input("q", (self.size,))
        g.axis("slot", self.slots)
        g.output("y", gn.lookup(x, gn.along(self.K, "slot"), gn.along(self.V, "slot")))

    def eager(self, q: Tensor) -> Tensor:
        """(batch, width) -> (batch, width)."""
        return torch.softmax(q @ self.K.T, -1) @ self.V

    def sdpa(self, q: Tensor) -> Tensor:
        """The same, by torch's attention kernel with the batch as queries."""
        k, v = self.K[None, None], self.V[None, None]
        return F.scaled_dot_product_attention(q[None, None], k, v, scale=1.0)[0, 0]


class Best(nn.Module):
    """A lookup of the 8 best slots, or of all slots if there are fewer."""

    def __init__(self, size: int, slots: int):
        super().__init__()
        self.K, self.V = (nn.Parameter(torch.randn(slots, size) * 0.3) for _ in range(2))
        self.size, self.slots, self.top = size, slots, min(8, slots)

    def graph(self, g: gn.Graph) -> None:
        """Declare the graph."""
        x = g.input("q", (self.size,))
        g.axis("slot", self.slots)
        keys, values = gn.along(self.K, "slot"), gn.along(self.V, "slot")
        g.output("y", gn.lookup(x, keys, values, topk=self.top))

    def eager(self, q: Tensor) -> Tensor:
        """(batch, width) -> (batch, width)."""
        best = (q @ self.K.T).topk(self.top)
        return (torch.softmax(best.values, -1)[..., None] * self.V[best.indices]).sum(-2)


KINDS: dict[str, type[Additive] | type[Dot] | type[Lookup] | type[Best]] = {
    "additive attention": Additive,
    "dot attention": Dot,
    "lookup": Lookup,
    "lookup of the 8 best": Best,
}
