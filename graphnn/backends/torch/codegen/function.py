"""Functions from graphs: `given` values in, chosen values out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphnn.backends.torch.codegen.buffer_plan import part_spans
from graphnn.backends.torch.codegen.code import (
    UNUSED,
    Definition,
    Expression,
    Line,
    Statement,
    assign,
    code,
    do,
    needed,
    unpack,
    variable,
)
from graphnn.backends.torch.codegen.header import reads_and_returns
from graphnn.backends.torch.codegen.loading import called, load
from graphnn.backends.torch.codegen.loop import LoopWriter
from graphnn.backends.torch.codegen.lowering import Function, Lowering
from graphnn.backends.torch.codegen.operations import express
from graphnn.backends.torch.codegen.scope import (
    DEVICE,
    DTYPE,
    Ends,
    Scope,
    Valid,
    dtype_text,
    filled,
    origin,
    shape_text,
    sizes_text,
)
from graphnn.ir.graph import BATCH, IR, Node
from graphnn.ops.registry import OPS
from graphnn.planner.contexts import PartsContext
from graphnn.planner.core.regions import Loop, Whole
from graphnn.planner.loops.side_by_side import Part, as_one
from graphnn.planner.pipeline import Stage, run

# families of operations whose results may share memory with an operand
ALIASING = ("view", "rename", "along")
# operations that call functions of the user
USER_CODE = frozenset({"opaque", "vjp", "custom"})


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
    """Write a function of the `given` nodes `reads`.

    It returns a value for each pair in `results`: a node, and the node whose axes, shape and dtype
    the value is to have. Loops are given to `lowering` first; those over the axis of `ends` stop
    where the examples end.
    """
    context = PartsContext(
        passes=passes,
        title=name,
        kernels=lowering is not None,
        together=lowering.together if lowering is not None else None,
    )
    ir = run(Stage.FUNCTION, _with_outputs(ir, [i for i, _ in results]), context)
    made = [(ir.outputs[f"r{k}"], like) for k, (_, like) in enumerate(results)]
    scope = _scope(ir, name, ends)
    ir = scope.ir
    names = [_read(scope, ir[i]) if i in ir.nodes else UNUSED for i in reads]
    floating = _first_floating(ir, reads)
    body: list[Line] = _arguments(scope, names, floating)
    if ends is not None and ends.sorted:
        body.append(valid_positions(scope, ends.node, (ends.axis, BATCH), ends.held))
    body += regions(scope, context.parts, {i for i, _ in made}, lowering, name)
    returned = _unaliased([_returned(scope, i, like) for i, like in made], names)
    body = needed(body, returned)
    title += lowering.note(ir) if lowering else ""
    header = [[f"{ir.name}: {name}"], *reads_and_returns(ir, reads, made)]
    source = Definition(name, "tensors, sizes", title, body, returned, header).source()
    forms = [
        (ir.layout(like.axes), like.shape, None if like.dtype == ir.floating else like.dtype)
        for _, like in made
    ]
    loaded = load(source, name, {**scope.objects, **called(lowering)})
    loaded = lowering.replayed(ir, loaded, tuple(ir.axes)) if lowering else loaded
    user_code = any(node.op in USER_CODE for node in ir)
    layouts = tuple(_layout(ir, i) for i in reads)
    at = reads.index(ends.node.id) if ends is not None and ends.node.id in reads else None
    return Function(
        *(name, source, loaded, tuple(ir.axes), floating, forms, user_code),
        *(layouts, frozenset(_cuttable(ir)), at),
    )


def _layout(ir: IR, i: int) -> tuple[str, ...]:
    """The axes that an argument has as its first dimensions; none if it is unused, or a seed."""
    return ir.layout(ir[i].axes) if i in ir.nodes and "places" not in ir[i].attrs else ()


def _cuttable(ir: IR) -> set[str]:
    """The axes along which the arguments may end earlier.

    Not those of a fixed length, those that share theirs with others, and those of which values are
    taken at positions that an argument says.
    """
    renamed = {a for x in ir.axes.values() if x.copy_of for a in (x.name, x.copy_of)}
    indexed = {n.attrs["axis"] for n in ir if n.op.startswith("axis_")}
    return {a for a, x in ir.axes.items() if x.length is None} - renamed - indexed


def _scope(ir: IR, name: str, ends: Ends | None) -> Scope:
    """The scope of a function, whose graph has the lengths of `ends`."""
    if ends is not None and ends.node.id not in ir.nodes:
        ir = ir.copy()
        ir.insert(ends.node)
    scope = Scope(ir)
    scope.table.taken.add(name)
    scope.function, scope.ends = name, ends
    return scope


def _arguments(scope: Scope, names: Sequence[Expression], floating: int | None) -> list[Line]:
    """The statements that unpack a function's arguments."""
    tensors, ir = variable("tensors"), scope.ir
    body: list[Line] = [assign(DEVICE, code("{}[0].device", tensors))]
    if names:
        body.append(unpack(names, tensors))
    body.append(unpack(scope.sizes(ir.axes), variable("sizes")))
    kind = Expression(str(ir.floating)) if floating is None else code("{}.dtype", names[floating])
    body.append(assign(DTYPE, kind))
    return body + [_noise(scope, ir[i]) for i in scope.seeds]


