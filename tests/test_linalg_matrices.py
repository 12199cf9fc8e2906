"""Kernels of several outputs as matrices, and back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lazyjax
from lazyjax.linalg import gram_matrix, kernel_blocks
from tests.helpers.compare import assert_close, relative_error

NTK = np.random.default_rng(0).normal(size=(3, 2, 4, 4))


@pytest.mark.once
def test_blocks_undo_the_matrix():
    assert_close(kernel_blocks(gram_matrix(NTK), 4), NTK.astype("float32"), "exact")
    matrix = jnp.asarray(np.random.default_rng(1).normal(size=(6, 4)))
    assert_close(gram_matrix(kernel_blocks(matrix, 2)), matrix, "exact")
    # The control: a plain reshape puts outputs where examples belong.
    assert relative_error(jnp.reshape(gram_matrix(NTK), NTK.shape), NTK) > 0.5


@pytest.mark.once
def test_one_output_meets_kernels_of_pairs_of_examples():
    theta = jnp.asarray(NTK[:, :, 0, 0])
    assert_close(gram_matrix(theta), theta, "exact")
    assert_close(gram_matrix(kernel_blocks(theta, 1)), theta, "exact")


def test_empirical_kernels_come_near_the_infinite_one_in_every_form():
    net = lazyjax.nets.mlp(width=8192, num_outputs=2)
    x = jax.random.normal(jax.random.key(0), (3, 4))
    params = net.init(jax.random.key(1), x)
    theta = lazyjax.infinite_ntk(net.architecture, x)
    near = {
        "trace": 2 * theta,
        "pseudo": theta,
        1: theta,
        "full": kernel_blocks(jnp.kron(theta, jnp.eye(2)), 2),
    }
    for outputs, limit in near.items():
        ntk = lazyjax.empirical_ntk(net.apply, params, x, outputs=outputs)
        assert ntk.shape == limit.shape
        assert relative_error(ntk, limit) < 0.1
        assert relative_error(2 * ntk, limit) > 0.5


@pytest.mark.once
@pytest.mark.usefixtures("own_errors")
def test_shapes_that_are_no_kernels_are_refused():
    with pytest.raises(ValueError, match=r"`ntk` must have shape.*got \(3, 2, 4\)"):
        gram_matrix(NTK[..., 0])
    with pytest.raises(ValueError, match=r"that `num_outputs` divides; got shape \(12"):
        kernel_blocks(gram_matrix(NTK), 3)
    with pytest.raises(ValueError, match="`num_outputs` must be at least 1"):
        kernel_blocks(gram_matrix(NTK), 0)
