r"""The layers of an `Architecture`, one after the other, at infinite width.

With $\Sigma^l$ the covariance of pre-activations $z^l$ and $H^l$ the second moment of
units $h^l$ of two inputs ($H^0 = x \cdot x' / d$, or $x \cdot x'$), plain layers obey

$$\Sigma^l = w^2 A H^{l-1} + b^2, \qquad H^l = E[\phi(u)\phi(v)], \qquad
  \Theta^l = E[\phi'(u)\phi'(v)] \, (A(w^2 \Theta^{l-1} + s_l H^{l-1}) + t_l),$$

with $(u, v) \sim N(0, \Sigma^l)$, and $A$ the mean over a filter (1 for vectors). The
parameterization and the choice of trained layers only enter the scales $s_l, t_l$.

Statistics of one input alone are computed once for each; the rest, once for each pair.
"""

import dataclasses
import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from lazyjax.architecture import KINDS, Architecture, InfiniteLimit
from lazyjax.infinite import layers
from lazyjax.infinite.duals.dual import dual_mean, dual_variance
from lazyjax.infinite.layers import Kernels, LayerScales


@dataclasses.dataclass(frozen=True)
class _HiddenLayer:
    """What is static about a hidden layer."""

    scales: LayerScales  # of its weights
    factor: float  # what multiplies the activation
    is_residual: bool  # whether it adds to the layer before
    stride: int  # of its convolution
    is_pooled: bool  # whether its image is averaged afterwards
    all_pairs: bool  # whether kernels between two inputs are over all pairs of pixels
    own_pairs: bool  # whether those of an input with itself are


def reads_all_pairs(architecture: Architecture) -> bool:
    """Whether kernels of the first layer are over all pairs of pixels."""
    reads_mean = architecture.head == "average" or bool(architecture.pool_after)
    return architecture.is_convolutional and reads_mean


class _Segment(NamedTuple):
    """A hidden layer, or several equal ones that are compiled once."""

    layer: _HiddenLayer
    num_layers: int


# Runs of more equal layers than this are loops: their programs are quick to compile,
# while those of fewer layers are faster when the layers are fused.
_SCANNED = 4


class InputStatistics(NamedTuple):
    """What one input gives to a hidden layer."""

    # Of pre-activations, at each pixel, before they are normalized.
    variance: Float[Array, "*space"]
    # Mean over units of the layer before; for residual layers.
    mean_before: Float[Array, "*space"] | None
    mean_branch: Float[Array, "*space"] | None  # mean over units of what is added to it

    def means(self) -> tuple[Array, Array]:
        """Both means, of a residual layer."""
        assert self.mean_before is not None
        assert self.mean_branch is not None
        return self.mean_before, self.mean_branch


def _statistics(
    architecture: Architecture, x: Float[Array, "*d"], width: int | None
) -> PyTree:
    """Statistics of one input for every hidden layer, or run of equal ones."""
    segments = _segments(architecture, x.shape, width)
    own_pairs = bool(segments) and segments[0].layer.own_pairs
    moments = _input_moments(architecture, x, x, own_pairs)
    mean = jnp.zeros_like(moments) if architecture.is_residual else None

    def step(
        layer: _HiddenLayer, state: tuple[Array, Array | None]
    ) -> tuple[tuple[Array, Array | None], InputStatistics]:
        moments, mean = state
        untrained = layer.scales._replace(is_trained=False)
        layer = dataclasses.replace(layer, scales=untrained)
        z = _weights(architecture, layer, Kernels(moments, None), layer.own_pairs)
        raw_variance = layers.same_pixels(z.nngp) if layer.own_pairs else z.nngp
        variance = layers.activated_variance(architecture, raw_variance)
        if layer.own_pairs:
            sides = (raw_variance, raw_variance, jnp.ones((), bool))
            h = layers.hidden_units(architecture, z, layer.factor, *sides).nngp
        else:
            h = layer.factor**2 * dual_variance(architecture.activation, variance)
        found = InputStatistics(raw_variance, mean, None)
        if mean is not None:
            branch = layer.factor * dual_mean(architecture.activation, variance)
            found = InputStatistics(raw_variance, mean, branch)
            if layer.is_residual:
                h = moments + h + 2 * mean * branch
                branch = mean + branch
            mean = branch
        return (layers.pool(h) if layer.is_pooled else h, mean), found

    state, statistics = (moments, mean), []
    for layer, num_layers in segments:
        if own_pairs and not layer.own_pairs:
            own_pairs, state = False, (layers.same_pixels(state[0]), state[1])
        if num_layers == 1:
            state, found = step(layer, state)
        else:
            state, found = jax.lax.scan(
                lambda state, _, layer=layer: step(layer, state),
                state,
                length=num_layers,
            )
        statistics.append(found)
    return tuple(statistics)


def _kernels(
    architecture: Architecture,
    x1: Float[Array, "*d"],
    x2: Float[Array, "*d"],
    statistics1: PyTree,
    statistics2: PyTree,
    is_same: Bool[Array, ""] | None,
    width: int | None,
) -> Kernels:
    """Kernels of the output for one pair of inputs."""
    segments = _segments(architecture, x1.shape, width)
    all_pairs = architecture.is_convolutional and segments[0].layer.all_pairs
    state = Kernels(_input_moments(architecture, x1, x2, all_pairs), None)

    def step(
        layer: _HiddenLayer,
        state: Kernels,
        both: tuple[InputStatistics, InputStatistics],
    ) -> tuple[Kernels, None]:
        first, second = both
        z = _weights(architecture, layer, state, layer.all_pairs)
        sides = (first.variance, second.variance, is_same)
        h = layers.hidden_units(architecture, z, layer.factor, *sides)
        if layer.is_residual:
            h = layers.add_branch(state, h, first.means(), second.means())
        if layer.is_pooled:
            h = h.map(layers.pool)
        return h, None

    for (layer, num_layers), *both in zip(
        segments, statistics1, statistics2, strict=True
    ):
        if all_pairs and not layer.all_pairs:
            all_pairs, state = False, state.map(layers.same_pixels)
        if num_layers == 1:
            state, _ = step(layer, state, tuple(both))
        else:
            state, _ = jax.lax.scan(
                lambda state, both, layer=layer: step(layer, state, both),
                state,
                tuple(both),
            )
    return output(architecture, state, all_pairs, x1.shape, width)


