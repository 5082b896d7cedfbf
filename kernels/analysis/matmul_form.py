"""How an einsum of two values is computed: by tiles of a weight, or element by element.

A value times a weight is a matrix product on tensor cores if the value's last dimension is summed
over. A product of two values of rows is pointwise along one dimension, and a sum over the others.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

from ..ir.program import Op, Unsupported

# a product of two values of rows in more terms than this would fill pages of source
MOST_TERMS = 256


@dataclass(frozen=True)
class Term:
    """One multiplication of stretches: where they start in the result and both operands."""

    out: int
    a: int
    b: int


@dataclass(frozen=True)
class ValueMatmul:
    """A product of two values of rows: `terms`, each `size` long along one letter.

    `moves` is which of the result, a and b vary along it.
    """

    size: int
    moves: tuple[bool, bool, bool]
    terms: tuple[Term, ...]


@dataclass(frozen=True)
class WeightMatmul:
    """A product by a weight: `value` and `weight` are operands, `letters` those of the einsum."""

    value: str
    weight: str
    letters: tuple[str, str, str]
    sizes: dict[str, int]

    def strides(self) -> dict[str, int]:
        """The weight's stride along each of its letters."""
        found, stride = {}, 1
        for letter in reversed(self.letters[1]):
            found[letter] = stride
            stride *= self.sizes[letter]
        return found

    def steps(self) -> tuple[int, int]:
        """The weight's strides along the value's last letter and along the result's."""
        strides = self.strides()
        return strides[self.letters[0][-1]], strides[self.letters[2][-1]]

    def weight_index(self, value: int, out: int) -> int | None:
        """The index in the weight at which the elements `value` and `out` meet, or None."""
        place: dict[str, int] = {}
        for spelled, flat in ((self.letters[0], value), (self.letters[2], out)):
            for letter in reversed(spelled):
                at = flat % self.sizes[letter]
                flat //= self.sizes[letter]
                if place.setdefault(letter, at) != at:
                    return None
        strides = self.strides()
        return sum(strides[x] * place[x] for x in self.letters[1])


def letters(op: Op) -> tuple[str, str, str]:
    """The letters of both operands and of the result of an einsum."""
    left, out = op.attrs["sub"].split("->")
    a, b = left.split(",")
    return a, b, out


def sizes(op: Op, ops: Mapping[str, Op]) -> dict[str, int]:
    """The length of each letter."""
    found: dict[str, int] = {}
    for spelled, name in zip(letters(op), op.args):
        found.update(zip(spelled, ops[name].shape, strict=True))
    return found


def is_weight(op: Op) -> bool:
    """Whether a value is the same for all rows and positions, and more than a vector."""
    return op.kind == "read" and not op.attrs["tensor"].axes and len(op.shape) > 1


def matmul_form(op: Op, ops: Mapping[str, Op]) -> WeightMatmul | ValueMatmul:
    """How a product is computed. Raises Unsupported if kernels cannot compute it."""
    a, b, out = letters(op)
    for spelled, weight, k in (
        ((a, b, out), ops[op.args[1]], 0),
        ((b, a, out), ops[op.args[0]], 1),
    ):
        if is_weight(weight) and _is_matmul_form(*spelled):
            return WeightMatmul(op.args[k], op.args[1 - k], spelled, sizes(op, ops))
    return _rows(op, ops)


def _is_matmul_form(value: str, weight: str, out: str) -> bool:
    """Whether the value's last letter is summed over and the result's last is only the weight's."""
    if not value or not out:
        return False
    summed = (set(value) | set(weight)) - set(out)
    shared = set(value) & set(weight)
    return value[-1] in summed and out[-1] not in value and summed <= shared


def _rows(op: Op, ops: Mapping[str, Op]) -> ValueMatmul:
    a, b, out = letters(op)
    along = _tiled_letter(a, b, out)
    length = sizes(op, ops)
    if along is None:
        raise Unsupported(
            f"'{op.note or op.name}', an einsum '{op.attrs['sub']}', has no letter to tile"
        )
    rest = [x for x in dict.fromkeys(out + a + b) if x != along]
    if math.prod(length[x] for x in rest) > MOST_TERMS:
        raise Unsupported(
            f"'{op.note or op.name}', an einsum '{op.attrs['sub']}' of values of each example, "
            f"would have more than {MOST_TERMS} terms"
        )
    terms = [
        Term(*(_flat(s, length, dict(zip(rest, place))) for s in (out, a, b)))
        for place in itertools.product(*(range(length[x]) for x in rest))
    ]
    moves = tuple(bool(along) and along in s for s in (out, a, b))
    return ValueMatmul(length.get(along, 1), moves, tuple(terms))  # type: ignore[arg-type]


def _tiled_letter(a: str, b: str, out: str) -> str | None:
    """The letter that tiles lie along, the last one of all that have it; "" without letters."""
    if not (a or b):
        return ""
    for letter in dict.fromkeys([*out[-1:], *a[-1:], *b[-1:]]):
        if all(letter not in s or s[-1] == letter for s in (a, b, out)):
            return letter
    return None


def _flat(spelled: str, length: Mapping[str, int], place: Mapping[str, int]) -> int:
    flat = 0
    for letter in spelled:
        flat = flat * length[letter] + place.get(letter, 0)
    return flat
