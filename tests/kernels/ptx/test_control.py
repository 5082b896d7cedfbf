"""Branches, divergence, barriers and returns."""

from __future__ import annotations

import random

import pytest
import torch

from graphnn.kernels import ptx
from tests.kernels.ptx.written import X, executed, kernel

COUNT = """mov.b32 %r3, 0;
    and.b32 %r4, %r1, 7;
$L_loop:
    setp.ge.u32 %p1, %r3, %r4;
    @%p1 bra $L_end;
    add.s32 %r3, %r3, 1;
    bra.uni $L_loop;
$L_end:
"""


def test_divergent_loops_meet_again():
    """Each thread counts to its own number; then all shuffle."""
    body = COUNT + "shfl.sync.bfly.b32 %r5, %r3, 1, 31, -1; add.s32 %r3, %r3, %r5;"
    y, report = executed(body)
    assert y.tolist() == [(t & 7) + (t & 7 ^ 1) for t in range(64)]
    assert report.warnings == []


def test_threads_that_return_store_nothing():
    y, _ = executed("mov.b32 %r3, 7; setp.lt.u32 %p1, %r1, 10; @%p1 ret;")
    assert y.tolist() == [-1] * 10 + [7] * 54


def test_threads_that_returned_do_not_count_at_a_barrier():
    y, _ = executed("mov.b32 %r3, 7; setp.lt.u32 %p1, %r1, 32; @%p1 ret; bar.sync 0;")
    assert y.tolist() == [-1] * 32 + [7] * 32


def test_barriers_at_different_places_meet_and_are_reported():
    body = """setp.lt.u32 %p1, %r1, 32;
    @%p1 bra $L_a;
    bar.sync 0;
    bra $L_b;
$L_a:
    bar.sync 0;
$L_b:
    mov.b32 %r3, %r1;"""
    y, report = executed(body)
    assert y.tolist() == list(range(64))
    assert "different places" in str(report.warnings[0])


def test_a_barrier_that_some_threads_never_reach_is_a_deadlock():
    body = "mov.b32 %r3, 1; setp.lt.u32 %p1, %r1, 32; @%p1 bar.sync 1, 64;"
    with pytest.raises(ptx.PtxFault, match="deadlock: threads wait, 32 at barrier 1, 32 have ret"):
        executed(body)


def test_a_barrier_of_some_warps_waits_for_as_many_threads():
    """The first warp goes on after the second has come; the third is not waited for."""
    body = """mov.b32 %r3, 3;
    setp.ge.u32 %p1, %r1, 64;
    @%p1 bra $L_end;
    st.shared.b32 [%r52], %r2;
    bar.sync 1, 64;
    xor.b32 %r4, %r51, 128;
    add.s32 %r4, %r4, %r50;
    ld.shared.b32 %r3, [%r4];
$L_end:"""
    x = torch.arange(96, dtype=torch.int32)
    y, report = executed(body, x, threads=96)
    assert y.tolist() == [*range(32, 64), *range(32), *[3] * 32]
    assert report.races == []


def test_a_barrier_of_some_warps_orders_no_others():
    body = """mov.b32 %r3, 3;
    st.shared.b32 [%r52], %r2;
    setp.ge.u32 %p1, %r1, 64;
    @%p1 bra $L_end;
    bar.sync 1, 64;
    ld.shared.b32 %r3, [%r50+{}];
$L_end:"""
    x = torch.arange(96, dtype=torch.int32)
    assert executed(body.format(0), x, threads=96)[1].races == []
    assert executed(body.format(256), x, threads=96)[1].races


def test_a_trap_is_a_fault_of_its_thread():
    with pytest.raises(ptx.PtxFault, match="trap") as found:
        executed("mov.b32 %r3, 1; setp.eq.u32 %p1, %r1, 40; @%p1 trap;")
    assert (found.value.block, found.value.thread) == ((0, 0, 0), 40)


def test_a_kernel_that_does_not_end_is_given_up():
    with pytest.raises(ptx.PtxFault, match="did not end within 1,000 statements"):
        executed("$L_a: bra $L_a; mov.b32 %r3, 1;", limit=1000)


def test_a_block_that_waits_for_another_is_a_deadlock_unless_cooperative():
    """Block 0 waits for block 1, which has not begun."""
    body = """mov.u32 %r4, %ctaid.x;
    setp.eq.u32 %p1, %r4, 1;
    @%p1 st.relaxed.gpu.global.b32 [%rd1], 77;
    @%p1 bra $L_end;
$L_wait:
    ld.relaxed.gpu.global.b32 %r5, [%rd1];
    setp.ne.u32 %p2, %r5, 77;
    @%p2 bra $L_wait;
$L_end:
    mov.b32 %r3, 1; setp.eq.u32 %p1, %r4, 1; @%p1 ret;"""
    x, y = torch.zeros(64, dtype=torch.int32), torch.zeros(64, dtype=torch.int32)
    program = ptx.parse(kernel(body))
    with pytest.raises(ptx.PtxFault, match="not cooperative") as found:
        ptx.run(program, (2,), [x, y], 4096)
    assert found.value.statement == "ld.relaxed.gpu.global.b32 %r5, [%rd1]"
    ptx.run(program, (2,), [x, y], 4096, cooperative=True)
    assert y.tolist() == [1] * 64


def test_a_wait_for_what_no_block_does_is_a_deadlock():
    body = """$L_wait:
    ld.relaxed.gpu.global.b32 %r5, [%rd1];
    setp.ne.u32 %p2, %r5, 77;
    @%p2 bra $L_wait;
    mov.b32 %r3, 1;"""
    with pytest.raises(ptx.PtxFault, match="deadlock: 1 of 1 blocks"):
        executed(body, torch.zeros(64, dtype=torch.int32), cooperative=True)


@pytest.mark.parametrize("seed", range(20))
def test_random_programs_do_what_each_thread_does_alone(seed):
    """Masks and the order of basic blocks change nothing: threads are computed one by one here."""
    draw = random.Random(seed)
    body, want = _random_program(draw)
    y, report = executed(body, X, limit=100_000)
    assert y.tolist() == [want(t) for t in range(64)]
    assert report.warnings == []


def _random_program(draw):
    """A program of random branches, forward ones and counted loops; and what a thread computes."""
    count = 12
    steps = [
        (
            draw.randrange(1, 100),
            draw.randrange(7),
            draw.choice((3, 5, 7)),
            draw.randrange(count + 1),
        )
        for _ in range(count)
    ]
    # %r3 is the sum, %r6 the number of jumps that are left
    lines = ["mov.b32 %r3, 0;", "mov.b32 %r6, 20;"]
    for k, (add, equal, by, target) in enumerate(steps):
        lines += [
            f"$L_{k}:",
            f"mad.lo.s32 %r3, %r3, 3, {add};",
            "add.s32 %r7, %r3, %r2;",
            f"rem.u32 %r7, %r7, {by};",
            f"setp.eq.u32 %p1, %r7, {equal % by};",
            "setp.gt.s32 %p2, %r6, 0;",
            "and.pred %p1, %p1, %p2;",
            "@%p1 sub.s32 %r6, %r6, 1;",
            f"@%p1 bra $L_{target};",
        ]
    lines.append(f"$L_{count}:")

    def alone(t):
        total, left, k = 0, 20, 0
        while k < count:
            add, equal, by, target = steps[k]
            total = (3 * total + add) & 0xFFFFFFFF
            if (total + t & 0xFFFFFFFF) % by == equal % by and left > 0:
                left, k = left - 1, target
            else:
                k += 1
        return total - (total >> 31 << 32)

    return "\n".join(lines), alone