def valid_positions(scope: Scope, lengths: Node, axes: tuple[str, ...], held: bool) -> Statement:
    """The statement that finds the positions within the examples' lengths."""
    scope.valid = Valid(scope.fresh("valid"), axes, held)
    return assign(scope.valid.name, code("runtime.valid_positions({})", scope.var(lengths.id)))


def _unaliased(returned: list[Returned], names: Sequence[Expression]) -> list[Expression]:
    """The results; what would be returned twice, or is an argument, is copied."""
    given = {x.text for x in names}
    made: list[Expression] = []
    for k, x in enumerate(returned):
        twice = any(x == other for other in returned[:k])
        copied = x.copied or twice or x.value.text in given
        template = "runtime.copy({})" if copied else "{}" if x.fresh else "{}.contiguous()"
        made.append(code(template, x.value))
    return made


def _read(scope: Scope, node: Node) -> Expression:
    """The variable of an argument; noise is given as its seed."""
    if "places" not in node.attrs:
        return scope.declare(node)
    scope.seeds[node.id] = scope.fresh(f"{node.name or node.attrs['was']}_seed")
    return scope.seeds[node.id]


def _noise(scope: Scope, node: Node) -> Statement:
    """The statement that draws noise into memory; left out if only kernels read it."""
    order, seed = node.attrs["places"], scope.seeds[node.id]
    sizes = shape_text([*scope.sizes(order), *node.shape])
    law = f"{node.attrs['kind']!r}, {node.attrs['p']!r}"
    drawn = code("runtime.noise({}, {}, {}, {})", seed, law, sizes, DTYPE)
    return assign(scope.declare(node), scope.permuted(drawn, order, node))


def _with_outputs(ir: IR, results: Sequence[int]) -> IR:
    new = ir.copy()
    new.outputs = {f"r{k}": i for k, i in enumerate(results)}
    return new


def _first_floating(ir: IR, reads: Sequence[int]) -> int | None:
    known = ((k, ir[i]) for k, i in enumerate(reads) if i in ir.nodes)
    return next((k for k, n in known if n.dtype == ir.floating and "places" not in n.attrs), None)


@dataclass(frozen=True)
class Returned:
    """A result; `fresh`: nothing else refers to its memory, `copied`: something else may."""

    value: Expression
    fresh: bool = False
    copied: bool = False


def _returned(scope: Scope, i: int, like: Node) -> Returned:
    """A result in the axes and shape of `like`."""
    node = scope.ir[i]
    sizes = sizes_text(scope, like)
    if node.op in ("const", "size"):
        return Returned(filled(sizes, scope.var(i), dtype_text(scope.ir, like.dtype)), fresh=True)
    if node.axes != like.axes or node.shape != like.shape:
        wide = scope.aligned(i, scope.axes(like), len(like.shape))
        return Returned(code("{}.expand({})", wide, sizes), copied=True)
    x = scope.var(i)
    aliases = OPS[node.op].family in ALIASING or node.op in ("cast", "detach")
    # functions of torch itself may return a view of their arguments
    aliases = aliases or (node.op == "pick" and OPS[scope.ir[node.inputs[0]].op].family == "opaque")
    return Returned(x, fresh=x.text in scope.buffers, copied=aliases or i in scope.parts)


def regions(
    scope: Scope,
    parts: Sequence[Part],
    keep: set[int],
    lowering: Lowering | None = None,
    name: str = "",
) -> list[Line]:
    """The statements of a whole graph: operations over whole axes, and loops, in order."""
    lines: list[Line] = []
    ir, users, count = scope.ir, scope.ir.users(), 0
    for part in parts:
        if isinstance(part, Whole):
            for i in part.nodes:
                node = ir[i]
                if i in scope.started:
                    lines += _rest_of_join(scope, node)
                if node.op in ("const", "size", "given") or i in scope.names:
                    continue
                value = express(scope, node)
                lines.append(assign(scope.declare(node), value, origin(node)))
        else:
            inside = set(as_one(part).nodes)
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
) -> list[Line]:
    """The statements of a loop, or of two side by side."""
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


def _rest_of_join(scope: Scope, node: Node) -> list[Line]:
    """Copy the parts of a concatenation that no loop has written into it."""
    whole = scope.names[node.id]
    return [
        do(code("{}[{}].copy_({})", whole, span, scope.full(i, node)))
        for i, span in zip(node.inputs, part_spans(scope.ir, node), strict=True)
        if i not in scope.started[node.id]
    ]
