"""Networks with their plain torch versions, and torch's transforms of a model."""

from collections.abc import Callable

import torch
import torch.autograd.forward_ad as forward_ad
from torch import nn

import graphnn as gn

Tensor = torch.Tensor
func = torch.func


class Net(nn.Module):
    """A network for graphnn and as an eager loop: `start` and `step`, or a whole `eager`."""

    def __init__(self):
        super().__init__()
        self.W, self.V, self.start = nn.Linear(3, 3), nn.Linear(2, 3), nn.Parameter(torch.ones(3))

    def step(self, h, x):
        return torch.tanh(self.W(h) + self.V(x))

    def graph(self, g):
        h = g.state("h", (3,), init=self.start)
        h.next = self.step(h, g.input("x", (2,), over="time"))
        g.output("y", torch.sin(h.next))

    def eager(self, x):
        h, ys = self.start.expand(len(x), 3), []
        for x_t in x.unbind(1):
            h = self.step(h, x_t)
            ys.append(torch.sin(h))
        return torch.stack(ys, 1)


class Gated(Net):
    def step(self, h, x):
        a = self.W(h) + self.V(x)
        z, n = torch.sigmoid(a), torch.relu(a) + torch.softmax(a, -1)
        return (1 - z) * n + z * torch.exp(-h * h)


class Opaque(Net):
    def step(self, h, x):
        return torch.cumsum(torch.special.i0e(self.W(h) + self.V(x)), -1)


class Rows(Net):
    """A row look-up in the loop, in a table with a row that is not trained."""

    def __init__(self):
        super().__init__()
        self.E = nn.Embedding(3, 3, padding_idx=1)

    def step(self, h, x):
        return torch.tanh(self.W(h) * self.E(torch.argmax(self.V(x) + h, -1)) + self.V(x))


class Scanned(Net):
    def step(self, h, x):
        return torch.sigmoid(self.V(x)) * h + self.V(x)


class Identity(torch.autograd.Function):
    """The identity whose gradient is clamped."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, g):
        return g.clamp(-0.3, 0.3)

    @staticmethod
    def jvp(ctx, tangent):
        return tangent.view_as(tangent)


class Clipped(Net):
    def step(self, h, x):
        a = self.W(h) + self.V(x)
        return torch.tanh(Identity.apply(a) if type(a) is Tensor else gn.clip_gradient(a, 0.3))


class Memory(Net):
    """Attention over slots within the loop."""

    def __init__(self):
        super().__init__()
        self.M = nn.Parameter(torch.randn(4, 3))

    def graph(self, g):
        g.axis("slot", 4)
        x, h, M = g.input("x", (2,), over="time"), g.state("h", (3,)), gn.along(self.M, "slot")
        w = gn.softmax(gn.dot(h, M), over="slot")
        read = gn.sum(w * M, over="slot")
        h.next = torch.tanh(self.W(read) + self.V(x) * (1 + gn.max(w, over="slot")))
        g.output("y", h.next)

    def eager(self, x):
        h, ys = x.new_zeros(len(x), 3), []
        for x_t in x.unbind(1):
            w = torch.softmax(h @ self.M.T, -1)
            h = torch.tanh(self.W(w @ self.M) + self.V(x_t) * (1 + w.amax(-1, keepdim=True)))
            ys.append(h)
        return torch.stack(ys, 1)


class Within(Net):
    """A loop over slots within each step."""

    def __init__(self):
        super().__init__()
        self.M = nn.Parameter(torch.randn(4, 3))

    def graph(self, g):
        g.axis("slot", 4)
        x, h, M = g.input("x", (2,), over="time"), g.state("h", (3,)), gn.along(self.M, "slot")
        q = g.state("q", (3,), over="slot", along=("time",))
        q.next = torch.tanh(0.5 * q + M * h + self.V(x))
        h.next = torch.tanh(self.W(gn.last(q.next, over="slot")))
        g.output("y", h.next)

    def eager(self, x):
        h, ys = x.new_zeros(len(x), 3), []
        for x_t in x.unbind(1):
            q = torch.zeros_like(h)
            for row in self.M:
                q = torch.tanh(0.5 * q + row * h + self.V(x_t))
            h = torch.tanh(self.W(q))
            ys.append(h)
        return torch.stack(ys, 1)


class Attention(Net):
    """Additive attention, torch's attention and the top two, all over whole axes."""

    def graph(self, g):
        x = g.input("x", (2,), over="time")
        y = gn.rename(x, time="past")
        s = torch.tanh(self.V(x) + self.V(y)).sum(-1, keepdim=True)
        additive = gn.sum(gn.softmax(s, over="past") * y, over="past")
        best = gn.lookup(self.V(x), self.V(y), y, over="past", topk=2)
        g.output("y", additive + gn.attend(self.V(x), self.V(y), y, over="past") + best)

    def eager(self, x):
        k = self.V(x)
        s = torch.tanh(k[:, :, None] + k[:, None]).sum(-1)
        dots = k @ k.transpose(1, 2)
        top, place = dots.topk(2, -1)
        rows = x[:, None].expand(-1, x.shape[1], -1, -1)
        picked = rows.gather(2, place[..., None].expand(*place.shape, x.shape[-1]))
        best = (torch.softmax(top, -1)[..., None] * picked).sum(2)
        return torch.softmax(s, 2) @ x + torch.softmax(dots / 3**0.5, 2) @ x + best


