"""Pixels of hidden values that are mixed, repeated and chosen, read from programs."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lazyjax
from tests.helpers.compare import assert_close
from tests.helpers.lifting import shapes_of

pytestmark = pytest.mark.once

WIDTH, PIXELS, CHANNELS = 24, (3, 4), 2
IMAGES = np.random.default_rng(0).normal(size=(3, *PIXELS, CHANNELS))
ROWS = np.random.default_rng(1).normal(size=(5, 3))
COLUMNS = np.random.default_rng(2).normal(size=(2, 4))
PLACES = np.array([2, 0, 0, -1])


def one_hot(places: np.ndarray, size: int) -> np.ndarray:
    return np.eye(size)[places]


def resized(size: int, other: int, method: str) -> np.ndarray:
    with jax.ensure_compile_time_eval():
        return np.asarray(jax.image.resize(jnp.eye(size), (other, size), method))


MAPS: dict[str, tuple[Any, Callable[[], tuple[np.ndarray, np.ndarray]]]] = {
    "matrices": (
        lambda h: jnp.einsum("nhwc,Hh,Ww->nHWc", h, ROWS, COLUMNS),
        lambda: (ROWS, COLUMNS),
    ),
    "matrices, transposed": (
        lambda h: jnp.einsum("Ww,nhwc,Hh->WncH", COLUMNS, h, ROWS).transpose(
            1, 3, 0, 2
        ),
        lambda: (ROWS, COLUMNS),
    ),
    "all at once": (
        lambda h: jnp.einsum(
            "nhwc,hwq->nqc",
            h,
            np.einsum("Hh,Ww->hwHW", ROWS, COLUMNS).reshape(3, 4, 10),
        )[:, :, None],
        lambda: (ROWS, COLUMNS),
    ),
    "a number": (
        lambda h: jnp.tensordot(h, jnp.asarray(2.0), 0),
        lambda: (2 * np.eye(3), np.eye(4)),
    ),
    "places": (lambda h: h[:, PLACES], lambda: (one_hot(PLACES, 3), np.eye(4))),
    "places twice": (
        lambda h: jnp.take(h, PLACES, axis=1)[:, :, PLACES],
        lambda: (one_hot(PLACES, 3), one_hot(PLACES, 4)),
    ),
    "one row": (
        lambda h: h[:, 1][:, None],
        lambda: (one_hot(np.array([1]), 3), np.eye(4)),
    ),
    "nearest": (
        lambda h: jax.image.resize(h, (h.shape[0], 5, 3, WIDTH), "nearest"),
        lambda: (resized(3, 5, "nearest"), resized(4, 3, "nearest")),
    ),
    "linear": (
        lambda h: jax.image.resize(h, (h.shape[0], 5, 3, WIDTH), "linear"),
        lambda: (resized(3, 5, "linear"), resized(4, 3, "linear")),
    ),
}


def network(pixel_map: Any) -> Any:
    def apply_fn(params: Any, x: jax.Array) -> jax.Array:
        h = pixel_map(jax.nn.relu(x @ params["w"]))
        return h.mean(axis=(1, 2)) @ params["v"] / math.sqrt(WIDTH)

    return apply_fn


SHAPES = shapes_of(w=(CHANNELS, WIDTH), v=(WIDTH, 1))


def rectified() -> tuple[np.ndarray, np.ndarray]:
    """Moments of ReLU at all pairs of pixels, and the kernel there."""
    flat = IMAGES.reshape(3, -1, CHANNELS)
    sizes = np.linalg.norm(flat, axis=2)
    scale = np.multiply.outer(sizes, sizes)
    products = np.einsum("npc,mqc->npmq", flat, flat)
    cosines = np.clip(products / scale, -1, 1)
    cosines = np.where(np.abs(cosines) > 1 - 1e-14, np.round(cosines), cosines)
    angles = np.arccos(cosines)
    value = (np.sin(angles) + cosines * (np.pi - angles)) * scale / (2 * np.pi)
    return value, (np.pi - angles) / (2 * np.pi) * products


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.sampled(3)
def test_maps_of_pixels_are_applied_to_both_inputs(x64: None, name: str) -> None:
    pixel_map, matrices = MAPS[name]
    rows, columns = matrices()
    weights = np.kron(rows.mean(0), columns.mean(0))
    value, kernel = (
        np.einsum("npmq,p,q->nm", a, weights, weights) for a in rectified()
    )
    apply_fn, x = network(pixel_map), jnp.asarray(IMAGES)
    found = [
        verb(apply_fn, SHAPES, x, variances=1.0)
        for verb in (lazyjax.infinite_nngp_of, lazyjax.infinite_ntk_of)
    ]
    assert_close(found[0], value, 1e-12)
    assert_close(found[1], value + kernel, 1e-12)


REFUSED = {
    "units chosen": (lambda h: h[..., np.arange(WIDTH)[::-1]], "gather|rev", "units"),
    "units mixed": (
        lambda h: h @ np.eye(WIDTH),
        "dot_general",
        "hidden units by numbers",
    ),
    "a diagonal": (
        lambda h: h[:, [0, 1, 2], [0, 1, 2]][:, None],
        "gather",
        "no selection",
    ),
    "out of bounds": (
        lambda h: jnp.take(h, jnp.array([0, 7]), axis=1),
        "gather",
        "out of their bounds|no selection",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.sampled(2)
def test_other_choices_are_refused(x64: None, name: str) -> None:
    pixel_map, operation, reason = REFUSED[name]
    with pytest.raises(ValueError, match=rf"(?s)({operation}).*{reason}"):
        lazyjax.infinite_ntk_of(
            network(pixel_map), SHAPES, jnp.asarray(IMAGES), variances=1.0
        )


@pytest.mark.slow
@pytest.mark.parametrize("method", ["nearest", "linear"])
def test_resized_images_have_the_mean_kernel_of_networks_not_that_of_neural_tangents(
    method: str,
) -> None:
    """Its `ImageResize` is off after 1 or 3 convolutions, and right after none or 2."""
    from lazyjax.interop.neural_tangents import load_neural_tangents

    stax = load_neural_tangents().stax
    x, width = jnp.asarray(IMAGES[:2], jnp.float32), 256
    shapes = {"w": (3, 3, CHANNELS, width), "u": (width, width), "v": (width, 1)}

    def apply_fn(params: Any, x: jax.Array) -> jax.Array:
        numbers = ("NHWC", "HWIO", "NHWC")
        h = jax.lax.conv_general_dilated(
            x, params["w"], (1, 1), "SAME", dimension_numbers=numbers
        )
        h = jax.nn.relu(h / math.sqrt(9 * CHANNELS))
        h = jax.image.resize(h, (x.shape[0], 5, 7, width), method)
        h = jax.nn.relu(h @ params["u"] / math.sqrt(width)).mean(axis=(1, 2))
        return h @ params["v"] / math.sqrt(width)

    def init(key: jax.Array, x: Any, /) -> dict[str, jax.Array]:
        keys = jax.random.split(key, len(shapes))
        return {
            name: jax.random.normal(k, shape, x.dtype)
            for k, (name, shape) in zip(keys, shapes.items(), strict=True)
        }

    params = {
        name: jax.ShapeDtypeStruct(shape, x.dtype) for name, shape in shapes.items()
    }
    found = lazyjax.infinite_ntk_of(apply_fn, params, x, variances=1.0)
    sampled = lazyjax.monte_carlo_ntk(
        apply_fn, init, x, num_seeds=200, key=jax.random.key(0)
    )
    mean, error = sampled.mean[:, :, 0, 0], sampled.sem[:, :, 0, 0]
    convolution = stax.Conv(1, (3, 3), padding="SAME")
    layers = [convolution, stax.Relu(), stax.ImageResize((-1, 5, 7, -1), method)]
    layers += [stax.Dense(1), stax.Relu(), stax.GlobalAvgPool(), stax.Dense(1)]
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        theirs = stax.serial(*layers)[2](x, None, "ntk")
    assert (jnp.abs(mean - found) <= 5 * error).all()
    if method == "nearest":  # the other is off by less than can be told here
        assert (jnp.abs(mean - theirs) > 5 * error).any()
