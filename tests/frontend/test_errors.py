"""The whole message of each error of a wrong graph or a wrong call.

Line breaks and line numbers of this file (`N`) are not compared. `…` stands for torch's own text,
which changes between its versions, or for a literal `…`.
"""

import contextlib
import re

import pytest
import torch
from torch import nn

import graphnn as gn
from graphnn import errors


@contextlib.contextmanager
def says(kind, text):
    """The block raises exactly this error with exactly this text."""
    with pytest.raises(errors.GraphnnError) as caught:
        yield
    said = re.sub(r"test_errors\.py:\d+", "test_errors.py:N", str(caught.value))
    said, wanted = " ".join(said.split()), " ".join(text.split())
    pattern = ".*".join(re.escape(part) for part in wanted.split("…"))
    assert type(caught.value) is kind, said
    assert re.fullmatch(pattern, said), f"\n{caught.value}"


def drawing():
    """A graph with an input x and a state z, both of shape (3,) over time."""
    g = gn.Graph("net")
    return g, g.input("x", (3,), over="time"), g.state("z", (3,), over="time")


class Elman(nn.Module):
    def __init__(self):
        super().__init__()
        self.rec = nn.Linear(3 + 2, 2)

    def graph(self, g):
        x, z = g.input("x", (3,), over="time"), g.state("z", (2,), over="time")
        z.next = torch.tanh(self.rec(torch.cat([x, z])))
        g.output("y", z.next)


X = torch.zeros(4, 6, 3)  # four examples, six steps


@pytest.fixture(scope="module")
def model():
    return gn.compile(Elman())


def test_a_message_is_laid_out_in_rows_that_are_attributes_too():
    g, _, _ = drawing()
    with pytest.raises(errors.NameTakenError) as caught:
        g.input("x")
    assert re.sub(r"\d+", "N", str(caught.value)).splitlines() == [
        "the name 'x' is used twice",
        "  at:     test_errors.py:N",
        "  got:    a second 'x'",
        "  wanted: a different name for each input, state and output",
        "  fix:    choose another name",
    ]
    error = caught.value
    assert (error.got, error.fix) == ("a second 'x'", "choose another name")
    assert error.site.file == __file__


# wrong graphs


def test_a_cycle_without_a_delay():
    g = gn.Graph("net")
    x, z = g.input("x", (3,), over="time"), g.state("z", (3,), delay=0)
    h = torch.tanh(x + z)
    z.next = h
    g.output("y", h)
    with says(
        errors.CycleError,
        """
        a cycle without a delay: these values need each other at the same position
          at:     node 'z' test_errors.py:N
          got:    z (test_errors.py:N)
                  -> add_3 (test_errors.py:N)
                  -> tanh_4 (test_errors.py:N)
                  -> z
          wanted: at least one delay on every cycle
          fix:    put a delay on the edge tanh_4 -> z: change delay=0 to delay=1 in
                  g.state('z', …)
        """,
    ):
        gn.compile(g)


def test_a_state_that_is_its_own_wire():
    g = gn.Graph("net")
    a, b = g.state("a", (3,), delay=0), g.state("b", (3,), delay=0)
    a.next, b.next = b, a
    g.output("y", a)
    with says(
        errors.CycleError,
        """
        a cycle without a delay: these values need each other at the same position
          at:     node 'a' test_errors.py:N
          got:    a (test_errors.py:N)
                  -> b (test_errors.py:N)
                  -> a
          wanted: at least one delay on every cycle
          fix:    put a delay on the edge b -> a: change delay=0 to delay=1 in
                  g.state('a', …)
        """,
    ):
        gn.compile(g)


def test_a_state_never_closed():
    g, x, z = drawing()
    g.output("y", x + z)
    with says(
        errors.UnclosedStateError,
        """
        state 'z' is never closed
          at:     node 'z' test_errors.py:N
          got:    no `.next`
          wanted: the value it takes at the next position
          fix:    assign z.next = value before the graph ends
        """,
    ):
        gn.compile(g)


