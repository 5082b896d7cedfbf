"""Two independent loops in one launch: each program of the grid runs one of them.

A loop of 16 rows keeps one multiprocessor busy, of more than a hundred. Both directions of a layer
side by side need the time of one.
"""

from __future__ import annotations

from dataclasses import replace

from ...codegen.builder import CONSTANTS, MODULE
from ...codegen.persistent import LoopSource
from ...ir.printer import INDENT, wrapped
from ...ir.program import LoopProgram
from ...ir.source import KernelFunction, module
from ...ir.symbols import NameTable, entry
from .builder import BARRIER, PATIENCE, C
from .emit import COUNTER_STRIDE, CooperativeSource

COUNTERS = (C.arrived_ptr.text, C.stuck_ptr.text)
# the names that the module defines in addition to those of the two kernels
RESERVED = (*MODULE, *CONSTANTS, *BARRIER, *COUNTERS, C.begin.text, PATIENCE)


def pair(name: str, first: LoopSource, second: LoopSource) -> LoopSource:
    """One kernel of two, whose grid has a second dimension of two.

    Both must have the same axes of rows and the same loop axis, and equally many blocks.
    """
    second = _renamed(second, first.name)
    sizes = tuple(dict.fromkeys((*first.sizes, *second.sizes)))
    tensors = (*first.program.tensors, *second.program.tensors)
    stores = (*first.program.stores, *second.program.stores)
    axis, rows = first.program.axis, first.program.rows
    called = entry(name, (*RESERVED, first.name, second.name))
    function = _function(called, first, second, sizes)
    title = f"{called}: two loops over {axis}, side by side."
    made = replace(
        first,
        name=called,
        text=module(title, [first.function, second.function, function]),
        program=LoopProgram(name, axis, rows, False, tensors, (), (), stores),
        pointers=(*tensors, *(t for _, t in stores)),
        sizes=sizes,
        weights=first.weights if _held(first) >= _held(second) else second.weights,
        live=max(first.live, second.live, key=sum),
        staged=max(first.staged, second.staged, key=sum),
        joined=max(first.joined, second.joined, key=sum),
        uses_matmul=first.uses_matmul or second.uses_matmul,
        widest=max(first.widest, second.widest),
        loops=2,
        function=function,
    )
    if isinstance(made, CooperativeSource) and isinstance(second, CooperativeSource):
        exchanges = (*made.exchanges, *second.exchanges)
        slots = max(made.slots, second.slots)  # buffers of both are allocated alike
        made = replace(made, exchanges=exchanges, slots=slots, others=())
    return made


def _renamed(source: LoopSource, taken: str) -> LoopSource:
    """The kernel under a name of its own: long names are cut, so two kernels may share one."""
    name = entry(source.name, (*RESERVED, taken))
    return replace(source, name=name, function=replace(source.function, name=name))


def _held(source: LoopSource) -> int:
    return sum(source.weights.values())


def _function(
    name: str, first: LoopSource, second: LoopSource, sizes: tuple[str, ...]
) -> KernelFunction:
    """The function that calls one of the two kernels."""
    arguments = [[f"{tag}_{p}" for p in _pointers(s)] for tag, s in zip("ab", (first, second))]
    names = NameTable((*RESERVED, name, first.name, second.name, *arguments[0], *arguments[1]))
    lengths = names.lengths(sizes)
    # the scalars of a cooperative kernel end with the row at which the launch begins
    begin = first.function.scalars[len(first.sizes) :]
    constants, counters = first.function.constants, _counters(first)
    body = [f"{INDENT}if tl.program_id(1) == 0:"]
    for k, source in enumerate((first, second)):
        own = names.lengths(source.sizes)
        given = [*arguments[k], *counters[k], *own, *begin, *constants]
        body += [f"{INDENT}else:"] * k
        body += wrapped(f"{source.name}({', '.join(given)})", INDENT * 2)
    pointers = (*stores_last(first, second, arguments), *counters[0])
    return KernelFunction(name, (), pointers, (*lengths, *begin), constants, tuple(body))


def _counters(source: LoopSource) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """For each loop of cooperative kernels: its barrier counter, and where stuck ones are noted."""
    if not isinstance(source, CooperativeSource):
        return (), ()
    arrived, stuck = COUNTERS
    return COUNTERS, (
        f"{arrived} + tl.num_programs(0) // {source.blocks} * {COUNTER_STRIDE}",
        stuck,
    )


def stores_last(first: LoopSource, second: LoopSource, arguments: list[list[str]]) -> list[str]:
    """The pointers of both: all that are read, then all that are written, then all exchanges."""
    found: list[str] = []
    for k in range(3):
        for source, names in zip((first, second), arguments, strict=True):
            cuts = [0, len(source.program.tensors), len(source.pointers), len(names)]
            found += names[cuts[k] : cuts[k + 1]]
    return found


def _pointers(source: LoopSource) -> list[str]:
    """The pointer arguments of a kernel, without the counters of a cooperative one."""
    counters = len(COUNTERS) if isinstance(source, CooperativeSource) else 0
    pointers = source.function.pointers
    return list(pointers[: len(pointers) - counters])
