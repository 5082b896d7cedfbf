"""Random inputs for a network, for a report or a profile without inputs."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from graphnn.errors import AxisError
from graphnn.ir.graph import BATCH
from graphnn.runtime.call import read
from graphnn.runtime.model import Compiled, network_of

LENGTH, BATCH_SIZE = 32, 4


def random_inputs(
    model: Compiled, sizes: Mapping[str, int] | None = None
) -> dict[str, torch.Tensor]:
    """One tensor per input, (batch, *axes, *shape), the same at every call.

    Floating inputs are standard normal. Integers are zero, an index that always exists, and
    booleans are false. `sizes` are lengths of axes and "batch"; by default axes have 32 positions
    and the batch 4 examples. Raises AxisError for an axis that the graph does not have or whose
    length it fixes.
    """
    ir, given = model.ir, dict(sizes or {})
    free = {a.name for a in ir.axes.values() if a.length is None and a.copy_of is None}
    if unknown := sorted(set(given) - free):
        fixed = ", ".join(sorted(free))
        raise AxisError(
            f"'{ir.name}' has no axis of free length called {', '.join(map(repr, unknown))}",
            got=", ".join(f"{k}={v}" for k, v in given.items()),
            wanted=f"lengths of {fixed}",
        )
    device = network_of(model).device or torch.device("cpu")
    generator = torch.Generator().manual_seed(0)
    lengths = {a: given.get(a, BATCH_SIZE if a == BATCH else LENGTH) for a in free}
    lengths |= {a.name: a.length for a in ir.axes.values() if a.length is not None}
    found = {}
    for name, node in read.declared(ir).items():
        shape = [lengths[a] for a in (BATCH, *node.attrs["over"])] + list(node.shape)
        if node.dtype.is_floating_point:
            found[name] = torch.randn(shape, generator=generator).to(device, node.dtype)
        else:
            found[name] = torch.zeros(shape, dtype=node.dtype, device=device)
    return found
