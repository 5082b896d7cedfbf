"""Instructions of whole warps: shuffles, votes, reductions, elections, and products of matrices."""

from __future__ import annotations

from ..arithmetic import fragments, warps
from ..arithmetic.formats import DTYPES
from ..program.program import Instruction, Vector
from ..program.report import Problem
from .memory import SPACES
from .writer import Row, Writer, pair, types_of, vector


def shuffle(writer: Writer, instruction: Instruction) -> None:
    """`shfl.sync`: each thread reads a register of another one."""
    result, a, b, c, *members = instruction.operands
    mode = next(m for m in instruction.modifiers if m in ("up", "down", "bfly", "idx"))
    writer.now(instruction)
    names = [writer.array(x, "u32") for x in (b, c)]
    if all(writer.read(x, "u32") in writer.scalars for x in (b, c)):
        lanes = writer.constant(warps.shuffle_lanes(mode, *(writer.names[x] for x in names)))
    else:
        lanes = f"{writer.constant(warps.shuffle_lanes)}({mode!r}, {', '.join(names)})"
    asked = writer.array(members[0], "u32")
    got = writer.let(f"S.shuffle({writer.array(a, 'u32')}, {lanes}, {asked}, {writer.mask})")
    first, second = pair(result)
    writer.write(first, "u32", f"{got}[0]")
    writer.write(second, "pred", f"{got}[1]")


def vote(writer: Writer, instruction: Instruction) -> None:
    """`vote.sync`: predicates of a warp, joined."""
    d, p, members = instruction.operands
    mode = next(m for m in instruction.modifiers if m in ("all", "any", "uni", "ballot"))
    writer.now(instruction)
    given = f"{writer.array(p, 'pred')}, {writer.array(members, 'u32')}, {writer.mask}"
    writer.write(d, "u32" if mode == "ballot" else "pred", f"S.vote({mode!r}, {given})")


def reduce(writer: Writer, instruction: Instruction) -> None:
    """`redux.sync`: the sum, least, greatest, … of a warp."""
    kind = types_of(instruction)[-1]
    d, a, members = instruction.operands
    mode = next(m for m in instruction.modifiers if m != "sync" and m != kind)
    writer.now(instruction)
    given = f"{writer.array(a, kind)}, {writer.array(members, 'u32')}, {writer.mask}"
    writer.write(d, kind, f"S.reduce({mode!r}, {given})")


def match(writer: Writer, instruction: Instruction) -> None:
    """`match.sync`: the threads of a warp that have the same number."""
    kind = types_of(instruction)[-1]
    result, a, members = instruction.operands
    mode = "all" if "all" in instruction.modifiers else "any"
    writer.now(instruction)
    given = f"{writer.array(a, kind)}, {writer.array(members, 'u32')}, {writer.mask}"
    got = writer.let(f"S.match({mode!r}, {given})")
    first, second = pair(result)
    writer.write(first, "u32", f"{got}[0]")
    writer.write(second, "pred", f"{got}[1]")


def elect(writer: Writer, instruction: Instruction) -> None:
    """`elect.sync`: one thread of a warp."""
    result, members = instruction.operands
    first, second = pair(result)
    writer.now(instruction)
    got = writer.let(f"S.elect({writer.array(members, 'u32')}, {writer.mask})")
    writer.write(first, "u32", f"{got}[0]")
    writer.write(second, "pred", f"{got}[1]")


def active(writer: Writer, instruction: Instruction) -> None:
    """`activemask`: the threads that execute this statement."""
    writer.write(instruction.operands[0], "u32", f"S.active({writer.mask})")


def meet(writer: Writer, instruction: Instruction) -> None:
    """`bar.warp.sync`: the threads of a warp are in step already."""
    writer.now(instruction)
    writer.lines.append(f"S.meet({writer.array(instruction.operands[0], 'u32')}, {writer.mask})")


def load_matrices(writer: Writer, instruction: Instruction) -> None:
    """`ldmatrix`: matrices of 8 x 8 numbers of 16 bits, from shared memory."""
    d, place = instruction.operands
    names = vector(d)
    writer.now(instruction)
    where, trans = writer.address(place, True), "trans" in instruction.modifiers
    got = writer.let(f"S.shared.load_matrices({where}, {len(names)}, {trans}, {writer.mask})")
    for k, register in enumerate(names):
        writer.write(register, "u32", f"{got}[{k}]")


