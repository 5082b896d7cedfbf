"""Products that were merged, taken apart again where their parts are shared out differently.

A decoder's gates and its query are one product of the same state; 40 columns and 33 have no common
period to share them out by. Each is then a product by its own columns of the weight.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from ...analysis.layout import runs
from ...analysis.matmul_form import WeightMatmul
from ...ir.program import Op, Tensor
from ...ir.symbols import NameTable

# a stretch of a product's columns: where it begins and ends
Stretch = tuple[int, int]
Store = tuple[str, Tensor, int]
# the parts of each product: what they are called
Parts = dict[str, dict[Stretch, str]]


def parted(ops: Sequence[Op], dots: dict[str, WeightMatmul], kept: frozenset[str]) -> list[Op]:
    """The operations, products in parts where that is of use; those `kept` are needed whole."""
    users: dict[str, list[Op]] = {}
    for op in ops:
        for arg in op.args:
            users.setdefault(arg, []).append(op)
    names = NameTable(op.name for op in ops)
    cut = {
        op.name: {stretch: names.fresh(f"{op.name}_from_{stretch[0]}") for stretch in found}
        for op in ops
        if op.name in dots and op.name not in kept and len(op.shape) == 1
        if len(found := _stretches(op, users.get(op.name, []))) > 1
    }
    return [new for op in ops for new in _rewritten(op, cut)]


def stores(ops: Iterable[Op], wanted: Iterable[tuple[str, Tensor]]) -> Iterator[Store]:
    """What is stored, of products in parts each part: its name, the tensor, where it begins."""
    parts: dict[str, list[Op]] = {}
    for op in ops:
        parts.setdefault(op.attrs.get("of", op.name), []).append(op)
    for name, tensor in wanted:
        yield from ((op.name, tensor, op.attrs.get("first", 0)) for op in parts[name])


def _stretches(op: Op, users: Sequence[Op]) -> list[Stretch]:
    """The columns that go together: those of parts whose lengths have one of them in common."""
    taken: set[Stretch] = set()
    for user in users:
        found = _taken(op, user)
        if found is None:
            return []
        taken.add(found)
    ordered = sorted(taken)
    if any(a[1] > b[0] for a, b in pairwise(ordered)):
        return []
    return list(_groups(ordered))


def _taken(op: Op, user: Op) -> Stretch | None:
    """The one stretch of a value that a view takes."""
    if user.kind != "view" or user.args.count(op.name) != 1:
        return None
    found = [r for r in runs(user.attrs["maps"][user.args.index(op.name)]) if r.arg >= 0]
    if len(found) != 1 or (found[0].step != 1 and found[0].size > 1):
        return None
    return found[0].arg, found[0].arg + found[0].size


def _groups(ordered: Sequence[Stretch]) -> Iterator[Stretch]:
    """Neighbours joined while the shortest of them divides all."""
    first, last, sizes = *ordered[0], [ordered[0][1] - ordered[0][0]]
    for start, end in ordered[1:]:
        more = [*sizes, end - start]
        if start == last and math.gcd(*more) == min(more):
            last, sizes = end, more
        else:
            yield first, last
            first, last, sizes = start, end, [end - start]
    yield first, last


def _rewritten(op: Op, cut: Parts) -> Iterator[Op]:
    if op.name in cut:
        for (start, end), name in cut[op.name].items():
            attrs = {**op.attrs, "first": start, "of": op.name}
            yield replace(op, name=name, shape=(end - start,), attrs=attrs)
    elif op.kind == "view" and any(a in cut for a in op.args):
        yield _of_parts(op, cut)
    else:
        yield op


def _of_parts(op: Op, cut: Parts) -> Op:
    """A view of the parts that it takes."""
    args, maps = list(op.args), list[Any](op.attrs["maps"])
    for k, arg in enumerate(op.args):
        if arg in cut:
            places = maps[k]
            at = int(places[places >= 0][0])
            start, name = next((a, x) for (a, b), x in cut[arg].items() if a <= at < b)
            args[k], maps[k] = name, np.where(places < 0, -1, places - start)
    return replace(op, args=tuple(args), attrs={**op.attrs, "maps": maps})
