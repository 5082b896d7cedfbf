"""Each row of the operation table has the parts it needs, and these agree with torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphnn as gn
from graphnn.frontend.dispatch import HOMES
from graphnn.kernels.codegen import prelude
from graphnn.kernels.ir.expression import functions
from graphnn.ops.registry import OPS, Primitive
from graphnn.ops.torch.registry import HANDLERS
from tests.networks.equality import assert_same
from tests.operators.accuracy import ARITHMETIC, Rows, keys, operands, report, torch_function

# for each part, whether a row has it and how to add it
Part = tuple[Callable[[Primitive], bool], str]
PARTS: dict[str, Part] = {
    "semantics": (lambda op: op.run is not None, "give `run`, the operation on tensors"),
    "gradient": (lambda op: op.grad is not None, "give `grad`, its derivative as expressions"),
    "torch function": (
        lambda op: bool(op.torch_names) or op.name in HANDLERS,
        "give `torch_names`, or register a handler of that name in graphnn.ops.torch",
    ),
    "torch text": (lambda op: bool(op.torch_text), "give `torch_text`, a call on tensors"),
    "out text": (lambda op: bool(op.out_text), "give `out_text`, the call that writes into {out}"),
    "Triton text": (
        lambda op: bool(op.triton_text),
        "give `triton_text`, or `prelude`: a function of graphnn.kernels.codegen.prelude",
    ),
    "kernel function": (
        lambda op: bool(op.prelude),
        "give `prelude`: a function of graphnn.kernels.codegen.prelude over the block axis",
    ),
}
NEEDED = {
    "pointwise": [
        *("semantics", "gradient", "torch function", "torch text", "out text", "Triton text")
    ],
    "axis": ["semantics", "gradient", "kernel function"],
    "reduce": ["semantics", "gradient", "torch function"],
    "view": ["semantics", "gradient", "torch function"],
    "join": ["semantics", "gradient", "torch function"],
    "rows": ["semantics", "gradient"],
    "einsum": ["semantics", "gradient"],
}
_GRADIENT_ONLY = "only gradients use it"
_SOFTMAX_ONLY = "passes create it from softmaxes"
_NO_OUT = "its torch function cannot write into a given tensor"
_PROMOTED = "the pass dtype_promotion replaces it by a cast before anything else reads it"
# the parts that a row cannot have, with the reason
LACKING: dict[str, dict[str, str]] = {
    "isnan": {"out text": _NO_OUT},
    "cast": {
        "torch function": "Tensor.to, Tensor.float and others create it, each with arguments",
        "out text": _NO_OUT,
        "Triton text": "it depends on both dtypes, so kernels write it themselves",
    },
    "type_as": dict.fromkeys(["gradient", "torch text", "out text", "Triton text"], _PROMOTED),
    "clip_gradient": {"torch function": "gn.clip_gradient creates it", "out text": _NO_OUT},
    "detach": {"out text": _NO_OUT},
    "tanh_grad": {"torch function": _GRADIENT_ONLY},
    "sigmoid_grad": {"torch function": _GRADIENT_ONLY},
    "soft": {"torch function": _SOFTMAX_ONLY, "out text": _NO_OUT},
    "weigh": {"torch function": _SOFTMAX_ONLY, "out text": _NO_OUT},
    "widen": {"torch function": _SOFTMAX_ONLY, "out text": _NO_OUT},
    "level": {"torch function": _SOFTMAX_ONLY, "out text": _NO_OUT},
    "axis_argmax": {"kernel function": "kernels cannot compute an argmax within a step"},
    "axis_put": {"kernel function": "steps of a stream create it, outside kernels"},
    "slice": {"torch function": "indexing, narrow, split and others create it"},
    "pad": {"torch function": "gradients of slices create it"},
    "affine": {"gradient": "the pass multiply_add creates it after gradients are derived"},
}


# the rows that name torch functions of one or two tensors
FUNCTIONS = [n for n, op in OPS.items() if op.torch_names and op.family == "pointwise"]


def missing(op: Primitive) -> list[str]:
    """Returns the parts that a row of this family needs but this row lacks."""
    return [part for part in NEEDED.get(op.family, []) if not PARTS[part][0](op)]


@pytest.mark.parametrize("name", OPS)
def test_every_row_has_each_needed_part_or_a_reason_for_lacking_it(name: str) -> None:
    known = LACKING.get(name, {})
    lacks = {p: PARTS[p][1] for p in missing(OPS[name]) if p not in known}
    todo = "; ".join(f"no {part}: {fix}" for part, fix in lacks.items())
    assert not lacks, f"the row '{name}' has {todo}; or add a reason to LACKING in this file"


def test_reasons_are_given_only_for_missing_parts() -> None:
    stale = {n: set(parts) - set(missing(OPS[n])) for n, parts in LACKING.items()}
    assert not {n: parts for n, parts in stale.items() if parts}


@pytest.mark.parametrize("name", [n for n, op in OPS.items() if op.prelude or op.triton_text])
def test_the_prelude_has_the_functions_that_a_row_calls(name: str) -> None:
    op = OPS[name]
    called = {op.prelude} - {""} | (functions(op.triton_text or "0") - {"float"})
    assert not {f for f in called if not hasattr(prelude, f)}


@pytest.mark.parametrize("name", [n for n, op in OPS.items() if op.torch_names])
def test_torch_has_the_functions_of_a_row(name: str) -> None:
    absent = [n for n in OPS[name].torch_names if not any(hasattr(h, n) for h in HOMES)]
    assert not absent, f"none of {HOMES} has {absent}"


def _on_meta(op: Primitive, arity: int) -> Tensor | None:
    operands = [torch.empty(2, 3, dtype=torch.bfloat16, device="meta") for _ in range(arity)]
    try:
        return op.run(*operands)  # type: ignore[misc,no-any-return]
    except (RuntimeError, TypeError):  # it needs integers, booleans or attributes
        return None


@pytest.mark.parametrize("name", [n for n, op in OPS.items() if op.family == "pointwise"])
def test_same_dtype_is_set_exactly_if_shape_and_dtype_are_kept(name: str) -> None:
    op = OPS[name]
    result = _on_meta(op, 3 if name == "soft" else op.arity)
    unchanged = result is not None and (result.shape, result.dtype) == ((2, 3), torch.bfloat16)
    # a row for a torch function must enable fast inference if it can
    if op.same_dtype or name in FUNCTIONS:
        assert op.same_dtype == unchanged, f"write same_dtype={unchanged} in the row '{name}'"


@pytest.mark.parametrize("name", [n for n, op in OPS.items() if op.linear_in])
def test_rows_equal_their_declared_sum_of_products(name: str) -> None:
    op = OPS[name]
    operands = [torch.randn(5, dtype=torch.float64) for _ in range(op.arity)]
    added = torch.zeros(5, dtype=torch.float64)
    for sign, factors in op.linear_in:
        added = added + sign * torch.stack([operands[k] for k in factors]).prod(0)
    assert op.run is not None
    torch.testing.assert_close(op.run(*operands), added)


# the domain of each function; it is compared only there
DOMAINS: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("log", "log2", "log10", "sqrt", "rsqrt", "reciprocal"), (0.3, 3.0)),
    "log1p": (-0.7, 3.0),
    "acosh": (1.2, 4.0),
    "atanh": (-0.8, 0.8),
    "tan": (-1.2, 1.2),
}
ANYWHERE = (-4.0, 4.0)
BACKENDS = ("torch", "reference", "interpret")


def applied(name: str, x: Tensor, y: Tensor) -> Tensor:
    """Applies the torch function of a row to operands mapped into its domain."""
    op, torch_name = OPS[name], OPS[name].torch_names[0]
    function: Any = next(getattr(h, torch_name) for h in HOMES if hasattr(h, torch_name))
    low, high = DOMAINS.get(name, ANYWHERE)
    a, b = (low + (high - low) * torch.sigmoid(v) for v in (x, y))
    return (function(a, b) if op.arity == 2 else function(a)).to(x.dtype)


class Functions(nn.Module):
    """Applies functions to two sequences at each step, optionally in a loop."""

    def __init__(self, names: list[str], loop: bool):
        super().__init__()
        self.names, self.loop = names, loop
        self.unit = nn.Parameter(torch.ones((), dtype=torch.float64))

    def graph(self, g: gn.Graph) -> None:
        x, y = (g.input(k, shape=(4,), over="time") for k in "xy")
        z = g.state("z", shape=(4,)) if self.loop else 0.0
        results = {name: applied(name, x + 0.5 * z, y) for name in self.names}
        for name, value in results.items():
            g.output(name, value)
        if self.loop:
            z.next = torch.tanh(sum(results.values()) + x)

    def eager(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Computes the same with torch alone."""
        z, steps = torch.zeros_like(x[:, 0]), []
        for t in range(x.shape[1]):
            now = x[:, t] + 0.5 * z * self.loop
            steps.append({name: applied(name, now, y[:, t]) for name in self.names})
            z = torch.tanh(sum(steps[-1].values()) + x[:, t])
        return {name: torch.stack([s[name] for s in steps], 1) for name in self.names}