def test_a_state_closed_twice():
    _, x, z = drawing()
    z.next = x + z
    with says(
        errors.StateClosedTwiceError,
        """
        state 'z' is closed twice
          at:     node 'z' test_errors.py:N
          got:    a second `.next` (the first is add_3)
          wanted: one `.next = value` per state
          fix:    use a second state, or combine the two values before closing
        """,
    ):
        z.next = x - z


def test_a_next_value_read_before_it_is_there():
    _, _, z = drawing()
    with says(
        errors.UnsupportedError,
        """
        state 'z' has no next value yet
          at:     node 'z' test_errors.py:N
          got:    z.next read before it was assigned
          wanted: a closed state (it was declared at test_errors.py:N)
          fix:    assign z.next = value before reading it
        """,
    ):
        _ = z.next


def test_both_directions_in_one_loop():
    g = gn.Graph("net")
    x = g.input("x", (3,), over="time")
    past, future = g.state("past", (3,)), g.state("future", (3,), delay=-1)
    past.next = torch.tanh(x + future)
    future.next = torch.tanh(x + past)
    g.output("y", past)
    with says(
        errors.DirectionError,
        """
        one loop over 'time' runs in both directions
          at:     node 'future' test_errors.py:N
          got:    past looks 1 back, future looks 1 ahead, and each feeds the other
          wanted: delays of one sign in a loop
          fix:    keep the two directions in separate loops and join their outputs
        """,
    ):
        gn.compile(g)


def test_a_loop_that_sums_over_its_own_axis():
    g, x, z = drawing()
    z.next = torch.tanh(x + gn.sum(z, over="time"))
    g.output("y", z)
    with says(
        errors.NonCausalError,
        """
        the loop over 'time' depends on its own future: 'axis_sum_4' reads every position and
            feeds the loop that computes them
          at:     node 'axis_sum_4' test_errors.py:N
          got:    axis_sum over 'time' inside the loop z
          wanted: inside the loop, only values of this and earlier positions of 'time'
          fix:    accumulate in a state (total.next = total + v), or take the reduction
                  outside
        """,
    ):
        gn.compile(g)


def test_shapes_that_do_not_agree_in_an_operation():
    g, x, _ = drawing()
    h = g.input("h", (4,), over="time")
    with says(
        errors.ShapeError,
        """
        'add' cannot be applied to these shapes: …
          at:     node 'add' test_errors.py:N
          got:    x (3,) torch.float32, h (4,) torch.float32
          wanted: shapes of one example at one position: no batch, no named axis
          fix:    compare each value's `.shape`; batch and time are implied, never written
        """,
    ):
        x + h


def test_shapes_that_do_not_agree_in_a_module():
    g, x, _ = drawing()
    enc = g.module("enc", nn.Linear(4, 3))
    with says(
        errors.ShapeError,
        """
        enc: Linear(4, 3) takes (4,), x is (3,)
          at:     node 'enc' test_errors.py:N
          got:    x (3,), weight (3, 4)
          wanted: a last dimension of 4
          fix:    make the module Linear(3, …), or declare the value with 4
        """,
    ):
        enc(x)


def test_shapes_that_do_not_agree_in_a_closing():
    _, x, z = drawing()
    with says(
        errors.ShapeError,
        """
        the shape of the next value of state 'z' is not that of the state
          at:     node 'z' test_errors.py:N
          got:    (6,) from cat_3
          wanted: (3,), as declared at test_errors.py:N
          fix:    declare g.state('z', shape=(6,), …) or map the value
        """,
    ):
        z.next = torch.cat([x, z])


def test_another_dtype_in_a_closing():
    _, x, z = drawing()
    with says(
        errors.DtypeError,
        """
        the dtype of the next value of state 'z' is not that of the state
          at:     node 'z' test_errors.py:N
          got:    torch.bool from gt_4
          wanted: torch.float32
          fix:    declare the state with dtype=torch.bool, or cast with .to(torch.float32)
        """,
    ):
        z.next = x > 0


