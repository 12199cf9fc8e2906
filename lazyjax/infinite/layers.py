r"""What each kind of layer does to the kernel of one pair of inputs, at infinite width.

A kernel is an array over *pixels*: a scalar for vectors; for images $x, x'$ either over
all pairs of pixels, with axes $(s_1, s_1', s_2, s_2')$, or ("diagonal") over pairs of
the same pixel, with axes $(s_1, s_2)$. Batches are made with `jax.vmap`.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lazyjax.architecture import NORMALIZATION_EPS, Architecture
from lazyjax.infinite.duals.dual import dual_activation, dual_derivative
from lazyjax.typing import Activation

T = TypeVar("T")


class Kernels(NamedTuple):
    """Kernels of one layer's units for one pair of inputs."""

    # Second moment $E[h h']$, or the covariance of pre-activations.
    nngp: Float[Array, "*pixels"]
    # Neural tangent kernel of the trained layers so far; None before the first.
    ntk: Float[Array, "*pixels"] | None

    def map(self, fn: Callable[[Array], Array]) -> "Kernels":
        """What a linear function makes of each of the two."""
        return Kernels(fn(self.nngp), None if self.ntk is None else fn(self.ntk))


class LayerScales(NamedTuple):
    """Scales of a layer of weights, biases included."""

    w_sq: float  # variance of a pre-activation for inputs of unit second moment
    b_sq: float  # variance of the bias
    # What the layer's own weights add to the ntk, times the nngp of its input.
    ntk_w: float
    ntk_b: float  # what its own biases add
    is_trained: bool  # whether it adds anything


def dense(kernels: Kernels, scales: LayerScales) -> Kernels:
    r"""Weights $z = W h + b$, the same at every pixel: covariances of $z$."""
    return add_bias(weigh(kernels, scales), scales)


def weigh(kernels: Kernels, scales: LayerScales) -> Kernels:
    """Weights without biases, to be averaged over pixels that are summed."""
    nngp, ntk = kernels
    own = scales.ntk_w * nngp if scales.is_trained else None
    passed = None if ntk is None else scales.w_sq * ntk
    return Kernels(scales.w_sq * nngp, _sum(own, passed))


def add(first: Kernels, second: Kernels) -> Kernels:
    """Sum of independent terms of mean zero."""
    return Kernels(first.nngp + second.nngp, _sum(first.ntk, second.ntk))


def multiply(first: Kernels, second: Kernels) -> Kernels:
    """Products of independent units, one of each layer."""
    left = None if first.ntk is None else first.ntk * second.nngp
    right = None if second.ntk is None else first.nngp * second.ntk
    return Kernels(first.nngp * second.nngp, _sum(left, right))


def add_bias(kernels: Kernels, scales: LayerScales) -> Kernels:
    """Biases added to every unit and pixel."""
    nngp, ntk = kernels
    if scales.is_trained and ntk is not None:
        ntk = ntk + scales.ntk_b
    return Kernels(nngp + scales.b_sq, ntk)


def normalize(
    kernels: Kernels,
    variance1: Float[Array, "*space"],
    variance2: Float[Array, "*space"],
) -> Kernels:
    """Pre-activations over their standard deviation over infinitely many units."""
    # Their mean over units is 0, and what both do to gradients vanishes with the width.
    # The variances are those of each input, at its pixels.
    inverse1, inverse2 = (
        jax.lax.rsqrt(v + NORMALIZATION_EPS)
        for v in between_pixels(kernels.nngp, variance1, variance2)
    )
    nngp, ntk = kernels
    if ntk is not None:
        ntk = ntk * inverse1 * inverse2
    return Kernels(nngp * inverse1 * inverse2, ntk)


def normalized_variance(variance: Float[Array, "*space"]) -> Float[Array, "*space"]:
    """Variance of normalized pre-activations that had this one: 1, or less near 0."""
    return variance / (variance + NORMALIZATION_EPS)


def activated_variance(
    architecture: Architecture, variance: Float[Array, "*space"]
) -> Float[Array, "*space"]:
    """Variance of what is activated, of pre-activations of this one."""
    is_normalized = architecture.normalization == "layer"
    return normalized_variance(variance) if is_normalized else variance


def hidden_units(
    architecture: Architecture,
    kernels: Kernels,
    factor: float,
    variance1: Float[Array, "*space"],
    variance2: Float[Array, "*space"],
    is_same: Bool[Array, ""] | None,
) -> Kernels:
    """Units of pre-activations, which are normalized first if that is asked for."""
    if architecture.normalization == "layer":
        kernels = normalize(kernels, variance1, variance2)
    q11, q22 = (activated_variance(architecture, v) for v in (variance1, variance2))
    return activate(kernels, architecture.activation, factor, q11, q22, is_same)