def _weights(
    architecture: Architecture, layer: _HiddenLayer, state: Kernels, all_pairs: bool
) -> Kernels:
    if not architecture.is_convolutional:
        return layers.dense(state, layer.scales)

    def convolve(array: Array) -> Array:
        return layers.convolve(array, architecture, layer.stride, 1 + all_pairs)

    weighed = layers.weigh(state, layer.scales).map(convolve)
    return layers.add_bias(weighed, layer.scales)


def output(
    architecture: Architecture,
    state: Kernels,
    all_pairs: bool,
    shape: tuple[int, ...],
    width: int | None,
) -> Kernels:
    """Kernels of the output layer, of which the ntk may be None."""
    num_pixels = 1
    if architecture.is_convolutional:
        if architecture.head == "average":
            state = state.map(jnp.mean)
        else:
            if all_pairs:
                state = state.map(layers.same_pixels)
            num_pixels = state.nngp.size
            is_mean = architecture.pixel_scaling == "fan_in"
            state = state.map(jnp.mean if is_mean else jnp.sum)
    scales = layer_scales(
        architecture, architecture.num_layers, shape, width, num_pixels
    )
    outputs = layers.dense(state, scales)
    if architecture.output_scale == 1:
        return outputs
    return outputs.map(lambda kernel: architecture.output_scale**2 * kernel)


def _segments(
    architecture: Architecture, shape: tuple[int, ...], width: int | None
) -> list[_Segment]:
    is_convolutional = architecture.is_convolutional
    num_taps = math.prod(architecture.filter_shape) if is_convolutional else 1
    last_pool = max(architecture.pool_after, default=0)
    # A pool after the last layer comes before no activation.
    last_inner_pool = max(
        (p for p in architecture.pool_after if p < architecture.depth), default=0
    )
    reads_pairs = is_convolutional and architecture.head == "average"
    hidden = [
        _HiddenLayer(
            scales=layer_scales(architecture, layer, shape, width, num_taps),
            factor=architecture.activation_factor(layer),
            is_residual=architecture.is_residual and layer > 1,
            stride=architecture.stride(layer),
            is_pooled=layer in architecture.pool_after,
            all_pairs=reads_pairs or layer <= last_pool,
            own_pairs=layer <= last_inner_pool,
        )
        for layer in range(1, architecture.depth + 1)
    ]
    segments: list[_Segment] = []
    for layer, run in itertools.groupby(hidden):
        count = len(list(run))
        keeps_shape = layer.stride == 1 and not layer.is_pooled
        if count <= _SCANNED or not keeps_shape or architecture.padding == "VALID":
            segments += [_Segment(layer, 1)] * count
        else:  # the first apart: before it there may be no ntk yet
            segments += [_Segment(layer, 1), _Segment(layer, count - 1)]
    return segments


def layer_scales(
    architecture: Architecture,
    layer: int,
    shape: tuple[int, ...],
    width: int | None,
    num_pixels: int,
) -> LayerScales:
    """Scales of a layer, from 1, whose units read `num_pixels` pixels."""
    w_sq, b_sq = float(architecture.w_std) ** 2, float(architecture.b_std) ** 2
    if not architecture.is_trained(layer):
        return LayerScales(w_sq, b_sq, 0.0, 0.0, is_trained=False)
    if architecture.parameterization != "standard":
        return LayerScales(w_sq, b_sq, w_sq, b_sq, is_trained=True)
    # The gradient is that in W itself: every weight of a unit counts with 1.
    if layer == 1:
        channels = _num_channels(architecture, shape)
    else:
        assert width is not None
        channels = width * architecture.width_factor(layer - 1)
    own = float(architecture.fan_in(layer, channels, num_pixels))
    return LayerScales(w_sq, b_sq, own, float(b_sq > 0), is_trained=True)


def _input_moments(
    architecture: Architecture, x1: Array, x2: Array, all_pairs: bool
) -> Array:
    if architecture.is_convolutional:
        names = "hw"[: x1.ndim - 1], "gv"[: x1.ndim - 1]
        if all_pairs:
            pixels = "".join(a + b for a, b in zip(*names, strict=True))
            spec = f"{names[0]}c,{names[1]}c->{pixels}"
        else:
            spec = f"{names[0]}c,{names[0]}c->{names[0]}"
    else:
        spec, x1, x2 = "c,c->", x1.ravel(), x2.ravel()
    moments = jnp.einsum(spec, x1, x2, precision=jax.lax.Precision.HIGHEST)
    return moments / architecture.fan_in(1, _num_channels(architecture, x1.shape))


def _num_channels(architecture: Architecture, shape: tuple[int, ...]) -> int:
    reads_flat = KINDS[architecture.kind].layers == "dense"
    return math.prod(shape) if reads_flat else shape[-1]


def _activated_variances(
    architecture: Architecture, statistics: PyTree
) -> list[Float[Array, "..."]]:
    """One array for each hidden layer, or run of equal ones."""
    return [layers.activated_variance(architecture, s.variance) for s in statistics]


LIMIT = InfiniteLimit(
    statistics=_statistics, kernels=_kernels, activated_variances=_activated_variances
)