def test_a_closing_over_an_axis_the_state_lacks():
    g, x, z = drawing()
    s = g.input("s", (3,), over="source")
    with says(
        errors.AxisError,
        """
        the next value of state 'z' varies over axes that the state does not have
          at:     node 'z' test_errors.py:N
          got:    axes ('time', 'source') from add_4
          wanted: no more than ('time',)
          fix:    declare g.state('z', …, along=('source',)), or reduce over them first
                  (gn.sum, gn.last …)
        """,
    ):
        z.next = x + s


def test_an_initial_value_with_a_batch():
    g, _, _ = drawing()
    with says(
        errors.ShapeError,
        """
        the shape of the initial value of state 'c' is not that of the state
          at:     node 'c' test_errors.py:N
          got:    (2, 3)
          wanted: (3,) or a number
          fix:    give the shape of one example at one position, without the batch
        """,
    ):
        g.state("c", (3,), init=torch.zeros(2, 3))


def test_as_many_initial_values_as_slots():
    g, _, _ = drawing()
    with says(
        errors.ShapeError,
        """
        state 'c' has 3 delay slots
          at:     node 'c' test_errors.py:N
          got:    2 initial values
          wanted: one for all slots, or a list of 3
          fix:    give one per slot, the one read first in front
        """,
    ):
        g.state("c", delay=3, init=[0, 1])


def test_an_unknown_kind_of_initial_value():
    g, _, _ = drawing()
    with says(
        errors.UnsupportedError,
        """
        state 'c' has the unknown initial value 'uniform'
          at:     node 'c' test_errors.py:N
          got:    'uniform'
          wanted: None, a number, a tensor, a parameter, a value, or 'normal'
          fix:    for a learned initial value, give init=g.parameter(...)
        """,
    ):
        g.state("c", init="uniform")


def test_an_axis_that_does_not_exist():
    _, x, _ = drawing()
    with says(
        errors.AxisError,
        """
        there is no axis 'tine' in this graph
          at:     test_errors.py:N
          got:    'tine'
          wanted: one of ['time']
          fix:    write over='time' if you mean that axis
        """,
    ):
        gn.sum(x, over="tine")


def test_an_axis_the_value_does_not_vary_over():
    g, _, _ = drawing()
    speaker = g.input("speaker", (3,))
    with says(
        errors.AxisError,
        """
        'speaker' does not vary over 'time'
          at:     node 'speaker' test_errors.py:N
          got:    axes ()
          wanted: a value with the axis 'time'
          fix:    name one of its axes, or combine it with a value that has this one
        """,
    ):
        gn.mean(speaker, over="time")


def test_an_axis_that_nothing_gives_a_length():
    g = gn.Graph("net")
    c, z = g.input("c", (3,)), g.state("z", (3,), over="hop")
    z.next = torch.tanh(z + c)
    g.output("y", gn.last(z.next, over="hop"))
    with says(
        errors.AxisError,
        """
        nothing says how long axis 'hop' is
          at:     node 'z' test_errors.py:N
          got:    'z' varies over 'hop', no input does
          wanted: an input over it, or a fixed length
          fix:    g.axis('hop', length), or g.input(…, over='hop')
        """,
    ):
        gn.compile(g)


def test_an_axis_declared_twice():
    g, _, _ = drawing()
    with says(
        errors.NameTakenError,
        """
        axis 'time' is declared twice
          at:     test_errors.py:N
          got:    a second axis 'time'
          wanted: one declaration per axis
          fix:    choose another name; an input's `over` declares its axes
        """,
    ):
        g.axis("time", 10)


def test_an_axis_without_a_position():
    g, _, _ = drawing()
    with says(
        errors.AxisError,
        """
        axis 'slot' needs at least one position
          at:     test_errors.py:N
          got:    0
          wanted: a length of 1 or more
          fix:    give the number of slots, hops or steps
        """,
    ):
        g.axis("slot", 0)


