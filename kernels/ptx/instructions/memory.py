"""Loads, stores, copies under way, atomics, fences and what orders memory."""

from __future__ import annotations

import functools
from typing import Any

from ..arithmetic.formats import DTYPES
from ..program.program import Instruction, Program
from ..program.report import Problem
from .writer import SIZES, Row, Writer, types_of, vector

SPACES = ("global", "shared", "shared::cta", "local", "param", "const")
ORDERS = ("relaxed", "acquire", "release", "acq_rel", "volatile")
SCOPES = ("cta", "cluster", "gpu", "sys")
_VECTORS = {"v2": 2, "v4": 4, "v8": 8}
# hints about caches, which change no result
_HINTS = frozenset(
    {"ca", "cg", "cs", "lu", "cv", "wb", "wt", "weak"}
    | {f"L1::{x}" for x in ("evict_normal", "evict_unchanged", "evict_first", "evict_last")}
    | {"L1::no_allocate", "L2::cache_hint", "L2::64B", "L2::128B", "L2::256B"}
    | {f"L2::{x}" for x in ("evict_normal", "evict_first", "evict_last")}
)
_ACCESS = _HINTS | {*SPACES, *ORDERS, *SCOPES, *_VECTORS}
# the attribute of a thread block that has each space
_MEMORY = {"global": "tensors", "shared": "shared", "local": "local"}
# spaces whose addresses are read as 32 bits
_SMALL = ("shared", "local")
_ATOMICS = ("add", "min", "max", "and", "or", "xor", "exch", "cas", "inc", "dec")
_ANY = frozenset(DTYPES)


def _one(instruction: Instruction, among: tuple[str, ...], otherwise: str) -> str:
    return next((m for m in instruction.modifiers if m in among), otherwise)


def _space(instruction: Instruction) -> str:
    """Return the state space of an access; a generic address is one of global memory."""
    return _one(instruction, SPACES, "global").removesuffix("::cta").replace("const", "global")


def _ordered(writer: Writer, instruction: Instruction, where: str) -> str:
    """Write the effect that an access has on the order of others; return its argument."""
    order = _one(instruction, ORDERS, "")
    if not order:
        return ""
    order = "relaxed" if order == "volatile" else order
    scope = _one(instruction, SCOPES, "gpu")
    writes = instruction.opcode == "st"
    writer.lines.append(
        f"S.synchronize({where}, {order!r}, {scope!r}, {writer.mask}, writes={writes})"
    )
    return ", strong=True"


@functools.lru_cache(maxsize=512)
def smallest_access(program: Program) -> int:
    """Return the bytes of the smallest access of global memory in a program."""
    sizes = [
        SIZES[types_of(i)[-1]] * _VECTORS.get(_one(i, tuple(_VECTORS), ""), 1)
        for i in program.instructions
        if i.opcode in ("ld", "st") and _space(i) == "global"
    ]
    copied = [
        int(i.operands[2], 0)
        for i in program.instructions
        if i.opcode == "cp" and set(i.modifiers) & {"ca", "cg"}
    ]
    return min([*sizes, *copied], default=1)


def load(writer: Writer, instruction: Instruction) -> None:
    """`ld`, of a parameter, local, shared or global memory."""
    kind, space = types_of(instruction)[-1], _space(instruction)
    d, place, *_ = instruction.operands
    if space == "param":
        given = f"{place.base!r}, {place.offset}, {writer.constant(DTYPES[kind])}"
        writer.write(d, kind, f"S.parameter({given})")
        return
    names = vector(d)
    if len(names) != _VECTORS.get(_one(instruction, tuple(_VECTORS), ""), 1):
        raise Problem("has a vector of another length than its modifier says")
    writer.now(instruction)
    where = writer.address(place, space in _SMALL)
    more = ", nc=True" if "nc" in instruction.modifiers else ""
    strong = bool(set(instruction.modifiers) & set(ORDERS))
    more += ", strong=True" if strong else ""
    unsigned = f"u{8 * SIZES[kind]}"
    got = writer.let(
        f"S.{_MEMORY[space]}.load({where}, {SIZES[kind]}, {len(names)}, {writer.mask}{more})"
    )
    _ordered(writer, instruction, where)
    view = "" if kind == unsigned else f".view({writer.constant(DTYPES[kind])})"
    for k, register in enumerate(names):
        writer.write(register, kind, f"{got}[{k}]{view}")


