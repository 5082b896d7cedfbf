"""Records the launches of a stepwise loop as a CUDA graph: one launch replaces thousands.

A graph reads and writes at fixed addresses. All inputs of a call, including weights, are copied to
these addresses, and results are copied out. This is correct whatever optimizers and allocators do
with addresses, and it should cost little: at 3 TB/s, 40 MB in and 40 MB out take about 60 µs, and
the launches of 256 steps of three kernels several milliseconds. A graph serves one signature of
calls (sizes, dtypes, device, stream). Kernels are not specialised on it; calls with another
signature launch them one by one.

A call is recorded when its signature occurs for the third time, as its kernels are compiled and
tuned by then. The results of the first two replays are compared with those of the launches. A loop
whose replay differs, or that cannot be recorded, is not replayed any more. All graphs of a device
share one budget of memory. If the device runs out of memory, all are dropped and the call is
repeated. GRAPHNN_CUDA_GRAPHS=0 turns graphs off.

The bookkeeping is tested with a simulated device. `Cuda`, the part that records, has not been run.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from graphnn.backends.triton.graph_memory import GRAPHS, SHARE, Held
from graphnn.kernels.precision import matmul_precision

_LOG = logging.getLogger(__name__)
# launches per call: with fewer, replaying does not pay; with more, recording takes long
LEAST, MOST = 64, 20_000
# graphs kept per function, and the number of calls of one signature until it is recorded
KEPT, SEEN = 4, 3
# the number of signatures that are counted
COUNTED = 64
# replays of a graph that are compared with the launches
CHECKED = 2
# inputs, results and buffers of a graph together, in multiples of the inputs: an estimate
COPIES = 3

# CUDA records one graph at a time in a process
_RECORDING = threading.Lock()

Call = Callable[[Sequence[Tensor], Sequence[int]], list[Tensor]]
Replay = Callable[[], None]


def enabled() -> bool:
    """Whether the environment allows CUDA graphs."""
    return os.environ.get("GRAPHNN_CUDA_GRAPHS") != "0"


class Cuda:
    """The calls of CUDA that recording and replaying need."""

    def form(self, tensors: Sequence[Tensor]) -> Any | None:
        """The device and stream of a call, or None if it cannot be replayed."""
        device = tensors[0].device
        if device.type != "cuda" or any(t.device != device for t in tensors):
            return None
        if torch.cuda.is_current_stream_capturing():  # these launches belong to another graph
            return None
        # replays on one stream run one after another, so they can share memory
        return device, torch.cuda.current_stream(device).cuda_stream

    def memory(self, device: torch.device) -> int:
        """The memory of the device in bytes."""
        return int(torch.cuda.get_device_properties(device).total_memory)

    def held(self, device: torch.device) -> int:
        """The memory that torch has taken from the device, in bytes."""
        return torch.cuda.memory_reserved(device)

    def record(self, run: Callable[[], list[Tensor]], device: torch.device) -> tuple[Replay, Any]:
        """Record `run` as a graph. Returns its replay function and the results it overwrites."""
        with _RECORDING, torch.cuda.device(device):
            side, now = torch.cuda.Stream(), torch.cuda.current_stream()
            side.wait_stream(now)
            with torch.cuda.stream(side):
                run()  # cuBLAS allocates its workspace for this stream now, outside the graph
            now.wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            try:
                # other threads, for example data loaders, may use CUDA meanwhile
                with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
                    outs = run()
            finally:
                torch.cuda.set_stream(now)  # a failed recording leaves the other stream current
        return graph.replay, outs


class Recorded(Held):
    """A graph with the tensors that it reads and writes, `size` bytes in all."""

    def __init__(
        self,
        inputs: list[Tensor],
        outs: list[Tensor],
        replay: Replay,
        size: int,
        drop: Callable[[], None],
    ):
        super().__init__(inputs[0].device, size, drop)
        self.inputs, self.outs, self.replay = inputs, outs, replay
        self.unchecked = CHECKED

    def __call__(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The results for these tensors, in new memory."""
        with torch.no_grad():
            torch._foreach_copy_(self.inputs, list(tensors))
            self.replay()
            outs = [torch.empty_like(t) for t in self.outs]
            torch._foreach_copy_(outs, self.outs)
        return outs