def test_the_batch_named():
    g, _, _ = drawing()
    with says(
        errors.AxisError,
        """
        'batch' is implied and cannot be named
          at:     test_errors.py:N
          got:    the axis 'batch'
          wanted: axes other than the batch
          fix:    leave it out: the batch is the first dimension of every input
        """,
    ):
        g.input("u", (3,), over=("batch", "time"))


@pytest.mark.parametrize("name", ["@time", "@lengths of time", "", 3])
def test_names_that_calls_have_words_for(name):
    g, x, _ = drawing()
    for declare in (g.input, lambda n: g.state(n, (3,)), lambda n: g.output(n, x)):
        with pytest.raises(errors.NameTakenError):
            declare(name)


def test_a_reserved_name():
    g, _, _ = drawing()
    with says(
        errors.NameTakenError,
        """
        'lengths' cannot name an input
          at:     test_errors.py:N
          got:    'lengths'
          wanted: a string that is not empty, does not start with '@', and is none of batch,
                  lengths, record, return_state, self, state
          fix:    choose another name
        """,
    ):
        g.input("lengths")


def test_a_name_used_twice():
    g, _, _ = drawing()
    with says(
        errors.NameTakenError,
        """
        the name 'x' is used twice
          at:     test_errors.py:N
          got:    a second 'x'
          wanted: a different name for each input, state and output
          fix:    choose another name
        """,
    ):
        g.state("x", (3,))


def test_an_output_declared_twice():
    g, x, z = drawing()
    g.output("y", x)
    with says(
        errors.NameTakenError,
        """
        there already is an output 'y'
          at:     test_errors.py:N
          got:    output 'y'
          wanted: a name of its own: a string that is not empty, does not start with '@',
                  and is none of batch, lengths, record, return_state, self, state
          fix:    choose another name
        """,
    ):
        g.output("y", z)


def test_values_of_two_graphs():
    _, x, _ = drawing()
    u = gn.Graph("other").input("u", (3,))
    with says(
        errors.ForeignValueError,
        """
        values of different graphs are combined: 'net' and 'other'
          at:     test_errors.py:N
          got:    values of 'net' and 'other'
          wanted: values of one graph
          fix:    build both on one graph, or compile each and pass the output of one to the other
        """,
    ):
        x + u


def test_no_output():
    g, x, z = drawing()
    z.next = x + z
    with says(
        errors.GraphError,
        """
        graph 'net' has no output
          got:    no g.output(...)
          wanted: at least one output
          fix:    end the graph with g.output('y', value)
        """,
    ):
        gn.compile(g)


def test_an_if_on_a_value():
    _, x, _ = drawing()
    with says(
        errors.UnsupportedError,
        """
        a symbolic value cannot decide a Python `if`
          at:     node 'gt_6' test_errors.py:N
          got:    Value(gt_6, shape=(), axes=('time',))
          wanted: torch functions, which return new values
          fix:    use torch.where(condition, a, b), or gn.until for a loop that stops by itself
        """,
    ):
        if x[0] > 0:
            x = -x


def test_a_value_made_a_number():
    _, x, _ = drawing()
    with says(
        errors.UnsupportedError,
        """
        a symbolic value cannot become a Python number
          at:     node 'reshape_4' test_errors.py:N
          got:    Value(reshape_4, shape=(), axes=('time',))
          wanted: torch functions, which return new values
          fix:    use torch.where(condition, a, b), or gn.until for a loop that stops by itself
        """,
    ):
        float(x[0])


def test_a_change_in_place():
    g, _, _ = drawing()
    h = g.state("held", (3,))
    with says(
        errors.UnsupportedError,
        """
        a symbolic value cannot be changed in place here (add_)
          at:     node 'held' test_errors.py:N
          got:    Value(held, shape=(3,), axes=('time',))
          wanted: an operation that returns a new value
          fix:    write to a copy: v.clone()
        """,
    ):
        h.add_(1)


