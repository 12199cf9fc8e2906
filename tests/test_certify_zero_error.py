"""Zero training error: when it is promised, it is there, and before zero loss is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lazyjax import certify
from lazyjax.certify import Verdict
from lazyjax.data import sphere
from lazyjax.nets import mlp

pytestmark = pytest.mark.once

DATA = sphere(4, 32, key=jax.random.key(0))
X, Y = np.asarray(DATA.x_train, np.float64), np.asarray(DATA.y_train, np.float64)


def start_of(width):
    network = mlp(width=width, activation="softplus", trained="first", symmetrized=True)
    return network, network.init(jax.random.key(1), DATA.x_train)


def outputs_after(network, params, time, num_steps=400):
    """Outputs after gradient flow, by the method of Runge and Kutta in float64."""

    def slope(p):
        return jax.grad(lambda p: jnp.sum((network.apply(p, X) - Y) ** 2) / -2)(p)

    def moved(p, k, size):
        return jax.tree.map(lambda a, b: a + size * b, p, k)

    def step(p, _):
        h = time / num_steps
        k1 = slope(p)
        k2 = slope(moved(p, k1, h / 2))
        k3 = slope(moved(p, k2, h / 2))
        k4 = slope(moved(p, k3, h))
        for k, weight in ((k1, 1), (k2, 2), (k3, 2), (k4, 1)):
            p = moved(p, k, h * weight / 6)
        return p, None

    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), params)
        last = jax.jit(lambda p: jax.lax.scan(step, p, None, num_steps)[0])(wide)
        return np.asarray(network.apply(last, X))


def test_no_example_is_wrong_when_it_is_promised():
    network, params = start_of(512)
    found = certify.zero_training_error(network, params, X, Y)
    assert found.is_certified
    f = outputs_after(network, params, found["time"])
    assert np.all(f * Y > 0)
    assert np.linalg.norm(f - Y) < found["least_margin"]


def test_it_needs_less_than_zero_loss():
    widths = range(64, 512, 32)
    least = {
        verb: next(
            width for width in widths if verb(*start_of(width), X, Y).is_certified
        )
        for verb in (certify.gradient_flow, certify.zero_training_error)
    }
    assert least[certify.zero_training_error] < least[certify.gradient_flow]


def test_nothing_needs_to_happen_where_all_are_right():
    x, y = np.eye(2), np.array([[1.0], [-1.0]])
    found = certify.zero_training_error(lambda p, x: x @ p, 0.9 * y, x, y)
    assert found.is_certified
    assert found["time"] == 0


def test_several_outputs_have_the_margin_of_the_two_largest():
    x, y = np.eye(2), np.array([[1.0, 0.0, 0.0], [0.0, 0.5, 3.5]])
    found = certify.zero_training_error(lambda p, x: x @ p, 0 * y, x, y)
    assert found["least_margin"] == pytest.approx(1 / 2**0.5)
    # The flow of a linear model of orthonormal inputs is known.
    expected = np.log(np.linalg.norm(y) * 2**0.5)
    assert found["time"] == pytest.approx(expected, rel=1e-4)
    assert found.verdict is Verdict.CERTIFIED


def test_targets_without_a_class_are_refused():
    x = np.eye(2)
    for y in (np.array([[1.0], [0.0]]), np.ones((2, 2))):
        with pytest.raises(ValueError, match="`y` must say the class"):
            certify.zero_training_error(
                lambda p, x: x @ p, np.ones((2, y.shape[1])), x, y
            )
