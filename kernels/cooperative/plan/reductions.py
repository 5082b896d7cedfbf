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

    def __init__(self, sharing: Sharder):
        self.sharing = sharing

    def total(self, made: Op, op: Op, wanted: int) -> Op:
        """The sum, in a form."""
        x = self.sharing.ops[op.args[0]]
        home, over = self.sharing.home(x.name), len(x.shape) - 1 in op.attrs["dims"]
        if over and home < OWN:
            return self._gathered(made, op, x)
        if not over or wanted == OWN or not home:
            return replace(made, args=(self.sharing.make(x.name, wanted),))
        if op.kind == "sum" and not op.shape and self.sharing.waiting[x.name]:
            return self._spread(made, op, x) or self._early(made, op, x) or self._joined(made, op)
        return self._joined(made, op)

    def _gathered(self, made: Op, op: Op, x: Op) -> Op:
        """A sum of a value that is sharded among the blocks of a row: of their partial sums."""
        if math.prod(op.shape) > 1:
            raise Unsupported(f"'{op.note or op.name}' are several sums over a sharded value")
        exchange = self._parts(x.name, self.sharing.home(x.name), op)
        attrs = {"exchange": exchange.name, "join": op.kind, **self.sharing.form(OWN)}
        return replace(made, kind="row_reduce", args=(exchange.value,), attrs=attrs)

    def _joined(self, made: Op, op: Op) -> Op:
        """A sum of a sharded value: of each block's partial sum."""
        x = self.sharing.ops[op.args[0]]
        exchange = self._parts(x.name, self.sharing.home(x.name), op)
        attrs = {"exchange": exchange.name, "blocks": self.sharing.blocks, "join": op.kind}
        return replace(made, kind="all_reduce", args=(exchange.value,), attrs=attrs)

    def _parts(self, x: str, home: int, op: Op) -> Exchange:
        """The exchange of each block's partial sum of a value."""
        key = x, f"{op.kind}s"
        if key not in self.sharing.exchanges:
            name = self._within(
                x, home, self.sharing.make(x, home), 0.0 if op.kind == "sum" else -math.inf
            )
            form = self.sharing.form(OWN if home < 0 else WHOLE)
            made = replace(op, name=f"{x}_{op.kind}_here", args=(name,), attrs={**op.attrs, **form})
            part = self.sharing.put(made)
            length = padded_length(self.sharing.program.most) if x in self.sharing.varying else 1
            size = (
                math.prod(op.shape) * self.sharing.blocks
                if home > 0
                else self.sharing.groups * length
            )
            self.sharing.exchanges[key] = Exchange(
                "_".join(key), part, size, True, False, None, op.note
            )
        return self.sharing.exchanges[key]

    def _early(self, made: Op, op: Op, x: Op) -> Op | None:
        """A sum that is computed from sums of values known earlier: see `early_sums`."""
        found = terms(self.sharing.ops, x.name, self.sharing.waiting, self.sharing.waiting[x.name])
        if found is None:
            return None
        args: list[str] = []
        texts = []
        for term in found:
            names = [*(self._number(f, op) for f in term.factors), self._sum_of(term.base, x, op)]
            texts.append(" * ".join(f"{{{len(args) + k}}}" for k in range(len(names))))
            texts[-1] = f"{'-' if term.sign < 0 else ''}{texts[-1]}"
            args += names
        template = f"({' + '.join(texts)})"
        return replace(made, kind="pointwise", args=tuple(args), attrs={"template": template})

    def _sum_of(self, base: str, x: Op, op: Op) -> str:
        """The sum of a value that is sharded as `x` is."""
        exchange = self._parts(base, self.sharing.home(x.name), op)
        attrs = {"exchange": exchange.name, "blocks": self.sharing.blocks, "join": "sum"}
        made = replace(
            op, name=f"{base}_sum", kind="all_reduce", args=(exchange.value,), attrs=attrs
        )
        return self.sharing.put(made)

    def _number(self, name: str, op: Op) -> str:
        """A scalar of a row, in the shape of a sum of all of a value."""
        value = self.sharing.ops[name]
        made = self.sharing.make(name, WHOLE)
        if value.kind == "const" or not value.shape:
            return made
        maps = {"maps": [np.arange(1)]}
        return self.sharing.put(
            replace(op, name=f"{name}_number", kind="view", args=(made,), attrs=maps)
        )

    def _spread(self, made: Op, op: Op, x: Op) -> Op | None:
        """A sum of (x - m)²: of each block about its own mean, and of these means about m.

        Chan, Golub and LeVeque 1979, for many parts at once. It is as exact as two sums in turn.
        """
        found = deviation(self.sharing.ops, x.name)
        home = self.sharing.home(x.name)
        if (
            found is None
            or self.sharing.home(found[0]) != home
            or self.sharing.waiting[found[0]] >= self.sharing.waiting[x.name]
        ):
            return None
        whole = self.sharing.ops[found[0]]
        sums = self._parts(whole.name, home, op)
        mine = self.sharing.make(whole.name, home)
        part = self.sharing.part(Tensor(mine, whole.shape, ()), home)
        owned = {"part": part, "groups": last(whole) // home}
        squares = self._squares(mine, whole, sums, owned, op)
        exchange = Exchange(
            f"{made.name}_squares", squares, self.sharing.blocks, True, False, None, op.note
        )
        self.sharing.exchanges[made.name, "squares"] = exchange
        attrs = {
            "exchange": exchange.name,
            "sums": sums.name,
            "blocks": self.sharing.blocks,
            **owned,
        }
        args = (squares, self._number(found[1], op))
        return replace(
            made, kind="all_reduce", args=args, attrs={**attrs, "join": "squared_deviations"}
        )

    def _squares(self, mine: str, whole: Op, sums: Exchange, owned: dict[str, Any], op: Op) -> str:
        """The sum of squares of a block's own elements about their mean."""
        count = self.sharing.put(Op(f"{mine}_count", "shard_size", (), (), "float", owned, op.note))
        mean = {"template": "({0} / tl.maximum({1}, 1.0))"}
        centre = self.sharing.put(
            Op(f"{mine}_mean_here", "pointwise", (sums.value, count), (), "float", mean, op.note)
        )
        shape, square = self.sharing.made[mine].shape, {"template": "(({0} - {1}) * ({0} - {1}))"}
        made = self.sharing.put(
            Op(f"{mine}_square_here", "pointwise", (mine, centre), shape, "float", square, op.note)
        )
        within = self._within(whole.name, self.sharing.home(whole.name), made, 0.0)
        return self.sharing.put(replace(op, name=f"{mine}_squares_here", args=(within,)))

    def _within(self, x: str, home: int, name: str, beyond: float) -> str:
        """A value whose elements beyond the period, in the last blocks, are `beyond`."""
        value = self.sharing.ops[x]
        place = self.sharing.part(Tensor(name, value.shape, ()), home)
        if place.even:
            return name
        shape = self.sharing.made[name].shape
        form = self.sharing.form(home)
        inside = self.sharing.put(
            Op(f"{name}_inside", "in_shard", (), shape, "bool", {"part": place, **form}, value.note)
        )
        template = f"tl.where({{1}}, {{0}}, float('{beyond}'))"
        return self.sharing.put(
            replace(
                self.sharing.made[name],
                name=f"{name}_within",
                kind="pointwise",
                args=(name, inside),
                attrs={"template": template, **form},
            )
        )
