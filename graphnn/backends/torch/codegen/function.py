"""Writing and loading functions: a graph with `given` values in, chosen values out."""

from __future__ import annotations

import hashlib
import itertools
import linecache
import re
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Protocol

import torch
import torch.nn.functional as F

from graphnn.backends.torch.codegen.buffer_plan import part_spans
from graphnn.backends.torch.codegen.loop import INDENT, LoopWriter
from graphnn.backends.torch.codegen.operations import express
from graphnn.backends.torch.codegen.scope import Ends, Scope, dtype_text, origin, sizes_text
from graphnn.backends.torch.runtime import axis
from graphnn.backends.torch.runtime.active_rows import Running
from graphnn.backends.torch.runtime.linear import linear, outer
from graphnn.backends.torch.runtime.packed import packed_linear, packed_outer, tokens
from graphnn.backends.torch.runtime.recurrent_linear import times
from graphnn.backends.torch.runtime.scan import scan
from graphnn.backends.torch.runtime.torch_layers import recurrent
from graphnn.ir.debug import show
from graphnn.ir.graph import BATCH, IR, Node
from graphnn.kernels.ir.symbols import NameTable, remark
from graphnn.ops.registry import OPS
from graphnn.planner.attention.hops import Hops
from graphnn.planner.attention.tiles import Contraction
from graphnn.planner.contexts import PartsContext
from graphnn.planner.core.regions import Loop, Whole
from graphnn.planner.loops.side_by_side import Part, joined
from graphnn.planner.pipeline import Stage, run

Tensor = torch.Tensor
# what generated code finds under the name `runtime`
CALLED = SimpleNamespace(
    **{k: v for k, v in vars(axis).items() if not k.startswith("_")},
    linear=linear,
    outer=outer,
    tokens=tokens,
    packed_linear=packed_linear,
    packed_outer=packed_outer,
    times=times,
    scan=scan,
    recurrent=recurrent,
    Running=Running,
)
ALIASING = ("view", "rename", "along")
_numbers = itertools.count()


@dataclass
class Function:
    """A generated function: `call(tensors, sizes)`, its source, and the form of its results."""

    name: str
    source: str
    call: Callable[[Sequence[Tensor], Sequence[int]], list[Tensor]]
    axes: tuple[str, ...]
    floating: int | None
    results: list[tuple[tuple[str, ...], tuple[int, ...], torch.dtype | None]]

    def shapes(self, tensors: Sequence[Tensor], sizes: Sequence[int]) -> list[Tensor]:
        """Empty tensors of the results' shapes: what tracing needs to know."""
        known = dict(zip(self.axes, sizes, strict=True))
        like = tensors[0]
        default = like.dtype if self.floating is None else tensors[self.floating].dtype
        return [
            like.new_empty([*(known[a] for a in axes), *shape], dtype=dtype or default)
            for axes, shape, dtype in self.results
        ]


def load(source: str, name: str, objects: dict[str, Any]) -> Any:
    """Compile generated source so that tracebacks and debuggers can show it while it lives."""
    show("code", name, lambda: source)
    digest = hashlib.sha256(source.encode()).hexdigest()[:12]
    file = f"<graphnn {name} {digest} {next(_numbers)}>"
    linecache.cache[file] = (len(source), None, source.splitlines(True), file)
    namespace: dict[str, Any] = {
        "torch": torch,
        "F": F,
        "runtime": CALLED,
        "inf": float("inf"),
        "nan": float("nan"),
        **objects,
    }
    exec(compile(source, file, "exec"), namespace)
    function = namespace[name]
    # of the code, which frames of a traceback hold as well
    weakref.finalize(function.__code__, linecache.cache.pop, file, None).atexit = False
    return function


def called(lowering: Lowering | None) -> dict[str, Any]:
    """The name `runtime` of generated code, where a lowering changes what it means."""
    if lowering is None:
        return {}
    return {"runtime": SimpleNamespace(**{**vars(CALLED), **lowering.called()})}


