"""Infinite-width kernels in single precision, deep, and where inputs coincide."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lazyjax import Architecture, data, infinite_nngp, infinite_ntk
from tests.helpers.compare import assert_close, relative_error

pytestmark = pytest.mark.once

EPS = float(jnp.finfo(jnp.float32).eps)


def unit_rows(n: int, d: int) -> np.ndarray:
    x = np.random.default_rng(0).normal(size=(n, d))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def assert_semidefinite_to_rounding(name: str, source: str, n: int) -> None:
    """Asserts, and prints what `benchmarks/NOTES.md` states, for `pytest -s`."""
    x = unit_rows(n, 20)
    if source == "digits":
        x = np.asarray(data.digits(n, num_test=0).x_train)
    x = x.astype(np.float32)
    spec = Architecture(
        depth=3, activation=name, w_std=math.sqrt(2), input_scaling="none"
    )
    single = infinite_ntk(spec, x)
    assert single.dtype == jnp.float32
    gram = np.asarray(single, np.float64)
    with jax.enable_x64(True):
        truth = np.linalg.eigvalsh(infinite_ntk(spec, x.astype(np.float64)))
    asymmetry = np.abs(gram - gram.T).max()
    eigenvalues = np.linalg.eigvalsh(gram)
    print(  # noqa: T201 - what `-s` is for
        f"\n{name} {source} n={n}: eigenvalues {eigenvalues[0]:.6g} to "
        f"{eigenvalues[-1]:.6g}, in double precision {truth[0]:.6g} to "
        f"{truth[-1]:.6g}, asymmetry {asymmetry:.1g}"
    )
    assert asymmetry == 0
    # Rounding of entries, if at random, moves eigenvalues by eps |K| sqrt(n) at most.
    noise = 8 * EPS * np.abs(gram).max() * math.sqrt(n)
    assert eigenvalues[0] >= -noise
    assert abs(eigenvalues[0] - truth[0]) <= noise


@pytest.mark.parametrize(("name", "source"), [("relu", "digits"), ("erf", "sphere")])
def test_kernels_in_single_precision_are_semidefinite_to_rounding(
    name: str, source: str
) -> None:
    assert_semidefinite_to_rounding(name, source, 500)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["relu", "erf"])
@pytest.mark.parametrize(("source", "n"), [("sphere", 2000), ("digits", 1700)])
def test_large_kernels_in_single_precision_are_semidefinite_to_rounding(
    name: str, source: str, n: int
) -> None:
    assert_semidefinite_to_rounding(name, source, n)


# Weights at the edge of chaos and, for bounded activations, in their chaotic phase,
# where 50 layers multiply the tangent kernel by the same factor again and again.
DEEP = [
    ("relu", math.sqrt(2), 0.0),
    ("relu", 1.0, 0.5),
    ("erf", 1.5, 0.1),
    ("tanh", 1.0, 0.0),
    ("tanh", 1.5, 0.1),
]


@pytest.mark.parametrize(("name", "w_std", "b_std"), DEEP)
@pytest.mark.parametrize("kernel_fn", [infinite_ntk, infinite_nngp])
@pytest.mark.sampled(3)
def test_fifty_layers_are_those_of_double_precision(
    name: str, w_std: float, b_std: float, kernel_fn: Any
) -> None:
    spec = Architecture(depth=50, activation=name, w_std=w_std, b_std=b_std)
    x = 3 * unit_rows(5, 10)
    x[1] = -x[0]
    gram = kernel_fn(spec, x.astype(np.float32))
    with jax.enable_x64(True):
        truth = kernel_fn(spec, x)
    # Correlations near 1 lose half their digits to a kink.
    assert_close(gram, np.asarray(truth), 1e-3)


@pytest.mark.parametrize(
    "name", ["erf", "relu", pytest.param("tanh", marks=pytest.mark.slow)]
)
@pytest.mark.sampled(2)
def test_gradients_are_finite_at_equal_and_opposite_inputs(
    name: str, dtype: jnp.dtype
) -> None:
    is_one_batch = dtype == jnp.float32  # two in double precision: each once
    rows = unit_rows(2, 3)
    x = jnp.asarray([rows[0], rows[0], -rows[0], rows[1], 0 * rows[0]], dtype)
    spec = Architecture(depth=2, activation=name, w_std=1.3)

    def totals(x: jax.Array) -> jax.Array:
        other = None if is_one_batch else x
        return jnp.sum(infinite_ntk(spec, x, other) + infinite_nngp(spec, x, other))

    value, gradient = jax.jit(jax.value_and_grad(totals))(x)
    assert value.dtype == dtype
    assert jnp.isfinite(value)
    assert jnp.isfinite(gradient).all()


@pytest.mark.parametrize("name", ["erf", pytest.param("tanh", marks=pytest.mark.slow)])
def test_gradients_at_equal_and_opposite_inputs_are_those_of_finite_differences(
    name: str, x64: None
) -> None:
    row = unit_rows(1, 2)[0]
    x = jnp.asarray([row, row, -row])
    weights = jnp.asarray(np.random.default_rng(1).normal(size=(3, 3)))
    spec = Architecture(depth=2, activation=name, w_std=1.3)
    total = jax.jit(lambda x: jnp.sum(weights * infinite_ntk(spec, x)))
    expected = np.zeros(x.shape)
    for index in np.ndindex(x.shape):
        step = jnp.zeros_like(x).at[index].set(1e-5)
        expected[index] = (total(x + step) - total(x - step)) / 2e-5
    # Central differences of step 1e-5 are good to about 1e-9.
    assert_close(jax.grad(total)(x), expected, 1e-7)


def test_deep_and_shallow_kernels_differ_by_more_than_is_allowed_for() -> None:
    x = 3 * unit_rows(5, 10).astype(np.float32)
    specs = [Architecture(depth=depth, w_std=math.sqrt(2)) for depth in (49, 50)]
    grams = [infinite_ntk(spec, x) for spec in specs]
    assert relative_error(*grams) > 1e-2