def _outputs_and_gradients(call: Callable[..., Any], names: list[str]) -> dict[str, Tensor]:
    """Returns the outputs and the gradients of both operands."""
    seed = torch.Generator().manual_seed(1)
    x, y = (
        torch.randn(3, 4, 4, generator=seed, dtype=torch.float64).requires_grad_() for _ in "xy"
    )
    found = call(x=x, y=y)
    found = {names[0]: found} if isinstance(found, Tensor) else found
    weights = torch.randn(3, 4, 4, generator=seed, dtype=torch.float64)
    total = sum((v * weights).sum() for v in found.values()) + 0.0 * (x.sum() + y.sum())
    dx, dy = torch.autograd.grad(total, [x, y])
    return {**{k: v.detach() for k, v in found.items()}, "dx": dx, "dy": dy}


@pytest.mark.parametrize("loop", [False, True], ids=["whole", "loop"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_row_equals_the_torch_function_it_names(name: str, loop: bool) -> None:
    net = Functions([name], loop)
    wanted = _outputs_and_gradients(net.eager, [name])
    for backend in BACKENDS[:2]:
        model = gn.compile(net, backend=backend)
        assert_same(wanted, _outputs_and_gradients(model, [name]), 1e-11)
    assert not any(n.op == "opaque" for n in model.ir)


# rows that are less accurate in kernels than torch: units in the last place that they may be off,
# and the reason with the measured error
INACCURATE: dict[str, tuple[float, str]] = {
    "pow": (8, "products and logarithms round more often: 4.5 units for 0.01 ** -10.9, torch 0.03")
}


def _computed(name: str, *tensors: Any) -> Any:
    return torch_function(name)(*tensors)


@pytest.fixture(scope="module")
def kernel_results() -> dict[str, Tensor]:
    """The results of all rows in one kernel, in float32."""
    names = [*ARITHMETIC, *FUNCTIONS]
    inputs = {k: x for name in names for k, x in zip(keys(name), operands(name), strict=True)}
    model = gn.compile(Rows(names, _computed), backend="interpret")
    with torch.no_grad():
        results: dict[str, Tensor] = model(**inputs)
    assert "over time, from the start: persistent" in model.explain()
    return results


@pytest.mark.parametrize("name", [*ARITHMETIC, *FUNCTIONS])
def test_a_row_is_as_accurate_in_kernels_as_torch(
    name: str, kernel_results: dict[str, Tensor]
) -> None:
    """In float32, relative to each result, over a wide range of operands."""
    xs = operands(name)
    exact = _computed(name, *(x.double() for x in xs)).double()
    compared = xs, kernel_results[name], _computed(name, *xs).float(), exact
    fault = report(name, *compared)
    if name in INACCURATE:
        assert fault, f"remove '{name}' from INACCURATE"
        fault = report(name, *compared, INACCURATE[name][0])
    assert not fault, fault


def test_an_inaccurate_formula_is_found_and_named() -> None:
    """1 - erf(x) is within 1e-7 of erfc(x), but has no correct digit at 5."""
    x = torch.linspace(-6, 6, 1000)
    exact, eager = torch.special.erfc(x.double()), torch.special.erfc(x)
    fault = report("erfc", [x], 1 - torch.erf(x), eager, exact)
    assert fault.startswith("the row 'erfc' is inaccurate in kernels")
    assert not report("erfc", [x], eager, eager, exact)


def _in_domain(name: str, x: Any, *rest: Any) -> Any:
    return applied(name, x, *rest or (x,))


@pytest.fixture(scope="module")
def kernel_gradients() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The results of all rows and the gradients of their operands: of kernels and of torch."""
    seed = torch.Generator().manual_seed(2)
    shape, double = (3, 4, 4), torch.float64
    names = [k for name in FUNCTIONS for k in keys(name)]
    inputs = {
        k: torch.randn(shape, generator=seed, dtype=double, requires_grad=True) for k in names
    }
    weights = {name: torch.randn(shape, generator=seed, dtype=double) for name in FUNCTIONS}
    model = gn.compile(Rows(FUNCTIONS, _in_domain, 4).double(), backend="interpret")
    found = model(**inputs)
    assert "over time, from the start: persistent" in model.explain()
    eager = {name: _in_domain(name, *(inputs[k] for k in keys(name))) for name in FUNCTIONS}

    def gradients(results: dict[str, Tensor]) -> dict[str, Tensor]:
        total = sum((results[name] * w).sum() for name, w in weights.items())
        total = total + 0.0 * sum(x.sum() for x in inputs.values())
        found = torch.autograd.grad(total, list(inputs.values()))
        return {**results, **dict(zip(inputs, found, strict=True))}

    return gradients(found), gradients(eager)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_row_has_the_results_and_gradients_of_torch_in_kernels(
    name: str, kernel_gradients: tuple[dict[str, Tensor], dict[str, Tensor]]
) -> None:
    got, wanted = kernel_gradients
    for key in (name, *keys(name)):
        what = "result" if key == name else f"gradient of operand {key[-1]}"
        torch.testing.assert_close(
            got[key],
            wanted[key],
            rtol=0,
            atol=1e-9,
            msg=lambda text, what=what: f"the row '{name}' in kernels, {what}: {text}",
        )


def test_kernels_support_every_row_that_names_a_torch_function() -> None:
    """All rows in one loop, each depending on all; if one differs, a test above names it."""
    net = Functions(FUNCTIONS, loop=True)
    model = gn.compile(net, backend="interpret")
    assert_same(
        _outputs_and_gradients(net.eager, FUNCTIONS), _outputs_and_gradients(model, FUNCTIONS), 1e-9
    )
    text = model.explain()
    assert "falls back:" not in text and "over time, from the start: persistent" in text
