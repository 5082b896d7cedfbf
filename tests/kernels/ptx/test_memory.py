"""Bounds, alignment, copies and atomics."""

from __future__ import annotations

import pytest
import torch

from graphnn.kernels import ptx
from tests.kernels.ptx.written import X, executed, kernel

FAULTS = {
    "ld.global.b32 %r3, [%rd3+256];": (0, r"loads 4 bytes outside .* 256 to 260 of argument 0"),
    "ld.global.b32 %r3, [%rd3+4];": (63, r"bytes 256 to 260 of argument 0 \(256 bytes\)"),
    "ld.global.b32 %r3, [%rd3+-4];": (0, r"bytes -4 to 0 of argument 0"),
    "ld.global.v2.b32 {%r3, %r4}, [%rd3];": (1, "8 bytes that are not aligned to 8"),
    "ld.global.b32 %r3, [%rd1+2];": (0, "4 bytes that are not aligned"),
    "st.global.b32 [%rd4+-4], %r2; mov.b32 %r3, 0;": (0, "stores 4 bytes outside"),
    "ld.shared.b32 %r3, [%r52+4096];": (0, "loads bytes 4096 to 4100 of 4096 of shared memory"),
    "ld.shared.b32 %r3, [%r52+-8];": (0, "loads bytes -8 to -4 of 4096"),
    "ld.shared.v2.b32 {%r3, %r4}, [%r52];": (1, "loads 8 bytes at 4 of shared memory, not al"),
    "st.shared.b32 [%r52+3844], %r2; mov.b32 %r3, 0;": (63, "stores bytes 4096 to 4100"),
    "mov.b64 %rd9, 0; ld.global.b32 %r3, [%rd9];": (0, "outside of all tensors: .* is 0x0"),
    # however far: no other tensor is there
    "ld.global.b32 %r3, [%rd3+0x1000000];": (0, "bytes 16777216 to 16777220 of argument 0"),
    "atom.global.add.u32 %r3, [%rd3+4], 1;": (63, "changes 4 bytes outside"),
}


@pytest.mark.parametrize("body", FAULTS)
def test_faults_name_thread_statement_and_bytes(body):
    thread, text = FAULTS[body]
    with pytest.raises(ptx.PtxFault, match=text) as found:
        executed(body)
    assert found.value.thread == thread
    assert found.value.statement in body


LOCAL = ".local .align 8 .b8 depot[12]; mov.b32 %r10, depot; "
LOCAL_FAULTS = {
    "ld.local.b32 %r3, [%r10+12];": "loads bytes 12 to 16 of 12 of local memory",
    "st.local.b32 [%r10+-4], %r2;": "stores bytes -4 to 0 of 12 of local memory",
    "ld.local.v2.b32 {%r3, %r4}, [%r10+4];": "loads 8 bytes at 4 of local memory, not aligned",
}


@pytest.mark.parametrize("body", LOCAL_FAULTS)
def test_faults_of_local_memory(body):
    with pytest.raises(ptx.PtxFault, match=LOCAL_FAULTS[body]) as found:
        executed(LOCAL + body)
    assert found.value.thread == 0


def test_each_thread_has_local_memory_of_its_own():
    body = """st.local.b32 [%r10+8], %r1; bar.sync 0;
    setp.lt.u32 %p1, %r1, 10; @%p1 st.local.v2.b32 [%r10], {%r1, %r1};
    and.b32 %r5, %r1, 1; shl.b32 %r5, %r5, 3; add.s32 %r6, %r10, %r5;
    ld.local.b32 %r3, [%r6];"""
    y, report = executed(LOCAL + body)
    assert y.tolist() == [k if k % 2 or k < 10 else -1 for k in range(64)]
    assert not report.races


def test_threads_that_do_not_load_have_no_bounds():
    y, _ = executed("mov.b32 %r3, 5; setp.lt.u32 %p1, %r1, 63; @%p1 ld.global.b32 %r3, [%rd3+4];")
    assert y.tolist() == [*range(1, 64), 5]


def test_threads_may_load_from_different_tensors():
    body = """setp.lt.u32 %p1, %r1, 10;
    selp.b64 %rd6, %rd3, %rd4, %p1;
    ld.global.b32 %r3, [%rd6];"""
    y, _ = executed(body)
    assert y.tolist() == [*range(10), *[-1] * 54]


def test_vectors_and_bytes():
    body = """and.b32 %r4, %r1, 31;
    mad.wide.u32 %rd6, %r4, 8, %rd1;
    ld.global.v2.b32 {%r4, %r5}, [%rd6];
    st.shared.v2.b32 [%r50], {%r4, %r5};
    cvt.u64.u32 %rd7, %r1;
    add.s64 %rd7, %rd7, %rd1;
    ld.global.u8 %r6, [%rd7];
    add.s32 %r3, %r4, %r5;
    add.s32 %r3, %r3, %r6;"""
    body = body.replace("    st.shared.v2.b32 [%r50], {%r4, %r5};\n", "")
    y, _ = executed(body)
    first = X.view(torch.uint8)[:64].int()
    assert y.tolist() == [4 * (t % 32) + 1 + int(first[t]) for t in range(64)]


def test_copies_arrive_when_they_are_awaited():
    body = """cp.async.ca.shared.global [%r52], [%rd3], 4;
    cp.async.commit_group;
    {}
    ld.shared.b32 %r3, [%r52];
    cp.async.wait_group 0;"""
    assert executed(body.format("cp.async.wait_group 0;"))[0].tolist() == X.tolist()
    assert executed(body.format("cp.async.wait_all;"))[0].tolist() == X.tolist()
    assert executed(body.format(""))[0].tolist() == [-1] * 64
    assert executed(body.format("cp.async.wait_group 1;"))[0].tolist() == [-1] * 64


def test_a_copy_of_no_bytes_gives_zeros():
    body = """setp.lt.u32 %p1, %r1, 8;
    selp.b32 %r5, 4, 0, %p1;
    cp.async.ca.shared.global [%r52], [%rd3], 4, %r5;
    cp.async.commit_group;
    cp.async.wait_group 0;
    ld.shared.b32 %r3, [%r52];"""
    assert executed(body)[0].tolist() == [*range(8), *[0] * 56]


def test_atomics_are_done_in_turn():
    y, report = executed("atom.global.add.u32 %r3, [%rd1], 2;", torch.zeros(64, dtype=torch.int32))
    assert y.tolist() == list(range(0, 128, 2))
    assert report.counts["atom.global.add.u32"] == 1


def test_compare_and_swap():
    """Thread 5 alone finds its own number, and leaves 7; from there on thread 7 leaves 7, too."""
    x = torch.full((64,), 5, dtype=torch.int32)
    y, _ = executed("atom.global.acq_rel.gpu.cas.b32 %r3, [%rd1], %r1, 7;", x)
    assert y.tolist() == [*[5] * 6, *[7] * 58]


def test_numbers_are_given_as_the_type_of_the_parameter():
    text = kernel("add.f32 %r3, %r2, %r4;")
    text = text.replace("k_param_1)", "k_param_1, .param .f32 k_param_2)")
    text = text.replace("add.f32", "ld.param.b32 %r4, [k_param_2]; add.f32")
    x, y = torch.zeros(64), torch.zeros(64)
    ptx.run(ptx.parse(text), (1,), [x, y, 1.5], 0)
    assert (y == 1.5).all()


def test_too_many_arguments_are_refused():
    with pytest.raises(ValueError, match="takes 2 arguments, and got 3"):
        ptx.run(ptx.parse(kernel("mov.b32 %r3, %r2;")), (1,), [X, X.clone(), 3], 0)
