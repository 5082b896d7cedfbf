"""Reads the text of one PTX kernel into basic blocks."""

from __future__ import annotations

import bisect
import functools
import re
from typing import Any, NoReturn

import numpy as np

from .arithmetic.formats import DTYPES
from .instructions.table import ENDS, check
from .program.locations import Locations, described
from .program.program import (
    CARRY,
    LOCAL_BEGIN,
    Address,
    BasicBlock,
    Instruction,
    Parameter,
    Program,
    Vector,
    is_barrier,
)
from .program.report import Problem, PtxFault

_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.S)
_ENTRY = re.compile(r"\.entry\s+([\w$]+)\s*\(")
_PARAMETER = re.compile(r"\.param\s+(?:\.align\s+\d+\s+)?\.(\w+)[^,]*?([\w$]+)\s*(?:,|$)")
_THREADS = re.compile(r"\.(?:reqntid|maxntid)\s+(\d+)(?:\s*,\s*(\d+))?(?:\s*,\s*(\d+))?")
_CONSTANTS = re.compile(
    r"\.(?:global|const)[^;=\n]*?\.(\w+)\s+([\w$]+)\s*\[\s*\d*\s*\]\s*=\s*\{([^}]*)\}"
)
_SHARED = re.compile(r"^\s*(?:\.extern\s+)?\.shared\s[^;\n]*?([\w$]+)\s*\[", re.M)
_LOCAL = re.compile(r"\.local\s+(?:\.align\s+(\d+)\s+)?\.(\w+)\s+([\w$]+)\s*\[\s*(\d+)\s*\]\s*;")
_TOKEN = re.compile(
    r"""\s*(?:
      (?P<open>\{) | (?P<close>\}) | (?P<label>[$\w]+):(?!:) | (?P<loc>\.loc\b[^\n;]*)
    | (?P<directive>\.[a-z][^;]*;) | (?P<statement>[^;{}]+(?:\{[^}]*\}[^;{}]*)*;) | (?P<empty>;)
    )""",
    re.X,
)
_STATEMENT = re.compile(
    r"(?:@(?P<not>!?)\s*(?P<guard>[%$\w]+)\s+)?(?P<op>[a-z]\w*)(?P<mods>(?:(?:\.|::)\w+)*)"
    r"\s*(?P<rest>.*)",
    re.S,
)
_ADDRESS = re.compile(r"\[\s*([%$\w]+)\s*(?:\+\s*(-?\w+))?\s*\]")
# memory semantics with which a load or store may wait for another thread, or end its wait
_STRONG = {"acquire", "release", "relaxed", "volatile"}


@functools.lru_cache(maxsize=512)
def parse(text: str) -> Program:
    """Read the kernel of a PTX text. The same text gives the same program.

    Raises PtxFault, with the statement, for an instruction or a form of one that is not modelled.
    """
    clean = _COMMENT.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)
    return _Parser(text, clean).program()


