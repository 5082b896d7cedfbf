"""The table of rules that the source of each kernel is checked by before it is loaded.

Whatever breaks one is a defect of graphnn: the kernel would be right when interpreted, and wrong,
or not even compiled, on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, lru_cache
from hashlib import sha256
from pathlib import Path
from types import ModuleType

from ..cache import load_module, recall, remember
from . import aliases, expressions, memory, names
from .syntax import Fault, Source, parsed

# the sources of this process that keep all rules
REMEMBERED = 4096


@dataclass(frozen=True)
class Rule:
    """A rule: its `name`, and the check that yields the lines which break it and what is wrong.

    The docstring of the check says why, with the source.
    """

    name: str
    check: Callable[[Source], Iterable[Fault]]


@dataclass(frozen=True)
class Broken:
    """A line of a source that breaks a rule."""

    rule: str
    line: int
    why: str


RULES = (
    Rule("loop variables are carried", aliases.dropped_variables),
    Rule("branches assign different values", aliases.one_value_in_both_branches),
    Rule("a counter belongs to its loop", expressions.loop_targets),
    Rule("running sums are not read", expressions.stored_accumulators),
    Rule("one return per function", expressions.returns),
    Rule("products are the prelude's", expressions.bare_products),
    Rule("masks are tiles", expressions.mixed_masks),
    Rule("names are unique", names.collisions),
    Rule("names are known", names.unknown_names),
    Rule("no load of what was stored", memory.reloads),
    Rule("exchanged values are read from L2", memory.cached_exchanges),
    Rule("barriers order exchanges", memory.unordered_exchanges),
    Rule("results of waits are used", memory.unread_waits),
    Rule("loops over steps are not pipelined", memory.pipelined_loops),
)


def loaded(text: str, name: str) -> ModuleType:
    """The module of a kernel's source, from the cache.

    Raises AssertionError if the source breaks a rule: a defect of graphnn.
    """
    if not _kept(text) and (found := broken(text)):
        first = found[0]
        line = text.splitlines()[first.line - 1].strip()
        raise AssertionError(
            f"the generated kernel {name} breaks the rule '{first.rule}' in line {first.line}, "
            f"`{line}`: {first.why}. This is a defect of graphnn: please report it with the network"
        )
    return load_module(text, name)


def broken(text: str) -> tuple[Broken, ...]:
    """Return the lines of a source that break rules."""
    source = parsed(text)
    return tuple(Broken(rule.name, *fault) for rule in RULES for fault in rule.check(source))


@lru_cache(REMEMBERED)
def _kept(text: str) -> bool:
    """Whether a source keeps all rules. Those that do are remembered on disk.

    A check takes 3 ms for 150 lines and 33 ms for 1,490, a seventh to a third of planning and
    writing the kernel; looking it up takes 0.1 ms (processor times, Python 3.11).
    """
    key = {"source": sha256(text.encode()).hexdigest(), "rules": _version()}
    if recall(key) is None:
        if broken(text):
            return False
        remember(key, {"kept": True})
    return True


@cache
def _version() -> str:
    """What changes if a rule does: the digest of the code of all rules."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
