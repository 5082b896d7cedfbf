"""Accesses that nothing orders are found, and ordered ones are not reported."""

from __future__ import annotations

import random

import pytest
import torch

from graphnn.kernels import ptx
from tests.kernels.ptx.written import X, executed, kernel

EXCHANGE = """st.shared.b32 [%r52], %r2;
    {}
    xor.b32 %r4, %r51, {};
    add.s32 %r4, %r4, %r50;
    ld.shared.b32 %r3, [%r4];"""


def test_a_missing_barrier_is_a_race():
    y, report = executed(EXCHANGE.format("bar.sync 0;", 128))
    assert report.races == []
    assert y.tolist() == [t ^ 32 for t in range(64)]
    _, report = executed(EXCHANGE.format("", 128))
    assert report.races[0].statement == "ld.shared.b32 %r3, [%r4]"
    assert "warp 0 reads byte 128 of shared memory, which another warp wrote" in str(
        report.races[0]
    )


def test_threads_of_a_warp_need_no_barrier():
    assert executed(EXCHANGE.format("", 4))[1].races == []


OVERWRITE = """st.shared.b32 [%r52], %r2;
    bar.sync 0;
    xor.b32 %r4, %r51, 128;
    add.s32 %r4, %r4, %r50;
    ld.shared.b32 %r3, [%r4];
    {}
    st.shared.b32 [%r52], %r3;"""


def test_overwriting_what_another_warp_reads_is_a_race():
    assert executed(OVERWRITE.format("bar.sync 0;"))[1].races == []
    report = executed(OVERWRITE.format(""))[1]
    assert "writes byte 0 of shared memory, which another warp read" in str(report.races[0])


def test_two_warps_may_write_the_same_number():
    body = (
        "and.b32 %r4, %r51, 127; add.s32 %r4, %r4, %r50; st.shared.b32 [%r4], {}; mov.b32 %r3, 1;"
    )
    assert executed(body.format("9"))[1].races == []
    assert executed(body.format("%r1"))[1].races


@pytest.mark.parametrize("threads", [256, 512, 1024])
def test_each_width_of_access_is_followed(threads):
    """Of 8, 16 and 32 warps; a byte of a word that another warp wrote."""
    body = """shl.b32 %r4, %r1, 4;
    add.s32 %r4, %r4, %r50;
    st.shared.v4.b32 [%r4], {{%r2, %r2, %r2, %r2}};
    {}
    xor.b32 %r5, %r1, 32;
    shl.b32 %r5, %r5, 4;
    add.s32 %r5, %r5, %r50;
    ld.shared.u8 %r3, [%r5+13];"""
    x = torch.arange(threads, dtype=torch.int32)
    assert executed(body.format("bar.sync 0;"), x, threads, 16 * threads)[1].races == []
    assert executed(body.format(""), x, threads, 16 * threads)[1].races


GLOBAL = """xor.b32 %r4, %r1, {};
    mad.wide.u32 %rd6, %r4, 4, %rd2;
    st.global.b32 [%rd4], %r2;
    {}
    ld.global.b32 %r3, [%rd6];
    bar.sync 0;"""


def test_a_number_that_another_warp_stored():
    report = executed(GLOBAL.format(32, ""))[1]
    assert "of argument 1 (256 bytes), which another warp (1) stored" in str(report.races[0])
    assert executed(GLOBAL.format(32, "bar.sync 0;"))[1].races == []
    assert executed(GLOBAL.format(1, ""))[1].races == []


def test_storing_what_another_warp_loaded():
    body = """xor.b32 %r4, %r1, 32;
    mad.wide.u32 %rd6, %r4, 4, %rd1;
    ld.global.b32 %r3, [%rd6];
    {}
    st.global.b32 [%rd3], %r3;"""
    report = executed(body.format(""))[1]
    assert "which another warp" in str(report.races[0])
    assert "loaded" in str(report.races[0])
    assert executed(body.format("bar.sync 0;"))[1].races == []


