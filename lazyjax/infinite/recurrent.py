r"""Recurrent (Elman) networks at infinite width, their weights shared over time.

With $\Sigma_t^l$ the covariance of pre-activations of layer $l$ at time $t$ for two
inputs, $H_t^l$ the second moment of units, $H_t^0 = x_t \cdot x'_t / d$ and $H_0^l = 0$,

$$\Sigma_t^l = w^2 H_t^{l-1} + r^2 H_{t-1}^l + b^2, \qquad H_t^l = E[\phi(u)\phi(v)],$$

$$\Theta_t^l = E[\phi'(u)\phi'(v)] \, (w^2 \Theta_t^{l-1} + r^2 \Theta_{t-1}^l +
  s_l H_t^{l-1} + s'_l H_{t-1}^l + t_l).$$

A weight acts at all times. In the limit, its gradient at time $t$ for one input is
correlated with that at time $t$ for the other input only: the output reads the last time
of both, and backpropagation moves both back by one step at a time.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lazyjax.architecture import Architecture, InfiniteLimit
from lazyjax.infinite import layers
from lazyjax.infinite.duals.dual import dual_variance
from lazyjax.infinite.layers import Kernels, LayerScales
from lazyjax.infinite.recursion import layer_scales, output


class _RecurrentLayer(NamedTuple):
    """A recurrent layer: scales of its two arrays of weights, and of its units."""

    inputs: LayerScales
    recurrent: LayerScales
    factor: float


def _statistics(
    architecture: Architecture, x: Float[Array, "time d"], width: int | None
) -> Float[Array, "time depth"]:
    """Variances of pre-activations at each time and layer, before normalization."""
    stack = _stack(architecture, x.shape, width)

    def step(before: tuple[Array, ...], moment: Array) -> tuple:
        after, found = [], []
        for layer, own in zip(stack, before, strict=True):
            variance = layer.inputs.w_sq * moment + layer.recurrent.w_sq * own
            variance = variance + layer.inputs.b_sq
            found.append(variance)
            variance = layers.activated_variance(architecture, variance)
            moment = layer.factor**2 * dual_variance(architecture.activation, variance)
            after.append(moment)
        return tuple(after), jnp.stack(found)

    start = (jnp.zeros((), x.dtype),) * len(stack)
    return jax.lax.scan(step, start, _input_moments(architecture, x, x))[1]


def _kernels(
    architecture: Architecture,
    x1: Float[Array, "time d"],
    x2: Float[Array, "time d"],
    statistics1: Float[Array, "time depth"],
    statistics2: Float[Array, "time depth"],
    is_same: Bool[Array, ""] | None,
    width: int | None,
) -> Kernels:
    """Kernels of the output for one pair of inputs."""
    stack = _stack(architecture, x1.shape, width)
    zero = jnp.zeros((), x1.dtype)

    def step(
        before: tuple[Kernels, ...], inputs: tuple[Array, Array, Array]
    ) -> tuple[tuple[Kernels, ...], None]:
        moment, first, second = inputs
        below, after = Kernels(moment, zero), []
        for index, (layer, own) in enumerate(zip(stack, before, strict=True)):
            z = layers.add(
                layers.dense(below, layer.inputs), layers.weigh(own, layer.recurrent)
            )
            sides = (first[index], second[index], is_same)
            below = layers.hidden_units(architecture, z, layer.factor, *sides)
            after.append(below)
        return tuple(after), None

    steps = _input_moments(architecture, x1, x2), statistics1, statistics2
    start = (Kernels(zero, zero),) * len(stack)
    last, _ = jax.lax.scan(step, start, steps)
    return output(architecture, last[-1], False, x1.shape, width)


def _stack(
    architecture: Architecture, shape: tuple[int, ...], width: int | None
) -> list[_RecurrentLayer]:
    return [
        _RecurrentLayer(
            inputs=layer_scales(architecture, layer, shape, width, 1),
            recurrent=_recurrent_scales(architecture, layer, width),
            factor=architecture.activation_factor(layer),
        )
        for layer in range(1, architecture.depth + 1)
    ]


def _recurrent_scales(
    architecture: Architecture, layer: int, width: int | None
) -> LayerScales:
    variance = float(architecture.recurrent_std) ** 2
    if not architecture.is_trained(layer):
        return LayerScales(variance, 0.0, 0.0, 0.0, is_trained=False)
    own = variance
    if architecture.parameterization == "standard":
        assert width is not None
        own = float(width)
    return LayerScales(variance, 0.0, own, 0.0, is_trained=True)


def _input_moments(
    architecture: Architecture, x1: Array, x2: Array
) -> Float[Array, " time"]:
    moments = jnp.einsum("td,td->t", x1, x2, precision=jax.lax.Precision.HIGHEST)
    return moments / architecture.fan_in(1, x1.shape[-1])


def _activated_variances(
    architecture: Architecture, statistics: Float[Array, "..."]
) -> list[Float[Array, "..."]]:
    return [layers.activated_variance(architecture, statistics)]


LIMIT = InfiniteLimit(
    statistics=_statistics, kernels=_kernels, activated_variances=_activated_variances
)
