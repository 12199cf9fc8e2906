"""Slopes and their intervals: against SciPy, and by coverage on synthetic laws."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from lazyjax.laziness import (
    PREDICTIONS,
    kappa,
    linearization_gap,
    log_log_slope,
    mean_and_sem,
    relative_distance,
    relative_parameter_distance,
    scaling,
)
from tests.helpers import two_layer
from tests.helpers.compare import assert_close

pytestmark = pytest.mark.once

WIDTHS = np.array([64.0, 128.0, 256.0, 512.0, 1024.0])


def noisy_law(seed, slope, num_seeds=4, noise=0.3, dtype="float64"):
    rng = np.random.default_rng(seed)
    scatter = np.exp(noise * rng.standard_normal((len(WIDTHS), num_seeds)))
    return (3 * WIDTHS[:, None] ** slope * scatter).astype(dtype)


@pytest.mark.parametrize("slope", [-1.0, -0.5, 0.0, 2.0])
def test_slope_of_an_exact_power_law_is_its_exponent(dtype, mode, slope):
    y = jnp.asarray(3 * WIDTHS**slope, dtype)
    fit = mode(log_log_slope)(jnp.asarray(WIDTHS, dtype), y)
    assert fit.slope.dtype == dtype
    # Absolute, since the exponent may be zero: eps times the size of the logarithms.
    tolerance = 100 * float(jnp.finfo(dtype).eps)
    assert abs(float(fit.slope) - slope) < tolerance
    assert abs(float(fit.intercept) - np.log(3)) < 10 * tolerance
    assert float(fit.slope_sem) < tolerance
    assert_close(fit(jnp.asarray(WIDTHS, dtype)), y)


@pytest.mark.parametrize("num_seeds", [1, 4])
def test_fit_is_that_of_scipy(dtype, num_seeds):
    y = noisy_law(0, -0.5, num_seeds, dtype=dtype)
    fit = log_log_slope(jnp.asarray(WIDTHS, dtype), jnp.asarray(y))
    log_x = np.repeat(np.log(WIDTHS), num_seeds)
    expected: Any = scipy.stats.linregress(log_x, np.log(y.astype(float)).ravel())
    assert_close(fit.slope, expected.slope, "other_algorithm")
    assert_close(fit.intercept, expected.intercept, "other_algorithm")
    assert_close(fit.slope_sem, expected.stderr, "other_algorithm")
    t = scipy.stats.t.ppf(0.975, y.size - 2)
    assert_close(fit.high - fit.low, 2 * t * expected.stderr, "other_algorithm")
    assert_close((fit.high + fit.low) / 2, expected.slope, "other_algorithm")


@pytest.mark.parametrize("degrees", [1, 2, 5, 100])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_interval_is_student_t_at_every_number_of_degrees(x64, degrees, confidence):
    y = noisy_law(1, -0.5, num_seeds=30).ravel()[: degrees + 2]
    x = jnp.linspace(1.0, 2.0, degrees + 2)
    fit = log_log_slope(x, jnp.asarray(y), confidence=confidence)
    t = scipy.stats.t.ppf((1 + confidence) / 2, degrees)
    assert_close((fit.high - fit.slope) / fit.slope_sem, t, 1e-6)


@pytest.mark.parametrize("confidence", [0.5, 0.95])
def test_interval_covers_the_true_slope_as_often_as_it_says(confidence):
    num_trials = 2000
    y = np.stack([noisy_law(seed, -0.5, dtype="float32") for seed in range(num_trials)])
    x = jnp.asarray(WIDTHS, jnp.float32)
    fits = jax.vmap(lambda y: log_log_slope(x, y, confidence=confidence))(y)
    covered = np.mean((fits.low <= -0.5) & (fits.high >= -0.5))
    assert abs(covered - confidence) <= 5 * (0.25 / num_trials) ** 0.5
    # Negative control: another slope is not covered.
    missed = np.mean((fits.low <= -1.0) & (fits.high >= -1.0))
    assert missed < 0.01


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf])
def test_a_value_that_has_no_logarithm_makes_the_fit_nan(bad):
    y = jnp.ones(5, jnp.float32).at[2].set(bad)
    fit = log_log_slope(jnp.asarray(WIDTHS, jnp.float32), y)
    assert np.isnan([fit.slope, fit.slope_sem, fit.low, fit.high]).all()


@pytest.mark.parametrize(
    ("x_shape", "y_shape", "confidence", "message"),
    [
        ((3,), (4,), 0.95, "one row per entry of `x`"),
        ((3, 1), (3,), 0.95, "one row per entry of `x`"),
        ((2,), (2,), 0.95, "at least three values"),
        ((1,), (1, 5), 0.95, "at least three values at two"),
        ((3,), (3,), 1.0, "`confidence` must be between"),
    ],
)
def test_slope_refuses_bad_arguments(own_errors, x_shape, y_shape, confidence, message):
    with pytest.raises(ValueError, match=message):
        log_log_slope(
            jnp.ones(x_shape, jnp.float32),
            jnp.ones(y_shape, jnp.float32),
            confidence=confidence,
        )


def test_integer_widths_are_refused_by_name(own_errors):
    with pytest.raises(TypeError, match="`x` must be a real floating-point array"):
        log_log_slope(jnp.arange(1, 5), jnp.ones(4, jnp.float32))


def test_mean_and_sem_are_those_of_numpy(dtype, mode):
    values = np.random.default_rng(0).standard_normal((3, 7)).astype(dtype)
    mean, sem = mode(mean_and_sem)(jnp.asarray(values))
    assert mean.dtype == sem.dtype == dtype
    assert_close(mean, values.mean(1))
    assert_close(sem, scipy.stats.sem(values, axis=1))


def test_a_single_seed_has_no_standard_error():
    mean, sem = mean_and_sem(jnp.array([[2.0], [3.0]], jnp.float32))
    assert_close(mean, np.array([2.0, 3.0], np.float32), "exact")
    assert np.isnan(sem).all()


def test_relative_distance_is_frobenius_and_broadcasts(dtype, mode):
    rng = np.random.default_rng(0)
    ntk, reference = rng.standard_normal((2, 4, 3, 5)), rng.standard_normal((3, 5))
    expected = np.array(
        [[np.linalg.norm(a - reference) / np.linalg.norm(reference) for a in row]
         for row in ntk]
    )  # fmt: skip
    actual = mode(relative_distance)(
        jnp.asarray(ntk, dtype), jnp.asarray(reference, dtype)
    )
    assert actual.dtype == dtype
    assert_close(actual, expected)


@pytest.mark.parametrize("scale", [1e-30, 1e-15, 1.0, 1e15, 1e30])
def test_relative_distance_does_not_depend_on_the_scale(scale):
    kernel = np.random.default_rng(0).normal(size=(2, 3, 4)) * scale
    near = [(factor * kernel).astype(np.float32) for factor in (1.1, 1.0)]
    assert_close(relative_distance(*near), np.full(2, 0.1, np.float32), 1e-5)
    outputs = kernel.astype(np.float32)
    gap = linearization_gap(outputs, 0 * outputs)
    expected = np.linalg.norm(kernel, axis=(1, 2)).max() / scale
    assert_close(gap / np.float32(scale), np.float32(expected), 1e-5)


def test_relative_distance_of_zero_and_of_nan_is_nan():
    zero, one = np.zeros((2, 2), np.float32), np.ones((2, 2), np.float32)
    assert np.isnan(relative_distance(zero, zero))
    assert np.isnan(relative_distance(one, np.nan * one))
    assert np.isposinf(relative_distance(one, zero))


def test_relative_distance_is_not_symmetric():
    a, b = jnp.eye(2, dtype=jnp.float32), 2 * jnp.eye(2, dtype=jnp.float32)
    assert float(relative_distance(a, b)) == 0.5
    assert float(relative_distance(b, a)) == 1.0


def test_movement_is_relative_to_the_start(dtype):
    start = {"a": np.full(3, 2.0, dtype), "b": np.ones((2, 2), dtype)}
    moved = {"a": np.full(3, 2.0, dtype), "b": np.full((2, 2), 3.0, dtype)}
    actual = relative_parameter_distance(
        jax.tree.map(jnp.asarray, moved), jax.tree.map(jnp.asarray, start)
    )
    assert_close(actual, np.asarray(4 / 16**0.5, dtype))


def test_gap_is_the_largest_norm_over_time(dtype):
    rng = np.random.default_rng(0)
    f, f_linear = rng.normal(size=(2, 5, 3, 2)).astype(dtype)
    expected = max(np.linalg.norm(a - b) for a, b in zip(f, f_linear, strict=True))
    assert_close(linearization_gap(f, f_linear), np.asarray(expected, dtype))
    f[2, 0, 0] = np.nan
    assert np.isnan(linearization_gap(f, f_linear))


# --- kappa ----------------------------------------------------------------------------

KEY = jax.random.key(0)


def hessians(params, x):
    """Second derivatives of all outputs in all parameters, by central differences."""
    names = list(params)
    sizes = [params[name].size for name in names]
    flat = np.concatenate([params[name].ravel() for name in names])

    def jacobian(flat):
        parts = np.split(flat, np.cumsum(sizes)[:-1])
        tree = {
            name: part.reshape(params[name].shape)
            for name, part in zip(names, parts, strict=True)
        }
        return two_layer.oracle_jacobian(tree, x)

    step, columns = 1e-5, []
    for i in range(flat.size):
        moved = step * np.eye(flat.size)[i]
        columns.append((jacobian(flat + moved) - jacobian(flat - moved)) / (2 * step))
    return np.stack(columns, axis=-1)  # (nk, p, p)


def test_kappa_of_one_output_is_the_norm_of_its_hessian(x64):
    params, x, y = two_layer.problem(n=1, k=1, width=4)
    it = kappa(two_layer.apply, params, x, y, key=KEY, num_rounds=60)
    hessian = np.linalg.norm(hessians(params, x)[0], 2)
    jacobian = np.linalg.norm(two_layer.oracle_jacobian(params, x), 2)
    residual = np.linalg.norm(two_layer.oracle_outputs(params, x) - y)
    assert_close(it.hessian_norm, hessian, 1e-6)
    assert_close(it.jacobian_norm, jacobian)
    assert_close(it.residual_norm, residual)
    assert_close(it.value, residual * hessian / jacobian**2, 1e-6)
    assert 0 <= it.last_change < 1e-6


def test_kappa_of_several_outputs_is_attained_and_no_sample_exceeds_it(x64):
    params, x, y = two_layer.problem(n=3, k=2, width=3)
    it = kappa(two_layer.apply, params, x, y, key=KEY, num_rounds=80, num_starts=8)
    tensors = hessians(params, x)
    # The norm is the largest, over unit vectors c, of that of sum_i c_i H_i.
    draws = np.random.default_rng(0).normal(size=(3000, len(tensors)))
    draws /= np.linalg.norm(draws, axis=1, keepdims=True)
    best = max(np.linalg.norm(np.einsum("i,ijk->jk", c, tensors), 2) for c in draws)
    assert it.hessian_norm >= best * (1 - 1e-6)
    assert it.hessian_norm <= 1.2 * best  # samples come near
    upper = np.linalg.norm(tensors.reshape(len(tensors), -1), 2)
    assert it.hessian_norm <= upper * (1 + 1e-6)


def test_kappa_of_a_linear_model_is_zero_and_falls_like_one_over_alpha(x64):
    params, x, y = two_layer.problem(n=2, k=1, width=4)
    assert kappa(lambda w, x: x @ w, np.ones((3, 1)), x, y, key=KEY).value == 0
    small = {"V": params["V"], "a": 0 * params["a"]}  # zero output
    go = lambda alpha: kappa(two_layer.apply, small, x, y, key=KEY, alpha=alpha)
    values = [go(alpha).value for alpha in (1.0, 100.0)]
    assert_close(values[1], values[0] / 100)
    assert values[0] > 0


def test_kappa_of_a_quadratic_model_is_exact_and_falls_like_the_scale(x64):
    rng = np.random.default_rng(0)
    matrices = rng.standard_normal((3, 4, 4))
    matrices = jnp.asarray(matrices + matrices.swapaxes(1, 2))
    jacobian = jnp.asarray(rng.standard_normal((3, 4)))

    def model(scale):
        def apply_fn(w, x):
            bent = jnp.einsum("nij,i,j->n", matrices, w, w) / 2
            return scale * x @ (jacobian @ w + bent)[:, None]

        return apply_fn

    x, y = jnp.eye(3), jnp.ones((3, 1))
    found = {
        scale: kappa(
            model(scale),
            jnp.zeros(4),
            x,
            y,
            key=jax.random.key(0),
            num_rounds=60,
        )
        for scale in (1.0, 10.0)
    }
    norm = np.linalg.norm(jacobian, 2)
    assert_close(found[1.0].jacobian_norm, norm, 1e-4)
    # From below, and above what random directions give.
    u = rng.standard_normal((2000, 4))
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    bends = np.einsum("nij,ri,rj->rn", matrices, u, u[::-1])
    assert found[1.0].hessian_norm >= np.linalg.norm(bends, axis=1).max()
    upper = np.linalg.norm(np.linalg.norm(matrices, 2, axis=(1, 2)))
    assert found[1.0].hessian_norm <= upper
    assert_close(found[10.0].value, found[1.0].value / 10, 1e-3)


def test_predictions_are_compared_with_the_measured_exponent():
    width = jnp.asarray(WIDTHS, jnp.float32)
    cases = {-0.5: True, -1.0: True, -0.3: False}
    for exponent, verdict in cases.items():
        law = scaling("ntk_drift", width, width**exponent, against="width")
        assert law.agrees() == verdict, exponent
    for exponent, verdict in {-1.0: True, -0.8: False, -1.2: False}.items():
        law = scaling(
            "relative_parameter_distance", width, width**exponent, against="alpha"
        )
        assert law.agrees() == verdict, exponent
    law = scaling("kappa", width, width**-1.2, against="alpha")
    assert law.agrees(allowance=0.3)
    assert "alpha^-1.20 (95% interval -1.20 to -1.20); predicted: equal -1." in (
        law.explain()
    )
    assert not scaling("kappa", width, 0 * width, against="alpha").agrees()  # NaN
    assert set(PREDICTIONS["width"]) == set(PREDICTIONS["alpha"])


def test_misuse_of_measures_is_refused_by_name(own_errors):
    params, x, y = two_layer.problem(np.float32)
    with pytest.raises(ValueError, match=r"`y` must have shape \(5, 2\)"):
        kappa(two_layer.apply, params, x, y[:1], key=KEY)
    with pytest.raises(ValueError, match="`alpha` must be positive"):
        kappa(two_layer.apply, params, x, y, key=KEY, alpha=0.0)
    with pytest.raises(ValueError, match="`num_rounds` must be at least 1"):
        kappa(two_layer.apply, params, x, y, key=KEY, num_rounds=0)
    with pytest.raises(ValueError, match="must have the same shape"):
        linearization_gap(y, y[:1])
    with pytest.raises(ValueError, match="`quantity` must be one of"):
        scaling("drift", WIDTHS, WIDTHS, against="width")
