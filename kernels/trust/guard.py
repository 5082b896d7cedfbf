"""Watches the launches of one run: refused kernels do not run, new ones first run elsewhere.

A verdict on a launch is looked up once per process, then kept in a dictionary.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable
from contextlib import AbstractContextManager
from typing import Any

from ..executors.executor import Executor, KernelLaunch, current_runner, launches_run_by
from . import identity, rehearsal
from .child import prove
from .failures import KernelRefused
from .record import Verdict, recalled, remember

# verdicts of this process, by the identity of launches; None: not known yet
_VERDICTS: dict[Hashable, Verdict | None] = {}
_FAMILIES: set[str] = set()
# kernels that a warning names
MOST_NAMES = 3


class Guard:
    """Runs the launches of one thread, and records them: `with guard.watching(): ...`.

    If `strict`, launches that are not trusted yet do not run either.
    """

    def __init__(self, layer: str, strict: bool = False):
        self.layer, self.strict = layer, strict
        self.launches: dict[Hashable, dict[str, Any]] = {}
        self.current: Hashable = None
        self.rows, self.precisions = 1, set[str]()
        self._thread = threading.get_ident()
        self._inner = current_runner()

    def watching(self) -> AbstractContextManager[None]:
        """Return the context in which launches are watched."""
        self._inner = current_runner()
        return launches_run_by(self)

    def __call__(self, executor: Executor, launch: KernelLaunch) -> None:
        """Run a launch unless it is refused. Raises KernelRefused if it is."""
        if threading.get_ident() == self._thread:
            self._admit(executor, launch)
        self._inner(executor, launch)

    def _admit(self, executor: Executor, launch: KernelLaunch) -> None:
        mine = identity.identity(executor, launch)
        key = self.launches.get(mine) or identity.key(executor, launch)
        if not rehearsal.tried():
            self._noted(mine, key, launch)
        verdict = _verdict(mine, key)
        name = identity.name_of(launch.function)
        if verdict is not None and not verdict.right:
            raise KernelRefused(f"{name} was refused before: {verdict.reason}")
        if verdict is None and self.strict:
            raise KernelRefused(f"{name} was not checked yet")
        if verdict is None and not rehearsal.rehearsing():
            self._try_elsewhere(executor, launch, name)

    def _noted(self, mine: Hashable, key: dict[str, Any], launch: KernelLaunch) -> None:
        """Note a launch of the call, not one of a tuner."""
        self.current = mine
        if mine not in self.launches:
            self.launches[mine] = key
            self.rows = max(self.rows, identity.rows_of(launch))
            self.precisions.add(str(launch.constants.get("PRECISION", "ieee")))

    def _try_elsewhere(self, executor: Executor, launch: KernelLaunch, name: str) -> None:
        """Run a launch in another process if its family never ran on this machine."""
        family = identity.family(executor, launch)
        if str(family) in _FAMILIES:
            return
        known = recalled(family)
        if known is None:
            problem = prove(executor, launch)
            if problem:
                raise KernelRefused(f"{name} failed in a process of its own: {problem}")
            remember(family, Verdict(True))
        _FAMILIES.add(str(family))

    @property
    def kernels(self) -> str:
        """The names of the kernels, as text."""
        names = [*dict.fromkeys(key["name"] for key in self.launches.values())]
        more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
        return f"the kernel {', '.join(names[:MOST_NAMES])}{more}" if names else "the kernel"

    def untrusted(self) -> list[Hashable]:
        """Return the launches that nothing is known about."""
        return [mine for mine, key in self.launches.items() if _verdict(mine, key) is None]

    def trust(self) -> None:
        """Remember that these launches give right results."""
        for mine in self.untrusted():
            _VERDICTS[mine] = Verdict(True)
            remember(self.launches[mine], Verdict(True))

    def refuse(self, reason: str, launches: list[Hashable]) -> None:
        """Remember that launches are not to run."""
        for mine in launches:
            verdict = _VERDICTS[mine] = Verdict(False, reason, self.layer)
            remember(self.launches[mine], verdict)


def _verdict(mine: Hashable, key: dict[str, Any]) -> Verdict | None:
    if mine not in _VERDICTS:
        _VERDICTS[mine] = recalled(key)
    return _VERDICTS[mine]


def forget_verdicts() -> None:
    """Forget what this process knows; what is on disk stays."""
    _VERDICTS.clear()
    _FAMILIES.clear()
