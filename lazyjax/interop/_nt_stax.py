"""The network of `nt.stax` that has the infinite-width limit of an `Architecture`."""

import dataclasses
import functools
import math
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lazyjax._checks import check_choice
from lazyjax.activations import activation_fn, find
from lazyjax.architecture import KINDS, NORMALIZATION_EPS, Architecture
from lazyjax.architecture.kinds import complete
from lazyjax.typing import Activation

KernelName = Literal["nngp", "ntk"]

# Points along each axis of their quadrature: enough for smooth activations.
_QUADRATURE_DEGREE = 150


def stax_kernels(
    stax: ModuleType,
    architecture: Architecture,
    x1: Float[Array, "n1 *d"],
    x2: Float[Array, "n2 *d"] | None,
    width: int | None,
) -> tuple[Float[Array, "n1 n2"], Float[Array, "n1 n2"]]:
    """Covariance and tangent kernel of each output, by neural-tangents."""
    check_choice(
        "architecture.kind",
        architecture.kind,
        [name for name, kind in KINDS.items() if kind.stax is not None],
    )
    layers_fn = KINDS[architecture.kind].stax
    assert layers_fn is not None
    if architecture.symmetrized:
        raise ValueError(
            "`architecture` must not be symmetrized: neural-tangents has no networks "
            "of two copies that start equal. Compare the network of one copy."
        )
    if architecture.is_residual:
        _check_is_odd(architecture.activation)

    # One program: op by op, hundreds of small ones would be compiled.
    @jax.jit
    def both(x1: Array, x2: Array | None) -> tuple[Array, Array]:
        def compute(*names: KernelName) -> Any:
            layers = StaxLayers(stax, architecture, names[0], x1.shape[1:], width)
            output = _scaled(stax.Identity(), architecture.output_scale)
            network = stax.serial(*layers_fn(layers), output)
            with warnings.catch_warnings():
                # Branches here are independent: each ends in an activation of weights.
                warnings.filterwarnings("ignore", message="`FanIn` layers assume")
                return network[2](x1, x2, names)

        if architecture.parameterization == "mup":  # two networks: see `_weights`
            return compute("nngp").nngp, compute("ntk").ntk
        found = compute("nngp", "ntk")
        return found.nngp, found.ntk

    with jax.numpy_dtype_promotion("standard"):  # theirs mixes types, pooling does
        return both(x1, x2)


@dataclasses.dataclass(frozen=True)
class StaxLayers:
    """Layers of `stax` as `architecture` describes them, counted from 1."""

    stax: Any  # the module `neural_tangents.stax`
    architecture: Architecture  # description of the network
    # What the network is for: of "mup", the two kernels need two networks.
    kernel: KernelName
    shape: tuple[int, ...]  # of an input
    # Units of each hidden layer, for "standard" parameterization only.
    width: int | None

    def dense(self, layer: int, num_pixels: int = 1) -> Any:
        """Weights of the features of so many pixels."""
        num_features = math.prod(self.shape)
        return self._weights(layer, num_features, num_pixels, self.stax.Dense)

    def convolution(self, layer: int) -> Any:
        """Weights of the channels of all taps of a filter."""
        spec = self.architecture
        stride = (spec.stride(layer),) * len(spec.filter_shape)
        conv = functools.partial(
            self.stax.Conv,
            filter_shape=spec.filter_shape,
            strides=stride,
            padding=spec.padding,
        )
        return self._weights(layer, self.shape[-1], math.prod(spec.filter_shape), conv)

    def _weights(
        self, layer: int, channels: int, num_pixels: int, weights_fn: Callable[..., Any]
    ) -> Any:
        """Weights that read so many pixels, of `channels` each if they are the first."""
        spec = self.architecture
        is_standard = spec.parameterization == "standard"
        their_fan_in = channels * num_pixels
        w_std = float(spec.w_std) * math.sqrt(
            their_fan_in / spec.fan_in(layer, channels, num_pixels)
        )
        if spec.parameterization == "mup" and self.kernel == "nngp" and layer > 1:
            # At its start, the readout of infinitely many units is zero.
            w_std *= layer < spec.num_layers
        is_hidden = layer < spec.num_layers
        width = self.width or 1  # which counts in "standard" only
        weights = weights_fn(
            width * spec.width_factor(layer) if is_hidden else width,
            W_std=w_std,
            b_std=float(spec.b_std) or None,
            parameterization="standard" if is_standard else "ntk",
        )
        return weights if spec.is_trained(layer) else _frozen(weights)

    def hidden(self, layer: int, weights: Any) -> list[Any]:
        """A hidden layer of these weights, which adds to the one before or not."""
        spec, stax = self.architecture, self.stax
        units = [weights]
        if spec.normalization == "layer":
            units.append(stax.LayerNorm(eps=NORMALIZATION_EPS))
        units.append(self._activation())
        factor = spec.activation_factor(layer)
        if factor != 1 or spec.is_residual:
            units.append(_scaled(stax.Identity(), factor))
        if not spec.is_residual or layer == 1:
            return units
        both = stax.parallel(stax.Identity(), stax.serial(*units))
        return [stax.FanOut(2), both, stax.FanInSum()]

    def pool(self) -> Any:
        """Mean over windows of 2 pixels along each axis."""
        window = (2,) * len(self.architecture.filter_shape)
        return self.stax.AvgPool(window, window)

    def _activation(self) -> Any:
        spec = find(self.architecture.activation)
        if spec is not None and spec.stax is not None:
            return spec.stax(self.stax)
        phi = activation_fn(self.architecture.activation)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Numerical Activation Layer")
            return self.stax.ElementwiseNumerical(
                phi,
                deg=_QUADRATURE_DEGREE,
                df=jax.grad(lambda u: jnp.sum(phi(u))),
            )


