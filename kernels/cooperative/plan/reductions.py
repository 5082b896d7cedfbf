"""Sums and maxima of sharded values: partial ones of each block, combined by an all-reduce.

If one sum depends on another it is split, so that both need one barrier.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ...analysis.block_axis import padded_length
from ...ir.program import Op, Tensor, Unsupported
from .early_sums import deviation, last, terms
from .exchange import Exchange
from .row_owners import OWN, WHOLE

if TYPE_CHECKING:
    from .sharding import Sharder


class Sums:
    """Makes the sums of a program as one block computes them."""

    def __init__(self, sharder: Sharder):
        self.sharder = sharder

    def sharded_sum(self, made: Op, op: Op, wanted: int) -> Op:
        """The sum, in a form."""
        x = self.sharder.ops[op.args[0]]
        home, over = self.sharder.home(x.name), len(x.shape) - 1 in op.attrs["dims"]
        if over and home < OWN:
            return self._row_reduce(made, op, x)
        if not over or wanted == OWN or not home:
            return replace(made, args=(self.sharder.make(x.name, wanted),))
        if op.kind == "sum" and not op.shape and self.sharder.waiting[x.name]:
            return (
                self._squared_deviations(made, op, x)
                or self._split_sum(made, op, x)
                or self._all_reduce(made, op)
            )
        return self._all_reduce(made, op)

    def _row_reduce(self, made: Op, op: Op, x: Op) -> Op:
        """A sum of a value that is sharded among the blocks of a row: of their partial sums."""
        if math.prod(op.shape) > 1:
            raise Unsupported(f"'{op.note or op.name}' are several sums over a sharded value")
        exchange = self._partial_sums(x.name, self.sharder.home(x.name), op)
        attrs = {"exchange": exchange.name, "join": op.kind, **self.sharder.form(OWN)}
        return replace(made, kind="row_reduce", args=(exchange.value,), attrs=attrs)

    def _all_reduce(self, made: Op, op: Op) -> Op:
        """A sum of a sharded value: of each block's partial sum."""
        x = self.sharder.ops[op.args[0]]
        exchange = self._partial_sums(x.name, self.sharder.home(x.name), op)
        attrs = {"exchange": exchange.name, "blocks": self.sharder.blocks, "join": op.kind}
        return replace(made, kind="all_reduce", args=(exchange.value,), attrs=attrs)

    def _partial_sums(self, x: str, home: int, op: Op) -> Exchange:
        """The exchange of each block's partial sum of a value."""
        key = x, f"{op.kind}s"
        if key not in self.sharder.exchanges:
            name = self._mask_beyond(
                x, home, self.sharder.make(x, home), 0.0 if op.kind == "sum" else -math.inf
            )
            form = self.sharder.form(OWN if home < 0 else WHOLE)
            made = replace(op, name=f"{x}_{op.kind}_here", args=(name,), attrs={**op.attrs, **form})
            part = self.sharder.put(made)
            length = padded_length(self.sharder.program.most) if x in self.sharder.varying else 1
            size = (
                math.prod(op.shape) * self.sharder.blocks
                if home > 0
                else self.sharder.groups * length
            )
            self.sharder.exchanges[key] = Exchange(
                "_".join(key), part, size, True, False, None, op.note
            )
        return self.sharder.exchanges[key]

    def _split_sum(self, made: Op, op: Op, x: Op) -> Op | None:
        """A sum that is computed from sums of values known earlier: see `early_sums`."""
        found = terms(self.sharder.ops, x.name, self.sharder.waiting, self.sharder.waiting[x.name])
        if found is None:
            return None
        args: list[str] = []
        texts = []
        for term in found:
            names = [
                *(self._row_scalar(f, op) for f in term.factors),
                self._sum_of(term.base, x, op),
            ]
            texts.append(" * ".join(f"{{{len(args) + k}}}" for k in range(len(names))))
            texts[-1] = f"{'-' if term.sign < 0 else ''}{texts[-1]}"
            args += names
        template = f"({' + '.join(texts)})"
        return replace(made, kind="pointwise", args=tuple(args), attrs={"template": template})

    def _sum_of(self, base: str, x: Op, op: Op) -> str:
        """The sum of a value that is sharded as `x` is."""
        exchange = self._partial_sums(base, self.sharder.home(x.name), op)
        attrs = {"exchange": exchange.name, "blocks": self.sharder.blocks, "join": "sum"}
        made = replace(
            op, name=f"{base}_sum", kind="all_reduce", args=(exchange.value,), attrs=attrs
        )
        return self.sharder.put(made)

    def _row_scalar(self, name: str, op: Op) -> str:
        """A scalar of a row, in the shape of a sum of all of a value."""
        value = self.sharder.ops[name]
        made = self.sharder.make(name, WHOLE)
        if value.kind == "const" or not value.shape:
            return made
        maps = {"maps": [np.arange(1)]}
        return self.sharder.put(
            replace(op, name=f"{name}_number", kind="view", args=(made,), attrs=maps)
        )

    def _squared_deviations(self, made: Op, op: Op, x: Op) -> Op | None:
        """A sum of (x - m)²: of each block about its own mean, and of these means about m.

        Chan, Golub and LeVeque 1979, for many parts at once. It is as exact as two sums in turn.
        """
        found = deviation(self.sharder.ops, x.name)
        home = self.sharder.home(x.name)
        if (
            found is None
            or self.sharder.home(found[0]) != home
            or self.sharder.waiting[found[0]] >= self.sharder.waiting[x.name]
        ):
            return None
        whole = self.sharder.ops[found[0]]
        sums = self._partial_sums(whole.name, home, op)
        mine = self.sharder.make(whole.name, home)
        part = self.sharder.part(Tensor(mine, whole.shape, ()), home)
        owned = {"part": part, "groups": last(whole) // home}
        squares = self._squares(mine, whole, sums, owned, op)
        exchange = Exchange(
            f"{made.name}_squares", squares, self.sharder.blocks, True, False, None, op.note
        )
        self.sharder.exchanges[made.name, "squares"] = exchange
        attrs = {
            "exchange": exchange.name,
            "sums": sums.name,
            "blocks": self.sharder.blocks,
            **owned,
        }
        args = (squares, self._row_scalar(found[1], op))
        return replace(
            made, kind="all_reduce", args=args, attrs={**attrs, "join": "squared_deviations"}
        )

    def _squares(self, mine: str, whole: Op, sums: Exchange, owned: dict[str, Any], op: Op) -> str:
        """The sum of squares of a block's own elements about their mean."""
        count = self.sharder.put(Op(f"{mine}_count", "shard_size", (), (), "float", owned, op.note))
        mean = {"template": "({0} / tl.maximum({1}, 1.0))"}
        centre = self.sharder.put(
            Op(f"{mine}_mean_here", "pointwise", (sums.value, count), (), "float", mean, op.note)
        )
        shape, square = self.sharder.made[mine].shape, {"template": "(({0} - {1}) * ({0} - {1}))"}
        made = self.sharder.put(
            Op(f"{mine}_square_here", "pointwise", (mine, centre), shape, "float", square, op.note)
        )
        within = self._mask_beyond(whole.name, self.sharder.home(whole.name), made, 0.0)
        return self.sharder.put(replace(op, name=f"{mine}_squares_here", args=(within,)))

    def _mask_beyond(self, x: str, home: int, name: str, beyond: float) -> str:
        """A value whose elements beyond the period, in the last blocks, are `beyond`."""
        value = self.sharder.ops[x]
        place = self.sharder.part(Tensor(name, value.shape, ()), home)
        if place.even:
            return name
        shape = self.sharder.made[name].shape
        form = self.sharder.form(home)
        inside = self.sharder.put(
            Op(f"{name}_inside", "in_shard", (), shape, "bool", {"part": place, **form}, value.note)
        )
        template = f"tl.where({{1}}, {{0}}, float('{beyond}'))"
        return self.sharder.put(
            replace(
                self.sharder.made[name],
                name=f"{name}_within",
                kind="pointwise",
                args=(name, inside),
                attrs={"template": template, **form},
            )
        )