def store(writer: Writer, instruction: Instruction) -> None:
    """`st`, to local, shared or global memory."""
    kind, space = types_of(instruction)[-1], _space(instruction)
    place, source, *_ = instruction.operands
    if space == "param":
        raise Problem("stores a parameter, which is not modelled")
    names = vector(source)
    writer.now(instruction)
    where = writer.address(place, space in _SMALL)
    values = writer.arrays(names, f"u{8 * SIZES[kind]}")
    more = _ordered(writer, instruction, where)
    writer.lines.append(
        f"S.{_MEMORY[space]}.store({where}, {SIZES[kind]}, {values}, {writer.mask}{more})"
    )


def copy(writer: Writer, instruction: Instruction) -> None:
    """`cp.async`: copies under way, their groups, and waiting for them."""
    flags = set(instruction.modifiers)
    writer.now(instruction)
    if "commit_group" in flags:
        writer.lines.append(f"S.copies.commit({writer.mask})")
    elif flags & {"wait_group", "wait_all"}:
        left = writer.literal(instruction.operands[0]) if "wait_group" in flags else -1
        writer.lines.append(f"S.copies.wait({left}, {writer.mask})")
    elif flags & {"ca", "cg"}:
        to, source, size, *given = instruction.operands
        hinted = "L2::cache_hint" in flags
        given = given[: len(given) - hinted]
        where = f"{writer.address(to, True)}, {writer.address(source, False)}"
        read = writer.array(given[0], "u32") if given else "None"
        writer.lines.append(
            f"S.copies.start({where}, {writer.literal(size)}, {read}, {writer.mask})"
        )
    else:
        raise Problem("has a form of cp that is not modelled")


def atomic(writer: Writer, instruction: Instruction) -> None:
    """`atom` and `red`: read, change and write in one step."""
    kind = types_of(instruction)[-1]
    operands: list[Any] = list(instruction.operands)
    d = operands.pop(0) if instruction.opcode == "atom" else "_"
    what = _one(instruction, _ATOMICS, "")
    order, scope = _one(instruction, ORDERS, "relaxed"), _one(instruction, SCOPES, "gpu")
    space = _space(instruction)
    if not what or kind in ("f16", "bf16", "f16x2", "bf16x2"):
        raise Problem(f"has a form of {instruction.opcode} that is not modelled")
    writer.now(instruction)
    where = writer.address(operands[0], space == "shared")
    values = writer.arrays(operands[1:3] if what == "cas" else operands[1:2], kind)
    got = writer.let(
        f"S.{_MEMORY[space]}.atomic({where}, {writer.constant(DTYPES[kind])}, "
        f"{what!r}, {values}, {order!r}, {scope!r}, {writer.mask})"
    )
    writer.write(d, kind, got)


def fence(writer: Writer, instruction: Instruction) -> None:
    """`fence` and `membar`."""
    flags = instruction.modifiers
    writer.now(instruction)
    if "proxy" in flags:
        writer.lines.append("S.shared.fence_proxy()")
    elif instruction.opcode == "membar":
        scope = {"cta": "cta", "gl": "gpu", "sys": "sys"}[flags[0]]
        writer.lines.append(f"S.fence({scope!r}, {writer.mask})")
    else:
        scope = _one(instruction, SCOPES, "gpu")
        writer.lines.append(f"S.fence({scope!r}, {writer.mask})")


def nothing(writer: Writer, instruction: Instruction) -> None:
    """A statement without an effect on results."""


_FENCES = frozenset({"proxy", "async", "alias", "async.global", "acq_rel", "sc", *SCOPES, "gl"})
_NONE = frozenset({""})
ROWS: dict[str, tuple[Row, ...]] = {
    "ld": (Row(_ANY, _ACCESS | {"nc"}, load),),
    "ldu": (Row(_ANY, _ACCESS, load),),
    "st": (Row(_ANY, _ACCESS, store),),
    "cp": (
        Row(
            _NONE,
            _HINTS
            | {"async", "commit_group", "wait_group", "wait_all", "shared", "global"}
            | {"shared::cta"},
            copy,
        ),
    ),
    **{
        name: (Row(_ANY, _HINTS | {*_ATOMICS, *SPACES, *ORDERS, *SCOPES}, atomic),)
        for name in ("atom", "red")
    },
    **{
        name: (Row(_NONE, _FENCES | {"shared::cta", "shared", "global"}, fence),)
        for name in ("fence", "membar")
    },
    "prefetch": (Row(_NONE, frozenset({"global", "L1", "L2", *_HINTS}), nothing),),
    "applypriority": (Row(_NONE, _HINTS | {"global"}, nothing),),
    "nanosleep": (Row(frozenset({"u32"}), frozenset(), nothing),),
    "griddepcontrol": (Row(_NONE, frozenset({"launch_dependents", "wait"}), nothing),),
}
