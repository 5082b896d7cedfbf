"""Pointwise operations: each element of the result depends on one element of each operand."""

from graphnn.ops.pointwise import binary, fused, identity, select, softmax, unary

__all__ = ["binary", "fused", "identity", "select", "softmax", "unary"]
