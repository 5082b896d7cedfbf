"""An end-to-end memory network: sentences in a memory that a question addresses in hops."""

# mypy: disable-error-code="arg-type"
from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from graphnn.errors import AxisError, ShapeError
from graphnn.frontend.functions import dot, index, length, logsumexp, rename, softmax
from graphnn.frontend.functions import sum as axis_sum
from graphnn.ir.source_location import user_site
from graphnn.nn.axes import sequence_axis
from graphnn.nn.options import one_of
from graphnn.nn.standalone import WORDS, standalone_graph
from graphnn.nn.types import Value

ENCODINGS, TYINGS = ("bag", "position"), ("adjacent", "layer")


class MemoryNetwork(nn.Module):
    """MemN2N of Sukhbaatar et al. 2015 (arXiv:1503.08895): answers a question about a story.

    Compiled alone it takes `story` (batch, sentence, word) and `question` (batch, word), int64, and
    returns the scores of all words (batch, vocabulary).

    In hop k, sentence i has the key m_i = Σ_j l_j ⊙ A_k x_ij + T_k(age of i), and a value c_i of
    the same form. With the question u, p = softmax(uᵀ m) and o = Σ p_i c_i; the next hop continues
    with u + o (section 2). The scores of the answer are W u at the end. Word 0 is the null symbol
    and contributes nothing.

        model = gn.compile(gn.nn.MemoryNetwork(vocabulary=30))
        story, question = torch.randint(30, (2, 6, 5)), torch.randint(30, (2, 4))
        scores = model(story=story, question=question)  # (2, 30)

    Parameters
    ----------
    vocabulary : number of words, including the null symbol
    width : width of all embeddings
    hops : number of hops
    capacity : number of slots, and of ages with an embedding T; older sentences share the last
    spare : slots without a sentence take part in the softmax with score 0 and value 0, so that a
        hop can read little
    encoding : "bag" of words, l = 1; or "position", l_kj = 1 + 4 (j/J - 1/2)(k/d - 1/2), where j
        and k count to the middle of a position, and J is the number of words. This is twice the
        weight of section 4.1, with which the reported figures are not reached
    temporal : whether keys and values include the age of a sentence (T above)
    tying : "adjacent": the values of a hop are the keys of the next, the question uses the first
        keys, and W the last values. "layer": all hops share their embeddings, and u passes through
        a linear map between them (section 2.2)
    noise : while training, ages grow as if up to this fraction of empty sentences stood between
        (section 4.1, random noise)
    linear : leave out the softmaxes, for the start of training (linear start). You can change it at
        any time: `net.linear = False`
    """

    switches: ClassVar[tuple[str, ...]] = ("linear",)

    def __init__(
        self,
        vocabulary: int,
        width: int = 20,
        hops: int = 3,
        *,
        capacity: int = 50,
        encoding: str = "position",
        temporal: bool = True,
        spare: bool = True,
        tying: str = "adjacent",
        noise: float = 0.0,
        linear: bool = False,
    ):
        super().__init__()
        one_of("MemoryNetwork", "encoding", encoding, ENCODINGS)
        one_of("MemoryNetwork", "tying", tying, TYINGS)
        self.width, self.hops, self.capacity = width, hops, capacity
        self.encoding, self.temporal, self.tying = encoding, temporal, tying
        self.noise, self.linear, self.spare = noise, linear, spare
        tables = hops + 1 if tying == "adjacent" else 2
        self.embed = nn.Parameter(torch.empty(vocabulary, tables, width))
        self.ages = nn.Parameter(torch.empty(capacity, tables, width)) if temporal else None
        if tying == "layer":
            self.question = nn.Parameter(torch.empty(vocabulary, width))
            self.map = nn.Linear(width, width, bias=False)
            self.answer = nn.Linear(width, vocabulary, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise all parameters as N(0, 0.1²), as in the paper (section 4.2)."""
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.1)

    def graph(self, g: Any) -> None:
        """Inputs `story` () over sentences and words, `question` () over words; output `y`."""
        story = ("story", (), ("sentence", "word"), WORDS)
        standalone_graph(self, g, story, ("question", (), "question_word", WORDS))

    def forward(
        self,
        story: Value,
        question: Value,
        over: str = "sentence",
        with_weights: bool = False,
    ) -> Any:
        """The scores of all words as the answer, (vocabulary,).

        `story` holds word indices, int64 of shape (), over sentences (the axis `over`, oldest
        first) and over the words of each. `question` holds word indices over its words. If
        `with_weights`, returns also a list with the weights () over sentences of each hop. Raises
        AxisError or ShapeError if an input varies over other axes or is not int64.
        """
        word = self._words(story, question, over)
        g, adjacent = story.graph, self.tying == "adjacent"
        tables = g.value(self.embed)
        memory = self._encoded(story, word, tables)
        if self.ages is not None:
            memory = memory + _rows(g.value(self.ages), self._age(story, over))
        first = tables[:, :1] if adjacent else g.value(self.question)[:, None]
        u = self._encoded(question, sequence_axis(question, None), first)[0]
        weights = []
        for hop in range(self.hops):
            own = hop if adjacent else 0
            match = dot(memory[own], u)
            chosen = match if self.linear else softmax(match, over)
            read = axis_sum(chosen * memory[own + 1], over)
            share = self._share(match, over)
            u = (u if adjacent else self.map(u)) + share * read
            weights.append(chosen * share)
        scores = F.linear(u, tables[:, -1]) if adjacent else self.answer(u)
        return (scores, weights) if with_weights else scores

    def _words(self, story: Value, question: Value, over: str) -> str:
        """The axis of words within a sentence."""
        if over not in story.axes or len(story.axes) != 2 or len(question.axes) != 1:
            raise AxisError(
                "a story varies over sentences and their words, a question over its words",
                node=story.label,
                site=user_site(),
                got=f"a story over {story.axes}, a question over {question.axes}",
                wanted=f"a story over '{over}' and one more axis, a question over one",
                fix=f"g.input('story', over=('{over}', 'word'), dtype=torch.int64)",
            )
        if story.shape or question.shape or story.dtype.is_floating_point:
            raise ShapeError(
                "words are given by their indices",
                node=story.label,
                site=user_site(),
                got=f"{story.dtype} of shape {tuple(story.shape)} and {tuple(question.shape)}",
                wanted="torch.int64 of shape ()",
                fix=f"g.input('story', over=('{over}', 'word'), dtype=torch.int64)",
            )
        return next(axis for axis in story.axes if axis != over)

    def _encoded(self, words: Value, axis: str, tables: Value) -> Value:
        """Σ_j l_j ⊙ E x_j for each table, (tables, width); the axis of words is summed out."""
        found = _rows(tables, words)
        kind: Value = words != 0
        weight = kind.type_as(found)[None, None]
        if self.encoding == "position":
            places = self._places(axis_sum(kind.long(), axis).type_as(found), axis)
            weight = torch.where(kind, places, 0.0)
        return axis_sum(found * weight, axis)

    def _places(self, total: Value, axis: str) -> Value:
        """l_kj for each word position j, (width,)."""
        middle = (self.width + 1) / 2
        across = (torch.arange(1, self.width + 1, dtype=torch.float64) - middle) / self.width
        total = torch.clamp(total, min=1.0)
        along = (index(axis, total.graph).type_as(total) + 1 - (total + 1) / 2) / total
        return 1 + 4 * along * total.graph.value(across).type_as(total)

    def _share(self, match: Value, over: str) -> Any:
        """The share of a softmax over all slots that falls on slots with a sentence."""
        if self.linear or not self.spare:
            return 1.0
        empty = torch.clamp(self.capacity - length(over, match.graph), min=0)
        return torch.sigmoid(logsumexp(match, over) - torch.log(empty.type_as(match)))

    def _age(self, story: Value, over: str) -> Value:
        """The number of sentences after each one, including random empty ones."""
        g = story.graph
        age = length(over, g) - 1 - index(over, g)
        if self.training and self.noise:
            uniform = g.random("uniform", (), frozenset({over, "batch"}))
            empty = (uniform < self.noise).long()
            later = rename(empty, **{over: f"{over}_later"})
            age = age + axis_sum(
                torch.where(index(f"{over}_later", g) >= index(over, g), later, 0), f"{over}_later"
            )
        return torch.clamp(age, 0, self.capacity - 1)

    def extra_repr(self) -> str:
        vocabulary = self.embed.shape[0]
        return f"{vocabulary}, {self.width}, hops={self.hops}, tying={self.tying!r}"


def _rows(tables: Value, which: Value) -> Value:
    """One row of each table by one lookup: (rows, tables, width) -> (tables, width)."""
    return F.embedding(which, tables.flatten(1)).unflatten(0, tables.shape[1:])
