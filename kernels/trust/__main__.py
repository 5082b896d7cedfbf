"""The process in which a kernel of a new family runs first: reads a launch, compiles and runs it.

It writes one line of JSON after each step. Whatever a kernel does to it harms nobody else.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import torch

from .child import COMPILED, RAN, READY
from .failures import is_out_of_memory, summary
from .job import compiled, unpacked


def main() -> None:
    """Run the launch on standard input."""
    # what compilers and kernels print must not become part of the answer
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(**line: Any) -> None:
        print(json.dumps(line), file=answer, flush=True)

    try:
        executor, launch = unpacked(sys.stdin.buffer.read())
        say(step=READY)
        with executor.device_of(launch.args[0]):
            compiled(executor, launch)
            say(step=COMPILED)
            executor.run(launch)
            executor.wait(launch.args[0])
        say(step=RAN)
    except Exception as error:
        say(error=summary(error), memory=is_out_of_memory(error))
        # a GPU that failed may fail again, or hang, when Python frees what it knows of it
        os._exit(1)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
