"""Complex values in loops become real ones, with a last dimension of 2 for their two parts.

graphnn differentiates loops itself, and its kernels compute with real numbers; outside loops torch
computes with complex ones. Sums and products are written out. Any other operation is a call of
torch at each step, on complex values assembled for it; torch knows its derivative.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from graphnn.errors import UnsupportedError
from graphnn.ir.graph import IR, Node
from graphnn.ops.builder import Expr, const, make, reshape
from graphnn.ops.registry import OPS, build
from graphnn.planner.core.regions import loops, partition
from graphnn.planner.core.rewrite import rewrite

# operations that act on both parts separately, whatever dimensions a value has
PARTWISE = frozenset("axis_sum axis_roll axis_reverse axis_at rename along detach".split())


def as_real(ir: IR) -> IR:
    """The graph without complex values in its loops."""
    home = {i for loop in loops(partition(ir)) for i in loop.nodes}
    if not any(ir[i].dtype.is_complex or _reads(ir, ir[i]) for i in home):
        return ir
    return _Rewriter(ir, home).run()


def _reads(ir: IR, node: Node) -> bool:
    return any(x.dtype.is_complex for x in ir.operands(node))


class _Rewriter:
    def __init__(self, ir: IR, home: set[int]):
        self.ir, self.home = ir, home
        self.pairs: dict[int, int] = {}  # old ids of complex values: new ids of their parts
        self.moved: dict[int, int] = {}

    def run(self) -> IR:
        new = rewrite(self.ir, self._rule, self.moved)
        for delay, after in self.ir.closings.items():
            if delay in self.pairs and delay in self.home:
                new.closings[self.pairs[delay]] = self.pairs[after]
        return new

    def _rule(self, new: IR, node: Node) -> Expr | None:
        old = self.ir[node.id]
        picked = old.op == "pick" and _reads(self.ir, self.ir[old.inputs[0]])
        touched = old.dtype.is_complex or _reads(self.ir, old) or picked
        if node.id not in self.home or not touched:
            return None
        made = self._made(new, old)
        if not old.dtype.is_complex or old.op == "opaque":
            return made
        self.pairs[old.id] = made.id
        return _whole(new, made)  # for readers outside the loop

    def _made(self, new: IR, old: Node) -> Expr:
        if old.op == "delay":
            return self._delay(new, old)
        if old.op == "pick":
            return self._pick(new, old)
        if old.op in PARTWISE:
            inputs = [self._operand(new, i).id for i in old.inputs]
            return Expr(new, build(new, old.op, inputs, old.attrs, name=old.name, site=old.site))
        formula = FORMULAS.get(old.op)
        if formula is not None:
            return formula(*(self._part(new, i, old) for i in old.inputs), old)
        if OPS[old.op].run is None or OPS[old.op].family == "axis":
            raise UnsupportedError(
                f"complex values in a loop have no '{old.op}'",
                node=old.label,
                site=old.site,
                got=f"'{old.op}' of {old.dtype}",
                wanted="sums, shifts and torch's functions of complex values",
                fix="take the real and the imaginary part first, or compute it outside the loop",
            )
        return self._called(new, old)

    def _operand(self, new: IR, i: int) -> Expr:
        """A value in the form that it has in the loop: both parts of a complex one."""
        if not self.ir[i].dtype.is_complex:
            return Expr(new, self.moved[i])
        if i not in self.pairs:
            self.pairs[i] = _parts(Expr(new, self.moved[i])).id
        return Expr(new, self.pairs[i])

    def _part(self, new: IR, i: int, old: Node) -> tuple[Expr, Expr | None]:
        """The real and the imaginary part of an operand; the latter is None if it is real."""
        x = self._operand(new, i)
        if self.ir[i].dtype.is_complex:
            return _at(x, 0), _at(x, 1)
        return x, None

    def _delay(self, new: IR, old: Node) -> Expr:
        inits = [self._start(new, self.ir[i], old) for i in old.inputs]
        node = replace(old, inputs=tuple(inits), shape=(*old.shape, 2), dtype=old.dtype.to_real())
        return Expr(new, new.insert(node))

    def _start(self, new: IR, init: Node, state: Node) -> int:
        if init.op != "const":
            wide = make("expand", Expr(new, self.moved[init.id]), shape=state.shape)
            return _parts(wide).id
        real, none = (
            make("expand", const(new, float(v)), shape=(*state.shape, 1))
            for v in (init.attrs["value"], 0.0)
        )
        both = make("cat", real, none, dim=len(state.shape))
        return make("cast", both, dtype=state.dtype.to_real()).id

    def _pick(self, new: IR, old: Node) -> Expr:
        source = Expr(new, self.moved[old.inputs[0]])
        shape, dtype = source.node.attrs["outs"][old.attrs["which"]]
        pick = build(new, "pick", (source.id,), old.attrs, shape=shape, dtype=dtype)
        return Expr(new, pick)

    def _called(self, new: IR, old: Node) -> Expr:
        """The operation itself, on complex values assembled for it."""
        operands = self.ir.operands(old)
        tensors = [x for x in operands if x.op != "const"]
        constants = {k: x.attrs["value"] for k, x in enumerate(operands) if x.op == "const"}
        kinds = [x.dtype.is_complex for x in tensors]
        attrs = {k: v for k, v in old.attrs.items() if k not in OPS[old.op].private}
        attrs = {k: v for k, v in attrs.items() if k not in ("called", "outs")}
        function = _OnComplex(OPS[old.op].run, attrs, kinds, constants)
        inputs = [self._operand(new, x.id) for x in tensors]
        return _opaque(new, function, inputs, old, old.op == "opaque")


def _opaque(new: IR, function: Any, inputs: Sequence[Expr], old: Node, several: bool) -> Expr:
    """A call of a function: its one result, or the call itself if it has `several`."""
    on_meta = [torch.empty(x.shape, dtype=x.dtype, device="meta") for x in inputs]
    outs = tuple((tuple(r.shape), r.dtype) for r in function(*on_meta))
    called = old.attrs.get("called", old.op)
    attrs = {"function": function, "arrange": _as_given, "called": called, "outs": outs}
    form: dict[str, Any] = {"shape": (), "dtype": outs[0][1], "name": old.name, "site": old.site}
    call = build(new, "opaque", [x.id for x in inputs], attrs, **form)
    if several:
        return Expr(new, call)
    shape, dtype = outs[0]
    pick = build(new, "pick", (call,), {"which": 0}, shape=shape, dtype=dtype, site=old.site)
    return Expr(new, pick)


def _as_given(tensors: Any) -> Any:
    return tuple(tensors), {}


@dataclass(frozen=True)
class _OnComplex:
    """An operation on complex values, called on their parts.

    `constants` are constant operands, by position.
    """

    run: Any
    attrs: dict[str, Any]
    kinds: list[bool]
    constants: dict[int, Any]

    def __call__(self, *tensors: torch.Tensor) -> list[torch.Tensor]:
        args: list[Any] = [
            torch.view_as_complex(x.contiguous()) if kind else x
            for x, kind in zip(tensors, self.kinds, strict=True)
        ]
        for place, number in self.constants.items():
            args.insert(place, number)
        result = self.run(*args, **self.attrs)
        results = [result] if isinstance(result, torch.Tensor) else list(result)
        return [_both(x) if x.is_complex() else x for x in results]


def _both(x: torch.Tensor) -> torch.Tensor:
    return torch.view_as_real(x.resolve_conj())


def _parts(x: Expr) -> Expr:
    """A complex value, outside loops, as its two parts."""
    function = _OnComplex(lambda z: z, {}, [False], {})
    return _opaque(x.ir, function, [x], x.node, False)


def _whole(new: IR, x: Expr) -> Expr:
    """The complex value, outside loops, that has these two parts."""
    return _opaque(new, _complex, [x], x.node, False)


def _complex(x: torch.Tensor) -> list[torch.Tensor]:
    return [torch.view_as_complex(x.contiguous())]


def _at(x: Expr, part: int) -> Expr:
    d = len(x.shape) - 1
    found = make("slice", x, dim=d, start=part, stop=part + 1, step=1)
    return reshape(found, x.shape[:-1])


def _joined(old: Node, *parts: Expr) -> Expr:
    """Two parts as one value."""
    wide = [make("expand", p, shape=old.shape) if p.shape != old.shape else p for p in parts]
    both = [reshape(p, (*old.shape, 1)) for p in wide]
    return make("cat", *both, dim=len(old.shape), name=old.name)


Part = tuple[Expr, Expr | None]


def _sum(op: str) -> Callable[..., Expr]:
    def formula(a: Part, b: Part, old: Node) -> Expr:
        real = make(op, a[0], b[0])
        imaginary = a[1] if b[1] is None else make(op, a[1] if a[1] is not None else 0.0, b[1])
        assert imaginary is not None
        return _joined(old, real, imaginary)

    return formula


def _product(a: Part, b: Part, old: Node) -> Expr:
    if a[1] is None or b[1] is None:
        (x, y), other = (a, b[0]) if b[1] is None else (b, a[0])
        assert y is not None
        return _joined(old, x * other, y * other)
    return _joined(old, a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0])


FORMULAS: dict[str, Callable[..., Expr]] = {
    "add": _sum("add"),
    "sub": _sum("sub"),
    "mul": _product,
    "neg": lambda a, old: _joined(old, -a[0], -a[1]),
}