class _Parser:
    """Reads one text; `clean` is the text with blanks for comments."""

    def __init__(self, text: str, clean: str):
        self.text, self.clean = text, clean
        self.locations = Locations(text)
        self.lines = [found.end() for found in re.finditer("\n", clean)]
        self.registers: dict[str, str] = {CARRY: "pred"} if ".cc." in clean else {}
        self.blocks = [BasicBlock()]
        self.scopes: list[dict[str, str]] = []
        self.opened = self.count = 0
        self.local: dict[str, int] = {}
        self.local_end = LOCAL_BEGIN

    def program(self) -> Program:
        heads = list(_ENTRY.finditer(self.clean))
        if len(heads) != 1:
            raise PtxFault(f"the PTX has {len(heads)} kernels (.entry), and one can be executed")
        head = heads[0]
        end = self.clean.index(")", head.end())
        listed = self.clean[head.end() : end]
        parameters = tuple(Parameter(m[2], m[1]) for m in _PARAMETER.finditer(listed))
        begin = self.clean.index("{", end)
        threads = self._threads(head[1], self.clean[end:begin])
        shared = frozenset(_SHARED.findall(self.clean))
        if len(shared) > 1:
            raise PtxFault(
                f"the kernel {head[1]} has several arrays in shared memory, and one is "
                "modelled: " + ", ".join(sorted(shared))
            )
        self._body(begin + 1)
        if self.blocks[-1].end is None:
            self.blocks[-1].end = self._returned()
        program = Program(
            self.text,
            head[1],
            threads,
            parameters,
            self.registers,
            {m[2]: _numbers(m[1], m[3]) for m in _CONSTANTS.finditer(self.clean)},
            shared,
            self.local,
            self.local_end,
            self.blocks,
        )
        self._check(program)
        return program

    def _threads(self, name: str, directives: str) -> int:
        """Return the number of threads per block."""
        found = _THREADS.search(directives)
        if found is None:
            raise PtxFault(f"the kernel {name} has no .reqntid: its number of threads is unknown")
        if any(int(x or 1) > 1 for x in found.groups()[1:]) or int(found[1]) % 32:
            raise PtxFault(
                f"the kernel {name} has blocks of {found[0].split(None, 1)[1]} threads; a multiple "
                "of 32 in one dimension is modelled"
            )
        return int(found[1])

    def _body(self, position: int) -> None:
        """Read tokens up to the brace that closes the kernel."""
        while True:
            found = _TOKEN.match(self.clean, position)
            if found is None:
                rest = self.clean[position:].strip().partition("\n")[0]
                self._refuse("cannot be read", rest, position)
            kind, position = found.lastgroup or "", found.end()
            token = found[kind]
            if kind == "open":
                self.scopes.append({})
                self.opened += 1
            elif kind == "close":
                if not self.scopes:
                    return
                self.scopes.pop()
            elif kind == "label":
                self._begin(token)
            elif kind == "loc":
                self.locations.read(token)
            elif kind == "directive":
                self._directive(token, found.start(kind))
            elif kind == "statement":
                self._statement(token, found.start(kind))

    def _directive(self, text: str, position: int) -> None:
        if text.startswith(".pragma"):
            return
        if found := _LOCAL.fullmatch(text):
            self._local(int(found[1] or 1), np.dtype(DTYPES[found[2]]).itemsize, found[3], found[4])
            return
        declared = re.match(r"\.reg\s+\.(\w+)\s+(.*);", text, re.S)
        if declared is None or declared[1] not in DTYPES:
            self._refuse("is not modelled", text, position)
        kind = declared[1]
        for name in split(declared[2]):
            many = re.fullmatch(r"([%$\w]+)<(\d+)>", name)
            if many:
                self.registers.update({f"{many[1]}{k}": kind for k in range(int(many[2]))})
            elif self.scopes:
                inner = f"%scope{self.opened}.{name.strip('%')}"
                self.scopes[-1][name] = inner
                self.registers[inner] = kind
            else:
                self.registers[name] = kind

    def _local(self, alignment: int, size: int, name: str, count: str) -> None:
        """Place an array of local memory behind those before it."""
        begin = -(-self.local_end // max(alignment, size)) * max(alignment, size)
        self.local[name], self.local_end = begin, begin + size * int(count)

    def _statement(self, token: str, position: int) -> None:
        text = " ".join(token[:-1].split())
        line = bisect.bisect_right(self.lines, position) + 1
        named = text
        for scope in reversed(self.scopes):
            for name, inner in scope.items():
                named = re.sub(rf"(?<![\w%$.]){re.escape(name)}(?![\w$])", inner, named)
        found = _STATEMENT.fullmatch(named)
        if found is None:
            self._refuse("cannot be read", text, position)
        self._add(
            Instruction(
                found["op"],
                tuple(found["mods"].split(".")[1:]),
                tuple(self._operand(x, text, position) for x in split(found["rest"])),
                found["guard"] or "",
                bool(found["not"]),
                text,
                self.count,
                line,
                (position, position + len(token)),
                self.locations.current,
            )
        )
        self.count += 1

    def _operand(self, text: str, statement: str, position: int) -> Any:
        if text.startswith("{"):
            return Vector(split(text[1:-1]))
        if text.startswith("["):
            found = _ADDRESS.fullmatch(text)
            if found is None:
                self._refuse(f"has an address that cannot be read, {text}", statement, position)
            return Address(found[1], int(found[2] or "0", 0))
        return text

    def _add(self, instruction: Instruction) -> None:
        """Add a statement; branches, barriers and accesses that may wait end a basic block."""
        modifiers = set(instruction.modifiers)
        if instruction.opcode in ENDS or is_barrier(instruction):
            self.blocks[-1].end = instruction
            self._begin()
        elif (instruction.opcode in ("atom", "red") and "shared" not in modifiers) or (
            instruction.opcode in ("ld", "st") and modifiers & _STRONG
        ):
            self._begin()
            self.blocks[-1].polls = True
            self.blocks[-1].body.append(instruction)
            self._begin()
        else:
            self.blocks[-1].body.append(instruction)

    def _begin(self, label: str = "") -> None:
        if self.blocks[-1].empty:
            self.blocks[-1].label = label
        else:
            self.blocks.append(BasicBlock(label))

    def _returned(self) -> Instruction:
        return Instruction("ret", (), (), "", False, "ret", -1, 0, (0, 0), ())

    def _check(self, program: Program) -> None:
        """Refuse what cannot be executed, before anything is."""
        try:
            check(program)
        except Problem as problem:
            at = problem.instruction
            assert at is not None
            self._refuse(str(problem), at.text, at.span[0], at.loc)

    def _refuse(
        self, why: str, statement: str, position: int, loc: tuple[Any, ...] | None = None
    ) -> NoReturn:
        line = bisect.bisect_right(self.lines, position) + 1
        source = self.locations.current if loc is None else loc
        text = f"line {line} of the PTX {why}: {statement}{described(source)}"
        raise PtxFault(text, statement, source)


def split(text: str) -> list[str]:
    """Split at the commas outside brackets."""
    parts, depth, last = [], 0, 0
    for k, letter in enumerate(text):
        if letter in "{[(":
            depth += 1
        elif letter in "}])":
            depth -= 1
        elif letter == "," and not depth:
            parts.append(text[last:k].strip())
            last = k + 1
    rest = text[last:].strip()
    return [*parts, rest] if rest else parts


def _numbers(kind: str, listed: str) -> Any:
    dtype = np.dtype(DTYPES[kind])
    unsigned = np.dtype(f"u{dtype.itemsize}")
    return np.array([int(x, 0) for x in listed.split(",")]).astype(unsigned).view(dtype)
