"""Between two functions of one network, kernels are those of the network."""

import jax.numpy as jnp
import numpy as np
import pytest

import lazyjax
from tests.contract.cases import CORE
from tests.helpers import zoo
from tests.helpers.zoo_base import ZOO

# One of each kind in every run, the others nightly.
NETWORKS = [
    name if name in CORE[::8] else pytest.param(name, marks=pytest.mark.slow)
    for name in ZOO
    # Twice its output is not twice its gradient.
    if name != "custom_vjp_not_linear_in_the_cotangent"
]


@pytest.mark.parametrize("name", NETWORKS)
def test_kernel_of_a_network_and_its_outputs_in_another_order(name):
    net = ZOO[name]
    reversed_fn = lambda p, x: net.apply_fn(p, x)[:, ::-1] * np.float32(2)
    x1, x2 = zoo.batches(name)
    functions = net.apply_fn, reversed_fn
    kernel = lazyjax.empirical_ntk(functions, net.params(), x1, x2)
    expected = 2 * zoo.oracle(name, paired=True)[..., ::-1]
    np.testing.assert_allclose(kernel, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.sampled(2)
def test_kernel_of_a_network_and_one_that_uses_it_twice(name):
    net = ZOO[name]
    other = lambda x: jnp.flip(x, axis=-1) if x.ndim > 1 else -x
    twice = lambda p, x: jnp.concatenate(
        [net.apply_fn(p, x), jnp.sin(net.apply_fn(p, other(x)))], axis=1
    )
    x1, x2 = zoo.batches(name)
    kernel = lazyjax.empirical_ntk((net.apply_fn, twice), net.params(), x1, x2)
    by_jacobians = lazyjax.empirical_ntk(
        (net.apply_fn, twice), net.params(), x1, x2, method="jacobian"
    )
    scale = np.abs(by_jacobians).max()
    np.testing.assert_allclose(kernel, by_jacobians, atol=1e-5 * scale)
    k = kernel.shape[2]
    expected = zoo.oracle(name, paired=True)
    np.testing.assert_allclose(kernel[..., :k], expected, atol=1e-5 * scale)
