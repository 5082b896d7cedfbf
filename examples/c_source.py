"""Pieces of real C, whole or with one bracket broken: the data of the bracket checker."""

from __future__ import annotations

import importlib.util
import random
import re
import sysconfig
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor

BRACKETS = "()[]{}"
PARTNER = dict(zip("()[]{}", ")(][}{", strict=True))
OTHER = 0  # the id of a character outside the vocabulary, and of the padding
ALPHABET = "\t\n" + "".join(map(chr, range(32, 127)))
VOCABULARY = len(ALPHABET) + 1
_ID = {char: number for number, char in enumerate(ALPHABET, start=1)}

# A backslash at the end of a line joins it to the next before C looks for tokens, so that a
# join may stand inside any of them: between the two slashes of a comment, or after an escape.
_TOKEN = re.compile(
    r"""
      (?P<comment> /(?:\\\n)*/ (?:\\\n|[^\n])* | /(?:\\\n)*\* .*? \*(?:\\\n)*/ )
    | (?P<literal> " (?:\\(?:\\\n)*.|[^"\\\n])* " | ' (?:\\(?:\\\n)*.|[^'\\\n])+ ' )
    | (?P<endless> /(?:\\\n)*\* .* | ["'] (?:\\.|[^\\\n])* )
    | (?P<bracket> [()\[\]{}] )
    | (?P<word> \w+ )
    """,
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True)
class Scan:
    """What the C scanner sees: the brackets that count, and the spans that no cut may split."""

    brackets: list[int]
    spans: list[tuple[int, int]]
    closed: bool  # no literal or comment is left open


def scan(text: str) -> Scan:
    """Reads text as C does, so that brackets in strings, characters and comments do not count."""
    brackets, spans, closed = [], [], True
    for token in _TOKEN.finditer(text):
        if token.lastgroup == "bracket":
            brackets.append(token.start())
        else:
            spans.append(token.span())
            closed = closed and token.lastgroup != "endless"
    return Scan(brackets, spans, closed)


def match(text: str) -> dict[int, int] | None:
    """Each counting bracket's position with its partner's; None where text is ill-formed."""
    seen = scan(text)
    partner: dict[int, int] = {}
    waiting: list[int] = []
    for at in seen.brackets:
        if text[at] in "([{":
            waiting.append(at)
        elif waiting and text[waiting[-1]] == PARTNER[text[at]]:
            opener = waiting.pop()
            partner[opener], partner[at] = at, opener
        else:
            return None
    return partner if seen.closed and not waiting else None


def nesting(text: str) -> int:
    """The largest number of brackets open at once."""
    steps = (1 if text[at] in "([{" else -1 for at in scan(text).brackets)
    return max(accumulate(steps), default=0)


@dataclass(frozen=True)
class Sample:
    """One text: whether it is well-formed, how deep it nests, how far its broken bracket sees.

    `distance` is how many characters lie between the broken bracket and the partner that gives
    it away. The whole text has that of its broken twin, so that of the samples at any distance
    (and depth) half are well-formed, and guessing is right half of the time at each.
    """

    text: str
    whole: bool
    depth: int
    distance: int


@dataclass(frozen=True)
class Batch:
    """char (batch, time) int64, length (batch,) int64, whole (batch,) float32, depth, distance."""

    char: Tensor
    length: Tensor
    whole: Tensor
    depth: Tensor
    distance: Tensor


def find_files(folder: Path | None = None, per_folder: int = 60) -> list[Path]:
    """C files under `folder`, or else the C and C++ headers that installed packages ship.

    A generated header comes by the thousand in one folder, each a copy of the next but for a
    name; at most `per_folder` of one folder are taken, spread evenly over it.
    """
    if folder is not None:
        return sorted(path for path in folder.rglob("*.[ch]") if path.is_file())
    roots = []
    for package in ("numpy", "torch", "triton"):
        spec = importlib.util.find_spec(package)
        roots += spec.submodule_search_locations or [] if spec else []
    found = [path for root in roots for path in sorted(Path(root).rglob("*.h"))]
    if not found:
        found = sorted(Path(sysconfig.get_path("include")).rglob("*.h"))
    return _thin(found, per_folder)


