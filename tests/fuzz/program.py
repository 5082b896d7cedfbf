"""From a recipe to a program: lines that torch accepts, and the module that runs them.

Code is tried on tensors of one example. Lines that torch rejects (shapes, dtypes, in-place writes
to tensors that a gradient needs) are left out, so that every program runs eagerly.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

import graphnn as gn
from tests.fuzz import along, code, lines
from tests.fuzz.lines import Form
from tests.fuzz.recipe import SLOTS, Block, Lag, Memory, Op, Over, Recipe, Section

DTYPES = {"float": None, "int": torch.int64, "bool": torch.bool}
MOST_NUMBERS, MOST_DIMS, MOST_AXES = 48, 3, 3
ODD = (
    {},
    {"x": "lambda", "z": "class", "y": "None", "time": "for", "source": "in"},
    {"x": "x'\"", "z": 'z"""\n#', "y": "ÿ µ", "time": "a-b", "source": "a_b"},
    {"x": "done", "z": "patience", "y": "torch", "time": "t", "source": "steps"},
)


class Net(nn.Module):
    """The network of a recipe. Torch code gets parameters and numbers from it, as `lab`."""

    slots = SLOTS

    def __init__(self, recipe: Recipe):
        super().__init__()
        self.dtype: torch.dtype = getattr(torch, recipe.dtype)
        # whether any value has a narrower dtype than float64
        self.narrow = False
        self.weights = nn.ParameterDict()
        self.register_buffer("buffer", torch.tensor([0.5, -0.25, 1.0], dtype=self.dtype))
        self.names = ODD[recipe.names]
        build = _Builder(self, recipe)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            build.run()
        self.lines, self.outputs, self.axes = build.lines, build.outputs, build.axes

    def graph(self, g: gn.Graph) -> None:
        g.axis("slot", SLOTS)
        values: list[Any] = []
        closing: dict[int, list[lines.State]] = {}
        for line in self.lines:
            if type(line) is lines.State:
                closing.setdefault(max(line.close, self.lines.index(line)), []).append(line)
        for i, line in enumerate(self.lines):
            values.append(line.draw(self, g, values))
            for state in closing.get(i, ()):
                values[self.lines.index(state)].next = values[state.close]
        for k, i in enumerate(self.outputs):
            g.output(f"{self.called('y')}{k}", values[i])

    def drawing(self, g: gn.Graph) -> Any:
        return _Drawing(self, g)

    def called(self, name: str) -> str:
        return self.names.get(name, name)

    def form(self, i: int) -> Form:
        return self.lines[i].form

    def layout(self, axes: frozenset[str]) -> list[str]:
        return [a for a in self.axes if a in axes]

    def weight(self, k: int, *shape: int) -> Any:
        """One of two parameters of a shape, created at its first use."""
        key = f"w{k % 2}_" + "x".join(map(str, shape))
        if key not in self.weights:
            seed = torch.Generator().manual_seed(len(self.weights))
            start = torch.randn(shape, generator=seed, dtype=torch.float64) * 0.6
            with torch.inference_mode(False):
                self.weights[key] = nn.Parameter(start.to(self.dtype, copy=True))
        return self.weights[key]

    def number(self, x: Any) -> Tensor:
        return torch.tensor(x, dtype=self.dtype if isinstance(x, float) else None)


class _Drawing:
    """The `lab` of code during a trace."""

    def __init__(self, net: Net, g: gn.Graph):
        self.weight, self.dtype, self.training = net.weight, net.dtype, net.training
        self.buffer, self.number = net.buffer, g.value


