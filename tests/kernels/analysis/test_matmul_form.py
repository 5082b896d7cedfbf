"""How a product is computed: by tiles of a weight, or number by number; where its numbers meet."""

from __future__ import annotations

import itertools

import pytest
import torch

from graphnn.kernels.analysis.matmul_form import MOST_TERMS, ValueMatmul, WeightMatmul, matmul_form
from graphnn.kernels.ir.program import Op, Tensor, Unsupported

SIZES = {"b": 2, "i": 3, "j": 4, "k": 5, "n": 6}


def of(sub: str, weight: str = "") -> WeightMatmul | ValueMatmul:
    """The form of a product of a and b; `weight` names the operand that is a weight."""
    a, b, out = sub.replace("->", ",").split(",")
    ops = {}
    for name, letters in (("a", a), ("b", b)):
        shape = tuple(SIZES[x] for x in letters)
        axes = () if name == weight else ("batch",)
        tensor = Tensor(name, shape, axes)
        ops[name] = Op(name, "read", shape=shape, attrs={"tensor": tensor})
    shape = tuple(SIZES[x] for x in out)
    return matmul_form(Op("y", "einsum", ("a", "b"), shape, attrs={"sub": sub}), ops)


@pytest.mark.parametrize(
    "sub, weight, value",
    [
        ("k,nk->n", "b", "a"),
        ("k,kn->n", "b", "a"),
        ("nk,k->n", "a", "b"),
        ("ik,nk->in", "b", "a"),
        ("bk,bkn->bn", "b", "a"),
    ],
)
def test_by_tiles_of_a_weight(sub: str, weight: str, value: str) -> None:
    how = of(sub, weight)
    assert isinstance(how, WeightMatmul) and (how.value, how.weight) == (value, weight)


@pytest.mark.parametrize(
    "sub, weight",
    [
        ("k,nk->n", ""),  # both of the example
        ("n,n->n", "b"),  # a vector is no weight
        ("k,k->", "b"),
        ("i,j->ij", ""),
        ("ik,k->i", ""),
        ("nk,nk->nk", "b"),  # nothing is summed
        ("kn,kn->n", "b"),  # the result's last letter is the value's too
        ("ki,kn->in", "b"),  # the value's last letter is not summed over
    ],
)
def test_number_by_number(sub: str, weight: str) -> None:
    assert isinstance(of(sub, weight), ValueMatmul)


def test_einsums_without_a_common_tile_or_with_too_many_terms_are_refused() -> None:
    with pytest.raises(Unsupported, match="no letter to tile"):
        of("ik,kj->ji")
    wide = {"a": Op("a", "state", shape=(17, 17)), "b": Op("b", "state", shape=(17, 17))}
    with pytest.raises(Unsupported, match=f"more than {MOST_TERMS} terms"):
        matmul_form(Op("y", "einsum", ("a", "b"), (17, 17), attrs={"sub": "ij,jk->ik"}), wide)


@pytest.mark.parametrize("sub", ["k,nk->n", "k,kn->n", "ik,nk->in", "bk,bkn->bn", "bk,bnk->bn"])
def test_numbers_of_value_and_result_meet_in_the_weight(sub: str) -> None:
    how = of(sub, "b")
    a, b, out = (torch.randn([SIZES[x] for x in s]) for s in sub.replace("->", ",").split(","))
    wanted, got = torch.einsum(sub, a, b).reshape(-1), torch.zeros(out.numel())
    for n, k in itertools.product(range(out.numel()), range(a.numel())):
        place = how.weight_index(k, n)
        if place is not None:
            got[n] += a.reshape(-1)[k] * b.reshape(-1)[place]
    torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("sub", ["k,nk->n", "k,kn->n", "bk,bkn->bn"])
def test_steps_are_the_distances_in_the_weight(sub: str) -> None:
    how = of(sub, "b")
    to_k, to_n = how.steps()
    assert how.weight_index(1, 0) == how.weight_index(0, 0) + to_k
    assert how.weight_index(0, 1) == how.weight_index(0, 0) + to_n


@pytest.mark.parametrize(
    "sub", ["n,n->n", "k,k->", ",n->n", ",->", "i,j->ij", "ik,k->i", "k,nk->n", "ij,jk->ik"]
)
def test_terms_add_up_to_the_product(sub: str) -> None:
    how = of(sub)
    a, b, out = (torch.randn([SIZES[x] for x in s]) for s in sub.replace("->", ",").split(","))
    wanted, got = torch.einsum(sub, a, b).reshape(-1), torch.zeros(out.numel())
    moved = [int(m) for m in how.moves]
    for term, k in itertools.product(how.terms, range(how.size)):
        x = a.reshape(-1)[term.a + k * moved[1]]
        y = b.reshape(-1)[term.b + k * moved[2]]
        got[term.out + k * moved[0]] += x * y
    torch.testing.assert_close(got, wanted)