def _thin(paths: list[Path], most: int) -> list[Path]:
    folders: dict[Path, list[Path]] = defaultdict(list)
    for path in paths:
        folders[path.parent].append(path)
    return [path for inside in folders.values() for path in inside[:: -(-len(inside) // most)]]


def read_files(paths: list[Path], seed: int, budget: int = 3_000_000) -> list[str]:
    """Distinct texts in an order drawn from `seed`, about `budget` characters in all."""
    paths = list(paths)
    random.Random(seed).shuffle(paths)
    texts: dict[str, None] = {}
    total = 0
    for path in paths:
        text = path.read_text(encoding="utf-8", errors="replace").replace("\r\n", "\n")
        if text not in texts and len(text) < budget // 4:
            texts[text] = None
            total += len(text)
        if total >= budget:
            break
    return list(texts)


class Cutter:
    """Cuts well-formed pieces out of one file."""

    def __init__(self, text: str) -> None:
        self.text = text
        seen = scan(text)
        # The depth before each character, and whether it lies inside a word, literal or comment.
        step = [0] * (len(text) + 1)
        for at in seen.brackets:
            step[at + 1] = 1 if text[at] in "([{" else -1
        self.depth = list(accumulate(step))
        self.inside = bytearray(len(text) + 1)
        for start, end in seen.spans:
            self.inside[start + 1 : end] = b"\1" * (end - start - 1)
        self.brackets = seen.brackets

    def pairs(self) -> Iterator[tuple[int, int]]:
        """The opening and closing place of each pair, going by depth and not yet by kind."""
        waiting: list[int] = []
        for at in self.brackets:
            if self.text[at] in "([{":
                waiting.append(at)
            elif waiting:
                yield waiting.pop(), at

    def cut(self, pair: tuple[int, int], lengths: tuple[int, int], draw: random.Random) -> str:
        """A piece around `pair` with a random length and place; empty where there is none."""
        opener, closer = pair
        wanted = draw.randint(max(lengths[0], closer + 1 - opener), lengths[1])
        first = max(closer + 1 - wanted, 0)
        starts = self._reach(opener, -1, draw.randint(min(first, opener), opener))
        if not starts:
            return ""
        ends = self._reach(closer + 1, 1, min(starts[-1] + wanted, len(self.text)))
        piece = self.text[starts[-1] : ends[-1]] if ends else ""
        return piece if lengths[0] <= len(piece) and match(piece) else ""

    def _reach(self, start: int, step: int, limit: int) -> list[int]:
        """The places from `start` to `limit` where a cut leaves the text between them balanced."""
        level, places = self.depth[start], []
        for at in range(start, limit + step, step):
            if self.depth[at] < level:
                break
            if self.depth[at] == level and not self.inside[at]:
                places.append(at)
        return places


class Quarry:
    """All pairs of some files, sorted by distance, so that far ones are drawn as often as near."""

    def __init__(self, files: list[str], longest: int) -> None:
        self.shelves: dict[int, list[tuple[Cutter, tuple[int, int]]]] = defaultdict(list)
        for cutter in map(Cutter, files):
            for pair in cutter.pairs():
                distance = pair[1] - pair[0]
                if distance < longest:
                    self.shelves[distance * 8 // longest].append((cutter, pair))

    def draw(self, lengths: tuple[int, int], draw: random.Random) -> str:
        """One well-formed piece, or the empty string where the place drawn gives none."""
        if not self.shelves:
            return ""
        cutter, pair = draw.choice(self.shelves[draw.choice(sorted(self.shelves))])
        return cutter.cut(pair, lengths, draw)


def break_one(text: str, draw: random.Random) -> tuple[str, int] | None:
    """`text` with one bracket deleted, inserted, swapped or flipped, and the distance to see.

    The farther apart a pair, the likelier it is the one broken: with equal chances nearly every
    break would show within a few characters. None where the text came out well-formed again.
    """
    partner = match(text)
    if not partner:
        return None
    openers = [at for at, other in partner.items() if at < other]
    chosen = draw.choices(openers, [partner[at] - at for at in openers])[0]
    victim = draw.choice((chosen, partner[chosen]))
    edit = draw.choice((_delete, _insert, _swap, _flip))
    broken, distance = edit(text, partner, victim, draw)
    return None if match(broken) is not None else (broken, distance)


def _delete(
    text: str, partner: dict[int, int], victim: int, draw: random.Random
) -> tuple[str, int]:
    return text[:victim] + text[victim + 1 :], abs(partner[victim] - victim)


def _flip(text: str, partner: dict[int, int], victim: int, draw: random.Random) -> tuple[str, int]:
    """Another kind, or the other direction, or both."""
    other = draw.choice([kind for kind in BRACKETS if kind != text[victim]])
    return text[:victim] + other + text[victim + 1 :], abs(partner[victim] - victim)


def _swap(text: str, partner: dict[int, int], victim: int, draw: random.Random) -> tuple[str, int]:
    """The victim changes places with another bracket; either of the two gives it away."""
    other = draw.choice([at for at in partner if at != victim])
    chars = list(text)
    chars[victim], chars[other] = chars[other], chars[victim]
    return "".join(chars), min(abs(partner[at] - at) for at in (victim, other))


def _insert(
    text: str, partner: dict[int, int], victim: int, draw: random.Random
) -> tuple[str, int]:
    """A bracket too many inside the victim's pair: it clashes with an end of the pair it is in."""
    start, end = sorted((victim, partner[victim]))
    at, kind = draw.randint(start + 1, end), draw.choice(BRACKETS)
    around = [(opener, other) for opener, other in partner.items() if opener < at <= other]
    start, end = max(around)  # pairs nest, so the last to open is the innermost
    return text[:at] + kind + text[at:], end + 1 - at if kind in "([{" else at - start


def cut_samples(
    files: list[str],
    count: int,
    lengths: tuple[int, int],
    draw: random.Random,
    known: frozenset[str] = frozenset(),
) -> list[Sample]:
    """`count` samples out of `files`: each text once whole, and once with a bracket broken.

    Because both forms of a text are there, nothing but its brackets tells which is which, and
    half the samples are well-formed. No text is among the `known` ones.
    """
    quarry = Quarry(files, lengths[1])
    samples: dict[str, Sample] = {}
    for _ in range(20 * count):
        if len(samples) >= count:
            break
        text = quarry.draw(lengths, draw)
        if text in samples or text in known:
            continue
        broken = break_one(text, draw)
        if broken and broken[0] not in samples and broken[0] not in known:
            samples[text] = Sample(text, True, nesting(text), broken[1])
            samples[broken[0]] = Sample(broken[0], False, nesting(text), broken[1])
    if len(samples) < count:
        raise ValueError(
            f"found {len(samples)} distinct samples of {lengths[0]} to {lengths[1]} characters, "
            f"wanted {count}: give more C source or ask for fewer"
        )
    return list(samples.values())


def load_samples(
    folder: Path | None = None,
    train: int = 20_000,
    held_out: int = 2_000,
    lengths: tuple[int, int] = (32, 160),
    seed: int = 0,
) -> tuple[list[Sample], list[Sample]]:
    """Training and held-out samples, an even number of each; no file gives to both."""
    files = read_files(find_files(folder), seed)
    if len(files) < 2:
        raise ValueError(f"found {len(files)} C files in {folder or 'the installed packages'}")
    draw = random.Random(seed)
    border = max(1, len(files) // 5)
    learned = cut_samples(files[border:], train, lengths, draw)
    known = frozenset(sample.text for sample in learned)
    return learned, cut_samples(files[:border], held_out, lengths, draw, known)


def encode(text: str) -> list[int]:
    """The id of each character."""
    return [_ID.get(char, OTHER) for char in text]


def collate(samples: list[Sample]) -> Batch:
    """One batch, as wide as its longest text."""
    length = torch.tensor([len(sample.text) for sample in samples])
    char = torch.full((len(samples), int(length.max())), OTHER)
    for row, sample in zip(char, samples, strict=True):
        row[: len(sample.text)] = torch.tensor(encode(sample.text))
    return Batch(
        char=char,
        length=length,
        whole=torch.tensor([float(sample.whole) for sample in samples]),
        depth=torch.tensor([sample.depth for sample in samples]),
        distance=torch.tensor([sample.distance for sample in samples]),
    )


def batches(samples: list[Sample], size: int) -> Iterator[Batch]:
    """Every sample once, texts of like length together, the shortest first."""
    order = sorted(samples, key=lambda sample: len(sample.text))
    for start in range(0, len(order), size):
        yield collate(order[start : start + size])
