"""Autotuned launches: candidates, timing, what is remembered; with a fake timer and GPU."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace

import pytest
import torch
from triton.runtime.errors import OutOfResources

import graphnn as gn
from bench.networks import NETWORKS
from graphnn.kernels import cache
from graphnn.kernels.executors.executor import launches_run_by
from graphnn.kernels.executors.named import INTERPRETER
from graphnn.kernels.feasibility import fit, large_tiles
from graphnn.kernels.feasibility.aot import Resources
from graphnn.kernels.feasibility.cases import loop_case
from graphnn.kernels.feasibility.fit import Launch, launch_candidates
from graphnn.kernels.runtime import launch
from graphnn.kernels.runtime.launch import Launcher
from graphnn.kernels.select import autotune, race
from graphnn.kernels.select.autotune import Autotuner, bucket
from graphnn.kernels.select.gpu_timer import Timing, time_on_gpu
from tests.kernels.made_up_gpu import MadeUpGpu

JUDGED = Launch("bf16", "ieee", 16, 8)
NAME = json.dumps(asdict(JUDGED))


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(cache, "_TEMPORARY", [])
    monkeypatch.setenv("GRAPHNN_TUNE", "all")


def launchers(name, size, skip=()):
    """The launchers of a network's forward, by kernel."""
    model = gn.compile(NETWORKS[name](size), backend="interpret", skip=skip)
    model.source()
    (program,) = model.programs
    return program.loops[0].lowering.launchers


@pytest.fixture(scope="module")
def resident():
    return launchers("LSTM", 64)["h_c_saving"].source


@pytest.fixture(scope="module")
def phase():
    return launchers("LSTM", 512, ("resident", "cooperative"))["h_c_saving_phase_1"].source


class Timer:
    """Returns times from a table, and records what it timed."""

    def __init__(self, times, failing=()):
        self.times, self.failing, self.ran = times, failing, []

    def __call__(self, run, limit):
        launch = Launch(**json.loads(run.args[0]))
        self.ran.append(launch)
        if launch in self.failing:
            raise OutOfResources(300_000, 232_448, "shared memory")
        return Timing(self.times.get(launch, 1.0))


def choose(source, timer, rows=64, judged=JUDGED, gpu="a made-up GPU"):
    return Autotuner(source, MadeUpGpu(gpu), timer).choose(judged, rows, 0, lambda launch: None)


def considered(source, rows=64, judged=JUDGED):
    """The launches that are compiled and timed: at most three."""
    return Autotuner(source, MadeUpGpu())._considered(judged, rows, 0)


def test_buckets():
    assert [bucket(n) for n in (1, 16, 17, 64, 256, 257, 10_000)] == [16, 16, 64, 64, 256, 512, 512]


def test_the_first_candidate_of_a_loop_is_the_launch_that_was_judged(resident):
    for rows, most in ((16, 16), (64, 64), (256, 64)):
        able = launch_candidates(resident, JUDGED, "sm_80", rows)
        assert able[0] == JUDGED and len(set(able)) == len(able)
        assert max(x.rows for x in able) == most


def test_64_rows_are_tried_where_they_are_multiplied_as_fewer_are_or_were_verified(
    resident, monkeypatch, tmp_path
):
    def most(target):
        return max(x.rows for x in launch_candidates(resident, JUDGED, target, 256))

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert [most(t) for t in ("sm_80", "sm_90", "sm_100", "sm_103")] == [64, 32, 32, 32]
    large_tiles.remember_verified("sm_90")
    assert [most(t) for t in ("sm_90", "sm_100")] == [64, 32]
    large_tiles.remember_verified("sm_90", False)


def test_warps_are_varied(resident):
    assert {x.warps for x in launch_candidates(resident, JUDGED, "sm_90", 16)} == {4, 8, 16}


def test_candidates_are_predicted_not_compiled(resident, monkeypatch):
    monkeypatch.setattr(fit, "compile_faults", lambda *args: pytest.fail("compiled"))
    launch_candidates(resident, JUDGED, "sm_90", 256)


