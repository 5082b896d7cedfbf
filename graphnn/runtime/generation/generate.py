"""`generate`: runs a network step by step and feeds each chosen symbol back as the next input.

The graph is the one used in training. What does not vary over the axis (an encoder) is computed
once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from graphnn.errors import GenerateError
from graphnn.frontend.feedback import CHOICES, Feedback
from graphnn.ir.graph import IR
from graphnn.kernels.runtime import late
from graphnn.runtime.call.network import Network
from graphnn.runtime.call.read import declared
from graphnn.runtime.generation.result import Generation
from graphnn.runtime.generation.sampling import Chooser
from graphnn.runtime.generation.search import Stepped, beam_search, one_by_one
from graphnn.runtime.streaming.step import State, Streaming
from graphnn.runtime.streaming.stepper import stepper

INF = float("inf")


def generate(
    streaming: Streaming,
    inputs: Mapping[str, Tensor],
    *,
    start: int | Tensor,
    stop: int | None,
    max_steps: int,
    beam: int | None,
    length_penalty: float,
    choose: str | None,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    generator: torch.Generator | None,
    lengths: Mapping[str, Any] | None,
    record: Sequence[str],
    progress: bool,
) -> Generation:
    """See `Compiled.generate`."""
    network = streaming.network
    back = _feedback(network)
    axis = declared(network.ir)[back.input].attrs["over"][0]
    chooser = Chooser(choose or back.choose, temperature, top_k, top_p, generator)
    _check(max_steps, chooser, beam)
    copies = beam or 1
    names = _recorded(network.ir, record)
    batch = _batch(inputs, start)
    prompt = _prompt(start, batch, network.device).repeat_interleave(copies, 0)
    count = prompt.shape[1]

    def step(state: State, position: int, symbols: Tensor) -> Stepped:
        outputs, state = run(state, position, **{back.input: symbols})
        outputs = outputs if isinstance(outputs, dict) else {back.output: outputs}
        values = {**state, **outputs}
        return outputs[back.output], state, {name: values[name] for name in names}

    with torch.no_grad():
        run = stepper(streaming, axis, inputs, lengths, batch, copies)
        state = run.start
        for position in range(count - 1):
            _, state, _ = step(state, position, prompt[:, position])
        positions = _tracked(range(count - 1, count - 1 + max_steps), progress)
        last = prompt[:, -1]
        if beam is None:
            found = one_by_one(step, state, last, positions, stop, chooser)
        else:
            found = beam_search(step, state, last, positions, stop, beam, length_penalty)
    late.wait()  # generation waits for the GPU at every step anyway
    return found


def _feedback(network: Network) -> Feedback:
    """The one feedback of a graph. Raises GenerateError if there is none, or several."""
    found = network.current().feedback
    if len(found) != 1:
        raise GenerateError(
            f"'{network.ir.name}' does not name the input to feed back",
            got=f"{len(found)} calls of g.feedback",
            wanted="one",
            fix="g.feedback(input, output) in the graph, after g.output",
        )
    return found[0]


def _recorded(ir: IR, record: Sequence[str]) -> list[str]:
    """The names of outputs and states to record. Raises GenerateError for an unknown one."""
    names = [record] if isinstance(record, str) else list(record)
    known = [*ir.outputs, *(n.attrs["key"] for n in ir if n.op == "delay")]
    if unknown := [name for name in names if name not in known]:
        raise GenerateError(
            f"'{ir.name}' has no output or state {unknown}",
            got=f"record={names}",
            wanted=f"names among {known}",
            fix="g.output(name, value) in the graph; for gn.nn.Seq2Seq, with_weights=True",
        )
    return names


def _check(max_steps: int, choose: Chooser, beam: int | None) -> None:
    """Raise GenerateError for an argument without a meaning."""
    whole = {"max_steps": max_steps, "beam": 1 if beam is None else beam}
    whole["top_k"] = 1 if choose.top_k is None else choose.top_k
    for name, given in whole.items():
        if isinstance(given, bool) or not isinstance(given, Integral):
            raise GenerateError(f"{name} is not a whole number", got=repr(given), wanted="an int")
        if given < 1:
            raise GenerateError(
                f"{name} is too small", got=given, wanted="1 or more", fix=f"{name}=1"
            )
    if choose.how not in CHOICES:
        raise GenerateError(
            f"symbols are not chosen by {choose.how!r}",
            got=f"choose={choose.how!r}",
            wanted=f"one of {', '.join(map(repr, CHOICES))}",
            fix="'argmax' takes the most probable symbol (greedy), 'sample' draws one at random",
        )
    ranges = {"temperature": (choose.temperature, INF), "top_p": (choose.top_p, 1.0)}
    for name, (value, most) in ranges.items():
        if value is not None and not 0 < value <= most:
            raise GenerateError(
                f"{name} is out of range",
                got=value,
                wanted="more than 0" + (f", at most {most:g}" if most < INF else ""),
                fix=f"{name}=1.0",
            )
    if beam is not None and choose.how == "sample":
        raise GenerateError(
            "a beam search does not draw symbols at random",
            got=f"beam={beam} and choose='sample'",
            wanted="one of them",
            fix="leave beam out, or pass choose='argmax'",
        )


def _batch(inputs: Mapping[str, Tensor], start: int | Tensor) -> int:
    """The number of examples: that of the inputs, or else of `start`, or else one."""
    given = next((x.shape[0] for x in inputs.values()), None)
    if given is None:
        return start.shape[0] if isinstance(start, Tensor) and start.dim() else 1
    return given


def _prompt(start: int | Tensor, batch: int, device: torch.device | None) -> Tensor:
    """The first symbols as (batch, n). Raises GenerateError for another shape."""
    symbols = torch.as_tensor(start, dtype=torch.int64, device=device)
    symbols = symbols[:, None] if symbols.dim() == 1 else symbols
    symbols = symbols.expand(batch, 1) if symbols.dim() == 0 else symbols
    if symbols.dim() != 2 or symbols.shape[0] != batch or not symbols.shape[1]:
        raise GenerateError(
            "`start` has the wrong shape for these examples",
            got=tuple(symbols.shape),
            wanted=f"a symbol, ({batch},), or ({batch}, n) with n at least 1",
            fix="give each example its first symbols, the same number for all",
        )
    return symbols


def _tracked(positions: range, progress: bool) -> Iterable[int]:
    """The positions, with a progress bar if it is wanted."""
    if not progress:
        return positions
    from rich.progress import track

    return track(positions, "generating", transient=True)
