"""Two independent loops in one launch: each program of the grid runs one of them.

A loop of 16 rows keeps one multiprocessor busy of more than a hundred; both directions of a layer
side by side take the time of one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from ...codegen.builder import CONSTANTS, MODULE
from ...codegen.persistent import LoopSource
from ...ir.printer import INDENT, wrapped
from ...ir.program import LoopProgram
from ...ir.symbols import NameTable, entry, remark
from .emit import APART, CooperativeSource

# what the module of two kernels has besides them
RESERVED = (*MODULE, *CONSTANTS, "arrive", "wait", "arrived_ptr", "stuck_ptr", "begin", "PATIENCE")


def pair(name: str, first: LoopSource, second: LoopSource) -> LoopSource:
    """One kernel of two, whose grid has a second dimension of two.

    Both must have the same axes of rows and the same axis, and be shared by as many blocks.
    """
    sizes = tuple(dict.fromkeys((*first.sizes, *second.sizes)))
    tensors = (*first.program.tensors, *second.program.tensors)
    stores = (*first.program.stores, *second.program.stores)
    program = LoopProgram(
        name, first.program.axis, first.program.rows, False, tensors, (), (), stores
    )
    called = entry(name, (*RESERVED, first.name, second.name))
    made = replace(
        first,
        name=called,
        text=_text(called, first, second, sizes),
        program=program,
        pointers=(*tensors, *(t for _, t in stores)),
        sizes=sizes,
        weights=first.weights if _held(first) >= _held(second) else second.weights,
        live=max(first.live, second.live, key=sum),
        staged=max(first.staged, second.staged, key=sum),
        joined=max(first.joined, second.joined, key=sum),
        multiplies=first.multiplies or second.multiplies,
        widest=max(first.widest, second.widest),
        loops=2,
    )
    if isinstance(made, CooperativeSource) and isinstance(second, CooperativeSource):
        made = replace(made, exchanges=(*made.exchanges, *second.exchanges), others=())
    return made


def _held(source: LoopSource) -> int:
    return sum(source.weights.values())


def _text(name: str, first: LoopSource, second: LoopSource, sizes: tuple[str, ...]) -> str:
    parts = [_split(s.text) for s in (first, second)]
    imports = sorted({line for head, _ in parts for line in head})
    also = _also(first)
    arguments = [[f"{tag}_{p}" for p in _pointers(s)] for tag, s in zip("ab", (first, second))]
    names = NameTable((*RESERVED, name, first.name, second.name, *arguments[0], *arguments[1]))
    lengths = names.lengths(sizes)
    listed = ", ".join(f'"{n}"' for n in (*lengths, *also.begin))
    constants = [f"{c}: tl.constexpr" for c in (*CONSTANTS, *also.constants)]
    title = remark(f"{name}: two loops over {first.program.axis}, side by side.")
    lines = [f'"""{title}"""', ""]
    lines += ["import triton", "import triton.language as tl", "", *imports]
    lines += [row for _, body in parts for row in ["", "", *body]]
    lines += ["", "", *wrapped(f"@triton.jit(do_not_specialize=[{listed}])", ""), f"def {name}("]
    inside = [*stores_last(first, second, arguments), *also.counters[0], *lengths]
    inside += [*also.begin, *constants]
    lines += [f"{INDENT}{text}," for text in inside]
    lines += ["):", f"{INDENT}if tl.program_id(1) == 0:"]
    for k, source in enumerate((first, second)):
        own = names.lengths(source.sizes)
        given = [*arguments[k], *also.counters[k], *own, *also.begin, *CONSTANTS, *also.constants]
        lines += [INDENT + "else:"] if k else []
        lines += wrapped(f"{source.name}({', '.join(given)})", INDENT * 2)
    return "\n".join(lines) + "\n"


class Also(NamedTuple):
    """What kernels take besides, that many blocks share: of each loop its counter, and the place
    where stuck ones are told of; the row at which a launch begins; a constant."""

    counters: tuple[list[str], list[str]]
    begin: list[str]
    constants: list[str]


def _also(source: LoopSource) -> Also:
    if not isinstance(source, CooperativeSource):
        return Also(([], []), [], [])
    second = f"arrived_ptr + tl.num_programs(0) // {source.blocks} * {APART}"
    counters = ["arrived_ptr", "stuck_ptr"], [second, "stuck_ptr"]
    return Also(counters, ["begin"], ["PATIENCE"])


def stores_last(first: LoopSource, second: LoopSource, arguments: list[list[str]]) -> list[str]:
    """The pointers of both, all that are read before all that are written, exchanges last."""
    found: list[str] = []
    for k in range(3):
        for source, names in zip((first, second), arguments, strict=True):
            cuts = [0, len(source.program.tensors), len(source.pointers), len(names)]
            found += names[cuts[k] : cuts[k + 1]]
    return found


def _pointers(source: LoopSource) -> list[str]:
    """The pointer arguments of a kernel, as its text names them: exchanges too."""
    inside = source.text.split(f"\ndef {source.name}(\n", 1)[1].split("\n):", 1)[0]
    names = [row.strip().rstrip(",") for row in inside.splitlines()]
    exchanged = len(source.exchanges) if isinstance(source, CooperativeSource) else 0
    return names[: len(source.pointers) + exchanged]


def _split(text: str) -> tuple[list[str], list[str]]:
    """The imports of a kernel's module, and the kernel itself."""
    head, body = text.split("\n@triton.jit", 1)
    imports = head.split("\nimport triton.language as tl\n", 1)[1].strip()
    found = imports.splitlines() if "(\n" not in imports else [imports]
    return found, ("@triton.jit" + body).rstrip("\n").splitlines()