@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
def test_a_wide_phase_is_not_given_16_rows_which_would_spill(phase, target):
    able = launch_candidates(phase, replace(JUDGED, warps=4), target, 64)
    assert not phase.uses_matmul and able[0].rows == 1 and all(x.rows < 16 for x in able)
    found: list[Resources] = []
    for x in able[:2]:
        judged = loop_case(phase, "bf16", x.rows, x.warps).judge(target)
        assert judged.faults == ()
        found.append(judged.resources)
    assert loop_case(phase, "bf16", 16, 4).judge(target).resources.spills > 100 > found[0].registers


def test_a_narrow_phase_puts_several_rows_into_a_program():
    source = launchers("LSTM", 64, ("resident", "cooperative"))["h_c_saving_phase_1"].source
    assert launch_candidates(source, replace(JUDGED, warps=4), "sm_90", 64)[0].rows == 4


def test_the_fastest_wins_and_is_recalled_in_a_later_process(resident):
    best = considered(resident)[2]
    timer = Timer({best: 0.5})
    assert choose(resident, timer) == best and len(timer.ran) == 3
    later = Timer({})
    assert choose(resident, later, rows=17) == best and later.ran == []


def test_another_bucket_dtype_device_or_version_is_timed_again(resident, monkeypatch):
    choose(resident, Timer({}))
    changes = [
        lambda: choose(resident, timer, rows=65),
        lambda: choose(resident, timer, judged=replace(JUDGED, dtype="fp16")),
        lambda: choose(resident, timer, gpu="another GPU"),
        lambda: monkeypatch.setattr(torch, "__version__", "9.9") or choose(resident, timer),
        lambda: monkeypatch.setattr(race.triton, "__version__", "9") or choose(resident, timer),
    ]
    for change in changes:
        timer = Timer({})
        change()
        assert timer.ran


def test_a_choice_is_timed_once_per_process(resident):
    timer = Timer({})
    tuner = Autotuner(resident, MadeUpGpu(), timer)
    for rows in (20, 40, 64):
        tuner.choose(JUDGED, rows, 0, lambda launch: None)
    assert len(timer.ran) == len(set(timer.ran))


def test_a_small_gain_does_not_change_the_choice(resident):
    other = considered(resident)[1]
    assert choose(resident, Timer({other: 0.98})) == JUDGED


def test_candidates_that_fail_are_skipped(resident):
    able = considered(resident)
    assert choose(resident, Timer({able[1]: 0.5}, failing=[JUDGED, able[2]])) == able[1]


def test_the_first_call_times_nothing_and_each_later_call_one_candidate(resident, monkeypatch):
    monkeypatch.delenv("GRAPHNN_TUNE")
    able = considered(resident)
    timer = Timer({able[2]: 0.5})
    tuner = Autotuner(resident, MadeUpGpu(), timer)
    prepared = []
    chosen = []
    for _ in range(5):
        chosen.append(tuner.choose(JUDGED, 64, 0, lambda x: None, (), prepared.append))
        assert len(timer.ran) == min(len(chosen) - 1, 3)
    assert chosen == [JUDGED] * 3 + [able[2]] * 2 and prepared == [able]


def test_a_launch_that_may_still_change_is_chosen_anew_at_each_call(resident, monkeypatch):
    monkeypatch.delenv("GRAPHNN_TUNE")
    best = considered(resident, 64, Launch("fp32", "tf32x3", 16, 8))[1]
    launcher, tensors, sizes = made_up(resident, monkeypatch, Timer({best: 0.5}))
    warps = []
    for _ in range(5):
        launcher(tensors, sizes, torch.float32)
        warps.append(launcher.function.launches[-1][2]["num_warps"])
    assert warps == [8, 8, 8, best.warps, best.warps] and best.warps != 8


def test_nothing_is_remembered_if_memory_was_short(resident):
    able = considered(resident)

    def timer(run, limit):
        if able[1] == Launch(**json.loads(run.args[0])):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return Timing(0.5 if able[2] == Launch(**json.loads(run.args[0])) else 1.0)

    assert choose(resident, timer) == able[2]
    later = Timer({})  # what was timed before that is kept
    assert choose(resident, later) == JUDGED and later.ran == able[1:]


