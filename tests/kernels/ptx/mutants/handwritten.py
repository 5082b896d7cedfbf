"""Small kernels in PTX whose order between threads can be taken away."""

from __future__ import annotations

import torch

from graphnn.kernels import ptx
from tests.kernels.ptx.mutants.launches import Recorded
from tests.kernels.ptx.written import X, kernel

# each warp reads what the other one stored
EXCHANGE = """st.shared.b32 [%r52], %r2;
bar.sync 0;
xor.b32 %r4, %r51, 128;
add.s32 %r4, %r4, %r50;
ld.shared.b32 %r3, [%r4];"""
# a copy that is awaited
COPY = """cp.async.ca.shared.global [%r52], [%rd3], 4;
cp.async.commit_group;
cp.async.wait_group 0;
ld.shared.b32 %r3, [%r52];"""
# each block stores, arrives, waits for the other one, and reads what that stored
BLOCKS = """.version 8.0
.target sm_90
.address_size 64
.visible .entry k(.param .u64 k_param_0, .param .u64 k_param_1, .param .u64 k_param_2)
.reqntid 64
{
.reg .pred %p<4>; .reg .b32 %r<10>; .reg .b64 %rd<10>;
ld.param.b64 %rd1, [k_param_0];
ld.param.b64 %rd2, [k_param_1];
ld.param.b64 %rd3, [k_param_2];
mov.u32 %r1, %tid.x;
mov.u32 %r2, %ctaid.x;
shl.b32 %r3, %r2, 6;
add.s32 %r3, %r3, %r1;
xor.b32 %r4, %r3, 64;
mad.wide.u32 %rd4, %r3, 4, %rd1;
mad.wide.u32 %rd5, %r4, 4, %rd1;
mad.wide.u32 %rd6, %r3, 4, %rd2;
add.s32 %r5, %r3, 100;
st.global.b32 [%rd4], %r5;
bar.sync 0;
setp.eq.s32 %p1, %r1, 0;
mov.u32 %r6, 2;
@%p1 red.global.gpu.release.add.u32 [%rd3], 1;
$L_wait:
@%p1 ld.global.gpu.acquire.b32 %r6, [%rd3];
setp.lt.u32 %p2, %r6, 2;
@%p2 bra $L_wait;
bar.sync 0;
ld.global.b32 %r7, [%rd5];
st.global.b32 [%rd6], %r7;
ret;
}
"""


def one_block(body: str) -> Recorded:
    """The launch of a body in one block of two warps."""
    program = ptx.parse(kernel(body))
    return _recorded(Recorded(program, (1,), [X.clone(), torch.zeros_like(X)], 4096, False))


def two_blocks() -> Recorded:
    """The launch of the blocks that wait for one another."""
    given = [torch.zeros(n, dtype=torch.int32) for n in (128, 128, 1)]
    return _recorded(Recorded(ptx.parse(BLOCKS), (2,), given, 0, True))


def _recorded(launch: Recorded) -> Recorded:
    launch.first_run()
    return launch
