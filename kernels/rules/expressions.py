"""Rules of expressions that compiled and interpreted kernels treat unequally."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from .syntax import Fault, Function, Line, Loop, Source, called, keyword, targets

REDUCTIONS = ("tl.sum", "tl.max", "tl.min")


def returns(source: Source) -> Iterator[Fault]:
    """Yield the functions with several returns.

    Triton wants them of one type and shape, even those that a constant condition excludes
    (`decide_return_type` in `compiler/code_generator.py`); the interpreter does not compare them.
    """
    for function in source.functions:
        found = [x.node for x in function.lines if isinstance(x.node, ast.Return)]
        if any(node is not function.node.body[-1] for node in found):
            yield found[0].lineno, f"'{function.node.name}' returns before its end"


def stored_accumulators(source: Source) -> Iterator[Fault]:
    """Yield the sums over steps of reductions that the loop reads besides adding to them.

    The pass OptimizeThreadLocality keeps such a sum in parts until the loop ends, so that what else
    reads it gets a part (Triton up to 3.8, triton-lang/triton issue 11836). It does not if the
    dimension is kept: `keep_dims=True` or `[:, None]`.
    """
    for function in source.functions:
        for loop in function.loops:
            inside = function.inside(loop)
            reduced = {n for x in inside if _is_reduction(x.node) for n in x.writes}
            for line in inside:
                if _accumulates(line, reduced) and _is_carried(function, loop, line.writes[0]):
                    (name,) = line.writes
                    if sum(name in other.reads for other in inside) > 1:
                        yield (
                            line.node.lineno,
                            f"'{name}' sums a reduction, and is read in the loop",
                        )


def loop_targets(source: Source) -> Iterator[Fault]:
    """Yield the loops whose counter has another value before them, in them, or behind them.

    Triton drops what a step assigns to it, and behind the loop it is undefined (triton-lang/triton
    pull requests 8750 and 11439).
    """
    for function in source.functions:
        known, ended = set(function.arguments), set[str]()
        for line in function.lines:
            around = {name for loop in line.loops for name in targets(loop)}
            if isinstance(line.node, ast.For):
                if again := known.intersection(line.writes):
                    yield line.node.lineno, f"'{min(again)}' has a value before its loop"
                ended.update(line.writes)
            else:
                if again := around.intersection(line.writes):
                    yield line.node.lineno, f"'{min(again)}' is assigned in the loop that it counts"
                known.update(line.writes if not line.loops else ())
                ended.difference_update(line.writes)
            if late := (line.reads & ended) - around:
                yield line.node.lineno, f"'{min(late)}' is read behind the loop that it counts"


def bare_products(source: Source) -> Iterator[Fault]:
    """Yield the matrix products that do not go through the prelude.

    Triton's interpreter multiplies 16-bit numbers wrongly; the prelude's `matmul` widens them.
    """
    for function in source.functions:
        for line in function.lines:
            for call in line.called("tl.dot", "tl.dot_scaled"):
                yield call.lineno, "a product that is not the prelude's"


def mixed_masks(source: Source) -> Iterator[Fault]:
    """Yield the masks that combine a tile with a single number by `&` or `|`.

    Triton's interpreter makes an integer of such a mask.
    """
    for function in source.functions:
        single = {name for name in function.arguments if not name.endswith("_ptr")}
        for line in function.lines:
            for node in _masks(line):
                if _is_single(node.left, single) != _is_single(node.right, single):
                    yield node.lineno, f"a tile and a single number in {ast.unparse(node)}"
            if isinstance(line.node, ast.Assign):
                known = _is_single(line.node.value, single)
                (single.update if known else single.difference_update)(line.writes)


def _masks(line: Line) -> Iterator[ast.BinOp]:
    """The combinations by `&` and `|` in the masks of a line and in what it assigns."""
    todo: list[ast.expr] = [k.value for _, c in line.calls for k in c.keywords if k.arg == "mask"]
    if isinstance(line.node, ast.Assign):
        todo.append(line.node.value)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.BinOp):
            if isinstance(node.op, ast.BitAnd | ast.BitOr):
                yield node
            todo += [node.left, node.right]


def _is_single(node: ast.AST, single: set[str]) -> bool:
    """Whether a value is one number, for all that its text says."""
    match node:
        case ast.Constant():
            return True
        case ast.Name(name):
            return name in single
        case ast.BinOp(left, _, right):
            return _is_single(left, single) and _is_single(right, single)
        case ast.UnaryOp(_, operand):
            return _is_single(operand, single)
        case ast.Compare(left, _, others):
            return all(_is_single(x, single) for x in (left, *others))
        case ast.Call():
            if called(node) in ("tl.program_id", "tl.num_programs"):
                return True
            if called(node) in ("tl.where", "tl.minimum", "tl.maximum", "tl.cdiv"):
                return all(_is_single(x, single) for x in node.args)
            if isinstance(node.func, ast.Attribute) and node.func.attr == "to":
                return _is_single(node.func.value, single)
    return False


def _is_reduction(node: ast.AST) -> bool:
    """Whether a statement or expression is a reduction whose result has a dimension less."""
    value = node.value if isinstance(node, ast.Assign) else node
    return called(value) in REDUCTIONS and keyword(value, "keep_dims") is not True  # type: ignore[arg-type]


def _accumulates(line: Line, reduced: set[str]) -> bool:
    """Whether a statement adds a reduction to a variable."""
    match line.node:
        case ast.AugAssign(value=value):
            parts: list[ast.expr] = [value]
        case ast.Assign([ast.Name(name)], ast.BinOp(left, _, right)) if name in line.reads:
            parts = [left, right]
        case ast.Assign([ast.Name(name)], ast.Call(args=[left, right])) if name in line.reads:
            parts = [left, right]
        case _:
            return False
    operands = {p.id for p in parts if isinstance(p, ast.Name)}
    if isinstance(line.node, ast.Assign) and line.writes[0] not in operands:
        return False
    return bool(operands & reduced) or any(_is_reduction(p) for p in parts)


def _is_carried(function: Function, loop: Loop, name: str) -> bool:
    """Whether a step of a loop reads what a variable was before it."""
    before = (x for x in function.lines if loop not in x.loops and x.node.lineno < loop.lineno)
    known = name in function.arguments or any(name in line.writes for line in before)
    first = next(x for x in function.inside(loop) if name in x.reads or name in x.writes)
    return known and name in first.reads
