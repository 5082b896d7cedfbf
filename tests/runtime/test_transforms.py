"""Torch transforms of compiled models against the same transforms of eager float64 loops.

Each row of graphnn/TRANSFORMS.md has a test here.
"""

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import graphnn as gn
from graphnn import errors
from tests.networks import transformed
from tests.networks.transformed import Net, Plain, made

# forward-mode derivatives in torch use torch.jit
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
BACKENDS = ("torch", "interpret", "reference")
slow = pytest.mark.slow
NETS = "Net Gated Opaque Rows Scanned Clipped Memory Within Attention".split()
QUICK = {("Net", b) for b in BACKENDS} | {(n, "torch") for n in ("Rows", "Opaque", "Attention")}
CASES = [
    pytest.param(n, b, marks=[] if (n, b) in QUICK else [slow]) for n in NETS for b in BACKENDS
]


def leaves(found):
    return torch.utils._pytree.tree_leaves(found)


def assert_equal(found, wanted, name):
    """Checks that all leaves are equal; None counts as zeros."""
    for got, want in zip(leaves(found), leaves(wanted), strict=True):
        if got is None or want is None:
            other = got if want is None else want
            assert other is None or not other.any(), name
        else:
            assert got.shape == want.shape, name
            torch.testing.assert_close(
                got, want, rtol=1e-8, atol=1e-9, msg=lambda m: f"{name}: {m}"
            )


def networks(name, backend):
    torch.manual_seed(0)
    net = getattr(transformed, name)().double()
    x, v = torch.randn(2, 2, 3, 2, dtype=torch.float64)
    return gn.compile(net, backend=backend), Plain(net), x, v


@pytest.mark.parametrize(("name", "backend"), CASES)
def test_every_transform_equals_that_of_the_eager_loop(name, backend):
    model, plain, x, v = networks(name, backend)
    wanted = made(plain, x, v)
    for which, get in made(model, x, v).items():
        assert_equal(get(), wanted[which](), f"{which} of {name}")


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_transform_does_not_affect_later_calls(backend):
    model, plain, x, _ = networks("Net", backend)
    model.eval()  # so that tracing and planning happen inside the transform
    torch.func.vmap(torch.func.grad(lambda x: model(x[None]).sum()))(x)
    model(x).sum().backward()
    found = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    plain(x).sum().backward()
    assert_equal(found, [p.grad for p in model.parameters()], "gradients")


class Ragged(Net):
    def eager(self, x, lengths):
        h, ys = self.start.expand(len(x), 3), []
        for t, x_t in enumerate(x.unbind(1)):
            present = (t < lengths).unsqueeze(-1)
            h = torch.where(present, self.step(h, x_t), h)
            ys.append(torch.where(present, torch.sin(h), 0))
        return torch.stack(ys, 1), h


@pytest.mark.parametrize("backend", BACKENDS)
def test_transforms_of_ragged_batches_and_final_states(backend):
    torch.manual_seed(0)
    net, lengths = Ragged().double(), torch.tensor([1, 4, 2])
    model = gn.compile(net, backend=backend)
    x, v = torch.randn(2, 3, 4, 2, dtype=torch.float64)

    def ours(x):
        y, state = model(x, lengths={"time": lengths}, return_state=True)
        return y, state["h"]

    def theirs(x):
        return net.eager(x, lengths)

    def total(f):
        return lambda x: sum(y.square().sum() for y in f(x))

    for f in (torch.func.jacrev, torch.func.jacfwd):
        assert_equal(f(ours)(x), f(theirs)(x), f.__name__)
    assert_equal(
        torch.func.hessian(total(ours))(x), torch.func.hessian(total(theirs))(x), "hessian"
    )
    xs = torch.stack([x, v])
    assert_equal(torch.vmap(ours)(xs), torch.vmap(theirs)(xs), "vmap")
    found, wanted = (
        torch.autograd.functional.hvp(total(f), x, v, create_graph=True) for f in (ours, theirs)
    )
    assert_equal(found, wanted, "hvp")


def test_vmap_over_lengths_is_refused():
    model, _, x, _ = networks("Net", "torch")

    def call(n):
        return model(x, lengths={"time": n})

    with pytest.raises((errors.GraphnnError, RuntimeError), match=r"vmap|lengths"):
        torch.vmap(call)(torch.tensor([[1, 2], [3, 2]]))