def test_an_assignment_by_an_index_that_is_a_value():
    g, x, _ = drawing()
    k = g.input("k", (), over="time", dtype=torch.int64)
    with says(
        errors.UnsupportedError,
        """
        a symbolic value cannot be changed in place here (__setitem__ by a value)
          at:     node 'x' test_errors.py:N
          got:    Value(x, shape=(3,), axes=('time',))
          wanted: an operation that returns a new value
          fix:    use torch.where, torch.scatter or torch.index_put
        """,
    ):
        x[k] = 1


def test_batch_normalisation():
    g, x, _ = drawing()
    norm = g.module("norm", nn.BatchNorm1d(3))
    with says(
        errors.UnsupportedError,
        """
        BatchNorm1d mixes the examples of a batch, and a graph says one example
          at:     test_errors.py:N
          got:    BatchNorm1d
          wanted: an operation on one example
          fix:    use nn.LayerNorm or nn.RMSNorm
        """,
    ):
        norm(x)


def test_a_parameter_the_graph_does_not_own():
    _, x, _ = drawing()
    with says(
        errors.UnsupportedError,
        """
        the graph uses a parameter that it does not own
          at:     test_errors.py:N
          got:    a parameter of shape (3, 3)
          wanted: parameters of the compiled module, or of one registered with g.module
          fix:    create the module in __init__, or register it: net = g.module('net', net)
        """,
    ):
        nn.Linear(3, 3)(x)


def test_a_parameter_computed_with_outside_the_graph():
    g, x, _ = drawing()
    linear = g.module("linear", nn.Linear(3, 3))
    with says(
        errors.UnsupportedError,
        """
        the graph uses a tensor that was computed from parameters outside the graph
          at:     test_errors.py:N
          got:    the result of ExpBackward0, of shape (3,), which would not change while the
                  parameters train
          wanted: a parameter itself, or a result computed from it in the graph
          fix:    compute it in graph(self, g), or within `with g:` on a bare Graph
        """,
    ):
        x * torch.exp(linear.bias)


def test_something_that_is_no_value():
    g, _, _ = drawing()
    with says(
        errors.UnsupportedError,
        """
        this cannot become a value of a graph
          at:     test_errors.py:N
          got:    str
          wanted: a Value, a tensor, a parameter or a number
          fix:    wrap it with torch.tensor(...)
        """,
    ):
        g.output("y", "x")


def test_until_after_a_reduction():
    g = gn.Graph("net")
    x, _ = g.input("x"), g.axis("hop", 5)
    h = g.state("h", over="hop")
    h.next = h + x
    total = gn.sum(h.next, over="hop")
    g.output("y", total)
    with says(
        errors.AxisError,
        """
        gn.until comes too late: 'hop' was already reduced over or stopped
          at:     node 'gt_6' test_errors.py:N
          got:    a stop condition for 'hop', after axis_sum_4 at test_errors.py:N
          wanted: one gn.until per axis, before any reduction over it
          fix:    move gn.until up to where the condition is computed
        """,
    ):
        gn.until(h.next > 1, over="hop")


def test_until_of_a_number():
    _, x, _ = drawing()
    with says(
        errors.DtypeError,
        """
        gn.until needs one truth value per position
          at:     node 'reshape_4' test_errors.py:N
          got:    torch.float32 of shape ()
          wanted: torch.bool of shape ()
          fix:    compare: gn.until(total > 0.99, over=…)
        """,
    ):
        gn.until(x[0], over="time")


def test_parameters_along_an_axis_of_another_length():
    g, _, _ = drawing()
    g.axis("slot", 5)
    with says(
        errors.ShapeError,
        """
        the tensor does not fit along 'slot'
          at:     node 'keys' test_errors.py:N
          got:    shape (4, 3), axes ()
          wanted: a first dimension of 5, and no axes yet
          fix:    declare g.axis('slot', 4)
        """,
    ):
        gn.along(g.parameter("keys", (4, 3)), "slot")


