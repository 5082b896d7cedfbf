"""The networks that are verified as compiled, with sizes of calls.

Widths are odd or no power of two, so that no tile is full.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from graphnn.nn import (
    GRU,
    LSTM,
    NTM,
    RNN,
    SRU,
    AdditiveAttention,
    AssociativeMemory,
    AttentionDecoder,
    Hyper,
    HyperLSTM,
    KeyValueMemory,
    LearnedPositions,
    LocationAttention,
    LockedDropout,
    MinGRU,
    MultiHeadAttention,
    Multiplicative,
    MultiplicativeLSTM,
    MultiplicativeRNN,
    RelativePositions,
    RotaryPositions,
    Seq2Seq,
    SinusoidalPositions,
    TemporalConv,
    TransformerBlock,
)
from tests.compiled.networks import Delayed, Embedded, TwoStates, of_operations
from tests.networks.graphs import Drawn
from tests.systems import test_loops as loops
from tests.systems import test_memory_and_attention as memories


@dataclass(frozen=True)
class Entry:
    """A network, and the lengths of a call's axes, "batch" among them.

    `loops`: it has a loop over states, and is verified with each strategy. `slow`: a case of it
    takes about 15 s of CPU time or more, and it is not part of the sample.
    """

    build: Callable[[], nn.Module]
    sizes: tuple[tuple[str, int], ...]
    loops: bool = True
    slow: bool = False


def _loop(
    build: Callable[[], nn.Module], batch: int = 3, time: int = 5, slow: bool = False
) -> Entry:
    return Entry(build, (("batch", batch), ("time", time)), slow=slow)


def _flat(
    build: Callable[[], nn.Module], batch: int = 2, slow: bool = False, **sizes: int
) -> Entry:
    return Entry(build, (("batch", batch), *sizes.items()), loops=False, slow=slow)


def _over(
    build: Callable[[], nn.Module], batch: int = 2, slow: bool = False, **sizes: int
) -> Entry:
    return Entry(build, (("batch", batch), *sizes.items()), slow=slow)


RECURRENT = {
    "RNN": _loop(lambda: RNN(5, 17)),
    "RNN, relu": _loop(lambda: RNN(5, 20, nonlinearity="relu"), 1, 1),
    "RNN, layer norm": _loop(lambda: RNN(5, 17, layer_norm=True), 2, 3),
    "RNN, 2 layers": _loop(lambda: RNN(5, 17, 2), 2, 3),
    "LSTM": _loop(lambda: LSTM(5, 33)),
    "LSTM, one position": _loop(lambda: LSTM(5, 20), 1, 1),
    "LSTM, 2 tiles of rows": _loop(lambda: LSTM(5, 17), 17, 2),
    "LSTM, both ways": _loop(lambda: LSTM(5, 17, bidirectional=True), 2, 3, slow=True),
    "LSTM, 2 layers both ways": _loop(lambda: LSTM(5, 17, 2, True, 0.2), 2, 2, slow=True),
    "LSTM, projection": _loop(lambda: LSTM(5, 20, proj_size=7), 2, 3),
    "LSTM, peepholes": _loop(lambda: LSTM(5, 17, peepholes=True), 2, 3),
    "LSTM, coupled": _loop(lambda: LSTM(5, 17, coupled=True), 2, 3),
    "LSTM, layer norm": _loop(lambda: LSTM(5, 17, layer_norm=True), 2, 3),
    "LSTM, zoneout": _loop(lambda: LSTM(5, 17, zoneout=0.3), 2, 3),
    "LSTM, dropout": _loop(lambda: LSTM(5, 17, recurrent_dropout=0.3, candidate_dropout=0.2), 2, 3),
    "LSTM, everything": _loop(
        lambda: LSTM(5, 20, proj_size=9, peepholes=True, layer_norm=True, zoneout=0.2), 2, 2, True
    ),
    "GRU, reset before": _loop(lambda: GRU(5, 20, reset="before")),
    "GRU, reset after": _loop(lambda: GRU(5, 20, reset="after")),
    "GRU, layer norm": _loop(lambda: GRU(5, 17, layer_norm=True), 2, 3),
    "GRU, zoneout both ways": _loop(
        lambda: GRU(5, 17, bidirectional=True, zoneout=0.2), 2, 2, True
    ),
    "multiplicative RNN": _loop(lambda: MultiplicativeRNN(5, 17), 2, 3),
    "multiplicative LSTM": _loop(lambda: MultiplicativeLSTM(5, 17), 2, 3),
    "HyperLSTM": _loop(lambda: HyperLSTM(5, 17, hyper_size=9, embedding_size=3), 2, 2, slow=True),
    "minimal GRU": _loop(lambda: MinGRU(5, 17)),
    "minimal GRU, both ways": _loop(lambda: MinGRU(5, 20, bidirectional=True), 2, 3),
    "SRU": _loop(lambda: SRU(17, 17)),
    "SRU, peepholes": _loop(lambda: SRU(5, 17, peepholes=True), 2, 3),
    "NTM": _loop(lambda: NTM(3, 9, 5, 3), 2, 2, slow=True),
    "NTM, 2 heads": _loop(lambda: NTM(3, 9, 5, 3, read_heads=2, write_heads=2), 1, 2, slow=True),
}

ATTENTION = {
    "heads": _flat(lambda: MultiHeadAttention(20, 2), time=5),
    "heads, shared keys": _flat(lambda: MultiHeadAttention(20, 4, kv_heads=2), time=3),
    "heads, cross": _flat(
        lambda: MultiHeadAttention(20, 2, key_size=9, value_size=7), target=3, source=5
    ),
    "heads, rotary": _flat(
        lambda: MultiHeadAttention(20, 2, positions=RotaryPositions(10)), time=5
    ),
    "heads, relative": _flat(
        lambda: MultiHeadAttention(20, 2, positions=RelativePositions(2, 3)), slow=True, time=5
    ),
    "heads, dropout": _flat(lambda: MultiHeadAttention(20, 2, dropout=0.3), time=5),
    "additive": _flat(lambda: AdditiveAttention(5, 9, 17), target=3, source=5),
    "location": _over(lambda: LocationAttention(5, 9, 17), target=3, source=5),
    "decoder, additive": _over(lambda: AttentionDecoder(5, 17, 9), slow=True, target=3, source=5),
    "decoder, dot": _over(
        lambda: AttentionDecoder(5, 9, 9, cell="lstm", score="dot"), target=3, source=5
    ),
    "transformer": _flat(lambda: TransformerBlock(20, 2, 33), time=5),
    "transformer, causal": _flat(
        lambda: TransformerBlock(20, 2, 33, causal=True, norm_first=True), time=5
    ),
    "transformer, window": _flat(
        lambda: TransformerBlock(20, 2, 33, window=2, causal=True), time=5
    ),
    "transformer, cross": _flat(
        lambda: TransformerBlock(20, 2, 33, cross=True, activation="gelu"), time=3, source=5
    ),
    "sequence to sequence": _over(lambda: Seq2Seq(7, 6, 5, 17), source=3, target=4),
    "sequence to sequence, attention": _over(
        lambda: Seq2Seq(7, 6, 5, 17, attention="additive", bidirectional=True),
        slow=True,
        source=3,
        target=4,
    ),
    "sinusoidal positions": _flat(lambda: Embedded(SinusoidalPositions(20), 20), time=5),
    "learned positions": _flat(lambda: Embedded(LearnedPositions(9, 17), 17), time=5),
    "rotary positions": _flat(lambda: Embedded(RotaryPositions(20), 20), time=5),
    "locked dropout": _flat(lambda: Embedded(LockedDropout(0.3), 17), time=5),
}

MEMORY = {
    "slots": _flat(lambda: AssociativeMemory(33, 5, 7), time=5),
    "slots, the best 4": _flat(lambda: AssociativeMemory(33, 5, 7, topk=4), time=5),
    "slots, written": _loop(lambda: AssociativeMemory(5, 5, 7, learned=False), 2, 3),
    "facts, 1 hop": _flat(lambda: KeyValueMemory(17, 1), source=5),
    "facts, 3 hops": _flat(lambda: KeyValueMemory(17, 3), slow=True, source=5),
    "convolution": _flat(lambda: TemporalConv(5, 17, 3, 2), time=5),
    "weights of a value": _flat(lambda: Hyper(nn.Linear(5, 7), 3), time=5),
    "multiplicative": _flat(lambda: Multiplicative(5, 3, 7), time=5),
}

STATES = {
    **{f"delay of {n}": _loop(lambda n=n: Delayed(n), 2, 5) for n in (1, 2, 3, 4)},
    "two states": _loop(TwoStates, 2, 5),
}

SYSTEMS = {
    "adaptive computation time": _loop(loops.Ponder, 2, 2, slow=True),
    "two delays": _loop(loops.TwoDelays, 2, 5),
    "grid": _over(loops.Grid, row=3, col=2),
    "Turing machine": _loop(loops.TuringMachine, 2, 2, slow=True),
    "translation": _over(loops.Translate, slow=True, source=3, target=2),
    "both ways by delays": _loop(loops.Both, 2, 5),
    "opaque function": _loop(loops.Sums, 2, 3),
    "nested loops": _over(loops.Nested, word=2, char=3),
    "memory of parameters": _flat(memories.Hetero, time=5),
    "notes": _loop(memories.Notes, 2, 3),
    "memory network": _flat(memories.Story, sentence=3, word=4, asked=3),
    "encoder and decoder": _flat(memories.Transformer, source=3, target=4),
    "repeating transformer": _flat(memories.Repeats, time=5),
}

OPERATIONS = {
    name: _loop(lambda recipe=recipe: Drawn(recipe), 2, 3)
    for name, recipe in of_operations().items()
}

CATALOGUE = {**RECURRENT, **ATTENTION, **MEMORY, **STATES, **SYSTEMS, **OPERATIONS}
# every launch among which the autotuner chooses is run for these
EVERY_LAUNCH = ("RNN", "GRU, reset after", "minimal GRU", "heads", "slots", "delay of 2")
# torch runs these: maps without a loop, and loops around loops; their results are still compared
WITHOUT_KERNELS = frozenset(
    {
        *("convolution", "weights of a value", "multiplicative"),
        *("grid", "nested loops", "adaptive computation time"),
    }
)
