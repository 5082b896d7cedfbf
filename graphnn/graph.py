"""What a user draws on: a graph with inputs, states, modules and outputs.

A graph is the mathematics of one example at one position. Batch is implied; every other axis has a
name; a loop is closed by assigning `state.next`.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from graphnn.errors import AxisError, GraphError, NameTakenError, ShapeError, UnsupportedError
from graphnn.ir import BATCH, IR
from graphnn.names import RESERVED, Names, graph_of
from graphnn.ops.expr import Expr, const
from graphnn.ops.sources import length_of
from graphnn.ops.table import build
from graphnn.ops.torch_names import call
from graphnn.sites import user_site
from graphnn.value import State, Value

CHOICES = ("argmax", "sample")


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

    _latest: ClassVar[Any] = None

    @staticmethod
    def current() -> Graph | None:
        """The graph made last: the one that `gn.index` and the like belong to."""
        return Graph._latest() if Graph._latest is not None else None

    def __init__(self, name: str = "graph", module: nn.Module | None = None):
        self.ir = IR(name)
        self.owner = module if module is not None else nn.Module()
        self.constants: dict[int, torch.Tensor] = {}
        self.feedbacks: list[Feedback] = []
        self._taken: set[str] = set()
        self._parameters: dict[int, str] = {}
        self._nodes: dict[str, int] = {}
        self._lengths: dict[str, int] = {}
        self._learn_names()
        Graph._latest = weakref.ref(self)
        self.ir.floating = self.floating()

    def floating(self) -> torch.dtype:
        """The model's floating dtype: that of its first floating parameter."""
        floats = [p.dtype for p in self.owner.parameters() if p.dtype.is_floating_point]
        return floats[0] if floats else torch.float32

    def _learn_names(self) -> None:
        for found in (self.owner.named_parameters(), self.owner.named_buffers()):
            for name, tensor in found:
                self._parameters.setdefault(id(tensor), name)

    def input(
        self,
        name: str,
        shape: int | Sequence[int] = (),
        over: str | Sequence[str] = (),
        dtype: torch.dtype = torch.float32,
    ) -> Value:
        """Declare an input; at the call its tensor is (batch, *over, *shape).

        `dtype` float32 means the model's own floating dtype: it follows `model.double()` and the
        like. Raises NameTakenError, AxisError.
        """
        self._take(name, "an input")
        axes = self._axes(over, declare=True)
        kind = self.ir.floating if dtype == torch.float32 else dtype
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        return self._source(
            "input", name, shape, frozenset(axes) | {BATCH}, kind, key=name, over=axes
        )

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
        slot, the first read first. Raises NameTakenError, AxisError, ShapeError.
        """
        self._take(name, "a state")
        carried = self._axes(along, declare=False)
        self._axes(over, declare=True)
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        axes = frozenset({over, BATCH, *carried})
        kind = self.ir.floating if dtype in (None, torch.float32) else dtype
        assert kind is not None
        inits = self._inits(name, init, shape, axes - {over}, delay)
        node = build(
            self.ir,
            "delay",
            [v.id for v in inits],
            {"axis": over, "steps": delay, "key": name},
            shape=shape,
            axes=axes,
            dtype=kind,
            name=name,
            site=user_site(),
        )
        return State(self, node)

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
        return self._source("random", "", shape, axes, self.ir.floating, kind=kind, p=p)

    def output(self, name: str, value: Any) -> Value:
        """Declare an output; it is returned as (batch, *axes, *shape)."""
        if name in self.ir.outputs or name in RESERVED:
            raise NameTakenError(
                f"there is an output '{name}' already"
                if name in self.ir.outputs
                else f"'{name}' cannot name an output",
                site=user_site(),
                got=f"output '{name}'",
                wanted="names of outputs that differ and are not reserved",
                fix="choose another name",
            )
        value = self.value(value)
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
        if name not in dict(self.owner.named_parameters(recurse=False)):
            if isinstance(shape, torch.Tensor):
                start = shape.detach().clone()
                if start.is_floating_point() and len(self.ir) and self._parameters:
                    start = start.to(self.ir.floating)
            else:
                sizes = (shape,) if isinstance(shape, int) else tuple(shape)
                start = torch.zeros(sizes, dtype=self.ir.floating)
            if init is not None:
                with torch.no_grad():
                    init(start)
            self.owner.register_parameter(name, nn.Parameter(start))
            self._learn_names()
        return self.value(getattr(self.owner, name))

    def value(self, thing: Any) -> Value:
        """A value of this graph from a value, a parameter, a tensor or a number."""
        if isinstance(thing, Value):
            if thing.graph is not self:
                graph_of((thing, Value(self, -1)), {})
            return thing
        if isinstance(thing, torch.Tensor):
            return Value(self, self._tensor(thing).id)
        if isinstance(thing, (bool, int, float)):
            return Value(self, const(self.ir, thing).id)
        raise UnsupportedError(
            "this cannot become a value of a graph",
            site=user_site(),
            got=type(thing).__name__,
            wanted="a Value, a tensor, a parameter or a number",
            fix="wrap it with torch.tensor(...)",
        )

    def _tensor(self, tensor: torch.Tensor) -> Expr:
        """The node of a parameter, a buffer, or a constant tensor; one node each."""
        key = self._parameters.get(id(tensor))
        if key is None and isinstance(tensor, nn.Parameter):
            raise UnsupportedError(
                "a parameter that this graph does not own is used",
                site=user_site(),
                got=f"a parameter of shape {tuple(tensor.shape)}",
                wanted="parameters of the compiled module, or of one registered with g.module",
                fix="make the module in __init__, or wrap it: net = g.module('net', net)",
            )
        if key is None and tensor.grad_fn is not None:
            raise UnsupportedError(
                "a tensor computed from parameters outside the graph is used",
                site=user_site(),
                got=f"the result of {tensor.grad_fn.name()}, of shape {tuple(tensor.shape)}, which "
                "would stay as it is now while the parameters train",
                wanted="a parameter as it stands, or what is computed of its value in the graph",
                fix="start from a value: w = g.value(self.weight), then w[:3], torch.exp(w) …",
            )
        index = key or f"constant {id(tensor)}"
        if index not in self._nodes:
            if key is None:
                self.constants[id(tensor)] = tensor
            op, attrs = ("parameter", key) if key else ("tensor", id(tensor))
            node = build(
                self.ir,
                op,
                (),
                {"key": attrs},
                shape=tuple(tensor.shape),
                axes=frozenset(),
                dtype=tensor.dtype,
                name=key or "",
            )
            self._nodes[index] = node
        return Expr(self.ir, self._nodes[index])

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
        """Apply a torch function to values of this graph: add the primitives it is made of."""
        if graph_of(args, kwargs) is not self:
            return graph_of(args, kwargs).apply(function, args, kwargs)
        result = call(self, function, args, kwargs)
        if kwargs.get("inplace") and args and type(args[0]) is Value:
            args[0].id = result.id  # torch changes its operand: whoever reads it reads the result
        return result

    def draw(self, path: Any = None, unroll: Any = None, plan: bool = False) -> Any:
        """A picture of the graph: see `graphnn.pictures.draw`. Saved where `path` is given."""
        from graphnn.pictures import draw

        return draw(self, path, unroll, plan)

    def __repr__(self) -> str:
        return f"Graph('{self.ir.name}', {len(self.ir)} nodes, outputs {list(self.ir.outputs)})"
