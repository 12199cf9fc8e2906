"""Forecasts against theory's published numbers, and against what happens."""

import itertools
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits

import lazyjax
from lazyjax import forecast

CUBE = np.array(list(itertools.product([-1.0, 1.0], repeat=8)))
ANGLES = 2 * np.pi * np.arange(256) / 256
CIRCLE = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1)


def _kernel(x):
    """Four hidden ReLU layers, w_std sqrt(2), b_std 0.1; the last layer 1 and 0."""
    hidden = lazyjax.Architecture(depth=4, activation="relu", w_std=2**0.5, b_std=0.1)
    kernel = np.asarray(lazyjax.infinite_ntk(hidden, x), np.float64)
    kernel = (kernel - 0.1**2) / 2
    return kernel / np.trace(kernel)


def _parity(degree):
    return np.prod(CUBE[:, :degree], axis=1)[:, None]


def _wave(degree):
    return np.sqrt(2) * np.cos(degree * ANGLES)[:, None]


def test_the_cubes_eigenvalues_are_those_published(x64):
    values = np.linalg.eigvalsh(_kernel(CUBE))[::-1]
    sizes = [1, 8, 28, 56, 70, 56, 28, 8, 1]
    expected = [0.311514, 0.026811, 0.006459, 0.002150, 0.001299]
    expected += [0.000934, 0.000824, 0.000721, 0.000693]
    np.testing.assert_allclose(values, np.repeat(expected, sizes), atol=5.1e-7)


# Learnability and test error, as published.
PUBLISHED = [
    ("cube", 1, 64, 0.8275, 0.0465),
    ("cube", 3, 64, 0.2777, 0.8148),
    ("cube", 8, 64, 0.1103, 1.2363),
    ("circle", 2, 16, 0.8916, 0.0242),
    ("circle", 10, 64, 0.8218, 0.0681),
]


@pytest.mark.parametrize(("domain", "degree", "size", "learned", "error"), PUBLISHED)
def test_theory_and_100_draws_agree(x64, domain, degree, size, learned, error):
    x, target = (CUBE, _parity) if domain == "cube" else (CIRCLE, _wave)
    kernel, y = _kernel(x), target(degree)
    curve = forecast.learning_curve(kernel, y, sizes=[size], population=True)
    assert curve.test_error[0, 0] == pytest.approx(error, abs=5.1e-5)
    assert curve.train_error[0, 0] == 0
    parts = forecast.learnabilities(kernel, size=size)
    _, vectors = np.linalg.eigh(kernel)
    shares = (vectors[:, ::-1].T @ y)[:, 0] ** 2 / len(x)
    assert np.sum(shares * parts) == pytest.approx(learned, abs=5.1e-5)
    generator = np.random.default_rng(0)
    errors, overlaps = [], []
    for _ in range(100):
        chosen = generator.choice(len(x), size, replace=False)
        dual = np.linalg.solve(kernel[np.ix_(chosen, chosen)], y[chosen])
        outputs = kernel[:, chosen] @ dual
        errors.append(np.mean((outputs - y) ** 2))
        overlaps.append(np.mean(outputs * y))
    if domain == "cube":
        standard_error = np.std(overlaps, ddof=1) / 10
        assert abs(np.mean(overlaps) - learned) < 4 * standard_error
        assert np.mean(errors) == pytest.approx(error, rel=0.05)
    else:
        # In one dimension the theory promises too much, and the docstring says so.
        assert np.mean(errors) > 2 * error


def test_learning_is_conserved(x64):
    """On every draw, learnabilities of all eigenvectors add up to the size."""
    kernel = _kernel(CUBE)
    _, vectors = np.linalg.eigh(kernel)
    basis = vectors * 16
    generator = np.random.default_rng(0)
    for _ in range(50):
        size = int(generator.choice([1, 50, 200]))
        chosen = generator.choice(256, size, replace=False)
        model = lazyjax.linear_dynamics(
            jnp.asarray(kernel[np.ix_(chosen, chosen)]),
            jnp.asarray(basis[chosen]),
            jnp.zeros((size, 256)),
        )
        outputs = model.gradient_flow(
            jnp.inf,
            ntk_test_train=jnp.asarray(kernel[:, chosen]),
            f0_test=jnp.zeros((256, 256)),
        )
        measured = np.mean(np.asarray(outputs) * basis, axis=0)
        assert np.sum(measured) == pytest.approx(size, abs=1e-8)
    for size in (1, 7, 255):
        parts = forecast.learnabilities(kernel, size=size)
        assert np.sum(parts) == pytest.approx(size, abs=1e-9)
    assert np.all(np.diff(parts) <= 1e-12)


