"""Common mistakes of new users, each with its whole message, as in `test_errors`."""

from __future__ import annotations

import re
import warnings

import pytest
import torch
from torch import nn

import graphnn as gn
from graphnn import errors
from tests.frontend.test_errors import Elman, X


def net(draw, shape=(3,), **modules):
    """A module whose output is `draw(self, x)` for an input x (3,) over time."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            for name, module in modules.items():
                setattr(self, name, module)

        def graph(self, g):
            g.output("y", draw(self, g.input("x", shape, over="time")))

    return Net()


class NoGraph(nn.Module):
    def graph():
        pass


class Asks(nn.Module):
    def graph(self, g, x):
        pass


class Mistyped(nn.Module):
    def graph(self, g):
        x, z = g.input("x", (3,), over="time"), g.state("z", (3,), over="tine")
        z.next = torch.tanh(z)
        g.output("y", gn.last(z.next, over="tine") + x)


def scripted(x):
    return torch.jit.script(torch.nn.functional.hardtanh)(x)


RUNS = """torch.nn.{0} runs along a dimension of its input, but values have named axes
    at: node 'x' test_mistakes.py:N
    got: Value(x, shape=({1},), axes=('time',))
    wanted: a module that runs along a named axis
    fix: use gn.nn.{2}"""
FORMS = "wanted: shapes of one example at one position that the function accepts"
SOURCE = "wanted: a graphnn.Graph, or a module whose graph(self, g) declares one"
VALUE = "wanted: a Value, a tensor, a parameter or a number"


def called(module, *shape):
    return lambda: gn.compile(net(lambda s, x: s.m(x), shape or (3,), m=module))


def attended(module):
    return lambda: gn.compile(net(lambda s, x: s.m(x, x, x), (4,), m=module))


def paired(module):
    return lambda: gn.compile(net(lambda s, x: s.m(x, x), (4,), m=module))


def drawn(draw, *shape):
    return lambda: gn.compile(net(lambda s, x: draw(x), shape or (3,)))


GRAPHS = {
    "LSTM": (
        called(nn.LSTM(3, 4)),
        errors.UnsupportedError,
        RUNS.format("LSTM", 3, "LSTM, or gn.nn.LSTM.from_torch(module)"),
    ),
    "GRU": (
        called(nn.GRU(3, 4)),
        errors.UnsupportedError,
        RUNS.format("GRU", 3, "GRU, or gn.nn.GRU.from_torch(module)"),
    ),
    "RNN": (
        called(nn.RNN(3, 4)),
        errors.UnsupportedError,
        RUNS.format("RNN", 3, "RNN, or gn.nn.RNN.from_torch(module)"),
    ),
    "MultiheadAttention": (
        attended(nn.MultiheadAttention(4, 2)),
        errors.UnsupportedError,
        RUNS.format("MultiheadAttention", 4, "MultiHeadAttention, or its from_torch(module)"),
    ),
    "TransformerEncoderLayer": (
        called(nn.TransformerEncoderLayer(4, 2), 4),
        errors.UnsupportedError,
        RUNS.format("TransformerEncoderLayer", 4, "TransformerBlock, or its from_torch(layer)"),
    ),
    "Transformer": (
        paired(nn.Transformer(4, 2, 1, 1, batch_first=True)),
        errors.UnsupportedError,
        RUNS.format("Transformer", 4, "TransformerBlock.from_torch(layer) for each of its layers"),
    ),
    "Conv1d": (
        called(nn.Conv1d(3, 4, 2)),
        errors.ShapeError,
        f"""'conv1d' cannot be applied to these shapes: … at: node 'm' test_mistakes.py:N
        got: x (3,) torch.float32, m.weight (4, 3, 2) torch.float32, m.bias (4,) torch.float32
        {FORMS} fix: use gn.nn.TemporalConv, or its from_torch(module), which runs along an axis""",
    ),
    "Embedding of floats": (
        called(nn.Embedding(5, 4)),
        errors.ShapeError,
        f"""'embedding' cannot be applied to these shapes: … at: node 'm' test_mistakes.py:N
        got: x (3,) torch.float32, m.weight (5, 4) torch.float32
        {FORMS} fix: declare the indices as integers: g.input(…, dtype=torch.int64)""",
    ),
    "Linear of another width": (
        called(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(5, 2))),
        errors.ShapeError,
        """m.2: Linear(5, 2) takes (5,), relu_5 is (4,) at: node 'm.2' test_mistakes.py:N
        got: relu_5 (4,), weight (2, 5) wanted: a last dimension of 5
        fix: make the module Linear(4, …), or declare the value with 5""",
    ),
    "matmul that torch would not broadcast": (
        drawn(lambda x: x @ torch.ones(5, 4), 1),
        errors.ShapeError,
        f"""'matmul' cannot be applied to these shapes: 1 columns meet 5 rows
        at: node 'matmul' test_mistakes.py:N
        got: x (1,) torch.float32, tensor_1 (5, 4) torch.float32
        {FORMS} fix: compare each value's `.shape`; batch and time are implied, never written""",
    ),
    "batch and time written": (
        drawn(lambda x: x[:, -1]),
        errors.ShapeError,
        """'x' has 1 dimension(s), but 2 are indexed at: node '__getitem__' test_mistakes.py:N
        got: x (3,) torch.float32
        wanted: an index into the shape (3,): batch and axes are implied, never written
        fix: write gn.last(x, over='time') for the last position, gn.first for the first, and
        gn.delay(x, 1, over='time') for the previous one""",
    ),
    "truth values as an index": (
        drawn(lambda x: x[x > 0]),
        errors.ShapeError,
        """'x' is indexed by a mask: result sizes would differ between examples
        at: node '__getitem__' test_mistakes.py:N
        got: x (3,) torch.float32, gt_2 (3,) torch.bool
        wanted: a result with the same shape for all examples
        fix: write torch.where(mask, x, 0.0), or gn.top for the largest along an axis""",
    ),
    "masked_select": (
        drawn(lambda x: torch.masked_select(x, x > 0)),
        errors.ShapeError,
        """'masked_select' cannot be planned: its result shape or its checks depend on the data
        at: node 'masked_select' test_mistakes.py:N
        got: x (3,) torch.float32, gt_2 (3,) torch.bool
        wanted: a function whose shapes do not depend on the elements of its operands
        fix: write torch.where(mask, x, 0.0): the number of selected elements differs by example""",
    ),
    "an index beyond the shape": (
        drawn(lambda x: x[3]),
        errors.ShapeError,
        f"""'__getitem__' cannot be applied to these shapes: … at: node '__getitem__'
        test_mistakes.py:N got: x (3,) torch.float32
        {FORMS} fix: compare each value's `.shape`; batch and time are implied, never written""",
    ),
    "a scripted function": (
        drawn(scripted),
        errors.UnsupportedError,
        """a torch.jit function is called on a value, and its Python code cannot be traced
        at: test_mistakes.py:N
        got: RuntimeError: …
        wanted: torch functions, which return new values
        fix: call the Python function or module itself, not its scripted or traced version""",
    ),
    "several parts as an output": (
        drawn(lambda x: (x, x)),
        errors.UnsupportedError,
        f"""this cannot become a value of a graph at: test_mistakes.py:N got: tuple
        {VALUE} fix: unpack it: y, state = module(x)""",
    ),
    "a dict as an output": (
        drawn(lambda x: {"y": x}),
        errors.UnsupportedError,
        f"""this cannot become a value of a graph at: test_mistakes.py:N got: dict
        {VALUE} fix: declare each value: g.output(name, result[name])""",
    ),
    "nothing as an output": (
        drawn(lambda x: None),
        errors.UnsupportedError,
        f"""this cannot become a value of a graph at: test_mistakes.py:N got: NoneType
        {VALUE} fix: return a value: the function that was called returned None""",
    ),
    "a module as an output": (
        drawn(lambda x: nn.Tanh()),
        errors.UnsupportedError,
        f"""this cannot become a value of a graph at: test_mistakes.py:N got: Tanh
        {VALUE} fix: call it on a value: module(x)""",
    ),
    "a typo in over": (
        lambda: gn.compile(Mistyped()),
        errors.AxisError,
        """nothing says how long axis 'tine' is at: node 'z' test_mistakes.py:N
        got: 'z' varies over 'tine', no input does
        wanted: an input over it, or a fixed length
        fix: over='time', if that is meant""",
    ),
    "several axes at once": (
        drawn(lambda x: gn.sum(x, over=("time",))),
        errors.AxisError,
        """an axis is given by its name, a string at: test_mistakes.py:N got: ('time',)
        wanted: one of ['time'] fix: give over='time'; for several axes,
        reduce over one after the other""",
    ),
    "a class": (
        lambda: gn.compile(Elman),
        errors.GraphError,
        f"""Elman cannot be compiled: it is a class, not a module at: test_mistakes.py:N
        got: Elman {SOURCE} fix: create an instance: gn.compile(Elman(…))""",
    ),
    "nothing": (
        lambda: gn.compile(None),
        errors.GraphError,
        f"""NoneType cannot be compiled: it is neither a module nor a graph at: test_mistakes.py:N
        got: NoneType {SOURCE} fix: pass a module: class Net(nn.Module) with graph(self, g)""",
    ),
    "a compiled model": (
        lambda: gn.compile(gn.compile(Elman())),
        errors.GraphError,
        f"""Compiled cannot be compiled: it is already compiled at: test_mistakes.py:N
        got: Compiled {SOURCE} fix: call it, or compile the module that it was compiled from""",
    ),
    "DataParallel": (
        lambda: gn.compile(nn.DataParallel(Elman())),
        errors.GraphError,
        f"""DataParallel cannot be compiled: it wraps a module at: test_mistakes.py:N
        got: DataParallel {SOURCE}
        fix: apply them in the other order: DistributedDataParallel(gn.compile(net))""",
    ),
    "torch.compile": (
        lambda: gn.compile(torch.compile(Elman())),
        errors.GraphError,
        f"""OptimizedModule cannot be compiled: it is a result of torch.compile
        at: test_mistakes.py:N got: OptimizedModule {SOURCE}
        fix: apply them in the other order: torch.compile(gn.compile(net))""",
    ),
    "a scripted module": (
        lambda: gn.compile(torch.jit.script(nn.Linear(2, 2))),
        errors.GraphError,
        f"""RecursiveScriptModule cannot be compiled: it is scripted, and its Python code
        cannot be traced
        at: test_mistakes.py:N got: RecursiveScriptModule {SOURCE}
        fix: compile the module that it was scripted from""",
    ),
    "a module of torch alone": (
        lambda: gn.compile(nn.LSTM(2, 2)),
        errors.GraphError,
        f"""LSTM cannot be compiled got: LSTM, without a graph(self, g) method {SOURCE}
        fix: use gn.nn.LSTM, or gn.nn.LSTM.from_torch(module)""",
    ),
    "graph without self": (
        lambda: gn.compile(NoGraph()),
        errors.GraphError,
        """NoGraph.graph cannot be called with the graph as its only argument: …
        at: test_mistakes.py:N
        got: graph() wanted: graph(self, g) with the graph as g
        fix: declare inputs by x = g.input('x', …), and take sizes from self""",
    ),
    "graph that asks for inputs": (
        lambda: gn.compile(Asks()),
        errors.GraphError,
        """Asks.graph cannot be called with the graph as its only argument:
        missing a required argument: 'x'
        at: test_mistakes.py:N
        got: graph(self, g, x) wanted: graph(self, g) with the graph as g
        fix: declare inputs by x = g.input('x', …), and take sizes from self""",
    ),
    "a quantized module": (
        lambda: gn.compile(
            torch.ao.quantization.quantize_dynamic(Elman(), {nn.Linear}, dtype=torch.qint8)
        ),
        errors.UnsupportedError,
        """'rec' is quantized: a graph cannot read its weights
        at: test_mistakes.py:N got: torch.ao.nn.quantized.dynamic.modules.linear.Linear
        wanted: modules with floating-point parameters
        fix: compile the module before it is quantized""",
    ),
}
FORM = "wanted: (batch, time, 3) of torch.float32"
DENSE = "wanted: a dense tensor, padded if examples differ in length"
TAKEN = "wanted: the model itself, torch.compile, torch.export or DistributedDataParallel"
EXPORT = "fix: use torch.export.export(model, (), {'x': x})"


