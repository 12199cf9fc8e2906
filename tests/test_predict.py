"""Predictions of infinitely wide networks against float64 formulas, written out."""

import math
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.stats

from lazyjax import Architecture, linear_dynamics
from lazyjax.infinite.predict import (
    Grams,
    log_marginal_likelihood,
    nngp_grams,
    ntk_grams,
    posterior,
    trained_ensemble,
)
from lazyjax.linalg import SingularKernelWarning
from tests.helpers.compare import assert_close, relative_error

pytestmark = pytest.mark.once

SPEC = Architecture(depth=2, w_std=1.5, b_std=0.1)


def problem() -> tuple[Grams, Grams, jax.Array]:
    rng = np.random.default_rng(0)
    x, x_test, y = (
        jnp.asarray(rng.normal(size=shape)) for shape in ((6, 4), (3, 4), (6, 2))
    )
    return nngp_grams(SPEC, x, x_test), ntk_grams(SPEC, x, x_test), y


def test_posterior_is_the_conditional_gaussian(x64: None) -> None:
    nngp, _, y = problem()
    k, cross, test = (np.asarray(a) for a in (nngp.train, nngp.cross, nngp.test))
    for noise_sq in (0.0, 0.3):
        inverse = np.linalg.inv(k + noise_sq * np.eye(6))
        it = posterior(nngp, y, noise_sq=noise_sq)
        assert_close(it.mean, cross @ inverse @ y)
        assert_close(it.covariance, test - cross @ inverse @ cross.T, 1e-12)
        assert it.num_dropped == 0
    assert relative_error(posterior(nngp, y, noise_sq=0.31).mean, it.mean) > 1e-3


@pytest.mark.parametrize("time", [0.0, 0.05, 2.0, math.inf])
def test_ensemble_follows_the_matrix_exponential(time: float, x64: None) -> None:
    nngp, ntk, y = problem()
    theta = np.asarray(ntk.train)
    decay = np.zeros((6, 6)) if time == math.inf else scipy.linalg.expm(-theta * time)
    a = np.asarray(ntk.cross) @ np.linalg.inv(theta) @ (np.eye(6) - decay)
    k, cross = np.asarray(nngp.train), np.asarray(nngp.cross)
    covariance = nngp.test + a @ k @ a.T - a @ cross.T - cross @ a.T
    it = trained_ensemble(nngp, ntk, y, time=time)
    scale = float(np.abs(y).max())  # absolute: at time 0 the mean is 0
    assert np.abs(it.mean - a @ y).max() < 1e-11 * scale
    assert_close(it.covariance, covariance, 1e-11)


def test_ensemble_of_sampled_networks_has_this_mean_and_covariance(x64: None) -> None:
    # Members drawn as Gaussians, and trained by many small steps of the linear model.
    nngp, ntk, y = problem()
    time, num_steps = 0.3, 2000
    joint = np.block(
        [[np.asarray(nngp.train), np.asarray(nngp.cross).T],
         [np.asarray(nngp.cross), np.asarray(nngp.test)]]
    )  # fmt: skip
    draws = np.random.default_rng(1).multivariate_normal(np.zeros(9), joint, 4000)
    f, f_test = draws[:, :6].T, draws[:, 6:].T
    for _ in range(num_steps):
        residual = f - np.asarray(y)[:, :1]
        f = f - time / num_steps * np.asarray(ntk.train) @ residual
        f_test = f_test - time / num_steps * np.asarray(ntk.cross) @ residual
    it = trained_ensemble(nngp, ntk, y[:, :1], time=time)
    sem = f_test.std(1, ddof=1) / math.sqrt(4000)
    assert (np.abs(f_test.mean(1) - it.mean[:, 0]) < 5 * sem).all()
    spread = np.cov(f_test)
    assert (np.abs(np.diag(spread) / it.variance - 1) < 5 * math.sqrt(2 / 4000)).all()


def test_training_the_last_layer_to_the_end_is_the_posterior(x64: None) -> None:
    nngp, _, y = problem()
    end, exact = trained_ensemble(nngp, nngp, y), posterior(nngp, y)
    assert_close(end.mean, exact.mean)
    assert_close(end.covariance, exact.covariance, 1e-11)


def test_likelihood_is_that_of_scipy(x64: None) -> None:
    nngp, _, y = problem()
    covariance: Any = np.asarray(nngp.train) + 0.2 * np.eye(6)
    logpdf = scipy.stats.multivariate_normal.logpdf
    expected = sum(
        logpdf(column, np.zeros(6), covariance) for column in np.asarray(y).T
    )
    assert_close(log_marginal_likelihood(nngp.train, y, noise_sq=0.2), expected)


@pytest.mark.parametrize("time", [0.0, 1.0, 1e30, math.inf])
@pytest.mark.sampled(2)
def test_singular_kernels_are_reported_and_give_no_nan(
    time: float, dtype: jnp.dtype
) -> None:
    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)), dtype)
    x = x.at[4].set(x[3])  # one input twice, with two targets
    y = jnp.arange(5.0, dtype=dtype)[:, None]
    nngp, ntk = nngp_grams(SPEC, x, x[:2]), ntk_grams(SPEC, x, x[:2])
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        bayesian = posterior(nngp, y)
        trained = trained_ensemble(nngp, ntk, y, time=time)
        likelihood = log_marginal_likelihood(nngp.train, y)
    assert {warning.category for warning in seen} == {SingularKernelWarning}
    # What does not decay is dropped at the end of training, and long before.
    is_warned = trained.num_dropped == 1 and time > 1
    assert len(seen) == (3 if is_warned else 2)
    assert bayesian.num_dropped == 1
    assert_close(bayesian.dropped_share, 0.5 / 30, 1e-3)
    # The tangent kernel of a kinked activation sees rounding through a square root.
    assert trained.num_dropped <= 1
    for it in (bayesian, trained):
        assert it.condition > 1e6
        assert it.mean.dtype == dtype
        for leaf in (it.mean, it.covariance):
            assert jnp.isfinite(leaf).all()
    assert jnp.isfinite(likelihood)
    if time == math.inf:  # it fits what it can
        assert_close(it.mean, y[:2], "other_algorithm")