def _check_is_odd(activation: Activation) -> None:
    """Check that units have mean zero, whatever their variance."""
    with jax.ensure_compile_time_eval():
        u = jnp.linspace(0.0, 5.0, 101)
        phi = activation_fn(activation)
        is_odd = np.allclose(phi(-u), -phi(u), rtol=1e-5, atol=1e-6)
    if not is_odd:
        raise ValueError(
            "`architecture.activation` must be odd in residual networks, such as 'erf', "
            "'sin' or 'tanh': the sums of neural-tangents are of layers of mean zero, "
            "and the products of means of other layers, which the kernel of Du et al. "
            f"(2019b) has, are not among its kernels; got {activation!r}."
        )


def _fully_connected(layers: StaxLayers) -> list[Any]:
    stack = [layers.stax.Flatten()]
    for layer in range(1, layers.architecture.depth + 1):
        stack += layers.hidden(layer, layers.dense(layer))
    return [*stack, layers.dense(layers.architecture.num_layers)]


def _convolutional(layers: StaxLayers) -> list[Any]:
    spec, stax = layers.architecture, layers.stax
    stack, space = [], layers.shape[:-1]
    for layer in range(1, spec.depth + 1):
        stack += layers.hidden(layer, layers.convolution(layer))
        space = spec.space_after(layer, space)
        if layer in spec.pool_after:
            stack.append(layers.pool())
    if spec.head == "average":
        return [*stack, stax.GlobalAvgPool(), layers.dense(spec.num_layers)]
    readout = layers.dense(spec.num_layers, math.prod(space))
    return [*stack, stax.Flatten(), readout]


for _name in ("mlp", "resnet"):
    complete(_name, stax=_fully_connected)
for _name in ("cnn", "conv_resnet"):
    complete(_name, stax=_convolutional)


def _scaled(identity: Any, factor: float) -> Any:
    """Layer that multiplies by `factor`, and lets units of mean zero be summed."""
    init_fn, apply_fn, kernel_fn = identity

    @functools.wraps(kernel_fn)  # requirements on inputs are its attributes
    def scaled_kernel_fn(k: Any, **options: Any) -> Any:
        # What it checks before a sum is called Gaussian; what it needs is mean zero.
        return (kernel_fn(k, **options) * factor).replace(is_gaussian=True)

    return init_fn, apply_fn, scaled_kernel_fn


def _frozen(layer: Any) -> Any:
    """`layer` without the contribution of its own parameters to the tangent kernel."""
    init_fn, apply_fn, kernel_fn = layer

    @functools.wraps(kernel_fn)  # requirements on inputs are its attributes
    def frozen_kernel_fn(k: Any, **options: Any) -> Any:
        result = kernel_fn(k, **options)
        if result.ntk is None:
            return result
        own = kernel_fn(k.replace(ntk=0 * k.ntk), **options).ntk
        return result.replace(ntk=result.ntk - own)

    return init_fn, apply_fn, frozen_kernel_fn
