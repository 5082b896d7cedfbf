"""What a user draws on: a graph with inputs, states, modules and outputs.

A graph is the mathematics of one example at one position. Batch is implied; every other axis has a
name; a loop is closed by assigning `state.next`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from graphnn.errors import AxisError, NameTakenError, UnsupportedError
from graphnn.frontend.dispatch import call
from graphnn.frontend.feedback import Feedback, fed_back
from graphnn.frontend.initial_states import starts
from graphnn.frontend.mistakes import value_of
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
from graphnn.tracing.guards import Watch, paused
from graphnn.tracing.tracer import QUERIES, Tracer, asked, name_of


class Graph(Names):
    """A network being declared.

    `name` appears in plans and errors. `module` owns the parameters; without one the graph makes
    its own, filled by `g.module` and `g.parameter`.
    """

    @staticmethod
    def current() -> Graph | None:
        """The graph made last in this thread: the one that `gn.index` and the like belong to."""
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
        # the names of the parameters and buffers that the graph owns, by their identity
        self.known: dict[int, str] = {}
        # tensors made while drawing that were written to, as the values they are since
        self.written: dict[int, Value] = {}
        self.keep_alive: list[torch.Tensor] = []
        # noise that has no axes yet: see `tracing.noise`
        self.unbound: set[int] = set()
        # the nodes of tensors made while drawing
        self.made_nodes: set[int] = set()
        self.tracer: Tracer | None = None
        self.watch: Any = Watch(nn.Module())
        self.context = Context(bare=not self.owner_is_users)
        self._taken: set[str] = set()
        self.sources: dict[Any, int] = {}
        self._lengths: dict[str, int] = {}
        self._learn_names()
        set_current(self)
        with paused():
            self.ir.floating = floating(self.owner, moved)

    @property
    def dtype(self) -> torch.dtype:
        """The model's floating dtype: that of its first floating parameter, else of its first
        floating buffer, else the one that the compiled model was last moved to, else torch's
        default."""
        return self.ir.floating

    def __enter__(self) -> Graph:
        """Within `with graph:` every torch call is seen, as in a module's `graph(g)`."""
        self.tracer = Tracer(self)
        self.tracer.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        assert self.tracer is not None
        self.tracer.__exit__(*error)
        self.tracer = None

    @contextmanager
    def drawing(self, watch: Any) -> Iterator[None]:
        """Draw in this graph: it is the current one, and sees every torch call."""
        self.watch = watch
        with tracing_into(self), self:
            yield

    def _learn_names(self) -> None:
        with paused():
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
        """Declare an input; at the call its tensor is (batch, *over, *shape).

        Without a `dtype` it has the model's own floating dtype (`g.dtype`), and follows
        `model.double()` and the like; a `dtype` that is given stays. Raises NameTakenError,
        AxisError.
        """
        self._take(name, "an input")
        axes = self._axes(over, declare=True)
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        attrs: dict[str, Any] = {"key": name, "over": axes}
        kind = self._stated(attrs, dtype)
        return self._source("input", name, shape, frozenset(axes) | {BATCH}, kind, **attrs)

    def _stated(self, attrs: dict[str, Any], dtype: torch.dtype | None) -> torch.dtype:
        """The dtype of a declaration; one that is stated is kept, however the model is moved."""
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
        """Declare an axis of fixed length that no input brings (slots, hops); returns its name.

        For a loop that stops by itself (`gn.until`), `length` is the most steps it may take.
        """
        if name in self.ir.axes:
            raise NameTakenError(
                f"axis '{name}' is declared twice",
                site=user_site(),
                got=f"a second axis '{name}'",
                wanted="one declaration an axis",
                fix="an input's `over` declares its axes already; choose another name",
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
        """Declare the value of `delay` positions ago along `over`; close it with `.next = value`.

        A negative delay looks ahead: the loop runs from the end. `along` names further axes the
        state carries (memory slots). `init` is what it is before the first position: None (zero),
        a number, a tensor or parameter, a value, `"normal"`, or a list of `delay` of these, one a
        slot, the first read first; it is cast to the state's dtype. Without a `dtype` that is the
        model's own floating dtype (`g.dtype`); one that is given stays, so that a state of float32
        is kept so beside weights of bfloat16. Raises NameTakenError, AxisError, ShapeError,
        DtypeError.
        """
        self._take(name, "a state")
        carried = self._axes(along, declare=False)
        self._axes(over, declare=True)
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        axes = frozenset({over, BATCH, *carried})
        attrs: dict[str, Any] = {"axis": over, "steps": delay, "key": name}
        kind = self._stated(attrs, dtype)
        inits = starts(self, name, init, shape, axes - {over}, delay, kind)
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
        """Random numbers drawn once a call: `normal`, `uniform`, or a `dropout` mask."""
        law = noise.law(self, kind, p)
        return self._source("random", "", shape, axes, self.ir.floating, **law)

    def output(self, name: str, value: Any) -> Value:
        """Declare an output; it is returned as (batch, *axes, *shape).

        Axes come in the order in which the graph first named them (`value.axes` tells it): in
        inputs, `g.axis`, states. So what varies over source and target is (batch, source, target)
        where the input over source was declared first, whatever it was computed from.
        """
        if name in self.ir.outputs or not may_name(name):
            raise NameTakenError(
                f"there is an output '{name}' already"
                if name in self.ir.outputs
                else f"'{name}' cannot name an output",
                site=user_site(),
                got=f"output '{name}'",
                wanted=f"names that differ, each {MAY_NAME}",
                fix="choose another name",
            )
        value = self.value(value)
        noise.bind(self, [value.id], frozenset())
        self.ir.outputs[name] = value.id
        return value

    def feedback(self, input: Value | str, output: Value | str, choose: str = "argmax") -> None:
        """Say how the loop is closed when generating: the next `input` is chosen from `output`.

        `input` is an integer input of shape () over one axis, `output` an output of logits, shape
        (vocabulary,), over that axis; either may be given by name. `choose`: the largest ("argmax")
        or at random ("sample"). In training nothing is fed back: inputs are what is given (teacher
        forcing). Raises GraphError.
        """
        self.feedbacks.append(fed_back(self, input, output, choose))

    def module(self, name: str, module: nn.Module) -> nn.Module:
        """Register a module's parameters under `name`; returns the module to call on values."""
        present = getattr(self.owner, name, None)
        if isinstance(present, nn.Module) and (present is module or self.owner_is_users):
            return present
        if present is not None:
            raise NameTakenError(
                f"there is a module '{name}' already",
                site=user_site(),
                got=f"a second '{name}'",
                wanted="names of modules that differ",
                fix="choose another name",
            )
        self.owner.add_module(name, module)
        self._learn_names()
        return module

    @property
    def owner_is_users(self) -> bool:
        """Whether the parameters belong to a user's module, traced anew for each mode."""
        return type(self.owner) is not nn.Module

    def parameter(
        self, name: str, shape: int | Sequence[int] | torch.Tensor, init: Any = None
    ) -> Value:
        """A trainable parameter: from a tensor, or of a shape with `init(tensor)` filling it.

        Without `init` it starts at zero.
        """
        if name not in self.owner.__dict__["_parameters"]:
            shape = self.written.get(id(shape), shape)
            if isinstance(shape, Value) and shape.id in self.unbound:
                start = captured.realised(self, shape.id)
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
        """A value of this graph from a value, a parameter, a tensor or a number."""
        if isinstance(thing, Value):
            self._own(thing)
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
            fix=value_of(thing),
        )

    def tensor(self, tensor: torch.Tensor) -> Expr:
        """The node of a parameter, a buffer, or a constant tensor; one node each."""
        return captured.node_of(self, tensor)

    def length(self, axis: str) -> Expr:
        """The node with each example's number of positions along `axis`."""
        if axis not in self.ir.axes:
            self.missing_axis(axis)
        if axis not in self._lengths:
            self._lengths[axis] = length_of(self.ir, axis).id
        return Expr(self.ir, self._lengths[axis])

    def ragged(self, axis: str) -> tuple[Expr, ...]:
        """What an operation over `axis` takes beside its operand: lengths that may differ."""
        fixed = self.ir.axes[axis].length is not None if axis in self.ir.axes else False
        return () if fixed and axis not in self.ir.until else (self.length(axis),)

    def apply(self, function: Any, args: Any, kwargs: Any) -> Any:
        """What a torch function gives of values of this graph: the primitives it is made of."""
        self._own(args, kwargs)
        name = name_of(function)
        if name in QUERIES or name.startswith("get "):
            return asked(function, name, args, kwargs)
        change = inplace.changed(function, name, args, kwargs)
        if change is not None:
            return inplace.write(self, *change)
        result = self.trace_call(function, args, kwargs)
        aliases.share(self, function, name, args, kwargs, result)
        return result

    def _own(self, *things: Any) -> None:
        for v in tree_leaves(things):
            if isinstance(v, Value) and v.graph is not self:
                foreign([self, v.graph])

    def trace_call(self, function: Any, args: Any, kwargs: Any) -> Any:
        """The values that a function makes, in a call that changes none."""
        with torch._C.DisableTorchFunction():
            return call(self, function, args, kwargs)

    def value_of(self, id: int) -> Value:
        """The value of a node."""
        return Value(self, id)

    def draw(self, path: Any = None, unroll: Any = None, plan: bool = False) -> Any:
        """A picture of the graph: see `graphnn.pictures.draw`. Saved where `path` is given."""
        return draw(self, path, unroll, plan)

    def __repr__(self) -> str:
        return f"Graph('{self.ir.name}', {len(self.ir)} nodes, outputs {list(self.ir.outputs)})"
