"""Instructions of single threads and of warps, as whole programs, against Python's integers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.kernels.ptx.written import X, executed

BITS = torch.randint(-(2**31), 2**31, (64,), generator=torch.Generator().manual_seed(0)).int()
UNSIGNED = [int(v) & 0xFFFFFFFF for v in BITS]


def signed(v):
    return v - (v >> 31 << 32)


INTEGERS = {
    "bfe.u32 %r3, %r2, 5, 7;": lambda v: v >> 5 & 127,
    "bfe.s32 %r3, %r2, 5, 7;": lambda v: ((v >> 5 & 127) ^ 64) - 64,
    "bfi.b32 %r3, 9, %r2, 4, 5;": lambda v: v & ~(31 << 4) | 9 << 4,
    "prmt.b32 %r3, %r2, 0, 0x4123;": lambda v: (v >> 24) | (v >> 8 & 0xFF00) | (v << 8 & 0xFF0000),
    "prmt.b32 %r3, %r2, 0, 0x0008;": lambda v: (v >> 7 & 1) * 255 | (v & 255) * 0x01010100,
    "shl.b32 %r3, %r2, 35;": lambda v: 0,
    "shl.b32 %r3, %r2, %r1;": lambda v, t: v << t if t < 32 else 0,
    "shr.s32 %r3, %r2, 33;": lambda v: -(v >> 31),
    "shr.u32 %r3, %r2, 3;": lambda v: v >> 3,
    "lop3.b32 %r3, %r2, 0xF0F0F0F0, 0x12345678, 0x96;": lambda v: v ^ 0xF0F0F0F0 ^ 0x12345678,
    "lop3.b32 %r3, %r2, 0xF0F0F0F0, 0x12345678, 0xCA;": lambda v: (
        (v & 0xF0F0F0F0) | (~v & 0x12345678)
    ),
    "mul.hi.u32 %r3, %r2, 0x87654321;": lambda v: v * 0x87654321 >> 32,
    "mad.lo.s32 %r3, %r2, 7, 3;": lambda v: v * 7 + 3,
    "div.s32 %r3, %r2, -7;": lambda v: -int(signed(v) / 7),
    "rem.s32 %r3, %r2, 7;": lambda v: signed(v) - 7 * int(signed(v) / 7),
    "shf.l.wrap.b32 %r3, %r2, 0x12345678, 8;": lambda v: 0x12345678 << 8 | v >> 24,
    "popc.b32 %r3, %r2;": lambda v: bin(v).count("1"),
    "clz.b32 %r3, %r2;": lambda v: 32 - v.bit_length(),
    "brev.b32 %r3, %r2;": lambda v: int(f"{v:032b}"[::-1], 2),
    "min.s32 %r3, %r2, 1000;": lambda v: min(signed(v), 1000),
    "max.u32 %r3, %r2, 1000;": lambda v: max(v, 1000),
    "not.b32 %r3, %r2;": lambda v: ~v,
    "setp.gt.s32 %p0, %r2, 0; selp.b32 %r3, 1, %r2, %p0;": lambda v: 1 if 0 < v < 2**31 else v,
    "setp.lo.u32 %p0, %r2, 9; @!%p0 mov.b32 %r3, 7; @%p0 mov.b32 %r3, 8;": lambda v: (
        8 if v < 9 else 7
    ),
    "mov.b32 {%rs1, %rs2}, %r2; mov.b32 %r3, {%rs2, %rs1};": lambda v: v >> 16 | v << 16,
    "cvt.u16.u32 %rs1, %r2; cvt.s32.s16 %r3, %rs1;": lambda v: ((v & 0xFFFF) ^ 0x8000) - 0x8000,
    # carries: sums of 64 and 96 bits in parts of 32, and the upper half of such a product
    "add.cc.u32 %r4, %r2, 0x87654321; addc.u32 %r3, 5, %r1;": lambda v, t: (
        5 + t + (v + 0x87654321 >> 32)
    ),
    "mad.lo.cc.u32 %r4, %r2, 0x87654321, 0xFEDCBA98; madc.hi.u32 %r3, %r2, 0x87654321, 3;": (
        lambda v: v * 0x87654321 + 0xFEDCBA98 + (3 << 32) >> 32
    ),
    "add.cc.u32 %r4, %r2, -1; addc.cc.u32 %r4, -1, 0; addc.u32 %r3, %r2, 0;": lambda v: v + (v > 0),
    "mul.wide.u32 %rd6, %r2, 3; cvt.u32.u64 %r3, %rd6;": lambda v: 3 * v,
    "mov.u32 %r3, %laneid;": lambda v, t: t % 32,
    "mov.u32 %r3, %ntid.x;": lambda v: 64,
}


@pytest.mark.parametrize("body", INTEGERS)
def test_integers(body):
    function = INTEGERS[body]
    many = function.__code__.co_argcount > 1
    want = [function(v, t) if many else function(v) for t, v in enumerate(UNSIGNED)]
    y, _ = executed(body, BITS)
    assert [int(v) & 0xFFFFFFFF for v in y] == [v & 0xFFFFFFFF for v in want]


SHUFFLES = {
    "shfl.sync.bfly.b32 %r3, %r2, 5, 31, -1;": lambda t: t ^ 5,
    "shfl.sync.up.b32 %r3, %r2, 3, 0, -1;": lambda t: t - 3 if t % 32 >= 3 else t,
    "shfl.sync.down.b32 %r3, %r2, 3, 31, -1;": lambda t: t + 3 if t % 32 < 29 else t,
    "shfl.sync.idx.b32 %r3, %r2, 7, 31, -1;": lambda t: t // 32 * 32 + 7,
    "shfl.sync.idx.b32 %r3, %r2, 1, 0x1C1F, -1;": lambda t: t // 4 * 4 + 1,
    # out of the segment of 8 lanes: each thread keeps its own
    "shfl.sync.down.b32 %r3, %r2, 8, 0x181F, -1;": lambda t: t,
    "and.b32 %r4, %r1, 3; shfl.sync.idx.b32 %r3, %r2, %r4, 31, -1;": lambda t: t // 32 * 32 + t % 4,
}


@pytest.mark.parametrize("body", SHUFFLES)
def test_shuffles(body):
    y, report = executed(body)
    assert y.tolist() == [SHUFFLES[body](t) for t in range(64)]
    assert report.warnings == []


def test_a_shuffle_from_a_lane_that_does_not_execute_it_is_reported():
    body = """mov.b32 %r3, 0;
    setp.lt.u32 %p1, %r1, 16;
    @%p1 shfl.sync.bfly.b32 %r3, %r2, 16, 31, -1;"""
    _, report = executed(body)
    assert "lane that does not execute" in str(report.warnings[0])
    assert report.warnings[0].statement == "@%p1 shfl.sync.bfly.b32 %r3, %r2, 16, 31, -1"


VOTES = {
    "vote.sync.ballot.b32 %r3, %p1, -1;": lambda t: 0x55555555,
    "vote.sync.any.pred %p2, %p1, -1; selp.b32 %r3, 1, 0, %p2;": lambda t: 1,
    "vote.sync.all.pred %p2, %p1, -1; selp.b32 %r3, 1, 0, %p2;": lambda t: 0,
    "redux.sync.add.s32 %r3, %r2, -1;": lambda t: sum(range(t // 32 * 32, t // 32 * 32 + 32)),
    "elect.sync %r3|%p2, -1; selp.b32 %r3, 9, %r3, %p2;": lambda t: 9 if t % 32 == 0 else 0,
    "match.any.sync.b32 %r3, %r4, -1;": lambda t: 0x55555555 << t % 2,
    "activemask.b32 %r3;": lambda t: 0xFFFFFFFF,
}


@pytest.mark.parametrize("body", VOTES)
def test_votes(body):
    even = "and.b32 %r4, %r1, 1; setp.eq.b32 %p1, %r4, 0;"
    y, report = executed(even + body)
    assert [int(v) & 0xFFFFFFFF for v in y] == [VOTES[body](t) & 0xFFFFFFFF for t in range(64)]
    assert report.warnings == []


def test_a_part_of_a_warp_must_not_store_matrices():
    with pytest.raises(RuntimeError, match="a part of a warp executes") as found:
        executed(
            "setp.lt.u32 %p1, %r1, 40; @%p1 stmatrix.sync.aligned.m8n8.x1.shared.b16 [%r50], {%r2};"
        )
    assert found.value.thread == 32


def test_matrices_are_transposed():
    """8 x 8 numbers of 16 bits, by ldmatrix as they are and transposed."""
    half = torch.arange(64, dtype=torch.int16).view(torch.int32)  # row r: numbers 8 r to 8 r + 7
    x = torch.cat([half, torch.zeros(32, dtype=torch.int32)])
    body = """st.shared.b32 [%r52], %r2;
    bar.sync 0;
    and.b32 %r4, %r1, 7;
    shl.b32 %r4, %r4, 4;
    add.s32 %r4, %r4, %r50;
    ldmatrix.sync.aligned.m8n8.x1{}.shared.b16 {{%r3}}, [%r4];"""
    matrix = np.arange(64).reshape(8, 8)
    for trans in ("", ".trans"):
        y, report = executed(body.format(trans), x)
        got = y[:32].numpy().view(np.int16).reshape(32, 2)
        want = matrix.T if trans else matrix
        assert got.tolist() == want.reshape(32, 2).tolist()
        assert report.races == []


@pytest.mark.parametrize("kind, k", [("bf16", 16), ("f16", 16), ("tf32", 8)])
def test_products_of_matrices(kind, k):
    """Fragments by the figures of the PTX ISA, written out here."""
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-4, 5, shape).astype(np.float32) for shape in ((16, k), (k, 8)))
    to = {
        "bf16": lambda x: torch.tensor(x).bfloat16().view(torch.int16).numpy().view(np.uint16),
        "f16": lambda x: x.astype(np.float16).view(np.uint16),
        "tf32": lambda x: x.view(np.uint32),
    }[kind]
    each = 1 if kind == "tf32" else 2
    group, place = np.arange(32) // 4, np.arange(32) % 4
    join = lambda parts: sum(p.astype(np.uint32) << (16 * i) for i, p in enumerate(parts))
    left = [
        join(
            [
                to(a)[group + 8 * (j % 2), 4 * each * (j // 2) + each * place + e]
                for e in range(each)
            ]
        )
        for j in range(4)
    ]
    right = [
        join([to(b)[4 * each * j + each * place + e, group] for e in range(each)]) for j in range(2)
    ]
    x = torch.tensor(np.stack(left + right, 1).astype(np.uint32).view(np.int32))
    loads = " ".join(f"ld.global.b32 %r{10 + j}, [%rd5+{4 * j}];" for j in range(6))
    ones = " ".join(f"mov.b32 %r{20 + j}, 0f3F800000;" for j in range(4))
    d = "{%r20,%r21,%r22,%r23}"
    body = f"""mad.wide.u32 %rd5, %r1, 24, %rd1; {loads} {ones}
    mma.sync.aligned.m16n8k{k}.row.col.f32.{kind}.{kind}.f32
        {d}, {{%r10,%r11,%r12,%r13}}, {{%r14,%r15}}, {d};
    mov.b32 %r3, %r"""
    for j in range(4):
        y, _ = executed(f"{body}{20 + j};", x, threads=32)
        got = y.numpy().view(np.float32)
        assert np.array_equal(got, (a @ b + 1)[group + 8 * (j // 2), 2 * place + j % 2])


def test_operands_with_more_digits_than_tf32_are_cut_and_reported():
    x = torch.full((32,), 1 + 2.0**-12).view(torch.int32)
    body = """mov.b32 %r20, 0f00000000; mov.b32 %r21, 0f3F800000;
    mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%r3,%r4,%r5,%r6}, {%r2,%r2,%r2,%r2},
        {%r21,%r21}, {%r20,%r20,%r20,%r20};"""
    y, report = executed(body, x, threads=32)
    assert (y.view(torch.float32) == 8).all()
    assert "TF32" in str(report.warnings[0])


def test_approximate_instructions_err_within_their_bound_by_a_seed():
    x = torch.linspace(-2.9, 2.9, 64).view(torch.int32)
    body = "ex2.approx.f32 %r3, %r2;"
    exact, worst = (executed(body, x, ulps=ulps)[0] for ulps in ("exact", "worst"))
    drawn = [executed(body, x, ulps="random", seed=seed)[0] for seed in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert int((exact - worst).abs().max()) == 2


def test_float32_multiply_adds_are_rounded_once():
    """(1 + 2^-12)^2 + 2^-60 lies just above a midpoint; rounding through float64 gives less."""
    x = torch.full((64,), 1 + 2.0**-12).view(torch.int32)
    y, _ = executed("mov.b32 %r4, 0f21800000; fma.rn.f32 %r3, %r2, %r2, %r4;", x)
    assert (y.view(torch.float32).double() == 1 + 2.0**-11 + 2.0**-23).all()


def test_a_scope_has_registers_of_its_own():
    inner = "{ .reg .b32 t; mov.b32 t, 9; }"
    body = f"mov.b32 %r3, 1; {{ .reg .b32 t; mov.b32 t, %r2; {inner} add.s32 %r3, %r3, t; }}"
    y, _ = executed(body)
    assert y.tolist() == [t + 1 for t in range(64)]


def test_threads_read_the_last_number_of_their_warp():
    y, _ = executed("shfl.sync.idx.b32 %r3|%p1, %r2, 31, 31, -1; @!%p1 mov.b32 %r3, -5;", X)
    assert y.tolist() == [t // 32 * 32 + 31 for t in range(64)]


@pytest.mark.parametrize("kind", ["f16", "bf16"])
@pytest.mark.parametrize("join", ["", ".and"])
def test_packed_comparisons_have_a_predicate_for_each_half(kind, join):
    dtype = {"f16": torch.float16, "bf16": torch.bfloat16}[kind]
    pairs = torch.randn(64, 2, generator=torch.Generator().manual_seed(1)).to(dtype)
    pairs[3] = float("nan")
    also = ", %p2" if join else ""
    body = f"""setp.lt.u32 %p2, %r1, 32; setp.lt{join}.{kind}x2 %p0|%p1, %r2, 0{also};
    mov.b32 %r3, 0; @%p0 or.b32 %r3, %r3, 1; @%p1 or.b32 %r3, %r3, 2;"""
    y, _ = executed(body, pairs.view(torch.int32).flatten())
    found = pairs < 0
    if join:
        found[32:] = False
    assert y.tolist() == (found.int() @ torch.tensor([1, 2], dtype=torch.int32)).tolist()
