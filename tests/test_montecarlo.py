"""Monte-Carlo kernels against a plain loop over seeds."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lazyjax
from tests.helpers.compare import assert_close

pytestmark = pytest.mark.once

KEY = jax.random.key(3)


def init(key: jax.Array, x: Any, /) -> dict[str, jax.Array]:
    first, last = jax.random.split(key)
    w = jax.random.normal(first, (x.shape[1], 5), x.dtype)
    return {"w": w, "v": jax.random.normal(last, (5, 2), x.dtype)}


def apply_fn(params: Any, x: jax.Array) -> jax.Array:
    return jnp.tanh(x @ params["w"]) @ params["v"]


@pytest.mark.parametrize("of", ["ntk", "nngp"])
def test_mean_and_standard_error_are_those_of_a_loop_over_seeds(of: str) -> None:
    x1, x2 = jnp.ones((2, 3)), jnp.linspace(-1.0, 1.0, 9).reshape(3, 3)
    verb = lazyjax.empirical_ntk if of == "ntk" else lazyjax.empirical_nngp
    drawn = np.stack(
        [verb(apply_fn, init(jax.random.fold_in(KEY, i), x1), x1, x2) for i in range(4)]
    ).astype(np.float64)
    found = lazyjax.monte_carlo_ntk(apply_fn, init, x1, x2, key=KEY, num_seeds=4, of=of)
    assert found.num_seeds == 4
    assert_close(found.mean, drawn.mean(0))
    assert_close(found.sem, drawn.std(0, ddof=1) / 2)


def test_a_single_seed_has_no_standard_error_and_equal_batches_a_symmetric_mean() -> (
    None
):
    x = jnp.linspace(-1.0, 1.0, 6).reshape(2, 3)
    found = lazyjax.monte_carlo_ntk(
        apply_fn, init, x, key=KEY, num_seeds=1, outputs="trace"
    )
    assert jnp.isnan(found.sem).all()
    assert_close(found.mean, found.mean.T, "exact")


def test_networks_whose_rows_interact_are_refused(own_errors: None) -> None:
    def centred(params: Any, x: jax.Array) -> jax.Array:
        return apply_fn(params, x - x.mean(axis=0, keepdims=True))

    x = jnp.linspace(-1.0, 1.0, 6).reshape(2, 3)
    with pytest.raises(ValueError, match="rows"):
        lazyjax.monte_carlo_ntk(centred, init, x, key=KEY, num_seeds=2)
    with pytest.raises(ValueError, match="`num_seeds` must be at least 1"):
        lazyjax.monte_carlo_ntk(apply_fn, init, x, key=KEY, num_seeds=0)
    with pytest.raises(ValueError, match="`of` must be one of"):
        lazyjax.monte_carlo_ntk(apply_fn, init, x, key=KEY, num_seeds=2, of="ntkk")
