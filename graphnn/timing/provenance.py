"""Provenance of a measurement: device, versions, date, commit."""

from __future__ import annotations

import datetime
import pathlib
import platform
import subprocess
from importlib.metadata import version
from typing import Any

import torch


def about(device: str = "cpu", dtype: str = "float32") -> dict[str, Any]:
    """The provenance of a measurement on a device, as JSON data.

    `commit` is that of the checkout that graphnn runs from, or "" if it is no checkout.
    """
    on_cpu = f"CPU, {torch.get_num_threads()} threads, {processor()}"
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device == "cuda" else on_cpu,
        "torch": torch.__version__,
        "triton": triton_version(),
        "python": platform.python_version(),
        "graphnn": version("graphnn"),
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
        "dtype": dtype,
    }
    if device == "cuda":
        found["cuda"], found["cudnn"] = torch.version.cuda, torch.backends.cudnn.version()
    return found


def triton_version() -> str:
    """The version of Triton, or "" if it is not installed."""
    try:
        import triton
    except ImportError:
        return ""
    return str(triton.__version__)


def commit() -> str:
    """The commit of the checkout that graphnn runs from, or "". A "+" marks modified files."""
    place = pathlib.Path(__file__).parent

    def git(*args: str) -> str:
        try:
            run = subprocess.run(["git", "-C", str(place), *args], capture_output=True, text=True)
        except OSError:
            return ""
        return run.stdout.strip() if run.returncode == 0 else ""

    head = git("rev-parse", "HEAD")
    return head + "+" * bool(head and git("status", "--porcelain", "--untracked-files=no"))


def processor() -> str:
    """The name of the processor."""
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")]
    return names[0] if names else platform.processor()
