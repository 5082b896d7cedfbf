"""`gn.verify` and `graphnn verify`, with kernels that are right and kernels that are wrong."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

import graphnn as gn
from graphnn.cli import main
from graphnn.cli.verify import TARGETS
from graphnn.kernels import ptx
from graphnn.kernels.executors.ptx import EXECUTED, PtxExecutor
from graphnn.tools.resources import Decoding, Layer
from graphnn.tools.verification.poison import poison
from tests.tools.verification.networks import TINY, Elman, interpreted_by, text_changed

KERNELS = ["h_saving", "h_backward"]
LSTM = lambda *skip: gn.compile(Layer(gn.nn.LSTM(20, 20), 20), skip=skip)
KINDS = {
    "scan": lambda: Layer(gn.nn.MinGRU(24, 24), 24),
    "attention": lambda: Decoding(16),
    "best": lambda: Layer(gn.nn.AssociativeMemory(50, 8, 8, topk=4), 8),
    "cooperative": lambda: LSTM("resident"),
    "stepwise": lambda: LSTM("resident", "cooperative"),
}


def found_with(monkeypatch, spoil, **options):
    """A verification of the interpreter on one call; `spoil` changes what it stored."""
    interpreted_by(monkeypatch, spoil)
    return gn.verify(Elman(), **{"dtype": "bf16", "x": torch.ones(2, 2, 5), **options})


def faults(found):
    return [str(fault) for fault in found.all_faults()]


def test_right_kernels_have_no_fault(monkeypatch):
    interpreted_by(monkeypatch, lambda launch, report: None)
    found = gn.verify(Elman(), dtype="bf16", sizes=TINY)
    assert found.ok and not faults(found)
    assert [row.kernel for row in found.launches] == [
        *KERNELS,
        *(f"{name}, ragged" for name in KERNELS),
    ]
    assert {row.error.name for row in found.results} >= {"output", "gradient of map.weight"}
    found.raise_for_faults()


def test_a_wrong_number_names_kernel_line_and_node(monkeypatch):
    def spoil(launch, report):
        if launch.function.__name__ == "h_saving":
            launch.args[launch.outputs[0]][-1] += 0.5

    found = found_with(monkeypatch, spoil)
    text = faults(found)[0]
    assert "h_saving (16 rows, 8 warps, grid 1, bf16, ptx:sm_90): tanh_out: wrong by" in text
    assert "tl.store(" in text
    assert "networks.py:" in text
    assert any(row.faults for row in found.results), "the results of the model are wrong, too"
    with pytest.raises(gn.errors.VerificationError, match="tanh_out: wrong by"):
        found.raise_for_faults()


def test_numbers_that_are_left_unwritten_are_counted(monkeypatch):
    def spoil(launch, report):
        if launch.function.__name__ == "h_backward":
            poison(launch.args[launch.outputs[0]][0])

    text = "\n".join(faults(found_with(monkeypatch, spoil)))
    assert "32 of 64 numbers were not written" in text


def test_an_input_that_changes_is_named(monkeypatch):
    def spoil(launch, report):
        launch.args[0].view(-1)[0] += 1

    assert "map_ptr: an input was overwritten" in faults(found_with(monkeypatch, spoil))[0]


def test_a_kernel_that_raises_is_a_fault_and_the_model_goes_on(monkeypatch):
    def spoil(launch, report):
        if launch.function.__name__ == "h_saving":
            raise RuntimeError("an illegal access")

    found = found_with(monkeypatch, spoil)
    assert "RuntimeError: an illegal access" in faults(found)[0]
    assert not any(row.faults for row in found.results)
    assert found.launches[1].runs == 1


def test_whole_dtypes_and_backward_are_arguments(monkeypatch):
    found = found_with(monkeypatch, lambda launch, report: None, dtype=None, backward=False)
    assert found.ok and found.dtype == "fp32"
    assert not any("gradient" in row.error.name for row in found.results)
    assert {row.kernel for row in found.launches} == {"h"}


def test_given_inputs_make_one_call(monkeypatch):
    interpreted_by(monkeypatch, lambda launch, report: None)
    lengths = {"time": torch.tensor([2, 1])}
    found = gn.verify(Elman(), x=torch.randn(2, 2, 5), lengths=lengths)
    assert found.ok and {row.call for row in found.results} == {""}


def test_models_and_their_parameters_do_not_change(monkeypatch):
    interpreted_by(monkeypatch, lambda launch, report: None)
    model = gn.compile(Elman())
    before = {k: v.clone() for k, v in model.state_dict().items()}
    gn.verify(model, dtype="bf16", x=torch.ones(2, 2, 5))
    after = model.state_dict()
    assert all(torch.equal(before[k], v) and v.dtype == torch.float32 for k, v in after.items())


def test_an_unknown_dtype_is_refused():
    with pytest.raises(gn.errors.BackendError, match="no dtype 'int8'"):
        gn.verify(Elman(), dtype="int8")


def test_every_launch_runs_all_candidates(monkeypatch):
    interpreted_by(monkeypatch, lambda launch, report: None)
    x = torch.ones(20, 1, 5)
    found = gn.verify(Elman(), dtype="bf16", x=x, backward=False, every_launch=True)
    tiles = {(row.tile, row.warps) for row in found.launches}
    assert found.ok and len(tiles) > 1, tiles


def test_tables_have_at_most_100_columns(monkeypatch):
    found = found_with(monkeypatch, lambda launch, report: None)
    lines = str(found).splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[0] == "elman, bf16, PTX for sm_90, executed on the CPU"
    assert lines[-1] == "2 kernels, 2 launches in 2 configurations, 5 results, 0 races, no fault"
    json.dumps(found.record())


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "net.py"
    path.write_text("from tests.tools.verification.networks import Elman\n\nmodel = Elman()\n")
    return path


def test_the_command_prints_a_table_and_writes_json(monkeypatch, file, tmp_path, capsys):
    interpreted_by(monkeypatch, lambda launch, report: None)
    where = tmp_path / "found.json"
    given = ["--batch", "2", "--length", "2", "--json", str(where), "--dtype", "bf16", "fp32"]
    assert main(["verify", f"{file}:model", *given]) == 0
    assert capsys.readouterr().out.count("no fault") == 2
    saved = json.loads(where.read_text())
    assert [x["dtype"] for x in saved["verifications"].values()] == ["bf16", "fp32"]


def test_the_command_ends_with_1_for_a_fault(monkeypatch, file, capsys):
    interpreted_by(monkeypatch, lambda launch, report: launch.args[launch.outputs[0]].zero_())
    assert main(["verify", f"{file}:model", "--batch", "2", "--length", "2"]) == 1
    assert "wrong by" in capsys.readouterr().out


def test_the_command_ends_with_2_if_it_cannot_run(file, capsys):
    assert main(["verify", f"{file}:nothing"]) == 2
    assert main(["verify", "LSTM 161"]) == 2
    assert "not of the form FILE:NAME" in capsys.readouterr().err


def test_the_targets_of_the_command_are_those_that_are_executed():
    assert set(TARGETS) == set(EXECUTED)


def test_a_compiled_kernel_is_executed():
    found = gn.verify(Elman(), dtype="bf16", backward=False, x=torch.ones(2, 2, 5))
    assert found.ok, found
    (row,) = found.launches
    assert row.statements > 100 and row.resources.registers > 16 and row.resources.spills == 0


@pytest.mark.ptx
def test_a_compiled_kernel_with_another_text_is_a_fault(monkeypatch):
    text_changed(monkeypatch, "h_saving", r"tanh_2 = tanh\(map_4\)", "tanh_2 = map_4")
    found = gn.verify(Elman(), dtype="bf16", sizes=TINY)
    assert "tanh_out: wrong by" in faults(found)[0]


@pytest.mark.ptx
def test_a_barrier_left_out_is_a_race_that_names_statement_line_and_node(monkeypatch):
    execute = PtxExecutor.execute

    def without_a_barrier(executor, launch, made):
        kernel, given = made
        program = ptx.parse(kernel.asm["ptx"])
        text = program.without(program.barriers[0])
        changed = SimpleNamespace(asm={"ptx": text}, metadata=kernel.metadata)
        return execute(executor, launch, (changed, given))

    monkeypatch.setattr(PtxExecutor, "execute", without_a_barrier)
    found = gn.verify(Elman(), dtype="bf16", backward=False, x=torch.ones(2, 3, 5))
    races = [fault for fault in found.all_faults() if fault.text.startswith("race")]
    assert found.launches[0].races and races, found
    assert "st.shared" in races[0].statement or "ld" in races[0].statement, races[0]
    assert ".py:" in races[0].source and "networks.py:" in races[0].node
    assert "race" in str(found)


@pytest.mark.ptx
@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize("name", ["scan", "attention", "best", "cooperative", "stepwise"])
def test_kernels_of_each_kind_are_right(name, dtype, target):
    torch.manual_seed(0)
    found = gn.verify(KINDS[name](), dtype=dtype, target=target)
    assert found.ok and found.launches, found


@pytest.mark.ptx
def test_every_launch_is_right():
    found = gn.verify(Elman(), dtype="bf16", every_launch=True, sizes={"batch": 40, "time": 2})
    assert found.ok and len({(x.tile, x.warps) for x in found.launches}) > 3, found
