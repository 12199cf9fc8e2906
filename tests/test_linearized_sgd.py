"""Minibatch noise of the linear model: against all minibatches, and against seeds."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.typing import DTypeLike

from lazyjax import empirical_ntk
from lazyjax.dynamics import linear_dynamics, linearized_sgd, observers, train
from tests.helpers import two_layer
from tests.helpers.compare import assert_close, relative_error

pytestmark = pytest.mark.once

SAMPLINGS = ["replacement", "subset"]


def problem(shared, n=3, k=2, n_test=2, dtype: DTypeLike = np.float64):
    rng = np.random.default_rng([n, k, n_test])
    outputs = 1 if shared else k
    size = (n + n_test) * outputs
    features = rng.normal(size=(size, size + 1)) / size**0.5
    gram = (features @ features.T).reshape(n + n_test, outputs, n + n_test, outputs)
    gram = gram.transpose(0, 2, 1, 3)
    if shared:
        gram = gram[:, :, 0, 0]
    y, f0 = rng.normal(size=(2, n, k))
    f0_test = rng.normal(size=(n_test, k))
    return [a.astype(dtype) for a in (gram[:n, :n], y, f0, gram[n:, :n], f0_test)]


def moved(kernel, gradients):
    """What gradients of training points add to outputs, entry by entry."""
    if kernel.ndim == 2:
        return kernel @ gradients
    return np.einsum("ijab,jb->ia", kernel, gradients)


def all_minibatches(n, batch_size, sampling):
    if sampling == "replacement":
        return list(itertools.product(range(n), repeat=batch_size))
    return list(itertools.combinations(range(n), batch_size))


def oracle(arrays, rates, batch_size, sampling):
    """Moments of outputs, train and test, over all sequences of minibatches."""
    ntk, y, f0, cross, f0_test = arrays
    minibatches = all_minibatches(len(y), batch_size, sampling)
    ends = []
    for sequence in itertools.product(minibatches, repeat=len(rates)):
        f, f_test = f0, f0_test
        for rate, minibatch in zip(rates, sequence, strict=True):
            gradients = np.zeros_like(y)
            for i in minibatch:
                gradients[i] += f[i] - y[i]
            f, f_test = (
                f - rate * moved(ntk, gradients),
                f_test - rate * moved(cross, gradients),
            )
        ends.append((f, f_test))
    moments = []
    for values in map(np.stack, zip(*ends, strict=True)):
        mean = values.mean(0)
        covariance = np.einsum("sia,sjb->ijab", values - mean, values - mean)
        moments.append((mean, covariance / len(values)))
    loss = np.mean([np.square(f - y).sum() / 2 for f, _ in ends])
    return moments, loss


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_moments_are_those_over_all_sequences_of_minibatches(
    x64, batch_size, shared, sampling
):
    arrays = problem(shared)
    ntk, y, f0, cross, f0_test = arrays
    rates = np.array([0.3, 0.5]) if batch_size == 3 else np.array([0.3, 0.5, 0.2])
    steps = np.array([len(rates), 0, 1])
    found = linearized_sgd(
        ntk,
        y,
        f0,
        steps,
        learning_rate=rates,
        batch_size=batch_size,
        sampling=sampling,
        ntk_test_train=cross,
        f0_test=f0_test,
    )
    assert found.mean_test is not None
    assert found.covariance_test is not None
    for index, step in enumerate(steps):
        moments, loss = oracle(arrays, rates[:step], batch_size, sampling)
        (mean, covariance), (mean_test, covariance_test) = moments
        assert_close(found.mean[index], mean, 1e-10)
        assert_close(found.mean_test[index], mean_test, 1e-10)
        assert_close(found.loss[index], loss, 1e-10)
        scale = 1 + np.zeros_like(covariance)  # covariances may be 0
        assert_close(found.covariance[index] + scale, covariance + scale, 1e-10)
        scale = 1 + np.zeros_like(covariance_test)
        actual = found.covariance_test[index]
        assert_close(actual + scale, covariance_test + scale, 1e-10)
    n, k = y.shape
    of_each = [[found.covariance[0, i, i, a, a] for a in range(k)] for i in range(n)]
    assert_close(found.variance[0], np.array(of_each))
    is_random = batch_size < 3 or sampling == "replacement"
    assert (np.max(found.variance[0]) > 1e-3) == is_random


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_moments_are_those_over_seeds_of_sgd(sampling):
    arrays = two_layer.problem(np.float32, n=6, k=2)[1:]
    x, y = map(jnp.asarray, arrays)
    linear = lambda w, x: x @ w
    start = jnp.ones((3, 2), jnp.float32)
    options: dict[str, Any] = {"batch_size": 2, "sampling": sampling}
    num_seeds = 4000

    def outputs(key):
        run = train(
            linear,
            start,
            x,
            y,
            optimizer=optax.sgd(0.15),
            num_steps=12,
            key=key,
            observe=[observers.outputs, observers.loss],
            observe_at=[3, 12],
            **options,
        )
        return run.observations

    seen = jax.vmap(outputs)(jax.random.split(jax.random.key(0), num_seeds))
    f = np.asarray(seen["outputs"], np.float64).reshape(num_seeds, 2, -1)
    exact = linearized_sgd(
        x @ x.T, y, linear(start, x), np.array([3, 12]), learning_rate=0.15, **options
    )
    for index in range(2):
        mean = np.asarray(exact.mean[index], np.float64).ravel()
        sem = f[:, index].std(0) / num_seeds**0.5
        assert (np.abs(f[:, index].mean(0) - mean) < 5 * sem).all()
        products = (f[:, index] - mean)[:, :, None] * (f[:, index] - mean)[:, None]
        covariance = np.asarray(exact.covariance[index], np.float64)
        covariance = covariance.transpose(0, 2, 1, 3).reshape(12, 12)
        sem = products.std(0) / num_seeds**0.5
        assert (np.abs(products.mean(0) - covariance) < 5 * sem + 1e-6).all()
        assert sem.max() < 0.05 * np.abs(covariance).max()
    loss = np.asarray(seen["loss"], np.float64)
    sem = loss.std(0) / num_seeds**0.5
    assert (np.abs(loss.mean(0) - np.asarray(exact.loss)) < 5 * sem).all()


@pytest.mark.slow
def test_a_network_of_large_outputs_has_the_noise_of_its_linear_model():
    params, x, y = jax.tree.map(jnp.asarray, two_layer.problem(np.float32))
    options: dict[str, Any] = {"batch_size": 2, "sampling": "subset"}
    keys = jax.random.split(jax.random.key(1), 4000)
    ntk = empirical_ntk(two_layer.apply, params, x)
    exact = linearized_sgd(ntk, y, 0 * y, 20, learning_rate=0.15, **options)
    mean, variance = np.asarray(exact.mean), np.asarray(exact.variance)

    def worst(alpha):
        def apply(u, x):  # alpha h(w0 + u / alpha)
            at = jax.tree.map(lambda w, step: w + step / alpha, params, u)
            return alpha * (two_layer.apply(at, x) - two_layer.apply(params, x))

        def end(key):
            start = jax.tree.map(jnp.zeros_like, params)
            run = train(
                apply,
                start,
                x,
                y,
                optimizer=optax.sgd(0.15),
                num_steps=20,
                key=key,
                observe=[observers.outputs],
                observe_at=[20],
                **options,
            )
            return run.observations["outputs"][0]

        f = np.asarray(jax.vmap(end)(keys), np.float64)
        gaps = f.mean(0) - mean, (f - f.mean(0)) ** 2 - variance
        sems = (np.std(v, 0) / len(keys) ** 0.5 for v in (f, gaps[1]))
        means = gaps[0], gaps[1].mean(0)
        return [np.max(np.abs(m) / s) for m, s in zip(means, sems, strict=True)]

    assert max(worst(1000.0)) < 5
    assert min(worst(1.0)) > 5


def test_whole_batches_are_gradient_descent_without_noise(dtype):
    ntk, y, f0, *_ = problem(shared=False, n=5, dtype=dtype)
    flow = linear_dynamics(ntk, y, f0)
    steps = np.array([0, 1, 50])
    sgd = linearized_sgd(
        ntk, y, f0, steps, learning_rate=0.3, batch_size=5, sampling="subset"
    )
    assert sgd.mean.dtype == sgd.covariance.dtype == dtype
    assert not np.any(sgd.covariance)
    assert_close(sgd.mean, flow.gradient_descent(steps, 0.3), "other_algorithm")
    assert_close(sgd.loss, flow.gradient_descent_loss(steps, 0.3), "other_algorithm")


def test_noise_grows_with_the_rate_and_dies_where_all_is_fitted():
    ntk, y, f0, *_ = problem(shared=True, n=8, k=1, dtype=np.float32)
    options: dict[str, Any] = {"batch_size": 2, "sampling": "replacement"}

    def spread(rate, step):
        sgd = linearized_sgd(ntk, y, f0, step, learning_rate=rate, **options)
        return float(jnp.sum(sgd.variance))

    assert spread(0.1, 20) > 2 * spread(0.05, 40)  # at one time
    assert spread(0.1, 10_000) < 1e-3 * spread(0.1, 100)
    # A kernel of rank 1 cannot fit: its noise stays, and nothing grows.
    flat = linearized_sgd(
        jnp.ones((4, 4)),
        jnp.arange(4.0)[:, None],
        jnp.zeros((4, 1)),
        np.array([500, 1000]),
        learning_rate=0.1,
        **options,
    )
    assert_close(flat.variance[0], flat.variance[1], 1e-4)
    assert flat.variance[0, 0, 0] > 1e-2
    # f <- f - eta sum over the minibatch of f - y: an autoregression of variance
    # eta^2 B Var(y) / (1 - E (1 - eta B)^2), as the sum of f - y is B f minus that of y.
    exact = 0.1**2 * 2 * np.var(np.arange(4.0)) / (1 - (1 - 0.2) ** 2)
    assert_close(flat.variance[0, 0, 0], np.float32(exact), 1e-4)


def test_steps_map_and_compile_under_jit():
    ntk, y, f0, cross, f0_test = problem(shared=False, dtype=np.float32)
    options: dict[str, Any] = {"batch_size": 2, "sampling": "subset"}

    def at(step, rate):
        return linearized_sgd(
            ntk,
            y,
            f0,
            step,
            learning_rate=rate,
            ntk_test_train=cross,
            f0_test=f0_test,
            **options,
        )

    one = at(4, 0.2)
    assert one.mean.shape == (3, 2)
    shapes = jax.tree.map(jnp.shape, (one.covariance_test, one.variance_test))
    assert shapes == ((2, 2, 2, 2), (2, 2))
    both = jax.jit(jax.vmap(at, (None, 0)))(4, jnp.array([0.2, 0.4]))
    assert_close(both.covariance[0], one.covariance, "same_algebra")
    assert relative_error(both.covariance[1], one.covariance) > 0.1
    assert at(np.array([[4], [1]]), 0.2).loss.shape == (2, 1)
    diverged = at(np.array([3000]), 50.0)
    assert not np.isfinite(diverged.loss).any()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"batch_size": 0}, ValueError, "`batch_size` must be at least 1"),
        ({"batch_size": 4}, ValueError, "`batch_size` must be at most 3"),
        ({"batch_size": 1.0}, TypeError, "`batch_size` must be an integer"),
        ({"sampling": "shuffle"}, ValueError, "`sampling` must be one of"),
        ({"learning_rate": -0.1}, ValueError, "`learning_rate` must be finite, zero"),
        ({"learning_rate": np.ones(1)}, ValueError, "a rate for each of 2 steps"),
        ({"step": -1}, ValueError, "`step` must be zero or positive"),
        ({"step": 1.5}, TypeError, "`step` must hold integers"),
        ({"y": np.ones((2, 2), np.float32)}, ValueError, "`ntk` must have shape"),
        ({"f0_test": np.ones((2, 2), np.float32)}, ValueError, "`ntk_test_train` is"),
    ],
)
def test_misuse_is_refused_by_name(own_errors, changes, error, message):
    ntk, y, f0, *_ = problem(shared=False, dtype=np.float32)
    given: dict[str, Any] = {"ntk": ntk, "y": y, "f0": f0, "step": 2}
    given |= {"learning_rate": 0.1, "batch_size": 2, "sampling": "subset"}
    with pytest.raises(error, match=message):
        linearized_sgd(**(given | changes))
