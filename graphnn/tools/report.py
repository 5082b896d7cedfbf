"""`graphnn report`: one page about a network: pictures, plan, code, timings, gradient flow."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape
from typing import Any

import torch

from graphnn.errors import GraphnnError
from graphnn.inspection.profile import BACKWARD, Profile, Row
from graphnn.ir.graph import BATCH
from graphnn.pictures import draw, plots
from graphnn.pictures.picture import encode
from graphnn.runtime.model import Compiled, compile, network_of
from graphnn.runtime.profiling import profile
from graphnn.timing.contest import leaves
from graphnn.timing.provenance import about
from graphnn.timing.table import head, limits_text, ms
from graphnn.tools.example_inputs import random_inputs
from graphnn.tools.gradient_flow import gradient_flow
from graphnn.tools.html import Section, code, folded, image, page, plain, table

# largest number of boxes for which three copies side by side are readable
MANY = 40


def report(
    model: Compiled,
    sizes: Mapping[str, int] | None = None,
    inputs: Mapping[str, torch.Tensor] | None = None,
    rounds: int = 15,
    **timing: Any,
) -> str:
    """A self-contained HTML page about a model.

    Timings and gradients are taken on `inputs`, or on random inputs of `sizes`. A section that
    cannot be made shows the reason. `timing` are further arguments of
    `graphnn.runtime.profiling.profile`. Raises AxisError for sizes of axes that do not exist,
    PictureError if matplotlib or igraph is missing.
    """
    given = dict(inputs) if inputs is not None else random_inputs(model, sizes)
    kind = next((t.device.type for t in given.values()), "cpu")
    sections = [
        Section("network", "Network", _network(model)),
        Section("plan", "Plan", _plan(model)),
        Section("times", "Where the time goes", _times(model, given, rounds, timing)),
        Section("gradients", "Gradient flow", _flow(model, given)),
        Section("code", "Generated code", _code(model)),
    ]
    shapes = ", ".join(f"{k} {tuple(t.shape)}" for k, t in given.items())
    made = "random inputs" if inputs is None else "inputs"
    backend = "auto, here torch" if model.backend == "auto" and kind == "cpu" else model.backend
    text = f"backend {backend}; {made}: {shapes}; {head(about(kind))}"
    return page(model.ir.name, text, sections)


def _network(model: Compiled) -> str:
    picture = draw(model)
    parts = [image(picture.svg().encode(), "The graph; z⁻¹ marks a delay that closes a loop")]
    axes = [a for a in model.ir.axes if a != BATCH]
    states = any(n.op == "delay" for n in model.ir)
    if states and axes and len(picture.scene.boxes) <= MANY:
        text = "Three steps side by side; weights of the same colour are shared"
        parts.append(image(draw(model, unroll=3).svg().encode(), text))
    return "".join(parts)


def _plan(model: Compiled) -> str:
    picture = image(draw(model, plan=True).svg().encode(), "What runs before, in and after loops")
    return picture + folded("As text, node by node", plain(model.explain()))


def _times(
    model: Compiled, given: Mapping[str, torch.Tensor], rounds: int, timing: dict[str, Any]
) -> str:
    try:
        found = profile(model, given, rounds=rounds, **timing)
    except GraphnnError as error:
        return plain(f"not timed: {error}")
    limits = escape(limits_text(found.limits.record()))
    note = f"Median of {found.rounds} rounds; limits of this device: {limits}."
    return f"<p>{ms(found.total)} ms per call. {note}</p>{_profile_table(found)}"


def _profile_table(found: Profile) -> str:
    heads = ["part", "how", "ms", "quartiles", "share", "", "limit ms", "of limit", "expected ms"]
    return table(heads, [_profile_cells(row) for row in found.rows], left=2)


def _profile_cells(row: Row) -> list[str]:
    name = escape(f"backward of {row.part}" if row.direction == BACKWARD else row.part)
    if row.kernel:
        name = f'<td class="left inner">{escape(row.part)}</td>'
    width = max(0, min(100, round(100 * row.share)))
    bar = f'<td class="bar left"><span style="width:{width}px"></span></td>'
    limited = row.limit is not None and row.median > 0
    share = f"{100 * (row.limit or 0) / row.median:.1f}% ({row.bound})" if limited else ""
    cells = [name, escape(row.how), ms(row.median), f"{ms(row.low)} to {ms(row.high)}"]
    cells += [f"{100 * row.share:.1f}%", bar]
    cells += [ms(row.limit or 0) if limited else "", share]
    return [*cells, ms(row.expected) if row.expected is not None else ""]


def _flow(model: Compiled, given: Mapping[str, torch.Tensor]) -> str:
    """Gradient norms at each state and step, for a loss on the outputs' last positions."""
    if not any(n.op == "delay" and n.dtype.is_floating_point for n in model.ir):
        return "<p>The network has no state.</p>"
    training = model.backend if model.backend != "reference" else "torch"
    source = model if training == model.backend else compile(network_of(model).source, training)
    try:
        flow = gradient_flow(source, lambda y: _loss(model, y), given)
        plot = plots.gradient_flow(flow)
    except (GraphnnError, RuntimeError) as error:
        return plain(f"not shown: {error}")
    text = (
        "‖∂L/∂z(t)‖ for L = ½ Σ y² over each output's last position; a fall to the left: vanishing"
    )
    return image(encode(plot.figure, "svg"), text)


def _loss(model: Compiled, returned: Any) -> torch.Tensor:
    """Half the sum of squares of all floating outputs, at the last position of their first axis."""
    total = None
    for (_, i), y in zip(model.ir.outputs.items(), leaves(returned), strict=True):
        if y.is_floating_point():
            axes = [a for a in model.ir.layout(model.ir[i].axes) if a != BATCH]
            last = y[:, -1] if axes and y.shape[1] else y
            part = last.square().sum() / 2
            total = part if total is None else total + part
    return torch.zeros((), requires_grad=True) if total is None else total


def _code(model: Compiled) -> str:
    """The generated code of a model, and its Triton kernels if this backend has none."""
    if model.backend == "reference":
        model = compile(network_of(model).source)
    parts = [folded(f"{name}", code(text)) for name, text in _functions(model.source())]
    here = "<p>This code runs on this backend; comments name your lines and values.</p>"
    own = here + "".join(parts)
    if model.backend in ("triton", "interpret"):
        return own
    try:
        kernels = [
            (name, text)
            for name, text in _functions(compile(network_of(model).source, "interpret").source())
            if "tl." in text
        ]
    except (GraphnnError, ImportError) as error:
        return own + plain(f"no Triton kernels: {error}")
    if not kernels:
        return own + "<p>No loop of this network becomes a Triton kernel.</p>"
    note = "<p>Triton kernels of its loops, planned for sm_90. They do not run on this backend.</p>"
    return own + note + "".join(folded(name, code(text)) for name, text in kernels)


def _functions(source: str) -> list[tuple[str, str]]:
    """The parts of generated source, each with the name of its last function."""
    found = []
    for part in re.split(r"\n{3,}(?=def |import |from |\"\"\"|#)", source):
        names = re.findall(r"^def (\w+)", part, flags=re.M)
        found.append((names[-1] if names else "head", part.strip("\n") + "\n"))
    return found
