"""Values in annotations of library modules.

Torch's own annotations ask for tensors where its functions take whatever acts as one, so for a type
checker a value is anything. At run time it is a `graphnn.Value` or `graphnn.State`.
"""

from __future__ import annotations

from typing import Any, TypeAlias

Value: TypeAlias = Any
State: TypeAlias = Any
