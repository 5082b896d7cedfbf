"""The data of the bracket checker: pieces of real C, well-formed or with one bracket broken."""

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
OTHER = 0  # the id of padding and of characters outside the vocabulary
ALPHABET = "\t\n" + "".join(map(chr, range(32, 127)))
VOCABULARY = len(ALPHABET) + 1
_ID = {char: number for number, char in enumerate(ALPHABET, start=1)}

# C joins a line that ends with a backslash to the next line before it looks for tokens. A join
# may therefore occur inside any token: between the two slashes of a comment, or after an escape.
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
    """The result of scanning C: the brackets that count, and the spans that no cut may split."""

    brackets: list[int]
    spans: list[tuple[int, int]]
    closed: bool  # False if a literal or comment is left open


def scan(text: str) -> Scan:
    """Scans text as C does: brackets in strings, character literals and comments do not count."""
    brackets, spans, closed = [], [], True
    for token in _TOKEN.finditer(text):
        if token.lastgroup == "bracket":
            brackets.append(token.start())
        else:
            spans.append(token.span())
            closed = closed and token.lastgroup != "endless"
    return Scan(brackets, spans, closed)


def match(text: str) -> dict[int, int] | None:
    """Maps the position of each bracket that counts to its partner. None if text is ill-formed."""
    scanned = scan(text)
    partner: dict[int, int] = {}
    unclosed: list[int] = []
    for at in scanned.brackets:
        if text[at] in "([{":
            unclosed.append(at)
        elif unclosed and text[unclosed[-1]] == PARTNER[text[at]]:
            opener = unclosed.pop()
            partner[opener], partner[at] = at, opener
        else:
            return None
    return partner if scanned.closed and not unclosed else None


def nesting(text: str) -> int:
    """Returns the largest number of brackets open at once."""
    steps = (1 if text[at] in "([{" else -1 for at in scan(text).brackets)
    return max(accumulate(steps), default=0)


@dataclass(frozen=True)
class Sample:
    """A text with its label: whether it is well-formed, its nesting depth, and a distance.

    `distance` is the number of characters between the broken bracket and the partner that reveals
    the error. A well-formed text has the distance of its broken counterpart. Half of the samples
    at every distance and depth are therefore well-formed, and guessing is right half of the time.
    """

    text: str
    whole: bool
    depth: int
    distance: int


@dataclass(frozen=True)
class Batch:
    """Tensors: char (batch, time) int64, and of shape (batch,): whole float32, the others int64."""

    char: Tensor
    length: Tensor
    whole: Tensor
    depth: Tensor
    distance: Tensor


def find_files(folder: Path | None = None, per_folder: int = 60) -> list[Path]:
    """Returns the C files under `folder`; by default, the C and C++ headers of installed packages.

    Some folders hold thousands of generated headers that differ only in a name. At most
    `per_folder` headers per folder are therefore returned, at even distances in its list.
    """
    if folder is not None:
        return sorted(path for path in folder.rglob("*.[ch]") if path.is_file())
    roots = []
    for package in ("numpy", "torch", "triton"):
        spec = importlib.util.find_spec(package)
        roots += spec.submodule_search_locations or [] if spec else []
    paths = [path for root in roots for path in sorted(Path(root).rglob("*.h"))]
    if not paths:
        paths = sorted(Path(sysconfig.get_path("include")).rglob("*.h"))
    return _thin(paths, per_folder)


