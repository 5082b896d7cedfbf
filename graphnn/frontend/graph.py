"""`Graph`: a network with its inputs, states, modules and outputs, as the user declares it.

A graph describes one example at one position. The batch is implied, every other axis has a name,
and assigning `state.next` closes a loop.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from numbers import Integral
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from graphnn.errors import AxisError, NameTakenError, UnsupportedError
from graphnn.frontend.dispatch import call
from graphnn.frontend.feedback import Feedback, fed_back
from graphnn.frontend.initial_states import initial_values
from graphnn.frontend.mistakes import how_to_convert
from graphnn.frontend.names import MAY_NAME, Names, foreign, may_name
from graphnn.frontend.value import State, Value
from graphnn.ir.dtypes import floating
from graphnn.ir.graph import BATCH, IR
from graphnn.ir.source_location import user_site
from graphnn.ops.builder import Expr, const, number
from graphnn.ops.registry import build
from graphnn.ops.sources import length_of
from graphnn.pictures import draw
from graphnn.tracing.effects import aliases, captured, inplace
from graphnn.tracing.effects import random as noise
from graphnn.tracing.effects.context import Context
from graphnn.tracing.effects.current_graph import current_graph, set_current, tracing_into
from graphnn.tracing.guards import Guards, unguarded
from graphnn.tracing.tracer import QUERIES, Tracer, name_of, query


class Graph(Names):
    """A network that is being declared.

    `name` appears in plans and errors. `module` owns the parameters; without one, the graph makes
    its own, to which `g.module` and `g.parameter` add.

    >>> g = gn.Graph("elman")
    >>> x, z = g.input("x", (3,), over="time"), g.state("z", (2,))
    >>> cell = g.module("cell", nn.Linear(5, 2))
    >>> z.next = torch.tanh(cell(torch.cat([x, z])))
    >>> y = g.output("y", z.next)
    >>> g
    Graph('elman', 9 nodes, outputs ['y'])
    >>> gn.compile(g)(torch.zeros(4, 6, 3)).shape
    torch.Size([4, 6, 2])
    """

    @staticmethod
    def current() -> Graph | None:
        """The graph made last in this thread, in which `gn.index` and `gn.length` add nodes."""
        latest = current_graph()
        return latest if isinstance(latest, Graph) else None

    def __init__(
        self,
        name: str = "graph",
        module: nn.Module | None = None,
        moved: torch.dtype | None = None,
    ):
        self.ir = IR(name)
        self.owner = module if module is not None else nn.Module()
        self.constants: dict[int, torch.Tensor] = {}
        self.feedbacks: list[Feedback] = []
        # the names of the owner's parameters and buffers, by their identity
        self.known: dict[int, str] = {}
        # the values that tensors made during the trace became when they were written to
        self.written: dict[int, Value] = {}
        self.keep_alive: list[torch.Tensor] = []
        # random values without axes yet: see `tracing.effects.random`
        self.unbound: set[int] = set()
        # the nodes of tensors made during the trace
        self.made_nodes: set[int] = set()
        self.tracer: Tracer | None = None
        self.guards = Guards(nn.Module())
        self.context = Context(bare=not self.has_user_module)
        self._taken: set[str] = set()
        self.sources: dict[Any, int] = {}
        self.lengths: dict[str, int] = {}
        self._learn_names()
        set_current(self)
        with unguarded():
            self.ir.floating = floating(self.owner, moved)

    @property
    def dtype(self) -> torch.dtype:
        """The model's floating-point dtype.

        That of its first floating-point parameter, else of its first floating-point buffer, else
        the one that the compiled model was last moved to, else torch's default.
        """
        return self.ir.floating

    def __enter__(self) -> Graph:
        """Within `with graph:`, every torch call is traced, as in a module's `graph(self, g)`."""
        self.tracer = Tracer(self)
        self.tracer.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        assert self.tracer is not None
        self.tracer.__exit__(*error)
        self.tracer = None

    @contextmanager
    def tracing(self, guards: Guards) -> Iterator[None]:
        """Trace into this graph: it is the current one and sees every torch call."""
        self.guards = guards
        with tracing_into(self), self:
            yield

    def _learn_names(self) -> None:
        with unguarded():
            for found in (self.owner.named_parameters(), self.owner.named_buffers()):
                for name, tensor in found:
                    self.known.setdefault(id(tensor), name)

    def input(
        self,
        name: str,
        shape: int | Sequence[int] = (),
        over: str | Sequence[str] = (),
        dtype: torch.dtype | None = None,
    ) -> Value:
        """Declare an input; at the call, its tensor has shape (batch, *over, *shape).

        `over` names the axes the input varies over, `shape` is that of one position. Without a
        `dtype`, the input has the model's floating-point dtype (`g.dtype`) and follows
        `model.double()`; an explicit `dtype` stays. Raises NameTakenError if the name is reserved
        or in use, and AxisError if `over` names the batch.

        >>> g = gn.Graph()
        >>> g.input("frames", (80,), over="time")
        Value(frames, shape=(80,), axes=('time',))
        >>> g.input("words", over="word", dtype=torch.int64).dtype
        torch.int64
        """
        self._take(name, "an input")
        axes = self._axes(over, declare=True)
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        attrs: dict[str, Any] = {"key": name, "over": axes}
        kind = self._stated(attrs, dtype)
        return self._source("input", name, shape, frozenset(axes) | {BATCH}, kind, **attrs)

    def _stated(self, attrs: dict[str, Any], dtype: torch.dtype | None) -> torch.dtype:
        """The dtype of a declaration. An explicit one stays when the model is moved."""
        if dtype is None:
            return self.ir.floating
        attrs["stated"] = True
        return dtype

    def _source(
        self,
        op: str,
        name: str,
        shape: tuple[int, ...],
        axes: frozenset[str],
        dtype: torch.dtype,
        **attrs: Any,
    ) -> Value:
        node = build(
            self.ir, op, (), attrs, shape=shape, axes=axes, dtype=dtype, name=name, site=user_site()
        )
        return Value(self, node)

    def axis(self, name: str, length: int) -> str:
        """Declare an axis of fixed length that no input has (slots, hops); returns its name.

        If a loop over the axis stops by itself (`gn.until`), `length` is its maximum number of
        steps. Raises NameTakenError if the axis exists, and AxisError if `length` is below 1.

        >>> g = gn.Graph()
        >>> g.axis("slot", 20)
        'slot'
        """
        if name in self.ir.axes:
            raise NameTakenError(
                f"axis '{name}' is declared twice",
                site=user_site(),
                got=f"a second axis '{name}'",
                wanted="one declaration per axis",
                fix="choose another name; an input's `over` declares its axes",
            )
        if length < 1:
            raise AxisError(
                f"axis '{name}' needs at least one position",
                site=user_site(),
                got=length,
                wanted="a length of 1 or more",
                fix="give the number of slots, hops or steps",
            )
        self._axes(name, declare=True)
        self.ir.axes[name].length = length
        return name

    def state(
        self,
        name: str,
        shape: int | Sequence[int] = (),
        over: str = "time",
        along: str | Sequence[str] = (),
        init: Any = None,
        delay: int = 1,
        dtype: torch.dtype | None = None,
    ) -> State:
        """Declare the value of `delay` positions before along `over`; close it by `.next = value`.

        - `shape` is that of one position, `along` names further axes that the state varies over
          (memory slots).
        - A negative `delay` looks ahead: the loop then runs from the end.
        - `init` is the value before the first position: None (zero), a number, a tensor, a
          parameter, a value, `"normal"`, or a list of `delay` of these, one per delay slot, the one
          read first in front. It is cast to the state's dtype.
        - Without a `dtype`, the state has the model's floating-point dtype (`g.dtype`). An explicit
          `dtype` stays: a state can be float32 in a model with weights in bfloat16.

        Raises NameTakenError if the name is reserved or in use, AxisError if an axis of `along`
        does not exist, and ShapeError or DtypeError if `init` does not match the state.

        >>> g = gn.Graph()
        >>> x, total = g.input("x", over="time"), g.state("total", over="time", init=10)
        >>> total.next = total + x
        >>> y = g.output("y", total.next)
        >>> gn.compile(g)(torch.ones(1, 3))
        tensor([[11., 12., 13.]])
        """
        self._take(name, "a state")
        if isinstance(delay, bool) or not isinstance(delay, Integral):
            raise AxisError(
                f"the delay of state '{name}' is not a whole number of positions",
                node=name,
                site=user_site(),
                got=f"delay={delay!r}",
                wanted="an int: 1 for the position before, -1 for the one after",
                fix="delay=1",
            )
        carried = self._axes(along, declare=False)
        self._axes(over, declare=True)
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        axes = frozenset({over, BATCH, *carried})
        attrs: dict[str, Any] = {"axis": over, "steps": delay, "key": name}
        kind = self._stated(attrs, dtype)
        inits = initial_values(self, name, init, shape, axes - {over}, delay, kind)
        node = build(
            self.ir,
            "delay",
            [v.id for v in inits],
            attrs,
            shape=shape,
            axes=axes,
            dtype=kind,
            name=name,
            site=user_site(),
        )
        return State(self, node)

    def random(
        self, kind: str, shape: tuple[int, ...], axes: frozenset[str], p: float = 0
    ) -> Value:
        """Random numbers that every call draws once: `normal`, `uniform`, or a `dropout` mask.

        They vary over `axes` ("batch" among them, for a number per example) and have the model's
        floating-point dtype. `p` is the probability of dropping.

        >>> g = gn.Graph()
        >>> x = g.input("x", (3,), over="time")
        >>> y = g.output("y", x * g.random("dropout", (3,), frozenset({"batch"}), p=0.5))
        """
        attrs = noise.attributes(self, kind, p)
        return self._source("random", "", shape, axes, self.ir.floating, **attrs)

    def output(self, name: str, value: Any) -> Value:
        """Declare an output; its tensor has shape (batch, *axes, *shape). Returns the value.

        The axes are in the order in which the graph first named them, in inputs, `g.axis` and
        states (see `value.axes`). A value over source and target is (batch, source, target) if the
        input over source was declared first. Raises NameTakenError if the name is reserved or in
        use.

        >>> g = gn.Graph()
        >>> x, w = g.input("x", over="source"), g.input("w", over="target")
        >>> g.output("y", w * x)
        Value(mul_2, shape=(), axes=('source', 'target'))
        """
        if name in self.ir.outputs or not may_name(name):
            raise NameTakenError(
                f"there already is an output '{name}'"
                if name in self.ir.outputs
                else f"'{name}' cannot name an output",
                site=user_site(),
                got=f"output '{name}'",
                wanted=f"a name of its own: {MAY_NAME}",
                fix="choose another name",
            )
        value = self.value(value)
        noise.bind(self, [value.id], frozenset())
        self.ir.outputs[name] = value.id
        return value

    def feedback(self, input: Value | str, output: Value | str, choose: str = "argmax") -> None:
        """Declare how a model generates: the next `input` is chosen from `output`.

        `input` is an int64 input of shape () over one axis, `output` an output of logits of shape
        (vocabulary,) over that axis; both may be given by name. `choose` is "argmax" (the largest
        logit) or "sample" (at random, by softmax). A plain call feeds nothing back: it uses the
        given inputs (teacher forcing). Raises GraphError if input and output do not match.

        >>> g = gn.Graph()
        >>> word = g.input("word", over="time", dtype=torch.int64)
        >>> table = g.module("table", nn.Embedding(5, 5))
        >>> logits = g.output("logits", table(word))
        >>> g.feedback(word, logits)
        >>> gn.compile(g).generate(start=0, max_steps=3).tokens.shape
        torch.Size([1, 3])
        """
        self.feedbacks.append(fed_back(self, input, output, choose))

    def module(self, name: str, module: nn.Module) -> nn.Module:
        """Register a module under `name`; returns the module, to be called on values.

        If the user's own module already has a submodule of that name, that one is returned. Raises
        NameTakenError if the name is in use otherwise.

        >>> g = gn.Graph()
        >>> x = g.input("x", (3,))
        >>> linear = g.module("linear", nn.Linear(3, 2))
        >>> linear(x).shape
        torch.Size([2])
        """
        present = getattr(self.owner, name, None)
        if isinstance(present, nn.Module) and (present is module or self.has_user_module):
            return present
        if present is not None:
            raise NameTakenError(
                f"there already is a module '{name}'",
                site=user_site(),
                got=f"a second '{name}'",
                wanted="a different name for each module",
                fix="choose another name",
            )
        self.owner.add_module(name, module)
        self._learn_names()
        return module

    @property
    def has_user_module(self) -> bool:
        """Whether the parameters belong to a user's module, which is traced again for each mode."""
        return type(self.owner) is not nn.Module

    def parameter(
        self, name: str, shape: int | Sequence[int] | torch.Tensor, init: Any = None
    ) -> Value:
        """A trainable parameter, from a tensor or of a shape.

        `init(tensor)` fills it in place; without `init`, a parameter of a given shape starts at
        zero. A parameter that the module already has is returned as it is.

        >>> g = gn.Graph()
        >>> g.parameter("w", (3, 2), nn.init.xavier_uniform_).shape
        torch.Size([3, 2])
        """
        if name not in self.owner.__dict__["_parameters"]:
            shape = self.written.get(id(shape), shape)
            if isinstance(shape, Value) and shape.id in self.unbound:
                start = captured.sample(self, shape.id)
            elif isinstance(shape, torch.Tensor):
                start = shape.detach().clone()
                if start.is_floating_point() and len(self.ir) and self.known:
                    start = start.to(self.ir.floating)
            else:
                sizes = (shape,) if isinstance(shape, int) else tuple(shape)
                start = torch.zeros(sizes, dtype=self.ir.floating)
            if init is not None:
                with torch._C.DisableTorchFunction(), torch.no_grad():
                    init(start)
            self.owner.register_parameter(name, nn.Parameter(start))
            self._learn_names()
        return self.value(self.owner.__dict__["_parameters"][name])

    def value(self, thing: Any) -> Value:
        """A value of this graph from a value, a parameter, a tensor or a number.

        Raises UnsupportedError for anything else, and ForeignValueError for a value of another
        graph.

        >>> gn.Graph().value(torch.ones(3)).shape
        torch.Size([3])
        """
        if isinstance(thing, Value):
            self._check_own(thing)
            return thing
        if isinstance(thing, torch.Tensor):
            if id(thing) in self.written:
                return self.written[id(thing)]
            found = Value(self, self.tensor(thing).id)
            found.read_only = self.tracer is None or id(thing) not in self.tracer.made
            return found
        thing = number(thing)
        if isinstance(thing, (bool, int, float)):
            return Value(self, const(self.ir, thing).id)
        raise UnsupportedError(
            "this cannot become a value of a graph",
            site=user_site(),
            got=type(thing).__name__,
            wanted="a Value, a tensor, a parameter or a number",
            fix=how_to_convert(thing),
        )

    def tensor(self, tensor: torch.Tensor) -> Expr:
        """The node of a parameter, a buffer or a constant tensor; each has one node."""
        return captured.node_of(self, tensor)

    def length(self, axis: str) -> Expr:
        """The node with each example's number of positions along `axis`. Raises AxisError."""
        if axis not in self.ir.axes:
            self.missing_axis(axis)
        if axis not in self.lengths:
            self.lengths[axis] = length_of(self.ir, axis).id
        return Expr(self.ir, self.lengths[axis])

    def ragged(self, axis: str) -> tuple[Expr, ...]:
        """The lengths that an operation over `axis` reads; none if all examples have the same."""
        fixed = self.ir.axes[axis].length is not None if axis in self.ir.axes else False
        return () if fixed and axis not in self.ir.until else (self.length(axis),)

    def apply(self, function: Any, args: Any, kwargs: Any) -> Any:
        """Trace a call of a torch function; returns its results as values."""
        self._check_own(args, kwargs)
        name = name_of(function)
        if name in QUERIES or name.startswith("get "):
            return query(function, name, args, kwargs)
        change = inplace.written_call(function, name, args, kwargs)
        if change is not None:
            return inplace.write(self, *change)
        result = self.trace_call(function, args, kwargs)
        aliases.note_views(self, function, name, args, kwargs, result)
        return result

    def _check_own(self, *things: Any) -> None:
        """Raise ForeignValueError if there are values of other graphs among the things."""
        for v in tree_leaves(things):
            if isinstance(v, Value) and v.graph is not self:
                foreign([self, v.graph])

    def trace_call(self, function: Any, args: Any, kwargs: Any) -> Any:
        """Trace a call that changes nothing in place."""
        with torch._C.DisableTorchFunction():
            return call(self, function, args, kwargs)

    def value_of(self, id: int) -> Value:
        """The value of a node."""
        return Value(self, id)

    def draw(self, path: Any = None, unroll: Any = None, plan: bool = False) -> Any:
        """A picture of the graph: see `gn.pictures.draw`. It is saved if `path` is given.

        >>> g = gn.Graph("double")
        >>> y = g.output("y", 2 * g.input("x", (3,)))
        >>> g.draw()
        Picture of double: 3 boxes, 2 edges
        """
        return draw(self, path, unroll, plan)

    def __repr__(self) -> str:
        return f"Graph('{self.ir.name}', {len(self.ir)} nodes, outputs {list(self.ir.outputs)})"
