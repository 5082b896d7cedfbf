"""A stepwise loop's launches recorded as a CUDA graph and replayed: one launch for thousands.

A graph reads and writes at fixed addresses. All that a call gives, weights too, is copied to where
its graph reads, and results are copied out. That is right whatever optimizers and allocators do
with addresses, and should cost little beside what it saves: at 3 TB/s 40 MB in and 40 MB out take
some 60 us, the launches of 256 steps of three kernels several milliseconds. A graph serves one form
of call (sizes, dtypes, device, stream); kernels are specialised on none of it, and other calls
launch them one by one.

A call is recorded when its form comes up for the third time: by then its kernels are compiled and
tuned. The first two replays are held against the launches themselves; a loop whose replay differs,
or that cannot be recorded, is not replayed any more. GRAPHNN_CUDA_GRAPHS=0 switches all of it off.

The bookkeeping is tested with a made-up device. `Cuda`, the part that records, has not been run.
"""

from __future__ import annotations

import logging
import math
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_LOG = logging.getLogger(__name__)
# launches a call from which replaying pays, and beyond which recording takes long
LEAST, MOST = 64, 20_000
# graphs kept a function, and the calls of one form before it is recorded
KEPT, SEEN = 4, 3
# forms of call that are counted
COUNTED = 64
# replays of a graph that are held against the launches
CHECKED = 2
# the share of the device's memory that a graph may hold: inputs, results and buffers, about three
# times the inputs
SHARE = 1 / 16

# CUDA records one graph at a time in a process
_RECORDING = threading.Lock()

Call = Callable[[Sequence[Tensor], Sequence[int]], list[Tensor]]
Replay = Callable[[], None]


def enabled() -> bool:
    """Whether loops are replayed at all."""
    return os.environ.get("GRAPHNN_CUDA_GRAPHS") != "0"


class Cuda:
    """What recording and replaying ask of CUDA."""

    def form(self, tensors: Sequence[Tensor]) -> Any | None:
        """The device and stream of a call, or None where it cannot be replayed."""
        device = tensors[0].device
        if device.type != "cuda" or any(t.device != device for t in tensors):
            return None
        if torch.cuda.is_current_stream_capturing():  # these launches are part of another graph
            return None
        # replays on one stream come one after another, and may share what they read and write
        return device, torch.cuda.current_stream(device).cuda_stream

    def memory(self, device: torch.device) -> int:
        """Bytes of the device."""
        return int(torch.cuda.get_device_properties(device).total_memory)

    def record(self, run: Callable[[], list[Tensor]], device: torch.device) -> tuple[Replay, Any]:
        """The graph of `run`, and the results that each replay writes anew."""
        with _RECORDING, torch.cuda.device(device):
            side, now = torch.cuda.Stream(), torch.cuda.current_stream()
            side.wait_stream(now)
            with torch.cuda.stream(side):
                run()  # cuBLAS takes its workspace for this stream now, not from the graph's memory
            now.wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            try:
                # another thread, one that loads data say, may go on using CUDA meanwhile
                with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
                    outs = run()
            finally:
                torch.cuda.set_stream(now)  # a recording that fails leaves the other one current
        return graph.replay, outs


