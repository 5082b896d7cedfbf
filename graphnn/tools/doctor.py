"""`graphnn doctor`: versions, GPU, cache; what will be used here, and why."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from dataclasses import asdict, dataclass
from typing import Any

import torch

from graphnn.kernels import cache
from graphnn.planner.core.device import here
from graphnn.timing.provenance import processor, triton_version

# what the optional parts of graphnn need, and the libraries that benchmarks compare with
OPTIONAL = {
    "matplotlib": "pictures, plots and reports",
    "igraph": "pictures and reports",
    "flashrnn": "a peer in benchmarks",
    "haste_pytorch": "a peer in benchmarks",
    "fla": "a peer in benchmarks",
    "flash_attn": "a peer in benchmarks",
}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: what it is, what was found, and whether it is sound."""

    topic: str
    text: str
    sound: bool = True


def examine() -> list[Finding]:
    """All findings, in the order in which they are told."""
    return [*_versions(), *_device(), *_cache(), *_switches(), *_optional(), *_used()]


def record(found: list[Finding]) -> dict[str, Any]:
    """As JSON has it."""
    return {"sound": all(f.sound for f in found), "findings": [asdict(f) for f in found]}


def lines(found: list[Finding]) -> list[str]:
    """As words: a line a finding, a mark where something is wrong."""
    shown = [f"{'  ' if f.sound else '! '}{f.topic:<12} {f.text}" for f in found]
    bad = sum(not f.sound for f in found)
    return [*shown, f"{bad} problem{'s' * (bad != 1)}" if bad else "all is well"]


def _versions() -> list[Finding]:
    import graphnn

    found = [Finding("graphnn", graphnn.__version__), Finding("python", platform.python_version())]
    text = f"{torch.__version__}, built for CUDA {torch.version.cuda or '-'}"
    found.append(Finding("torch", text))
    triton = triton_version()
    why = "not installed: kernels cannot run, loops are torch code"
    return [*found, Finding("triton", triton or why, bool(triton) or not torch.cuda.is_available())]


def _device() -> list[Finding]:
    cpu = f"{processor()}, {torch.get_num_threads()} threads of {os.cpu_count()}"
    found = [Finding("cpu", cpu)]
    if not torch.cuda.is_available():
        built = torch.version.cuda is not None
        why = "torch sees none" if built else "this torch is built without CUDA"
        return [*found, Finding("gpu", f"none: {why}")]
    for k in range(torch.cuda.device_count()):
        p = torch.cuda.get_device_properties(k)
        text = f"{p.name}, sm_{p.major}{p.minor}, {p.multi_processor_count} multiprocessors"
        found.append(Finding("gpu", f"{text}, {p.total_memory / 2**30:.0f} GiB"))
    return found


def _cache() -> list[Finding]:
    folder = cache.folder()
    files = [f for kind in ("kernels", "tuned") for f in (folder / kind).glob("*") if f.is_file()]
    size = sum(f.stat().st_size for f in files)
    kept = folder == cache._home()
    text = f"{folder}: {len(files)} files, {size / 2**20:.1f} MiB"
    if not kept:
        text += "; temporary, as $XDG_CACHE_HOME/graphnn cannot be used"
    free = shutil.disk_usage(folder).free
    text += f"; {free / 2**30:.1f} GiB free" if free < 2**30 else ""
    return [Finding("cache", text, kept)]


def _switches() -> list[Finding]:
    """Environment variables that change what is run, where they are set."""
    meanings = {
        "GRAPHNN_TUNE": "0: launches of kernels are not timed",
        "GRAPHNN_CUDA_GRAPHS": "0: stepwise loops are not replayed as CUDA graphs",
        "TRITON_INTERPRET": "1: Triton's kernels are interpreted on the CPU",
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
    """What backend="auto" will do here, and with which constants costs are estimated."""
    gpu = torch.cuda.is_available()
    if gpu and triton_version():
        text = "on CUDA tensors generated Triton kernels, elsewhere PyTorch"
    elif gpu:
        text = "PyTorch everywhere, as Triton is not installed"
    else:
        text = "PyTorch on the CPU, as there is no GPU; backend='interpret' interprets the kernels"
    constants = here("cuda" if gpu else "cpu")
    model = f"{constants.source}"
    if "measured on 2" not in constants.source:
        model += "; `graphnn calibrate` measures this machine"
    return [Finding("auto", text), Finding("cost model", model)]
