"""Networks for the tests of pictures, from one loop to a hundred boxes."""

import itertools

import torch
import torch.nn.functional as F
from torch import nn

import graphnn as gn


class Elman(nn.Module):
    def __init__(self):
        super().__init__()
        self.enc, self.rec, self.dec = nn.Linear(28, 64), nn.Linear(128, 64), nn.Linear(64, 10)

    def graph(self, g):
        x = g.input("x", (28,), over="time")
        z = g.state("z", (64,), over="time")
        h = self.enc(x)
        z.next = torch.tanh(self.rec(torch.cat([h, z])))
        g.output("y", self.dec(z.next))


class Translate(nn.Module):
    """A bidirectional LSTM of two layers and a decoder with attention, with one embedding."""

    def __init__(self, d=16):
        super().__init__()
        self.embed = nn.Embedding(50, 8)
        self.lstm = gn.nn.LSTM(8, d, num_layers=2, bidirectional=True)
        self.W, self.U, self.v = nn.Linear(d, d), nn.Linear(2 * d, d), nn.Linear(d, 1)
        self.start, self.dec = nn.Linear(2 * d, d), nn.GRUCell(2 * d + 8, d)
        self.out, self.d = nn.Linear(d, 50), d

    def graph(self, g):
        word = g.input("word", (), over="source", dtype=torch.int64)
        previous = g.input("previous", (), over="target", dtype=torch.int64)
        h = self.lstm(self.embed(word))
        start = torch.tanh(self.start(gn.last(h, over="source")))
        s = g.state("s", (self.d,), over="target", init=start)
        score = self.v(torch.tanh(self.W(s) + self.U(h)))
        context = gn.sum(gn.softmax(score, over="source") * h, over="source")
        s.next = self.dec(torch.cat([self.embed(previous), context]), s)
        g.output("logits", self.out(s.next))


class TuringMachine(nn.Module):
    """A Neural Turing Machine (Graves et al. 2014) with one write head and one read head."""

    def __init__(self, inputs=8, d=32, width=20, slots=128):
        super().__init__()
        self.inputs, self.d, self.width, self.slots = inputs, d, width, slots
        self.controller = nn.LSTMCell(inputs + width, d)
        self.read_head = nn.Linear(d, width + 6)
        self.write_head = nn.Linear(d, 3 * width + 6)
        self.out = nn.Linear(d + width, inputs)
        self.memory = nn.Parameter(torch.randn(slots, width) * 0.1)

    def address(self, p, w, M):
        k, beta, gate, shift, gamma = torch.split(p, [self.width, 1, 1, 3, 1])
        c = gn.softmax(F.softplus(beta)[0] * gn.cosine(M, torch.tanh(k)), over="slot")
        gate = torch.sigmoid(gate)[0]
        w_g = gate * c + (1 - gate) * w
        shift = torch.softmax(shift, -1)
        w_s = sum(shift[i] * gn.roll(w_g, i - 1, over="slot") for i in range(3))
        sharp = w_s ** (1 + F.softplus(gamma)[0])
        return sharp / gn.sum(sharp, over="slot")

    def graph(self, g):
        x = g.input("x", (self.inputs,), over="time")
        g.axis("slot", self.slots)
        M = g.state("M", (self.width,), along="slot", init=gn.along(self.memory, "slot"))
        read, write = g.state("read", along="slot"), g.state("write", along="slot")
        r, h, c = g.state("r", (self.width,)), g.state("h", (self.d,)), g.state("c", (self.d,))
        h.next, c.next = self.controller(torch.cat([x, r]), (h, c))
        head = self.write_head(h.next)
        address, erase, add = torch.split(head, [self.width + 6, self.width, self.width])
        write.next = self.address(address, write, M)
        M.next = M * (1 - write.next * torch.sigmoid(erase)) + write.next * torch.tanh(add)
        read.next = self.address(self.read_head(h.next), read, M.next)
        r.next = gn.sum(read.next * M.next, over="slot")
        g.output("y", self.out(torch.cat([h.next, r.next])))


class Siamese(nn.Module):
    """A linear map that is called three times. One call is the input of the next."""

    def __init__(self):
        super().__init__()
        self.f, self.same = nn.Linear(5, 5), nn.Linear(10, 2)

    def graph(self, g):
        a, b = g.input("a", (5,)), g.input("b", (5,))
        u = torch.tanh(self.f(torch.tanh(self.f(a))))
        g.output("same", self.same(torch.cat([u, torch.tanh(self.f(b))])))


class Both(nn.Module):
    """States with delays 2 and -1, and with several kinds of initial values."""

    def __init__(self):
        super().__init__()
        self.near, self.ahead = nn.Linear(8, 4), nn.Linear(8, 4)
        self.start = nn.Parameter(torch.zeros(4))

    def graph(self, g):
        x = g.input("x", (4,), over="time")
        far = g.state("far", (4,), delay=2, init=[self.start, 0.5])
        ahead = g.state("ahead", (4,), delay=-1)
        far.next = torch.tanh(self.near(torch.cat([x, far])))
        ahead.next = torch.tanh(self.ahead(torch.cat([x, ahead])))
        g.output("y", gn.last(far.next, over="time") + gn.first(ahead.next, over="time"))


class Hundred(nn.Module):
    """About a hundred boxes: sixty linear maps that depend on each other, and six states."""

    def __init__(self, maps=60, d=8):
        super().__init__()
        self.maps, self.d = nn.ModuleList(nn.Linear(d, d) for _ in range(maps)), d

    def graph(self, g):
        states = [g.state(f"s{i}", (self.d,), over="time") for i in range(6)]
        values = [g.input("x", (self.d,), over="time"), *states]
        for k, f in enumerate(self.maps):
            values.append(f(values[-1 - k % 5] + values[-7] if k % 2 else values[-1 - k % 3]))
        for k, s in enumerate(states):
            s.next = torch.tanh(values[-1 - 4 * k])
        g.output("y", values[-1])


class Deep(nn.Module):
    """A long chain of forty linear maps with a skip connection around every three."""

    def __init__(self, maps=40, d=8):
        super().__init__()
        self.maps, self.d = nn.ModuleList(nn.Linear(d, d) for _ in range(maps)), d

    def graph(self, g):
        x = g.input("x", (self.d,), over="time")
        for triple in itertools.zip_longest(*[iter(self.maps)] * 3):
            y = x
            for f in filter(None, triple):
                y = f(y)
            x = x + y
        g.output("y", x)


ALL = [Elman, Translate, TuringMachine, Siamese, Both, Hundred, Deep]
