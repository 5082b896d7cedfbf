"""Products of a warp group (`wgmma.mma_async`): descriptors of matrices in shared memory.

Source: PTX ISA 9.1, sections 9.7.15.5.1.2 (canonical layouts, descriptors) and 9.7.15.5.2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .formats import BITS, Array
from .fragments import (
    SIZES,
    Mma,
    left_places,
    matrix_of,
    numbers,
    product,
    registers_of,
    result_places,
    values,
)
from .products import Adder

# the bytes of a swizzled row, by the mode in bits 62 and 63; 16: no swizzle
SPANS = {0: 16, 1: 128, 2: 64, 3: 32}
# reads numbers of that many bytes from shared memory: addresses to unsigned bits
Read = Callable[[Array, int], Array]


@dataclass(frozen=True)
class Descriptor:
    """A matrix in shared memory; addresses and offsets are in bytes."""

    start: int
    leading: int
    stride: int
    base: int
    span: int


def descriptor(bits: int) -> Descriptor:
    """Read the 64 bits of a matrix descriptor (9.7.15.5.1.2.2)."""
    field = lambda low: (bits >> low & 0x3FFF) << 4
    return Descriptor(field(0), field(16), field(32), bits >> 49 & 7, SPANS[bits >> 62 & 3])


def addresses(matrix: Descriptor, rows: int, k: int, size: int, transposed: bool) -> Array:
    """Return the byte address of each number of a matrix (rows, k); rows are those of A or B^T.

    `transposed` says that neighbours along the rows are adjacent (M- or N-major). The layouts are
    those of the table of canonical layouts; swizzling moves chunks of 16 bytes within a span.
    """
    row, column = np.arange(rows)[:, None], np.arange(k)[None, :]
    span, plain = matrix.span, matrix.span == 16
    if transposed:
        byte, line = row * size, column
        outer, inner = (matrix.stride, matrix.leading) if plain else (matrix.leading, matrix.stride)
        offset = byte % span + byte // span * outer + line % 8 * span + line // 8 * inner
    else:
        byte, line = column * size, row
        outer = matrix.leading if plain else 0
        within = byte % span + byte // span * outer if plain else byte
        offset = within + line % 8 * span + line // 8 * matrix.stride
    place = matrix.start + offset
    # a pattern repeats every 8 spans; `base` counts the 128 bytes by which it starts late
    turn = ((place >> 7) - matrix.base) & (span // 16 - 1)
    return np.asarray(place ^ (turn << 4))


def multiply(
    spec: Mma,
    a: Sequence[Array] | Array,
    b: Array,
    d: Sequence[Array],
    read: Read,
    keep: Array | bool = True,
    signs: tuple[int, int] = (1, 1),
    transposed: tuple[bool, bool] = (False, False),
    adder: Adder | None = None,
) -> list[Array]:
    """Return the registers of D = A B + D, or A B where not `keep`, for every warp group.

    Registers have an entry per thread. `a` is a list of registers, or descriptors like `b`, of
    which the first of each 128 threads counts. `read` gets numbers from shared memory.
    """
    groups = len(d[0]) // 128
    if isinstance(a, np.ndarray):
        left = _described(spec, a, spec.left, spec.m, transposed[0], read)
    else:
        places = left_places(16, spec.k, SIZES[spec.left])
        left = numbers(a, spec.left)[:, places].reshape(groups, 64, spec.k)
    right = _described(spec, b, spec.right, spec.n, transposed[1], read)
    places = result_places(16, spec.n)
    total = [np.where(keep, x, x.dtype.type(0)) for x in d]
    matrix = matrix_of(spec, total, places).reshape(groups, 64, spec.n)
    right = right.transpose(0, 2, 1)
    made = product(spec, left * signs[0], right * signs[1], matrix, adder)
    return registers_of(spec, made.reshape(4 * groups, 16, spec.n), places)


def _described(
    spec: Mma, descriptors: Array, kind: str, rows: int, transposed: bool, read: Read
) -> Array:
    """Matrices that descriptors name, (groups, rows, k), as numbers."""
    size = SIZES[kind]
    found = []
    for bits in descriptors[::128]:
        where = addresses(descriptor(int(bits)), rows, spec.k, size, transposed)
        raw = read(where.ravel(), size).view(BITS[size])
        found.append(values(raw, kind).reshape(rows, spec.k))
    return np.stack(found)
