"""Where the threads of a warp hold the numbers of matrices: index tables, and `mma.sync`.

One rule covers every shape of `mma.sync` that sm_75 to sm_120 have for 8, 16, 32 and 64 bits, and
operand A and the result of `wgmma`. With group g = lane / 4 and place t = lane % 4, register j
holds e numbers: of A at row g + 8 (j % 2), columns 4 e (j / 2) + e t + i; of B at rows
4 e j + e t + i, column g; of C at row g + 8 (j / 2), column 2 t + j % 2. Source: PTX ISA 9.1,
sections 9.7.14.5.2 to 9.7.14.5.10 and 9.7.15.5.1.1. Matrices of 8 rows have no second half.

`ldmatrix` and `stmatrix`: sections 9.7.14.5.15 and 9.7.14.5.16.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .formats import DTYPES, Array, canonical, decode, pack, truncate_tf32
from .products import Adder, accumulate

Index = NDArray[np.int64]
_LANE = np.arange(32)
_GROUP, _PLACE = _LANE // 4, _LANE % 4
# size in bytes of one number of each operand type
SIZES = {"f64": 8, "tf32": 4, "f16": 2, "bf16": 2, "s8": 1, "u8": 1, "e4m3": 1, "e5m2": 1}


# the shapes of `mma.sync` by the size of a number, and the bytes along k of `wgmma`
SHAPES: dict[int, frozenset[tuple[int, int, int]]] = {
    1: frozenset({(8, 8, 16), (16, 8, 16), (16, 8, 32)}),
    2: frozenset({(16, 8, 8), (16, 8, 16)}),
    4: frozenset({(16, 8, 4), (16, 8, 8)}),
    8: frozenset({(8, 8, 4), (16, 8, 4), (16, 8, 8), (16, 8, 16)}),
}
_GROUP_BYTES = 32


@dataclass(frozen=True)
class Mma:
    """A matrix instruction: its shape, and the types of D, A and B."""

    m: int
    n: int
    k: int
    result: str
    left: str
    right: str
    satfinite: bool = False


_SHAPE = re.compile(r"m(\d+)n(\d+)k(\d+)")
_WORDS = {"sync", "aligned", "row", "col", "satfinite", "mma_async"}


def parse(modifiers: Sequence[str]) -> Mma:
    """Read the modifiers of `mma.sync` or `wgmma.mma_async`.

    Raises ValueError for a form that is not modelled: single bits, 4-bit integers, sparse or
    scaled matrices, and `m8n8k4` of f16, which no GPU since sm_75 has.
    """
    shapes = [found for m in modifiers if (found := _SHAPE.fullmatch(m))]
    types = [m for m in modifiers if m in SIZES or m in ("f32", "s32")]
    rest = [m for m in modifiers if m not in (*_WORDS, *types) and not _SHAPE.fullmatch(m)]
    wrong = ValueError(f"a product of matrices that is not modelled: {'.'.join(modifiers)}")
    if len(shapes) != 1 or rest or len(types) not in (3, 4) or types[1] not in SIZES:
        raise wrong
    m, n, k = map(int, shapes[0].groups())
    size = SIZES[types[1]]
    known = (m, n, k) in SHAPES[size] or (m == 64 and k * size == _GROUP_BYTES)
    if not known or size != SIZES.get(types[2]) or types[0] != types[-1 if types[3:] else 0]:
        raise wrong
    return Mma(m, n, k, types[0], types[1], types[2], "satfinite" in modifiers)


@lru_cache
def left_places(m: int, k: int, size: int) -> Index:
    """Return, for each number of A (m, k), its index among lanes, registers and parts, in order.

    `m` is 8 or 16; `size` is that of a number in bytes.
    """
    each = max(4 // size, 1)
    halves = m // 8
    count = halves * (k // (4 * each))
    row, column = np.arange(m)[:, None], np.arange(k)[None, :]
    register = column // (4 * each) * halves + row // 8
    lane = row % 8 * 4 + column % (4 * each) // each
    return np.asarray((lane * count + register) * each + column % each)


@lru_cache
def right_places(n: int, k: int, size: int) -> Index:
    """Return, for each number of B (k, n) with n = 8, its index among lanes, registers, parts."""
    each = max(4 // size, 1)
    count = k // (4 * each)
    row, column = np.arange(k)[:, None], np.arange(n)[None, :]
    lane = column * 4 + row % (4 * each) // each
    return np.asarray((lane * count + row // (4 * each)) * each + row % each)


@lru_cache
def result_places(m: int, n: int) -> Index:
    """Return, for each lane and each of its numbers of C, where that is in C (m, n), row-major.

    `m` is 8 or 16, `n` a multiple of 8.
    """
    halves = m // 8
    j = np.arange(halves * n // 4)[None, :]
    row = _GROUP[:, None] + 8 * (j // 2 % halves)
    column = 8 * (j // (2 * halves)) + 2 * _PLACE[:, None] + j % 2
    return np.asarray(row * n + column)


def numbers(registers: Sequence[Array], kind: str) -> Array:
    """Return the numbers of a fragment, (warps, 32 x registers x parts), as float64 or int64.

    The lower 13 bits of TF32 numbers are cut, as tensor cores do.
    """
    bits = np.stack(registers, 1).reshape(len(registers[0]) // 32, -1)
    return values(bits, kind)


def values(bits: Array, kind: str) -> Array:
    """Return bits that hold numbers of an operand type as float64, or int64 if they are whole."""
    if kind == "tf32":
        return truncate_tf32(bits).astype(np.float64)
    found = np.ascontiguousarray(bits).view(DTYPES[kind])
    if kind in ("s8", "u8"):
        return found.astype(np.int64)
    return decode(found, kind).astype(np.float64)


def multiply(
    spec: Mma,
    a: Sequence[Array],
    b: Sequence[Array],
    c: Sequence[Array],
    adder: Adder | None = None,
) -> list[Array]:
    """Return the registers of D = A B + C for every warp (`mma.sync`).

    Each register is an array with an entry per thread, in the dtype of C for c (packed f16 in
    uint32) and of bits for a and b (float64 for f64).
    """
    left = numbers(a, spec.left)[:, left_places(spec.m, spec.k, SIZES[spec.left])]
    right = numbers(b, spec.right)[:, right_places(spec.n, spec.k, SIZES[spec.right])]
    places = result_places(spec.m, spec.n)
    total = matrix_of(spec, c, places)
    return registers_of(spec, product(spec, left, right, total, adder), places)


def product(spec: Mma, a: Array, b: Array, c: Array, adder: Adder | None) -> Array:
    """Return c + a b for stacks of matrices, in the numbers of the result."""
    if spec.result != "s32":
        return accumulate(a, b, c, spec.left, spec.result, adder)
    whole = np.matmul(a, b) + c
    return np.clip(whole, -(2**31), 2**31 - 1) if spec.satfinite else whole.astype(np.int32)


def matrix_of(spec: Mma, registers: Sequence[Array], places: Index) -> Array:
    """Return the accumulators of every warp as a matrix, (warps, rows, n)."""
    x = np.stack(registers, 1)
    warps = len(x) // 32
    parts = (x.view(np.float16) if spec.result == "f16" else x).reshape(warps, -1)
    made = np.empty_like(parts)
    made[:, places.ravel()] = parts
    wide = np.int64 if spec.result == "s32" else np.float64
    return made.reshape(warps, -1, spec.n).astype(wide)


def registers_of(spec: Mma, matrix: Array, places: Index) -> list[Array]:
    """Return a matrix of every warp (warps, m, n) as registers with an entry per thread."""
    found = matrix.reshape(len(matrix), -1)[:, places].reshape(-1, places.shape[1])
    typed = found.astype({"s32": np.int32}.get(spec.result, DTYPES[spec.result]))
    typed = typed if spec.result in ("s32", "f64") else canonical(typed)
    columns = [np.ascontiguousarray(typed[:, j]) for j in range(typed.shape[1])]
    if spec.result != "f16":
        return columns
    return [pack(low, high) for low, high in zip(columns[::2], columns[1::2])]


def matrix_addresses(address: Array, count: int, transposed: bool) -> tuple[Array, int]:
    """Return the byte addresses that `ldmatrix` or `stmatrix` touches, and the size of each.

    `address` has an entry per thread: lanes 8 k to 8 k + 7 have those of the rows of matrix k.
    The result has an array of entries per thread for each register, (count, threads) of 4 bytes;
    transposed, one for each half of a register, (count, 2, threads) of 2 bytes.
    """
    rows = address.reshape(-1, 32)
    matrix = 8 * np.arange(count)[:, None]
    if not transposed:
        source = matrix + _GROUP
        found = rows[:, source].transpose(1, 0, 2) + (4 * _PLACE).astype(rows.dtype)
        return found.reshape(count, -1), 4
    source = (matrix[:, :, None] + 2 * _PLACE) + np.arange(2)[None, :, None]
    found = rows[:, source].transpose(1, 2, 0, 3) + (2 * _GROUP).astype(rows.dtype)
    return found.reshape(count, 2, -1), 2
