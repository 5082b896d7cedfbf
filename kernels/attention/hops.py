"""Writing a kernel that walks over its columns several times, a program an example: what one walk
has added up, the next is computed from.

Values of a program's own are computed once, before the walk that first needs them; those of columns
in every walk that does. Nothing is stored between walks.
"""

from __future__ import annotations

from ..codegen.builder import Line
from ..ir.contraction import SUMMED, AttentionProgram, Store, Tile
from ..ir.program import Op, Unsupported
from .builder import AttentionBuilder
from .emit import AttentionSource, each, gather, keep, written
from .operations import value


def levels(program: AttentionProgram) -> dict[str, int]:
    """After how many walks each operation can be computed: a sum over columns takes one."""
    found: dict[str, int] = {}
    for op in program.ops:
        found[op.name] = max((found[a] for a in op.args), default=0) + (op.kind in SUMMED)
    return found


def softened(program: AttentionProgram) -> dict[str, str]:
    """The `soft` that each operation of a walk is made of, if it is."""
    kinds, found = {op.name: op.kind for op in program.ops}, dict[str, str]()
    for op in program.ops:
        of = [op.name] if op.kind == "soft" else []
        of += [found[a] for a in op.args if a in found and kinds[a] not in SUMMED]
        if of:
            found[op.name] = of[0]
    return found


def emit(program: AttentionProgram) -> AttentionSource:
    """The kernel of a program without rows. Raises Unsupported where there can be none."""
    sheet, level, soft = AttentionBuilder(program), levels(program), softened(program)
    if program.rows:
        raise Unsupported("hops of several rows a program")
    wide = {s.op: s for s in program.stores if s.kind == "each"}
    last = max([level[op.name] for op in program.ops] + [level[name] + 1 for name in wide])
    walks: list[tuple[list[Line], list[Line]]] = []
    for n in range(1, last + 1):
        sums = [op for op in program.ops if op.kind in SUMMED and level[op.name] == n]
        mine = {soft[op.name] for op in sums if op.name in soft}
        if len(mine) > 1:
            raise Unsupported("two softmaxes in one walk")
        scores = {sheet.ops[name].args[0] for name in mine}
        made = [_sum(sheet, op, op.name in soft, scores) for op in sums]
        for name in (name for name in wide if level[name] == n - 1):
            each(sheet, wide[name])
        walks.append((sheet.before, sheet.step))
        _turn(sheet)
        for op, tiles in zip(sums, made, strict=True):
            _known(sheet, op, tiles, op.name in soft)
    for store in program.stores:
        if store.kind == "row":
            _row(sheet, store)
    rest, sheet.before = sheet.before, [line for before, _ in walks for line in before]
    sheet.step = [line for _, step in walks for line in step]
    sheet.after = rest + sheet.after
    pointers = (*program.tensors, *program.outputs)
    return AttentionSource(
        sheet.entry, written(sheet, walks), program, pointers, program.sizes, False
    )


def _sum(s: AttentionBuilder, op: Op, weighed: bool, scores: set[str]) -> list[str]:
    """A sum over this walk's columns: its variables. Those of a softmax's scores it has itself."""
    if op.kind == "total":
        return _total(s, op, weighed)
    return ["top", "share"] if op.args[0] in scores else _lse(s, op)


def _turn(s: AttentionBuilder) -> None:
    """Go on to the next walk, in which what varies over columns is computed again."""
    s.before, s.step = [], []
    summed = {op.name for op in s.program.ops if op.kind in SUMMED}
    moving = [k for k in s.made if k[0] not in summed and s.sides.get(k[0], (False, False))[1]]
    for key in moving:
        del s.made[key]


def _total(s: AttentionBuilder, op: Op, weighed: bool) -> list[str]:
    """A sum, `weighed` by a softmax that is taken on the way."""
    names = []
    if weighed:
        value(s, softened(s.program)[op.name], 0)
    for k, span in enumerate(s.spans(op.name)):
        acc = s.names.fresh(f"{op.name}_{k}" if len(s.spans(op.name)) > 1 else op.name)
        s.add(f"{acc} = tl.zeros([1, {span.width}], ACC)", op, False)
        gather(s, op, acc, k, span, weighed)
        names.append(acc)
    s.forget()
    return names


def _lse(s: AttentionBuilder, op: Op) -> list[str]:
    """The logsumexp of this walk's scores, by the largest so far."""
    score = value(s, op.args[0], 0)
    if not score.columns:
        raise Unsupported("the scores are the same for all columns")
    words = ("top", "share", "valid", "best", "floor")
    top, share, masked, best, floor = (s.names.fresh(f"{op.name}_{w}") for w in words)
    inf = 'float("-inf")'
    s.add(f"{top} = tl.full([1, 1], {inf}, ACC)", op, False)
    s.add(f"{share} = tl.zeros([1, 1], ACC)", op, False)
    raised = f"tl.sum(tl.exp({masked} - {floor}), 1)[:, None]"
    for text in (
        f"{masked} = tl.where(valid, {score.text}, {inf})",
        f"{best} = tl.maximum({top}, tl.max({masked}, 1)[:, None])",
        f"{floor} = tl.where({best} == {inf}, 0.0, {best})",
        f"{share} = {share} * tl.exp({top} - {floor}) + {raised}",
        f"{top} = {best}",
    ):
        s.add(text, op, True)
    return [top, share]


def _known(s: AttentionBuilder, op: Op, names: list[str], weighed: bool) -> None:
    """What a walk has added up, for those after it."""
    if op.kind == "total":
        for k, (name, span) in enumerate(zip(names, s.spans(op.name), strict=True)):
            if weighed:
                s.add(f"{name} = {name} / tl.where(share == 0, 1.0, share)", op, False)
            s.made[op.name, k, False] = Tile(name, False, False, span.width)
        return
    top, share = names
    none = f'tl.where({share} == 0, float("-inf"), {top} + tl.log({share}))'
    name = s.names.fresh(op.name)
    s.add(f"{name} = {none}", op, False)
    s.made[op.name, 0, False] = Tile(name, False, False, 1)


def _row(s: AttentionBuilder, store: Store) -> None:
    """Keep a value of the program's own."""
    for k, span in enumerate(s.spans(store.op)):
        keep(s, store, value(s, store.op, k).text, span)
