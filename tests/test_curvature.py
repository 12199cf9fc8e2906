"""Hessians and Gauss-Newton matrices as operators, against matrices formed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import lazyjax
from lazyjax import spectrum
from lazyjax.dynamics import square_loss
from lazyjax.dynamics.losses import cross_entropy_loss
from tests.helpers.compare import assert_close

pytestmark = [pytest.mark.usefixtures("x64"), pytest.mark.once]

KEY = jax.random.key(0)


def problem(num_outputs=3):
    with jax.enable_x64(True):
        network = lazyjax.nets.mlp(width=4, activation="tanh", num_outputs=num_outputs)
        x = jax.random.normal(KEY, (5, 2))
        y = jax.nn.softmax(jax.random.normal(KEY, (5, num_outputs)))
        return network.apply, network.init(KEY, x), x, y


def matrix_of(operator):
    columns = jnp.eye(operator.shape[0])
    return jnp.stack([operator.mv(column) for column in columns], axis=1)


def test_the_hessian_of_a_loss_is_that_of_finite_differences():
    apply_fn, params, x, y = problem()
    loss = lambda p: cross_entropy_loss(apply_fn(p, x), y)
    found = np.asarray(matrix_of(spectrum.hessian_operator(loss, params)))
    flat, unravel = ravel_pytree(params)
    gradient = lambda w: np.asarray(jax.grad(lambda w: loss(unravel(w)))(w))
    h = 1e-6
    differences = [
        (gradient(flat.at[i].add(h)) - gradient(flat.at[i].add(-h))) / (2 * h)
        for i in range(flat.size)
    ]
    np.testing.assert_allclose(found, differences, atol=1e-8)


def test_gauss_newton_of_the_square_loss_has_the_eigenvalues_of_the_kernel():
    apply_fn, params, x, y = problem(num_outputs=2)
    operator = spectrum.gauss_newton_operator(apply_fn, params, x, y, square_loss)
    values = np.linalg.eigvalsh(matrix_of(operator))
    kernel = lazyjax.linalg.gram_matrix(lazyjax.empirical_ntk(apply_fn, params, x))
    kernel = np.linalg.eigvalsh(kernel)
    assert operator.shape == (16, 16)
    np.testing.assert_allclose(values[-10:], kernel, atol=1e-10)
    np.testing.assert_allclose(values[:-10], 0, atol=1e-10)


def test_gauss_newton_is_the_hessian_of_the_linearized_network():
    apply_fn, params, x, y = problem()
    operator = spectrum.gauss_newton_operator(
        apply_fn, params, x, y, cross_entropy_loss
    )
    linear = lazyjax.linearize(apply_fn, params)
    loss = lambda p: cross_entropy_loss(linear(p, x), y)
    expected = spectrum.hessian_operator(loss, params)
    assert_close(matrix_of(operator), matrix_of(expected))


def test_densities_of_hessians_may_be_negative_where_that_is_said():
    saddle = spectrum.hessian_operator(lambda w: w[0] * w[1] + w[2] ** 2, jnp.ones(3))
    exact = spectrum.density(saddle, semidefinite=False)
    np.testing.assert_allclose(exact.nodes[0], [-1, 1, 2], atol=1e-12)
    ritz = spectrum.density(saddle, key=KEY, max_dense=0, semidefinite=False)
    np.testing.assert_allclose(ritz.nodes[0], [-1, 1, 2], atol=1e-12)
    for max_dense in (0, 10):
        with pytest.raises(ValueError, match="semidefinite"):
            spectrum.density(saddle, key=KEY, max_dense=max_dense)


@pytest.mark.usefixtures("own_errors")
def test_bad_arguments_are_named():
    apply_fn, params, x, y = problem()
    with pytest.raises(ValueError, match="`fn` must return one number"):
        spectrum.hessian_operator(lambda p: apply_fn(p, x), params)
    operator = spectrum.gauss_newton_operator(apply_fn, params, x, y, square_loss)
    with pytest.raises(ValueError, match="`v` must have shape"):
        operator.mv(jnp.ones(3))
    with pytest.raises(TypeError, match="`loss_fn`"):
        spectrum.gauss_newton_operator(apply_fn, params, x, y, 3)  # pyright: ignore
