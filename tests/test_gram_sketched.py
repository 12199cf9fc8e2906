"""Sketched features: unbiased, with errors that are those seen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lazyjax
from lazyjax.grams import sketched_features
from lazyjax.nets import mlp

pytestmark = pytest.mark.once

KEY = jax.random.key(0)
X = np.asarray(jax.random.normal(KEY, (5, 3)), np.float32)
NET = mlp(width=8, activation="tanh", num_outputs=2)
PARAMS = NET.init(KEY, jnp.asarray(X))


@pytest.mark.parametrize("sketch", ["jl", "countsketch", "subset"])
def test_kernels_are_unbiased_and_errors_those_seen(sketch):
    exact = np.asarray(lazyjax.empirical_ntk(NET.apply, PARAMS, X))
    means, errors = [], []
    for key in jax.random.split(KEY, 60):
        features = sketched_features(
            NET.apply, PARAMS, X, num_features=16, key=key, sketch=sketch
        )
        mean, error = features.kernel(X)
        means.append(mean)
        errors.append(error)
    spread = np.std(means, axis=0, ddof=1)
    # Means of 60 sketches, within 5 of their standard errors.
    assert np.all(np.abs(np.mean(means, axis=0) - exact) <= 5 * spread / 60**0.5)
    assert 0.6 < np.mean(errors) / np.mean(spread) < 1.6
