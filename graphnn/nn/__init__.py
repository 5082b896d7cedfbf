"""Library modules: called on values, and plain graph code. Reading one shows how to write one.

`RNN`, `LSTM`, `GRU` and the other recurrent modules are each a cell, the mathematics of one step,
put in layers and directions by `Recurrent`. The planner knows none of them by name.
"""

from graphnn.nn.attention import AdditiveAttention, LocationAttention, MultiHeadAttention
from graphnn.nn.cell import Cell, GatedCell
from graphnn.nn.conv import TemporalConv
from graphnn.nn.decoder import AttentionDecoder
from graphnn.nn.gru import GRU, GRUCell
from graphnn.nn.hyper import Hyper
from graphnn.nn.hyperlstm import HyperLSTM, HyperLSTMCell
from graphnn.nn.linear import SRU, MinGRU, MinGRUCell, SRUCell
from graphnn.nn.lstm import LSTM, LSTMCell
from graphnn.nn.memory import AssociativeMemory, KeyValueMemory
from graphnn.nn.memory_network import MemoryNetwork
from graphnn.nn.multiplicative import (
    Multiplicative,
    MultiplicativeLSTM,
    MultiplicativeLSTMCell,
    MultiplicativeRNN,
    MultiplicativeRNNCell,
)
from graphnn.nn.noise import LockedDropout, locked_dropout, zoneout
from graphnn.nn.ntm import NTM
from graphnn.nn.positions import (
    LearnedPositions,
    RelativePositions,
    RotaryPositions,
    SinusoidalPositions,
)
from graphnn.nn.recurrent import Recurrent
from graphnn.nn.rnn import RNN, RNNCell
from graphnn.nn.seq2seq import Seq2Seq
from graphnn.nn.transformer import TransformerBlock

__all__ = [
    "GRU",
    "LSTM",
    "NTM",
    "RNN",
    "SRU",
    "AdditiveAttention",
    "AssociativeMemory",
    "AttentionDecoder",
    "Cell",
    "GRUCell",
    "GatedCell",
    "Hyper",
    "HyperLSTM",
    "HyperLSTMCell",
    "KeyValueMemory",
    "LSTMCell",
    "LearnedPositions",
    "LocationAttention",
    "LockedDropout",
    "MemoryNetwork",
    "MinGRU",
    "MinGRUCell",
    "MultiHeadAttention",
    "Multiplicative",
    "MultiplicativeLSTM",
    "MultiplicativeLSTMCell",
    "MultiplicativeRNN",
    "MultiplicativeRNNCell",
    "RNNCell",
    "Recurrent",
    "RelativePositions",
    "RotaryPositions",
    "SRUCell",
    "Seq2Seq",
    "SinusoidalPositions",
    "TemporalConv",
    "TransformerBlock",
    "locked_dropout",
    "zoneout",
]