def test_loading_and_storing_ones_own_is_no_race():
    body = "ld.global.b32 %r3, [%rd3]; st.global.b32 [%rd3], %r3; ld.global.b32 %r3, [%rd3];"
    assert executed(body)[1].races == []


def test_two_numbers_in_one_place():
    body = "st.global.b32 [%rd2], %r2; bar.sync 0; mov.b32 %r3, 1;"
    assert "store 0x" in str(executed(body)[1].races[0])


def test_two_numbers_a_rounding_apart_are_a_warning():
    x = torch.ones(64).view(torch.int32) + (torch.arange(64) % 2).int()
    report = executed("st.shared.b32 [%r50], %r2; mov.b32 %r3, 1;", x, threads=32)[1]
    assert report.races == []
    assert "differ by a rounding" in str(report.warnings[0])


def test_what_is_left_of_terms_that_cancel_differs_by_a_rounding_of_the_terms():
    body = "mov.b32 %r3, {}; @%p1 mov.b32 %r3, {}; st.shared.b32 [%r50], %r3;"
    body = "setp.lt.u32 %p1, %r1, 16; " + body
    x = torch.ones(64)
    report = executed(body.format("0xb5000000", 0), x, threads=32)[1]  # -4.8e-7 and 0
    assert report.races == [] and "differ by a rounding" in str(report.warnings[0])
    assert executed(body.format("0x3a83126f", 0), x, threads=32)[1].races  # 0.001 and 0
    assert executed(body.format(1, 0), x, threads=32)[1].races, "whole numbers do not cancel"


def test_storing_what_was_loaded_as_constant_is_found():
    body = "st.global.b32 [%rd4], 3; bar.sync 0; ld.global.nc.b32 %r3, [%rd4]; bar.sync 0;"
    assert "ld.global.nc" in str(executed(body)[1].races[0])


def test_blocks_that_are_not_ordered_must_not_touch_one_place():
    """Each block stores 64 numbers; the second begins at the last of the first."""
    body = "mov.u32 %r4, %ctaid.x; mad.wide.u32 %rd4, %r4, {}, %rd4; mov.b32 %r3, %r4;"
    for step, races in ((256, 0), (252, 1)):
        x, y = X.clone(), torch.zeros(128, dtype=torch.int32)
        report = ptx.run(ptx.parse(kernel(body.format(step))), (2,), [x, y], 4096)
        assert len(report.races) == races
    assert "block 0 stored: the launch is not cooperative" in str(report.races[0])


def test_a_block_must_not_store_what_others_load():
    """All blocks load all of x; then each adds one to its own part."""
    body = """mov.u32 %r4, %ctaid.x;
    mad.wide.u32 %rd4, %r4, 256, %rd4;
    mad.wide.u32 %rd6, %r4, 256, %rd3;
    st.global.b32 [%rd6], %r2;
    mov.b32 %r3, %r4;"""
    x, y = torch.zeros(128, dtype=torch.int32), torch.zeros(128, dtype=torch.int32)
    report = ptx.run(ptx.parse(kernel(body)), (2,), [x, y], 4096)
    assert "block 0 stored" in str(report.races[0]) or "another block loaded" in str(
        report.races[0]
    )
    assert len(report.races) == 1


# block 0 stores x + 1 in y and publishes it at flag (argument 2); block 1 waits, and stores what it
# finds in y behind it
HANDED = """ld.param.b64 %rd10, [k_param_2];
    mov.u32 %r4, %ctaid.x;
    setp.eq.u32 %p1, %r4, 1;
    setp.eq.u32 %p3, %r1, 0;
    @%p1 bra $L_second;
    add.s32 %r3, %r2, 1;
    st.global.b32 [%rd4], %r3;
    {before}
    @%p3 {release};
    ret;
$L_second:
    setp.ne.u32 %p3, %r1, 0;
    @%p3 bra $L_met;
$L_wait:
    {acquire};
    setp.eq.u32 %p2, %r5, 0;
    @%p2 bra $L_wait;
    {fence}
$L_met:
    {after}
    ld.global.b32 %r3, [%rd4];
    add.s64 %rd4, %rd4, 256;"""