def packed(x):
    return nn.utils.rnn.pack_padded_sequence(x, [6, 5, 4, 3], batch_first=True)


def on_meta(model):
    with torch.device("meta"):
        gn.compile(Elman())(x=torch.zeros(4, 6, 3))


def long_tokens():
    g = gn.Graph("words")
    g.output("y", 1.0 * g.input("w", (), over="time", dtype=torch.int64))
    gn.compile(g)(w=torch.zeros((2, 3), dtype=torch.int32))


CALLS = {
    "a list of tensors": (
        lambda m: m(x=list(X)),
        errors.InputShapeError,
        f"""input 'x' is not a tensor at: node 'x' test_errors.py:N got: list {FORM}
        fix: torch.nn.utils.rnn.pad_sequence(x, batch_first=True), with
        lengths={{'time': …}}""",
    ),
    "an array": (
        lambda m: m(x=X.numpy()),
        errors.InputShapeError,
        f"""input 'x' is not a tensor at: node 'x' test_errors.py:N got: ndarray {FORM}
        fix: torch.from_numpy(x).to(torch.float32)""",
    ),
    "a packed sequence": (
        lambda m: m(x=packed(X)),
        errors.InputShapeError,
        f"""input 'x' is not a tensor at: node 'x' test_errors.py:N got: PackedSequence {FORM}
        fix: x, n = torch.nn.utils.rnn.pad_packed_sequence(x, batch_first=True), then
        lengths={{'time': n}}""",
    ),
    "a value": (
        lambda m: m(x=gn.Graph().input("x")),
        errors.InputShapeError,
        f"""input 'x' is not a tensor at: node 'x' test_errors.py:N got: Value {FORM}
        fix: call a compiled model on tensors; in a graph, call modules whose forward takes
        values""",
    ),
    "a sparse tensor": (
        lambda m: m(x=X.to_sparse()),
        errors.InputLayoutError,
        f"""input 'x' is sparse at: node 'x' test_errors.py:N
        got: a sparse tensor (torch.sparse_coo) {DENSE} fix: x.to_dense()""",
    ),
    "a nested tensor": (
        lambda m: m(x=torch.nested.nested_tensor([X[0], X[1, :2]])),
        errors.InputLayoutError,
        f"""input 'x' is nested at: node 'x' test_errors.py:N
        got: a nested tensor (torch.strided) {DENSE}
        fix: torch.nested.to_padded_tensor(x, 0.0), with lengths={{'time': …}}""",
    ),
    "a quantized tensor": (
        lambda m: m(x=torch.quantize_per_tensor(X, 0.1, 0, torch.quint8)),
        errors.InputLayoutError,
        f"""input 'x' is quantized at: node 'x' test_errors.py:N
        got: a quantized tensor (torch.strided) {DENSE} fix: x.dequantize()""",
    ),
    "tokens of 32 bits": (
        lambda m: long_tokens(),
        errors.InputDtypeError,
        """input 'w' has the wrong dtype at: node 'w' test_mistakes.py:N got: torch.int32
        wanted: torch.int64 fix: w.to(torch.int64)""",
    ),
    "lengths that are no numbers": (
        lambda m: m(x=X, lengths={"time": ["long", "short"]}),
        errors.LengthsError,
        """lengths of 'time' cannot be read got: list: … wanted: one whole number per example
        fix: lengths={'time': torch.tensor([… ])}""",
    ),
    "lengths without numbers": (
        lambda m: m(x=X, lengths={"time": torch.ones(4, device="meta")}),
        errors.LengthsError,
        """lengths of 'time' cannot be read got: Tensor: … wanted: one whole number per example
        fix: lengths={'time': torch.tensor([… ])}""",
    ),
    "a model without numbers": (
        on_meta,
        errors.InputDeviceError,
        """the model is on the meta device: its parameters have shapes but no elements
        got: parameters on meta wanted: parameters on a device that computes
        fix: model.to_empty(device='cpu'), then load_state_dict; or make it without meta""",
    ),
    "torch.jit.trace": (
        lambda m: torch.jit.trace(m, (X,)),
        errors.UnsupportedError,
        f"""torch.jit.trace cannot take a compiled model at: test_mistakes.py:N
        got: torch.jit.trace {TAKEN} {EXPORT}""",
    ),
    "torch.jit.script": (
        torch.jit.script,
        errors.UnsupportedError,
        f"""torch.jit.script cannot take a compiled model at: test_mistakes.py:N
        got: torch.jit.script {TAKEN} {EXPORT}""",
    ),
    "torch.fx": (
        torch.fx.symbolic_trace,
        errors.UnsupportedError,
        f"""torch.fx.symbolic_trace cannot take a compiled model at: test_mistakes.py:N
        got: torch.fx.symbolic_trace {TAKEN} fix: make the model a leaf: Tracer.is_leaf_module""",
    ),
    "replicas of DataParallel": (
        lambda m: m._replicate_for_data_parallel(),
        errors.UnsupportedError,
        f"""DataParallel cannot take a compiled model at: test_mistakes.py:N
        got: DataParallel {TAKEN} fix: use DistributedDataParallel, one process per device""",
    ),
}