def store_matrices(writer: Writer, instruction: Instruction) -> None:
    """`stmatrix`: the opposite of `ldmatrix`."""
    place, source = instruction.operands
    writer.now(instruction)
    where, trans = writer.address(place, True), "trans" in instruction.modifiers
    values = writer.arrays(vector(source), "u32")
    writer.lines.append(f"S.shared.store_matrices({where}, {values}, {trans}, {writer.mask})")


def product(writer: Writer, instruction: Instruction) -> None:
    """`mma.sync`: D = A B + C for each warp."""
    spec = _spec(instruction)
    d, a, b, c = (vector(x) for x in instruction.operands)
    kind = _accumulator(spec)
    left = "f64" if spec.left == "f64" else "u32"
    writer.now(instruction)
    given = f"{writer.arrays(a, left)}, {writer.arrays(b, left)}, {writer.arrays(c, kind)}"
    got = writer.let(f"S.product({writer.constant(spec)}, {given}, {writer.mask})")
    for k, register in enumerate(d):
        writer.write(register, kind, f"{got}[{k}]")


def group_product(writer: Writer, instruction: Instruction) -> None:
    """`wgmma`: products of four warps, of matrices in shared memory or registers; done at once."""
    flags = instruction.modifiers
    writer.now(instruction)
    if flags[0] in ("fence", "commit_group", "wait_group"):
        return
    spec = _spec(instruction)
    d, a, b, keep, *more = instruction.operands
    # integers have neither signs nor transposed operands
    numbers = [writer.literal(x) for x in more]
    signs = (numbers[0], numbers[1]) if numbers else (1, 1)
    turned = [bool(x) for x in numbers[2:]]
    # operand A in registers is never transposed, and is not asked about
    turned = [False] * (2 - len(turned)) + turned
    kind = _accumulator(spec)
    left = writer.arrays(a, "u32") if isinstance(a, Vector) else writer.array(a, "u64")
    totals, kept = writer.arrays(d, kind), writer.array(keep, "pred")
    got = writer.let(
        f"S.group_product({writer.constant(spec)}, {left}, {writer.array(b, 'u64')}, {totals}, "
        f"{kept}, {signs}, {tuple(turned)}, {writer.mask})"
    )
    for k, register in enumerate(d):
        writer.write(register, kind, f"{got}[{k}]")


def _spec(instruction: Instruction) -> fragments.Mma:
    try:
        return fragments.parse(instruction.modifiers)
    except ValueError as error:
        raise Problem(f"has {error}") from error


def _accumulator(spec: fragments.Mma) -> str:
    return "u32" if spec.result == "f16" else spec.result


_NONE, _B32 = frozenset({""}), frozenset({"b32"})
_SHAPES = frozenset(
    {f"m{m}n8k{k}" for m in (8, 16) for k in (4, 8, 16, 32)}
    | {f"m64n{n}k{k}" for n in range(8, 257, 8) for k in (8, 16, 32)}
)
_MATRIX = frozenset({"sync", "aligned", "m8n8", "x1", "x2", "x4", "trans", *SPACES})
_PRODUCT = _SHAPES | {"sync", "aligned", "row", "col", "satfinite"}
ROWS: dict[str, tuple[Row, ...]] = {
    "shfl": (Row(_B32, frozenset({"sync", "up", "down", "bfly", "idx"}), shuffle),),
    "vote": (
        Row(frozenset({"pred", "b32"}), frozenset({"sync", "all", "any", "uni", "ballot"}), vote),
    ),
    "redux": (
        Row(
            frozenset({"u32", "s32", "b32"}),
            frozenset({"sync", "add", "min", "max", "and", "or", "xor"}),
            reduce,
        ),
    ),
    "match": (Row(frozenset({"b32", "b64"}), frozenset({"sync", "any", "all"}), match),),
    "elect": (Row(_NONE, frozenset({"sync"}), elect),),
    "activemask": (Row(_B32, frozenset(), active),),
    "bar": (Row(_NONE, frozenset({"warp", "sync"}), meet),),
    "ldmatrix": (Row(frozenset({"b16"}), _MATRIX, load_matrices),),
    "stmatrix": (Row(frozenset({"b16"}), _MATRIX, store_matrices),),
    "mma": (Row(frozenset(DTYPES), _PRODUCT, product),),
    "wgmma": (
        Row(frozenset(DTYPES), _PRODUCT | {"mma_async"}, group_product),
        Row(
            _NONE,
            frozenset({"fence", "commit_group", "wait_group", "sync", "aligned"}),
            group_product,
        ),
    ),
}
