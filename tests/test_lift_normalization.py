"""Normalizations over units, read from programs."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

import lazyjax
from tests.helpers.compare import assert_close
from tests.helpers.lifting import X, shapes_of

pytestmark = pytest.mark.once

WIDTH = 48
KERNELS = (lazyjax.infinite_nngp_of, lazyjax.infinite_ntk_of)


def layer_norm(h: jax.Array, axes: Any = -1, ddof: int = 0) -> jax.Array:
    mean = h.mean(axes, keepdims=True)
    return (h - mean) / jnp.sqrt(h.var(axes, keepdims=True, ddof=ddof))


def fast_layer_norm(h: jax.Array) -> jax.Array:
    mean, square = h.mean(-1), jnp.mean(h * h, -1)
    return (h - mean[:, None]) * jax.lax.rsqrt(square - mean**2)[:, None]


def rms_norm(h: jax.Array) -> jax.Array:
    return h / jnp.sqrt(jnp.mean(h**2, axis=-1, keepdims=True))


def network(*norms: Callable[[jax.Array], jax.Array]) -> Callable[..., jax.Array]:
    """Three layers of ReLU, whose hidden ones are normalized in two places each."""

    def apply_fn(params: Any, x: jax.Array) -> jax.Array:
        h = x @ params["w"]
        for before, after, w in zip(norms[::2], norms[1::2], "uv", strict=True):
            h = after(jax.nn.relu(before(h))) @ params[w]
            h = h / math.sqrt(params[w].shape[0])
        return h

    return apply_fn


def shapes(width: int = WIDTH, **others: Any) -> dict[str, Any]:
    return shapes_of(w=(4, width), u=(width, width), v=(width, 1), **others)


def kernels(apply_fn: Any, params: Any, x: Any = X, **options: Any) -> list[jax.Array]:
    options.setdefault("variances", 1.0)
    return [verb(apply_fn, params, jnp.asarray(x), **options) for verb in KERNELS]


def relu_moments(c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of ReLU and of its derivative, for units of variance 1 and correlation c."""
    angle = np.arccos(np.clip(c, -1, 1))
    value = (np.sqrt(np.maximum(1 - c**2, 0)) + c * (np.pi - angle)) / (2 * np.pi)
    return value, (np.pi - angle) / (2 * np.pi)


def same(h: jax.Array) -> jax.Array:
    return h


@pytest.mark.parametrize("norm", [fast_layer_norm, layer_norm, rms_norm])
@pytest.mark.sampled(1)
def test_norms_before_activations_give_correlations(x64: None, norm: Any) -> None:
    """Pre-activations of mean 0 and variance 1, by closed forms of Cho and Saul."""
    found = kernels(network(norm, same, norm, same), shapes())
    size = np.linalg.norm(X, axis=1)
    nngp, ntk = X @ X.T, X @ X.T  # the first layer's is not divided
    scale = np.outer(size, size)
    for _ in range(2):
        value, slope = relu_moments(nngp / scale)
        nngp, ntk = value, value + slope * ntk / scale
        scale = 0.5  # ReLU halves second moments
    assert_close(found[0], nngp, 1e-12)
    assert_close(found[1], ntk, 1e-12)


def test_norms_after_activations_give_correlations_too(x64: None) -> None:
    found = kernels(network(same, layer_norm, same, layer_norm), shapes())
    size = np.linalg.norm(X, axis=1)
    scale, mean = np.outer(size, size), 1 / math.sqrt(2 * math.pi)
    nngp, ntk = X @ X.T, X @ X.T
    for _ in range(2):
        value, slope = relu_moments(nngp / scale)
        spread = 0.5 - mean**2  # the variance of a rectified unit of variance 1
        nngp, ntk = (value - mean**2) / spread, slope * ntk / (scale * spread)
        ntk, scale = ntk + nngp, 1.0
    assert_close(found[0], nngp, 1e-12)
    assert_close(found[1], ntk, 1e-12)


@pytest.mark.slow
def test_root_mean_squares_keep_means(x64: None) -> None:
    """After ReLU this is a change of scale alone, which a later ReLU carries on."""
    found = kernels(network(same, rms_norm, same, same), shapes())
    size = np.linalg.norm(X, axis=1)
    half = np.outer(size, size) / 2
    expected = kernels(network(same, same, same, same), shapes())
    assert_close(found[0], expected[0] / half, 1e-12)
    assert_close(found[1], expected[1] / half, 1e-12)


