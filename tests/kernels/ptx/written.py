"""PTX written by hand: a kernel that loads x of each thread into %r2 and stores %r3."""

from __future__ import annotations

from typing import Any

import torch

from graphnn.kernels import ptx

# %r1 is the thread, %r50 to %r52 addresses of shared memory, %rd3 and %rd4 those of x and y
_KERNEL = """.version 8.0
.target sm_90
.address_size 64
.extern .shared .align 16 .b8 global_smem[];
.visible .entry k(.param .u64 .ptr .global .align 1 k_param_0, .param .u64 k_param_1)
.reqntid {threads}
{{
.reg .pred %p<20>; .reg .b16 %rs<20>; .reg .b32 %r<60>; .reg .b64 %rd<20>;
ld.param.b64 %rd1, [k_param_0];
ld.param.b64 %rd2, [k_param_1];
mov.u32 %r1, %tid.x;
mad.wide.u32 %rd3, %r1, 4, %rd1;
mad.wide.u32 %rd4, %r1, 4, %rd2;
ld.global.b32 %r2, [%rd3];
mov.b32 %r50, global_smem;
shl.b32 %r51, %r1, 2;
add.s32 %r52, %r50, %r51;
{body}
st.global.b32 [%rd4], %r3;
ret;
}}
"""
X = torch.arange(64, dtype=torch.int32)


def kernel(body: str, threads: int = 64) -> str:
    """The text of a kernel with a body."""
    return _KERNEL.format(threads=threads, body=body)


def executed(
    body: str, x: Any = X, threads: int = 64, shared: int = 4096, **more: Any
) -> tuple[torch.Tensor, ptx.Report]:
    """Run a body with one block; return what it stored and the report."""
    x = torch.as_tensor(x).clone()
    y = torch.full([threads], -1, dtype=torch.int32)
    report = ptx.run(ptx.parse(kernel(body, threads)), (1,), [x, y], shared, **more)
    return y, report