class Lowering(Protocol):
    """What turns loops into kernels: lines that run one, or None where it stays with torch."""

    names: NameTable
    choices: dict[str, Any]
    unwritten: dict[str, str]
    several_of: dict[str, Any]

    def several(self, write: Callable[[Any], Function], direction: str) -> Function:
        """The function that `write` gives with this lowering, or with one that differs from it in
        how loops are run: whichever is best for a call; `direction` is what it is called."""
        ...

    def write(self, scope: Scope, loop: Loop, keep: set[int], name: str) -> list[str] | None: ...

    def sources(self) -> list[str]:
        """The source of every kernel."""
        ...

    def pair(self, scope: Scope, loops: list[Loop], keep: set[int], name: str) -> list[str] | None:
        """Lines that run two loops at once, or None where each goes by itself."""
        ...

    def together(self, ir: IR, loops: Sequence[Loop], one: Loop) -> bool:
        """Whether loops that feed each other are faster as the loop `one`."""
        ...

    def called(self) -> dict[str, Any]:
        """Functions of `CALLED` that it has better ones for."""
        ...

    def layer(self, node: Node, own: Any, wanted: Sequence[int]) -> Any:
        """What runs one of torch's layers, or `own`, the program of its definition."""
        ...

    def attend(self, part: Contraction, passes: frozenset[str]) -> Any:
        """What computes a contraction, or None where that is left to torch."""
        ...

    def hops(self, part: Hops, passes: frozenset[str]) -> Any:
        """What computes hops, or None where that is left to torch."""
        ...

    def note(self, ir: IR) -> str:
        """What is to be said of a function written from `ir`, beside its title."""
        ...

    def replayed(self, ir: IR, call: Any, axes: Sequence[str]) -> Any:
        """The function itself, or one that replays its launches."""
        ...


def write(
    ir: IR,
    name: str,
    reads: Sequence[int],
    results: Sequence[tuple[int, Node]],
    title: str,
    passes: frozenset[str],
    lowering: Lowering | None = None,
    ends: Ends | None = None,
) -> Function:
    """A function of the `given` nodes `reads`.

    It returns a value for each pair in `results`: a node, and the node whose form it is to have.
    Loops are given to `lowering` first; those over the axis of `ends` stop where examples do.
    """
    likes = [like for _, like in results]
    ir = _with_outputs(ir, [i for i, _ in results])
    context = PartsContext(
        passes=passes,
        title=name,
        kernels=lowering is not None,
        together=lowering.together if lowering is not None else None,
    )
    ir = run(Stage.FUNCTION, ir, context)
    wanted = [ir.outputs[f"r{k}"] for k in range(len(results))]
    if ends is not None and ends.node.id not in ir.nodes:
        ir = ir.copy()
        ir.insert(ends.node)
    scope = Scope(ir)
    scope.table.taken.add(name)
    scope.ends = ends
    names = [_read(scope, ir[i]) if i in ir.nodes else scope.fresh("unused") for i in reads]
    axes = tuple(a for a in ir.axes)
    body = ["device = tensors[0].device"]
    if names:
        body.append(f"{_unpacked(names)} = tensors")
    body.append(f"{_unpacked(scope.sizes(axes))} = sizes")
    floating = _first_floating(ir, reads)
    kind = f"{names[floating]}.dtype" if floating is not None else str(ir.floating)
    body.append(f"dtype = {kind}")
    body += [_noise(scope, ir[i]) for i in scope.seeds]
    if ends is not None and ends.sorted:
        scope.there = scope.fresh("there"), (ends.axis, BATCH), ends.held
        body.append(f"{scope.there[0]} = runtime.tokens({scope.var(ends.node.id)})")
    body += regions(scope, context.parts, set(wanted), lowering, name)
    returned = [_returned(scope, i, like) for i, like in zip(wanted, likes, strict=True)]
    for k, text in enumerate(returned):
        if text in returned[:k] or text.removesuffix(".contiguous()") in names:
            returned[k] = f"runtime.own({text})"
    if lowering is not None:
        body = _needed(body, returned)
    title += lowering.note(ir) if lowering else ""
    lines = [f"def {name}(tensors, sizes):", f'{INDENT}"""{remark(title)}"""']
    lines += [INDENT + line for line in body]
    lines.append(f"{INDENT}return [{', '.join(returned)}]")
    source = "\n".join(lines) + "\n"
    forms = [
        (ir.layout(like.axes), like.shape, None if like.dtype == ir.floating else like.dtype)
        for like in likes
    ]
    loaded = load(source, name, {**scope.objects, **called(lowering)})
    loaded = lowering.replayed(ir, loaded, axes) if lowering else loaded
    return Function(name, source, loaded, axes, floating, forms)


def _read(scope: Scope, node: Node) -> str:
    """The variable of something given: of noise its seed."""
    if "places" not in node.attrs:
        return scope.declare(node)
    scope.seeds[node.id] = scope.fresh(f"{node.name or node.attrs['was']}_seed")
    return scope.seeds[node.id]


