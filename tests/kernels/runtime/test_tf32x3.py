"""Simulated: three products of TF32, as used for float32, have the error of float32.

TF32 keeps 10 bits of a number's fraction; tensor cores multiply exactly and add eight products up
before they round. No GPU is needed to see what that does to a recurrent network.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

Product = Callable[[np.ndarray, np.ndarray], np.ndarray]


def tf32(x: np.ndarray) -> np.ndarray:
    """The nearest number with 10 bits of fraction."""
    bits = x.astype(np.float32).view(np.uint32) + np.uint32(0x1000)
    return (bits & np.uint32(0xFFFFE000)).view(np.float32)


def tensor_cores(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Exact products of eights, each added to a float32 sum."""
    total = np.zeros((a.shape[0], b.shape[1]), np.float32)
    for k in range(0, a.shape[1], 8):
        part = a[:, k : k + 8].astype(np.float64) @ b[k : k + 8].astype(np.float64)
        total = (total + part).astype(np.float32)
    return total


def once(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return tensor_cores(tf32(a), tf32(b))


def three_times(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a_high, b_high = tf32(a), tf32(b)
    a_low, b_low = tf32(a - a_high), tf32(b - b_high)
    rest = tensor_cores(a_low, b_high) + tensor_cores(a_high, b_low)
    return rest + tensor_cores(a_high, b_high)


def lstm(product: Product, dtype: type, size: int, steps: int) -> np.ndarray:
    """All outputs of an LSTM of this size on the same numbers whatever the dtype."""
    random = np.random.default_rng(0)
    weight = random.uniform(-1, 1, (size, 4 * size)) / np.sqrt(size)
    inputs = random.normal(size=(steps, 8, 4 * size))
    h = c = np.zeros((8, size), dtype)
    outputs = []
    for x in inputs:
        i, f, u, o = np.split(x.astype(dtype) + product(h, weight.astype(dtype)), 4, 1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(u)
        h = sigmoid(o) * np.tanh(c)
        outputs.append(h)
    return np.stack(outputs).astype(np.float64)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("size", [64, 128])
def test_three_products_have_the_error_of_float32(size: int) -> None:
    exact = lstm(np.matmul, np.float64, size, 100)
    errors = {
        name: np.abs(lstm(product, np.float32, size, 100) - exact).max()
        for name, product in (("float32", np.matmul), ("three", three_times), ("one", once))
    }
    assert errors["three"] <= 2 * errors["float32"]
    assert errors["one"] > 100 * errors["float32"]