def test_unbiased_variance_has_the_same_limit(x64: None) -> None:
    unbiased = lambda h: layer_norm(h, ddof=1)
    found = kernels(network(same, unbiased, same, same), shapes())
    for kernel, expected in zip(
        found, kernels(network(same, layer_norm, same, same), shapes()), strict=True
    ):
        assert_close(kernel, expected, 1e-14)


def affine(params: Any, x: jax.Array) -> jax.Array:
    h = layer_norm(jax.nn.relu(x @ params["w"])) * params["scale"][None]
    h = h + params["shift"][None]
    return h @ params["v"] / math.sqrt(params["v"].shape[0])


AFFINE = {
    "variances": {"w": 1.0, "u": 1.0, "v": 1.0, "scale": 0.0, "shift": 0.0},
    "means": {"w": 0.0, "u": 0.0, "v": 0.0, "scale": 3.0, "shift": 0.0},
}


def test_scales_and_shifts_add_what_their_gradients_are(x64: None) -> None:
    params = shapes(scale=(WIDTH,), shift=(WIDTH,))
    plain = kernels(
        lambda p, x: (
            layer_norm(jax.nn.relu(x @ p["w"])) @ p["v"] / math.sqrt(p["v"].shape[0])
        ),
        shapes(),
    )
    nngp, ntk = kernels(affine, params, **AFFINE)
    assert_close(nngp, 9 * plain[0], 1e-13)
    assert_close(ntk, 9 * plain[1] + plain[0] + 1, 1e-13)


@pytest.mark.parametrize("norm", [linen.LayerNorm, linen.RMSNorm])
def test_flax_norms_are_read_with_the_scales_they_start_from(
    x64: None, norm: Any
) -> None:
    class Network(linen.Module):
        @linen.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            h = linen.relu(linen.Dense(WIDTH, use_bias=False, param_dtype=float)(x))
            h = norm(epsilon=0.0, param_dtype=float)(h)
            return linen.Dense(1, use_bias=False, param_dtype=float)(h) / math.sqrt(
                WIDTH
            )

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        params = jax.eval_shape(Network().init, jax.random.key(0), jnp.asarray(X))

    def ones(name: str) -> Any:
        is_named = lambda path, _: float(name in str(path))
        return jax.tree_util.tree_map_with_path(is_named, params)

    laws = {"variances": ones("kernel"), "means": ones("scale")}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        found = kernels(Network().apply, params, **laws)
    own = layer_norm if norm is linen.LayerNorm else rms_norm
    plain = kernels(
        lambda p, x: own(jax.nn.relu(x @ p["w"])) @ p["v"] / math.sqrt(WIDTH), shapes()
    )
    assert_close(found[0], plain[0], 1e-12)
    num_shifts = int(norm is linen.LayerNorm)
    assert_close(found[1], plain[1] + plain[0] + num_shifts, 1e-12)


def test_kernel_is_the_mean_of_wide_networks() -> None:
    x = jnp.asarray(X[:2], jnp.float32)
    width = 1024
    params = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, x.dtype),
        shapes(width, scale=(width,), shift=(width,)),
    )

    def init(key: jax.Array, x: Any, /) -> dict[str, jax.Array]:
        keys = jax.random.split(key, len(params))
        drawn = {
            name: jax.random.normal(k, leaf.shape, x.dtype)
            for k, (name, leaf) in zip(keys, params.items(), strict=True)
        }
        constants = {"scale": jnp.full(width, 3.0), "shift": jnp.zeros(width)}
        return drawn | constants

    found = kernels(affine, params, x, **AFFINE)[1]
    sampled = lazyjax.monte_carlo_ntk(
        affine, init, x, num_seeds=100, key=jax.random.key(0)
    )
    mean, error = sampled.mean[:, :, 0, 0], sampled.sem[:, :, 0, 0]
    assert (jnp.abs(mean - found) <= 5 * error).all()
    assert jnp.linalg.norm(error) <= 0.05 * jnp.linalg.norm(found)
    assert (jnp.abs(mean - 1.1 * found) > 5 * error).any()


