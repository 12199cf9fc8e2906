"""Quadratic targets: formulas against numbers, measured risks against formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lazyjax
from lazyjax.experiments import Result
from lazyjax.experiments.generalization import ghorbani
from lazyjax.experiments.record import Conditions
from tests.helpers.experiments import check_control, check_repeatable, checked_run

pytestmark = pytest.mark.once

NEURONS = np.array([30, 150, 300, 450])


@pytest.fixture(scope="module")
def result() -> Result:
    return checked_run("ghorbani", word="reproduced")


def test_the_formulas_have_the_known_values():
    spectrum = ghorbani.spectrum_of_target(450)
    assert np.mean(spectrum) == pytest.approx(1.013460, abs=1e-6)
    assert np.mean(spectrum**2) == pytest.approx(2.101212, abs=1e-6)
    found = ghorbani.formulas(spectrum, NEURONS)
    tangent, trained = [0.9015, 0.5531, 0.2197, 0], [0.4972, 0.0919, 0.0076, 0]
    np.testing.assert_allclose(found["neural tangent"], tangent, atol=5e-5)
    np.testing.assert_allclose(found["trained network"], trained, atol=5e-5)
    beta = 0.488814
    features = 1 - beta * NEURONS / (450 + NEURONS)
    np.testing.assert_allclose(found["random features"], features, atol=1e-6)


def test_risks_are_those_of_regression_on_examples():
    """With d = 4 inputs and 2 neurons, many examples decide the risk of each regime."""
    size = ghorbani.GhorbaniSize(num_inputs=4, widths=(2,), num_seeds=1, num_steps=2000)
    found = ghorbani.measure(size, Conditions(seed=1)).measured
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(1), 2), 0)
    w = np.asarray(jax.random.normal(key, (2, 4)), np.float64) / 2
    x = np.random.default_rng(0).standard_normal((200_000, 4))
    b = ghorbani.spectrum_of_target(4)
    y = (x**2 - 1) @ b
    hidden = x @ w.T
    features = {
        "random features": hidden**2,
        "neural tangent": (hidden[:, :, None] * x[:, None]).reshape(len(x), -1),
    }
    for name, columns in features.items():
        columns = np.column_stack([columns, np.ones(len(x))])
        residual = y - columns @ np.linalg.lstsq(columns, y)[0]
        risk = np.mean(residual**2) / (2 * np.sum(b**2))
        assert found[name].item() == pytest.approx(risk, rel=0.03)
    best = np.sum(b[2:] ** 2) / np.sum(b**2)
    assert found["trained network"].item() == pytest.approx(best, rel=1e-3)


def test_descent_on_the_linearized_network_reaches_the_risk_of_least_squares():
    size = ghorbani.GhorbaniSize(num_inputs=12, widths=(4,), num_seeds=1, num_steps=1)
    risk = ghorbani.measure(size, Conditions()).measured["neural tangent"].item()
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 4), 0)
    w = jax.random.normal(key, (4, 12)) / 12**0.5
    b = ghorbani.spectrum_of_target(12)
    run = lazyjax.train(
        lazyjax.linearize(lambda w, x: x @ w.T @ w, w),
        w,
        jnp.eye(12),
        jnp.asarray(np.diag(b), w.dtype),
        optimizer=optax.sgd(0.1, momentum=0.9, nesterov=True),
        num_steps=1000,
    )
    assert float(2 * run.loss[-1] / np.sum(b**2)) == pytest.approx(risk, rel=1e-3)


@pytest.mark.slow
def test_risks_are_reproduced_in_fifteen_times_ten_dimensions(result: Result):
    errors = [check.measured for check in result.verdict.checks]
    assert len(errors) == 3
    assert max(errors) < 0.025


@pytest.mark.slow
def test_risks_of_neurons_in_a_third_of_the_directions_are_not():
    result = check_control("ghorbani")
    assert min(check.measured for check in result.verdict.checks) > 0.1


@pytest.mark.slow
def test_the_same_seed_gives_the_same_numbers(result: Result):
    check_repeatable("ghorbani", result)
