"""The largest stable learning rate, and results that say what diverged."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lazyjax import nets, sweep
from lazyjax.dynamics import largest_stable_rate, losses, observers, train
from tests.helpers import two_layer
from tests.helpers.compare import assert_close

pytestmark = pytest.mark.once

LINEAR = lambda w, x: x @ w
X = jnp.array([[1.0, 0.0], [1.0, 3.0], [0.5, -1.0]])
Y = jnp.array([[1.0], [-1.0], [0.5]])
LAMBDA = np.linalg.eigvalsh(np.asarray(X, np.float64) @ np.asarray(X, np.float64).T)[-1]


def descent(rate, num_steps, loss_fn=losses.square_loss, **options):
    start = jnp.array([[0.3], [0.2]])
    optimizer = optax.sgd(rate)
    return train(
        LINEAR,
        start,
        X,
        Y,
        optimizer=optimizer,
        num_steps=num_steps,
        loss_fn=loss_fn,
        **options,
    )


def test_linear_regression_is_stable_below_the_rate_and_not_above():
    rate = float(largest_stable_rate(LINEAR, jnp.zeros((2, 1)), X, Y))
    assert_close(np.float32(rate), 2 / LAMBDA)
    below, above = descent(0.99 * rate, 2000), descent(1.01 * rate, 20_000)
    assert below.diverged_at == -1
    assert below.loss[-1] < below.loss[0]
    assert above.diverged_at > 0


def test_the_curvature_of_the_loss_counts():
    mean_loss = lambda f, y: jnp.mean((f - y) ** 2)  # second derivative 2/3
    rate = largest_stable_rate(LINEAR, jnp.zeros((2, 1)), X, Y, loss_fn=mean_loss)
    assert_close(rate, 2 / (2 / 3 * LAMBDA))
    signs = jnp.array([[1.0], [-1.0], [1.0]])
    start = jnp.zeros((2, 1))  # where the logistic loss has second derivative 1/4
    rate = largest_stable_rate(LINEAR, start, X, signs, loss_fn=losses.logistic_loss)
    assert_close(rate, 8 / LAMBDA)


def test_outputs_of_one_example_share_the_curvature(x64):
    params, x, y = two_layer.problem(np.float64)
    x, y = jnp.asarray(x), jax.nn.softmax(y)
    loss_fn = losses.cross_entropy_loss
    rate = largest_stable_rate(two_layer.apply, params, x, y, loss_fn=loss_fn)
    jac = jax.jacobian(lambda p: two_layer.apply(p, x).ravel())(params)
    rows = [
        np.asarray(leaf).reshape(x.shape[0] * 2, -1) for leaf in jax.tree.leaves(jac)
    ]
    jac, probs = np.concatenate(rows, 1), jax.nn.softmax(two_layer.apply(params, x))
    blocks = [np.diag(p) - np.outer(p, p) for p in np.asarray(probs)]
    curvature = np.zeros((2 * len(blocks), 2 * len(blocks)))
    for i, block in enumerate(blocks):
        curvature[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = block
    expected = 2 / np.linalg.eigvalsh(jac.T @ curvature @ jac)[-1]
    assert_close(rate, expected, "other_algorithm")


def test_a_loss_that_depends_on_nothing_is_stable_at_any_rate():
    loss_fn = lambda f, y: 0 * jnp.sum(f)
    assert (
        largest_stable_rate(LINEAR, jnp.zeros((2, 1)), X, Y, loss_fn=loss_fn) == np.inf
    )


def test_runs_tell_how_they_ended():
    run = descent(5.0, 200, observe=[observers.ntk_eig_max])
    assert run.explain() == (
        f"The loss diverged at step {run.diverged_at} of 200. Gradient descent on the "
        f"square loss is stable at the start up to a learning rate of {2 / LAMBDA:.3g} "
        "(2 over `ntk_eig_max`)."
    )
    late = descent(5.0, 200, observe=[observers.ntk_eig_max], observe_at=[200])
    assert "largest_stable_rate" in late.explain()
    grown = descent(5.0, 2)
    assert grown.explain().endswith(f", more than the first, {grown.loss[0]:.3g}.")
    assert grown.status == 0
    grown.raise_if_failed()
    assert descent(0.1, 50, target_loss=1.0).status == 1
    stopped = jax.vmap(lambda rate: descent(rate, 200).status)(jnp.array([0.1, 5.0]))
    assert stopped.tolist() == [0, 2]


def test_a_sweep_tells_which_rates_diverge():
    result = sweep(
        functools.partial(nets.mlp, activation="softplus"),
        jnp.ones((2, 3)),
        jnp.ones((2, 1)),
        widths=[8, 16],
        num_seeds=2,
        learning_rates=[1e30, 1e-3, 1e-2],
        num_steps=20,
        key=jax.random.key(0),
    )
    assert np.isinf(result.loss).any() or np.isnan(result.loss).any()
    first = [
        int(result.sel(width=w, learning_rate=1e30).diverged_at.min()) for w in (8, 16)
    ]
    assert result.explain().splitlines() == [
        "4 of 12 members diverged; their losses are not finite:",
        *(
            f"  width {width}: 2 of 6, the first at step {step}; none at learning rates "
            "up to 0.01"
            for width, step in zip((8, 16), first, strict=True)
        ),
    ]
    fine = result.sel(learning_rate=[1e-3, 1e-2])
    assert fine.explain() == "None of 8 members diverged."
    worst = result.sel(learning_rate=[1e30], width=8).explain()
    assert worst.splitlines()[1] == f"  2 of 2, the first at step {first[0]}"


@pytest.mark.parametrize("argument", ["x", "y"])
def test_arguments_are_checked(argument):
    given: dict[str, Any] = {"x": X, "y": Y, argument: jnp.full_like(X, jnp.nan)}
    with pytest.raises(ValueError, match=f"`{argument}`"):
        largest_stable_rate(LINEAR, jnp.zeros((2, 1)), **given)
