"""Sources of persistent recurrent kernels as an emitter writes them: flat, one name per piece.

A state of H units is held in pieces whose sizes are powers of two: 160 as (128, 32). Weights are
[into, out] for each gate; inputs and outputs are [time, batch, unit], one input for each gate.
"""

from __future__ import annotations

import linecache
from functools import cache
from typing import Any

import triton
import triton.language as tl

from graphnn.kernels.feasibility.aot import KernelCase

GATES = {"elman": "n", "gru": "rzn", "lstm": "fioz"}

HEAD = """
import triton
import triton.language as tl


@triton.jit
def sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def tanh(x):
    return 2.0 * sigmoid(2.0 * x) - 1.0


@triton.jit
def kernel({pointers}, T, B, ROWS: tl.constexpr, HOW: tl.constexpr):
    rows = (tl.program_id(0) * ROWS + tl.arange(0, ROWS))[:, None]
    live = rows < B
"""


def source(cell: str, pieces: tuple[int, ...], reload: bool = False) -> str:
    """A kernel of `cell`; with `reload` it loads its weights again at every step."""
    state = "hc" if cell == "lstm" else "h"
    lines = [HEAD.format(pointers=", ".join(pointers(cell)))]
    for i, size in enumerate(pieces):
        lines += [f"    u{i} = {sum(pieces[:i])} + tl.arange(0, {size})"]
        lines += [f"    {s}{i} = tl.zeros([ROWS, {size}], tl.float32)" for s in state]
    weights = [line for g in GATES[cell] for line in _weights(g, pieces)]
    lines += [] if reload else ["    " + line for line in weights]
    lines += ["    for t in tl.range(0, T, num_stages=1):"]
    body = weights if reload else []
    at = f"(t * B + rows) * {sum(pieces)} + u{{i}}[None, :]"
    body = body + [f"p{i} = {at.format(i=i)}" for i in range(len(pieces))]
    body += STEPS[cell](pieces)
    body += [f"tl.store(y_ptr + p{i}, h{i}, mask=live)" for i in range(len(pieces))]
    return "\n".join(lines + ["        " + line for line in body]) + "\n"


def pointers(cell: str) -> list[str]:
    """The kernel's pointers: inputs, weights, the output."""
    return [f"{kind}_{gate}_ptr" for kind in "xw" for gate in GATES[cell]] + ["y_ptr"]


def _weights(gate: str, pieces: tuple[int, ...]) -> list[str]:
    at = f"w_{gate}_ptr + u{{k}}[:, None] * {sum(pieces)} + u{{n}}[None, :]"
    count = range(len(pieces))
    return [f"w_{gate}{k}{n} = tl.load({at.format(k=k, n=n)})" for n in count for k in count]


def _operands(name: str, gate: str, pieces: tuple[int, ...]) -> list[str]:
    """The pieces of a value as operands of matmuls with a gate's weights."""
    return [f"{name}{k}_ = {name}{k}.to(w_{gate}_ptr.dtype.element_ty)" for k in range(len(pieces))]


def _gate(gate: str, act: str, of: str, pieces: tuple[int, ...]) -> list[str]:
    """All pieces of a gate: the activation of an input plus matmuls with the pieces of `of`."""
    lines = []
    for n in range(len(pieces)):
        load = f"tl.load(x_{gate}_ptr + p{n}, mask=live, other=0.0).to(tl.float32)"
        lines += [f"{gate}{n} = {load}"]
        for k in range(len(pieces)):
            product = f"tl.dot({of}{k}_, w_{gate}{k}{n}, {gate}{n}, input_precision=HOW)"
            lines += [f"{gate}{n} = {product}"]
        lines += [f"{gate}{n} = {act}({gate}{n})"]
    return lines


def _elman(pieces: tuple[int, ...]) -> list[str]:
    lines = _operands("h", "n", pieces) + _gate("n", "tanh", "h", pieces)
    return lines + [f"h{k} = n{k}" for k in range(len(pieces))]