class Plain(nn.Module):
    """The eager loop as a module with the parameters of the network."""

    def __init__(self, net: Net):
        super().__init__()
        for name, child in (*net.named_children(), *net.named_parameters(recurse=False)):
            setattr(self, name, child)
        self.__dict__["net"] = net

    def forward(self, x: Tensor) -> Tensor:
        # functional_call put its tensors into this module and into those that share them
        kept = dict(self.net._parameters)
        self.net._parameters.update(self._parameters)
        try:
            return self.net.eager(x)
        finally:
            self.net._parameters.update(kept)


def made(model: nn.Module, x: Tensor, v: Tensor) -> dict[str, Callable[[], object]]:
    """The results of each transform of a model of x, with the tangent v."""
    p = {k: q.detach() for k, q in model.named_parameters()}
    many = {k: torch.stack([q, q / 2, q * 2]) for k, q in p.items()}
    leaves = list(model.parameters())

    def f(p, x):
        return func.functional_call(model, p, (x,))

    def loss(p, x):
        return f(p, x).square().sum()

    def push(x):
        return func.jvp(lambda x: f(p, x), (x,), (v,))[1]

    def derivatives(order):
        y = x.clone().requires_grad_()
        total = model(y).square().sum()
        for _ in range(order):
            found = torch.autograd.grad(total, [y, *leaves], create_graph=True, allow_unused=True)
            total = sum(g.square().sum() for g in found if g is not None)
        return found

    def dual(track):
        with forward_ad.dual_level(), torch.set_grad_enabled(track):
            return forward_ad.unpack_dual(model(forward_ad.make_dual(x, v))).tangent

    def vectorized(strategy):
        return torch.autograd.functional.jacobian(model, x, vectorize=True, strategy=strategy)

    return {
        "grad": lambda: func.grad(loss)(p, x),
        "vjp of a vjp": lambda: func.grad(lambda p: func.grad(loss, 1)(p, x).square().sum())(p),
        "jvp": lambda: func.jvp(lambda x: f(p, x), (x,), (v,)),
        "jvp of parameters": lambda: func.jvp(lambda p: f(p, x), (p,), (p,)),
        "jvp of a jvp": lambda: func.jvp(push, (x,), (v,)),
        "grad of a jvp": lambda: func.grad(lambda x: push(x).square().sum())(x),
        "vmap": lambda: func.vmap(lambda x: f(p, x), 1, 2)(torch.stack([x, v], 1)),
        "ensemble": lambda: func.vmap(f, (0, None))(many, x),
        "vmap of vmap": lambda: func.vmap(lambda p: func.vmap(f, (None, 0))(p, x[:, None]))(many),
        "gradients per sample": lambda: func.vmap(func.grad(loss), (None, 0))(p, x[:, None]),
        "jacrev": lambda: func.jacrev(f, (0, 1))(p, x),
        "jacfwd": lambda: func.jacfwd(f, 1)(p, x),
        "hessian": lambda: func.hessian(loss, 1)(p, x[:1, :2]),
        "second derivative": lambda: derivatives(2),
        "third derivative": lambda: derivatives(3),
        "forward mode": lambda: dual(True),
        "forward mode without grad": lambda: dual(False),
        "jacobian(vectorize)": lambda: vectorized("reverse-mode"),
        "jacobian(vectorize, forward)": lambda: vectorized("forward-mode"),
    }
