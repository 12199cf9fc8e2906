"""Losses: against NumPy, each other, and the assumptions they are documented to meet."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lazyjax.dynamics import (
    losses,
    scaled,
    square_loss,
    train,
)
from tests.helpers import two_layer
from tests.helpers.compare import assert_close, relative_error

pytestmark = pytest.mark.once

MARGIN_LOSSES = {
    losses.logistic_loss: lambda z: np.log1p(np.exp(-z)),
    losses.exponential_loss: lambda z: np.exp(-z),
    losses.smoothed_hinge_loss: lambda z: (
        0.0 if z >= 1 else (1 - z) ** 2 / 2 if z >= 0 else 0.5 - z
    ),
    losses.squared_hinge_loss: lambda z: max(0.0, 1 - z) ** 2 / 2,
}
NAMED = pytest.mark.parametrize(
    "loss_fn", MARGIN_LOSSES, ids=lambda loss_fn: loss_fn.__name__
)


@NAMED
def test_margin_losses_are_sums_over_examples_and_outputs(dtype, loss_fn):
    rng = np.random.default_rng(0)
    f = 2 * rng.normal(size=(6, 2))
    y = rng.choice([-1.0, 1.0], size=(6, 2))
    expected = sum(MARGIN_LOSSES[loss_fn](z) for z in (y * f).ravel())
    actual = loss_fn(jnp.asarray(f, dtype), jnp.asarray(y, dtype))
    assert actual.dtype == dtype
    assert_close(actual, np.asarray(expected, dtype))


def derivatives(loss_fn, z):
    one = lambda z: loss_fn(z.reshape(1, 1), jnp.ones((1, 1)))
    slope = jax.grad(one)
    return jax.jit(jax.vmap(lambda z: (one(z), slope(z), jax.grad(slope)(z))))(z)


@NAMED
def test_margin_losses_meet_exactly_the_assumptions_documented(x64, loss_fn):
    it = losses.ZOU_ASSUMPTIONS[loss_fn]
    z = jnp.linspace(-30, 30, 4001) + 1e-3  # no kink is a point of the grid
    loss, slope, curvature = map(np.asarray, derivatives(loss_fn, z))
    rounding = 1e-12
    assert (curvature >= -rounding).all()  # convex
    assert (slope <= 0).all()
    assert (slope < 0).all() == it.is_strictly_decreasing
    assert loss[-1] < 1e-12
    assert it.power <= 1
    bound = np.minimum(it.alpha0, it.alpha1 * loss**it.power)
    assert (-slope >= bound * (1 - 1e-9) - rounding).all()
    for values, limit in ((-slope, it.lipschitz), (curvature, it.smoothness)):
        if np.isfinite(limit):
            assert values.max() <= limit * (1 + 1e-9)
            assert values.max() > 0.99 * limit  # the least that holds
        else:
            assert values.max() > 25  # grows without bound to the left


@NAMED
def test_a_larger_power_of_the_lower_bound_would_not_hold(x64, loss_fn):
    it = losses.ZOU_ASSUMPTIONS[loss_fn]
    loss, slope, _ = map(np.asarray, derivatives(loss_fn, jnp.linspace(0.5, 20, 500)))
    too_small = it.alpha1 * loss ** (it.power * 0.8)  # losses are below 1 here
    assert (-slope < np.minimum(it.alpha0, too_small) - 1e-12).any()


def test_losses_of_large_margins_keep_their_relative_accuracy():
    z = jnp.array([[20.0], [60.0]], jnp.float32)
    for i in range(2):
        value = losses.logistic_loss(z[i : i + 1], jnp.ones((1, 1), jnp.float32))
        assert_close(value, np.float32(np.log1p(np.exp(-float(z[i, 0])))), 1e-5)
    assert np.isfinite(losses.logistic_loss(-1e4 * z, jnp.ones_like(z)))


def test_cross_entropy_is_that_of_optax_and_of_two_classes_the_logistic_loss(x64):
    rng = np.random.default_rng(1)
    f = jnp.asarray(rng.normal(size=(5, 4)))
    label = jnp.asarray(rng.integers(4, size=5))
    expected = optax.softmax_cross_entropy_with_integer_labels(f, label).sum()
    assert_close(losses.cross_entropy_loss(f, jnp.eye(4)[label]), expected)

    margin = f[:, :1]
    y = jnp.where(label < 2, 1.0, -1.0)[:, None]
    logits = jnp.concatenate([jnp.zeros_like(margin), margin], axis=1)
    classes = jnp.concatenate([y < 0, y > 0], axis=1).astype(f.dtype)
    assert_close(
        losses.cross_entropy_loss(logits, classes), losses.logistic_loss(margin, y)
    )


@pytest.mark.parametrize("alpha", [0.5, 30.0])
def test_scaled_loss_is_that_of_scaled_outputs_over_alpha_squared(dtype, alpha):
    rng = np.random.default_rng(2)
    f, y = rng.normal(size=(2, 4, 2)).astype(dtype)
    actual = scaled(losses.square_loss, alpha)(jnp.asarray(f), jnp.asarray(y))
    assert actual.dtype == dtype
    expected = 0.5 * ((alpha * f.astype(float) - y) ** 2).sum() / alpha**2
    assert_close(actual, np.asarray(expected, dtype), "other_algorithm")
    assert relative_error(actual, expected * alpha) > 0.4


def test_scaled_loss_trains_a_linear_model_at_the_same_speed_whatever_alpha(x64):
    # From h = 0, alpha h is the same function of the step for every alpha.
    _, x, y = two_layer.problem(k=1)
    linear = lambda w, x: x @ w
    go = lambda alpha: train(
        linear,
        jnp.zeros((3, 1)),
        x,
        y,
        optimizer=optax.sgd(0.05),
        num_steps=20,
        loss_fn=scaled(square_loss, alpha),
    )
    runs = jax.vmap(go)(jnp.array([1.0, 7.0, 1e4]))  # alpha may be traced
    alpha_w = runs.params * jnp.array([1.0, 7.0, 1e4])[:, None, None]
    assert_close(alpha_w[1], alpha_w[0])
    assert_close(alpha_w[2], alpha_w[0])


def test_equal_scaled_losses_compare_equal_so_that_programs_are_used_again():
    assert scaled(square_loss, 2.0) == scaled(square_loss, 2)
    assert hash(scaled(square_loss, 2.0)) == hash(scaled(square_loss, np.float64(2)))
    assert scaled(square_loss, 2.0) != scaled(square_loss, 3.0)


@pytest.mark.parametrize("alpha", [0.0, -1.0, np.inf, np.nan])
def test_alpha_must_be_positive(own_errors, alpha):
    with pytest.raises(ValueError, match="`alpha` must be positive and finite"):
        scaled(square_loss, alpha)
