"""Products of independent branches and loops over layers, read from programs."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lazyjax
from lazyjax.interop.neural_tangents import load_neural_tangents
from tests.helpers.compare import assert_close, relative_error
from tests.helpers.lifting import X, shapes_of

pytestmark = pytest.mark.once

WIDTH = 64


def gate(params: Any, x: jax.Array) -> jax.Array:
    h = jnp.maximum(x @ params["w"], 0)
    one = jax.lax.erf(h @ params["a"] / math.sqrt(WIDTH))
    two = h @ params["b"] / math.sqrt(WIDTH)
    return (one * two) @ params["v"] / math.sqrt(WIDTH)


def gate_shapes(width: int) -> dict[str, Any]:
    return shapes_of(w=(4, width), a=(width, width), b=(width, width), v=(width, 1))


def test_product_of_branches_is_that_of_neural_tangents(x64: None) -> None:
    stax = load_neural_tangents().stax
    dense = lambda: stax.Dense(WIDTH)
    branches = stax.parallel(stax.serial(dense(), stax.Erf()), dense())
    layers = [stax.Dense(WIDTH, 2.0), stax.Relu(), stax.FanOut(2), branches]
    _, _, kernel_fn = stax.serial(*layers, stax.FanInProd(), stax.Dense(1))
    x1, x2 = (
        jnp.asarray(X[:1]),
        jnp.asarray(X[1:]),
    )  # apart: theirs rounds at equal ones
    with pytest.warns(UserWarning, match="assume independent"):
        expected = kernel_fn(x1, x2, ("nngp", "ntk"))
    kernels = [
        verb(gate, gate_shapes(WIDTH), x1, x2, variances=1.0)
        for verb in (lazyjax.infinite_nngp_of, lazyjax.infinite_ntk_of)
    ]
    assert_close(kernels[0], expected.nngp, 1e-10)
    assert_close(kernels[1], expected.ntk, 1e-10)


def test_product_of_branches_is_the_mean_of_wide_networks() -> None:
    x = jnp.asarray(X[:2], jnp.float32)
    shapes = gate_shapes(WIDTH)

    def init(key: jax.Array, x: Any, /) -> dict[str, jax.Array]:
        keys = jax.random.split(key, len(shapes))
        return {
            name: jax.random.normal(k, a.shape, x.dtype)
            for k, (name, a) in zip(keys, shapes.items(), strict=True)
        }

    sampled = lazyjax.monte_carlo_ntk(
        gate, init, x, key=jax.random.key(0), num_seeds=400, outputs=0
    )
    params = {k: jax.ShapeDtypeStruct(a.shape, x.dtype) for k, a in shapes.items()}
    found = lazyjax.infinite_ntk_of(gate, params, x, variances=1.0)
    assert (jnp.abs(sampled.mean - found) <= 5 * sampled.sem).all()
    assert jnp.linalg.norm(sampled.sem) <= 0.05 * jnp.linalg.norm(found)


def test_product_of_branches_has_finite_gradients_at_parallel_inputs(x64: None) -> None:
    def total(x: jax.Array) -> jax.Array:
        return lazyjax.infinite_ntk_of(gate, gate_shapes(6), x, variances=1.0).sum()

    x = jnp.asarray(np.stack([X[0], X[0], -X[0]]))
    assert jnp.isfinite(jax.grad(total)(x)).all()


def looped(is_reversed: bool, params: Any, x: jax.Array) -> jax.Array:
    def step(h: jax.Array, layer: Any) -> tuple[jax.Array, None]:
        w, b, factor = layer
        return jnp.tanh(factor * h @ w / math.sqrt(6) + b[None]), None

    factors = jnp.array([0.5, 1.0, 2.0], x.dtype)
    layers = params["w"], params["b"], factors
    h = jax.lax.scan(step, x @ params["first"], layers, reverse=is_reversed)[0]
    return h @ params["v"]


def unrolled(is_reversed: bool, params: Any, x: jax.Array) -> jax.Array:
    h = x @ params["first"]
    for layer in (2, 1, 0) if is_reversed else (0, 1, 2):
        factor = (0.5, 1.0, 2.0)[layer]
        w, b = params["w"][layer], params["b"][layer]
        h = jnp.tanh(factor * h @ w / math.sqrt(6) + b[None])
    return h @ params["v"]


@pytest.mark.parametrize("is_reversed", [False, True])
def test_loop_over_layers_is_the_network_layer_by_layer(
    is_reversed: bool, x64: None
) -> None:
    params = shapes_of(first=(4, 6), w=(3, 6, 6), b=(3, 6), v=(6, 1))
    x = jnp.asarray(X)
    found, expected, other = (
        lazyjax.infinite_ntk_of(partial(fn, r), params, x, variances=0.5)
        for fn, r in (
            (looped, is_reversed),
            (unrolled, is_reversed),
            (looped, not is_reversed),
        )
    )
    assert_close(found, expected, 1e-12)
    assert relative_error(found, other) > 1e-3