@dataclass
class Recorded:
    """A graph, with where it reads and what it writes."""

    inputs: list[Tensor]
    outs: list[Tensor]
    replay: Replay
    unchecked: int = CHECKED

    def __call__(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The results for these tensors, in memory of their own."""
        with torch.no_grad():
            torch._foreach_copy_(self.inputs, list(tensors))
            self.replay()
            outs = [torch.empty_like(t) for t in self.outs]
            torch._foreach_copy_(outs, self.outs)
        return outs


class Replayed:
    """A generated function whose launches are replayed where that pays.

    `loops` are its stepwise loops: the axis, and the launches at each step.
    """

    def __init__(
        self, call: Call, axes: Sequence[str], loops: Sequence[tuple[str, int]], cuda: Any = None
    ):
        self.call, self.axes, self.loops = call, tuple(axes), tuple(loops)
        self.cuda = Cuda() if cuda is None else cuda
        self.graphs: OrderedDict[Any, Recorded] = OrderedDict()
        self.counts: OrderedDict[Any, int] = OrderedDict()
        self.patience = SEEN
        self.off = ""
        self._lock = threading.Lock()

    def __call__(self, tensors: Sequence[Tensor], sizes: Sequence[int]) -> list[Tensor]:
        key = self._form(tensors, sizes)
        if key is None:
            return self.call(tensors, sizes)
        with self._lock:
            if key in self.graphs or self._due(key):
                return self._replayed(key, tensors, sizes)
        return self.call(tensors, sizes)

    def _form(self, tensors: Sequence[Tensor], sizes: Sequence[int]) -> Any | None:
        """What a graph is made for; None where launching one by one is better, or all there is."""
        known = dict(zip(self.axes, sizes, strict=True))
        launches = sum(known[axis] * count for axis, count in self.loops)
        if self.off or not LEAST <= launches <= MOST:
            return None
        place = self.cuda.form(tensors)
        size = sum(math.prod(t.shape) * t.element_size() for t in tensors)
        if place is None or 3 * size > SHARE * self.cuda.memory(tensors[0].device):
            return None
        # what changes the launches though not the tensors
        modes = torch.get_float32_matmul_precision(), torch.are_deterministic_algorithms_enabled()
        return place, modes, tuple(sizes), tuple((t.shape, t.dtype) for t in tensors)

    def _due(self, key: Any) -> bool:
        """Count a call; whether its form has come up often enough."""
        self.counts[key] = self.counts.pop(key, 0) + 1
        if len(self.counts) > COUNTED:
            self.counts.popitem(last=False)
        return self.counts[key] >= self.patience

    def _replayed(self, key: Any, tensors: Sequence[Tensor], sizes: Sequence[int]) -> list[Tensor]:
        try:
            if key not in self.graphs:
                self._keep(key, self._record(tensors, sizes))
            graph = self.graphs[key]
            self.graphs.move_to_end(key)
            outs = graph(tensors)
        except RuntimeError as error:
            self._give_up(f"cannot be recorded: {error}")
            return self.call(tensors, sizes)
        if graph.unchecked:
            graph.unchecked -= 1
            wanted = self.call(tensors, sizes)
            if not agree(outs, wanted):
                self._give_up("gave other results than its launches")
            return wanted
        return outs

    def _record(self, tensors: Sequence[Tensor], sizes: Sequence[int]) -> Recorded:
        # what is made in inference mode could not be written outside it
        with torch.inference_mode(False), torch.no_grad():
            inputs = [torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in tensors]
            torch._foreach_copy_(inputs, list(tensors))
            run = lambda: self.call(inputs, sizes)
            replay, outs = self.cuda.record(run, tensors[0].device)
        return Recorded(inputs, outs, replay)

    def _keep(self, key: Any, graph: Recorded) -> None:
        """Keep a graph; where another must go for it, the next has to come up twice as often."""
        self.graphs[key] = graph
        self.counts.pop(key, None)
        if len(self.graphs) > KEPT:
            self.graphs.popitem(last=False)
            self.patience *= 2

    def _give_up(self, reason: str) -> None:
        self.off = reason
        self.graphs.clear()
        _LOG.warning("a stepwise loop's CUDA graph %s; it is launched step by step", reason)


def agree(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> bool:
    """Whether results are the same but for rounding."""
    for a, b in zip(found, wanted, strict=True):
        if not a.dtype.is_floating_point or not a.numel():
            if not torch.equal(a, b):
                return False
            continue
        a, b = a.double(), b.double()
        size = b.nan_to_num(0.0, 0.0, 0.0).abs().max().item()
        if not torch.allclose(a, b, rtol=1e-2, atol=1e-2 * size, equal_nan=True):
            return False
    return True