def test_whole_images_are_normalized(x64: None) -> None:
    """Means over pixels and channels, by those over channels of each pixel."""
    images = np.random.default_rng(0).normal(size=(3, 2, 2, 4))
    params = shapes_of(w=(4, WIDTH), v=(WIDTH, 1))

    def apply_fn(params: Any, x: jax.Array) -> jax.Array:
        h = layer_norm(x @ params["w"], (1, 2, 3))
        return jax.nn.relu(h).mean((1, 2)) @ params["v"] / math.sqrt(WIDTH)

    (nngp, _) = kernels(apply_fn, params, images)
    flat = images.reshape(3, 4, 4)
    variances = np.einsum("npc,npc->n", flat, flat) / 4
    pixels = np.einsum("npc,mqc->npmq", flat, flat)
    pixels /= np.sqrt(np.multiply.outer(variances, variances))[:, None, :, None]
    own = np.sqrt(np.einsum("npnp->np", pixels))
    sizes = np.multiply.outer(own, own)
    value = sizes * relu_moments(pixels / sizes)[0]
    assert_close(nngp, value.mean((1, 3)), 1e-12)


def test_functions_of_the_input_scale_and_shift(x64: None) -> None:
    def apply_fn(params: Any, x: jax.Array) -> jax.Array:
        size = jnp.linalg.norm(x, axis=1, keepdims=True)
        return (jnp.sin(x @ params["w"] / size) * size + size) @ params["v"]

    params = shapes_of(w=(4, WIDTH), v=(WIDTH, 1))
    found = kernels(apply_fn, params)
    plain = kernels(
        lambda p, x: (
            jnp.sin(x / jnp.linalg.norm(x, axis=1, keepdims=True) @ p["w"]) @ p["v"]
        ),
        params,
    )
    size = np.linalg.norm(X, axis=1)
    scale = np.outer(size, size)
    assert_close(found[0], scale * plain[0] + WIDTH * scale, 1e-12)
    assert_close(found[1], scale * plain[1] + WIDTH * scale, 1e-12)


def test_gradients_are_finite_at_equal_and_opposite_inputs(x64: None) -> None:
    apply_fn = network(layer_norm, same, same, layer_norm)
    x = jnp.asarray(np.stack([X[0], X[0], -X[0], 2 * X[0]]))

    def total(x: jax.Array) -> jax.Array:
        kernel = lazyjax.infinite_ntk_of(apply_fn, shapes(), x, variances=1.0)
        return jnp.sum(kernel)

    assert jnp.isfinite(jax.grad(total)(x)).all()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"means": {**AFFINE["means"], "w": 1.0}}, "whose mean, by `means`, is not 0"),
        ({"means": {**AFFINE["means"], "shift": 1.0}}, "whose mean, by `means`"),
        ({"means": 0.0}, "`means` has what they start from"),
        ({"variances": 1.0}, "`variances` has 0 for them"),
        ({"means": {"w": 1.0}}, "`means` must be a pytree of numbers"),
        ({"means": math.inf}, "`means` must hold finite numbers"),
    ],
)
def test_wrong_laws_of_parameters_are_refused(
    x64: None, options: Any, match: str
) -> None:
    params = shapes(scale=(WIDTH,), shift=(WIDTH,))
    with pytest.raises(ValueError, match=match):
        kernels(affine, params, **AFFINE | options)


def test_scales_of_outputs_are_refused(x64: None) -> None:
    """Their gradients are outputs, whose squares stay random."""

    def apply_fn(params: Any, x: jax.Array) -> jax.Array:
        return jax.nn.relu(x @ params["w"]) @ params["u"] * params["scale"][None]

    params = shapes(scale=(WIDTH,))
    del params["v"]
    laws = {key: {k: of[k] for k in params} for key, of in AFFINE.items()}
    with pytest.raises(ValueError, match="both few and many"):
        kernels(apply_fn, params, **laws)


def test_a_sum_of_two_units_is_not_taken_for_an_unbiased_mean(x64: None) -> None:
    def apply_fn(params: Any, x: jax.Array) -> jax.Array:
        h = jax.nn.relu(x @ params["w"])
        return h * jax.lax.mul(jnp.sum(h**2, axis=1, keepdims=True), 1.0) @ params["v"]

    with pytest.raises(ValueError, match="not divided by their number"):
        kernels(apply_fn, shapes_of(w=(4, 2), v=(2, 1)))


def test_means_that_cannot_vanish_may_divide(x64: None) -> None:
    def apply_fn(params: Any, x: jax.Array) -> jax.Array:
        h = jax.nn.relu(x @ params["w"])
        return h / h.mean(axis=1, keepdims=True) @ params["v"]

    found = kernels(apply_fn, shapes_of(w=(4, WIDTH), v=(WIDTH, 1)))
    size = np.linalg.norm(X, axis=1)
    value, _ = relu_moments(X @ X.T / np.outer(size, size))
    assert_close(found[0], WIDTH * 2 * math.pi * value, 1e-12)
