"""Generation: a loop closed from outside, each symbol chosen from the output before it.

The model is run one step at a time by the graph that it was trained by; what does not vary over the
axis (an encoder) is computed once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from graphnn.errors import GenerateError
from graphnn.ir.graph import IR
from graphnn.runtime.call.read import declared
from graphnn.runtime.generation.result import Generation
from graphnn.runtime.generation.sampling import Chooser
from graphnn.runtime.generation.search import Stepped, beam_search, one_by_one
from graphnn.runtime.streaming.stepper import State, stepper

__all__ = ["Chooser", "Generation", "generate"]


def generate(
    model: Any,
    inputs: Mapping[str, Tensor],
    *,
    start: int | Tensor,
    stop: int | None,
    max_steps: int,
    beam: int | None,
    length_penalty: float,
    choose: Chooser,
    lengths: Mapping[str, Any] | None,
    record: Sequence[str],
    progress: bool,
) -> Generation:
    """See `Compiled.generate`."""
    back = _feedback(model)
    axis = declared(model.ir)[back.input].attrs["over"][0]
    each = beam or 1
    _check(max_steps, each, choose, beam)
    names = _recorded(model.ir, record)
    batch = _batch(inputs, start)
    prompt = _prompt(start, batch, model._device()).repeat_interleave(each, 0)
    count = prompt.shape[1]

    def step(state: State, place: int, symbols: Tensor) -> Stepped:
        outputs, state = run(state, place, **{back.input: symbols})
        outputs = outputs if isinstance(outputs, dict) else {back.output: outputs}
        known = {**state, **outputs}
        return outputs[back.output], state, {name: known[name] for name in names}

    with torch.no_grad():
        run = stepper(model, axis, inputs, lengths, batch, each)
        state = run.start
        for place in range(count - 1):
            _, state, _ = step(state, place, prompt[:, place])
        places = _shown(range(count - 1, count - 1 + max_steps), progress)
        last = prompt[:, -1]
        if beam is None:
            return one_by_one(step, state, last, places, stop, choose)
        return beam_search(step, state, last, places, stop, beam, length_penalty)


def _feedback(model: Any) -> Any:
    found = model.feedback
    if len(found) != 1:
        raise GenerateError(
            f"'{model.ir.name}' does not say what its next input is made of",
            got=f"{len(found)} calls of g.feedback",
            wanted="one",
            fix="g.feedback(input, output) in the graph, after g.output",
        )
    return found[0]


def _recorded(ir: IR, record: Sequence[str]) -> list[str]:
    names = [record] if isinstance(record, str) else list(record)
    known = [*ir.outputs, *(n.attrs["key"] for n in ir if n.op == "delay")]
    if unknown := [name for name in names if name not in known]:
        raise GenerateError(
            f"'{ir.name}' has no output or state {unknown}",
            got=f"record={names}",
            wanted=f"names among {known}",
            fix="g.output(name, value) in the graph; of gn.nn.Seq2Seq, with_weights=True",
        )
    return names


def _check(max_steps: int, each: int, choose: Chooser, beam: int | None) -> None:
    for name, given in (("max_steps", max_steps), ("beam", each)):
        if given < 1:
            raise GenerateError(
                f"{name} is too small", got=given, wanted="1 or more", fix=f"{name}=1"
            )
    if beam is not None and choose.how == "sample":
        raise GenerateError(
            "a beam search does not draw symbols at random",
            got=f"beam={beam} and choose='sample'",
            wanted="one of them",
            fix="leave beam out, or pass choose='argmax'",
        )


def _batch(inputs: Mapping[str, Tensor], start: int | Tensor) -> int:
    given = next((x.shape[0] for x in inputs.values()), None)
    if given is None:
        return start.shape[0] if isinstance(start, Tensor) and start.dim() else 1
    return given


def _prompt(start: int | Tensor, batch: int, device: torch.device | None) -> Tensor:
    """(batch, n) symbols that the first steps are given."""
    symbols = torch.as_tensor(start, dtype=torch.int64, device=device)
    symbols = symbols[:, None] if symbols.dim() == 1 else symbols
    symbols = symbols.expand(batch, 1) if symbols.dim() == 0 else symbols
    if symbols.dim() != 2 or symbols.shape[0] != batch or not symbols.shape[1]:
        raise GenerateError(
            "`start` is no beginning for these examples",
            got=tuple(symbols.shape),
            wanted=f"a symbol, ({batch},), or ({batch}, n) with n of at least 1",
            fix="give each example its first symbols, the same number for all",
        )
    return symbols


def _shown(places: range, progress: bool) -> Iterable[int]:
    if not progress:
        return places
    from rich.progress import track

    return track(places, "generating", transient=True)