def test_an_unknown_backend():
    with says(
        errors.BackendError,
        """
        there is no backend 'tritom'
          got:    'tritom'
          wanted: one of auto, torch, triton, interpret, ptx, reference
          fix:    backend='auto' takes the fastest there is
        """,
    ):
        gn.compile(Elman(), backend="tritom")


def test_an_unknown_pass():
    with says(
        errors.BackendError,
        """
        there is no pass 'fuze' to skip
          got:    ['fuze']
          wanted: passes among ['simplify', 'split', 'gather', 'hoist', 'merge', 'contract',
                  'hops', 'attend', 'match', 'scan', 'sink', 'beside', 'stacked', 'resident',
                  'cooperative', 'fit']
          fix:    check the spelling
        """,
    ):
        gn.compile(Elman(), skip=["fuze"])


def test_a_module_that_draws_no_graph():
    with says(
        errors.GraphError,
        """
        Linear cannot be compiled
          got:    Linear, without a graph(self, g) method
          wanted: a graphnn.Graph, or a module whose graph(self, g) declares one
          fix:    add `def graph(self, g): …` with g.input(...) and g.output(...)
        """,
    ):
        gn.compile(nn.Linear(2, 2))


# wrong calls


def test_a_wrong_shape(model):
    with says(
        errors.InputShapeError,
        """
        input 'x' has the wrong shape
          at:     node 'x' test_errors.py:N
          got:    (4, 6, 5)
          wanted: (batch, time, 3) of torch.float32
          fix:    the batch comes first, then the named axes, then the declared shape
        """,
    ):
        model(x=torch.zeros(4, 6, 5))


def test_a_wrong_rank(model):
    with says(
        errors.InputShapeError,
        """
        input 'x' has the wrong shape
          at:     node 'x' test_errors.py:N
          got:    (6, 3)
          wanted: (batch, time, 3) of torch.float32
          fix:    the batch comes first, then the named axes, then the declared shape
        """,
    ):
        model(x=torch.zeros(6, 3))


def test_a_wrong_dtype(model):
    with says(
        errors.InputDtypeError,
        """
        input 'x' has the wrong dtype
          at:     node 'x' test_errors.py:N
          got:    torch.float64
          wanted: torch.float32
          fix:    x.to(torch.float32), or move the model: model.to(torch.float64)
        """,
    ):
        model(x=X.double())


def test_numbers_where_a_tensor_belongs(model):
    with says(
        errors.InputShapeError,
        """
        input 'x' is not a tensor
          at:     node 'x' test_errors.py:N
          got:    list
          wanted: (batch, time, 3) of torch.float32
          fix:    wrap it with torch.as_tensor(...)
        """,
    ):
        model(x=[[0.0, 1.0]])


def test_another_device(model):
    with says(
        errors.InputDeviceError,
        """
        input 'x' is on another device than the model
          at:     node 'x' test_errors.py:N
          got:    meta
          wanted: cpu
          fix:    give a tensor that has elements
        """,
    ):
        model(x=X.to("meta"))


def test_kernels_without_a_gpu():
    model = gn.compile(Elman(), backend="triton")
    with says(
        errors.InputDeviceError,
        """
        backend 'triton' runs on cuda tensors
          got:    inputs and parameters on cpu
          wanted: a cuda device
          fix:    move them there, or compile with backend='auto' or 'interpret'
        """,
    ):
        model(x=X)


def test_a_missing_input(model):
    with says(
        errors.MissingInputError,
        """
        input 'x' was not given
          at:     node 'x' test_errors.py:N
          got:    inputs []
          wanted: x: a tensor (batch, time, 3) of torch.float32
          fix:    call model(x=...)
        """,
    ):
        model()


def test_an_unknown_input(model):
    with says(
        errors.UnknownInputError,
        """
        'elman' has no input 'u'
          got:    u
          wanted: inputs ['x']
          fix:    check the spelling against g.input(...)
        """,
    ):
        model(x=X, u=X)


def test_too_many_positional_arguments(model):
    with says(
        errors.UnknownInputError,
        """
        'elman' takes no more than 1 positional input(s)
          got:    2 positional arguments
          wanted: inputs ['x']
          fix:    give each input by name
        """,
    ):
        model(X, X)


