"""Kernel regression in memory: each rung of the ladder, against closed forms."""

import jax
import numpy as np
import pytest

import lazyjax
from lazyjax.grams import factorize, sketched_features

pytestmark = pytest.mark.once

RNG = np.random.default_rng(0)
A = RNG.normal(size=(12, 5))
REGULAR = A @ A.T + np.eye(12)
SINGULAR = A @ A.T
Y = RNG.normal(size=(12, 2))
CROSS = RNG.normal(size=(3, 12)) @ REGULAR / 10


def test_a_regular_kernel_is_solved_with_by_its_cholesky_factor():
    found = factorize(REGULAR, ridge=0.5)
    inverse = np.linalg.inv(REGULAR + 0.5 * np.eye(12))
    assert (found.rung, found.jitter, found.num_dropped) == ("cholesky", 0.0, 0)
    np.testing.assert_allclose(found.predict(CROSS, Y), CROSS @ inverse @ Y, rtol=1e-9)
    prior = 1 + np.einsum("mn,np,mp->m", CROSS, inverse, CROSS)
    np.testing.assert_allclose(found.variance(CROSS, prior), np.ones(3), rtol=1e-9)
    np.testing.assert_array_equal(found.variance(CROSS, prior - 2), np.zeros(3))
    values = np.linalg.eigvalsh(REGULAR) + 0.5
    assert 0.5 < found.condition / (values[-1] / values[0]) < 2


def test_the_smallest_jitter_that_serves_is_added():
    found = factorize(SINGULAR)
    largest = np.linalg.eigvalsh(SINGULAR)[-1]
    assert found.rung == "cholesky"
    assert 0 < found.jitter < 1e-11 * largest
    right = SINGULAR @ Y  # what can be fitted
    np.testing.assert_allclose(SINGULAR @ found.solve(right), right, rtol=1e-6)
    assert "jitter" in found.explain()


def test_without_jitter_what_is_zero_is_not_fitted():
    found = factorize(SINGULAR, max_jitter=0)
    assert (found.rung, found.num_dropped) == ("pseudo-inverse", 7)
    np.testing.assert_allclose(
        found.solve(Y), np.linalg.pinv(SINGULAR) @ Y, rtol=1e-8, atol=1e-10
    )
    assert np.isnan(factorize(np.zeros((2, 2)), max_jitter=0).condition)


def test_a_store_is_taken_as_the_matrix_of_all_outputs(tmp_path):
    net = lazyjax.nets.mlp(width=16, num_outputs=2)
    x = RNG.normal(size=(4, 3)).astype(np.float32)
    store = lazyjax.gram(
        (net.apply, net.init(jax.random.key(0), x)), x, path=tmp_path, tile=3
    )
    matrix = store.to_array().astype(np.float64).transpose(0, 2, 1, 3).reshape(8, 8)
    right = RNG.normal(size=8).astype(np.float32)
    expected = np.linalg.solve(matrix + np.eye(8), right)
    found = factorize(store, ridge=1.0)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.solve(right), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("ridge", [0.0, 1e-3, 2.0, 1e3])
def test_what_is_no_kernel_is_refused_whatever_the_ridge(ridge):
    with pytest.raises(ValueError, match="`kernel` must be positive semidefinite"):
        factorize(np.diag([1.0, -1.0]), ridge=ridge)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("ridge", [0.0, 1e-3, 1.0, 1e6, 1e12])
def test_kernels_are_not_refused_for_rounding(ridge, dtype):
    features = np.random.default_rng(1).normal(size=(200, 20))
    kernel = (features @ features.T).astype(dtype)
    assert factorize(kernel, ridge=ridge).num_dropped == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: factorize(np.ones((2, 3))), "`kernel` must be a square matrix"),
        (lambda: factorize(np.tri(2)), "`kernel` must be symmetric"),
        (lambda: factorize(np.eye(2), ridge=-1.0), "`ridge`"),
        (lambda: factorize(np.eye(2), max_jitter=-1.0), "`max_jitter`"),
        (lambda: factorize(np.eye(2)).solve(np.ones(3)), "`right` must have 2 rows"),
        (
            lambda: factorize(np.eye(2)).predict(np.ones((1, 3)), np.ones(2)),
            "`cross` must have 2 columns",
        ),
        (
            lambda: factorize(np.eye(2)).variance(np.ones((1, 2)), np.ones(2)),
            "`prior` must have shape",
        ),
    ],
)
@pytest.mark.usefixtures("own_errors")
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("num_outputs", [1, 2])
def test_regression_on_sketches_is_ridge_regression_on_their_features(num_outputs):
    net = lazyjax.nets.mlp(width=8, activation="tanh", num_outputs=num_outputs)
    x = RNG.normal(size=(10, 3)).astype(np.float32)
    params = net.init(jax.random.key(0), x)
    features = sketched_features(
        net.apply, params, x, num_features=6, key=jax.random.key(1)
    )
    y = RNG.normal(size=(10, 2))
    rows = features(x).astype(np.float64).reshape(-1, 6)
    targets = y.reshape(-1, 1) if num_outputs == 2 else y
    weights = np.linalg.solve(rows.T @ rows + 0.1 * np.eye(6), rows.T @ targets)
    found = features.fit(x, y, ridge=0.1).predict(x[:4])
    expected = (rows @ weights).reshape(10, -1)[:4]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
