"""`graphnn doctor`: versions, GPU and cache, and what graphnn will use on this machine."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import torch

from graphnn.backends.requirements import TESTED_TRITON, is_tested
from graphnn.kernels import cache
from graphnn.kernels.trust import record as trust_record
from graphnn.planner.core.device import here
from graphnn.timing.provenance import processor, triton_version

# packages of optional parts of graphnn, and libraries that benchmarks compare with
OPTIONAL = {
    "matplotlib": "pictures, plots and reports",
    "igraph": "pictures and reports",
    "flashrnn": "compared with in benchmarks",
    "haste_pytorch": "compared with in benchmarks",
    "fla": "compared with in benchmarks",
    "flash_attn": "compared with in benchmarks",
}


@dataclass(frozen=True)
class Finding:
    """One finding: its topic, its text, and whether it is sound."""

    topic: str
    text: str
    sound: bool = True


def examine() -> list[Finding]:
    """All findings, in the order in which they are printed."""
    first = [*_versions(), *_device(), *_cache(), *_refused(), *_switches()]
    return [*first, *_optional(), *_used()]


def record(found: list[Finding]) -> dict[str, Any]:
    """Findings as JSON data."""
    return {"sound": all(f.sound for f in found), "findings": [asdict(f) for f in found]}


def lines(found: list[Finding]) -> list[str]:
    """Findings as text, one line each; problems are marked with "!"."""
    shown = [f"{'  ' if f.sound else '! '}{f.topic:<12} {f.text}" for f in found]
    bad = sum(not f.sound for f in found)
    return [*shown, f"{bad} problem{'s' * (bad != 1)}" if bad else "no problems"]


def _versions() -> list[Finding]:
    found = [Finding("graphnn", version("graphnn")), Finding("python", platform.python_version())]
    text = f"{torch.__version__}, built for CUDA {torch.version.cuda or '-'}"
    found.append(Finding("torch", text))
    return [*found, _triton()]


def _triton() -> Finding:
    """Which Triton there is, and whether kernels were checked with it."""
    there = triton_version()
    if not there:
        why = "not installed: kernels cannot run, loops are torch code"
        return Finding("triton", why, not torch.cuda.is_available())
    if is_tested(there):
        return Finding("triton", there)
    text = f"{there}, with which kernels were not checked: {', '.join(TESTED_TRITON)} were"
    return Finding("triton", text, False)


def _device() -> list[Finding]:
    cpu = f"{processor()}, {torch.get_num_threads()} threads of {os.cpu_count()}"
    found = [Finding("cpu", cpu)]
    if not torch.cuda.is_available():
        built = torch.version.cuda is not None
        why = "torch finds none" if built else "this torch is built without CUDA"
        return [*found, Finding("gpu", f"none: {why}")]
    for k in range(torch.cuda.device_count()):
        p = torch.cuda.get_device_properties(k)
        text = f"{p.name}, sm_{p.major}{p.minor}, {p.multi_processor_count} multiprocessors"
        found.append(Finding("gpu", f"{text}, {p.total_memory / 2**30:.0f} GiB"))
    return found


def _cache() -> list[Finding]:
    folder = cache.folder()
    files = [
        f
        for kind in ("kernels", "tuned", "trust")
        for f in (folder / kind).glob("*")
        if f.is_file()
    ]
    size = sum(f.stat().st_size for f in files)
    permanent = folder == cache._home()
    text = f"{folder}: {len(files)} files, {size / 2**20:.1f} MiB"
    if not permanent:
        text += "; temporary, because $XDG_CACHE_HOME/graphnn cannot be written"
    free = shutil.disk_usage(folder).free
    text += f"; {free / 2**30:.1f} GiB free" if free < 2**30 else ""
    return [Finding("cache", text, permanent)]


def _refused() -> list[Finding]:
    """The kernels that failed their check on first use, and how to check them again."""
    found = [Finding("refused", refusal.text, False) for refusal in trust_record.refusals()]
    again = "`graphnn doctor --retry` forgets refusals: their kernels are checked again"
    return [*found, Finding("refused", again)] if found else []


def _switches() -> list[Finding]:
    """The environment variables that are set and change what runs."""
    meanings = {
        "GRAPHNN_TUNE": "0: launches of kernels are not timed",
        "GRAPHNN_TRUST": "0: kernels are not checked; always: at each call",
        "GRAPHNN_KERNELS": "only these kernels run, torch computes the rest",
        "GRAPHNN_ROWS": "the most rows of a tile",
        "GRAPHNN_CUDA_GRAPHS": "0: stepwise loops are not replayed as CUDA graphs",
        "GRAPHNN_DEBUG": "prints plans, graphs, code or kernels to stderr",
        "TRITON_INTERPRET": "1: Triton interprets kernels on the CPU",
    }
    return [
        Finding("environment", f"{name}={os.environ[name]} ({text})")
        for name, text in meanings.items()
        if os.environ.get(name)
    ]


def _optional() -> list[Finding]:
    there = [name for name in OPTIONAL if importlib.util.find_spec(name)]
    missing = [f"{name} ({why})" for name, why in OPTIONAL.items() if name not in there]
    found = [Finding("installed", ", ".join(there) or "none of the optional packages")]
    return found + ([Finding("missing", ", ".join(missing))] if missing else [])


def _used() -> list[Finding]:
    """The backend that "auto" uses on this machine, and the constants of the cost model."""
    gpu = torch.cuda.is_available()
    if gpu and triton_version():
        text = "generated Triton kernels for CUDA tensors, PyTorch elsewhere"
    elif gpu:
        text = "PyTorch everywhere, because Triton is not installed"
    else:
        text = "PyTorch on the CPU, because there is no GPU"
        text += "; backend='interpret' interprets kernels" if triton_version() else ""
    constants = here("cuda" if gpu else "cpu")
    model = f"{constants.source}"
    if "measured on 2" not in constants.source:
        model += "; `graphnn calibrate` measures this machine"
    return [Finding("auto", text), Finding("cost model", model)]