@pytest.mark.parametrize("ridge", [1e-2, 1.0])
def test_ridges_of_a_population_are_those_of_the_equations(x64, ridge):
    kernel, y = _kernel(CUBE), _parity(1)
    curve = forecast.learning_curve(
        kernel, y, sizes=[64], ridge=ridge, noise_sq=0.5, population=True
    )
    generator = np.random.default_rng(0)
    tests, trains = [], []
    for _ in range(200):
        chosen = generator.choice(256, 64)  # points may be drawn twice
        labels = y[chosen] + np.sqrt(0.5) * generator.normal(size=(64, 1))
        section = kernel[np.ix_(chosen, chosen)]
        dual = np.linalg.solve(section + ridge * np.eye(64), labels)
        # The equations' error has the noise of new labels in it.
        tests.append(np.mean((kernel[:, chosen] @ dual - y) ** 2) + 0.5)
        trains.append(np.mean((section @ dual - labels) ** 2))
    assert curve.test_error[0, 0] == pytest.approx(np.mean(tests), rel=0.05)
    assert curve.train_error[0, 0] == pytest.approx(np.mean(trains), rel=0.05)


def _digits():
    data: Any = load_digits()
    x = data.data / np.linalg.norm(data.data, axis=1, keepdims=True) * 8
    y = np.eye(10)[data.target] - 0.1
    architecture = lazyjax.Architecture(depth=2, w_std=2**0.5, b_std=0.1)
    return np.asarray(lazyjax.infinite_ntk(architecture, x), np.float64), y


def _held_out(kernel, y, size, ridge, num_draws, seed=0):
    """Mean over training sets of the error on all other examples, for each output."""
    generator = np.random.default_rng(seed)
    errors = []
    for _ in range(num_draws):
        order = generator.permutation(len(y))
        chosen, rest = order[:size], order[size:]
        section = kernel[np.ix_(chosen, chosen)] + ridge * np.eye(size)
        outputs = kernel[np.ix_(rest, chosen)] @ np.linalg.solve(section, y[chosen])
        errors.append(np.mean((outputs - y[rest]) ** 2, axis=0))
    return np.mean(errors, axis=0)


