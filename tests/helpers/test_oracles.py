"""The oracles agree with each other, and a kernel that is wrong is caught."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import oracles
from tests.helpers.compare import assert_close


def _two_layer_relu(params, x):
    num_features, width = params["W"].shape[1], params["W"].shape[0]
    hidden = x @ params["W"].T / num_features**0.5 + params["b"][None]
    return jax.nn.relu(hidden) @ params["V"].T / width**0.5 + params["c"][None]


@pytest.fixture
def problem():
    rng = np.random.default_rng(0)
    shapes = {"W": (6, 3), "b": (6,), "V": (2, 6), "c": (2,)}
    params = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    return params, rng.normal(size=(4, 3)), rng.normal(size=(3, 3))


def test_jax_and_numpy_networks_are_the_same_function(problem, x64):
    params, x1, _ = problem
    expected = oracles.two_layer_relu_outputs(params, x1)
    assert_close(_two_layer_relu(params, x1), expected)


def test_three_independent_ways_agree(problem):
    params, x1, x2 = problem
    by_hand = oracles.two_layer_relu_ntk(params, x1, x2)
    assert_close(oracles.naive_ntk(_two_layer_relu, params, x1, x2), by_hand, 1e-13)
    by_differences = oracles.finite_difference_ntk(_two_layer_relu, params, x1, x2)
    assert_close(by_differences, by_hand, 1e-8)


def test_one_batch_is_paired_with_itself(problem):
    params, x1, _ = problem
    by_hand = oracles.two_layer_relu_ntk(params, x1, x1)
    assert_close(oracles.naive_ntk(_two_layer_relu, params, x1), by_hand, 1e-13)
    by_differences = oracles.finite_difference_ntk(_two_layer_relu, params, x1)
    assert_close(by_differences, by_hand, 1e-8)


def test_float32_parameters_are_widened_before_anything_is_computed(problem):
    params, x1, x2 = jax.tree.map(lambda a: a.astype(np.float32), problem)
    wide = oracles.to_float64(params)
    by_hand = oracles.two_layer_relu_ntk(wide, x1.astype(float), x2.astype(float))
    assert_close(oracles.naive_ntk(_two_layer_relu, params, x1, x2), by_hand, 1e-13)


@pytest.mark.parametrize("leaf", ["W", "b", "V", "c"])
def test_a_leaf_left_out_is_caught(problem, leaf):
    params, x1, x2 = problem
    by_hand = oracles.two_layer_relu_ntk(params, x1, x2)

    def broken(p, x):
        return _two_layer_relu(p | {leaf: jax.lax.stop_gradient(p[leaf])}, x)

    with pytest.raises(AssertionError, match="relative error"):
        assert_close(oracles.naive_ntk(broken, params, x1, x2), by_hand, 1e-3)


def test_missing_cross_terms_of_a_shared_weight_are_caught():
    rng = np.random.default_rng(1)
    w, x = rng.normal(size=(3, 3)), rng.normal(size=(2, 3))
    twice = oracles.naive_ntk(lambda w, x: jnp.tanh(x @ w) @ w, w, x)
    apart = oracles.naive_ntk(lambda p, x: jnp.tanh(x @ p[0]) @ p[1], (w, w), x)
    with pytest.raises(AssertionError, match="relative error"):
        assert_close(apart, twice, 1e-3)
    by_differences = oracles.finite_difference_ntk(
        lambda w, x: jnp.tanh(x @ w) @ w, w, x
    )
    assert_close(by_differences, twice, 1e-8)


@pytest.mark.parametrize("axes", [(1, 0, 2, 3), (0, 1, 3, 2)])
def test_swapped_examples_or_outputs_are_caught(axes):
    # Three layers: with two, each pair of examples has a block symmetric in a, b.
    rng = np.random.default_rng(2)
    params = [rng.normal(size=shape) for shape in [(3, 4), (4, 4), (4, 2)]]
    x1, x2 = rng.normal(size=(3, 3)), rng.normal(size=(3, 3))

    def three_layers(p, x):
        return jnp.tanh(jnp.tanh(x @ p[0]) @ p[1]) @ p[2]

    ntk = oracles.naive_ntk(three_layers, params, x1, x2)
    with pytest.raises(AssertionError, match="relative error"):
        assert_close(ntk.transpose(axes), ntk, 1e-3)


def test_reductions_of_a_kernel_written_out():
    full = np.array([[[[1.0, 2.0], [3.0, 5.0]]]])
    assert_close(oracles.reduce_ntk(full, "full"), full, "exact")
    assert_close(oracles.reduce_ntk(full, "diagonal"), np.array([[[1.0, 5.0]]]))
    assert_close(oracles.reduce_ntk(full, "trace"), np.array([[6.0]]))
    assert_close(oracles.reduce_ntk(full, "pseudo"), np.array([[5.5]]))
    assert_close(oracles.reduce_ntk(full, 1), np.array([[5.0]]))