def same(error, kind, text):
    assert type(error) is kind, error
    said = re.sub(r"(test_\w+\.py):\d+", r"\1:N", str(error))
    said, wanted = " ".join(said.split()), " ".join(text.split())
    pattern = ".*".join(re.escape(part.strip()) for part in wanted.split("…"))
    assert re.fullmatch(pattern, said), f"\n{error}"


@pytest.mark.parametrize("slip", GRAPHS)
def test_a_mistake_in_a_graph(slip):
    run, kind, text = GRAPHS[slip]
    with warnings.catch_warnings(), pytest.raises(errors.GraphnnError) as caught:
        warnings.simplefilter("ignore")
        run()
    same(caught.value, kind, text)


@pytest.mark.parametrize("slip", CALLS)
def test_a_mistake_in_a_call(slip):
    run, kind, text = CALLS[slip]
    model = gn.compile(Elman())
    with warnings.catch_warnings(), pytest.raises(errors.GraphnnError) as caught:
        warnings.simplefilter("ignore")
        run(model)
    same(caught.value, kind, text)


def test_a_sequence_within_the_shape_is_torchs_own_to_run():
    heads = nn.MultiheadAttention(4, 2).double()
    model = gn.compile(net(lambda s, x: s.m(x, x, x)[0], (5, 4), m=heads))
    x = torch.randn(2, 6, 5, 4, dtype=torch.float64)
    wanted = torch.stack([torch.stack([heads(r, r, r)[0] for r in rows]) for rows in x])
    torch.testing.assert_close(model(x=x), wanted)


@pytest.mark.parametrize("backend", ["torch", "interpret", "reference"])
def test_a_state_of_no_units(backend):
    class Nothing(nn.Module):
        def __init__(self):
            super().__init__()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch initializes nothing
                self.rec = nn.Linear(3, 0)

        def graph(self, g):
            x, z = g.input("x", (3,), over="time"), g.state("z", (0,))
            z.next = torch.tanh(self.rec(torch.cat([x, z])))
            g.output("y", z.next)

    model = gn.compile(Nothing(), backend=backend)
    x = X.clone().requires_grad_()
    y = model(x=x)
    y.sum().backward()
    assert y.shape == (4, 6, 0) and torch.equal(x.grad, torch.zeros_like(x))