def test_an_input_given_twice(model):
    with says(
        errors.UnknownInputError,
        """
        input 'x' was given twice
          got:    a positional and a keyword argument
          wanted: each input once
          fix:    drop one, or give all by name: model(x=...)
        """,
    ):
        model(X, x=X)


def test_lengths_too_long(model):
    with says(
        errors.LengthsError,
        """
        lengths of 'time' are out of range
          got:    from 1 to 7
          wanted: 0 to 6, the padded length
          fix:    count positions, not indices; pad the input up to the longest
        """,
    ):
        model(x=X, lengths={"time": torch.tensor([6, 2, 1, 7])})


def test_lengths_below_zero(model):
    with says(
        errors.LengthsError,
        """
        lengths of 'time' are out of range
          got:    from -1 to 6
          wanted: 0 to 6, the padded length
          fix:    count positions, not indices; pad the input up to the longest
        """,
    ):
        model(x=X, lengths={"time": torch.tensor([6, 2, 1, -1])})


def test_lengths_of_another_batch(model):
    with says(
        errors.LengthsError,
        """
        lengths of 'time' have the wrong shape or dtype
          got:    (2,) of torch.int64
          wanted: (4,) of torch.int64, one number per example
          fix:    lengths={'time': torch.tensor([...])}
        """,
    ):
        model(x=X, lengths={"time": torch.tensor([6, 2])})


def test_lengths_that_are_not_whole(model):
    with says(
        errors.LengthsError,
        """
        lengths of 'time' have the wrong shape or dtype
          got:    (4,) of torch.float32
          wanted: (4,) of torch.int64, one number per example
          fix:    lengths={'time': torch.tensor([...])}
        """,
    ):
        model(x=X, lengths={"time": torch.ones(4)})


def test_lengths_of_an_unknown_axis(model):
    with says(
        errors.LengthsError,
        """
        lengths are given for 'tine', an axis of no input
          got:    tine
          wanted: axes among ['time']
          fix:    check the spelling against g.input(..., over=...)
        """,
    ):
        model(x=X, lengths={"tine": torch.tensor([6, 2, 1, 3])})


def test_lengths_without_an_axis(model):
    with says(
        errors.LengthsError,
        """
        `lengths` does not name an axis
          got:    Tensor
          wanted: a dict from the name of an axis to one number per example
          fix:    lengths={'time': torch.tensor([...])}
        """,
    ):
        model(x=X, lengths=torch.tensor([6, 2, 1, 3]))


def test_axes_whose_lengths_disagree():
    g = gn.Graph("net")
    a, b = g.input("a", over="time"), g.input("b", over="time")
    g.output("y", a + b)
    model = gn.compile(g)
    with says(
        errors.InputShapeError,
        """
        input 'b' disagrees about the length of 'time'
          at:     node 'b' test_errors.py:N
          got:    time = 5 in (2, 5)
          wanted: time = 4, as declared or as in other inputs
          fix:    give tensors of equal batch and axes; pad them, with lengths={...}
        """,
    ):
        model(a=torch.zeros(2, 4), b=torch.zeros(2, 5))


def test_batches_that_disagree():
    g = gn.Graph("net")
    a, b = g.input("a", over="time"), g.input("b", over="time")
    g.output("y", a + b)
    model = gn.compile(g)
    with says(
        errors.InputShapeError,
        """
        input 'b' disagrees about the length of 'batch'
          at:     node 'b' test_errors.py:N
          got:    batch = 1 in (1, 4)
          wanted: batch = 2, as declared or as in other inputs
          fix:    give tensors of equal batch and axes; pad them, with lengths={...}
        """,
    ):
        model(a=torch.zeros(2, 4), b=torch.zeros(1, 4))


