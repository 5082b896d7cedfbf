"""The pool of buffers: memory is reused only if nothing else refers to it."""

import pytest
import torch

import graphnn as gn
from bench.networks import ResetBeforeGRU
from graphnn.backends.torch.runtime import buffers
from graphnn.backends.torch.runtime.buffers import buffer

SIZE, CPU = (512, 512), torch.device("cpu")
REFERENCES = {
    "tensor": lambda t: t,
    "view": lambda t: t[3:5],
    "detached": lambda t: t.detach(),
    "storage": lambda t: t.untyped_storage(),
    "storage in a cell": lambda t: (lambda s: lambda: s)(t.untyped_storage()),
    "numpy": lambda t: t.numpy()[1:],
    "memoryview": lambda t: memoryview(t.numpy()),
    "dlpack": lambda t: t.__dlpack__(),
    "parameter": lambda t: torch.nn.Parameter(t),
}


def test_referenced_memory_is_not_reused():
    first = buffer(SIZE, torch.float32, CPU).fill_(1)
    place, row, array = first.data_ptr(), first[3], first.numpy()
    del first
    assert buffer(SIZE, torch.float32, CPU).fill_(2).data_ptr() != place
    del row
    assert buffer(SIZE, torch.float32, CPU).data_ptr() != place
    assert (array == 1).all()


def test_free_memory_is_reused():
    first = buffer(SIZE, torch.float32, CPU)
    place = first.data_ptr()
    del first
    again = {buffer((1024, 256), torch.float32, CPU).data_ptr() for _ in range(20)}
    assert place in again or len(again) == 1


def test_shared_memory_is_not_reused():
    first = buffer(SIZE, torch.float32, CPU).share_memory_()
    place = first.data_ptr()
    del first
    assert buffer(SIZE, torch.float32, CPU).data_ptr() != place


def test_the_pool_has_a_maximal_size(monkeypatch):
    monkeypatch.setattr(buffers, "MOST", 3 << 20)
    monkeypatch.setattr(buffers, "_POOL", {})
    held = [buffer(SIZE, torch.float32, CPU) for _ in range(8)]
    assert buffers._kept() <= 3 << 20
    del held
    buffer((1024, 512), torch.float32, CPU)
    assert buffers._kept() <= 3 << 20


def test_results_of_a_call_outlive_the_next_calls():
    model = gn.compile(ResetBeforeGRU(256))
    inputs = [torch.randn(8, 40, 256) for _ in range(3)]
    outputs = [model(x=x) for x in inputs]
    kept = [y.detach().clone() for y in outputs]
    gradients = [torch.autograd.grad(y.sum(), list(model.parameters())) for y in outputs]
    for x, y, copy, found in zip(inputs, outputs, kept, gradients, strict=True):
        assert torch.equal(y, copy)
        again = model(x=x)
        assert torch.equal(again, copy)
        for a, b in zip(torch.autograd.grad(again.sum(), list(model.parameters())), found):
            assert torch.equal(a, b)


@pytest.mark.parametrize("kind", REFERENCES, ids=str)
def test_every_kind_of_reference_prevents_reuse(kind):
    first = buffer(SIZE, torch.float32, CPU).fill_(1)
    place, held = first.data_ptr(), REFERENCES[kind](first)
    del first
    for _ in range(3):
        assert buffer(SIZE, torch.float32, CPU).fill_(2).data_ptr() != place
    del held
    assert place in {b.data_ptr() for b in [buffer(SIZE, torch.float32, CPU) for _ in range(20)]}