def activate(
    kernels: Kernels,
    activation: Activation,
    factor: float,
    variance1: Float[Array, "*space"],
    variance2: Float[Array, "*space"],
    is_same: Bool[Array, ""] | None,
) -> Kernels:
    r"""Units $h = c \phi(z)$, of factor $c$, of pre-activations."""
    # Two copies: otherwise XLA writes what both moments share to memory, and one pass
    # over each of the two kernels is faster.
    nngp = slope = kernels.nngp
    if kernels.ntk is not None:
        nngp, slope, ntk = _materialize((nngp, nngp, kernels.ntk))
        kernels = Kernels(nngp, ntk)
    q11, q22 = between_pixels(nngp, variance1, variance2)

    def covariance(q12: Array) -> Array:
        if is_same is None:
            return q12
        # Else rounding makes correlations of 1 - eps, where kinks cost sqrt(eps).
        return jnp.where(is_same & _same_pixel(q12, q11), q11, q12)

    nngp = factor**2 * dual_activation(activation, q11, covariance(nngp), q22)
    if kernels.ntk is None:
        return Kernels(nngp, None)
    slope = factor**2 * dual_derivative(activation, q11, covariance(slope), q22)
    return _materialize(Kernels(nngp, slope * kernels.ntk))


def add_branch(
    skip: Kernels,
    branch: Kernels,
    means1: tuple[Float[Array, "*space"], Float[Array, "*space"]],
    means2: tuple[Float[Array, "*space"], Float[Array, "*space"]],
) -> Kernels:
    """Sum of two layers whose units are independent, given their means over units."""
    skip1, skip2 = between_pixels(skip.nngp, means1[0], means2[0])
    branch1, branch2 = between_pixels(skip.nngp, means1[1], means2[1])
    nngp = skip.nngp + branch.nngp + skip1 * branch2 + branch1 * skip2
    return Kernels(nngp, _sum(skip.ntk, branch.ntk))


def convolve(
    array: Float[Array, "*pixels"],
    architecture: Architecture,
    stride: int,
    axes_per_pixel: int,
) -> Float[Array, "*windows"]:
    """Sum over the taps of a filter, which moves both pixels of a pair together."""
    num_taps = 1
    for axis, extent in enumerate(architecture.filter_shape):
        start = axes_per_pixel * axis
        axes = tuple(range(start, start + axes_per_pixel))
        pads = architecture.pads(array.shape[start], axis, stride)
        mode = "wrap" if architecture.padding == "CIRCULAR" else "constant"
        array = sum_windows(array, axes, extent, stride, pads, mode)
        num_taps *= extent
    return array / num_taps if architecture.pixel_scaling == "fan_in" else array


def sum_windows(
    array: Array,
    axes: tuple[int, ...],
    extent: int,
    stride: int,
    pads: tuple[int, int],
    mode: str,
    dilation: int = 1,
) -> Array:
    """Sum over windows, which move along all `axes`, of equal size, together."""
    widths = [pads if axis in axes else (0, 0) for axis in range(array.ndim)]
    reach = (extent - 1) * dilation + 1
    size = (array.shape[axes[0]] + sum(pads) - reach) // stride + 1
    padded = _materialize(jnp.pad(array, widths, mode=mode))  # pyright: ignore[reportArgumentType]
    total = jnp.zeros((), array.dtype)
    for tap in range(extent):
        window = padded
        for axis in axes:
            start = tap * dilation
            stop = start + (size - 1) * stride + 1
            window = jax.lax.slice_in_dim(window, start, stop, stride, axis)
        total = window if tap == 0 else total + window
    return _materialize(total)


def pool(array: Float[Array, "*pixels"]) -> Float[Array, "*windows"]:
    """Mean over windows of 2 along every axis, stride 2; the odd end is dropped."""
    for axis in range(array.ndim):
        size = array.shape[axis] // 2
        if size == 0:
            raise ValueError("`x` is too small: an axis of 1 pixel cannot be pooled.")
        even, odd = (
            jax.lax.slice_in_dim(array, start, start + 2 * size - 1, 2, axis)
            for start in (0, 1)
        )
        array = _materialize((even + odd) / 2)
    return array


def same_pixels(array: Float[Array, "*pixels"]) -> Float[Array, "*space"]:
    """Pairs of the same pixel, out of all pairs."""
    for axis in range(array.ndim // 2):
        array = jnp.diagonal(array, axis1=axis, axis2=axis + 1)
        array = jnp.moveaxis(array, -1, axis)
    return array


def between_pixels(
    kernel: Float[Array, "*pixels"],
    first: Float[Array, "*space"],
    second: Float[Array, "*space"],
) -> tuple[Array, Array]:
    """Maps of the two inputs, shaped to broadcast against a kernel between them."""
    if kernel.ndim == first.ndim:
        return first, second
    for axis in range(first.ndim):
        first = jnp.expand_dims(first, 2 * axis + 1)
        second = jnp.expand_dims(second, 2 * axis)
    return first, second


def _same_pixel(kernel: Array, first: Array) -> Bool[Array, "..."]:
    """Where a kernel's two pixels are the same."""
    is_same = jnp.ones((1,) * kernel.ndim, bool)
    if kernel.shape == first.shape:
        return is_same
    for axis in range(0, kernel.ndim, 2):
        shape = [1] * kernel.ndim
        size = kernel.shape[axis]
        shape[axis] = shape[axis + 1] = size
        is_same = is_same & jnp.eye(size, dtype=bool).reshape(shape)
    return is_same


def _materialize(arrays: T) -> T:
    """`arrays`, behind a barrier: XLA would compute them again for each use."""
    return jax.lax.optimization_barrier(arrays)


def _sum(first: Array | None, second: Array | None) -> Array | None:
    if first is None or second is None:
        return second if first is None else first
    return first + second
