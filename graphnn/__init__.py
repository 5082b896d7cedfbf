"""graphnn: neural architectures as graphs of modules with loops closed through delays."""

from graphnn import errors, nn, pictures
from graphnn.frontend.attention import attend, lookup
from graphnn.frontend.functions import (
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
from graphnn.frontend.graph import Graph
from graphnn.frontend.value import State, Value
from graphnn.runtime.model import Compiled, compile
from graphnn.tools.compare import compare
from graphnn.tools.gradient_flow import gradient_flow
from graphnn.tools.unroll import unroll

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