@pytest.mark.once
@pytest.mark.parametrize("ridge", [0.0, pytest.param(3.0, marks=pytest.mark.slow)])
def test_errors_on_digits_are_forecast_within_a_tenth(x64, ridge):
    kernel, y = _digits()
    sizes = [20, 100, 1000]
    curve = forecast.learning_curve(kernel, y, sizes=sizes, ridge=ridge)
    measured = [
        _held_out(kernel, y, size, ridge, num_draws=max(2, 600 // size))
        for size in sizes
    ]
    found = forecast.score(curve, np.sum(measured, axis=1))
    assert found.worst < 0.1
    # Classes apart: the order of their difficulty, and each within a fifth.
    np.testing.assert_allclose(curve.test_error[-1], measured[-1], rtol=0.2)
    hardest, easiest = np.argmax(measured[-1]), np.argmin(measured[-1])
    assert curve.test_error[-1, hardest] > 2 * curve.test_error[-1, easiest]
    # The equations of a population alone are off by more: this is not for show.
    plain = forecast.learning_curve(
        kernel, y, sizes=[1000], ridge=ridge, population=True
    )
    held_out = len(y) * plain.test_error[0] - 1000 * plain.train_error[0]
    off = np.sum(held_out) / (len(y) - 1000) / np.sum(measured[-1])
    assert abs(off - 1) > 0.1


@pytest.mark.once
def test_noise_and_ridges_are_forecast_from_a_sample():
    """Two features, and noise: the best ridge is neither 0 nor infinite."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(400, 2))
    kernel = np.exp(-np.sum((x[:, None] - x[None]) ** 2, axis=2))
    y = np.sin(x[:, :1]) + generator.normal(size=(400, 1))
    ridge, curve = forecast.optimal_ridge(kernel, y, size=200)
    errors = {
        r: _held_out(kernel, y, 200, r, num_draws=20)[0]
        for r in (ridge / 10, ridge, ridge * 10, 1e3)
    }
    assert min(errors, key=lambda r: errors[r]) == ridge
    assert curve.test_error[0, 0] == pytest.approx(errors[ridge], rel=0.05)
    for other in errors:
        found = forecast.learning_curve(kernel, y, sizes=[200], ridge=other)
        assert found.test_error[0, 0] == pytest.approx(errors[other], rel=0.1)


@pytest.mark.once
def test_one_example_fewer_is_left_out_exactly():
    generator = np.random.default_rng(0)
    features = generator.normal(size=(30, 40))
    kernel, y = features @ features.T, generator.normal(size=(30, 2))
    errors = []
    for left_out in range(30):
        kept = np.delete(np.arange(30), left_out)
        dual = np.linalg.solve(kernel[np.ix_(kept, kept)] + np.eye(29), y[kept])
        errors.append((kernel[left_out, kept] @ dual - y[left_out]) ** 2)
    curve = forecast.learning_curve(kernel, y, sizes=[29], ridge=1.0)
    # As exact as the step from 30 to 29 examples by the effective ridge is.
    np.testing.assert_allclose(curve.test_error[0], np.mean(errors, axis=0), rtol=0.1)


@pytest.mark.once
def test_times_are_those_of_the_flow(x64):
    generator = np.random.default_rng(0)
    features = generator.normal(size=(12, 20))
    kernel, y = features @ features.T, generator.normal(size=(12, 3))
    times = forecast.training_time(kernel, y, target=1e-2)
    model = lazyjax.linear_dynamics(
        jnp.asarray(kernel), jnp.asarray(y), jnp.zeros((12, 3))
    )
    for output, time in enumerate(times):
        outputs = model.gradient_flow(time)
        error = np.mean((np.asarray(outputs) - y)[:, output] ** 2)
        assert error == pytest.approx(1e-2, rel=1e-6)


@pytest.mark.once
def test_what_is_there_takes_no_time_and_what_cannot_be_learned_takes_for_ever():
    kernel = np.diag([1.0, 0.0])
    y = np.array([[1e-3, 0.0], [0.0, 1.0]])
    times = forecast.training_time(kernel, y, target=0.1)
    assert times.tolist() == [0.0, np.inf]
    assert forecast.training_time(0 * kernel, y, target=1e-9).tolist() == [np.inf] * 2


@pytest.mark.once
def test_early_stopping_finds_the_best_time():
    """Beside test errors of the flow itself, on fresh examples of the same kind."""
    generator = np.random.default_rng(0)
    x, x_test = generator.uniform(-2, 2, (100, 1)), generator.uniform(-2, 2, (2000, 1))
    gaussian = lambda a, b: np.exp(-((a - b.T) ** 2))
    kernel, cross = gaussian(x, x), gaussian(x_test, x)
    y = np.sin(2 * x) + generator.normal(size=x.shape)
    stop = forecast.early_stopping(kernel, y)
    values, vectors = np.linalg.eigh(kernel)
    values = np.maximum(values, 1e-12)

    def test_error(time):
        dual = vectors @ (
            (-np.expm1(-values * time) / values)[:, None] * (vectors.T @ y)
        )
        return np.mean((cross @ dual - np.sin(2 * x_test)) ** 2) + 1

    errors = np.array([test_error(time) for time in stop.times])
    assert test_error(stop.time) < 1.05 * np.min(errors)
    assert np.min(errors) < 0.95 * errors[-1]
    assert stop.test_error[0] == pytest.approx(test_error(stop.time), rel=0.3)
    assert np.min(stop.test_errors) == np.sum(stop.test_error)


@pytest.mark.once
def test_all_modes_learned_leaves_no_error():
    generator = np.random.default_rng(0)
    features = generator.normal(size=(20, 3))
    kernel, y = features @ features.T, features @ generator.normal(size=(3, 1))
    curve = forecast.learning_curve(kernel, y, sizes=[3, 10], population=True)
    np.testing.assert_allclose(curve.test_error, 0, atol=1e-12)
    np.testing.assert_allclose(curve.learned, 3)
    assert curve.kappa.tolist() == [0, 0]


@pytest.mark.once
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_kernels_of_low_rank_are_those_of_least_squares(dtype):
    """More examples than features: noise is fitted less and less."""
    generator = np.random.default_rng(0)
    features = generator.normal(size=(400, 20))
    y = features @ generator.normal(size=(20, 1)) + generator.normal(size=(400, 1))
    kernel = (features @ features.T).astype(dtype)
    sizes = [60, 100, 200]
    curve = forecast.learning_curve(kernel, y, sizes=sizes)
    for size, error in zip(sizes, curve.test_error[:, 0], strict=True):
        errors = []
        for _ in range(100):
            order = generator.permutation(400)
            chosen, rest = order[:size], order[size:]
            weights = np.linalg.lstsq(features[chosen], y[chosen], rcond=None)[0]
            errors.append(np.mean((features[rest] @ weights - y[rest]) ** 2))
        assert error == pytest.approx(np.mean(errors), rel=0.05)
    np.testing.assert_allclose(curve.learned, 20)
    # With as many examples as features, noise is fitted without bound.
    assert forecast.learning_curve(kernel, y, sizes=[20]).test_error[0, 0] == np.inf


@pytest.mark.once
@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e200])
def test_forecasts_do_not_hang_on_the_units_of_the_kernel(scale):
    generator = np.random.default_rng(0)
    features, y = generator.normal(size=(30, 40)), generator.normal(size=(30, 2))
    kernel = features @ features.T
    curves = [
        forecast.learning_curve(k, y, sizes=[5, 20]) for k in (kernel, scale * kernel)
    ]
    np.testing.assert_allclose(curves[1].test_error, curves[0].test_error, rtol=1e-6)


@pytest.mark.once
def test_a_kernel_of_zeros_learns_nothing():
    y = np.array([[1.0], [2.0], [0.0], [3.0]])
    for population in (False, True):
        curve = forecast.learning_curve(
            np.zeros((4, 4)), y, sizes=[2], population=population
        )
        assert curve.test_error[0, 0] == pytest.approx(np.mean(y**2))
        assert curve.learned.tolist() == [0]
    ridge, _ = forecast.optimal_ridge(np.zeros((4, 4)), y, size=2)
    assert ridge == 0


@pytest.mark.once
def test_forecasts_can_be_kept(tmp_path):
    curve = forecast.learning_curve(np.eye(9), np.ones((9, 1)), sizes=[2, 3])
    loaded = forecast.LearningCurve.load(curve.save(tmp_path / "curve.json"))
    assert loaded.sizes == (2, 3)
    np.testing.assert_array_equal(loaded.test_error, curve.test_error)
    assert len(repr(curve)) < 300


ONES = np.ones((4, 1))


@pytest.mark.once
@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: forecast.learning_curve(np.eye(4), ONES, sizes=[4]),
            ValueError,
            "`sizes` must be below the number of examples, 4",
        ),
        (
            lambda: forecast.learning_curve(np.eye(4), ONES, sizes=[]),
            ValueError,
            "`sizes` must not be empty",
        ),
        (
            lambda: forecast.learning_curve(np.eye(4), ONES, sizes=[1.5]),  # pyright: ignore[reportArgumentType]
            TypeError,
            "`sizes` must be an integer",
        ),
        (
            lambda: forecast.learning_curve(np.ones((4, 4, 2, 2)), ONES, sizes=[2]),
            ValueError,
            "one number for each pair",
        ),
        (
            lambda: forecast.learning_curve(np.ones((4, 4)) - 2, ONES, sizes=[2]),
            ValueError,
            "semidefinite",
        ),
        (
            lambda: forecast.training_time(np.triu(np.ones((4, 4))), ONES, target=1.0),
            ValueError,
            "symmetric",
        ),
        (
            lambda: forecast.learning_curve(np.eye(4), np.ones((3, 1)), sizes=[2]),
            ValueError,
            "`y`",
        ),
        (
            lambda: forecast.learning_curve(np.eye(4), np.ones(4, int), sizes=[2]),
            TypeError,
            "`y`",
        ),
        (
            lambda: forecast.learning_curve(np.eye(4), ONES, sizes=[2], ridge=-1.0),
            ValueError,
            "`ridge`",
        ),
        (
            lambda: forecast.training_time(np.eye(4), ONES, target=0.0),
            ValueError,
            "`target`",
        ),
        (
            lambda: forecast.early_stopping(np.zeros((4, 4)), ONES),
            ValueError,
            "must not be zero",
        ),
        (lambda: forecast.learnabilities(np.eye(4), size=0), ValueError, "`size`"),
        (
            lambda: forecast.learnabilities(np.full((2, 2), np.nan), size=1),
            ValueError,
            "finite",
        ),
        (
            lambda: forecast.score(
                forecast.learning_curve(np.eye(4), ONES, sizes=[2]), np.ones(2)
            ),
            ValueError,
            "`measured` must be 1 positive",
        ),
    ],
)
@pytest.mark.usefixtures("own_errors")
def test_bad_input_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