def test_an_axis_of_length_zero(model):
    with says(
        errors.InputShapeError,
        """
        axis 'time' of input 'x' is empty
          at:     node 'x' test_errors.py:N
          got:    (4, 0, 3)
          wanted: time of 1 or more
          fix:    pad to one position, and give lengths={...}
        """,
    ):
        model(x=torch.zeros(4, 0, 3))


def test_an_unknown_state(model):
    with says(
        errors.StateError,
        """
        'elman' has no state 'h'
          got:    h
          wanted: states among ['z']
          fix:    pass what return_state=True or initial_state() returned
        """,
    ):
        model(x=X, state={"h": torch.zeros(4, 2)})


def test_a_state_of_another_shape(model):
    with says(
        errors.StateError,
        """
        state 'z' has the wrong shape
          at:     node 'z' test_errors.py:N
          got:    (4, 3)
          wanted: (4, 2)
          fix:    shape is (batch, *axes, [delay slots,] *shape)
        """,
    ):
        model(x=X, state={"z": torch.zeros(4, 3)})


def test_a_state_of_another_dtype(model):
    with says(
        errors.StateError,
        """
        state 'z' has the wrong dtype
          at:     node 'z' test_errors.py:N
          got:    torch.float64
          wanted: torch.float32
          fix:    state['z'].to(torch.float32)
        """,
    ):
        model(x=X, state={"z": torch.zeros(4, 2).double()})


def test_a_state_on_another_device(model):
    with says(
        errors.StateError,
        """
        state 'z' has the wrong device
          at:     node 'z' test_errors.py:N
          got:    meta
          wanted: cpu
          fix:    state['z'].to('cpu')
        """,
    ):
        model(x=X, state={"z": torch.zeros(4, 2, device="meta")})


def test_a_number_as_a_state(model):
    with says(
        errors.StateError,
        """
        state 'z' is not a tensor
          at:     node 'z' test_errors.py:N
          got:    float
          wanted: (4, 2) of torch.float32
          fix:    wrap it with torch.as_tensor(...), or give the start as g.state(…, init=…)
        """,
    ):
        model(x=X, state={"z": 0.0})


def test_a_state_without_a_name(model):
    with says(
        errors.StateError,
        """
        `state` does not name a state
          got:    Tensor
          wanted: a dict from the names of states to tensors
          fix:    pass what return_state=True or initial_state() returned
        """,
    ):
        model(x=X, state=torch.zeros(4, 2))


def test_a_record_of_an_unknown_state(model):
    with says(
        errors.StateError,
        """
        'elman' has no state ['h']
          got:    ['h']
          wanted: states among ['z']
          fix:    check the spelling against g.state(...); g.output(...) gives other values out
        """,
    ):
        model(x=X, record=["h"])


def test_a_step_that_needs_the_future():
    g = gn.Graph("net")
    x, b = g.input("x", (3,), over="time"), g.state("b", (3,), delay=-1)
    b.next = torch.tanh(x + b)
    g.output("y", b.next)
    model = gn.compile(g)
    with says(
        errors.StepError,
        """
        'net' cannot be streamed along 'time': 'b' needs all of it
          at:     node 'b' test_errors.py:N
          got:    a negative delay over 'time'
          wanted: values of this and earlier positions only
          fix:    keep what is needed in a state, or call the model on the whole sequence
        """,
    ):
        model.step({}, x=torch.zeros(2, 3))


def test_a_step_along_no_axis(model):
    with says(
        errors.StepError,
        """
        'elman' has no one axis to step along
          got:    over='tine', candidates ['time']
          wanted: one axis that inputs vary over and states run along
          fix:    model.step(state, over='time', …)
        """,
    ):
        model.step({}, over="tine", x=X[:, 0])


def test_a_delay_that_is_no_whole_number():
    with says(
        errors.AxisError,
        """
        the delay of state 'h' is not a whole number of positions
          at:     node 'h' test_errors.py:N
          got:    delay=1.5
          wanted: an int: 1 for the position before, -1 for the one after
          fix:    delay=1
        """,
    ):
        gn.Graph("net").state("h", (3,), delay=1.5)
