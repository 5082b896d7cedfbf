"""Kernels with faults: nobody gets their results, forward and backward; torch computes instead."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn
from triton.errors import TritonError
from triton.runtime.errors import OutOfResources

import graphnn as gn
from bench.networks import NETWORKS
from graphnn.backends.triton.loops import trusted
from graphnn.backends.triton.random import trusted_random_tensor
from graphnn.backends.triton.scan import scan
from graphnn.kernels import cache
from graphnn.kernels.executors.executor import KernelLaunch
from graphnn.kernels.executors.named import INTERPRETER
from graphnn.kernels.trust import record
from graphnn.kernels.trust.failures import DeviceLost, KernelWarning
from graphnn.kernels.trust.switches import trust_mode
from tests.attention import networks, readers, test_hops, test_topk
from tests.kernels.trust.faulty_gpu import Fault, FaultyGpu, as_the_gpu, no_fault

Outs = list[torch.Tensor]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(cache, "_TEMPORARY", [])
    for name in ("GRAPHNN_TRUST", "GRAPHNN_KERNELS", "GRAPHNN_ROWS"):
        monkeypatch.delenv(name, raising=False)


def one_element(launch: KernelLaunch, outs: Outs) -> None:
    """Change one number of the first output."""
    x = outs[0].view(-1)
    x[len(x) // 2] += 1


def not_a_number(launch: KernelLaunch, outs: Outs) -> None:
    for x in outs[:1]:
        if x.is_floating_point():
            x.view(-1)[-1:] = float("nan")
        else:
            x.view(-1)[-1:] = -1


def gradients_only(launch: KernelLaunch, outs: Outs) -> None:
    if "backward" in launch.function.__name__:
        one_element(launch, outs)


def late(launch: KernelLaunch, outs: Outs) -> None:
    """Be wrong from step 20 on."""
    for x in outs:
        if x.dim() > 1 and len(x) > 20:
            x[20:] += 0.1


def one_row(launch: KernelLaunch, outs: Outs) -> None:
    """Be wrong in the second tile of rows."""
    for x in outs:
        if x.dim() > 2 and x.shape[1] > 16:
            x[:, 17] *= 1.5


LIES: dict[str, Fault] = {f.__name__: f for f in (one_element, not_a_number, gradients_only)}


def raising(error: BaseException) -> Fault:
    def fault(launch: KernelLaunch, outs: Outs) -> None:
        raise error

    return fault


def lstm(gpu: FaultyGpu, steps: int = 3, batch: int = 2, **options) -> tuple[Outs, gn.Compiled]:
    """The results and the gradients of an LSTM whose kernels a faulty GPU runs."""
    torch.manual_seed(0)
    net = NETWORKS["LSTM"](8)
    options = {"skip": ("fit",), "tune": False, **options}
    model = gn.compile(net, backend="interpret", **options)
    return computed(model, steps, batch), model


def computed(model: gn.Compiled, steps: int = 3, batch: int = 2) -> Outs:
    made = torch.Generator().manual_seed(1)
    x = torch.randn(batch, steps, 8, generator=made, requires_grad=True)
    y = model(x=x)
    return [y, *torch.autograd.grad(y.square().sum(), [x, *model.parameters()])]


def by_torch(steps: int = 3, batch: int = 2) -> Outs:
    torch.manual_seed(0)
    return computed(gn.compile(NETWORKS["LSTM"](8), backend="torch"), steps, batch)


def same(found: Outs, wanted: Outs) -> None:
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("strategy", ["resident", "cooperative", "stepwise"])
@pytest.mark.proof
def test_right_kernels_are_used_without_a_word_and_checked_once(strategy):
    order = ("resident", "cooperative", "stepwise")
    skip = ("fit", *order[: order.index(strategy)])
    with as_the_gpu(FaultyGpu()) as gpu:
        found, model = lstm(gpu, skip=skip)
        first = len(gpu.ran)
        assert first
        computed(model)
    same(found, by_torch())
    assert not record.refusals()
    assert len(gpu.ran) == 2 * first, "small inputs are not cut: the check needs no run of its own"


@pytest.mark.parametrize(
    "lie",
    ["gradients_only", *(pytest.param(x, marks=pytest.mark.proof) for x in list(LIES)[:2])],
)
def test_results_of_lying_loops_are_torchs(lie):
    with as_the_gpu(FaultyGpu(LIES[lie])) as gpu, pytest.warns(KernelWarning) as warned:
        found, model = lstm(gpu)
        after = len(gpu.ran)
        same(computed(model), found)
    same(found, by_torch())
    texts = [str(w.message) for w in warned]
    assert any("h_c, backward: the kernel h_c_backward (persistent; Triton" in t for t in texts)
    assert all("sm_90" in t and "its results are not torch's" in t for t in texts)
    ran = {launch.function.__name__ for launch in gpu.ran[after:]}
    assert not any("backward" in name for name in ran), "a refused kernel does not run again"
    assert ("h_c_saving" in ran) == (lie == "gradients_only")


@pytest.mark.parametrize("fault, steps, batch", [(late, 22, 1), (one_row, 2, 33)])
@pytest.mark.proof
def test_what_is_wrong_late_or_in_one_row_is_found(fault, steps, batch):
    with as_the_gpu(FaultyGpu(fault)) as gpu, pytest.warns(KernelWarning):
        found, _ = lstm(gpu, steps, batch)
    same(found, by_torch(steps, batch))


def test_long_inputs_are_cut_and_checked_with_the_launch_of_the_full_ones(monkeypatch):
    monkeypatch.setattr(trusted, "STEPS", 2)
    with as_the_gpu(FaultyGpu()) as gpu:
        found, _ = lstm(gpu, steps=3, batch=40)
    same(found, by_torch(3, 40))
    forward = [x for x in gpu.ran if x.function.__name__ == "h_c_saving"]
    assert [x.args[-2:] for x in forward] == [[3, 40], [2, 32]]
    assert len({str((x.constants, x.options)) for x in forward}) == 1


ERRORS = [
    TritonError("no"),
    RuntimeError("no"),
    AssertionError("no"),
    OutOfResources(300_000, 232_448, "shared memory"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
@pytest.mark.proof
def test_kernels_that_raise_are_replaced(error):
    with as_the_gpu(FaultyGpu(raising(error))) as gpu, pytest.warns(KernelWarning) as warned:
        found, model = lstm(gpu)
        text = model.explain()
    same(found, by_torch())
    assert any(type(error).__name__ in str(w.message) for w in warned)
    assert f"forward, saving: persistent is refused: {type(error).__name__}" in text


def test_full_memory_is_raised_and_not_remembered():
    full = raising(torch.OutOfMemoryError("CUDA out of memory"))
    with as_the_gpu(FaultyGpu(full)) as gpu:
        with pytest.raises(torch.OutOfMemoryError):
            lstm(gpu)
        assert not record.refusals()
        gpu.fault = no_fault
        same(lstm(gpu)[0], by_torch())


def test_a_kernel_that_makes_the_gpu_unusable_is_named_and_refused_later(monkeypatch):
    lost = RuntimeError("CUDA error: an illegal memory access was encountered")
    with as_the_gpu(FaultyGpu(raising(lost))) as gpu:
        monkeypatch.setattr(gpu, "wait", lambda tensor: (_ for _ in ()).throw(lost))
        with pytest.raises(DeviceLost, match=r"h_c, forward, saving: .* unusable for this process"):
            lstm(gpu)
    (refused,) = record.refusals()
    assert refused.kernel == "h_c_saving"
    with as_the_gpu(FaultyGpu()) as gpu, pytest.warns(KernelWarning, match="was refused before"):
        found, _ = lstm(gpu)
    same(found, by_torch())
    assert record.forget() == 1 and not record.refusals()


@pytest.mark.proof
def test_a_refusal_outlives_the_process_and_can_be_taken_back():
    with as_the_gpu(FaultyGpu(one_element)) as gpu, pytest.warns(KernelWarning):
        lstm(gpu)
    assert {r.layer for r in record.refusals()} == {"h_c, forward, saving", "h_c, backward"}
    with as_the_gpu(FaultyGpu()) as gpu, pytest.warns(KernelWarning, match="was refused before"):
        lstm(gpu)
        assert not gpu.ran, "not even once"
    record.forget()
    with as_the_gpu(FaultyGpu()) as gpu:
        lstm(gpu)
        assert gpu.ran


@pytest.mark.proof
def test_trust_never_and_always(monkeypatch):
    monkeypatch.setenv("GRAPHNN_TRUST", "0")
    with as_the_gpu(FaultyGpu(one_element)) as gpu:
        found, _ = lstm(gpu)
        assert not torch.allclose(found[1], by_torch()[1])
    monkeypatch.setenv("GRAPHNN_TRUST", "always")
    with as_the_gpu(FaultyGpu()) as gpu:
        _, model = lstm(gpu)
        gpu.fault = one_element
        with pytest.warns(KernelWarning):
            same(computed(model), by_torch())


@pytest.mark.parametrize("name", ["TRUST", "KERNELS", "ROWS"])
def test_a_switch_with_a_wrong_value_is_an_error(name, monkeypatch):
    monkeypatch.setenv(f"GRAPHNN_{name}", "perhaps")
    with pytest.raises(gn.errors.BackendError, match=f"GRAPHNN_{name} is 'perhaps'; wanted: "):
        gn.compile(NETWORKS["LSTM"](8), backend="interpret")
    if name == "TRUST":
        with pytest.raises(ValueError, match=r"0 .never., 1 .on first use. or always"):
            trust_mode()


@pytest.mark.parametrize(
    "words, wanted",
    [("torch", set()), ("stepwise", {"phase"}), ("resident, scan", {"saving", "backward"})],
)
@pytest.mark.proof
def test_only_the_kernels_that_are_named_run(words, wanted, monkeypatch):
    monkeypatch.setenv("GRAPHNN_KERNELS", words)
    with as_the_gpu(FaultyGpu()) as gpu:
        found, _ = lstm(gpu)
    same(found, by_torch())
    names = {x.function.__name__.rstrip("_0123456789").rsplit("_", 1)[-1] for x in gpu.ran}
    assert names == wanted


@pytest.mark.proof
def test_tiles_have_at_most_the_rows_that_are_allowed(monkeypatch):
    for most in (16, 32):
        monkeypatch.setenv("GRAPHNN_ROWS", str(most))
        with as_the_gpu(FaultyGpu()) as gpu:
            lstm(gpu, batch=40, skip=("resident", "fit"))
        assert {x.constants["ROWS"] for x in gpu.ran} <= {16, most}


# attention, scans and random numbers


def attention(name: str) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    exact = {"dtype": torch.float64}
    if name == "hops":
        net = test_hops.NETS["rectified"]()
        return net, test_hops.given(net)[0]
    if name == "top-k":
        q, m = torch.randn(2, 9, 8, **exact), torch.randn(2, 30, 8, **exact)
        return test_topk.Heard(3), {"q": q, "m": m}
    net = networks.Net() if name == "attention" else readers.READERS["entropy"]()
    return net, networks.inputs(gn.compile(net, backend="torch"), 3, 5, 7)


def attended(name: str, backend: str) -> Iterator[torch.Tensor]:
    """The results and gradients of a network in float64, for which no tile has to be compiled."""
    net, given = attention(name)
    model = gn.compile(net.double(), backend=backend, skip=("fit",), tune=False)
    out = model(**given)
    outs = [*out.values()] if isinstance(out, dict) else [out]
    yield from outs
    total = sum(y.sin().sum() for y in outs)
    yield from torch.autograd.grad(total, [*model.parameters()])


KINDS = "attention", "statistics", "top-k", "hops"


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("lie", [None, *LIES])
@pytest.mark.proof
def test_attention_is_right_whatever_its_kernels_do(name, lie):
    fault: Callable[..., None] = LIES[lie] if lie else no_fault
    if lie is None:
        with as_the_gpu(FaultyGpu(fault)) as gpu:
            found = [*attended(name, "interpret")]
        assert gpu.ran
    else:
        with as_the_gpu(FaultyGpu(fault)) as gpu, pytest.warns(KernelWarning):
            found = [*attended(name, "interpret")]
    for a, b in zip(found, attended(name, "torch"), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.proof
def test_attention_survives_kernels_that_raise(name):
    fault = raising(RuntimeError("no"))
    with as_the_gpu(FaultyGpu(fault)), pytest.warns(KernelWarning, match="RuntimeError: no"):
        found = [*attended(name, "interpret")]
    for a, b in zip(found, attended(name, "torch"), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    "fault", [no_fault, one_element, not_a_number, late], ids=lambda fault: fault.__name__
)
@pytest.mark.parametrize("reverse", [False, True])
def test_scans_are_right_whatever_their_kernels_do(fault, reverse):
    made = torch.Generator().manual_seed(0)
    given = [torch.rand(70, 2, 3, generator=made, requires_grad=True) for _ in range(2)]
    start = torch.rand(2, 3, generator=made)

    def run(name: str) -> list[torch.Tensor]:
        z = scan(*given, start, 0, reverse, name)
        return [z, *torch.autograd.grad(z.square().sum(), given)]

    wanted = run("interpret")
    with as_the_gpu(FaultyGpu(fault)) as gpu:
        if fault is no_fault:
            found = run("interpret")
        else:
            with pytest.warns(KernelWarning) as warned:
                found = run("interpret")
            titles = {str(w.message).partition(":")[0] for w in warned}
            assert titles == {"linear scan, forward", "linear scan, backward"}
    assert gpu.ran
    same(found, wanted)


@pytest.mark.parametrize("law", ["dropout", "uniform", "normal"])
def test_random_numbers_are_those_of_their_counters(law):
    seed = torch.tensor([2**40 + 5])
    given = seed, law, 0.3, [33, 70], torch.float32
    wanted = trusted_random_tensor(*given, INTERPRETER)
    gpu = FaultyGpu()
    with as_the_gpu(gpu):
        assert torch.equal(trusted_random_tensor(*given, gpu), wanted)
        assert len(gpu.ran) == 1
    lying = FaultyGpu(one_element)
    with as_the_gpu(lying), pytest.warns(KernelWarning, match=f"fill .{law}; Triton"):
        record.forget()
        cache.clear()
        for _ in range(2):
            torch.testing.assert_close(trusted_random_tensor(*given, lying), wanted)
        assert len(lying.ran) == 1
