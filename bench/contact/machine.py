"""Item 0: versions, device, driver, environment."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import Any

from graphnn.bench.contact.place import Place
from graphnn.timing.provenance import about
from graphnn.tools import doctor

# variables that change what runs
PREFIXES = ("GRAPHNN_", "TRITON_", "TORCH", "CUDA_", "NVIDIA_")


def examine(place: Place) -> dict[str, Any]:
    """Return provenance, the findings of `graphnn doctor`, and what nvidia-smi prints."""
    return {
        "about": about(place.device),
        "doctor": doctor.lines(doctor.examine()),
        "environment": {k: v for k, v in os.environ.items() if k.startswith(PREFIXES)},
        "nvidia_smi": _printed("nvidia-smi"),
        "driver": _printed(
            "nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"
        ),
    }


def _printed(name: str, *args: str) -> str:
    if shutil.which(name) is None:
        return f"{name} is not installed"
    done = subprocess.run([name, *args], capture_output=True, text=True, timeout=20, check=False)
    return (done.stdout + done.stderr).strip()