@pytest.mark.parametrize("backend", BACKENDS)
def test_copies_and_checkpointing_preserve_results_and_gradients(backend):
    model, _, x, _ = networks("Net", backend)
    wanted, file = model(x), io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    copies = (
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        torch.load(file, weights_only=False),
    )
    for other in copies:
        assert torch.equal(other(x), wanted)
    first = torch.autograd.grad(wanted.square().sum(), list(model.parameters()))
    again = checkpoint(model, x, use_reentrant=False).square().sum()
    assert_equal(torch.autograd.grad(again, list(model.parameters())), first, "checkpoint")


@pytest.mark.parametrize("backend", BACKENDS)
def test_exported_programs_give_the_same_results(backend):
    model, _, x, _ = networks("Net", backend)
    program, file = torch.export.export(model, (x,)), io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    for made_of in (program, torch.export.load(file)):
        assert_equal(made_of.module()(x), model(x), "export")


class Holder(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x)


@pytest.mark.parametrize("wrap", [lambda m: m, Holder], ids=["alone", "inside"])
def test_older_tracers_are_refused_by_name(wrap):
    model, _, x, _ = networks("Net", "torch")
    refused = {
        "torch.jit.trace cannot take": lambda: torch.jit.trace(wrap(model), (x,)),
        "torch.jit.script cannot take": lambda: torch.jit.script(wrap(model)),
        "torch.fx.symbolic_trace cannot take": lambda: torch.fx.symbolic_trace(wrap(model)),
    }
    for message, trace in refused.items():
        with pytest.raises(errors.UnsupportedError, match=message):
            trace()


@slow
@pytest.mark.parametrize("backend", ["torch", "interpret"])
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_torch_compile_works_inside_and_around_transforms(backend):
    model, plain, x, v = networks("Net", backend)

    def push(f):
        return lambda x: torch.func.jvp(f, (x,), (v,))[1]

    def each(f):
        return lambda x: torch.vmap(f)(x[:, None])

    def pull(f):
        return torch.func.grad(lambda x: f(x).square().sum())

    for transform in (push, each, pull):
        wanted = transform(plain)(x)
        assert_equal(torch.compile(transform(model), backend="eager")(x), wanted, "around")
        assert_equal(transform(torch.compile(model, backend="eager"))(x), wanted, "inside")
    whole = torch.compile(model, fullgraph=True, backend="aot_eager")
    for mode in (True, False):
        model.train(mode)
        assert_equal(whole(x), plain(x), "torch.compile")


@pytest.fixture
def single_process(tmp_path):
    """Sets up a process group of one process."""
    dist = torch.distributed
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/first", rank=0, world_size=1)
    yield str(tmp_path)
    dist.destroy_process_group()


@slow
@pytest.mark.filterwarnings("ignore:FSDP2-wrapped module")
@pytest.mark.parametrize("backend", BACKENDS)
def test_distributed_wrappers_keep_gradients_and_checkpoints(backend, single_process):
    import torch.distributed.checkpoint as saved
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    def gradients(model):
        model.zero_grad()
        model(x).square().sum().backward()
        return [getattr(p.grad, "full_tensor", lambda p=p: p.grad)() for p in model.parameters()]

    model, plain, x, _ = networks("Net", backend)
    wanted = [g.clone() for g in gradients(plain)]
    by_name = {k: g for (k, _), g in zip(plain.named_parameters(), wanted, strict=True)}
    wanted = [by_name[k] for k, _ in model.named_parameters()]
    assert_equal(gradients(nn.parallel.DistributedDataParallel(model)), wanted, "DDP")
    other = gn.compile(Net().double(), backend=backend)
    saved.save({"model": model.state_dict()}, checkpoint_id=f"{single_process}/checkpoint")
    loaded = {"model": other.state_dict()}
    saved.load(loaded, checkpoint_id=f"{single_process}/checkpoint")
    other.load_state_dict(loaded["model"])
    assert torch.equal(other(x), model(x))
    mesh = init_device_mesh("cpu", (1,))
    part = gn.compile(Net().double(), backend=backend)
    fully_shard(model, mesh=mesh)
    assert_equal(gradients(model), wanted, "FSDP2")
    fully_shard(part.W, mesh=mesh)
    with pytest.raises(errors.TransformError, match="every process has a part"):
        part(x)
