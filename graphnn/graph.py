"""What a user draws on: a graph with inputs, states, modules and outputs.

A graph is the mathematics of one example at one position. Batch is implied; every other axis has a
name; a loop is closed by assigning `state.next`.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from graphnn.dtypes import floating, number_of, whole
from graphnn.errors import (
    AxisError,
    DtypeError,
    GraphError,
    NameTakenError,
    ShapeError,
    UnsupportedError,
)
from graphnn.ir import BATCH, IR
from graphnn.names import MAY_NAME, Names, foreign, may_name
from graphnn.ops.expr import Expr, const
from graphnn.ops.sources import length_of
from graphnn.ops.table import build
from graphnn.ops.torch_names import call
from graphnn.sites import user_site
from graphnn.slips import value_of
from graphnn.tracing import inplace, noise
from graphnn.tracing.tracer import QUERIES, Tracer, asked, name_of
from graphnn.tracing.watch import Watch, paused
from graphnn.value import State, Value

CHOICES = ("argmax", "sample")
_LOCAL = threading.local()


def _module_calling() -> nn.Module | None:
    """The module whose method is running, if any."""
    frame: Any = sys._getframe(2)
    while frame is not None:
        asking = frame.f_locals.get("self")
        if type(asking) is not nn.Module and isinstance(asking, nn.Module):
            return asking
        frame = frame.f_back
    return None


def _autocast() -> tuple[bool, ...]:
    return tuple(torch.is_autocast_enabled(kind) for kind in ("cpu", "cuda"))


@dataclass(frozen=True)
class Feedback:
    """When generating, the next `input` is chosen from `output` as `choose` says."""

    input: str
    output: str
    choose: str


class Graph(Names):
    """A network being declared.

    `name` appears in plans and errors. `module` owns the parameters; without one the graph makes
    its own, filled by `g.module` and `g.parameter`.
    """

    @staticmethod
    def current() -> Graph | None:
        """The graph made last in this thread: the one that `gn.index` and the like belong to."""
        latest = getattr(_LOCAL, "latest", None)
        return None if latest is None else latest()

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
        self.became: dict[int, Value] = {}
        self.held: list[torch.Tensor] = []
        # noise that has no axes yet: see `tracing.noise`
        self.open: set[int] = set()
        self.tracer: Tracer | None = None
        self.watch: Any = Watch(nn.Module())
        # the module whose training mode turns off the dropout that is being drawn
        self.switch: nn.Module | None = None
        self._graded, self._detaching = torch.is_grad_enabled(), True
        self._autocast = _autocast()
        self._taken: set[str] = set()
        self._nodes: dict[Any, int] = {}
        self._lengths: dict[str, int] = {}
        self._learn_names()
        _LOCAL.latest = weakref.ref(self)
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
        before = getattr(_LOCAL, "outer", None)
        self.watch, _LOCAL.outer = watch, self
        try:
            with self:
                yield
        finally:
            _LOCAL.outer = before
            _LOCAL.latest = None if before is None else weakref.ref(before)

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
        inits = self._inits(name, init, shape, axes - {over}, delay)
        inits = [self._started(name, v, kind) for v in inits]
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

    def _started(self, name: str, value: Value, dtype: torch.dtype) -> Value:
        """What a state starts from, in the state's dtype; a number takes that by itself."""
        number = value.node.attrs["value"] if value.node.op == "const" else None
        if number is None and torch.can_cast(value.dtype, dtype):
            return value.to(dtype)  # type: ignore[return-value]
        if number is not None and (whole(number) or torch.can_cast(value.dtype, dtype)):
            kind = number_of(dtype)
            return value if type(number) is kind else self.value(kind(number))
        raise DtypeError(
            f"state '{name}' cannot start from a value of {value.dtype}",
            node=name,
            site=user_site(),
            got=f"{value.label} of {value.dtype}" if number is None else number,
            wanted=f"what {dtype} can hold",
            fix=f"declare g.state('{name}', …, dtype={value.dtype}), or cast the value",
        )

    def _inits(
        self, name: str, init: Any, shape: tuple[int, ...], axes: frozenset[str], delay: int
    ) -> list[Value]:
        given = list(init) if isinstance(init, (list, tuple)) else [init]
        if len(given) not in (1, abs(delay)):
            raise ShapeError(
                f"state '{name}' has {abs(delay)} delay slots",
                node=name,
                site=user_site(),
                got=f"{len(given)} initial values",
                wanted=f"one for all slots, or a list of {abs(delay)}",
                fix="give one a slot, the one read first in front",
            )
        return [self._init(name, v, shape, axes) for v in given]

    def _init(self, name: str, init: Any, shape: tuple[int, ...], axes: frozenset[str]) -> Value:
        if isinstance(init, str):
            if init != "normal":
                raise UnsupportedError(
                    f"state '{name}' cannot start from {init!r}",
                    node=name,
                    site=user_site(),
                    got=repr(init),
                    wanted="None, a number, a tensor, a parameter, a value, or 'normal'",
                    fix="a learned start is init=g.parameter(...)",
                )
            return self.random("normal", shape, axes)
        value = self.value(0.0 if init is None else init)
        noise.bind(self, [value.id], axes)
        if extra := value.node.axes - axes:
            raise AxisError(
                f"the initial value of state '{name}' varies over axes the state does not carry",
                node=name,
                site=user_site(),
                got=f"axes {sorted(extra)} of {value.label}",
                wanted=f"axes among {sorted(axes - {BATCH})}",
                fix="declare the state with along=…, or reduce the value first",
            )
        if value.node.shape not in ((), shape):
            raise ShapeError(
                f"the initial value of state '{name}' has another shape than the state",
                node=name,
                site=user_site(),
                got=tuple(value.shape),
                wanted=f"{shape} or a number",
                fix="give the shape of one example at one position, without the batch",
            )
        return value

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
        given = input if isinstance(input, str) else self.value(input).node.attrs.get("key", "")
        named = {i: name for name, i in self.ir.outputs.items()}
        out = output if isinstance(output, str) else named.get(self.value(output).id, "")
        source = next((n for n in self.ir if n.op == "input" and n.attrs["key"] == given), None)
        fits = source is not None and out in self.ir.outputs and choose in CHOICES
        if fits and source is not None:
            logits = self.ir[self.ir.outputs[out]]
            fits = not source.shape and source.dtype == torch.int64 and len(logits.shape) == 1
            fits = (
                fits and len(source.attrs["over"]) == 1 and source.attrs["over"][0] in logits.axes
            )
        if not fits:
            raise GraphError(
                "this output cannot be fed back to this input",
                site=user_site(),
                got=f"input {given or input!r}, output {out or output!r}, choose={choose!r}",
                wanted="an int64 input of shape () over one axis, an output (vocabulary,) over it, "
                f"choose among {', '.join(CHOICES)}",
                fix="declare g.input(name, (), over=axis, dtype=torch.int64) and g.output first",
            )
        self.feedbacks.append(Feedback(given, out, choose))

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
            if isinstance(shape, Value) and shape.id in self.open:
                start = noise.realised(self, shape.id)
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
            if id(thing) in self.became:
                return self.became[id(thing)]
            found = Value(self, self.tensor(thing).id)
            found.outside = self.tracer is None or id(thing) not in self.tracer.made
            return found
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
        if id(tensor) in self.became:
            return Expr(self.ir, self.became[id(tensor)].id)
        key = self.known.get(id(tensor))
        if key is None:
            return self._constant(tensor)
        if key not in self._nodes:
            self._nodes[key] = self._source_of(tensor, "parameter", key, key)
        return Expr(self.ir, self._nodes[key])

    def _constant(self, tensor: torch.Tensor) -> Expr:
        """The node of a tensor that is no parameter: as it is if it was made in the graph, else
        whatever it holds when the graph is called."""
        if isinstance(tensor, nn.Parameter):
            raise UnsupportedError(
                "a parameter that this graph does not own is used",
                site=user_site(),
                got=f"a parameter of shape {tuple(tensor.shape)}",
                wanted="parameters of the compiled module, or of one registered with g.module",
                fix="make the module in __init__, or wrap it: net = g.module('net', net)",
            )
        if tensor.grad_fn is not None:
            raise UnsupportedError(
                "a tensor computed from parameters outside the graph is used",
                site=user_site(),
                got=f"the result of {tensor.grad_fn.name()}, of shape {tuple(tensor.shape)}, which "
                "would stay as it is now while the parameters train",
                wanted="a parameter as it stands, or what is computed of it in the graph",
                fix="compute it in graph(self, g), or within `with g:` on a bare Graph",
            )
        if self.tracer is not None and id(tensor) in self.tracer.drawn:
            noise.refuse_generator()
        made = self.tracer is not None and id(tensor) in self.tracer.made
        index = (id(tensor), tensor._version if made else None)
        if index not in self._nodes:
            kept = tensor.clone() if made else tensor
            self.constants[id(kept)] = kept
            self.held.append(tensor)
            self._nodes[index] = self._source_of(tensor, "tensor", id(kept), "")
        return Expr(self.ir, self._nodes[index])

    def _source_of(self, tensor: torch.Tensor, op: str, key: Any, name: str) -> int:
        form: dict[str, Any] = {
            "shape": tuple(tensor.shape),
            "dtype": tensor.dtype,
            "axes": frozenset(),
        }
        return build(self.ir, op, (), {"key": key}, name=name, **form)

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
        result = self.made_of(function, args, kwargs)
        inplace.share(function, name, args, kwargs, result)
        return result

    def _own(self, *things: Any) -> None:
        for v in tree_leaves(things):
            if isinstance(v, Value) and v.graph is not self:
                foreign([self, v.graph])

    def made_of(self, function: Any, args: Any, kwargs: Any) -> Any:
        """The values that a function makes, in a call that changes none."""
        with torch._C.DisableTorchFunction():
            return call(self, function, args, kwargs)

    def viewed(self, i: int) -> Value:
        """The value of a node."""
        return Value(self, i)

    @property
    def detached(self) -> bool:
        """Whether what is drawn now carries no gradient: `torch.no_grad()` within the drawing."""
        return self._graded and self._detaching and not torch.is_grad_enabled()

    @contextmanager
    def undetached(self) -> Iterator[None]:
        """Draw derivatives, which torch computes without recording them, with theirs."""
        before, self._detaching = self._detaching, False
        try:
            yield
        finally:
            self._detaching = before

    @property
    def autocast(self) -> bool:
        """Whether autocast was turned on within the drawing."""
        return _autocast() != self._autocast

    def drops(self, training: bool) -> bool:
        """Whether dropout is to be drawn. A bare graph, drawn once, draws it for each module that
        has a training mode, and leaves it out at calls in evaluation."""
        self.switch = None
        asking = None if self.owner_is_users else _module_calling()
        if asking is None or asking.training != training:
            return training
        self.switch = asking
        return True

    def lookup(self, node: Any) -> torch.Tensor:
        """The tensor of a node that holds one, as it is now."""
        key = node.attrs["key"]
        if node.op == "tensor":
            return self.constants[key]
        path, _, name = key.rpartition(".")
        return getattr(self.owner.get_submodule(path), name)  # type: ignore[no-any-return]

    def draw(self, path: Any = None, unroll: Any = None, plan: bool = False) -> Any:
        """A picture of the graph: see `graphnn.pictures.draw`. Saved where `path` is given."""
        from graphnn.pictures import draw

        return draw(self, path, unroll, plan)

    def __repr__(self) -> str:
        return f"Graph('{self.ir.name}', {len(self.ir)} nodes, outputs {list(self.ir.outputs)})"