class _Builder:
    def __init__(self, net: Net, recipe: Recipe):
        self.net, self.recipe = net, recipe
        self.lines: list[lines.Line] = []
        net.lines = self.lines
        self.outputs: list[int] = []
        brought = [self.axis(a) for _, _, over in recipe.inputs for a in over]
        self.axes = list(dict.fromkeys(["slot", *brought]))
        self.allowed = set(code.CODE) - set(code.NOISE)
        self.overs = set(along.OVER)
        self.exact = recipe.noise or recipe.dtype != "float64"
        if self.exact:
            self.allowed = {*code.SMOOTH, *code.SHAPES} | (
                set(code.NOISE) if recipe.noise else set()
            )
            self.overs = set(along.SMOOTH)

    def axis(self, name: str) -> str:
        return self.net.called(name)

    def add(self, line: lines.Line) -> int:
        self.lines.append(line)
        return len(self.lines) - 1

    def run(self) -> None:
        net = self.net
        for k, (kind, shape, over) in enumerate(self.recipe.inputs):
            axes = tuple(self.axis(a) for a in over)
            form = Form(shape, DTYPES[kind] or net.dtype, frozenset(axes))
            self.add(lines.Input(form, f"{net.called('x')}{k}", axes))
        net.weight(0, SLOTS, 2)
        self.add(lines.Slots(Form((2,), net.dtype, frozenset({"slot"}))))
        time = self.axis("time")
        self.add(lines.Index(Form((), torch.int64, frozenset({time})), time))
        self.add(lines.Length(Form((), torch.int64), time))
        for n, section in enumerate(self.recipe.sections):
            self.section(n, section)
        self.outputs = [self.chosen(k) for k in self.recipe.outputs]

    def chosen(self, k: int, since: int = 0) -> int:
        """The line of a reference; 0 is the latest."""
        return len(self.lines) - 1 - k % (len(self.lines) - since)

    def section(self, n: int, section: Section) -> None:
        axis = self.axis(section.axis)
        axis = axis if axis in self.axes else self.axes[-1]
        before = len(self.lines)
        made = [self.memory(n, k, m, axis, section.ahead) for k, m in enumerate(section.states)]
        states = [self.add(state) for state in made]
        since = min(states, default=before)
        for step in section.steps:
            self.step(step, n, axis, section.ahead, bool(states))
        for i, memory in zip(states, section.states):
            self.close(i, memory, since)
        for line in self.lines[before:]:
            line.form = Form(line.form.shape, line.form.dtype, line.form.axes)

    def memory(self, n: int, k: int, memory: Memory, axis: str, ahead: bool) -> lines.State:
        kind = "float" if self.exact else memory.kind
        carried = tuple(b for a in memory.along if (b := self.axis(a)) in self.axes and b != axis)
        dtype = DTYPES[kind] or self.net.dtype
        form = Form(memory.shape, dtype, frozenset({axis, *carried}), frozenset({n}))
        count = max(memory.delay, 1)
        inits = self.inits(memory.inits, count, form, frozenset(carried))
        name = f"{self.net.called('z')}{n}{k}"
        delay = -count if ahead else count
        return lines.State(form, name, axis, delay, inits, along=carried)

    def inits(
        self, kinds: tuple[str, ...], delay: int, form: Form, carried: frozenset[str]
    ) -> tuple[tuple[str, Any], ...]:
        count = delay if len(kinds) > 1 else 1
        return tuple(self.init(kinds[j % len(kinds)], j, form, carried) for j in range(count))

    def init(self, kind: str, j: int, form: Form, carried: frozenset[str]) -> tuple[str, Any]:
        floating = form.dtype.is_floating_point
        number: Any = {torch.bool: True, torch.int64: 2 + j}.get(form.dtype, 0.3 - 0.2 * j)
        if kind == "number" or (kind == "whole" and not floating):
            return "number", number
        if kind == "whole":
            return "number", 1 + j
        if kind == "parameter" and floating:
            self.net.weight(j, *form.shape)
            return "parameter", (j, *form.shape)
        if kind == "tensor":
            return "tensor", torch.full(form.shape, number, dtype=form.dtype)
        if kind == "computed":
            free = [i for i, line in enumerate(self.lines) if not line.form.loops]
            value = free[-1 - j % len(free)]
            over = tuple(a for a in self.axes if a in self.lines[value].form.axes - carried)
            axes = self.lines[value].form.axes & carried
            start = lines.Start(Form(form.shape, form.dtype, axes), value, over)
            if not self.exact or floating:
                lines.fitted(self.net, self.sample(value), form.shape, form.dtype)
                return "line", self.add(start)
        return "number", {torch.bool: False, torch.int64: 0}.get(form.dtype, 0.0)

    def close(self, i: int, memory: Memory, since: int) -> None:
        state: Any = self.lines[i]
        found = [
            j for j in range(since, len(self.lines)) if self.lines[j].form.axes <= state.form.axes
        ]
        j = found[-1 - memory.close % len(found)]
        form = self.lines[j].form
        if form.dtype != state.form.dtype or form.shape not in (state.form.shape, ()) or i == j:
            lines.fitted(self.net, self.sample(j), state.form.shape, state.form.dtype)
            loops = form.loops | state.form.loops
            form = Form(state.form.shape, state.form.dtype, state.form.axes, loops)
            j = self.add(lines.Fit(form, j, i))
        state.close = j

    def step(self, step: Any, n: int, axis: str, ahead: bool, loop: bool) -> None:
        if isinstance(step, Block):
            self.block(step)
        elif isinstance(step, Over):
            self.over(step, n, axis)
        else:
            self.lag(step, n, axis, ahead)

    def block(self, block: Block) -> None:
        args = (self.chosen(block.a), self.chosen(block.b))
        forms = [self.lines[i].form for i in args]
        axes = forms[0].axes | forms[1].axes
        if len(axes) > MOST_AXES:
            return
        ops = tuple(op for op in block.ops if op.code in self.allowed)
        ops = tuple(Op(o.code, o.a, o.b, o.k) for o in ops) if self.recipe.noise else ops
        ops, y = self.settled(ops, block, args)
        if y is not None:
            form = Form(tuple(y.shape), y.dtype, axes, forms[0].loops | forms[1].loops)
            self.add(lines.Code(form, args, ops, block.out, block.tame))

    def settled(
        self, ops: tuple[Op, ...], block: Block, args: tuple[int, ...]
    ) -> tuple[tuple[Op, ...], Tensor | None]:
        """The operations that torch accepts, and their result."""
        while ops:
            given = [self.sample(i) for i in args]
            wrong, y = self.tried(ops, block, given)
            if wrong is None:
                return ops, y
            ops = ops[:wrong] + ops[wrong + 1 :]
        return ops, None

    def tried(
        self, ops: tuple[Op, ...], block: Block, given: list[Tensor]
    ) -> tuple[int | None, Tensor | None]:
        """The number of an operation that torch rejects, or the result."""
        found, kept = list(given), [*given, self.net.buffer]
        versions = [x._version for x in kept]
        for k, op in enumerate(ops):
            try:
                made = lines.step(self.net, op, found)
                fits = all(_fits(x) for x in (*made, *found))
                self.net.narrow |= any(self._narrow(x) for x in made)
            except Exception:
                return k, None
            if not fits or versions != [x._version for x in kept]:
                return k, None
            found.extend(made)
        if len(found) == len(given):
            return len(ops) - 1, None
        y = found[-1 - block.out % (len(found) - len(given))]
        if y.is_inference():
            return max(k for k, op in enumerate(ops) if op.mode == "inference_mode"), None
        if not _differentiable(y, given):
            places = [k for k, op in enumerate(ops) if op.code in code.PLACES]
            return (places or [len(ops) - 1])[-1], None
        return None, y

    def _narrow(self, x: Tensor) -> bool:
        return x.is_floating_point() and x.dtype != torch.float64

    def sample(self, i: int) -> Tensor:
        """A tensor of a line's shape and dtype, as an operand for later lines."""
        form = self.lines[i].form
        seed = torch.Generator().manual_seed(i)
        if form.dtype.is_floating_point:
            x = torch.randn(form.shape, generator=seed, dtype=torch.float64).to(form.dtype)
            return x.requires_grad_().clone()
        return torch.randint(0, 2, form.shape, generator=seed).to(form.dtype)

    def over(self, step: Over, n: int, axis: str) -> None:
        value = self.chosen(step.a)
        form = self.lines[value].form
        axes = [a for a in self.axes if a in form.axes and not (n in form.loops and a == axis)]
        if not axes or step.code not in self.overs:
            return
        over = axes[step.k % len(axes)]
        try:
            y = along.OVER[step.code].eager(torch.stack([self.sample(value)] * 2), 0, step.k)
        except Exception:
            return
        if step.code not in along.ANY and not form.dtype.is_floating_point:
            return
        self.net.narrow |= self._narrow(y)
        kept = form.axes if along.OVER[step.code].keeps else form.axes - {over}
        made = Form(tuple(y.shape), y.dtype, kept, form.loops)
        self.add(lines.Along(made, step.code, value, over, step.k))

    def lag(self, step: Lag, n: int, axis: str, ahead: bool) -> None:
        value = self.chosen(step.a)
        form = self.lines[value].form
        axes = [a for a in self.axes if a in form.axes]
        if not axes or form.dtype not in (self.net.dtype, torch.int64, torch.bool):
            return
        over = axes[step.axis % len(axes)]
        steps = step.steps or 1
        if n in form.loops and over == axis:
            steps = -abs(steps) if ahead else abs(steps)
        inits = self.inits(step.inits, abs(steps), form, form.axes - {over})
        self.add(lines.Lag(form, "", over, steps, inits, value))


def _fits(x: Tensor) -> bool:
    return x.numel() <= MOST_NUMBERS and x.ndim <= MOST_DIMS and not x.is_complex()


def _differentiable(y: Tensor, given: list[Tensor]) -> bool:
    moving = [x for x in given if x.requires_grad]
    if not y.requires_grad or not moving:
        return True
    try:
        torch.autograd.grad(y.sum(), moving, allow_unused=True)
    except RuntimeError:
        return False
    return True
