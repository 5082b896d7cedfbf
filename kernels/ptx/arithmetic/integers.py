"""Integer and bit instructions of PTX on arrays with one entry per thread.

Source: PTX ISA 9.1, sections 9.7.1 (integers), 9.7.8 (logic and shifts), 9.7.9.7 (prmt). Overflow
wraps, as numpy's does.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from .formats import BITS, Array


def _width(a: Array) -> int:
    return 8 * a.dtype.itemsize


def _unsigned(a: Array) -> Array:
    return np.ascontiguousarray(a).view(BITS[a.dtype.itemsize])


def _double(a: Array) -> Array:
    """The same integers in twice the width."""
    return a.astype(np.dtype(f"{a.dtype.kind}{2 * a.dtype.itemsize}"))


def mul_lo(a: Array, b: Array) -> Array:
    """Return the lower half of the product."""
    return a * b


def mul_wide(a: Array, b: Array) -> Array:
    """Return the whole product, in twice the width."""
    return np.asarray(_double(a) * _double(b))


def mul_hi(a: Array, b: Array) -> Array:
    """Return the upper half of the product."""
    if a.dtype.itemsize < 8:
        width = _width(a)
        whole = mul_wide(a, b)
        return (whole >> whole.dtype.type(width)).astype(a.dtype)
    high = _high64(_unsigned(a), _unsigned(b))
    if a.dtype.kind == "i":  # each negative operand counted 2^64 too much
        high = high - np.where(a < 0, _unsigned(b), np.uint64(0))
        high = high - np.where(b < 0, _unsigned(a), np.uint64(0))
    return high.view(a.dtype)


def _high64(a: Array, b: Array) -> Array:
    """The upper 64 bits of products of unsigned numbers, by halves of 32 bits."""
    low, shift = np.uint64(0xFFFFFFFF), np.uint64(32)
    a0, a1, b0, b1 = a & low, a >> shift, b & low, b >> shift
    middle = a1 * b0 + ((a0 * b0) >> shift)
    other = a0 * b1 + (middle & low)
    return np.asarray(a1 * b1 + (middle >> shift) + (other >> shift))


def mul24(a: Array, b: Array, high: bool) -> Array:
    """Return the low or high 32 bits of the 48-bit product of the lower 24 bits."""
    shift = a.dtype.type(8)
    whole = _double((a << shift) >> shift) * _double((b << shift) >> shift)
    return (whole >> whole.dtype.type(16 if high else 0)).astype(a.dtype)


def divide(a: Array, b: Array) -> Array:
    """Return quotients, rounded toward zero.

    Division by zero is unspecified (9.7.1.8); all bits are set, as seen on GPUs.
    """
    safe = np.where(b == 0, b.dtype.type(1), b)
    if a.dtype.kind == "u":
        return np.where(b == 0, ~a.dtype.type(0), a // safe)
    size = _unsigned(np.abs(a)) // _unsigned(np.abs(safe))
    negative = (a < 0) != (b < 0)
    signed = np.where(negative, _unsigned(-size.view(a.dtype)), size).view(a.dtype)
    return np.where(b == 0, a.dtype.type(-1), signed)


def remainder(a: Array, b: Array) -> Array:
    """Return remainders with the sign of the dividend."""
    return np.asarray(a - divide(a, b) * b)


def sad(a: Array, b: Array, c: Array) -> Array:
    """Return c + |a - b|."""
    return c + np.where(a < b, b - a, a - b)


def add_sat(a: Array, b: Array) -> Array:
    """Add signed 32-bit integers, clamped to their range."""
    return np.clip(_double(a) + _double(b), -(2**31), 2**31 - 1).astype(a.dtype)


def sub_sat(a: Array, b: Array) -> Array:
    """Subtract signed 32-bit integers, clamped to their range."""
    return np.clip(_double(a) - _double(b), -(2**31), 2**31 - 1).astype(a.dtype)


def shift_left(a: Array, count: Array) -> Array:
    """Shift left by an unsigned 32-bit count; counts beyond the width give zero."""
    width = _width(a)
    moved = a << (count & np.uint32(width - 1)).astype(a.dtype)
    return np.where(count < width, moved, a.dtype.type(0))


def shift_right(a: Array, count: Array) -> Array:
    """Shift right, filling with the sign of signed numbers; counts are clamped to the width."""
    width = _width(a)
    if a.dtype.kind == "i":
        return np.asarray(a >> np.minimum(count, np.uint32(width - 1)).astype(a.dtype))
    moved = a >> (count & np.uint32(width - 1)).astype(a.dtype)
    return np.where(count < width, moved, a.dtype.type(0))


def funnel(a: Array, b: Array, count: Array, left: bool, wrap: bool) -> Array:
    """Shift the 64 bits of b (high) and a (low), and return 32 of them (`shf`, 9.7.8.7)."""
    n = count & np.uint32(31) if wrap else np.minimum(count, np.uint32(32))
    both = (b.astype(np.uint64) << np.uint64(32)) | a.astype(np.uint64)
    n = n.astype(np.uint64)
    return ((both << n) >> np.uint64(32) if left else both >> n).astype(np.uint32)


def _mask(kind: type[np.generic], length: Array) -> Array:
    """That many ones from the lowest bit on."""
    ones = np.full(length.shape, ~BITS[np.dtype(kind).itemsize](0))
    return ~shift_left(ones, length)


def extract(a: Array, position: Array, length: Array) -> Array:
    """Return the bit field of that position and length (`bfe`, 9.7.1.19)."""
    width = _width(a)
    position, length = position & np.uint32(255), length & np.uint32(255)
    field = shift_right(_unsigned(a), position)
    mask = _mask(a.dtype.type, length)
    if a.dtype.kind == "u":
        return field & mask
    last = np.minimum(position + length - np.uint32(1), np.uint32(width - 1))
    sign = ((shift_right(_unsigned(a), last) & BITS[a.dtype.itemsize](1)) != 0) & (length > 0)
    # the field ends where the number does
    inside = np.minimum(length, np.uint32(width) - np.minimum(position, np.uint32(width)))
    kept = _mask(a.dtype.type, inside)
    return np.where(sign, (field & kept) | ~kept, field & kept).view(a.dtype)


def insert(a: Array, b: Array, position: Array, length: Array) -> Array:
    """Return b with the lower bits of a as its field of that position and length (`bfi`)."""
    position, length = position & np.uint32(255), length & np.uint32(255)
    mask = shift_left(_mask(a.dtype.type, length), position)
    return np.asarray((b & ~mask) | (shift_left(a, position) & mask))


def population(a: Array) -> Array:
    """Count the bits that are set."""
    bits = np.unpackbits(_unsigned(a).reshape(-1, 1).view(np.uint8), axis=1)
    return bits.sum(1).astype(np.uint32).reshape(a.shape)


def _highest(a: Array) -> Array:
    """The position of the highest bit that is set, -1 for zero."""
    found, rest = np.zeros(a.shape, np.int64), _unsigned(a).copy()
    kind = rest.dtype.type
    for step in (32, 16, 8, 4, 2, 1):
        if step < _width(a):
            upper = rest >> kind(step)
            found += np.where(upper != 0, step, 0)
            rest = np.where(upper != 0, upper, rest)
    return np.where(rest == 0, -1, found)


def leading_zeros(a: Array) -> Array:
    """Count the zeros before the highest bit that is set."""
    return (_width(a) - 1 - _highest(a)).astype(np.uint32)


def find(a: Array, shift: bool = False) -> Array:
    """Return the position of the highest bit that differs from the sign (`bfind`).

    Without such a bit it is 0xffffffff. With `.shiftamt` it is the shift that brings it to the top.
    """
    plain = np.where(a < 0, ~a, a) if a.dtype.kind == "i" else a
    found = _highest(plain)
    moved = np.where(found < 0, -1, _width(a) - 1 - found) if shift else found
    return moved.astype(np.uint32)


def reverse(a: Array) -> Array:
    """Reverse the order of the bits."""
    swapped = _unsigned(a).byteswap().reshape(-1, 1).view(np.uint8)
    bits = np.unpackbits(swapped, axis=1)[:, ::-1].reshape(-1, a.dtype.itemsize, 8)[:, ::-1]
    packed = np.packbits(np.ascontiguousarray(bits), axis=2)
    return np.ascontiguousarray(packed).reshape(a.shape[0], -1).view(a.dtype)[:, 0]


def logic(a: Array, b: Array, c: Array, table: Array) -> Array:
    """Return the function of three bits that an 8-bit table defines, bit by bit (`lop3`)."""
    made = np.zeros_like(a)
    code = int(table.flat[0])
    for k in range(8):
        if code >> k & 1:
            terms = (x if k & bit else ~x for x, bit in ((a, 4), (b, 2), (c, 1)))
            first, second, third = terms
            made |= first & second & third
    return made


# the bytes that each mode of `prmt` takes, by the two lowest bits of c (9.7.9.7)
SELECTIONS: dict[str, tuple[tuple[int, int, int, int], ...]] = {
    "f4e": ((0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (3, 4, 5, 6)),
    "b4e": ((0, 7, 6, 5), (1, 0, 7, 6), (2, 1, 0, 7), (3, 2, 1, 0)),
    "rc8": ((0, 0, 0, 0), (1, 1, 1, 1), (2, 2, 2, 2), (3, 3, 3, 3)),
    "ecl": ((0, 1, 2, 3), (1, 1, 2, 3), (2, 2, 2, 3), (3, 3, 3, 3)),
    "ecr": ((0, 0, 0, 0), (0, 1, 1, 1), (0, 1, 2, 2), (0, 1, 2, 3)),
    "rc16": ((0, 1, 0, 1), (2, 3, 2, 3), (0, 1, 0, 1), (2, 3, 2, 3)),
}


def permute(a: Array, b: Array, c: Array, mode: str | None = None) -> Array:
    """Return four bytes chosen from the eight of a and b (`prmt`).

    Without a mode, each four bits of c choose one; their highest bit spreads the byte's sign.
    """
    both = (b.astype(np.uint64) << np.uint64(32)) | a.astype(np.uint64)
    made = np.zeros_like(a)
    table = np.array(SELECTIONS[mode], np.uint32) if mode else None
    for k in range(4):
        if table is not None:
            pick = table[c & np.uint32(3), k]
        else:
            pick = (c >> np.uint32(4 * k)) & np.uint32(15)
        shift = ((pick & np.uint32(7)) << np.uint32(3)).astype(np.uint64)
        byte = ((both >> shift) & np.uint64(255)).astype(np.uint32)
        spread = np.where(byte & np.uint32(128), np.uint32(255), np.uint32(0))
        made |= np.where(pick & np.uint32(8), spread, byte) << np.uint32(8 * k)
    return made


def dot4(a: Array, b: Array, c: Array) -> Array:
    """Return c plus the sum of the products of four bytes (`dp4a`)."""
    parts = (x.view(np.dtype(f"{x.dtype.kind}1")).reshape(*x.shape, 4) for x in (a, b))
    left, right = (np.ascontiguousarray(x).astype(np.int64) for x in parts)
    return (c.astype(np.int64) + (left * right).sum(-1)).astype(c.dtype)


Function = Callable[..., Any]
# opcodes whose operands and result all have the type of the instruction
SAME: dict[str, Function] = {
    "add": np.add,
    "sub": np.subtract,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "not": np.invert,
    "neg": np.negative,
    "abs": np.abs,
    "min": np.minimum,
    "max": np.maximum,
    "div": divide,
    "rem": remainder,
    "cnot": lambda a: (a == 0).astype(a.dtype),
}
# opcodes that return an unsigned 32-bit number
COUNTS: dict[str, Function] = {"popc": population, "clz": leading_zeros, "bfind": find}
MUL24: dict[str, Function] = {
    "lo": partial(mul24, high=False),
    "hi": partial(mul24, high=True),
}