def _gru(pieces: tuple[int, ...]) -> list[str]:
    lines = _operands("h", "r", pieces)
    lines += _gate("r", "sigmoid", "h", pieces) + _gate("z", "sigmoid", "h", pieces)
    lines += [f"q{k} = r{k} * h{k}" for k in range(len(pieces))] + _operands("q", "n", pieces)
    lines += _gate("n", "tanh", "q", pieces)
    return lines + [f"h{k} = (1 - z{k}) * n{k} + z{k} * h{k}" for k in range(len(pieces))]


def _lstm(pieces: tuple[int, ...]) -> list[str]:
    lines = _operands("h", "f", pieces)
    for gate, act in zip("fioz", ("sigmoid", "sigmoid", "sigmoid", "tanh")):
        lines += _gate(gate, act, "h", pieces)
    for k in range(len(pieces)):
        lines += [f"c{k} = f{k} * c{k} + i{k} * z{k}", f"h{k} = o{k} * tanh(c{k})"]
    return lines


STEPS = {"elman": _elman, "gru": _gru, "lstm": _lstm}


@cache
def kernel(cell: str, pieces: tuple[int, ...], reload: bool = False) -> Any:
    """The jitted function; Triton's compiler looks for its source where tracebacks do."""
    text = source(cell, pieces, reload)
    name = f"<{cell} {pieces} {reload}>"
    linecache.cache[name] = (len(text), None, text.splitlines(True), name)
    module: dict[str, Any] = {"__name__": name}
    exec(compile(text, name, "exec"), module)
    return module["kernel"]


def signature(cell: str, weights: str = "bf16") -> dict[str, str]:
    """The types of the kernel's arguments."""
    return dict.fromkeys(pointers(cell), f"*{weights}") | {"T": "i32", "B": "i32"}


def case(
    cell: str,
    pieces: tuple[int, ...],
    rows: int = 16,
    warps: int = 4,
    weights: str = "bf16",
    how: str = "ieee",
    reload: bool = False,
) -> KernelCase:
    """The kernel as a case whose weights must be loaded once."""
    return KernelCase(
        name=f"{cell} {'+'.join(map(str, pieces))}, {rows} rows, {warps} warps",
        function=kernel(cell, pieces, reload),
        signature=signature(cell, weights),
        constants={"ROWS": rows, "HOW": how},
        warps=warps,
        loaded_once=tuple(name for name in pointers(cell) if name.startswith("w_")),
    )


@triton.jit
def carried(x_ptr, w_ptr, idle_ptr, y_ptr, T, N: tl.constexpr):
    """The loop carries and advances both pointers; `idle_ptr` is carried but never loaded."""
    at = tl.arange(0, N)
    x, w, idle = x_ptr + at, w_ptr + at, idle_ptr + at
    total = tl.load(y_ptr + at)
    for _ in tl.range(0, T, num_stages=1):
        total = total * tl.load(w) + tl.load(x)
        tl.store(idle, total)
        x, w, idle = x + N, w + 2 * N, idle + N
    tl.store(y_ptr + at, total)


@triton.jit
def chosen(a_ptr, b_ptr, c_ptr, y_ptr, T, B, N: tl.constexpr):
    """A branch chooses the pointer, and its offset is loaded; a second loop loads nothing."""
    at = tl.arange(0, N)
    offset = tl.load(c_ptr)
    total = tl.zeros([N], tl.float32)
    for t in tl.range(0, T, num_stages=1):
        from_ptr = a_ptr
        if t > B:
            from_ptr = b_ptr
            tl.store(y_ptr + at, total)
        total += tl.load(from_ptr + offset.to(tl.int32) + t * N + at)
    for _ in tl.range(0, T, num_stages=1):
        total = total * total + 1.0
    tl.store(y_ptr + at, total)


@triton.jit
def spun(flag_ptr, w_ptr, y_ptr, N: tl.constexpr):
    """The condition of a `while` loads from one pointer, its body from another that it carries."""
    at = tl.arange(0, N)
    w = w_ptr + at
    total = tl.zeros([N], tl.float32)
    while tl.load(flag_ptr) < tl.max(total, 0):
        total += tl.load(w)
        w += N
    tl.store(y_ptr + at, total)


@triton.jit
def mistaken(x_ptr):
    """Does not compile."""
    tl.static_assert(False, "not today")
