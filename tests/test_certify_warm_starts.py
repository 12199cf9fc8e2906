"""Warm starts: training ends where the certificate holds, and not before."""

import functools

import jax
import numpy as np
import pytest

from lazyjax import certify
from lazyjax.data import sphere
from lazyjax.nets import mlp

pytestmark = pytest.mark.once

DATA = sphere(4, 32, key=jax.random.key(0))
X, Y = np.asarray(DATA.x_train, np.float64), np.asarray(DATA.y_train, np.float64)


@pytest.fixture(scope="module")
def deep():
    network = mlp(width=32, depth=3, activation="tanh", w_std=1.5)
    return network, network.init(jax.random.key(1), DATA.x_train)


def warm_start(deep, **options):
    network, params = deep
    return certify.warm_start(network, params, X, Y, **options)


def test_training_ends_where_the_certificate_holds(deep):
    found = warm_start(deep)
    all_the_way = warm_start(deep, until="converged")
    num_steps = len(found.residual) - 1
    assert found.certificate.is_certified
    assert all_the_way.certificate.is_certified
    assert all_the_way.residual[-1] < 1e-9 < found.residual[-1]
    # One path, of which no earlier point that was worth a try is certified.
    assert np.array_equal(found.residual, all_the_way.residual[: num_steps + 1])
    fewer = warm_start(deep, num_steps=num_steps - 1)
    assert not fewer.certificate.is_certified
    assert len(fewer.residual) == num_steps


def test_the_certificate_is_that_of_the_parameters_returned(deep):
    found = warm_start(deep)
    again = certify.gradient_flow(deep[0], found.params, X, Y)
    assert again.to_json() == found.certificate.to_json()
    assert again["residual"] == pytest.approx(found.residual[-1], rel=1e-6)


def test_another_certificate_may_need_more_training(deep):
    """The step size that is asked for decides whether descent is certified."""
    descent = functools.partial(certify.gradient_descent, learning_rate=1e-3)
    found = warm_start(deep, certify_fn=descent)
    assert found.certificate.is_certified
    assert found.certificate.dynamics == "descent"
    assert found.certificate.step_size == 1e-3


def test_what_is_certified_is_not_trained():
    x, y = np.eye(2), np.array([[1.0], [2.0]])
    start = np.zeros((2, 1))
    found = certify.warm_start(lambda p, x: x @ p, start, x, y)
    assert found.certificate.is_certified
    assert found.moved == 0
    assert len(found.residual) == 1


@pytest.mark.parametrize("y", [np.array([[1.0], [2.0]]), np.ones((2, 1))])
def test_equal_inputs_are_never_certified(y):
    """The kernel is singular, whether or not the targets agree."""
    x, start = np.ones((2, 2)), np.zeros((2, 1))
    found = certify.warm_start(lambda p, x: x @ p, start, x, y)
    assert not found.certificate.is_certified


@pytest.mark.usefixtures("own_errors")
def test_bad_arguments_are_named(deep):
    with pytest.raises(ValueError, match="`until` must be"):
        warm_start(deep, until="bored")
    with pytest.raises(TypeError, match="`certify_fn` must return a certificate"):
        warm_start(deep, certify_fn=lambda *a, **k: True)
