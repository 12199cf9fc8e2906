"""Wide networks beside linear models and infinite width, at a size of seconds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lazyjax.data import Dataset
from lazyjax.experiments import run
from lazyjax.experiments.lazy import lee2019 as module
from tests.helpers.experiments import check_control, check_repeatable, checked_run

pytestmark = pytest.mark.once


@pytest.mark.slow
def test_wide_networks_evolve_as_linear_models():
    found = checked_run("lee2019", word="reproduced").measured
    assert found.steps[0] == 0
    # At the start the mean is 0, and the variance far from the one in the end.
    assert np.abs(found.predicted_mean[0]).max() < 1e-5
    assert found.predicted_variance[-1].sum() < 0.8 * found.predicted_variance[0].sum()
    ratio = found.variance[0] / found.predicted_variance[0]
    assert np.all((ratio > 0.5) & (ratio < 1.7))


@pytest.mark.slow
def test_features_learnt_in_mup_keep_the_gap():
    control = check_control("lee2019")
    assert float(control.measured.slope.slope) > -0.25


@pytest.mark.slow
def test_quick_is_reproduced_again_and_again():
    result = run("lee2019")
    assert result.verdict.word == "reproduced", result.verdict.line
    check_repeatable("lee2019", result, size="quick")


def test_gap_of_a_linear_model_is_zero_and_otherwise_that_of_outputs():
    w = jnp.array([[1.0], [-2.0]])
    x = jax.random.normal(jax.random.key(0), (5, 2))
    y = jax.random.normal(jax.random.key(1), (3, 1))
    data = Dataset(
        x_train=x[:3], y_train=y, x_test=x[3:], y_test=y[:2], description="linear"
    )
    steps, rate, outputs = jnp.array([0, 1, 5]), 0.1, []
    for step in range(6):
        if step in (0, 1, 5):
            outputs.append(x @ w)
        w = w - rate * x[:3].T @ (x[:3] @ w - y)
    outputs = jnp.stack(outputs)
    kernel = (x @ x.T)[..., None, None]
    gap = lambda f: float(module._gap(kernel, f, data=data, steps=steps, rate=rate))
    assert gap(outputs) < 1e-5
    assert gap(outputs.at[2, 4].add(3.0)) == pytest.approx(3 / 5**0.5, rel=1e-4)
