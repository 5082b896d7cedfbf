"""The kinds of operations that kernels compute, with what each needs."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

# arguments of any number
ANY = (0, 1 << 30)


@dataclass(frozen=True)
class OpKind:
    """A kind of operation: what it computes, how many `args` it has, and its attributes.

    `args` is the least and the greatest number; `needs` are required attributes, `may` optional
    ones. `sharded` kinds are those of one thread block's program in a sharded loop.
    """

    meaning: str
    args: tuple[int, int] = (0, 0)
    needs: frozenset[str] = frozenset()
    may: frozenset[str] = frozenset()
    sharded: bool = False


# in a sharded program: the number of elements that a block has of each part of a value, and whether
# the value belongs to the block's own row
FORM = frozenset({"units", "own"})


def _kind(
    meaning: str,
    args: int | tuple[int, int] = 0,
    needs: str = "",
    may: str = "",
    sharded: bool = False,
) -> OpKind:
    counts = (args, args) if isinstance(args, int) else args
    return OpKind(meaning, counts, frozenset(needs.split()), FORM | set(may.split()), sharded)


OP_KINDS = {
    # values of a step
    "read": _kind(
        "a tensor's elements at this position, or `shift` positions before it: the first of those "
        "are the arguments",
        ANY,
        "tensor",
        "shift",
    ),
    "draw": _kind(
        'random elements: `law` is "dropout", "uniform" or "normal", `p` the probability of a zero',
        0,
        "tensor law p",
    ),
    "const": _kind("a number", 0, "value"),
    "index": _kind("the position along the loop's axis, or along `axis`", 0, "", "axis"),
    "size": _kind("the length of an axis", 0, "axis"),
    "position": _kind("the position along the block axis"),
    "over_positions": _kind(
        "a function of the prelude, `law`, over all positions of the block axis, or over as many "
        "as the second argument says",
        (1, 2),
        "law",
        "shift position k",
    ),
    "state": _kind("the value that a state has at this step: see LoopState"),
    "pointwise": _kind(
        "a Triton expression, `template`, of its arguments; if it is a sum of products, "
        "`linear_in` has for each its sign and the arguments that it multiplies",
        ANY,
        "template",
        "linear_in",
    ),
    "view": _kind(
        "elements of its arguments: `maps` has for each argument where each element of the value "
        "comes from (flat index; -1: not from this argument)",
        ANY,
        "maps",
    ),
    "einsum": _kind(
        'an einsum, `sub`, such as "k,nk->n"; a part of another one, `of`, has the columns of its '
        "weight from the `first` on",
        2,
        "sub",
        "first of",
    ),
    "sum": _kind("the sum over the dimensions `dims`, or over all", 1, "", "dims"),
    "max": _kind("the maximum over the dimensions `dims`, or over all", 1, "", "dims"),
    # values of one thread block of several
    "sharded_matmul": _kind(
        "a product by the block's columns of a `weight`, from the `first` on; `steps` are the "
        "strides of the weight, `inner` is the length of the operand, which comes from an "
        "`exchange`, from a tensor (`source`) or is the argument",
        (0, 1),
        "weight steps inner first period",
        "source exchange",
        sharded=True,
    ),
    "all_gather": _kind("all elements of a sharded value", 1, "exchange part", sharded=True),
    "fetch_row": _kind(
        "the elements of a block's own row: all, or its part of them",
        1,
        "exchange part",
        sharded=True,
    ),
    "fetch_shard": _kind(
        "a block's part of a value that each row's block has in full",
        1,
        "exchange part",
        sharded=True,
    ),
    "all_reduce": _kind(
        'the sum or maximum (`join`) of the parts of all `blocks`; or for "squared_deviations" the '
        "sum of squares about the second argument, from squares about each block's own mean and "
        "from `sums`",
        (1, 2),
        "exchange blocks join",
        "sums part groups",
        sharded=True,
    ),
    "row_reduce": _kind(
        "the sum or maximum (`join`) of the parts of a row's blocks",
        1,
        "exchange join",
        sharded=True,
    ),
    "own_row": _kind("a block's own row of what it has of all rows", 1, sharded=True),
    "shard_size": _kind(
        "the number of elements that a block has of a value", 0, "part groups", sharded=True
    ),
    "in_shard": _kind(
        "which of a block's elements are within the granularity", 0, "part", sharded=True
    ),
    # values of attention, over tiles of rows (queries) and columns (keys)
    "online_softmax": _kind(
        "exp(score - largest score so far): the weights of an online softmax", 1
    ),
    "expand": _kind("a number for each column of the value", 1),
    "column_sum": _kind(
        "the sum over columns of a value, or of a product (`sub`) of two", (1, 2), "", "sub"
    ),
    "column_max": _kind("the largest value over columns", 1),
    "column_argmax": _kind("the position of the largest value over columns", 1),
    "column_logsumexp": _kind("the log-sum-exp of a score over columns", 1),
}


def check(name: str, kind: str, args: int, attrs: Set[str]) -> None:
    """Raises ValueError if an operation does not match its kind."""
    if kind not in OP_KINDS:
        raise ValueError(f"operation '{name}' has an unknown kind '{kind}'")
    known = OP_KINDS[kind]
    least, most = known.args
    if not least <= args <= most:
        raise ValueError(f"operation '{name}' of kind '{kind}' has {args} arguments")
    if missing := known.needs - attrs:
        raise ValueError(f"operation '{name}' of kind '{kind}' lacks {_listed(missing)}")
    if unknown := attrs - known.needs - known.may:
        raise ValueError(f"operation '{name}' of kind '{kind}' has no attribute {_listed(unknown)}")


def _listed(names: Set[str]) -> str:
    return ", ".join(sorted(names))