def _thin(paths: list[Path], limit: int) -> list[Path]:
    folders: dict[Path, list[Path]] = defaultdict(list)
    for path in paths:
        folders[path.parent].append(path)
    return [path for inside in folders.values() for path in inside[:: -(-len(inside) // limit)]]


def read_files(paths: list[Path], seed: int, budget: int = 3_000_000) -> list[str]:
    """Returns distinct texts in an order drawn from `seed`, about `budget` characters in total."""
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
        scanned = scan(text)
        # The depth before each character, and whether it is inside a word, literal or comment.
        step = [0] * (len(text) + 1)
        for at in scanned.brackets:
            step[at + 1] = 1 if text[at] in "([{" else -1
        self.depth = list(accumulate(step))
        self.inside = bytearray(len(text) + 1)
        for start, end in scanned.spans:
            self.inside[start + 1 : end] = b"\1" * (end - start - 1)
        self.brackets = scanned.brackets

    def pairs(self) -> Iterator[tuple[int, int]]:
        """Yields the opening and closing position of each pair, matched by depth, not by kind."""
        unclosed: list[int] = []
        for at in self.brackets:
            if self.text[at] in "([{":
                unclosed.append(at)
            elif unclosed:
                yield unclosed.pop(), at

    def cut(self, pair: tuple[int, int], lengths: tuple[int, int], draw: random.Random) -> str:
        """Returns a piece around `pair` of random length and position, or "" if there is none."""
        opener, closer = pair
        length = draw.randint(max(lengths[0], closer + 1 - opener), lengths[1])
        first = max(closer + 1 - length, 0)
        starts = self._balanced(opener, -1, draw.randint(min(first, opener), opener))
        if not starts:
            return ""
        ends = self._balanced(closer + 1, 1, min(starts[-1] + length, len(self.text)))
        piece = self.text[starts[-1] : ends[-1]] if ends else ""
        return piece if lengths[0] <= len(piece) and match(piece) else ""

    def _balanced(self, start: int, step: int, limit: int) -> list[int]:
        """Returns the cuts from `start` to `limit` that leave the text after `start` balanced."""
        level, positions = self.depth[start], []
        for at in range(start, limit + step, step):
            if self.depth[at] < level:
                break
            if self.depth[at] == level and not self.inside[at]:
                positions.append(at)
        return positions


class PairSampler:
    """Draws bracket pairs of some files. Distant pairs are drawn as often as near ones."""

    def __init__(self, files: list[str], longest: int) -> None:
        self.by_distance: dict[int, list[tuple[Cutter, tuple[int, int]]]] = defaultdict(list)
        for cutter in map(Cutter, files):
            for pair in cutter.pairs():
                distance = pair[1] - pair[0]
                if distance < longest:
                    self.by_distance[distance * 8 // longest].append((cutter, pair))

    def draw(self, lengths: tuple[int, int], draw: random.Random) -> str:
        """Returns a well-formed piece, or "" if there is none around the pair that was drawn."""
        if not self.by_distance:
            return ""
        cutter, pair = draw.choice(self.by_distance[draw.choice(sorted(self.by_distance))])
        return cutter.cut(pair, lengths, draw)


def break_one(text: str, draw: random.Random) -> tuple[str, int] | None:
    """Deletes, inserts, swaps or flips one bracket. Returns the text and the distance of the error.

    A pair is chosen with a probability proportional to its distance: if all were equally likely,
    nearly every error would show within a few characters. Returns None if the text is still
    well-formed.
    """
    partner = match(text)
    if not partner:
        return None
    openers = [at for at, other in partner.items() if at < other]
    opener = draw.choices(openers, [partner[at] - at for at in openers])[0]
    victim = draw.choice((opener, partner[opener]))
    edit = draw.choice((_delete, _insert, _swap, _flip))
    broken, distance = edit(text, partner, victim, draw)
    return None if match(broken) is not None else (broken, distance)


def _delete(
    text: str, partner: dict[int, int], victim: int, draw: random.Random
) -> tuple[str, int]:
    return text[:victim] + text[victim + 1 :], abs(partner[victim] - victim)


def _flip(text: str, partner: dict[int, int], victim: int, draw: random.Random) -> tuple[str, int]:
    """Replaces the victim by a bracket of another kind, the other direction, or both."""
    other = draw.choice([kind for kind in BRACKETS if kind != text[victim]])
    return text[:victim] + other + text[victim + 1 :], abs(partner[victim] - victim)


def _swap(text: str, partner: dict[int, int], victim: int, draw: random.Random) -> tuple[str, int]:
    """Swaps the victim with another bracket. Either of the two reveals the error."""
    other = draw.choice([at for at in partner if at != victim])
    chars = list(text)
    chars[victim], chars[other] = chars[other], chars[victim]
    return "".join(chars), min(abs(partner[at] - at) for at in (victim, other))


def _insert(
    text: str, partner: dict[int, int], victim: int, draw: random.Random
) -> tuple[str, int]:
    """Inserts a bracket inside the victim's pair. It clashes with an end of the enclosing pair."""
    start, end = sorted((victim, partner[victim]))
    at, kind = draw.randint(start + 1, end), draw.choice(BRACKETS)
    enclosing = [(opener, other) for opener, other in partner.items() if opener < at <= other]
    start, end = max(enclosing)  # pairs nest, so the last to open is the innermost
    return text[:at] + kind + text[at:], end + 1 - at if kind in "([{" else at - start


def cut_samples(
    files: list[str],
    count: int,
    lengths: tuple[int, int],
    draw: random.Random,
    excluded: frozenset[str] = frozenset(),
) -> list[Sample]:
    """Returns `count` samples from `files`: each text well-formed, and with one bracket broken.

    Both versions of each text are present, so only the brackets determine the label, and half
    of the samples are well-formed. No text is in `excluded`. Raises ValueError if the files yield
    fewer samples.
    """
    sampler = PairSampler(files, lengths[1])
    samples: dict[str, Sample] = {}
    for _ in range(20 * count):
        if len(samples) >= count:
            break
        text = sampler.draw(lengths, draw)
        if text in samples or text in excluded:
            continue
        broken = break_one(text, draw)
        if broken and broken[0] not in samples and broken[0] not in excluded:
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
    """Returns training and held-out samples. No file contributes to both.

    Raises ValueError if there are fewer than two files, or too few samples in them.
    """
    files = read_files(find_files(folder), seed)
    if len(files) < 2:
        raise ValueError(f"found {len(files)} C files in {folder or 'the installed packages'}")
    draw = random.Random(seed)
    border = max(1, len(files) // 5)
    training = cut_samples(files[border:], train, lengths, draw)
    excluded = frozenset(sample.text for sample in training)
    return training, cut_samples(files[:border], held_out, lengths, draw, excluded)


def encode(text: str) -> list[int]:
    """Returns the id of each character."""
    return [_ID.get(char, OTHER) for char in text]


def collate(samples: list[Sample]) -> Batch:
    """Returns the samples as one batch, padded to the longest text."""
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
    """Yields every sample once, in batches of texts of similar length, shortest first."""
    order = sorted(samples, key=lambda sample: len(sample.text))
    for start in range(0, len(order), size):
        yield collate(order[start : start + size])
