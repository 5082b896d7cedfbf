"""Kernels that hang, abort or raise do so in a process of their own first."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from graphnn.kernels import cache
from graphnn.kernels.cache import load_module
from graphnn.kernels.executors.executor import KernelLaunch
from graphnn.kernels.executors.gpu import Gpu
from graphnn.kernels.executors.named import INTERPRETER
from graphnn.kernels.runtime.random import fill
from graphnn.kernels.trust import child, guard, record
from graphnn.kernels.trust.failures import KernelRefused
from graphnn.kernels.trust.guard import Guard
from graphnn.kernels.trust.job import packed, unpacked
from tests.kernels.made_up_gpu import MadeUpGpu

# Python in place of a compiled kernel: function[grid](*args, **constants)
TEXT = """
import os
import signal
import time


class Kernel:
    __name__ = "kernel"

    def __getitem__(self, grid):
        return self.launch

    def launch(self, out, number, places, n, **options):
        {body}


kernel = Kernel()
Kernel.fn = Kernel.launch
"""
BODIES = {
    "right": "out.copy_(number)",
    "aborts": "os.abort()",
    "illegal": "os.kill(os.getpid(), signal.SIGSEGV)",
    "raises": 'raise RuntimeError("an illegal memory access was encountered")',
    "ends": "os._exit(3)",
    "hangs": "time.sleep(600)",
    "full": 'raise MemoryError("full")',
}
WANTED = {
    "right": "",
    "full": "",
    "aborts": "the process ends with SIGABRT when it runs the kernel",
    "illegal": "the process ends with SIGSEGV when it runs the kernel",
    "raises": "RuntimeError: an illegal memory access was encountered",
    "ends": "the process ends with exit status 3 when it runs the kernel",
    "hangs": "it does not run within 0.5 s",
}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(cache, "_TEMPORARY", [])
    monkeypatch.setattr("graphnn.kernels.trust.job.loaded", load_module)
    guard.forget_verdicts()
    yield
    guard.forget_verdicts()


def launch_of(body: str) -> KernelLaunch:
    module = load_module(TEXT.format(body=BODIES[body]), "kernel")
    args = [torch.empty(3), torch.ones(3), torch.tensor([2, 0, 1]), 3]
    return KernelLaunch(module.kernel, (1,), args, {}, {"num_warps": 4}, [0], family=body)


@pytest.mark.proof
@pytest.mark.parametrize("body", BODIES)
def test_what_a_kernel_does_to_its_process_harms_nobody(body, monkeypatch):
    monkeypatch.setitem(child.STEPS, child.RAN, 0.5 if body == "hangs" else 30.0)
    monkeypatch.setattr(child, "COMMAND", ("-c", UNCHECKED))
    assert child.prove(Gpu(), launch_of(body)).startswith(WANTED[body])
    assert (child.prove(Gpu(), launch_of(body)) == "") == (not WANTED[body])


# the fakes are Python, not Triton: the rules of kernels do not hold for them
UNCHECKED = """
from graphnn.kernels.cache import load_module
from graphnn.kernels.trust import __main__, job
job.loaded = load_module
__main__.main()
"""


@pytest.mark.proof
def test_a_kernel_of_this_package_runs_in_another_process():
    args = (torch.tensor([7]), torch.empty(10), 10)
    constants = {"LAW": "uniform", "P": 0.0, "BLOCK": 16}
    constants["ACC"] = __import__("triton").language.float32
    assert child.prove(INTERPRETER, KernelLaunch(fill, (1,), args, constants, {}, [1])) == ""


def test_a_new_family_is_tried_once_and_its_failure_is_remembered(monkeypatch):
    tried: list[Any] = []
    problems = iter(["", "it does not run within 30 s"])

    def prove(executor, launch):
        tried.append(launch.family)
        return next(problems)

    monkeypatch.setattr(guard, "prove", prove)
    gpu = MadeUpGpu()
    for _ in range(2):
        with Guard("layer").watching():
            gpu.launch(launch_of("right"))
    assert tried == ["right"]
    wrong = launch_of("ends")  # would end this process
    watch = Guard("layer")
    with watch.watching(), pytest.raises(KernelRefused, match="does not run within 30 s"):
        gpu.launch(wrong)
    watch.refuse("hangs", watch.untrusted())
    guard.forget_verdicts()
    with Guard("layer").watching(), pytest.raises(KernelRefused, match="was refused before: hangs"):
        gpu.launch(wrong)
    assert tried == ["right", "ends"]
    assert [r.text for r in record.refusals()] == [
        f"layer: kernel (Triton {record.refusals()[0].triton}, a made-up GPU): hangs"
    ]


def test_a_job_is_text_json_and_integers_and_keeps_alignment():
    given = launch_of("right")
    base = torch.zeros(8)
    given.args = [base[1:4], *given.args[1:]]
    job = packed(Gpu(), given)
    head, _, data = job.partition(b"\n")
    assert b'"text"' in head and len(data) == 3 * 8
    executor, made = unpacked(job)
    assert executor.name == "gpu" and made.grid == (1,) and made.options == {"num_warps": 4}
    out, number, places, n = made.args
    assert out.data_ptr() % 16 and not number.data_ptr() % 16
    assert places.tolist() == [2, 0, 1] and n == 3
    assert number.abs().max() <= 1
    bad = head.replace(b'"text"', b'"module": "os", "x"')
    with pytest.raises(ValueError, match="none of the package's kernels"):
        unpacked(bad + b"\n" + data)