def _noise(scope: Scope, node: Node) -> str:
    """The line that draws noise into memory: left out where only kernels read it."""
    given, seed = node.attrs["places"], scope.seeds[node.id]
    sizes = scope.sizes(given) + [str(n) for n in node.shape]
    text = f"runtime.noise({seed}, {node.attrs['kind']!r}, {node.attrs['p']!r}, "
    text += f"({', '.join(sizes)}{',' * (len(sizes) == 1)}), dtype)"
    return f"{scope.declare(node)} = {text}{scope.permuted(given, node)}"


def _needed(body: list[str], returned: list[str]) -> list[str]:
    """The lines without values that a kernel has taken over: those nothing reads."""
    used = set(re.findall(r"\w+", " ".join(returned)))
    kept: list[str] = []
    for line in reversed(body):
        code = line.split("  # ")[0]
        name = re.match(r"(\w+) = ", code)
        if name is None or name[1] in used:
            used |= set(re.findall(r"\w+", code))
            kept.append(line)
    return kept[::-1]


def _with_outputs(ir: IR, results: Sequence[int]) -> IR:
    new = ir.copy()
    new.outputs = {f"r{k}": i for k, i in enumerate(results)}
    return new


def _first_floating(ir: IR, reads: Sequence[int]) -> int | None:
    known = ((k, ir[i]) for k, i in enumerate(reads) if i in ir.nodes)
    return next((k for k, n in known if n.dtype == ir.floating and "places" not in n.attrs), None)


def _unpacked(names: Sequence[str]) -> str:
    return ", ".join(names) + ("," if len(names) == 1 else "")


def _returned(scope: Scope, i: int, like: Node) -> str:
    """A result in the axes and shape of `like`, in memory of its own."""
    node = scope.ir[i]
    sizes = sizes_text(scope, like)
    if node.op in ("const", "size"):
        kind = dtype_text(scope.ir, like.dtype)
        return f"torch.full({sizes}, {scope.var(i)}, dtype={kind}, device=device)"
    if node.axes != like.axes or node.shape != like.shape:
        wide = scope.aligned(i, scope.axes(like), len(like.shape))
        return f"runtime.own({wide}.expand({sizes}))"
    text = scope.var(i)
    aliases = OPS[node.op].family in ALIASING or node.op in ("cast", "detach")
    # of what torch's own functions return nobody knows whether it is memory of its own
    aliases = aliases or (node.op == "pick" and OPS[scope.ir[node.inputs[0]].op].family == "opaque")
    if aliases or "[" in text:
        return f"runtime.own({text})"
    return f"{text}.contiguous()"


def regions(
    scope: Scope,
    parts: Sequence[Part],
    keep: set[int],
    lowering: Lowering | None = None,
    name: str = "",
) -> list[str]:
    """The lines of a whole graph: operations over whole axes, and loops, in order."""
    lines: list[str] = []
    ir, users, count = scope.ir, scope.ir.users(), 0
    for part in parts:
        if isinstance(part, Whole):
            for i in part.nodes:
                node = ir[i]
                if i in scope.started:
                    lines += _rest_of_join(scope, node)
                if node.op in ("const", "size", "given") or i in scope.names:
                    continue
                text = express(scope, node)
                lines.append(f"{scope.declare(node)} = {text}{origin(node)}")
        else:
            inside = set(joined(part).nodes)
            kept = {i for i in inside if any(u not in inside for u in users[i])} | (inside & keep)
            kernel = f"{name}_{count}" if count else name
            lines += _loops(scope, part, kept, keep, lowering, kernel)
            count += 1
    return lines


def _loops(
    scope: Scope,
    loops: list[Loop],
    kept: set[int],
    results: set[int],
    lowering: Lowering | None,
    name: str,
) -> list[str]:
    """The lines of a loop, or of two side by side."""
    if lowering is None:
        return LoopWriter(scope, loops[0], kept, results).write()
    if len(loops) > 1 and (lines := lowering.pair(scope, loops, kept, name)) is not None:
        return lines
    lines = []
    for k, loop in enumerate(loops):
        mine = kept & set(loop.nodes)
        called = lowering.write(scope, loop, mine, f"{name}_{'ab'[k]}" if len(loops) > 1 else name)
        lines += LoopWriter(scope, loop, mine, results).write() if called is None else called
    return lines


def _rest_of_join(scope: Scope, node: Node) -> list[str]:
    """The parts of a concatenation that no loop has put in their places."""
    name = scope.names[node.id]
    return [
        f"{name}[{span}].copy_({scope.full(i, node)})"
        for i, span in zip(node.inputs, part_spans(scope.ir, node), strict=True)
        if i not in scope.started[node.id]
    ]
