"""Stories with questions: the bAbI files, or a small world that tells stories of their first kinds.

Weston et al. 2015 (arXiv:1502.05698). A file's lines are numbered; a line with a tab is a question,
its answer, and the lines that support it; number 1 begins a new story.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

NAMES = {
    1: "one supporting fact", 2: "two supporting facts", 3: "three supporting facts",
    4: "two-argument relations", 5: "three-argument relations", 6: "yes or no", 7: "counting",
    8: "lists and sets", 9: "simple negation", 10: "indefinite knowledge", 11: "coreference",
    12: "conjunction", 13: "compound coreference", 14: "time reasoning", 15: "basic deduction",
    16: "basic induction", 17: "positional reasoning", 18: "size reasoning", 19: "path finding",
    20: "agents' motivations",
}  # fmt: skip
MEMORY = 50


@dataclass(frozen=True)
class Question:
    """What was told before it (the last `MEMORY` sentences), what is asked, and the answer."""

    story: tuple[tuple[str, ...], ...]
    asked: tuple[str, ...]
    answer: str


def words(text: str) -> tuple[str, ...]:
    """The words of a sentence in lower case, without punctuation."""
    return tuple(re.findall(r"[a-z0-9']+", text.lower()))


def read(lines: Iterable[str]) -> list[Question]:
    """The questions of a file in the form of bAbI."""
    found: list[Question] = []
    story: list[tuple[str, ...]] = []
    for line in lines:
        number, _, text = line.strip().partition(" ")
        story = [] if number == "1" else story
        asked, tab, rest = text.partition("\t")
        if tab:
            answer = rest.split("\t")[0].strip().lower()
            found.append(Question(tuple(story[-MEMORY:]), words(asked), answer))
        elif text:
            story = [*story, words(text)]
    return found


def load(folder: Path, task: int) -> tuple[list[Question], list[Question]]:
    """A task's questions to train on and to be tested with. Raises ValueError without its files."""
    parts = []
    for part in ("train", "test"):
        files = sorted(folder.glob(f"qa{task}_*_{part}.txt"))
        if not files:
            raise ValueError(f"{folder} has no file qa{task}_*_{part}.txt")
        parts.append(read(files[0].read_text().splitlines()))
    return parts[0], parts[1]


PEOPLE = ("mary", "john", "sandra", "daniel")
PLACES = ("kitchen", "garden", "office", "bedroom", "hallway", "bathroom")
THINGS = ("apple", "football", "milk")
WENT = ("went to", "moved to", "walked to", "travelled to")
COUNTS = ("none", "one", "two", "three")


class World:
    """People who go from place to place and carry things; it tells what happens in it."""

    def __init__(self, draw: random.Random) -> None:
        self.draw = draw
        self.place: dict[str, str] = {}
        self.holder: dict[str, str] = {}  # of a thing: a person, or the place where it lies
        self.told: list[str] = []

    def move(self) -> None:
        person, place = self.draw.choice(PEOPLE), self.draw.choice(PLACES)
        self.place[person] = place
        self.told.append(f"{person} {self.draw.choice(WENT)} the {place}")

    def handle(self) -> None:
        """Somebody takes a thing, or drops what they have; without anybody, somebody moves."""
        if not self.place:
            return self.move()
        thing, person = self.draw.choice(THINGS), self.draw.choice(list(self.place))
        holder = self.holder.get(thing)
        if holder in PEOPLE:
            self.holder[thing] = self.place[holder]
            self.told.append(f"{holder} dropped the {thing}")
        elif holder in (None, self.place[person]):
            self.holder[thing] = person
            self.told.append(f"{person} took the {thing}")
        return None

    def where(self, thing: str) -> str | None:
        holder = self.holder.get(thing)
        return self.place.get(holder, holder) if holder else None


def _person(world: World) -> tuple[str, str] | None:
    person = world.draw.choice(list(world.place) or [""])
    return (f"where is {person}", world.place[person]) if person else None


def _thing(world: World) -> tuple[str, str] | None:
    known = [t for t in THINGS if world.where(t)]
    thing = world.draw.choice(known or [""])
    return (f"where is the {thing}", world.where(thing) or "") if thing else None


def _yes_or_no(world: World) -> tuple[str, str] | None:
    if not world.place:
        return None
    person = world.draw.choice(list(world.place))
    place = world.place[person] if world.draw.random() < 0.5 else world.draw.choice(PLACES)
    return f"is {person} in the {place}", "yes" if world.place[person] == place else "no"


def _count(world: World) -> tuple[str, str] | None:
    if not world.place:
        return None
    person = world.draw.choice(list(world.place))
    held = sum(holder == person for holder in world.holder.values())
    return f"how many objects is {person} carrying", COUNTS[held]


# of each kind: the chance that a sentence is of somebody's move, and the question
KINDS: dict[int, tuple[float, Callable[[World], tuple[str, str] | None]]] = {
    1: (1.0, _person),
    2: (0.5, _thing),
    6: (1.0, _yes_or_no),
    7: (0.4, _count),
}


def generate(task: int, count: int, seed: int) -> list[Question]:
    """`count` questions of a kind, five to a story, two to four sentences before each."""
    moves, ask = KINDS[task]
    draw, found = random.Random(f"{seed} {task}"), []
    while len(found) < count:
        world, asked = World(draw), 0
        while asked < 5:
            for _ in range(draw.randint(2, 4)):
                world.move() if draw.random() < moves else world.handle()
            if pair := ask(world):
                story = tuple(words(s) for s in world.told[-MEMORY:])
                found.append(Question(story, words(pair[0]), pair[1]))
                asked += 1
    return found[:count]


class Vocabulary:
    """Numbers of words and answers; 0 is the null symbol."""

    def __init__(self, questions: Iterable[Question]) -> None:
        seen: dict[str, None] = {}
        for q in questions:
            seen.update(dict.fromkeys(w for sentence in (*q.story, q.asked) for w in sentence))
            seen[q.answer] = None
        self.number = {word: n for n, word in enumerate(sorted(seen), start=1)}

    def __len__(self) -> int:
        return len(self.number) + 1


@dataclass(frozen=True)
class Batch:
    """story (batch, sentence, word), question (batch, asked), count and answer (batch,): int64."""

    story: Tensor
    question: Tensor
    count: Tensor
    answer: Tensor

    def __len__(self) -> int:
        return len(self.answer)

    def take(self, which: Tensor) -> Batch:
        """Some of the questions, their stories padded no more than these need."""
        count = self.count[which]
        most = max(int(count.max()), 1)
        return Batch(self.story[which, :most], self.question[which], count, self.answer[which])

    def to(self, device: str) -> Batch:
        """On another device."""
        return Batch(*(t.to(device) for t in (self.story, self.question, self.count, self.answer)))


def collate(questions: list[Question], vocabulary: Vocabulary) -> Batch:
    """All questions as tensors, words beyond a sentence and sentences beyond a story 0."""
    number = vocabulary.number
    most = max(len(q.story) for q in questions)
    wide = max(len(s) for q in questions for s in q.story)
    story = torch.zeros(len(questions), most, wide, dtype=torch.int64)
    question = torch.zeros(len(questions), max(len(q.asked) for q in questions)).long()
    for n, q in enumerate(questions):
        for k, sentence in enumerate(q.story):
            story[n, k, : len(sentence)] = torch.tensor([number[w] for w in sentence])
        question[n, : len(q.asked)] = torch.tensor([number[w] for w in q.asked])
    count = torch.tensor([len(q.story) for q in questions])
    return Batch(story, question, count, torch.tensor([number[q.answer] for q in questions]))
