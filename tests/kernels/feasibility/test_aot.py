"""Good and bad kernels get the right verdict; nothing here needs a GPU."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import pytest
import rich
import torch
from triton import knobs
from triton.runtime.interpreter import InterpretedFunction

from graphnn.kernels.feasibility import aot, sass
from graphnn.kernels.feasibility.aot import KernelCase, Resources, inspect
from graphnn.kernels.feasibility.limits import register_cap
from graphnn.kernels.feasibility.ttgir import census
from graphnn.kernels.interpreter.interpreter import launch
from tests.kernels.feasibility import kernels_for_aot as kernels
from tests.kernels.feasibility.kernels_for_aot import case

FIT = Resources(
    target="sm_90",
    threads=256,
    registers=100,
    stack=0,
    spills=0,
    shared=1024,
    tensor_memory=0,
    matmuls={"mma": 8},
    loads_before=1,
    loads_inside=1,
    loaded_inside=("x_ptr",),
    staged_inside=(),
    copies_inside=0,
    conversions_inside=0,
)


def resources(tested: KernelCase, target: str = "sm_90") -> Resources:
    return inspect(tested.function, tested.signature, tested.constants, target, tested.warps)


@pytest.mark.parametrize("target", aot.TARGETS)
def test_weights_loaded_before_the_loop_are_loaded_once(target):
    chosen = case("lstm", (64,))
    found = resources(chosen, target)
    assert found.faults(chosen.loaded_once) == []
    assert (found.target, found.threads, found.loads_before, found.loads_inside) == (
        target,
        128,
        4,
        4,
    )
    assert found.loaded_inside == ("x_f_ptr", "x_i_ptr", "x_o_ptr", "x_z_ptr")
    # 16 x 64 x 64 is 32 products of 16 x 8 x 16; four gates of them, in four warps
    assert found.matmuls == {"mma": 32}
    assert found.shared > 4 * 64 * 64 * 2


def test_weights_loaded_in_the_loop_are_named():
    chosen = case("elman", (32,), reload=True)
    found = resources(chosen)
    assert (found.loads_before, found.loads_inside) == (0, 2)
    assert found.loaded_inside == ("x_n_ptr", "w_n_ptr")
    assert found.faults(chosen.loaded_once) == ["w_n_ptr is loaded again inside the loop"]
    assert found.faults() == []


def test_a_spill_is_found():
    found = resources(case("lstm", (32,), rows=64, warps=1))
    assert found.stack > 0 and found.spills > 0
    assert (
        found.faults()[0] == f"spills: {found.spills} instructions, {found.stack} bytes per thread"
    )


def test_shared_memory_is_compared_with_the_target():
    chosen = case("elman", (256, 64), warps=8)
    assert resources(chosen, "sm_90").faults() == []
    (fault,) = resources(chosen, "sm_80").faults()
    assert fault.startswith("shared memory: ") and fault.endswith(" bytes of 166,912")


@pytest.mark.parametrize(
    ("rows", "weights", "how", "target", "kind"),
    [
        (16, "bf16", "ieee", "sm_90", "mma"),
        (16, "fp32", "tf32", "sm_90", "mma"),
        (16, "fp32", "ieee", "sm_90", "fma"),
        (64, "bf16", "ieee", "sm_80", "mma"),
        (64, "bf16", "ieee", "sm_90", "wgmma"),
        (64, "bf16", "ieee", "sm_100", "tcgen05"),
    ],
)
def test_matmuls_are_counted_by_kind(rows, weights, how, target, kind):
    found = resources(case("elman", (32,), rows=rows, weights=weights, how=how), target)
    assert list(found.matmuls) == [kind]


def test_pointers_carried_by_a_loop_are_followed():
    types = {"x_ptr": "*fp32", "w_ptr": "*fp32", "idle_ptr": "*fp32", "y_ptr": "*fp32", "T": "i32"}
    found = inspect(kernels.carried, types, {"N": 128})
    assert found.loaded_inside == ("x_ptr", "w_ptr")
    assert (found.loads_before, found.loads_inside) == (1, 2)


def test_pointers_chosen_by_a_branch_are_followed():
    types = {f"{name}_ptr": "*fp32" for name in "abcy"} | {"T": "i32", "B": "i32"}
    found = inspect(kernels.chosen, types, {"N": 128})
    # c is loaded once: it is where to load, not what is loaded
    assert found.loaded_inside == ("a_ptr", "b_ptr")


def test_pointers_in_while_loops_are_followed():
    types = {"flag_ptr": "*fp32", "w_ptr": "*fp32", "y_ptr": "*fp32"}
    found = inspect(kernels.spun, types, {"N": 128})
    assert found.loaded_inside == ("flag_ptr", "w_ptr")
    assert found.loads_before == 0


def test_a_kernel_compiles_after_another_was_interpreted(monkeypatch, tmp_path):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(aot, "_INSPECTED", {})
    x, w, y = torch.zeros(1, 1, 32), torch.zeros(32, 32), torch.empty(1, 1, 32)
    launch(kernels.kernel("elman", (32,)), (1,), x, w, y, T=1, B=1, ROWS=16, HOW="ieee")
    assert resources(case("elman", (32,))).faults() == []


# weights loaded once and split into halves, of which one is copied to shared memory every step
STAGED = """
module attributes {"ttg.num-warps" = 4 : i32} {
  tt.func public @kernel(%w: !tt.ptr<f32> loc("w"(#loc)), %v: !tt.ptr<f32>, %T: i32) {
    %0 = tt.splat %w : !tt.ptr<f32> -> tensor<64x64x!tt.ptr<f32>, #blocked> loc(#loc2)
    %1 = tt.load %0 : tensor<64x64x!tt.ptr<f32>, #blocked> loc(#loc2)
    %2 = tt.splat %v : !tt.ptr<f32> -> tensor<64x64x!tt.ptr<f32>, #blocked> loc(#loc2)
    %3 = tt.load %2 : tensor<64x64x!tt.ptr<f32>, #blocked> loc(#loc2)
    %4 = ttg.local_alloc %3 : (tensor<64x64xf32, #blocked>) -> !ttg.memdesc<64x64xf32>
    %5 = ttg.convert_layout %1 : tensor<64x64xf32, #blocked> -> tensor<64x64xf32, #mma>
    %6:2 = scf.for %t = %c0 to %T step %c1 iter_args(%a = %1, %b = %3) -> (tensor, tensor) {
      %7 = arith.subf %a, %5 : tensor<64x64xf32, #mma> loc(#loc3)
      %8 = ttg.local_alloc %7 : (tensor<64x64xf32, #mma>) -> !ttg.memdesc<64x64xf32>
      %9 = tt.dot %b, %8, %a : tensor * tensor -> tensor<64x64xf32, #mma>
      scf.yield %a, %9 : tensor, tensor
    }
    tt.return
  }
}
"""


def test_weights_copied_to_shared_memory_in_the_loop_are_named():
    found = census(STAGED, ["w_ptr", "v_ptr", "T"])
    assert found.staged_inside == ("w_ptr",)
    assert (found.loads_before, found.loads_inside, found.loaded_inside) == (2, 0, ())


@pytest.mark.slow
def test_too_much_tensor_memory_is_a_kernel_that_traps():
    found = resources(case("lstm", (128,), rows=64, warps=8), "sm_100")
    # four products of 128 columns and an operand of 64: Triton compiles it to nothing but a trap
    assert found.matmuls == {}
    assert "tensor memory: 576 columns of 512" in found.faults()


@pytest.mark.slow
def test_more_registers_avoid_a_small_spill():
    chosen = replace(case("gru", (128,), rows=64, warps=8), maxnreg=register_cap(256))
    assert chosen.judge("sm_100").faults == ()


def test_a_cooperative_kernel_is_inspected_in_the_same_way():
    chosen = case("elman", (32,))
    found = inspect(chosen.function, chosen.signature, chosen.constants, cooperative=True)
    assert found == resources(chosen)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"spills": 3, "stack": 8}, "spills: 3 instructions, 8 bytes per thread"),
        ({"registers": 255}, "all 255 registers of a thread are used"),
        ({"registers": 128, "threads": 512}, "all 128 registers of a thread are used"),
        ({"shared": 232_449}, "shared memory: 232,449 bytes of 232,448"),
        ({"tensor_memory": 576}, "tensor memory: 576 columns of 512"),
        ({"loaded_inside": ("w_ptr",)}, "w_ptr is loaded again inside the loop"),
        ({"staged_inside": ("w_ptr",)}, "w_ptr is copied to shared memory inside the loop"),
    ],
)
def test_faults_are_described(change, sentence):
    assert FIT.faults(["w_ptr"]) == []
    assert replace(FIT, **change).faults(["w_ptr"]) == [sentence]


def test_the_same_call_compiles_once(monkeypatch):
    compiled = Counter()
    compiling = aot._compile
    monkeypatch.setattr(aot, "_INSPECTED", {})
    monkeypatch.setattr(aot, "_compile", lambda *a: compiled.update(["calls"]) or compiling(*a))
    chosen = case("elman", (32,))
    assert resources(chosen) is resources(chosen)
    assert compiled["calls"] == 1
    resources(replace(chosen, warps=8))
    resources(replace(chosen, constants={"ROWS": 32, "HOW": "ieee"}))
    resources(replace(chosen, signature=kernels.signature("elman", "fp16")))
    resources(chosen, "sm_80")
    assert compiled["calls"] == 5


def test_files_go_to_tritons_cache_alone(monkeypatch, tmp_path):
    written, elsewhere = tmp_path / "cache", tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setenv("TRITON_CACHE_DIR", str(written))
    monkeypatch.setenv("TMPDIR", str(elsewhere))
    monkeypatch.setattr(aot, "_INSPECTED", {})
    monkeypatch.chdir(elsewhere)
    resources(case("elman", (32,)))
    assert list(written.rglob("*.cubin"))
    assert list(elsewhere.iterdir()) == []


def test_a_missing_tool_is_named(monkeypatch):
    monkeypatch.setattr(type(knobs.nvidia).__dict__["cuobjdump"], "default_path", "/nowhere")
    with pytest.raises(RuntimeError, match="cuobjdump is missing: it is part of Triton's package"):
        sass.read_cubin("kernel.cubin")


def test_errors_of_wrong_calls_name_the_mistake():
    chosen = case("elman", (32,))
    with pytest.raises(ValueError, match="'sm_70' is none of sm_75, sm_80, sm_86,"):
        resources(chosen, "sm_70")
    with pytest.raises(ValueError, match="kernel takes"):
        inspect(chosen.function, chosen.signature, {})
    with pytest.raises(TypeError, match="TRITON_INTERPRET"):
        inspect(InterpretedFunction(kernels.carried.fn), {}, {})


def test_a_table_has_a_row_for_every_case_and_target(capsys):
    cases = [
        case("elman", (32,)),
        case("elman", (32,), reload=True),
        KernelCase("mistaken", kernels.mistaken, {"x_ptr": "*fp32"}, {}),
    ]
    rows = aot.table(cases, ["sm_80", "sm_90"])
    assert [row.target for row in rows] == ["sm_80", "sm_90"] * 3
    assert [row.weights for row in rows[::2]] == ["resident", "w_n_ptr again", ""]
    assert [bool(row.faults) for row in rows[::2]] == [False, True, True]
    assert "not today" in rows[-1].faults[0]
    rich.print(aot.render(rows))
    assert "sm_80" in capsys.readouterr().out


def test_the_command_fails_on_a_fault(capsys):
    good, bad = case("elman", (32,)), case("elman", (32,), reload=True)
    assert aot.main([good], ["--target", "sm_90"]) == 0
    assert "fits" in capsys.readouterr().out
    assert aot.main([good, bad], ["--target", "sm_80", "--target", "sm_90", "--json"]) == 1
    rows = json.loads(capsys.readouterr().out)
    assert [row["target"] for row in rows] == ["sm_80", "sm_90"] * 2
    assert rows[0]["resources"]["matmuls"] == {"mma": 2} and rows[0]["faults"] == []
    assert rows[3]["faults"] == ["w_n_ptr is loaded again inside the loop"]
