"""A fake GPU: tensors on the CPU that say they are on cuda:0; every wait for them is counted.

Kernels are run by Triton's interpreter. A call on these tensors goes through the same Python code
as on a GPU. `FakeGpu.waits` lists what would wait for the GPU, or copy from pageable memory. While
`capturing` is set, whatever CUDA forbids during the capture of a graph raises.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from triton.runtime.jit import JITFunction

from graphnn.kernels.executors import gpu as executors_gpu
from graphnn.kernels.interpreter import interleaved, interpreter
from graphnn.kernels.trust import guard

GPU, CPU = torch.device("cuda:0"), torch.device("cpu")
aten = torch.ops.aten
# operations that wait for the GPU: what they return depends on elements
READS = {aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default,
         aten.equal.default, aten.is_nonzero.default}  # fmt: skip
FORBIDDEN = "operation not permitted when stream is capturing"


class GpuTensor(torch.Tensor):
    """A CPU tensor that says it is on cuda:0."""

    data_on_cpu: torch.Tensor
    gpu: FakeGpu

    @staticmethod
    def __new__(cls, data: torch.Tensor, gpu: FakeGpu) -> GpuTensor:
        made = torch.Tensor._make_wrapper_subclass(
            cls, data.shape, strides=data.stride(), storage_offset=data.storage_offset(),
            dtype=data.dtype, device=CPU,
        )  # fmt: skip
        made.data_on_cpu, made.gpu = data, gpu
        return made  # type: ignore[no-any-return]

    device = property(lambda self: GPU)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_cpu = property(lambda self: False)  # type: ignore[assignment]

    def get_device(self) -> int:
        return 0

    def cpu(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        self.gpu.wait("copy to the CPU")
        return self.data_on_cpu.clone()

    def to(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        wanted = [torch.device(a) for a in (*args, kwargs.get("device")) if _is_device(a)]
        return self.cpu() if wanted and wanted[0].type == "cpu" else super().to(*args, **kwargs)

    def tolist(self) -> Any:
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        gpu = next(x.gpu for x in tree_leaves((args, kwargs)) if isinstance(x, GpuTensor))
        return gpu.dispatch(func, args, kwargs or {})


def _is_device(x: Any) -> bool:
    return isinstance(x, torch.device) or (
        isinstance(x, str) and x.partition(":")[0] in ("cpu", "cuda")
    )


def _is_cuda(device: Any) -> bool:
    return torch.device(device).type == "cuda"


def _on_gpu(x: Any) -> bool:
    return isinstance(x, GpuTensor)


def _inner(x: Any) -> Any:
    return x.data_on_cpu if isinstance(x, GpuTensor) else x


class FakeGpu(TorchDispatchMode):
    """A fake GPU. Active within `with gpu:`; `gpu.put(x)` returns a tensor on it."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self.launches: list[str] = []
        # the kernels that a GPU would have compiled; if `only_compiles`, none of them is run
        self.compiled: dict[Any, str] = {}
        self.only_compiles = False
        self.capturing = False
        self.pinned: list[torch.Tensor] = []
        self.events: list[Event] = []

    def wait(self, what: str) -> None:
        """Note something that waits for the GPU; raises during a capture."""
        if self.capturing:
            raise RuntimeError(f"{FORBIDDEN}: {what}")
        self.waits.append(what)

    def put(self, x: torch.Tensor) -> torch.Tensor:
        """Return a tensor on the GPU."""
        return GpuTensor(x.detach().clone(), self)

    def module(self, net: torch.nn.Module) -> torch.nn.Module:
        """Move the parameters and buffers of a module to the GPU."""
        for m in net.modules():
            for name, p in list(m._parameters.items()):
                if p is not None:
                    m._parameters[name] = torch.nn.Parameter(self.put(p), p.requires_grad)
            for name, b in list(m._buffers.items()):
                if b is not None:
                    m._buffers[name] = self.put(b)
        return net

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.dispatch(func, args, kwargs or {})

    def dispatch(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        if func.namespace == "graphnn":
            return self._operator(func, args, kwargs)
        leaves = tree_leaves((args, kwargs))
        here = any(map(_on_gpu, leaves))
        self._judge(func, args, kwargs, here)
        device = kwargs.get("device")
        pin = kwargs.pop("pin_memory", None)
        if device is not None:
            here = _is_cuda(device)
            kwargs["device"] = CPU if here else device
        if func is aten._pin_memory.default:
            self.pinned.append(args[0].clone())
            return self.pinned[-1]
        if func is aten.copy_.default:
            _inner(args[0]).copy_(_inner(args[1]))
            return args[0]
        out = func(*tree_map(_inner, args), **tree_map(_inner, kwargs))
        if pin:
            self.pinned.append(out)
        if func is aten._pack_padded_sequence.default:  # the counts of its result stay on the CPU
            return self._wrapped(func, args, kwargs, out[0]), out[1]
        return self._wrapped(func, args, kwargs, out) if here else out

    def _wrapped(self, func: Any, args: Any, kwargs: Any, out: Any) -> Any:
        """Results as tensors on the GPU; in-place operations return what they changed."""
        same = {id(_inner(x)): x for x in tree_leaves((args, kwargs)) if _on_gpu(x)}

        def one(x: Any) -> Any:
            if not isinstance(x, torch.Tensor):
                return x
            return same[id(x)] if id(x) in same else GpuTensor(x, self)

        return tree_map(one, out)

    def _is_pinned(self, x: torch.Tensor) -> bool:
        pointers = [p.untyped_storage().data_ptr() for p in self.pinned]
        return x.untyped_storage().data_ptr() in pointers

    def _judge(self, func: Any, args: Any, kwargs: dict[str, Any], here: bool) -> None:
        """Note what waits: elements that are read, copies between devices, pinned memory."""
        pins = kwargs.get("pin_memory") or func is aten._pin_memory.default
        if pins and self.capturing:
            raise RuntimeError(f"{FORBIDDEN}: allocation of pinned memory")
        if here and func in READS:
            self.wait(str(func))
        masks = args[1] if func is aten.index.Tensor and here else ()
        if any(x is not None and x.dtype == torch.bool for x in masks):
            self.wait("index by a mask")
        to = kwargs.get("device") if func is aten._to_copy.default else None
        if to is not None and _on_gpu(args[0]) != _is_cuda(to):
            self._copied(args[0], None, kwargs.get("non_blocking", False))
        if func is aten.copy_.default and _on_gpu(args[0]) != _on_gpu(args[1]):
            self._copied(args[1], args[0], (*args, False)[2] or kwargs.get("non_blocking", False))

    def _copied(self, source: torch.Tensor, to: torch.Tensor | None, non_blocking: bool) -> None:
        host = to if _on_gpu(source) else source
        if host is None or _on_gpu(host) or not self._is_pinned(host) or not non_blocking:
            self.wait("copy between CPU and GPU")

    def _operator(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run the Python body of an operator of graphnn, so that what it calls is seen."""
        body = torch._library.custom_ops.OPDEFS[func._schema.name]._backend_fns[None]
        with self, torch.no_grad():
            return body(*args, **kwargs)

    # what patches torch.cuda and Triton

    def run_kernel(
        self, function: JITFunction, *args: Any, grid: Any, warmup: bool, **kw: Any
    ) -> None:
        """Launch a kernel by the interpreter."""
        self.launches.append(function.__name__)
        values = [_inner(x) for x in args]
        dtypes = tuple(x.dtype if isinstance(x, torch.Tensor) else type(x) for x in values)
        key = function.fn.__code__, dtypes, tuple(sorted((k, str(v)) for k, v in kw.items()))
        self.compiled.setdefault(key, function.__name__)
        if self.only_compiles:
            return
        known = set(inspect.signature(function.fn).parameters)
        constants = {k: v for k, v in kw.items() if k in known}
        if "UPCAST" in constants:
            constants["UPCAST"] = True
        together = kw.get("launch_cooperative_grid", False)
        launch = interleaved.launch if together else interpreter.launch
        with torch._C._DisableTorchDispatch():
            launch(function, grid, *values, **constants)


class Event:
    """A CUDA event of the fake GPU: recorded work is done at once, unless `done` is cleared."""

    gpu: FakeGpu

    def __init__(self, enable_timing: bool = False, blocking: bool = False, **other: Any) -> None:
        self.done, self.recorded = True, 0
        self.gpu.events.append(self)

    def record(self, stream: Any = None) -> None:
        self.recorded += 1

    def query(self) -> bool:
        if self.gpu.capturing:
            raise RuntimeError(f"{FORBIDDEN}: event.query")
        return self.done

    def synchronize(self) -> None:
        self.gpu.wait("event.synchronize")
        self.done = True

    def elapsed_time(self, other: Event) -> float:
        return 1.0


@contextmanager
def _nothing(*args: Any) -> Iterator[None]:
    yield


def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    """Return a fake GPU, an H200, which torch.cuda and Triton use."""
    gpu = FakeGpu()
    executors_gpu._info.cache_clear()
    props = SimpleNamespace(name="a fake GPU", multi_processor_count=132, total_memory=140 << 30,
                            shared_memory_per_block_optin=232_448)  # fmt: skip
    stream = SimpleNamespace(cuda_stream=0, wait_stream=lambda other: None,
                             synchronize=lambda: gpu.wait("stream.synchronize"))  # fmt: skip
    made = type("FakeEvent", (Event,), {"gpu": gpu})
    members: dict[str, Any] = {
        "is_available": lambda: True,
        "_lazy_init": lambda: None,
        "is_current_stream_capturing": lambda: gpu.capturing,
        "current_device": lambda: 0,
        "device_count": lambda: 1,
        "get_device_capability": lambda *a: (9, 0),
        "get_device_name": lambda *a: "a fake GPU",
        "get_device_properties": lambda *a: props,
        "current_stream": lambda *a: stream,
        "synchronize": lambda *a: gpu.wait("torch.cuda.synchronize"),
        "device": _nothing,
        "device_of": _nothing,
        "Event": made,
        "_sleep": lambda cycles: None,
    }
    for name, member in members.items():
        monkeypatch.setattr(torch.cuda, name, member)
    tensor = torch.tensor

    def made_of(data: Any, **kwargs: Any) -> torch.Tensor:
        device = kwargs.pop("device", None)
        if device is None or not _is_cuda(device):
            return tensor(data, device=device, **kwargs)
        gpu.wait("torch.tensor of numbers")
        return gpu.put(tensor(data, **kwargs))

    monkeypatch.setattr(torch, "tensor", made_of)
    run: Callable[..., None] = lambda self, *a, **k: gpu.run_kernel(self, *a, **k)
    monkeypatch.setattr(JITFunction, "run", run)
    # another process would have no such GPU
    monkeypatch.setattr(guard, "prove", lambda executor, launch: "")
    return gpu
