"""Calls of loops: torch operators that autograd, torch.compile and autocast know.

`graphnn::loop` runs a loop's generated forward and `graphnn::loop_backward` its derived backward;
both find their program by its key in the registry.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor

from graphnn.backends.torch.codegen.lowering import Function
from graphnn.backends.torch.operators import transforms
from graphnn.backends.torch.operators.autograd import no_second_derivative
from graphnn.backends.torch.operators.loop import LoopOperator
from graphnn.backends.torch.runtime import registry


def call(program: LoopOperator, tensors: list[Tensor], sizes: list[int]) -> list[Tensor]:
    """Run a loop.

    Under autocast it runs in autocast's dtype, as torch's own recurrent layers do. If the dtype of
    a state is stated, it runs in the dtypes of the graph.
    """
    kind = tensors[0].device.type
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        lower = (dtype if t.dtype == torch.float32 else t.dtype for t in tensors)
        wanted = program.stated or lower
        tensors = [t.to(d) for t, d in zip(tensors, wanted)]
    return transforms.apply(program, tensors, sizes)


@torch.library.custom_op("graphnn::loop", mutates_args=())
def _loop(tensors: list[Tensor], key: str, sizes: list[int], train: bool) -> list[Tensor]:
    program = registry.found(key)
    return _run(program.train if train else program.infer, tensors, sizes)


def _run(function: Function, tensors: list[Tensor], sizes: list[int]) -> list[Tensor]:
    """Call generated code. Autograd records none of it: derivatives are generated code, too.

    Without the records of views and in-place changes, a step of 35 calls takes 3% less time (LSTM
    with peepholes, (T, B, H) = (100, 32, 256), forward and backward; CPU, 2 threads).
    """
    with torch.autocast(tensors[0].device.type, enabled=False), _unrecorded(function):
        return function.call(tensors, sizes)


def _unrecorded(function: Function) -> contextlib.AbstractContextManager[None]:
    guard = getattr(torch._C, "_ExcludeDispatchKeyGuard", None)  # not public
    if guard is None or function.user_code:
        return contextlib.nullcontext()  # torch needs these records to derive its own functions
    return guard(torch._C.DispatchKeySet(torch._C.DispatchKey.ADInplaceOrView))  # type: ignore[no-any-return]


@_loop.register_fake
def _(tensors: list[Tensor], key: str, sizes: list[int], train: bool) -> list[Tensor]:
    program = registry.traced(key)
    return (program.train if train else program.infer).shapes(tensors, sizes)


@torch.library.custom_op("graphnn::loop_backward", mutates_args=())
def _loop_backward(
    tensors: list[Tensor], key: str, sizes: list[int], wanted: list[bool], present: list[bool]
) -> list[Tensor]:
    return _run(registry.found(key).backward(wanted, present), tensors, sizes)


@_loop_backward.register_fake
def _(
    tensors: list[Tensor], key: str, sizes: list[int], wanted: list[bool], present: list[bool]
) -> list[Tensor]:
    return registry.traced(key).backward(wanted, present).shapes(tensors, sizes)


def _setup(ctx: Any, inputs: Any, output: Any) -> None:
    tensors, key, ctx.sizes, train = inputs
    ctx.set_materialize_grads(False)
    ctx.program = registry.found(key)  # the backward may run after the model is deleted
    floating = ctx.program.floating()
    ctx.wanted = [f and t.requires_grad for f, t in zip(floating, tensors, strict=True)]
    if train:
        ctx.save_for_backward(*tensors, *output)


def _backward(ctx: Any, grads: Any) -> Any:
    program = ctx.program
    found = transforms.pull(program, ctx.saved_tensors, ctx.sizes, grads, ctx.wanted)
    return found, None, None, None


_loop.register_autograd(_backward, setup_context=_setup)
no_second_derivative(_loop_backward, "the loop")
