"""Item 6: settings of torch, a second device, unaligned and empty tensors, a full memory."""

from __future__ import annotations

from typing import Any

import torch

from graphnn.bench.contact.networks import made
from graphnn.bench.contact.place import Place
from graphnn.tools.verification.results import Call, Definition, check_results, results

FULL = 0.95


def tf32_setting(place: Place) -> dict[str, Any]:
    """Set float32 products to TF32 by torch's new interface, then call a model."""
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    return _checked(place, _input(place), "tf32")


def unaligned(place: Place) -> dict[str, Any]:
    """Give an input that begins 4 bytes behind an aligned address."""
    x = _input(place)
    shifted = torch.empty(x.numel() + 1, device=place.device)[1:].view(x.shape).copy_(x)
    assert shifted.data_ptr() % 16, "the slice is aligned after all"
    return _checked(place, shifted, "fp32")


def empty_batch(place: Place) -> dict[str, Any]:
    """Call a model on no example, forward and backward."""
    model = place.compiled(made("LSTM 64"), torch.float32)
    y = model(x=torch.empty(0, 3, 64, device=place.device))
    y.sum().backward()
    return {"shape": list(y.shape)}


def second_device(place: Place) -> dict[str, Any]:
    """Call a model on cuda:1 while cuda:0 is the current device."""
    if torch.cuda.device_count() < 2:
        return {"skipped": "there is one device"}
    model = place.compiled(made("LSTM 64"), torch.float32)
    x = _input(place)
    want = model(x=x)
    got = model.to("cuda:1")(x=x.to("cuda:1"))
    assert got.device.index == 1, got.device
    if not torch.equal(want.cpu(), got.cpu()):
        raise AssertionError("the devices give different results")
    return {"device": torch.cuda.get_device_name(1)}


def out_of_memory(place: Place) -> dict[str, Any]:
    """Fill the memory; a call must raise OutOfMemoryError, and succeed once there is room."""
    model = place.compiled(made("LSTM 64"), torch.float32, tune=True)
    x = torch.randn(4096, 256, 64, device=place.device)
    free, total = torch.cuda.mem_get_info()
    kept = torch.empty(int(free - (1 - FULL) * total / 4), dtype=torch.uint8, device=place.device)
    try:
        model(x=x)
        raised = False
    except torch.cuda.OutOfMemoryError:
        raised = True
    del kept
    torch.cuda.empty_cache()
    y = model(x=x)
    return {"raised": raised, "finite": bool(y.isfinite().all())}


def _input(place: Place) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, 3, 64, generator=generator).to(place.device)


def _checked(place: Place, x: torch.Tensor, precision: str) -> dict[str, Any]:
    """Compare a call with float64. Raises AssertionError with what is wrong."""
    net = made("LSTM 64")
    model = place.compiled(net, torch.float32)
    call = Call("", {"x": x}, {}, backward=False)
    definition = Definition(net, torch.float32, place.device, precision)
    with torch.no_grad():  # a call clones its inputs, which aligns them
        got = {**results(model, call), "output": model(x=x).cpu()}
    rows = check_results(definition, call, got)
    if faults := [str(f) for row in rows for f in row.faults]:
        raise AssertionError("; ".join(faults))
    return {"error": max(row.error.error for row in rows)}
