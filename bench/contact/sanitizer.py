"""Item 3, too: networks under compute-sanitizer, if it is installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from typing import Any

from graphnn.bench.contact.place import Place

# the exit code of compute-sanitizer if it finds an error
FOUND = 99


def run(place: Place, tool: str, name: str) -> dict[str, Any]:
    """Run a network once. Raises AssertionError with what the sanitizer prints."""
    program = shutil.which("compute-sanitizer")
    if program is None:
        return {"skipped": "compute-sanitizer is not installed"}
    command = [program, "--tool", tool, "--error-exitcode", str(FOUND), sys.executable]
    command += ["-m", "graphnn.tools.child", "graphnn.bench.contact.contact", "perform"]
    given = {"name": name, "dtype": "bf16"}
    job = {"place": asdict(place), "function": "correctness.check", "arguments": given}
    # torch keeps blocks of memory: accesses beyond a tensor would be within a block
    env = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    done = subprocess.run(
        command, input=json.dumps(job), capture_output=True, text=True, env=env, check=False
    )
    printed = done.stdout + done.stderr
    if done.returncode or '"error"' in done.stdout:
        raise AssertionError(f"exit code {done.returncode}: {printed[-2000:]}")
    return {"printed": printed[-500:]}
