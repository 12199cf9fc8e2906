"""Linear maps of pixels, and sums over the taps of filters, of arrays of pixels."""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lazyjax.infinite import layers


@dataclasses.dataclass(frozen=True)
class PixelMap:
    """A linear map of arrays with axes `shape`, given flat as the first axis."""

    shape: tuple[int, ...]  # extents of the pixels
    fn: Callable[[Array], Array]  # the map, of arrays with these axes and one more

    def __call__(self, array: Float[Array, "pixels *rest"]) -> Float[Array, "..."]:
        """The mapped array, flat too."""
        mapped = self.fn(array.reshape(*self.shape, -1))
        return mapped.reshape(-1, *array.shape[1:])


def take(axis: int, indices: np.ndarray) -> Callable[[Array], Array]:
    """Entries along an axis; those of index -1 are 0."""

    def fn(array: Array) -> Array:
        taken = jnp.take(array, np.maximum(indices, 0), axis=axis)
        if (indices >= 0).all():
            return taken
        shape = [1] * array.ndim
        shape[axis] = indices.size
        return jnp.where((indices >= 0).reshape(shape), taken, 0)

    return fn


def window_sums(
    window: tuple[int, ...],
    strides: tuple[int, ...],
    pads: tuple[tuple[int, int], ...],
    dilations: tuple[int, ...],
) -> Callable[[Array], Array]:
    """Sums over windows of each pixel axis."""

    def fn(array: Array) -> Array:
        return jax.lax.reduce_window(
            array,
            np.zeros((), array.dtype),
            jax.lax.add,
            (*window, 1),
            (*strides, 1),
            (*pads, (0, 0)),
            window_dilation=(*dilations, 1),
        )

    return fn


def filter_sums(
    axes: tuple[int, ...],
    extents: tuple[int, ...],
    strides: tuple[int, ...],
    pads: tuple[tuple[int, int], ...],
    dilations: tuple[int, ...],
) -> Callable[[Array], Array]:
    """Sums over taps of a filter that moves both pixels of a pair together."""

    def fn(array: Array) -> Array:
        rank = array.ndim // 2
        for axis, extent, stride, pad, dilation in zip(
            axes, extents, strides, pads, dilations, strict=True
        ):
            both = (axis, rank + axis)
            array = layers.sum_windows(
                array, both, extent, stride, pad, "constant", dilation
            )
        size = math.prod(array.shape[:rank])
        return array.reshape(size, size)

    return fn


def summed_pixels(shape: tuple[int, ...], axes: list[int]) -> Callable[[Array], Array]:
    """Sum over pairs of the same pixel along some axes; the others are kept apart."""

    def fn(array: Array) -> Array:
        rank = len(shape)
        first = list(range(rank))
        second = [axis if axis in axes else rank + axis for axis in first]
        kept = [axis for axis in first if axis not in axes]
        out = kept + [rank + axis for axis in kept]
        size = math.prod(shape[axis] for axis in kept)
        return jnp.einsum(array, first + second, out).reshape(size, size)

    return fn
