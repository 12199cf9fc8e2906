"""Layers of weights in every parameterization, and networks made of Flax modules."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lazyjax._checks import check_at_least
from lazyjax.architecture import NORMALIZATION_EPS, Architecture
from lazyjax.nets.network import Apply, Init, Network, symmetrize
from lazyjax.typing import Params, Readout


class Scale(NamedTuple):
    """How an array of parameters enters: `multiplier * (init_std * randomness)`."""

    multiplier: float
    init_std: float


def weight_scale(
    architecture: Architecture, layer: int, fan_in: int, width: int
) -> Scale:
    """Scale of weight layer `layer`, counted from 1; W = multiplier * w."""
    std = architecture.w_std / math.sqrt(fan_in)
    if architecture.parameterization == "standard":
        return Scale(1.0, std)
    if architecture.parameterization == "ntk" or architecture.depth == 0:
        return Scale(std, 1.0)
    # mup: Yang and Hu's (a, b) are (-1/2, 1/2), (0, 1/2), (1/2, 1/2) by layer.
    root = math.sqrt(width)
    if layer == 1:
        return Scale(std * root, 1 / root)
    if layer == architecture.num_layers:
        return Scale(std, 1 / root)
    return Scale(std * root, 1 / root)


def recurrent_scale(architecture: Architecture, layer: int, width: int) -> Scale:
    """Scale of the recurrent weights of layer `layer`, those of a hidden layer."""
    recurrent = dataclasses.replace(architecture, w_std=architecture.recurrent_std)
    return weight_scale(recurrent, layer, width, width)


def bias_scale(architecture: Architecture, layer: int, width: int) -> Scale | None:
    """Scale of the biases of layer `layer`; they act like weights of a constant input."""
    std = architecture.b_std
    if std == 0:
        return None
    if architecture.parameterization == "standard":
        return Scale(1.0, std)
    if architecture.parameterization == "mup" and layer < architecture.num_layers:
        return Scale(std * math.sqrt(width), 1 / math.sqrt(width))
    return Scale(std, 1.0)


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
    """Weight layer `layer` of a network, counted from 1; to be called in a module.

    Args:
        architecture: Description of the network.
        layer: The layer; the last has `num_outputs` units.
        width: Units of the others.
        h: Its input.
        num_pixels: Pixels that the features of `h` belong to.

    Returns:
        Pre-activations, or outputs.
    """
    fan_in = h.shape[-1]
    if layer == 1 and architecture.input_scaling == "none":
        fan_in = 1
    elif architecture.pixel_scaling == "none":
        fan_in //= num_pixels
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
    """Convolutional layer `layer`, counted from 1; to be called in a module.

    Args:
        architecture: Description of the network.
        layer: The layer.
        width: Width of the network.
        h: Its input, channels last.

    Returns:
        Pre-activations.
    """
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
    is_unscaled = layer == 1 and architecture.input_scaling == "none"
    fan_in = 1 if is_unscaled else h.shape[-1]
    if architecture.pixel_scaling == "fan_in":
        fan_in *= math.prod(architecture.filter_shape)
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


def normalized(
    architecture: Architecture, z: Float[Array, "n *space m"]
) -> Float[Array, "n *space m"]:
    """Pre-activations of a hidden layer, normalized over units if so described."""
    if architecture.normalization == "none":
        return z
    centered = z - jnp.mean(z, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(centered), axis=-1, keepdims=True)
    return centered * jax.lax.rsqrt(variance + NORMALIZATION_EPS)


def pool(
    architecture: Architecture, h: Float[Array, "n *space c"]
) -> Float[Array, "n *windows c"]:
    """Windows of 2 along every spatial axis, stride 2, pooled; odd ends are dropped.

    Returns:
        The smaller images.

    Raises:
        ValueError: If an axis has only one pixel.
    """
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


def network_of(
    module: nn.Module,
    architecture: Architecture,
    width: int,
    check_fn: Callable[[Params, Array], None],
) -> Network:
    """Network of a Flax module that `architecture` describes.

    Args:
        module: From inputs to outputs.
        architecture: Its description; if it is symmetrized, so is the network.
        width: Units of each hidden layer.
        check_fn: Raises if inputs do not fit parameters.

    Returns:
        The network.
    """
    check_at_least("width", width, 1)
    network = Network(
        init=Init(_ModuleInit(module)),
        apply=Apply(ModuleApply(module), check_fn),
        architecture=dataclasses.replace(architecture, symmetrized=False),
        width=width,
    )
    return symmetrize(network) if architecture.symmetrized else network


def check_num_features(params: Params, x: Array) -> None:
    """Check that flattened inputs have as many features as the first layer.

    Raises:
        ValueError: If they have not.
    """
    expected = params["layer_1"]["kernel"].shape[0]
    if x.ndim < 1 or math.prod(x.shape[1:]) != expected:
        raise ValueError(
            f"`x` must have {expected} features per example, as at initialization; "
            f"got shape {x.shape}."
        )


def check_sequence(params: Params, x: Array) -> None:
    """Check that inputs are sequences of as many features as the first layer reads.

    Raises:
        ValueError: If they are not.
    """
    expected = params["layer_1"]["kernel"].shape[0]
    if x.ndim != 3 or x.shape[-1] != expected:
        raise ValueError(
            f"`x` must be a batch of sequences (n, time, {expected}); got {x.shape}."
        )


def check_image(params: Params, x: Array) -> None:
    """Check that inputs are images with as many channels as the first layer reads.

    Raises:
        ValueError: If they are not.
    """
    *taps, channels, _ = params["layer_1"]["kernel"].shape
    if x.ndim != len(taps) + 2 or x.shape[-1] != channels:
        raise ValueError(
            f"`x` must have {len(taps)} spatial axes and {channels} channels, (n, "
            f"{'height, width' if len(taps) == 2 else 'length'}, {channels}); got shape "
            f"{x.shape}."
        )


@dataclasses.dataclass(frozen=True)
class _ModuleInit:
    module: nn.Module

    def __call__(self, key: Array, x: Array) -> Params:
        return self.module.init(key, x)["params"]


@dataclasses.dataclass(frozen=True)
class ModuleApply:
    """Forward pass of a Flax module."""

    module: nn.Module

    def __call__(self, params: Params, x: Array) -> Array:
        """Outputs of the module at `params`."""
        return cast(Array, self.module.apply({"params": params}, x))
