"""Kernels of a few statements give the numbers that they must."""

from __future__ import annotations

import pytest
import torch

from graphnn.kernels import ptx
from tests.kernels.ptx.written import X, executed, kernel


def test_a_kernel_loads_adds_and_stores():
    y, report = executed("add.s32 %r3, %r2, 5;")
    assert y.tolist() == [t + 5 for t in range(64)]
    assert (report.races, report.warnings, report.blocks) == ([], [], 1)


def test_statements_are_counted_by_opcode():
    _, report = executed("add.s32 %r3, %r2, 5; add.s32 %r3, %r3, %r3;")
    assert report.counts["add.s32"] == 3
    assert report.counts["ret"] == 1
    assert report.statements == sum(report.counts.values())


def test_registers_and_shared_memory_begin_as_nan():
    y, _ = executed("ld.shared.b32 %r3, [%r52]; add.f32 %r3, %r3, %r40;")
    assert torch.isnan(y.view(torch.float32)).all()


def test_the_same_text_is_parsed_once():
    assert ptx.parse(kernel("mov.b32 %r3, %r2;")) is ptx.parse(kernel("mov.b32 %r3, %r2;"))


def test_an_unknown_instruction_is_refused_before_anything_runs():
    with pytest.raises(ptx.PtxFault, match=r"line 18 .*not modelled: frob\.b32 %r3, %r2") as found:
        ptx.parse(kernel("frob.b32 %r3, %r2;"))
    assert found.value.statement == "frob.b32 %r3, %r2"


@pytest.mark.parametrize(
    "body, named",
    [
        ("add.sat.frob.s32 %r3, %r2, 1;", "frob"),
        ("mul.lo.f16x2 %r3, %r2, %r2;", r"\.lo"),
        ("mov.b32 %r3, %undeclared;", "%undeclared"),
        ("ld.global.b64 %r3, [%rd3];", "%r3"),
        ("bar.arrive 0, 64; mov.b32 %r3, %r2;", "arrive"),
        ("bra $L_nowhere;", "nowhere"),
        ("setp.lt.f32x2 %p1, %rd1, %rd1;", "f32x2"),
        ("sqrt.rz.f32 %r3, %r2;", r"\.rz"),
        ("add.rz.f64 %rd1, %rd1, %rd1;", r"\.rz"),
        ("min.relu.f32 %r3, %r2, %r2;", "relu"),
        ("call.uni f, (%r2);", "not modelled"),
        (".param .b8 depot[8]; mov.b32 %r3, 1;", "depot"),
    ],
)
def test_an_unknown_form_is_refused_by_name(body, named):
    with pytest.raises(ptx.PtxFault, match=named):
        ptx.parse(kernel(body))


BITS = torch.randint(-(2**31), 2**31, (64,), generator=torch.Generator().manual_seed(0)).int()
INTEGER = {
    "add.sat.s32 %r3, %r2, 2000000000;": lambda v: min(v + 2000000000, 2**31 - 1),
    "sub.sat.s32 %r3, %r2, 2000000000;": lambda v: max(v - 2000000000, -(2**31)),
    "sad.s32 %r3, %r2, 5, 7;": lambda v: 7 + abs(v - 5),
    "mul24.lo.u32 %r3, %r2, 3;": lambda v: v % 2**24 * 3,
    "mad24.hi.u32 %r3, %r2, 0x800000, 1;": lambda v: (v % 2**24 << 23 >> 16) + 1,
    "bfind.u32 %r3, %r2;": lambda v: (v % 2**32).bit_length() - 1,
    "bfind.shiftamt.u32 %r3, %r2;": lambda v: 32 - (v % 2**32).bit_length(),
    "dp4a.u32.u32 %r3, %r2, 0x01010101, 1;": lambda v: 1 + sum((v % 2**32).to_bytes(4, "big")),
}


@pytest.mark.parametrize("body", INTEGER)
def test_integers(body):
    y, _ = executed(body, BITS)
    assert [v % 2**32 for v in y.tolist()] == [INTEGER[body](v) % 2**32 for v in BITS.tolist()]


def test_pairs_of_float32():
    body = """
    mov.b64 %rd5, {%r2, %r2};
    fma.rn.f32x2 %rd6, %rd5, %rd5, %rd5;
    add.f32x2 %rd6, %rd6, %rd5;
    mov.b64 {%r4, %r3}, %rd6;
    """
    x = torch.arange(64, dtype=torch.float32)
    y, _ = executed(body, x.view(torch.int32))
    assert torch.equal(y.view(torch.float32), x * x + 2 * x)


@pytest.mark.parametrize(
    "old, new, text",
    [
        (".reqntid 64", "", "has no .reqntid"),
        (".reqntid 64", ".reqntid 8, 8", "blocks of 8, 8 threads"),
        (".reqntid 64", ".reqntid 48", "blocks of 48 threads"),
        ("_smem[];", "_smem[]; \n.extern .shared .b8 more[];", "global_smem, more"),
        (".visible .entry k(", ".visible .entry j() { ret; }\n.visible .entry k(", "2 kernels"),
    ],
)
def test_what_a_kernel_is_must_be_modelled(old, new, text):
    with pytest.raises(ptx.PtxFault, match=text):
        ptx.parse(kernel("mov.b32 %r3, 1;").replace(old, new))


def test_tensors_must_be_on_the_cpu():
    program = ptx.parse(kernel("mov.b32 %r3, 1;"))
    with pytest.raises(ValueError, match="'x' is on meta"):
        ptx.run(program, (1,), [X.to("meta"), X], 0, names=["x", "y"])


def test_a_part_of_a_parameter():
    text = kernel("ld.param.b32 %r3, [k_param_2+4];")
    text = text.replace("k_param_1)", "k_param_1, .param .u64 k_param_2)")
    y = torch.zeros(64, dtype=torch.int32)
    ptx.run(ptx.parse(text), (1,), [X, y, 7 << 32 | 9], 0)
    assert y.tolist() == [7] * 64
