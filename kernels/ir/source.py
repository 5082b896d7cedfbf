"""Generated kernels: their text, and what a launch needs to know of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from .printer import INDENT, wrapped
from .program import Tensor
from .symbols import remark

Program = TypeVar("Program", covariant=True)


@dataclass(frozen=True)
class KernelSource(Generic[Program]):
    """A kernel's text and its arguments: `pointers`, then the lengths of the axes `sizes`."""

    name: str
    text: str
    program: Program
    pointers: tuple[Tensor, ...]
    sizes: tuple[str, ...]


@dataclass(frozen=True)
class KernelFunction:
    """The function of a kernel: its arguments by kind, and the lines of its body.

    `imports` are the import statements other than those of triton, `pointers` its
    pointers and `scalars` its integers. Triton compiles one kernel for all values of scalars.
    """

    name: str = ""
    imports: tuple[str, ...] = ()
    pointers: tuple[str, ...] = ()
    scalars: tuple[str, ...] = ()
    constants: tuple[str, ...] = ()
    body: tuple[str, ...] = ()

    @property
    def lines(self) -> list[str]:
        """The function, with its decorator."""
        listed = ", ".join(f'"{name}"' for name in self.scalars)
        constants = [f"{name}: tl.constexpr" for name in self.constants]
        return [
            *wrapped(f"@triton.jit(do_not_specialize=[{listed}])", ""),
            f"def {self.name}(",
            *(f"{INDENT}{text}," for text in (*self.pointers, *self.scalars, *constants)),
            "):",
            *self.body,
        ]


def module(title: str, functions: Sequence[KernelFunction], more: str = "") -> str:
    """The text of a module that has these functions; `more` goes into its docstring."""
    imports = dict.fromkeys(text for function in functions for text in function.imports)
    lines = [f'"""{remark(title)}{more}"""', ""]
    lines += ["import triton", "import triton.language as tl", "", *imports]
    lines += [""] * bool(imports)
    for k, function in enumerate(functions):
        lines += [*[""] * (2 if k else 1), *function.lines]
    return "\n".join(lines) + "\n"


def imported(path: str, names: Sequence[str]) -> tuple[str, ...]:
    """The statement that imports names; nothing without any."""
    return ("\n".join(wrapped(f"from {path} import ({', '.join(sorted(names))})", "")),) * bool(
        names
    )