ORDERED = {
    "before": "bar.sync 0;",
    "release": "red.global.gpu.release.add.u32 [%rd10], 1",
    "acquire": "ld.global.gpu.acquire.b32 %r5, [%rd10]",
    "fence": "",
    "after": "bar.sync 0;",
}


def handed(seed=0, **changes):
    text = kernel(HANDED.format(**{**ORDERED, **changes}))
    text = text.replace("k_param_1)", "k_param_1, .param .u64 k_param_2)")
    y, flag = torch.zeros(128, dtype=torch.int32), torch.zeros(1, dtype=torch.int32)
    report = ptx.run(ptx.parse(text), (2,), [X.clone(), y, flag], 4096, cooperative=True, seed=seed)
    return y, report


@pytest.mark.parametrize("seed", range(4))
def test_what_is_released_and_acquired_is_ordered(seed):
    y, report = handed(seed)
    assert report.races == []
    assert y[64:].tolist() == [t + 1 for t in range(64)]


FENCED = {
    "before": "bar.sync 0; fence.acq_rel.gpu;",
    "release": "st.relaxed.gpu.global.b32 [%rd10], 1",
    "acquire": "ld.relaxed.gpu.global.b32 %r5, [%rd10]",
    "fence": "fence.acq_rel.gpu;",
}


def test_fences_order_relaxed_accesses():
    assert handed(**FENCED)[1].races == []
    for part in ("before", "fence"):
        changed = {**FENCED, part: FENCED[part].replace("fence.acq_rel.gpu;", "")}
        assert handed(**changed)[1].races, part


UNORDERED = {
    "no barrier before the release": {"before": ""},
    "a relaxed release": {"release": "red.global.gpu.relaxed.add.u32 [%rd10], 1"},
    "a release to its own block": {"release": "red.global.cta.release.add.u32 [%rd10], 1"},
    "a relaxed load": {"acquire": "ld.global.gpu.relaxed.b32 %r5, [%rd10]"},
    "an acquire of its own block": {"acquire": "ld.global.cta.acquire.b32 %r5, [%rd10]"},
    "no barrier after the acquire": {"after": ""},
}


@pytest.mark.parametrize("name", UNORDERED)
def test_each_part_of_the_order_is_needed(name):
    races = handed(**UNORDERED[name])[1].races
    assert any("block (1, 0, 0)" in str(r) and "block 0 stored" in str(r) for r in races)


def test_wgmma_reads_only_what_a_fence_has_shown():
    """A and B are the same 64 x 16 numbers of bf16, all of them 1, in rows of 32 bytes."""
    store = """mov.b32 %r4, 0x3F803F80;
    shl.b32 %r5, %r1, 4;
    add.s32 %r5, %r5, %r50;
    st.shared.v4.b32 [%r5], {%r4, %r4, %r4, %r4};"""
    # swizzle of 32 bytes, stride of 256 bytes between groups of 8 rows
    body = (
        store
        + """
    FENCE
    bar.sync 0;
    shr.u32 %r6, %r50, 4;
    cvt.u64.u32 %rd8, %r6;
    or.b64 %rd8, %rd8, 0xC000001000010000;
    setp.ne.u32 %p1, %r1, 999;
    mov.b32 %r10, 0; mov.b32 %r11, 0; mov.b32 %r12, 0; mov.b32 %r13, 0;
    wgmma.fence.sync.aligned;
    wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16
        {%r10,%r11,%r12,%r13}, %rd8, %rd8, %p1, 1, 1, 0, 0;
    wgmma.commit_group.sync.aligned;
    wgmma.wait_group.sync.aligned 0;
    mov.b32 %r3, %r10;"""
    )
    x = torch.zeros(128, dtype=torch.int32)
    y, report = executed(body.replace("FENCE", "fence.proxy.async.shared::cta;"), x, threads=128)
    assert (y.view(torch.float32) == 16).all()
    assert report.races == []
    report = executed(body.replace("FENCE", ""), x, threads=128)[1]
    assert "no fence.proxy.async" in str(report.races[0])


