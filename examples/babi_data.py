"""Stories with questions: reads the bAbI files, or generates stories for four of their tasks.

The tasks are those of Weston et al. 2015 (arXiv:1502.05698). The lines of a file are numbered.
A line with tabs holds a question, its answer, and the numbers of the lines that support it. Line
number 1 begins a new story.
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
MEMORY = 50  # longest story, in sentences


@dataclass(frozen=True)
class Question:
    """A question: the story before it (the last `MEMORY` sentences), its words, and the answer."""

    story: tuple[tuple[str, ...], ...]
    words: tuple[str, ...]
    answer: str


def split_words(text: str) -> tuple[str, ...]:
    """Returns the words of a sentence in lower case, without punctuation."""
    return tuple(re.findall(r"[a-z0-9']+", text.lower()))


def read(lines: Iterable[str]) -> list[Question]:
    """Returns the questions in the lines of a bAbI file."""
    questions: list[Question] = []
    story: list[tuple[str, ...]] = []
    for line in lines:
        number, _, text = line.strip().partition(" ")
        story = [] if number == "1" else story
        question, tab, rest = text.partition("\t")
        if tab:
            answer = rest.split("\t")[0].strip().lower()
            questions.append(Question(tuple(story[-MEMORY:]), split_words(question), answer))
        elif text:
            story = [*story, split_words(text)]
    return questions


def load(folder: Path, task: int) -> tuple[list[Question], list[Question]]:
    """Returns the training and test questions of a task. Raises ValueError if a file is missing."""
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
MOVED = ("went to", "moved to", "walked to", "travelled to")
COUNTS = ("none", "one", "two", "three")


class World:
    """A simulation: people move between places and carry things. `sentences` records the events."""

    def __init__(self, draw: random.Random) -> None:
        self.draw = draw
        self.place: dict[str, str] = {}
        self.holder: dict[str, str] = {}  # thing -> a person, or the place it is in
        self.sentences: list[str] = []

    def move(self) -> None:
        """Moves a random person to a random place."""
        person, place = self.draw.choice(PEOPLE), self.draw.choice(PLACES)
        self.place[person] = place
        self.sentences.append(f"{person} {self.draw.choice(MOVED)} the {place}")

    def handle(self) -> None:
        """Makes a person take or drop a thing. In an empty world, somebody moves instead."""
        if not self.place:
            return self.move()
        thing, person = self.draw.choice(THINGS), self.draw.choice(list(self.place))
        holder = self.holder.get(thing)
        if holder in PEOPLE:
            self.holder[thing] = self.place[holder]
            self.sentences.append(f"{holder} dropped the {thing}")
        elif holder in (None, self.place[person]):
            self.holder[thing] = person
            self.sentences.append(f"{person} took the {thing}")
        return None

    def where(self, thing: str) -> str | None:
        """Returns the place of a thing, or None if it is unknown."""
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
    carried = sum(holder == person for holder in world.holder.values())
    return f"how many objects is {person} carrying", COUNTS[carried]


# task -> (the probability that a sentence is a move, the function that asks a question)
KINDS: dict[int, tuple[float, Callable[[World], tuple[str, str] | None]]] = {
    1: (1.0, _person),
    2: (0.5, _thing),
    6: (1.0, _yes_or_no),
    7: (0.4, _count),
}


def generate(task: int, count: int, seed: int) -> list[Question]:
    """Returns `count` questions of a task: five per story, each after two to four sentences."""
    move_chance, ask = KINDS[task]
    draw, questions = random.Random(f"{seed} {task}"), []
    while len(questions) < count:
        world, asked = World(draw), 0
        while asked < 5:
            for _ in range(draw.randint(2, 4)):
                world.move() if draw.random() < move_chance else world.handle()
            if pair := ask(world):
                story = tuple(split_words(s) for s in world.sentences[-MEMORY:])
                questions.append(Question(story, split_words(pair[0]), pair[1]))
                asked += 1
    return questions[:count]


class Vocabulary:
    """Maps each word and answer to an id from 1. Id 0 is the null symbol."""

    def __init__(self, questions: Iterable[Question]) -> None:
        seen: dict[str, None] = {}
        for q in questions:
            seen.update(dict.fromkeys(w for sentence in (*q.story, q.words) for w in sentence))
            seen[q.answer] = None
        self.ids = {word: n for n, word in enumerate(sorted(seen), start=1)}

    def __len__(self) -> int:
        return len(self.ids) + 1


@dataclass(frozen=True)
class Batch:
    """int64 tensors: story (batch, sentence, word), question (batch, word), count, answer (batch,).

    `count` is the number of sentences of each story.
    """

    story: Tensor
    question: Tensor
    count: Tensor
    answer: Tensor

    def __len__(self) -> int:
        return len(self.answer)

    def take(self, indices: Tensor) -> Batch:
        """Returns the questions at `indices`, with padding only up to their longest story."""
        count = self.count[indices]
        longest = max(int(count.max()), 1)
        story = self.story[indices, :longest]
        return Batch(story, self.question[indices], count, self.answer[indices])

    def to(self, device: str) -> Batch:
        """Returns the batch on another device."""
        return Batch(*(t.to(device) for t in (self.story, self.question, self.count, self.answer)))


def collate(questions: list[Question], vocabulary: Vocabulary) -> Batch:
    """Returns the questions as one batch. Sentences and stories are padded with 0."""
    ids = vocabulary.ids
    longest_story = max(len(q.story) for q in questions)
    longest_sentence = max(len(s) for q in questions for s in q.story)
    story = torch.zeros(len(questions), longest_story, longest_sentence, dtype=torch.int64)
    question = torch.zeros(len(questions), max(len(q.words) for q in questions)).long()
    for n, q in enumerate(questions):
        for k, sentence in enumerate(q.story):
            story[n, k, : len(sentence)] = torch.tensor([ids[w] for w in sentence])
        question[n, : len(q.words)] = torch.tensor([ids[w] for w in q.words])
    count = torch.tensor([len(q.story) for q in questions])
    return Batch(story, question, count, torch.tensor([ids[q.answer] for q in questions]))