def test_jit_and_gradients_agree_with_eager(x64: None) -> None:
    nngp, ntk, y = problem()
    mean = lambda t: trained_ensemble(nngp, ntk, y, time=t).mean.sum()
    assert_close(jax.jit(mean)(0.7), mean(0.7))
    numeric = (mean(0.7 + 1e-6) - mean(0.7 - 1e-6)) / 2e-6
    assert_close(jax.grad(mean)(0.7), numeric, 1e-7)  # as central differences allow


def test_misuse_is_refused_by_name(own_errors: None) -> None:
    one = jnp.ones((1, 1))
    grams = Grams(train=one, cross=one, test=one)
    with pytest.raises(ValueError, match=r"`y` must have shape \(1, 1\)"):
        posterior(grams, jnp.ones((2, 1)))
    with pytest.raises(ValueError, match="`noise_sq` must be finite, zero or"):
        posterior(grams, one, noise_sq=-1.0)
    with pytest.raises(ValueError, match=r"`time` must be zero or positive; got -1\.0"):
        trained_ensemble(grams, grams, one, time=-1.0)
    with pytest.raises(ValueError, match="`ntk` must have shapes"):
        trained_ensemble(grams, Grams(train=one, cross=jnp.ones((2, 1)), test=one), one)
    with pytest.raises(TypeError, match="`nngp` must be Grams"):
        posterior((one, one, one), one)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="`nngp_train` must be finite"):
        log_marginal_likelihood(one * jnp.nan, one)


@pytest.mark.parametrize("noise_sq", [math.inf, 1e300, "1", None, np.ones(2)])
def test_noise_that_is_no_finite_number_is_refused(
    noise_sq: Any, own_errors: None
) -> None:
    one = jnp.ones((1, 1), jnp.float32)
    grams = Grams(train=one, cross=one, test=one)
    with pytest.raises((ValueError, TypeError), match="`noise_sq` must be"):
        posterior(grams, one, noise_sq=noise_sq)
    with pytest.raises((ValueError, TypeError), match="`noise_sq` must be"):
        log_marginal_likelihood(one, one, noise_sq=noise_sq)


@pytest.mark.parametrize(
    ("matrix", "word"),
    [
        ([[1.0, 0.9], [0.0, 1.0]], "symmetric"),
        ([[1.0, 2.0], [2.0, 1.0]], "positive semidefinite"),
        ([[-1.0, 0.0], [0.0, -1.0]], "positive semidefinite"),
    ],
)
def test_what_is_no_kernel_is_refused(matrix: list, word: str) -> None:
    k, y = jnp.array(matrix), jnp.array([[1.0], [0.0]])
    grams, good = (Grams(train=m, cross=m, test=m) for m in (k, jnp.eye(2)))
    with pytest.raises(ValueError, match=f"`nngp.train` must be {word}"):
        posterior(grams, y)
    with pytest.raises(ValueError, match=f"`nngp_train` must be {word}"):
        log_marginal_likelihood(k, y)
    for time in (1.0, math.inf):
        with pytest.raises(ValueError, match=f"`ntk.train` must be {word}"):
            trained_ensemble(good, grams, y, time=time)


def test_likelihood_of_a_tiny_kernel_is_that_of_scipy() -> None:
    k = jnp.eye(2, dtype=jnp.float32) * 1e-36
    y = jnp.full((2, 1), 1e-18, jnp.float32)
    found = log_marginal_likelihood(k, y)
    expected = scipy.stats.norm.logpdf(np.ones(2)).sum() + 36 * math.log(10)
    assert_close(found, expected, 1e-5)


@pytest.mark.parametrize("time", [1e6, 1e10, 1e30, math.inf])
def test_long_training_does_not_blow_rounding_up(time: float) -> None:
    x = jnp.asarray(np.random.default_rng(0).normal(size=(8, 5)), jnp.float32)
    k = x @ x.T  # of rank 5
    y = jnp.arange(8, dtype=jnp.float32)[:, None]
    x64, y64 = np.asarray(x, np.float64), np.asarray(y, np.float64)
    fitted = x64 @ np.linalg.lstsq(x64, y64)[0]
    kernel = Grams(train=k, cross=k, test=k)
    with pytest.warns(SingularKernelWarning, match="3 of its directions"):
        it = trained_ensemble(kernel, kernel, y, time=time)
    assert relative_error(it.mean, fitted) < 1e-5
    assert jnp.abs(it.covariance).max() < 1e-4
    flow = linear_dynamics(k, y, jnp.zeros_like(y))
    with pytest.warns(SingularKernelWarning, match="3 of its directions"):
        on_test = flow.gradient_flow(time, ntk_test_train=k, f0_test=jnp.zeros_like(y))
    assert relative_error(on_test, fitted) < 1e-5
