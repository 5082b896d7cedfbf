"""How float32 matrices are multiplied on CUDA devices, by torch's setting."""

from __future__ import annotations

import torch


def matmul_precision() -> str:
    """Return "tf32" if torch may multiply float32 by TF32 on CUDA devices, or else "ieee".

    torch 2.9 and later have two APIs for this. `torch.get_float32_matmul_precision`, the legacy
    one, raises RuntimeError once the new one has allowed TF32 (pytorch #189955). The getter of the
    new one never raises: torch's own products obey it, and legacy setters write to it. It also
    follows the more general settings, `torch.backends.fp32_precision` for example. "none" means
    that nothing was set: TF32 is then not used. The getter is not public, so that the legacy one
    remains as a fallback.
    """
    getter = getattr(torch._C, "_get_fp32_precision_getter", None)
    try:
        if getter is not None:
            return "tf32" if getter("cuda", "matmul") == "tf32" else "ieee"
        return "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"
    except RuntimeError:  # two APIs disagree, and no getter can tell: the exact products are safe
        return "ieee"
