"""Splits products whose parts have different shard granularities.

A decoder's gates and its query are one product of the same state (horizontal fusion); 40 columns
and 33 have no common granularity. Each then becomes a product by its own columns of the weight.
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

# columns of a product in a row: the first, and the one after the last
Stretch = tuple[int, int]
Store = tuple[str, Tensor, int]
# the names of the parts of each product
Parts = dict[str, dict[Stretch, str]]


def split_products(
    ops: Sequence[Op], dots: dict[str, WeightMatmul], kept: frozenset[str]
) -> list[Op]:
    """The operations, with products split if that pays; the products `kept` are needed whole."""
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
    """The values that are stored, each part of a split product: name, tensor, first column."""
    parts: dict[str, list[Op]] = {}
    for op in ops:
        parts.setdefault(op.attrs.get("of", op.name), []).append(op)
    for name, tensor in wanted:
        yield from ((op.name, tensor, op.attrs.get("first", 0)) for op in parts[name])


def _stretches(op: Op, users: Sequence[Op]) -> list[Stretch]:
    """The columns that stay together: those of parts whose shortest length divides the others."""
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
    """The columns of a value that a view reads, if they are in a row; else None."""
    if user.kind != "view" or user.args.count(op.name) != 1:
        return None
    found = [r for r in runs(user.attrs["maps"][user.args.index(op.name)]) if r.arg >= 0]
    if len(found) != 1 or (found[0].step != 1 and found[0].size > 1):
        return None
    return found[0].arg, found[0].arg + found[0].size


def _groups(ordered: Sequence[Stretch]) -> Iterator[Stretch]:
    """Joins neighbours while the shortest of them divides the others."""
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
    """A view of the parts that it reads."""
    args, maps = list(op.args), list[Any](op.attrs["maps"])
    for k, arg in enumerate(op.args):
        if arg in cut:
            places = maps[k]
            at = int(places[places >= 0][0])
            start, name = next((a, x) for (a, b), x in cut[arg].items() if a <= at < b)
            args[k], maps[k] = name, np.where(places < 0, -1, places - start)
    return replace(op, args=tuple(args), attrs={**op.attrs, "maps": maps})