def test_nothing_is_remembered_if_nothing_ran(resident):
    able = considered(resident)
    choose(resident, Timer({}, failing=able))
    later = Timer({})
    choose(resident, later)
    assert later.ran == able


def test_a_candidate_that_is_three_times_slower_is_run_once(resident):
    limits = []

    def timer(run, limit):
        limits.append(limit)
        return Timing(2.0 - len(limits) / 2)

    choose(resident, timer)
    assert limits == [math.inf, 4.5, 3.0]


def test_if_nothing_runs_the_first_candidate_fails_in_its_launch(resident):
    able = considered(resident, 256)
    assert choose(resident, Timer({}, failing=able), rows=256) == JUDGED


CHOICES = {
    "none": {},
    "no table": {"times": 3},
    "no numbers": {"times": {NAME: ["x", 1]}},
    "one number": {"times": {NAME: [1.0]}},
    "no candidate": {"times": {"x": [1.0, 1.0]}},
}


@pytest.mark.parametrize("choice", CHOICES.values(), ids=CHOICES)
def test_a_remembered_choice_that_is_no_candidate_is_not_used(resident, choice):
    tuner = Autotuner(resident, MadeUpGpu(), Timer({}))
    cache.remember(tuner._key(JUDGED, "a made-up GPU", 64), choice)
    assert tuner.choose(JUDGED, 64, 0, lambda launch: None) == JUDGED and tuner.timer.ran


def test_without_tuning_the_first_candidate_is_used(resident, monkeypatch):
    timer = Timer(dict.fromkeys(considered(resident)[1:], 0.1))
    monkeypatch.setenv("GRAPHNN_TUNE", "0")
    assert choose(resident, timer) == JUDGED
    monkeypatch.setenv("GRAPHNN_TUNE", "all")
    torch.use_deterministic_algorithms(True)
    try:
        assert choose(resident, timer) == JUDGED
    finally:
        torch.use_deterministic_algorithms(False)
    assert timer.ran == [] and choose(resident, timer) != JUDGED


def test_nothing_is_timed_while_a_graph_is_captured(resident, monkeypatch):
    monkeypatch.setattr(autotune, "is_capturing", lambda: True)
    assert choose(resident, Timer({})) == JUDGED


class Function:
    """Replaces a jitted function and records its launches."""

    def __init__(self):
        self.launches = []

    def __getitem__(self, grid):
        return lambda *args, **options: self.launches.append((grid, args, options))


def made_up(source, monkeypatch, timer):
    """A launcher for a fake GPU, with tensors on the CPU."""
    launcher = Launcher(source, MadeUpGpu())
    launcher.function, launcher.tuner = Function(), Autotuner(source, launcher.executor, timer)
    program = source.program
    tensors = [torch.zeros([*(20 for _ in t.axes), *t.shape]) for t in program.tensors]
    return launcher, tensors, dict.fromkeys(source.sizes, 20)


