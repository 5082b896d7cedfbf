"""graphnn: neural architectures as graphs of modules with loops closed through delays."""

from graphnn import errors, nn, pictures
from graphnn.flow import gradient_flow
from graphnn.functions import (
    along,
    argmax,
    clip_gradient,
    cosine,
    delay,
    dot,
    entropy,
    first,
    index,
    last,
    length,
    logsumexp,
    max,
    mean,
    rename,
    reverse,
    roll,
    softmax,
    sum,
    top,
    until,
)
from graphnn.graph import Graph
from graphnn.idioms import attend, lookup
from graphnn.model import Compiled, compile
from graphnn.timing.compare import compare
from graphnn.unroll import unroll
from graphnn.value import State, Value

__version__ = "0.1.0"
__all__ = [
    "Compiled",
    "Graph",
    "State",
    "Value",
    "along",
    "argmax",
    "attend",
    "clip_gradient",
    "compare",
    "compile",
    "cosine",
    "delay",
    "dot",
    "entropy",
    "errors",
    "first",
    "gradient_flow",
    "index",
    "last",
    "length",
    "logsumexp",
    "lookup",
    "max",
    "mean",
    "nn",
    "pictures",
    "rename",
    "reverse",
    "roll",
    "softmax",
    "sum",
    "top",
    "unroll",
    "until",
]
