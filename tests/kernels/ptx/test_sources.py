"""Faults and races name the line of the kernel, the calls that it was inlined by, and the node."""

from __future__ import annotations

import re

import pytest

from graphnn.kernels import ptx
from tests.kernels.ptx.written import X, executed, kernel

# the load is on line 3 of helpers.py, in a function that line 2 of kernel.py calls
LOCATED = """.loc 1 2 7
    .loc 2 1 5, function_name $info, inlined_at 1 2 7
    mov.b32 %r3, 1;
    .loc 2 3 5, function_name $info, inlined_at 2 1 5
    ld.global.b32 %r3, [%rd3+{}];
    .loc 1 3 1
    add.s32 %r3, %r3, 0;"""


@pytest.fixture
def text(tmp_path):
    """The PTX of a kernel whose files can be read."""
    (tmp_path / "kernel.py").write_text("def kernel(x):\n    y = helper(x)\n    store(y)\n")
    (tmp_path / "helpers.py").write_text("    return inner(x)\n\n    return load(x)\n")

    def make(offset):
        files = f'.file 1 "{tmp_path}/kernel.py"\n.file 2 "{tmp_path}/helpers.py"\n'
        return kernel(LOCATED.format(offset)) + files

    return make


def test_each_statement_has_its_line(text):
    program = ptx.parse(text(0))
    lines = {
        i.text: [(x.file.rpartition("/")[2], x.line) for x in i.loc] for i in program.instructions
    }
    assert lines["mov.b32 %r3, 1"] == [("helpers.py", 1), ("kernel.py", 2)]
    assert lines["ld.global.b32 %r3, [%rd3+0]"] == [
        ("helpers.py", 3),
        ("helpers.py", 1),
        ("kernel.py", 2),
    ]
    assert lines["add.s32 %r3, %r3, 0"] == [("kernel.py", 3)]


def test_a_fault_shows_the_lines_and_the_nodes(text):
    program = ptx.parse(text(64))
    node = lambda file, line: "state h, net.py:7" if (file[-9:], line) == ("kernel.py", 2) else ""
    with pytest.raises(ptx.PtxFault) as found:
        ptx.run(program, (1,), [X, X.clone()], 0, describe=node, names=["x", "y"])
    line = next(i.line for i in program.instructions if i.text.startswith("ld.global.b32 %r3"))
    assert str(found.value) == (
        "k, block (0, 0, 0), thread 48: a thread loads 4 bytes outside of all tensors: "
        "bytes 256 to 260 of 'x' (256 bytes)\n"
        f"  statement:  ld.global.b32 %r3, [%rd3+64]  (PTX line {line})\n"
        "  source:     helpers.py:3: return load(x)\n"
        "  called from helpers.py:1: return inner(x)\n"
        "  called from kernel.py:2: y = helper(x)\n"
        "  node:       state h, net.py:7"
    )
    assert [x.line for x in found.value.source] == [3, 1, 2]


def test_a_statement_without_a_file_has_no_line():
    with pytest.raises(ptx.PtxFault) as found:
        executed("ld.global.b32 %r3, [%rd3+4];")
    assert found.value.source == ()
    assert "source:" not in str(found.value)


def test_barriers_can_be_left_out_one_by_one():
    program = ptx.parse(kernel("bar.sync 0;\n// bar.sync 9;\nbar.sync 0; mov.b32 %r3, %r2;"))
    first, second = program.barriers
    changed = ptx.parse(program.without(first))
    assert [b.text for b in changed.barriers] == ["bar.sync 0"]
    assert changed.barriers[0].line == second.line
    assert ptx.parse(program.without(first, second)).barriers == []


def test_statements_can_be_replaced():
    program = ptx.parse(kernel("add.s32 %r3, %r2, 1; add.s32 %r3, %r3, 1;"))
    number = next(i.number for i in program.instructions if i.text == "add.s32 %r3, %r2, 1")
    text = program.replaced({number: "add.s32 %r3, %r2, 100"})
    assert re.findall(r"add\.s32 %r3.*", text) == ["add.s32 %r3, %r2, 100; add.s32 %r3, %r3, 1;"]
