"""Types of values in annotations of library modules.

Torch's functions accept values, but their annotations ask for tensors. For a type checker a value
is therefore `Any`. At run time it is a `graphnn.Value` or `graphnn.State`.
"""

from __future__ import annotations

from typing import Any, TypeAlias

Value: TypeAlias = Any
State: TypeAlias = Any
