"""Instructions of each thread on its own numbers: arithmetic, bits, comparisons, conversions.

A row has an expression over the operands {0}, {1}, …, or a function of `arithmetic`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from ..arithmetic import approximate, comparisons, conversions, floats, formats, integers
from ..arithmetic.formats import BITS, DTYPES
from ..program.program import Instruction, Vector
from ..program.report import Problem
from .writer import SIZES, Emit, Row, Writer, pair, types_of

INTEGERS = frozenset(f"{sign}{size}" for sign in "us" for size in (16, 32, 64))
WIDE = frozenset({"u32", "s32"})
UNTYPED = frozenset({"b16", "b32", "b64"})
HALVES, PAIRS = frozenset({"f16", "bf16"}), frozenset({"f16x2", "bf16x2", "f32x2"})
FLOATS = frozenset({"f32", "f64"}) | HALVES | PAIRS
MODES = frozenset({"rn", "rz", "rm", "rp"})
# arithmetic for which numpy's own operator is right: rounded to nearest
PLAIN = {"add": "{0} + {1}", "sub": "{0} - {1}", "mul": "{0} * {1}", "div": "{0} / {1}"}


def expression(text: str, unsigned: bool = False) -> Emit:
    """Return the text of d = expression of the operands."""

    def emit(writer: Writer, instruction: Instruction) -> None:
        kind = types_of(instruction)[-1]
        if unsigned:
            kind = f"u{8 * SIZES[kind]}"
        d, *sources = instruction.operands
        names = [writer.read(x, kind) for x in sources]
        if all(x in writer.scalars for x in names):
            names[0] = writer.array(sources[0], kind)
        writer.write(d, kind, text.format(*names))

    return emit


def function(
    made: Callable[..., Any], *kinds: str, result: str = "", literals: bool = False
) -> Emit:
    """Return the text of d = function(operands), of types `kinds` if not of the instruction's."""

    def emit(writer: Writer, instruction: Instruction) -> None:
        kind = types_of(instruction)[-1]
        d, *sources = instruction.operands
        listed = [*(kinds or [kind]), *[kind] * len(sources)]
        listed = [k or kind for k in listed]
        arguments = ", ".join(writer.array(x, k) for x, k in zip(sources, listed))
        writer.write(d, result or kind, f"{writer.constant(made)}({arguments})")

    return emit


def floating(writer: Writer, instruction: Instruction) -> None:
    """Arithmetic on floats, with its rounding, flush and saturation."""
    opcode, kind = instruction.opcode, types_of(instruction)[-1]
    flags = set(instruction.modifiers)
    mode = next((m for m in instruction.modifiers if m in MODES), "rn")
    part = kind.removesuffix("x2")
    made = floats.ROUNDED[opcode](part, mode)
    if kind == "f32" and opcode in PLAIN and flags <= {"rn", "f32"}:
        expression(PLAIN[opcode])(writer, instruction)
        return
    apply(writer, instruction, modified(made, kind, flags))


def modified(made: Callable[..., Any], kind: str, flags: set[str]) -> Callable[..., Any]:
    """Return a function with the effects of `.ftz`, `.sat`, `.relu`, and of packed pairs."""
    part = kind.removesuffix("x2")
    if "ftz" in flags:
        made = floats.flushing(made, part)
    if "sat" in flags:
        made = _after(made, floats.saturate)
    if "relu" in flags:
        made = _after(made, lambda x: floats.relu(x, part))
    return floats.pairwise(made, kind) if kind in PAIRS else made


