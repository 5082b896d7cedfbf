"""Small networks that are verified, and executors that are wrong on purpose."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import graphnn as gn
from graphnn.kernels import ptx
from graphnn.kernels.cache import load_module
from graphnn.kernels.executors.executor import KernelLaunch
from graphnn.kernels.executors.named import INTERPRETER
from graphnn.kernels.executors.ptx import PtxExecutor
from graphnn.tools.verification import observe

TINY = {"batch": 2, "time": 2}


class Elman(nn.Module):
    """An Elman network of 16 units, with fixed weights."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(5 + 16, 16)
        generator = torch.Generator().manual_seed(0)
        for p in self.parameters():
            p.data = torch.randn(p.shape, generator=generator) / 4

    def graph(self, g: gn.Graph) -> None:
        x = g.input("x", (5,), over="time")
        h = g.state("h", (16,), over="time")
        h.next = torch.tanh(self.map(torch.cat([x, h])))
        g.output("h", h.next)


def interpreted_by(
    monkeypatch: pytest.MonkeyPatch, spoil: Callable[[KernelLaunch, ptx.Report], None]
) -> None:
    """Let the interpreter stand in for compiled kernels, and `spoil` what it did."""

    def execute(executor: PtxExecutor, launch: KernelLaunch, *rest: Any) -> ptx.Report:
        report = ptx.Report()
        constants = {**launch.constants, "UPCAST": True}  # the interpreter needs it for 16 bits
        INTERPRETER.run(replace(launch, constants=constants))
        spoil(launch, report)
        return report

    monkeypatch.setattr(PtxExecutor, "execute", execute)
    monkeypatch.setattr(observe, "compiled", lambda *given, assemble: (None, []))
    monkeypatch.setattr(observe, "_resources", lambda *given: None)


def text_changed(
    monkeypatch: pytest.MonkeyPatch, kernel: str, pattern: str, replacement: str
) -> None:
    """Execute another text than the kernel's, in which a pattern is replaced."""
    execute = PtxExecutor.execute

    def changed(executor: PtxExecutor, launch: KernelLaunch, *rest: Any) -> ptx.Report:
        name = launch.function.__name__
        if name == kernel:
            text = Path(launch.function.fn.__code__.co_filename).read_text()
            text, count = re.subn(pattern, replacement, text)
            assert count, text
            changed_module = load_module(text, name)
            launch = replace(launch, function=getattr(changed_module, name))
            report = execute(executor, launch)
            del changed_module
            return report
        return execute(executor, launch, *rest)

    monkeypatch.setattr(PtxExecutor, "execute", changed)
