"""Runs beside what their kernels said of them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lazyjax
from lazyjax import forecast, plot

pytestmark = pytest.mark.once


def problem(width, num_steps, rate_share=0.5):
    """A network, its linear model, a rate, and the run at that rate."""
    data = lazyjax.data.sphere(8, 12, key=jax.random.key(0))
    x, y = data.x_train, data.y_train
    network = lazyjax.nets.mlp(width=width, activation="tanh")
    params = network.init(jax.random.key(1), x)
    gram = lazyjax.empirical_ntk(network.apply, params, x, outputs="trace")
    rate = rate_share / float(jnp.linalg.eigvalsh(gram)[-1])
    linear = lazyjax.linear_dynamics(gram, y, network.apply(params, x))
    run = lazyjax.train(
        network.apply,
        params,
        x,
        y,
        optimizer=optax.sgd(rate, momentum=0.8),
        num_steps=num_steps,
    )
    return run, linear, rate


def test_wide_networks_do_as_forecast_and_narrow_ones_do_not():
    found = {}
    for width in (4, 2048):
        run, linear, rate = problem(width, 60)
        found[width] = forecast.calibration(
            run, linear, learning_rate=rate, momentum=0.8
        )
    assert found[2048].worst < 0.03 < 0.06 < found[4].worst
    reached = ~np.isnan(found[2048].ratio)
    assert reached[:2].all()
    np.testing.assert_allclose(found[2048].ratio[reached], 1, atol=0.1)
    # A forecast of another momentum is another forecast.
    assert forecast.calibration(run, linear, learning_rate=rate).worst > 0.06
    figure = plot.figure()
    axes = plot.calibration(
        figure.subplots(), {f"width {w}": f for w, f in found.items()}
    )
    assert len(axes.lines) == 4
    assert plot.png_bytes(figure, dpi=40).startswith(b"\x89PNG")


def test_steps_are_the_first_at_which_a_share_is_left():
    # Two examples apart, of kernel 1: losses are (1 - rate)^2k of the first.
    linear = lazyjax.linear_dynamics(jnp.eye(2), jnp.ones((2, 1)), jnp.zeros((2, 1)))
    run = lazyjax.train(
        lambda w, x: x @ w,
        jnp.zeros((2, 1)),
        jnp.eye(2),
        jnp.ones((2, 1)),
        optimizer=optax.sgd(0.1),
        num_steps=20,
    )
    found = forecast.calibration(
        run, linear, learning_rate=0.1, shares=(1e-9, 0.5, 0.05)
    )
    expected = [np.ceil(np.log(share) / (2 * np.log(0.9))) for share in (0.5, 0.05)]
    assert found.shares == (0.5, 0.05, 1e-9)
    for steps in (found.forecast_steps, found.measured_steps):
        np.testing.assert_array_equal(steps, [*expected, np.nan])
    assert found.rows()[-1] == ["1e-09", "none", "none", ""]
    assert found.worst < 1e-5
    again = forecast.Calibration.from_json(found.to_json())
    np.testing.assert_array_equal(again.measured_steps, found.measured_steps)


def test_a_calibration_refuses_what_does_not_belong_together():
    run, linear, rate = problem(8, 3)
    with pytest.raises(ValueError, match="`shares` must be numbers between 0 and 1"):
        forecast.calibration(run, linear, learning_rate=rate, shares=(0.5, 1.0))
    other = lazyjax.linear_dynamics(jnp.eye(8), jnp.ones((8, 1)), jnp.zeros((8, 1)))
    with pytest.raises(ValueError, match="`linear` must start where `run` does"):
        forecast.calibration(run, other, learning_rate=rate)
    many = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), run)
    with pytest.raises(ValueError, match="`run` must be one run"):
        forecast.calibration(many, linear, learning_rate=rate)
