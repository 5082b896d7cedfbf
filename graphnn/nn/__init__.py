"""Library modules, which are called on values within a graph and are plain graph code themselves.

Each recurrent module (`RNN`, `LSTM`, `GRU`, …) is a cell, the mathematics of one step, which
`Recurrent` stacks in layers and directions. The planner does not know any of them by name, so your
own modules are compiled just as well.
"""

from graphnn.nn.attention.attention import AdditiveAttention, LocationAttention, MultiHeadAttention
from graphnn.nn.attention.decoder import AttentionDecoder
from graphnn.nn.attention.positions import (
    LearnedPositions,
    RelativePositions,
    RotaryPositions,
    SinusoidalPositions,
)
from graphnn.nn.attention.seq2seq import Seq2Seq
from graphnn.nn.attention.transformer import TransformerBlock
from graphnn.nn.conv import TemporalConv
from graphnn.nn.hyper import Hyper
from graphnn.nn.memory.memory_network import MemoryNetwork
from graphnn.nn.memory.ntm import NTM
from graphnn.nn.memory.slots import AssociativeMemory, KeyValueMemory
from graphnn.nn.recurrent.cell import Cell, GatedCell
from graphnn.nn.recurrent.dropout import LockedDropout, locked_dropout, zoneout
from graphnn.nn.recurrent.gru import GRU, GRUCell
from graphnn.nn.recurrent.hyperlstm import HyperLSTM, HyperLSTMCell
from graphnn.nn.recurrent.layers import Recurrent
from graphnn.nn.recurrent.linear_recurrences import SRU, MinGRU, MinGRUCell, SRUCell
from graphnn.nn.recurrent.lstm import LSTM, LSTMCell
from graphnn.nn.recurrent.multiplicative import (
    Multiplicative,
    MultiplicativeLSTM,
    MultiplicativeLSTMCell,
    MultiplicativeRNN,
    MultiplicativeRNNCell,
)
from graphnn.nn.recurrent.rnn import RNN, RNNCell

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
