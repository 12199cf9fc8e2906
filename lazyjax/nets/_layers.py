"""Layers of weights and of images, to be called in Flax modules."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lazyjax.architecture import NORMALIZATION_EPS, Architecture
from lazyjax.nets.scales import Scale, bias_scale, weight_scale
from lazyjax.typing import Readout


class _Affine(nn.Module):
    """Weights of shape `(*taps, fan_in, features)` and biases, applied by `linear_map`."""

    features: int
    taps: tuple[int, ...]
    weight: Scale
    bias: Scale | None
    readout: Readout
    is_trained: bool
    linear_map: Callable[[Array, Array], Array]

    @nn.compact
    def __call__(self, h: Float[Array, "n *d"]) -> Float[Array, "n *features"]:
        def weight_init(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
            sample = (
                jax.random.rademacher if self.readout == "sign" else jax.random.normal
            )
            return self.weight.init_std * sample(key, shape, dtype)

        def parameter(name: str, init: Any, shape: tuple[int, ...]) -> Array:
            value = self.param(name, init, shape, h.dtype)
            value = jnp.asarray(value)  # parameters may be NumPy's
            return value if self.is_trained else jax.lax.stop_gradient(value)

        shape = (*self.taps, h.shape[-1], self.features)
        kernel = parameter("kernel", weight_init, shape)
        z = self.weight.multiplier * self.linear_map(h, kernel)
        if self.bias is None:
            return z
        bias_init = nn.initializers.normal(self.bias.init_std)
        bias = parameter("bias", bias_init, (self.features,))
        bias = self.bias.multiplier * bias
        return z + bias.reshape((1,) * (z.ndim - 1) + (-1,))


def dense(
    architecture: Architecture,
    layer: int,
    width: int,
    h: Float[Array, "*batch fan_in"],
    num_pixels: int = 1,
) -> Float[Array, "*batch features"]:
    """Weight layer `layer` of a network, counted from 1; to be called in a module."""
    fan_in = architecture.fan_in(layer, h.shape[-1] // num_pixels, num_pixels)
    is_last = layer == architecture.num_layers
    z = _Affine(
        features=architecture.num_outputs if is_last else width,
        taps=(),
        weight=weight_scale(architecture, layer, fan_in, width),
        bias=bias_scale(architecture, layer, width),
        readout=architecture.readout if is_last else "normal",
        is_trained=architecture.is_trained(layer),
        linear_map=jnp.matmul,
        name=f"layer_{layer}",
    )(h)
    is_scaled = is_last and architecture.output_scale != 1
    return architecture.output_scale * z if is_scaled else z


def projection(
    architecture: Architecture,
    layer: int,
    width: int,
    features: int,
    h: Float[Array, "*batch fan_in"],
    name: str,
) -> Float[Array, "*batch features"]:
    """One of several arrays of weights in hidden layer `layer`, by name."""
    return _Affine(
        features=features,
        taps=(),
        weight=weight_scale(architecture, layer, h.shape[-1], width),
        bias=bias_scale(architecture, layer, width),
        readout="normal",
        is_trained=architecture.is_trained(layer),
        linear_map=jnp.matmul,
        name=name,
    )(h)


def convolution(
    architecture: Architecture,
    layer: int,
    width: int,
    h: Float[Array, "n *space fan_in"],
) -> Float[Array, "n *windows features"]:
    """Convolutional layer `layer`, counted from 1; to be called in a module."""
    return _convolution(
        architecture, layer, width, h, architecture.stride(layer), f"layer_{layer}"
    )


def shortcut(
    architecture: Architecture,
    layer: int,
    width: int,
    h: Float[Array, "n *space fan_in"],
    stride: int,
) -> Float[Array, "n *windows features"]:
    """Convolution by filters of 1 pixel, to the channels of hidden layer `layer`."""
    ones = (1,) * len(architecture.filter_shape)
    single = dataclasses.replace(architecture, filter_shape=ones)
    return _convolution(single, layer, width, h, stride, f"shortcut_{layer}")


def _convolution(
    architecture: Architecture,
    layer: int,
    width: int,
    h: Array,
    stride: int,
    name: str,
) -> Array:
    num_taps = math.prod(architecture.filter_shape)
    fan_in = architecture.fan_in(layer, h.shape[-1], num_taps)
    return _Affine(
        features=width * architecture.width_factor(layer),
        taps=architecture.filter_shape,
        weight=weight_scale(architecture, layer, fan_in, width),
        bias=bias_scale(architecture, layer, width),
        readout="normal",
        is_trained=architecture.is_trained(layer),
        linear_map=_Convolve(architecture, stride),
        name=name,
    )(h)


def normalize(
    architecture: Architecture, z: Float[Array, "n *space m"]
) -> Float[Array, "n *space m"]:
    """Pre-activations of a hidden layer, normalized over units if it asks for that."""
    if architecture.normalization == "none":
        return z
    centered = z - jnp.mean(z, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(centered), axis=-1, keepdims=True)
    return centered * jax.lax.rsqrt(variance + NORMALIZATION_EPS)


def pool(
    architecture: Architecture, h: Float[Array, "n *space c"]
) -> Float[Array, "n *windows c"]:
    """Windows of 2 along every spatial axis, stride 2, pooled; odd ends are dropped."""
    if 1 in h.shape[1:-1]:
        raise ValueError(
            "`x` is too small: an axis of 1 pixel cannot be pooled. Leave layers out of "
            f"`pool_after`, which is {architecture.pool_after}, or give larger images."
        )
    window = (1, *(2,) * (h.ndim - 2), 1)
    # What is known at tracing can be differentiated.
    if architecture.pooling == "max":
        least = np.full((), -np.inf, h.dtype)
        return jax.lax.reduce_window(h, least, jax.lax.max, window, window, "VALID")
    zero = np.zeros((), h.dtype)
    total = jax.lax.reduce_window(h, zero, jax.lax.add, window, window, "VALID")
    return total / math.prod(window)


def read_out(
    architecture: Architecture, width: int, h: Float[Array, "n *space c"]
) -> Float[Array, "n k"]:
    """Output layer of an image, or of a row of tokens, as `architecture.head` says."""
    if architecture.head == "average":
        h = jnp.mean(h, axis=tuple(range(1, h.ndim - 1)))
        return dense(architecture, architecture.num_layers, width, h)
    flat, num_pixels = h.reshape(h.shape[0], -1), math.prod(h.shape[1:-1])
    return dense(architecture, architecture.num_layers, width, flat, num_pixels)


@dataclasses.dataclass(frozen=True)
class _Convolve:
    architecture: Architecture
    stride: int

    def __call__(self, h: Array, kernel: Array) -> Array:
        space = h.shape[1:-1]
        pads = [
            self.architecture.pads(size, axis, self.stride)
            for axis, size in enumerate(space)
        ]
        if self.architecture.padding == "CIRCULAR":
            h = jnp.pad(h, [(0, 0), *pads, (0, 0)], mode="wrap")
            pads = [(0, 0)] * len(space)
        letters = "HW"[: len(space)]
        return jax.lax.conv_general_dilated(
            h,
            kernel,
            (self.stride,) * len(space),
            pads,
            dimension_numbers=(f"N{letters}C", f"{letters}IO", f"N{letters}C"),
        )