def _after(made: Callable[..., Any], then: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *operands: then(made(*operands))


def apply(writer: Writer, instruction: Instruction, made: Callable[..., Any]) -> None:
    """Write d = made(operands), all of the instruction's type."""
    function(made)(writer, instruction)


def signs(make: Callable[[str], Callable[..., Any]]) -> Emit:
    """Return the text of an operation on the sign of floats (`neg`, `abs`, `copysign`)."""

    def emit(writer: Writer, instruction: Instruction) -> None:
        kind = types_of(instruction)[-1]
        made = make(kind.removesuffix("x2"))
        apply(writer, instruction, modified(made, kind, set(instruction.modifiers)))

    return emit


def extreme(writer: Writer, instruction: Instruction) -> None:
    """`min` and `max` of floats."""
    kind, flags = types_of(instruction)[-1], set(instruction.modifiers)
    largest = instruction.opcode == "max"
    made = floats.extreme(kind.removesuffix("x2"), largest, "NaN" in flags, "xorsign" in flags)
    apply(writer, instruction, modified(made, kind, flags))


def rough(writer: Writer, instruction: Instruction) -> None:
    """An approximate instruction: off by what its documentation allows."""
    kind, flags = types_of(instruction)[-1], set(instruction.modifiers)
    opcode = instruction.opcode + (".full" if "full" in flags else "")
    if (opcode, kind.removesuffix("x2")) not in approximate.APPROXIMATIONS:
        raise Problem(f"has a form of {opcode}.{kind} that is not modelled")
    made = approximate.approximate(opcode, kind.removesuffix("x2"), "ftz" in flags)
    d, *sources = instruction.operands
    arguments = ", ".join(writer.array(x, kind) for x in sources)
    if kind in PAIRS:
        name = writer.constant(
            lambda errors, *given: floats.pairwise(lambda *x: made(errors, *x), kind)(*given)
        )
    else:
        name = writer.constant(made)
    writer.write(d, kind, f"{name}(S.errors, {arguments})")


def wide(writer: Writer, instruction: Instruction) -> None:
    """`mul` and `mad` of integers: the low half, the high half, or all of the product."""
    kind, flags = types_of(instruction)[-1], set(instruction.modifiers)
    d, a, b, *more = instruction.operands
    if "wide" in flags:
        result = f"{kind[0]}{16 * SIZES[kind]}"
        made = integers.mul_wide
    elif "hi" in flags:
        result, made = kind, integers.mul_hi
    else:
        result, made = kind, None
    x, y = (writer.array(a, kind), writer.read(b, kind))
    if made is not None:
        y = writer.array(b, kind)
    text = f"{writer.constant(made)}({x}, {y})" if made else f"{x} * {y}"
    writer.write(d, result, f"{text} + {writer.read(more[0], result)}" if more else text)


def short(writer: Writer, instruction: Instruction) -> None:
    """`mul24` and `mad24`: parts of a product of 24 bits, and a summand."""
    kind = types_of(instruction)[-1]
    d, a, b, *more = instruction.operands
    made = writer.constant(integers.MUL24["hi" if "hi" in instruction.modifiers else "lo"])
    text = f"{made}({writer.array(a, kind)}, {writer.array(b, kind)})"
    writer.write(d, kind, f"{text} + {writer.read(more[0], kind)}" if more else text)


def dot(writer: Writer, instruction: Instruction) -> None:
    """`dp4a`: products of four bytes each, and a summand; signed if an operand is."""
    left, right = types_of(instruction)
    result = "s32" if "s32" in (left, right) else "u32"
    function(integers.dot4, left, right, result, result=result)(writer, instruction)


def shift(writer: Writer, instruction: Instruction) -> None:
    """`shl` and `shr`; the count is unsigned and may exceed the width."""
    kind = types_of(instruction)[-1]
    d, a, b = instruction.operands
    count, width = writer.read(b, "u32"), 8 * SIZES[kind]
    left = instruction.opcode == "shl"
    if count in writer.scalars and writer.names[count] < width:
        amount = writer.constant(DTYPES[kind](writer.names[count]))
        writer.write(d, kind, f"{writer.array(a, kind)} {'<<' if left else '>>'} {amount}")
        return
    made = writer.constant(integers.shift_left if left else integers.shift_right)
    writer.write(d, kind, f"{made}({writer.array(a, kind)}, {writer.array(b, 'u32')})")


def funnel(writer: Writer, instruction: Instruction) -> None:
    """`shf`: the shift of two registers side by side."""
    d, *sources = instruction.operands
    given = ", ".join(writer.array(x, "u32") for x in sources)
    left, wrap = ("l" in instruction.modifiers), ("wrap" in instruction.modifiers)
    made = writer.constant(integers.funnel)
    writer.write(d, "u32", f"{made}({given}, left={left}, wrap={wrap})")


def permute(writer: Writer, instruction: Instruction) -> None:
    """`prmt`: bytes chosen from two registers."""
    d, *sources = instruction.operands
    given = ", ".join(writer.array(x, "u32") for x in sources)
    mode = next((m for m in instruction.modifiers if m != "b32"), None)
    writer.write(d, "u32", f"{writer.constant(integers.permute)}({given}, {mode!r})")


def logic(writer: Writer, instruction: Instruction) -> None:
    """`lop3`: any function of three bits, by its truth table."""
    d, *sources, table = instruction.operands
    a, b, c = (writer.array(x, "u32") for x in sources)
    number = writer.literal(table)
    terms = []
    for k in range(8):
        if number >> k & 1:
            x, y, z = ((a, b, c)[j] if k >> (2 - j) & 1 else f"~{(a, b, c)[j]}" for j in range(3))
            terms.append(f"({x} & {y} & {z})")
    writer.write(d, "u32", " | ".join(terms) or f"{a} ^ {a}")


def move(writer: Writer, instruction: Instruction) -> None:
    """`mov`: copies, packs and unpacks registers."""
    kind = types_of(instruction)[-1]
    d, source = instruction.operands
    if kind == "pred":
        writer.write(d, kind, writer.array(source, kind))
    elif isinstance(d, Vector):
        size = SIZES[kind] // len(d)
        part, count = writer.constant(BITS[size]), 8 * size
        whole, shift_type = writer.array(source, f"u{8 * SIZES[kind]}"), f"u{8 * SIZES[kind]}"
        unsigned = writer.constant(DTYPES[shift_type])
        for k, register in enumerate(d):
            writer.write(
                register, f"u{count}", f"({whole} >> {unsigned}({count * k})).astype({part})"
            )
    elif isinstance(source, Vector):
        part, whole = f"u{8 * SIZES[kind] // len(source)}", f"u{8 * SIZES[kind]}"
        unsigned = writer.constant(DTYPES[whole])
        count = 8 * SIZES[part]
        terms = [
            f"({writer.array(x, part)}.astype({unsigned}) << {unsigned}({count * k}))"
            for k, x in enumerate(source)
        ]
        writer.write(d, whole, " | ".join(terms))
    else:
        writer.write(d, kind, writer.array(source, kind))


def to_address(writer: Writer, instruction: Instruction) -> None:
    """`cvta`: generic addresses of global memory are its own addresses."""
    d, source = instruction.operands
    writer.write(d, "u64", writer.array(source, "u64"))


def select(writer: Writer, instruction: Instruction) -> None:
    """`selp`: one of two numbers, by a predicate."""
    kind = types_of(instruction)[-1]
    d, a, b, p = instruction.operands
    x, y = writer.read(a, kind), writer.read(b, kind)
    writer.write(d, kind, f"where({writer.array(p, 'pred')}, {x}, {y})")


def compare(writer: Writer, instruction: Instruction) -> None:
    """`setp`: a comparison, joined with a predicate if there is one.

    It writes the result and its opposite. A comparison of packed pairs writes the results of the
    low and the high number (PTX ISA 9.1, 9.7.7, setp).
    """
    how, *others = instruction.modifiers
    kind = types_of(instruction)[-1]
    result, a, b, *more = instruction.operands
    table = comparisons.FLOATS if kind in FLOATS else comparisons.INTEGERS
    if how not in table:
        raise Problem(f"has the comparison .{how}, which is not modelled for .{kind}")
    made = writer.constant(table[how])
    found = [
        writer.let(f"{made}({x}, {y})")
        for x, y in zip(
            _compared(writer, a, kind, how, others), _compared(writer, b, kind, how, others)
        )
    ]
    join = next((m for m in others if m in comparisons.JOINS), None)
    sign = {"and": "&", "or": "|", "xor": "^"}.get(join or "")
    other = f" {sign} {writer.array(more[0], 'pred')}" if sign else ""
    second = found[1] if kind in PAIRS else f"~{found[0]}"
    for target, value in zip(pair(result), (found[0], second)):
        writer.write(target, "pred", value + other)


def _compared(
    writer: Writer, operand: Any, kind: str, how: str, others: Sequence[str]
) -> list[str]:
    """Return the numbers of an operand that are compared, both of a packed pair."""
    kind = f"u{8 * SIZES[kind]}" if how in comparisons.UNSIGNED else kind
    part = kind.removesuffix("x2")
    found = [writer.array(operand, kind)]
    if kind in PAIRS:
        made = writer.constant(partial(formats.halves, name=kind))
        both = writer.let(f"{made}({found[0]})")
        found = [writer.let(f"{both}[{k}]") for k in (0, 1)]
    if part == "bf16":
        made = writer.constant(partial(formats.decode, name=part))
        found = [writer.let(f"{made}({x})") for x in found]
    if "ftz" in others:
        made = writer.constant(formats.flush)
        found = [writer.let(f"{made}({x})") for x in found]
    return found


def test(writer: Writer, instruction: Instruction) -> None:
    """`testp`: whether floats are finite, NaN, …"""
    kind, what = types_of(instruction)[-1], instruction.modifiers[0]
    d, a = instruction.operands
    made = writer.constant(floats.TESTS[what])
    writer.write(d, "pred", f"{made}({writer.array(a, kind)})")


def convert(writer: Writer, instruction: Instruction) -> None:
    """`cvt`: from one type to another."""
    try:
        spec = conversions.parse(instruction.modifiers)
    except ValueError as error:
        raise Problem(f"has a form that is not modelled ({error})") from error
    d, *sources = instruction.operands
    pairs = spec.target.endswith("x2")
    made = conversions.convert_pair(spec) if pairs else conversions.convert(spec)
    given = ", ".join(writer.array(x, spec.source) for x in sources)
    writer.write(d, spec.target, f"{writer.constant(made)}({given})")


def _none(*modifiers: str) -> frozenset[str]:
    return frozenset(modifiers)


_COMPARISONS = frozenset({*comparisons.FLOATS, *comparisons.INTEGERS, *comparisons.JOINS})
_WIDE_FLOATS = frozenset({"f32", "f64"})
# float64 is rounded to nearest only
_ROUNDED = (
    Row(frozenset({"f64"}), _none("rn"), floating),
    Row(FLOATS - {"f64"}, MODES | {"ftz", "sat", "relu"}, floating),
)
_COMPARED = INTEGERS | UNTYPED | HALVES | {"f16x2", "bf16x2"} | _WIDE_FLOATS
_ROUGH = frozenset({"approx", "full", "ftz"})
_CVT = MODES | {"rni", "rzi", "rmi", "rpi", "rna", "ftz", "sat", "relu", "satfinite"}
_ANY = frozenset(DTYPES)
_B32 = frozenset({"b32"})

ROWS: dict[str, tuple[Row, ...]] = {
    **{
        name: (
            Row(INTEGERS, _none(), expression(PLAIN[name])),
            Row(frozenset({"s32"}), _none("sat"), function(clamped)),
            *_ROUNDED,
        )
        for name, clamped in (("add", integers.add_sat), ("sub", integers.sub_sat))
    },
    "mul": (Row(INTEGERS, _none("lo", "hi", "wide"), wide), *_ROUNDED),
    "mad": (Row(INTEGERS, _none("lo", "hi", "wide"), wide), *_ROUNDED),
    "mul24": (Row(WIDE, _none("lo", "hi"), short),),
    "mad24": (Row(WIDE, _none("lo", "hi"), short),),
    "sad": (Row(INTEGERS, _none(), function(integers.sad)),),
    "dp4a": (Row(WIDE, _none(), dot),),
    "fma": _ROUNDED,
    "div": (
        Row(INTEGERS, _none(), function(integers.divide)),
        Row(_WIDE_FLOATS, _none("rn", "ftz"), floating),
        Row(frozenset({"f32"}), _ROUGH, rough),
    ),
    "rem": (Row(INTEGERS, _none(), function(integers.remainder)),),
    **{
        name: (
            Row(INTEGERS, _none(), function(bound)),
            Row(FLOATS, _none("ftz", "NaN", "xorsign", "abs"), extreme),
        )
        for name, bound in (("min", np.minimum), ("max", np.maximum))
    },
    "abs": (
        Row(INTEGERS, _none(), function(np.abs)),
        Row(FLOATS, _none("ftz"), signs(floats.absolute)),
    ),
    "neg": (
        Row(INTEGERS, _none(), function(np.negative)),
        Row(FLOATS, _none("ftz"), signs(floats.negate)),
    ),
    "copysign": (Row(_WIDE_FLOATS, _none(), signs(floats.copysign)),),
    **{
        name: (Row(_WIDE_FLOATS, _none("rn", "ftz"), floating), Row(FLOATS, _ROUGH, rough))
        for name in ("rcp", "sqrt")
    },
    **{
        name: (Row(FLOATS, _ROUGH, rough),)
        for name in ("ex2", "lg2", "rsqrt", "sin", "cos", "tanh")
    },
    "testp": (Row(_WIDE_FLOATS, frozenset(floats.TESTS), test),),
    **{
        name: (Row(UNTYPED | {"pred"}, _none(), expression(text)),)
        for name, text in (
            ("and", "{0} & {1}"),
            ("or", "{0} | {1}"),
            ("xor", "{0} ^ {1}"),
            ("not", "~{0}"),
        )
    },
    "shl": (Row(UNTYPED, _none(), shift),),
    "shr": (Row(UNTYPED | INTEGERS, _none(), shift),),
    "shf": (Row(_B32, _none("l", "r", "wrap", "clamp"), funnel),),
    "prmt": (Row(_B32, _none("f4e", "b4e", "rc8", "ecl", "ecr", "rc16"), permute),),
    "lop3": (Row(_B32, _none(), logic),),
    "bfe": (Row(INTEGERS, _none(), function(integers.extract, "", "u32", "u32")),),
    "bfi": (Row(UNTYPED, _none(), function(integers.insert, "", "", "u32", "u32")),),
    "bfind": (
        Row(INTEGERS, _none(), function(integers.find, result="u32")),
        Row(
            INTEGERS, _none("shiftamt"), function(partial(integers.find, shift=True), result="u32")
        ),
    ),
    "popc": (Row(UNTYPED, _none(), function(integers.population, result="u32")),),
    "clz": (Row(UNTYPED, _none(), function(integers.leading_zeros, result="u32")),),
    "brev": (Row(UNTYPED, _none(), function(integers.reverse)),),
    "mov": (Row(_ANY, _none(), move),),
    "cvta": (Row(frozenset({"u64"}), _none("to", "global"), to_address),),
    "selp": (Row(_ANY, _none(), select),),
    "setp": (Row(_COMPARED, _COMPARISONS | {"ftz"}, compare),),
    "cvt": (Row(_ANY, _CVT, convert),),
}