def test_findings_are_reported_once_per_statement():
    body = (
        """mov.b32 %r7, 0;
$L_loop:
    """
        + EXCHANGE.format("", 128)
        + """
    add.s32 %r7, %r7, 1;
    setp.lt.u32 %p1, %r7, 5;
    @%p1 bra $L_loop;"""
    )
    races = executed(body)[1].races
    assert len(races) == len({(r.statement, r.kind) for r in races}) == 2


@pytest.mark.parametrize("seed", range(40))
def test_random_exchanges_race_exactly_if_nothing_orders_them(seed):
    """The first threads of four warps store, load and meet; races are counted here by hand."""
    draw = random.Random(seed)
    lines = ["and.b32 %r8, %r1, 31; setp.eq.u32 %p1, %r8, 0; shr.u32 %r9, %r1, 5; mov.b32 %r3, 0;"]
    stored: dict[int, set[int]] = {}
    loaded: dict[int, set[int]] = {}
    races = False
    for _ in range(draw.randrange(2, 9)):
        what = draw.choice(("st", "ld", "bar", "bar"))
        if what == "bar":
            lines.append("bar.sync 0;")
            stored, loaded = {}, {}
            continue
        by, begin, size = draw.randrange(1, 4), draw.randrange(6), 6
        lines.append(f"mad.lo.s32 %r10, %r9, {by}, {begin}; rem.u32 %r10, %r10, {size};")
        lines.append("shl.b32 %r10, %r10, 2; add.s32 %r10, %r10, %r50;")
        statement = "st.shared.b32 [%r10], %r1" if what == "st" else "ld.shared.b32 %r3, [%r10]"
        lines.append(f"@%p1 {statement};")
        places = [(by * warp + begin) % size for warp in range(4)]
        for warp, place in enumerate(places):
            others = {w for w in range(4) if w != warp}
            races |= bool(stored.get(place, set()) & others)
            races |= what == "st" and bool(loaded.get(place, set()) & others)
            races |= what == "st" and places.count(place) > 1
        for warp, place in enumerate(places):
            (stored if what == "st" else loaded).setdefault(place, set()).add(warp)
    _, report = executed("\n".join(lines), torch.zeros(128, dtype=torch.int32), threads=128)
    assert bool(report.races) == races


@pytest.mark.parametrize(("dtype", "race"), [(torch.float16, True), (torch.bfloat16, False)])
def test_how_near_copies_are_depends_on_the_type_of_the_tensor(dtype, race):
    """Two units in the last place are a rounding of bfloat16; five are more in float16."""
    away = {torch.float16: 5, torch.bfloat16: 2}[dtype]
    body = "mov.b32 %r3, 0x3c00; setp.lt.u32 %p1, %r1, 16; cvt.u16.u32 %rs1, %r3;"
    body += f"@%p1 add.u16 %rs1, %rs1, {away}; st.global.b16 [%rd1], %rs1;"
    x, y = torch.zeros(128, dtype=dtype), torch.zeros(64, dtype=torch.int32)
    text = kernel(body, 32).replace("ld.global.b32 %r2, [%rd3];", "")
    report = ptx.run(ptx.parse(text), (1,), [x, y], 4096)
    assert bool(report.races) == race
    assert bool(report.warnings) != race


def test_packed_numbers_in_one_place_are_compared_one_by_one():
    """The low half differs by a factor of two, which is nothing beside the whole as float32."""
    body = "mov.b32 %r3, 0x3f803f80; setp.lt.u32 %p1, %r1, 16; @%p1 mov.b32 %r3, 0x3f804000;"
    text = kernel(body + "st.global.b32 [%rd1], %r3;", 32)
    text = text.replace("ld.global.b32 %r2, [%rd3];", "")
    x, y = torch.zeros(128, dtype=torch.bfloat16), torch.zeros(64, dtype=torch.int32)
    assert ptx.run(ptx.parse(text), (1,), [x, y], 4096).races
