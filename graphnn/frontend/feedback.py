"""The feedback from an output to an input when a model generates: see `g.feedback`."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from graphnn.errors import GraphError
from graphnn.frontend.value import Value
from graphnn.ir.source_location import user_site
from graphnn.tracing.effects.symbolic import GraphLike

CHOICES = ("argmax", "sample")


@dataclass(frozen=True)
class Feedback:
    """When a model generates, the next `input` is chosen from `output` by `choose`."""

    input: str
    output: str
    choose: str


def fed_back(graph: GraphLike, input: Value | str, output: Value | str, choose: str) -> Feedback:
    """The feedback of an output to an input. Raises GraphError if they do not match."""
    given = input if isinstance(input, str) else graph.value(input).node.attrs.get("key", "")
    named = {i: name for name, i in graph.ir.outputs.items()}
    out = output if isinstance(output, str) else named.get(graph.value(output).id, "")
    source = next((n for n in graph.ir if n.op == "input" and n.attrs["key"] == given), None)
    fits = source is not None and out in graph.ir.outputs and choose in CHOICES
    if fits and source is not None:
        logits = graph.ir[graph.ir.outputs[out]]
        fits = not source.shape and source.dtype == torch.int64 and len(logits.shape) == 1
        fits = fits and len(source.attrs["over"]) == 1 and source.attrs["over"][0] in logits.axes
    if not fits:
        raise GraphError(
            "this output cannot be fed back to this input",
            site=user_site(),
            got=f"input {given or input!r}, output {out or output!r}, choose={choose!r}",
            wanted="an int64 input of shape () over one axis, an output of shape (vocabulary,) "
            f"over it, and choose among {', '.join(CHOICES)}",
            fix="declare g.input(name, (), over=axis, dtype=torch.int64) and g.output(…) first",
        )
    return Feedback(given, out, choose)
