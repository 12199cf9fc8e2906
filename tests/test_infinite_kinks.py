"""Kernels at infinite width of activations with kinks, or that vary too fast."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lazyjax
from lazyjax.architecture import Architecture
from lazyjax.infinite.duals import accuracy
from tests.helpers.compare import assert_close
from tests.helpers.piecewise import Pieces, exact_moment

pytestmark = pytest.mark.once

X = np.array([[1.0, -0.4, 0.3], [0.9, -0.4, 0.35], [-1.2, 0.1, 1.5]])
CLIP = Pieces((-2.0, 0.3), ((-2, 0, 0), (0, 1, 0), (0.3, 0, 0)))


def clipped(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    return jnp.clip(x @ params["w"], -2, 0.3) @ params["v"] / 6**0.5


@pytest.mark.slow
def test_kernels_of_a_clip_are_exact_from_either_description(x64: None) -> None:
    q = X @ X.T
    moments = [
        np.array(
            [
                [exact_moment(of, q[i, i], q[i, j], q[j, j]) for j in range(3)]
                for i in range(3)
            ]
        )
        for of in (CLIP, CLIP.slope)
    ]
    expected = moments[0] + moments[1] * q
    x = jnp.asarray(X)
    described = Architecture(
        activation=lambda u: jnp.clip(u, -2, 0.3), input_scaling="none"
    )
    assert_close(lazyjax.infinite_ntk(described, x), expected, 1e-10)
    params = {
        "w": jax.ShapeDtypeStruct((3, 6), x.dtype),
        "v": jax.ShapeDtypeStruct((6, 1), x.dtype),
    }
    lifted = lazyjax.infinite_ntk_of(clipped, params, x, variances=1.0)
    assert_close(lifted, expected, 1e-10)


def test_activations_that_vary_too_fast_are_refused_and_nan_under_jit() -> None:
    x = jnp.asarray(X, jnp.float32)
    wave = Architecture(activation=lambda u: jnp.sin(200 * u), input_scaling="none")
    with pytest.raises(
        ValueError, match="`architecture` has an activation that varies"
    ):
        lazyjax.infinite_ntk(wave, x)
    assert jnp.isnan(jax.jit(lambda x: lazyjax.infinite_ntk(wave, x))(x)).all()


def test_steep_activations_are_refused_for_nearly_parallel_inputs_only() -> None:
    steep = Architecture(activation="tanh", input_scaling="none")
    far = 20 * jnp.asarray(X[1:], jnp.float32)
    assert jnp.isfinite(lazyjax.infinite_nngp(steep, far)).all()
    near = 20 * jnp.asarray(X[:2], jnp.float32)
    with pytest.raises(ValueError, match="nearly parallel inputs"):
        lazyjax.infinite_ntk(steep, near)


def test_errors_that_are_tabulated_are_not_estimated_again(monkeypatch):
    class AskedError(Exception):
        pass

    def ask(*args):
        raise AskedError

    monkeypatch.setattr(accuracy, "dual_disagreement", ask)
    tanh = Architecture(depth=2, activation="tanh")
    x = jnp.array([[1.0, 2.0, -1.0], [0.5, 1.0, 1.0]])
    assert jnp.isfinite(lazyjax.infinite_ntk(tanh, x)).all()
    with pytest.raises(AskedError):  # beyond the table
        lazyjax.infinite_ntk(tanh, 10 * x)
    with pytest.raises(AskedError):  # a function, of which nothing is known
        lazyjax.infinite_ntk(Architecture(depth=2, activation=lambda u: jnp.tanh(u)), x)
    with pytest.raises(AskedError):  # values are not known
        jax.jit(lambda x: lazyjax.infinite_ntk(tanh, x))(x)
