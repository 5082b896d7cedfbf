"""The Neural Turing Machine against an eager loop, and against the reference backend."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import graphnn as gn
from graphnn.errors import UnsupportedError
from tests.networks.equality import compare
from tests.nn.common import close, doubles, randomised, run

INPUT, HIDDEN, SLOTS, WIDTH = 3, 6, 5, 4
VARIANTS: dict[str, dict[str, Any]] = {
    "lstm": {},
    "feedforward": {"controller": "feedforward", "start": "learned"},
    "heads": {"read_heads": 2, "write_heads": 2, "reach": 2, "start": "learned"},
    "reads_only": {"write_heads": 0, "start": "learned"},
}


class Machine(nn.Module):
    def __init__(self, variant: str) -> None:
        super().__init__()
        self.ntm = gn.nn.NTM(INPUT, HIDDEN, SLOTS, WIDTH, **VARIANTS[variant])

    def graph(self, g: gn.Graph) -> None:
        y, states = self.ntm(g.input("x", (INPUT,), over="time"), with_states=True)
        g.output("y", y)
        g.output("w", states["w0"])


def address(head: Any, controls: list[Tensor], memory: Tensor, before: Tensor) -> Tensor:
    """Returns the weights (batch, slots) of a head by equations 5 to 9."""
    key, shift, scalars = controls[:3]
    match = F.cosine_similarity(memory, key[:, None], -1) * F.softplus(scalars[:, :1])
    gate = torch.sigmoid(scalars[:, 1:2])
    mixed = gate * match.softmax(-1) + (1 - gate) * before
    shift = shift.softmax(-1)
    turned = torch.zeros_like(mixed)
    for i in range(SLOTS):
        for j in range(-head.reach, head.reach + 1):
            turned[:, i] += mixed[:, (i - j) % SLOTS] * shift[:, head.reach + j]
    sharp = turned ** (1 + F.softplus(scalars[:, 2:]))
    return sharp / sharp.sum(-1, keepdim=True)


def eager(net: Machine, x: Tensor) -> dict[str, Tensor]:
    """The machine as an eager loop over time."""
    ntm, batch = net.ntm, x.shape[0]
    heads = [*ntm.readers, *ntm.writers]
    reads = len(ntm.readers)
    learned = ntm.memory is not None
    memory = ntm.memory if learned else torch.full((SLOTS, WIDTH), 1e-6, dtype=x.dtype)
    memory = memory.expand(batch, -1, -1)
    first = torch.eye(SLOTS, dtype=x.dtype)[0]
    w = [ntm.places[:, k].softmax(0) if learned else first for k in range(len(heads))]
    w = [v.expand(batch, -1) for v in w]
    empty = ntm.read if learned else x.new_zeros(reads, WIDTH)
    read = [v.expand(batch, -1) for v in empty]
    h = c = x.new_zeros(batch, HIDDEN)
    found: dict[str, list[Tensor]] = {"y": [], "w": []}
    for t in range(x.shape[1]):
        seen = torch.cat([x[:, t], *read], -1)
        if isinstance(ntm.controller, nn.Linear):
            h = torch.tanh(ntm.controller(seen))
        else:
            p = ntm.controller
            gates = F.linear(seen, p.weight_ih, p.bias_ih) + F.linear(h, p.weight_hh, p.bias_hh)
            i, f, g, o = gates.chunk(4, -1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        controls = [head.map(h).split(head.sizes, -1) for head in heads]
        w = [address(*pair, memory, v) for pair, v in zip(zip(heads, controls), w)]
        for k in range(reads, len(heads)):
            erase, add = controls[k][3].chunk(2, -1)
            keep = 1 - w[k][..., None] * erase.sigmoid()[:, None]
            memory = memory * keep + w[k][..., None] * add.tanh()[:, None]
        read = [torch.einsum("bn,bnm->bm", w[k], memory) for k in range(reads)]
        found["y"].append(torch.cat([h, *read], -1))
        found["w"].append(w[0])
    return {k: torch.stack(v, 1) for k, v in found.items()}


@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_the_eager_machine(variant: str) -> None:
    net, x = randomised(Machine(variant)), doubles(3, 5, INPUT)
    model, variables = gn.compile(net), {"x": x, **dict(net.named_parameters())}
    close(run(lambda: model(x=x), variables), run(lambda: eager(net, x), variables), 1e-10)


@pytest.mark.parametrize("lengths", [None, [4, 0, 2]])
@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_the_reference(variant: str, lengths: Any) -> None:
    ragged = {} if lengths is None else {"time": torch.tensor(lengths)}
    compare(randomised(Machine(variant)), {"x": doubles(3, 4, INPUT)}, ragged)


def test_gradients_are_finite_from_an_empty_memory() -> None:
    net = Machine("lstm").double()
    loss = gn.compile(net)(x=doubles(2, 6, INPUT))["y"].square().sum()
    assert all(g.isfinite().all() for g in torch.autograd.grad(loss, list(net.parameters())))


def test_two_machines_have_separate_memories() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = gn.nn.NTM(INPUT, HIDDEN, SLOTS, WIDTH)
            self.b = gn.nn.NTM(self.a.output_size, HIDDEN, 7, WIDTH)

        def graph(self, g: gn.Graph) -> None:
            g.output("y", self.b(self.a(g.input("x", (INPUT,), over="time"))))

    compare(randomised(Two()), {"x": doubles(2, 3, INPUT)}, {})


def test_a_machine_streams() -> None:
    net, x = randomised(Machine("heads")), doubles(2, 4, INPUT).detach()
    model = gn.compile(net)
    whole, state = model(x=x)["y"], model.initial_state(2)
    for t in range(4):
        y, state = model.step(state, x=x[:, t])
        torch.testing.assert_close(y["y"], whole[:, t], rtol=1e-10, atol=1e-10)


def test_an_unknown_controller_is_an_error_with_the_valid_ones() -> None:
    with pytest.raises(UnsupportedError, match=r"(?s)NTM has no controller 'gru'.*'feedforward'"):
        gn.nn.NTM(INPUT, HIDDEN, controller="gru")
