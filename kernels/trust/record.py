"""The verdicts on kernels: kept in the cache, listed by `graphnn doctor`, forgotten on request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .. import cache

KIND = "trust"


@dataclass(frozen=True)
class Verdict:
    """Whether a kernel may run; if not, `reason` says why, and `layer` where it was to run."""

    right: bool
    reason: str = ""
    layer: str = ""


@dataclass(frozen=True)
class Refusal:
    """A kernel that was refused: its name, its layer, where, and why."""

    kernel: str
    layer: str
    device: str
    triton: str
    reason: str

    @property
    def text(self) -> str:
        """The refusal in one line."""
        where = f"Triton {self.triton}, {self.device}"
        return f"{self.layer}: {self.kernel} ({where}): {self.reason}"


def recalled(key: Mapping[str, Any]) -> Verdict | None:
    """Return the verdict remembered for a key, or None."""
    found = cache.recall(key, KIND)
    if found is None or not isinstance(found.get("right"), bool):
        return None
    return Verdict(found["right"], str(found.get("reason", "")), str(found.get("layer", "")))


def remember(key: Mapping[str, Any], verdict: Verdict) -> None:
    """Remember a verdict for a key."""
    choice = {"right": verdict.right, "reason": verdict.reason, "layer": verdict.layer}
    cache.remember(key, choice, KIND)


def refusals() -> list[Refusal]:
    """Return the kernels that were refused, as they are remembered."""
    found = [(key, c) for _, key, c in cache.entries(KIND) if c.get("right") is False]
    texts = [
        (k.get("name"), c.get("layer"), k.get("device"), k.get("triton"), c.get("reason"))
        for k, c in found
    ]
    return [Refusal(*(str(x or "") for x in each)) for each in texts]


def forget() -> int:
    """Forget all refusals, so that their kernels are checked again; return how many there were."""
    found = [path for path, _, choice in cache.entries(KIND) if choice.get("right") is False]
    for path in found:
        path.unlink(missing_ok=True)
    return len(found)