def test_a_launch_has_the_rows_and_warps_that_were_chosen(resident, monkeypatch):
    judged = Launch("fp32", "tf32x3", 16, 8)
    best = considered(resident, 64, judged)[1]
    launcher, tensors, sizes = made_up(resident, monkeypatch, Timer({best: 0.5}))
    for _ in range(2):
        outs = launcher(tensors, sizes, torch.float32)
    assert [o.shape[:2] for o in outs] == [(20, 20)] * len(outs)
    # the first candidate once, each other one twice and compared with the first; and both calls
    assert len(launcher.function.launches) == 1 + 2 * 3 + 2
    (grid, args, options) = launcher.function.launches[-1]
    assert grid == (-(-20 // best.rows), 1) and args[-2:] == (20, 20)
    assert (options["ROWS"], options["num_warps"]) == (best.rows, best.warps)
    assert options["PRECISION"] == "tf32x3" and options["num_stages"] == 1


def test_timing_runs_the_kernel_with_each_candidate(resident, monkeypatch):
    launcher, tensors, sizes = made_up(
        resident, monkeypatch, lambda run, limit: run() or Timing(1.0)
    )
    launcher(tensors, sizes, torch.float32)
    able = considered(resident, 64, Launch("fp32", "tf32x3", 16, 8))
    ran = [(o["ROWS"], o["num_warps"]) for _, _, o in launcher.function.launches]
    assert list(dict.fromkeys(ran)) == [(x.rows, x.warps) for x in able] and ran[-1] == (16, 8)
    (prepared,) = launcher.executor.prepared
    assert [(x.constants["ROWS"], x.options["num_warps"]) for x in prepared] == list(
        dict.fromkeys(ran)
    )


def test_determinism_is_checked_at_every_call(resident, monkeypatch):
    best = considered(resident, 64, Launch("fp32", "tf32x3", 16, 8))[1]
    launcher, tensors, sizes = made_up(resident, monkeypatch, Timer({best: 0.5}))
    ran = lambda: launcher(tensors, sizes, torch.float32) and launcher.function.launches[-1][2]
    assert ran()["num_warps"] == best.warps
    torch.use_deterministic_algorithms(True)
    try:
        assert (ran()["ROWS"], ran()["num_warps"]) == (16, 8)
    finally:
        torch.use_deterministic_algorithms(False)
    assert ran()["num_warps"] == best.warps


def test_nothing_is_tuned_if_interpreted(resident, monkeypatch):
    launcher = Launcher(resident, INTERPRETER)
    launcher.tuner = None
    seen = []
    _, tensors, sizes = made_up(resident, monkeypatch, None)
    with launches_run_by(lambda executor, launch: seen.append(launch)):
        launcher(tensors, sizes, torch.float32)
    assert seen[0].constants["ROWS"] == 16 and not seen[0].options


class Elsewhere:
    """A tensor on a fake GPU."""

    device = torch.device("cuda:1")
    is_contiguous = contiguous = lambda self: self
    get_device = lambda self: 1
    data_ptr = lambda self: 0


@pytest.mark.parametrize("executor", [INTERPRETER, MadeUpGpu()])
def test_tensors_on_two_devices_are_named(resident, monkeypatch, executor):
    launcher, tensors, sizes = made_up(resident, monkeypatch, None)
    launcher.executor = executor
    tensors[1], name = Elsewhere(), resident.program.tensors[1].name
    with pytest.raises(ValueError, match=f"'{name}' of the kernel h_c_saving is on cuda:1, '.*cpu"):
        launcher(tensors, sizes, torch.float32)


@pytest.mark.parametrize("rows", [1, 4])
def test_phases_give_the_same_with_fewer_rows_per_program(monkeypatch, rows):
    """Interpreted, with the rows that a GPU uses by default for phases."""
    torch.manual_seed(0)
    model = gn.compile(
        NETWORKS["LSTM"](20).double(), backend="interpret", skip=("resident", "cooperative")
    )
    x = torch.randn(3, 2, 20, dtype=torch.float64, requires_grad=True)
    found = []
    for n in (16, rows):
        monkeypatch.setattr(launch, "MIN_ROWS", n)
        y = model(x=x)
        found.append([y, *torch.autograd.grad(y.sin().sum(), [x, *model.parameters()])])
    for a, b in zip(*found):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.gpu
def test_a_tuned_model_equals_cudnn_on_a_gpu():
    torch.manual_seed(0)
    net = NETWORKS["LSTM"](64).cuda()
    net.layer.flatten_parameters()
    model = gn.compile(net, backend="triton")
    x = torch.randn(40, 5, 64, device="cuda")
    y = model(x=x)
    (program,) = model.programs
    wanted, _ = net.layer(x.transpose(0, 1))
    torch.testing.assert_close(y.transpose(0, 1), wanted, rtol=1e-3, atol=1e-3)
    for launcher in program.loops[0].lowering.launchers.values():
        assert launcher.tuner.choices or not launcher._launches


@pytest.mark.gpu
def test_a_run_takes_time_on_a_gpu():
    x = torch.randn(4096, 4096, device="cuda")
    assert 0 < time_on_gpu(lambda: x.copy_(x)).gpu < 100