class Replayed:
    """A generated function whose launches are replayed if that pays.

    `loops` lists its stepwise loops as (axis, launches per step).
    """

    def __init__(
        self, call: Call, axes: Sequence[str], loops: Sequence[tuple[str, int]], cuda: Any = None
    ):
        self.call, self.axes, self.loops = call, tuple(axes), tuple(loops)
        self.cuda = Cuda() if cuda is None else cuda
        self.graphs: dict[Any, Recorded] = {}
        self.counts: OrderedDict[Any, int] = OrderedDict()
        self.patience = SEEN
        self.off = ""
        self._lock = threading.Lock()

    def __call__(self, tensors: Sequence[Tensor], sizes: Sequence[int]) -> list[Tensor]:
        key = self._signature(tensors, sizes)
        if key is None:
            return self.call(tensors, sizes)
        try:
            with self._lock:
                if key in self.graphs or self._due(key):
                    return self._replayed(key, tensors, sizes)
            return self.call(tensors, sizes)
        except torch.OutOfMemoryError:
            if not GRAPHS.drop_all(tensors[0].device):
                raise
            self.counts.clear()
        return self.call(tensors, sizes)

    def _signature(self, tensors: Sequence[Tensor], sizes: Sequence[int]) -> Any | None:
        """The signature of a call, or None if its launches are not recorded."""
        known = dict(zip(self.axes, sizes, strict=True))
        launches = sum(known[axis] * count for axis, count in self.loops)
        if self.off or not LEAST <= launches <= MOST:
            return None
        place = self.cuda.form(tensors)
        if place is None or _size(tensors) > self._budget(tensors):
            return None
        # modes that change the launches but not the tensors
        modes = matmul_precision(), torch.are_deterministic_algorithms_enabled()
        return place, modes, tuple(sizes), tuple((t.shape, t.dtype) for t in tensors)

    def _budget(self, tensors: Sequence[Tensor]) -> float:
        """The bytes that all graphs on the device of a call may hold."""
        return SHARE * self.cuda.memory(tensors[0].device)

    def _due(self, key: Any) -> bool:
        """Count a call. Returns whether its signature has occurred often enough."""
        self.counts[key] = self.counts.pop(key, 0) + 1
        if len(self.counts) > COUNTED:
            self.counts.popitem(last=False)
        return self.counts[key] >= self.patience

    def _replayed(self, key: Any, tensors: Sequence[Tensor], sizes: Sequence[int]) -> list[Tensor]:
        try:
            graph = self.graphs.get(key) or self._record(key, tensors, sizes)
            GRAPHS.use(graph)
            outs = graph(tensors)
        except torch.OutOfMemoryError:
            raise
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

    def _record(self, key: Any, tensors: Sequence[Tensor], sizes: Sequence[int]) -> Recorded:
        device = tensors[0].device
        before = self.cuda.held(device)
        # tensors created in inference mode could not be written outside it
        with torch.inference_mode(False), torch.no_grad():
            inputs = [torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in tensors]
            torch._foreach_copy_(inputs, list(tensors))
            run = lambda: self.call(inputs, sizes)
            replay, outs = self.cuda.record(run, device)
        size = max(_size(tensors), self.cuda.held(device) - before)
        graph = Recorded(inputs, outs, replay, size, _forgetting(self, key))
        if GRAPHS.add(graph, self._budget(tensors)):
            self._keep(key, graph)
        else:
            self._give_up(f"holds {size >> 20:,} MB, more than all graphs of the device may")
        return graph

    def _keep(self, key: Any, graph: Recorded) -> None:
        """Keep a graph. If it evicts another, the next signature must occur twice as often."""
        self.graphs[key] = graph
        self.counts.pop(key, None)
        if len(self.graphs) > KEPT:
            oldest = min(self.graphs, key=lambda k: self.graphs[k].turn)
            del self.graphs[oldest]
            self.patience *= 2

    def _give_up(self, reason: str) -> None:
        self.off = reason
        self.graphs.clear()
        _LOG.warning("a stepwise loop's CUDA graph %s; it is launched step by step", reason)


def _size(tensors: Sequence[Tensor]) -> int:
    """The bytes that a graph of a call on these tensors holds, estimated."""
    return COPIES * sum(math.prod(t.shape) * t.element_size() for t in tensors)


def _forgetting(owner: Replayed, key: Any) -> Callable[[], None]:
    """A function that makes a function drop its graph, and does not keep either alive."""
    known = weakref.ref(owner)

    def drop() -> None:
        found = known()
        if found is not None and found.graphs.pop(key, None) is not None:
            found.patience *= 2  # recording it again should pay

    return drop


def agree(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> bool:
    """Whether results are equal up to rounding."""
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
